"Whole small runs on the CPU: files, figures, resume, and what is refused."
import math
import shutil
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from rvos_nb.core import Config, RVOSError
from rvos_nb.data import load_annotations, make_loader, read_mask
from rvos_nb.demo import make_demo_data
from rvos_nb.loss import RVOSLoss
from rvos_nb.model import RVOSModel
from rvos_nb.training import (HISTORY, Trainer, centre_blob, fit, go_on, load_best, load_checkpoint, make_optimizer, make_scheduler, mean_scores, partner, predict_batch,
                              predict_video, run_epoch, score_videos, top_epochs, train_one_epoch, validate)
from torch import nn


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_demo_data(tmp_path_factory.mktemp("data") / "demo", n_train=4, n_val=2, n_frames=(4, 6), progress=False)


@pytest.fixture
def cfg(data, tmp_path):
    return Config(data=str(data), out=str(tmp_path / "run"), image_size=(48, 80), clip_len=2, val_window=3, batch_size=4, epoch_size=8, epochs=3, hidden_dim=16, heads=2, val_every=1, minutes=0.0, device="cpu")


# --- parts

def test_the_report_s_ten_learning_rates():
    reported = {2: 0.000091, 7: 0.000098, 17: 0.000099, 20: 0.000091, 38: 0.000099, 45: 0.000088, 46: 0.000086, 48: 0.000080, 49: 0.000076, 50: 0.000073}
    opt = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=1e-4)
    sched, got = make_scheduler(opt, Config.preset("report"), 0), {}
    for e in range(1, 51):
        got[e] = round(sched.get_last_lr()[0], 6)
        opt.step()
        sched.step()
    assert {e: got[e] for e in reported} == reported


def test_cosine_climbs_then_falls_to_zero():
    opt = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=1.0)
    sched, rates = make_scheduler(opt, Config(warmup=0.1), 100), []
    for _ in range(100):
        rates.append(sched.get_last_lr()[0])
        opt.step()
        sched.step()
    assert rates[0] == pytest.approx(0.1) and np.argmax(rates) in (9, 10) and max(rates) == pytest.approx(1.0) and rates[-1] < 0.001
    assert all(a >= b for a, b in zip(rates[10:], rates[11:]))


def test_optimizer_groups_follow_their_scales(cfg):
    model = RVOSModel(replace(cfg, backbone_lr_scale=0.1, text_lr_scale=0.0))
    groups = make_optimizer(model, replace(cfg, backbone_lr_scale=0.1, text_lr_scale=0.0)).param_groups
    assert sorted(g["lr"] for g in groups) == pytest.approx([cfg.lr * 0.1, cfg.lr])
    assert sum(p.numel() for g in groups for p in g["params"]) == sum(p.numel() for n, p in model.named_parameters() if not n.startswith("text.encoder."))
    assert groups[0]["betas"] == (0.9, 0.999)


class Counting(torch.optim.SGD):
    steps = 0
    def step(self, *args, **kwargs):
        type(self).steps += 1
        return super().step(*args, **kwargs)


def test_accumulation_steps_every_nth_batch_and_at_the_end(cfg, data):
    Counting.steps = 0
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=4)
    loader = make_loader(load_annotations(data, "train"), replace(cfg, batch_size=1, epoch_size=10), train=True)
    model, optimizer, loader.loader = accelerator.prepare(RVOSModel(cfg), Counting(RVOSModel(cfg).parameters(), lr=0.0), loader.loader)
    train_one_epoch(model, loader, optimizer, RVOSLoss(), accelerator)
    assert Counting.steps == 3  # after batches 4, 8 and 10


def test_gradients_are_clipped(cfg, data):
    accelerator = Accelerator(cpu=True)
    loader = make_loader(load_annotations(data, "train"), replace(cfg, epoch_size=4), train=True)
    model = RVOSModel(cfg)
    before = [p.detach().clone() for p in model.parameters()]
    model, optimizer, loader.loader = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=1.0), loader.loader)
    row = train_one_epoch(model, loader, optimizer, RVOSLoss(), accelerator, clip_norm=0.01)
    moved = math.sqrt(sum((p - q).square().sum().item() for p, q in zip(model.parameters(), before)))
    assert row["grad_norm"] > 0.01 and moved == pytest.approx(0.01, rel=1e-2)  # one step of rate 1: exactly the clipped norm


def test_validation_shares_frames_and_changes_nothing(cfg, data):
    loader, model = make_loader(load_annotations(data, "val"), cfg, train=False), RVOSModel(cfg).eval()
    for batch in loader:
        with torch.inference_mode():
            assert torch.allclose(predict_batch(model, batch), model(batch["frames"], batch["text_ids"], batch["text_mask"])[:, :, 0], atol=1e-5)


class Truth(nn.Module):
    "Answers every sentence with the true mask, which it is handed."
    def __init__(self, loader): super().__init__(); self.loader, self.now = loader, None
    def forward(self, frames, text_ids, text_mask): return (self.now["masks"][:, :, None] - 0.5) * 20


class Watching:
    "A validation loader that shows each batch to the model first."
    def __init__(self, loader, model): self.inner, self.model = loader, model
    def __getattr__(self, name): return getattr(self.inner, name)
    def __len__(self): return len(self.inner)
    def _show(self, batch): self.model.now = batch; return batch
    def __iter__(self): return (self._show(b) for b in self.inner)
    def windows(self, video): return ((s, self._show(b)) for s, b in self.inner.windows(video))


def test_a_perfect_answer_scores_one_and_exchanged_nearly_nothing(cfg, data):
    cfg = replace(cfg, image_size=(144, 240))  # the data's own size
    val = load_annotations(data, "val")
    loader = make_loader(val, cfg, train=False)
    model = Truth(loader)
    scores = score_videos(model, Watching(loader, model))
    assert len(scores) == sum(len(a["expressions"]) for a in val.values())
    assert (scores.model == 1).all() and (scores.exchanged < 0.05).all()
    v, e = next(iter(val)), val[next(iter(val))]["expressions"][0]
    ids = np.stack([read_mask(m) for m in val[v]["masks"]])
    area = (ids == e["object_id"]).mean((1, 2))
    assert scores.everything[0] == pytest.approx(area.mean())  # the IoU of a full mask is the object's share of the frame
    n = len({x["object_id"] for x in val[v]["expressions"]})
    assert scores["random object"][0] == pytest.approx(1 / n, abs=0.02)
    row = validate(model, Watching(loader, model), RVOSLoss())
    assert row["val_iou"] == 1 and row["val_loss"] < 0.01


def test_one_object_has_nobody_to_exchange_with():
    assert partner([{"object_id": 1, "annotator": "annot1"}], 0) is None
    table = pd.DataFrame({c: [0.5, 0.7] for c in ("model", "everything", "centre blob", "random object")} | {"exchanged": [np.nan, np.nan]})
    assert mean_scores(table).to_dict() == {"model": 0.6, "exchanged": "n/a", "everything": 0.6, "centre blob": 0.6, "random object": "n/a"}


def test_centre_blob_is_centred():
    m = centre_blob(40, 60)
    assert m.sum() == pytest.approx(np.pi * 10 * 15, rel=0.03) and np.array_equal(m, m[::-1, ::-1])


def test_predict_video_returns_the_video(cfg, data):
    val = load_annotations(data, "val")
    loader, v = make_loader(val, cfg, train=False), list(val)[1]
    frames, logits = predict_video(RVOSModel(cfg), loader, v)
    assert frames.shape == (len(val[v]["frames"]), 48, 80, 3) and logits.shape == (len(val[v]["expressions"]), len(frames), 48, 80)
    assert np.array_equal(frames, loader.dataset.cache.read(v, np.arange(len(frames)))[0])


def test_top_epochs_have_the_report_s_columns():
    h = pd.DataFrame([dict.fromkeys(HISTORY, 0.0) | {"epoch": e, "train_iou": e / 10, "val_iou": None if e % 2 else -e / 10} for e in range(1, 9)])
    train, val = top_epochs(h, "train_iou"), top_epochs(h.astype(float), "val_iou")
    assert list(train) == ["epoch", "train_loss", "train_iou", "grad_norm", "lr"] and train.epoch.tolist() == [8, 7, 6, 5, 4]
    assert list(val) == ["epoch", "val_loss", "val_iou", "train_iou", "lr"] and val.epoch.tolist() == [2, 4, 6, 8]


# --- runs

def test_a_run_leaves_what_is_promised(cfg, capsys):
    result = fit(cfg)
    names = {p.name for p in result.folder.iterdir()}
    assert {"config.json", "history.csv", "best_model.pth", "last.pth", "curves.png", "samples.jpg", "scores.csv", "text_encoder"} <= names and not any(n.startswith(".") for n in names)
    history = pd.read_csv(result.folder / "history.csv")
    assert list(history) == HISTORY and history.epoch.tolist() == [1, 2, 3] and history.drop(columns="peak_gpu_mb").notna().all().all()
    best = torch.load(result.folder / "best_model.pth", weights_only=True)
    assert best["metrics"]["val_iou"] == pytest.approx(history.val_iou.max()) and best["epoch"] == history.epoch[history.val_iou.idxmax()] == result.best_epoch
    assert {"model", "optimizer", "scheduler", "config", "history"} <= set(best) and best["config"]["epochs"] == 3
    assert result.best_iou == pytest.approx(history.val_iou.max(), abs=1e-5)  # loaded and validated again
    out = capsys.readouterr().out
    assert f"best val IoU {result.best_iou:.4f} at epoch {result.best_epoch}" in out and "top epochs by train_iou" in out and "top epochs by val_iou" in out and "everything" in out


def test_resume_is_exact(cfg, tmp_path):
    whole = fit(cfg)
    stopped = Trainer(replace(cfg, out=str(tmp_path / "stopped")))
    run_epoch(stopped)  # and the process ends here
    del stopped
    resumed = fit(replace(cfg, out=str(tmp_path / "stopped"), resume=True))
    a, b = (load_checkpoint(r.folder / "last.pth") for r in (whole, resumed))
    assert all(torch.equal(a["model"][k], b["model"][k]) for k in a["model"]) and a["scheduler"]["last_epoch"] == b["scheduler"]["last_epoch"]
    pd.testing.assert_frame_equal(*(r.history.drop(columns=["train_it_s", "val_it_s"]) for r in (whole, resumed)))


def test_resume_refuses_other_settings(cfg):
    run_epoch(Trainer(cfg))
    with pytest.raises(RVOSError, match="lr was 0.002.*is 0.1 now"): go_on(Trainer(replace(cfg, resume=True, lr=0.1)))
    with pytest.raises(RVOSError, match="already holds a run"): fit(cfg)
    go_on(Trainer(replace(cfg, resume=True, one_object=True)))  # how a model answers is no part of what it has learnt


def test_init_starts_from_another_run(cfg, tmp_path):
    run_epoch(Trainer(cfg))
    first = load_checkpoint(tmp_path / "run" / "last.pth")["model"]
    from rvos_nb.training import start_from
    trainer = Trainer(replace(cfg, out=str(tmp_path / "second"), init=cfg.out))
    start_from(trainer, cfg.out)
    assert all(torch.equal(first[k], v) for k, v in trainer.bare_model.state_dict().items())
    with pytest.raises(RVOSError, match="do not fit"): fit(replace(cfg, out=str(tmp_path / "third"), init=cfg.out, hidden_dim=32))


def test_minutes_end_a_run_cleanly(cfg, capsys):
    began = time.monotonic()
    result = fit(replace(cfg, epochs=10_000, minutes=0.05))
    assert time.monotonic() - began < 60 and 1 <= len(result.history) < 10_000 and pd.notna(result.history.val_iou.iloc[-1])
    assert "stopped after 0.05 minutes" in capsys.readouterr().out
    again = fit(replace(cfg, epochs=len(result.history) + 1, resume=True))
    assert len(again.history) == len(result.history) + 1


def test_early_stopping(cfg, capsys):
    result = fit(replace(cfg, epochs=30, patience=2, lr=1e-12, augment=False, epoch_size=4))  # a rate at which nothing gets better
    assert len(result.history) < 30 and "stopped early" in capsys.readouterr().out
    ious = result.history.val_iou.tolist()
    assert max(ious[-2:]) <= max(ious[:-2])


def test_a_dev_split_selects_and_val_does_not(cfg, capsys):
    result = fit(replace(cfg, dev_fraction=0.25, epochs=2))
    out = capsys.readouterr().out
    assert f"best dev IoU {result.best_iou:.4f}" in out and "quote best_model.pth" in out and "dev: 1 videos" in out


def test_skipped_validations_are_empty_in_the_history(cfg):
    result = fit(replace(cfg, val_every=2, epochs=3))
    assert result.history.val_iou.notna().tolist() == [False, True, True]  # the last epoch is always validated


def test_a_run_can_be_moved_to_a_machine_without_its_text_encoder(cfg, tmp_path):
    from rvos_nb.demo import write_text_encoder
    encoder = write_text_encoder(tmp_path / "encoder")
    run_cfg = replace(cfg, text_encoder=str(encoder), epochs=1)
    result = fit(run_cfg)
    shutil.rmtree(encoder)
    moved = shutil.move(str(result.folder), str(tmp_path / "elsewhere"))
    model, state = load_best(moved)
    assert state["epoch"] == 1 and not model.training


def test_foreign_checkpoints_are_refused(tmp_path):
    class Bomb:
        def __reduce__(self): return (open, (str(tmp_path / "gone off"), "w"))
    for name, content in (("a.pth", {"x": Bomb()}), ("b.pth", {"model": {}}), ("c.pth", [1, 2])):
        torch.save(content, tmp_path / name)
        with pytest.raises(RVOSError, match=name): load_best(tmp_path / name)
    (tmp_path / "d.pth").write_bytes(b"PK\x03\x04 half")
    with pytest.raises(RVOSError, match="d.pth"): load_best(tmp_path / "d.pth")
    with pytest.raises(RVOSError, match="no checkpoint"): load_best(tmp_path / "nowhere")
    assert not (tmp_path / "gone off").exists()


def test_the_report_preset_trains_on_real_video(davis, weights, tmp_path):
    "Two steps of the literal model on DAVIS, with real weights; the benchmark does it for 15 minutes."
    cfg = Config.preset("report", data=str(davis), backbone="mobilenet_v2", backbone_weights=str(weights / "mobilenet_v2_imagenet.pth"), text_encoder="demo-bert",
                        text_weights="none", hidden_dim=64, image_size=(64, 96), epoch_size=4, epochs=1, val_window=32, max_videos=2, out=str(tmp_path / "r"), device="cpu")
    result = fit(cfg)
    assert 0 <= result.best_iou <= 1 and len(result.scores["last.pth"]) == 36 and mean_scores(result.scores["last.pth"])["exchanged"] == "n/a"
