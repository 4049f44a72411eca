"The training loop, its schedule, its guards and validation."

import math

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from rvos_nb.checkpoints import History, top_epochs
from rvos_nb.config import Config, OptimConfig
from rvos_nb.datasets import load_annotations
from rvos_nb.loaders import make_loader
from rvos_nb.loss import RVOSLoss
from rvos_nb.metrics import iou
from rvos_nb.model import RVOSModel
from rvos_nb.training import (
    Diverged,
    EpochState,
    FiniteGuard,
    Meter,
    make_optimizer,
    make_scheduler,
    train_one_epoch,
    validate,
)
from runs import assert_same, make_data
from torch import nn


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def cfg(data):
    return Config.preset(
        "demo",
        root=str(data),
        image_size=(48, 80),
        clip_len=2,
        val_window=3,
        batch_size=4,
        epoch_size=8,
        hidden_dim=16,
        heads=2,
        device="cpu",
    )


def loader_for(cfg, model, split="train", **how):
    annotations = load_annotations(cfg.data.root, split)
    return make_loader(annotations, cfg, model.tokenizer, train=split == "train", **how)


# --- optimizer and schedule


def test_the_report_s_ten_learning_rates():
    reported = {2: 91, 7: 98, 17: 99, 20: 91, 38: 99, 45: 88, 46: 86, 48: 80, 49: 76, 50: 73}
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=1e-4)
    scheduler = make_scheduler(optimizer, Config.preset("report").optim, 0)
    got = {}
    for epoch in range(1, 51):
        got[epoch] = round(1e6 * scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert {epoch: got[epoch] for epoch in reported} == reported


def test_cosine_climbs_then_falls_to_zero():
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make_scheduler(optimizer, OptimConfig(warmup=0.1), 100)
    rates = []
    for _ in range(100):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates[0] == pytest.approx(0.1) and np.argmax(rates) in (9, 10)
    assert max(rates) == pytest.approx(1.0) and rates[-1] < 0.001
    assert all(a >= b for a, b in zip(rates[10:], rates[11:]))


def test_the_optimizer_holds_what_trains_and_nothing_frozen(cfg):
    model = RVOSModel(cfg.replace(freeze_text=True).model)
    (group,) = make_optimizer(model, cfg.optim).param_groups
    assert group["lr"] == cfg.optim.lr and group["betas"] == (0.9, 0.999)
    trains = [p for n, p in model.named_parameters() if not n.startswith("text.encoder.")]
    assert len(group["params"]) == len(trains) < len(list(model.parameters()))
    assert all(a is b for a, b in zip(group["params"], trains))


# --- an epoch


class Counting(torch.optim.SGD):
    steps = 0

    def step(self, *args, **kwargs):
        type(self).steps += 1
        return super().step(*args, **kwargs)


def test_accumulation_steps_every_nth_batch_and_at_the_end(cfg):
    Counting.steps = 0
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=4)
    model = RVOSModel(cfg.model)
    loader = loader_for(cfg.replace(batch_size=1, epoch_size=10), model)
    optimizer = Counting(model.parameters(), lr=0.0)
    model, optimizer, loader.loader = accelerator.prepare(model, optimizer, loader.loader)
    train_one_epoch(model, loader, optimizer, RVOSLoss(), accelerator=accelerator)
    assert Counting.steps == 3  # after batches 4, 8 and 10


def test_gradients_are_clipped(cfg):
    accelerator = Accelerator(cpu=True)
    model = RVOSModel(cfg.model)
    loader = loader_for(cfg.replace(epoch_size=4), model)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model, optimizer, loader.loader = accelerator.prepare(model, optimizer, loader.loader)
    how = dict(accelerator=accelerator, max_grad_norm=0.01)
    row = train_one_epoch(model, loader, optimizer, RVOSLoss(), **how)
    squares = [(p - q).square().sum().item() for p, q in zip(model.parameters(), before)]
    assert row["grad_norm"] > 0.01
    assert math.sqrt(sum(squares)) == pytest.approx(0.01, rel=1e-2)  # one step of rate 1


def test_an_epoch_left_after_any_step_ends_the_same(cfg):
    "In two halves, with dropout: the weights of the whole epoch, bit for bit."

    def trained(stop_after: int | None):
        torch.manual_seed(0)
        accelerator = Accelerator(cpu=True)
        model = RVOSModel(cfg.replace(dropout=0.2).model)
        loader = loader_for(cfg.replace(batch_size=2, epoch_size=8), model)
        optimizer = make_optimizer(model, cfg.optim)
        model, optimizer, loader.loader = accelerator.prepare(model, optimizer, loader.loader)
        state = EpochState(model)
        how = dict(accelerator=accelerator, state=state)
        stop = lambda s: s.batches == stop_after  # noqa: E731
        train_one_epoch(model, loader, optimizer, RVOSLoss(), on_step=stop, **how)
        assert state.batches == (stop_after or 4)
        if stop_after:
            torch.rand(7)  # what another process would have drawn
            loader.set_epoch(0, 2 * stop_after)
            row = train_one_epoch(model, loader, optimizer, RVOSLoss(), **how)
            assert state.batches == 4 and row["train_loss"] > 0
        return dict(model.state_dict()), state.sums

    whole = trained(None)
    for stop_after in (1, 3):
        assert_same(trained(stop_after), whole)


# --- meter and guard


@pytest.fixture
def accelerator():
    return Accelerator(cpu=True)


def test_the_meter_s_means_by_hand(accelerator):
    masks = torch.zeros(1, 1, 4, 4)
    masks[..., :2, :] = 1
    batch = {"masks": masks, "valid": torch.ones(1, 1, 4, 4, dtype=torch.bool)}
    half = torch.where(masks > 0, 1.0, -1.0)
    half[..., 0, :] = -1  # one of two rows is found: IoU 0.5
    state = EpochState(nn.Linear(1, 1))
    meter = Meter(state, accelerator)
    for loss in meter.watch([2.0, 4.0, math.inf]):
        meter.add_batch(torch.tensor(loss), half[:, :, None], batch)
    assert meter.add_step(torch.tensor(3.0)) == 3 and math.isnan(
        meter.add_step(torch.tensor(math.nan))
    )
    assert meter.sums.tolist() == [6, 1, 2, 3, 1] and meter.batches == 3
    state.update(meter)
    again = Meter(EpochState(nn.Linear(1, 1), **state.as_dict(accelerator)), accelerator)
    assert again.sums.tolist() == meter.sums.tolist() and again.batches == 3
    assert again.seconds() >= state.seconds


def batch_named(video):
    return {"video_id": [video], "expression": ["the dog"]}


def test_the_guard_names_the_batch_and_gives_up_in_the_end(accelerator, capsys):
    layer = nn.BatchNorm1d(1)
    state = EpochState(layer)
    guard = FiniteGuard(state, accelerator)
    for n in range(1, 5):
        layer.running_mean.fill_(math.nan)
        guard.add_batch(torch.tensor(1.0), batch_named("good"))
        guard.add_batch(torch.tensor(math.nan), batch_named(f"bad{n}"))
        assert not guard.may_step(math.nan, number=2 * n)
        assert state.bad == n and layer.running_mean.item() == 0
    out = capsys.readouterr().out
    assert "step after batch 8 left out" in out and "loss nan on bad4 ('the dog')" in out
    assert "good" not in out
    guard.add_batch(torch.tensor(math.nan), batch_named("bad5"))
    with pytest.raises(Diverged, match="5 steps in a row.*batch 10"):
        guard.may_step(math.nan, number=10)
    assert guard.may_step(1.0, number=11) and state.bad == 0


def test_a_scaler_that_looks_for_its_scale_is_no_fault(accelerator, monkeypatch):
    monkeypatch.setattr(accelerator, "scaler", object())
    state = EpochState(nn.Linear(1, 1))
    guard = FiniteGuard(state, accelerator)
    guard.add_batch(torch.tensor(1.0), batch_named("good"))
    assert guard.may_step(math.inf, number=1) and state.bad == 0  # the scaler leaves the step out
    guard.add_batch(torch.tensor(math.nan), batch_named("bad"))
    assert guard.may_step(math.nan, number=2) and state.bad == 1  # and this one, too


# --- validation


def test_validation_shares_frames_and_changes_nothing(cfg):
    model = RVOSModel(cfg.model).eval()
    frames_seen = []
    hook = model.backbone.features.register_forward_hook(
        lambda module, args, out: frames_seen.append(len(args[0]))
    )
    loader = loader_for(cfg, model, "val")
    row = validate(model, loader, RVOSLoss())
    windows = len(loader)
    assert frames_seen == [cfg.data.val_window] * windows
    hook.remove()
    found = []
    for batch in loader:
        with torch.inference_mode():
            logits = model(batch["frames"], batch["text_ids"], batch["text_mask"])
        for one in zip(logits[:, None], batch["masks"][:, None], batch["valid"][:, None]):
            loss = RVOSLoss()(*one)[0].item()
            found.append((loss, iou(one[0][:, :, 0] > 0, one[1] > 0, one[2]).item()))
    loss, overlap = np.mean(found, axis=0)
    assert row["val_loss"] == pytest.approx(loss, rel=0.02)
    assert row["val_iou"] == pytest.approx(overlap, abs=1e-5)


class Truth(nn.Module):
    "Answers every expression with the true mask, which it is handed."

    tokenizer = None

    def forward(self, frames, text_ids, text_mask, clip_index=None, features=None):
        return (self.now["masks"][:, :, None] - 0.5) * 20

    def postprocess(self, logits):
        return logits


class Watching:
    "A validation loader that shows each batch to the model first."

    def __init__(self, loader, model):
        self.inner = loader
        self.model = model
        self.device = loader.device

    def __len__(self):
        return len(self.inner)

    def __iter__(self):
        for batch in self.inner:
            self.model.now = batch
            yield batch


def test_a_perfect_answer_has_iou_one(cfg):
    loader = loader_for(cfg, RVOSModel(cfg.model), "val")
    truth = Truth()
    row = validate(truth, Watching(loader, truth), RVOSLoss())
    assert row["val_iou"] == 1 and row["val_loss"] < 0.01 and row["val_it_s"] > 0


def test_validation_answers_as_the_model_does(cfg):
    "`postprocess` changes the IoU and not the loss."
    model = RVOSModel(cfg.model)
    loader = loader_for(cfg, model, "val")
    plain = validate(model, loader, RVOSLoss())
    model.postprocess = lambda logits: torch.ones_like(logits)  # everything is marked
    everything = validate(model, loader, RVOSLoss())
    model.postprocess = lambda logits: -torch.ones_like(logits)  # and nothing
    nothing = validate(model, loader, RVOSLoss())
    assert everything["val_loss"] == nothing["val_loss"] == plain["val_loss"]
    assert everything["val_iou"] > nothing["val_iou"] == 0


# --- the history


def test_top_epochs_have_the_report_s_columns():
    rows = []
    for e in range(1, 9):
        row = dict.fromkeys(History.COLUMNS, 0.0) | {"epoch": e, "train_iou": e / 10}
        rows.append(row | {"val_iou": None if e % 2 else -e / 10})
    train, val = (
        top_epochs(History(rows).table().astype(float), by) for by in ("train_iou", "val_iou")
    )
    assert list(train) == ["epoch", "train_loss", "train_iou", "grad_norm", "lr"]
    assert list(val) == ["epoch", "val_loss", "val_iou", "train_iou", "lr"]
    assert train.epoch.tolist() == [8, 7, 6, 5, 4] and val.epoch.tolist() == [2, 4, 6, 8]


def test_early_stopping_by_hand():
    ious = [0.1, 0.3, None, 0.2, 0.3]
    history = History({"epoch": e, "val_iou": iou} for e, iou in enumerate(ious))
    assert history.val_ious == [0.1, 0.3, 0.2, 0.3]
    assert [history.no_better(patience) for patience in (0, 1, 2, 3, 4, 9)] == [
        *(False, True, True, False, False, False)
    ]
