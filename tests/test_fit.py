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
from rvos_nb import fit as fit_module
from rvos_nb.checkpoints import export_model, load_best, load_checkpoint, load_init_weights
from rvos_nb.checkpoints import History, result_knobs
from rvos_nb.config import Config, ConfigError, RVOSError
from rvos_nb.fit import Trainer, demo_run, fit
from rvos_nb.encoders import packaged_text_encoder
from runs import TIMES, assert_same, assert_same_run, make_data, tiny
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
    again = fit(cfg.replace(epochs=len(result.history) + 1))
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
    resumed = fit(stopped)
    a, b = (load_checkpoint(r.folder / "last.pth") for r in (whole, resumed))
    assert_same(a["model"], b["model"])
    assert a["scheduler"]["last_epoch"] == b["scheduler"]["last_epoch"]
    x, y = (r.history.drop(columns=TIMES) for r in (whole, resumed))
    pd.testing.assert_frame_equal(x, y)


def test_another_run_is_refused_before_any_work(cfg, monkeypatch):
    one_epoch(cfg)
    monkeypatch.setattr(fit_module, "RVOSModel", None)  # nothing is built
    with pytest.raises(RVOSError, match="lr was 0.002.*is 0.1 now.*--out.*--init-from"):
        Trainer(cfg.replace(lr=0.1))
    monkeypatch.undo()
    trainer = Trainer(cfg.replace(single_object=True))  # an answer, not a weight
    trainer.begin_run()
    assert trainer.epoch == 1
    trainer.close()


def test_a_run_starts_from_another_one_s_weights(cfg, tmp_path):
    first = one_epoch(cfg)
    weights = load_checkpoint(first.run.folder / "last.pth")["model"]
    trainer = Trainer(cfg.replace(out=str(tmp_path / "second")))
    load_init_weights(trainer.bare_model, cfg.run.out)
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
    resumed = fit(cfg)
    for name in ("last.pth", "best_model.pth"):
        a, b = (load_checkpoint(r.folder / name) for r in (whole, resumed))
        same = set(a) - {"config"}
        assert_same({k: a[k] for k in same}, {k: b[k] for k in same})


# --- the same command again


def stop_in_time(monkeypatch, step: int) -> None:
    "As if the minutes of the next run were over in this step."
    real = Trainer.after_step

    def over(self, state):
        if self.steps + 1 == step:
            self.deadline = 0.0
        return real(self, state)

    monkeypatch.setattr(Trainer, "after_step", over)


@pytest.mark.slow
def test_minutes_lose_no_step_of_the_epoch_that_they_end(everything, tmp_path, monkeypatch, capsys):
    "Ended within an epoch, at the end of one, and within another: the same run in the end."
    cfg = everything.replace(epochs=4, grad_accum_steps=2, epoch_size=32)  # four steps an epoch
    whole = fit(cfg).folder
    stopped = cfg.replace(out=str(tmp_path / "stopped"))
    for step, epochs, within in ((3, 0, 3), (1, 1, 0), (6, 2, 2)):
        capsys.readouterr()
        with monkeypatch.context() as m:
            stop_in_time(m, step)
            result = fit(stopped)
        state = load_checkpoint(result.folder / "last.pth")
        found = state["epoch"], state["scheduler"]["last_epoch"]
        assert found == (epochs, 4 * epochs + within) and len(result.history) == epochs
        said = capsys.readouterr().out
        assert "stopped after" in said and "the same command goes on there" in said
        assert load_best(result.folder)[1]["metrics"]["val_iou"] == pytest.approx(result.best_iou)
    result = fit(stopped)
    assert_same_run(whole, result.folder)
    state = load_checkpoint(result.folder / "last.pth")
    assert state["scheduler"]["last_epoch"] == 4 * 4
    assert state["optimizer"]["param_groups"][0]["lr"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("knobs", [dict(epochs=1), dict(epochs=9, patience=1, lr=1e-12)])
def test_a_finished_run_stays_as_it_is(cfg, capsys, monkeypatch, knobs):
    "And is there at once: nothing is downloaded, read, pasted or decoded."
    cfg = cfg.replace(augment=False, epoch_size=4, **knobs)
    first = fit(cfg)
    before = (first.folder / "last.pth").read_bytes()
    capsys.readouterr()
    for work in ("RVOSModel", "load_splits", "validate"):
        monkeypatch.setattr(fit_module, work, None)
    again = fit(cfg)
    out = capsys.readouterr().out
    done = (
        f"{len(first.history)} of {cfg.optim.epochs} epochs are done, it is finished; another run"
    )
    assert done in out and f"best val IoU {first.best_iou:.4f}" in out
    assert again.best_iou == pytest.approx(first.best_iou, abs=1e-5)
    pd.testing.assert_frame_equal(again.history, first.history)
    assert (again.folder / "last.pth").read_bytes() == before
    with pytest.raises(RVOSError, match="is finished; another run needs another --out"):
        began(cfg)


def began(cfg: Config) -> Trainer:
    "A run that has begun, and let go of its folder."
    trainer = Trainer(cfg)
    try:
        trainer.begin_run()
    finally:
        trainer.close()
    return trainer


def test_data_are_known_by_what_they_are(cfg, data, tmp_path, monkeypatch):
    one_epoch(cfg)
    moved = shutil.copytree(data, tmp_path / "moved" / "elsewhere")
    monkeypatch.chdir(tmp_path / "moved")
    for name in (f"{data}/", "elsewhere", "./elsewhere/", str(moved)):
        assert began(cfg.replace(root=name)).epoch == 1
    texts = next((moved / "davis_text_annotations").rglob("*annot1*.txt"))
    texts.write_text(texts.read_text("utf-8").replace("the", "that"), encoding="utf-8")
    with pytest.raises(RVOSError, match=r"its data \(.*\) had other files or expressions than"):
        Trainer(cfg.replace(root="elsewhere"))


def test_a_run_without_a_folder_is_found_again(cfg, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = cfg.replace(out="", epochs=2)
    nothing_yet = began(cfg).run.folder  # and killed before its first checkpoint
    first = one_epoch(cfg)
    assert first.run.folder == nothing_yet and first.epoch == 1
    assert nothing_yet.parent == Path("runs") and nothing_yet.name.startswith("demo-shapes-2")
    assert one_epoch(cfg.replace(max_minutes=30.0)).epoch == 2
    assert fit(cfg).folder == nothing_yet  # finished
    for other in (cfg.replace(lr=0.1), cfg.replace(epochs=3)):
        assert began(other).run.folder != nothing_yet
    assert len(list(Path("runs").iterdir())) == 3


def test_a_start_that_fails_leaves_no_folder(cfg, tmp_path):
    with pytest.raises(RVOSError, match="no such folder"):
        Trainer(cfg.replace(root="nowhere"))
    with pytest.raises(RVOSError, match="could not be loaded"):
        Trainer(cfg.replace(text_encoder="nowhere"))
    assert not Path(cfg.run.out).exists()


def test_what_cannot_be_downloaded_is_said_before_pasting_and_decoding(cfg, tmp_path, monkeypatch):
    monkeypatch.setenv("RVOS_HOME", str(tmp_path / "home"))
    best = cfg.replace(copy_paste_clips=8)
    encoder = shutil.copytree(packaged_text_encoder(), tmp_path / "encoder")
    for file in encoder.glob("*token*"):
        file.unlink()
    (encoder / "vocab.txt").unlink(missing_ok=True)
    nowhere = "nobody/nothing"
    for knobs in (
        dict(backbone=nowhere, backbone_weights="default"),
        dict(text_encoder=nowhere),
        dict(text_encoder=str(encoder)),
    ):
        with pytest.raises(RVOSError) as e:
            fit(best.replace(**knobs))
        assert str(e.value).count("\n") == 0 and "expected a hub name" in str(e.value)
    assert not any((tmp_path / "home").glob("*/*"))


@pytest.mark.parametrize("words", [["shape"], ["star", "disk"]])
def test_nothing_to_paste_is_said_and_training_goes_on(tmp_path, capsys, words):
    "One class only, or a single training video."
    root = make_data(tmp_path)
    if len(words) == 1:
        for file in (root / "davis_text_annotations").rglob("*.txt"):
            lines = [
                line.split('"')[0] + f'"the {words[0]}"' for line in file.read_text().splitlines()
            ]
            file.write_text("".join(f"{line}\n" for line in lines))
    cfg = tiny(
        root, tmp_path / "run", copy_paste_clips=4, epochs=1, max_videos=len(words) % 2 * 4 or 1
    )
    result = fit(cfg)
    assert len(result.history) == 1
    said = capsys.readouterr().out
    assert "training goes on without copy-paste clips, as with --copy-paste-clips 0" in said


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
    second = cfg.replace(init_from=str(first.run.out), out=str(tmp_path / "second"), epochs=2)
    for again in (False, True):
        trainer = Trainer(second)
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
        if not again:
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


def test_a_tracker_gets_each_row_and_changes_nothing(cfg, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "tracked"
    result = fit(cfg.replace(out=str(out), epochs=2, tracker="tensorboard"))
    folders = {path.parent for path in out.rglob("events.out.tfevents.*")}
    events = EventAccumulator(str(min(folders, key=lambda path: len(path.parts))))
    events.Reload()
    seen = [(e.step, e.value) for e in events.Scalars("val_iou")]
    table = pd.read_csv(result.folder / "history.csv")
    assert seen == [(n, pytest.approx(x)) for n, x in zip(table["epoch"], table["val_iou"])]
    plain = fit(cfg.replace(out=str(tmp_path / "plain"), epochs=2))
    assert_same(
        load_checkpoint(result.folder / "last.pth")["model"],
        load_checkpoint(plain.folder / "last.pth")["model"],
    )


def test_a_tracker_that_is_not_installed_is_said_before_any_work(cfg, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install wandb"):
        fit(cfg.replace(out=str(tmp_path / "run"), tracker="wandb"))
