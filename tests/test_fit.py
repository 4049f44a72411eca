"Whole small runs on the CPU: files, resumption, and what is refused."

import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate.state import AcceleratorState
from rvos_nb.caches import normalise
from rvos_nb.checkpoints import export_model, load_best, load_checkpoint, result_knobs
from rvos_nb.config import Config, RVOSError
from rvos_nb.fit import Trainer, demo_run, fit
from rvos_nb.training import History
from runs import TIMES, assert_same, make_data, tiny
from transformers import SwinBackbone, SwinConfig


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def cfg(data, tmp_path):
    "Three epochs of two steps."
    knobs = dict(batch_size=4, grad_accum_steps=1, epochs=3, checkpoint_minutes=0.0)
    return tiny(data, tmp_path / "run", **knobs)


@pytest.fixture
def everything(cfg):
    "With all that the preset `best` has, and all that is random."
    return cfg.replace(
        image_size=(48, 80),
        epoch_size=16,
        expressions_per_clip=2,
        val_every=2,
        frame_stride=2,
        copy_paste_clips=4,
        feature_cache=True,
        freeze_backbone=True,
        freeze_text=True,
        fuse_strides=(16, 32),
        bidirectional_attention=True,
        word_dropout=0.3,
        decoder="dynamic",
    )


def one_epoch(cfg: Config) -> Trainer:
    "A run whose process ends after one epoch."
    trainer = Trainer(cfg)
    trainer.begin_run()
    trainer.run_epoch()
    trainer.close()
    return trainer


# --- what a run leaves


@pytest.mark.slow
def test_a_run_leaves_what_is_promised(cfg, capsys):
    result = fit(cfg)
    names = {p.name for p in result.folder.iterdir()}
    promised = {"config.json", "history.csv", "best_model.pth", "last.pth", "curves.png"}
    assert promised | {"text_encoder"} <= names and not any(n.startswith(".") for n in names)
    assert not names & {"scores.csv", "samples.jpg"}  # scoring is evaluation's job
    history = pd.read_csv(result.folder / "history.csv")
    assert tuple(history) == History.COLUMNS and history.epoch.tolist() == [1, 2, 3]
    assert history.drop(columns="peak_gpu_mb").notna().all().all()
    best = torch.load(result.folder / "best_model.pth", weights_only=True)
    assert best["metrics"]["val_iou"] == pytest.approx(history.val_iou.max())
    assert best["epoch"] == history.epoch[history.val_iou.idxmax()] == result.best_epoch
    assert {"model", "optimizer", "scheduler", "config", "history"} <= set(best)
    assert best["config"]["optim"]["epochs"] == 3
    assert result.best_iou == pytest.approx(history.val_iou.max(), abs=1e-5)  # validated again
    assert result.main and result.selector == "val"
    out = capsys.readouterr().out
    assert f"best val IoU {result.best_iou:.4f} at epoch {result.best_epoch}" in out
    assert "top epochs by train_iou" in out and "top epochs by val_iou" in out


def test_a_dev_split_selects_and_val_does_not(cfg, capsys):
    result = fit(cfg.replace(dev_fraction=0.25, epochs=1))
    out = capsys.readouterr().out
    assert f"best dev IoU {result.best_iou:.4f}" in out and "dev: 1 videos" in out
    assert result.selector == "dev" and "report's protocol" not in out


@pytest.mark.slow
def test_skipped_validations_are_empty_in_the_history(cfg):
    result = fit(cfg.replace(val_every=2))
    seen = result.history.val_iou.notna().tolist()
    assert seen == [False, True, True]  # the last epoch is always validated


@pytest.mark.slow
def test_minutes_end_a_run_cleanly(cfg, capsys):
    began = time.monotonic()
    result = fit(cfg.replace(epochs=10_000, max_minutes=0.02))
    assert time.monotonic() - began < 60 and 1 <= len(result.history) < 10_000
    assert pd.notna(result.history.val_iou.iloc[-1])
    assert "stopped after 0.02 minutes" in capsys.readouterr().out
    again = fit(cfg.replace(epochs=len(result.history) + 1, resume=True))
    assert len(again.history) == len(result.history) + 1


@pytest.mark.slow
def test_half_precision_trains_and_validates(cfg):
    "bf16 on the CPU is slow, and shows that no figure depends on the format."
    whole = fit(cfg.replace(epochs=1, out=f"{cfg.run.out}-fp32")).history.iloc[0]
    AcceleratorState._reset_state()  # a process has one number format
    half = fit(cfg.replace(epochs=1, precision="bf16")).history.iloc[0]
    AcceleratorState._reset_state()
    for column in ("train_loss", "val_loss"):
        assert half[column] != whole[column] and half[column] == pytest.approx(
            whole[column], rel=0.1
        )


@pytest.mark.slow
def test_early_stopping(cfg, capsys):
    never_better = dict(epochs=30, patience=2, lr=1e-12, augment=False, epoch_size=4)
    result = fit(cfg.replace(**never_better))
    assert len(result.history) < 30 and "stopped early" in capsys.readouterr().out
    ious = result.history.val_iou.tolist()
    assert max(ious[-2:]) <= max(ious[:-2])


def test_the_demo_run_s_name_depends_on_what_matters_only():
    knobs = set(result_knobs(Config.preset("demo")))
    assert not {"checkpoint_minutes", "skip_bad", "workers", "max_minutes", "out"} & knobs
    assert {"lr", "seed", "epochs", "root"} <= knobs


def test_a_run_that_is_named_is_the_demo_run(tmp_path):
    (tmp_path / "best_model.pth").touch()
    assert demo_run(tmp_path) == tmp_path
    with pytest.raises(RVOSError, match="no checkpoint"):
        demo_run("nowhere")


# --- resumed, or started from another run


@pytest.mark.slow
def test_resume_is_exact(cfg, tmp_path):
    whole = fit(cfg)
    stopped = cfg.replace(out=str(tmp_path / "stopped"))
    one_epoch(stopped)
    resumed = fit(stopped.replace(resume=True))
    a, b = (load_checkpoint(r.folder / "last.pth") for r in (whole, resumed))
    assert_same(a["model"], b["model"])
    assert a["scheduler"]["last_epoch"] == b["scheduler"]["last_epoch"]
    x, y = (r.history.drop(columns=TIMES) for r in (whole, resumed))
    pd.testing.assert_frame_equal(x, y)


def test_resume_refuses_other_settings(cfg):
    one_epoch(cfg)
    other = Trainer(cfg.replace(resume=True, lr=0.1))
    with pytest.raises(RVOSError, match="lr was 0.002.*is 0.1 now.*--init-from"):
        other.resume()
    other.close()
    with pytest.raises(RVOSError, match="already holds a run"):
        fit(cfg)
    trainer = Trainer(cfg.replace(resume=True, single_object=True))  # an answer, not a weight
    trainer.resume()
    trainer.close()


def test_a_run_starts_from_another_one_s_weights(cfg, tmp_path):
    first = one_epoch(cfg)
    weights = load_checkpoint(first.run.folder / "last.pth")["model"]
    trainer = Trainer(cfg.replace(out=str(tmp_path / "second")))
    trainer.load_init_weights(cfg.run.out)
    assert_same(weights, dict(trainer.bare_model.state_dict()))
    trainer.close()
    wider = dict(out=str(tmp_path / "third"), init_from=cfg.run.out, hidden_dim=32)
    with pytest.raises(RVOSError, match="--init-from.*do not fit"):
        fit(cfg.replace(**wider))


def stop_after(monkeypatch, step: int) -> None:
    "As if somebody had pressed Ctrl-C in this step of the next run."
    real = Trainer.after_step

    def press(self, state):
        if self.steps + 1 == step:
            self.interrupted.set()
        return real(self, state)

    monkeypatch.setattr(Trainer, "after_step", press)


@pytest.mark.slow
def test_resume_is_exact_with_everything(everything, tmp_path, monkeypatch):
    whole = fit(everything)
    cfg = everything.replace(out=str(tmp_path / "stopped"))
    # in the second epoch of four steps, and in the third
    for step, epoch, batches in ((6, 1, 2), (3, 2, 1)):
        with monkeypatch.context() as m:
            stop_after(m, step)
            with pytest.raises(KeyboardInterrupt):
                fit(cfg)
        state = load_checkpoint(tmp_path / "stopped" / "last.pth")
        assert (state["epoch"], state["epoch_state"]["batches"]) == (epoch, batches)
        cfg = cfg.replace(resume=True)
    resumed = fit(cfg)
    for name in ("last.pth", "best_model.pth"):
        a, b = (load_checkpoint(r.folder / name) for r in (whole, resumed))
        same = set(a) - {"config"}
        assert_same({k: a[k] for k in same}, {k: b[k] for k in same})


# --- the feature cache in a run


def calls_of(module) -> list:
    "Grows with each call of `module`."
    calls = []
    module.register_forward_hook(lambda m, args, out: calls.append(args[0].shape))
    return calls


@pytest.mark.slow
def test_training_on_cached_features_learns(everything):
    plain = dict(copy_paste_clips=0, word_dropout=0.0, dropout=0.0, head_dropout=0.0)
    one_video = dict(max_videos=1, augment=False, frame_stride=1, epoch_size=48)
    cfg = everything.replace(**plain, **one_video, lr=5e-3, epochs=10, val_every=10)
    trainer = Trainer(cfg)
    trainer.begin_run()
    calls = calls_of(trainer.bare_model.backbone.features)
    losses = [trainer.run_epoch()["train_loss"] for _ in range(10)]
    assert losses[-1] < 0.6 * losses[0], losses
    assert len(calls) == len(trainer.select_loader)  # frames are encoded in validation alone
    trainer.close()


@pytest.mark.slow
def test_a_cache_is_of_the_weights_that_a_run_starts_with(everything, tmp_path):
    "One run trains its backbone; another one starts from it, with the backbone frozen."
    cfg = everything.replace(copy_paste_clips=0, epochs=1, epoch_size=8, lr=0.05)
    first = one_epoch(cfg.replace(feature_cache=False, freeze_backbone=False))
    second = cfg.replace(init_from=str(first.run.out), out=str(tmp_path / "second"))
    for resume in (False, True):
        trainer = Trainer(second.replace(resume=resume))
        trainer.begin_run()
        dataset = trainer.train_loader.dataset
        video = next(iter(dataset.annotations))
        t = np.array([0, 1])
        frames = torch.from_numpy(dataset.cache.read(video, t)).movedim(-1, 1)
        with torch.inference_mode():
            expected = trainer.bare_model.eval().encode_frames(normalise(frames)[None])
        for name, x in dataset.features.read(video, t).items():
            near = dict(rtol=2**-10, atol=1e-3 * float(expected[name].abs().max()))
            torch.testing.assert_close(x.float(), expected[name][0], **near)
        if not resume:
            trainer.run_epoch()
        trainer.close()


@pytest.mark.slow
def test_a_run_keeps_the_shape_of_its_backbone(everything, tmp_path):
    "The folder that it was loaded from may be gone later."
    shape = dict(patch_size=4, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2])
    folder = tmp_path / "swin"
    SwinBackbone(SwinConfig(image_size=64, window_size=4, **shape)).save_pretrained(folder)
    from_folder = dict(backbone=str(folder), backbone_weights="default")
    result = fit(everything.replace(**from_folder, epochs=1, copy_paste_clips=0))
    shutil.rmtree(folder)
    moved = Path(shutil.move(result.folder, tmp_path / "moved"))
    assert (moved / "backbone" / "config.json").is_file()
    model, state = load_best(moved)
    exported, _ = load_best(export_model(moved, tmp_path / "exported").parent)
    assert_same(dict(exported.state_dict()), state["model"])
    frames = torch.randn(size=(1, 1, 3, 48, 80))
    ids = torch.tensor([[2, 9, 8, 3]])
    with torch.inference_mode():
        answers = [m(frames, ids, torch.ones_like(ids)) for m in (model, exported)]
    assert torch.equal(*answers)
    shutil.rmtree(moved / "backbone")
    with pytest.raises(RVOSError, match="swin"):
        load_best(moved)  # now nobody knows


# --- real data


@pytest.mark.slow
def test_the_report_preset_trains_on_real_video(davis, weights, tmp_path):
    "Two steps of the literal model on DAVIS, with real weights."
    cfg = Config.preset(
        "report",
        root=str(davis),
        backbone="mobilenet_v2",
        backbone_weights=str(weights / "mobilenet_v2_imagenet.pth"),
        text_encoder="demo-bert",
        text_weights="none",
        hidden_dim=64,
        image_size=(64, 96),
        epoch_size=4,
        epochs=1,
        val_window=32,
        max_videos=2,
        out=str(tmp_path / "r"),
        device="cpu",
    )
    result = fit(cfg)
    best, state = load_best(result.folder)
    assert 0 <= result.best_iou <= 1 and state["epoch"] == 1 and best.cfg.decoder == "bilinear"
