"What the tests of whole runs share: a run of seconds, and what makes two runs the same."

from pathlib import Path

import pandas as pd
import torch
from rvos_nb.checkpoints import load_checkpoint
from rvos_nb.config import Config
from rvos_nb.shapes import make_shapes
from rvos_nb.sharing import train_words

TIMES = ["train_it_s", "val_it_s"]  # columns in which two equal runs differ


def make_data(folder: Path) -> Path:
    "Four training and two validation clips of four to six frames."
    return make_shapes(folder / "shapes", n_train=4, n_val=2, n_frames=(4, 6), progress=False)


def tiny(data: Path, out: Path, **knobs) -> Config:
    "A run of seconds with all that is random in it; last.pth after every step."
    small = dict(
        root=str(data),
        out=str(out),
        image_size=(32, 48),
        clip_len=2,
        val_window=4,
        batch_size=2,
        epoch_size=8,
        epochs=4,
        hidden_dim=16,
        heads=2,
        val_every=1,
        dropout=0.1,
        head_dropout=0.1,
        augment=True,
        grad_accum_steps=2,
        max_minutes=0.0,
        checkpoint_minutes=1e-9,
        device="cpu",
    )
    return Config.preset("demo", **{**small, **knobs})


def assert_same(a, b) -> None:
    "Equal, bit for bit, down to the tensors; only times may differ."
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for k in a:
            if k not in TIMES:
                assert_same(a[k], b[k])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b):
            assert_same(x, y)
    else:
        assert a == b


def assert_same_run(a: Path, b: Path) -> None:
    "Weights, optimizer, schedule, history and best checkpoint of two run folders."
    for name in ("last.pth", "best_model.pth"):
        x, y = load_checkpoint(a / name), load_checkpoint(b / name)
        for part in ("model", "optimizer", "scheduler", "epoch", "epoch_state"):
            assert_same(x[part], y[part])
        assert_same(x["history"], y["history"])
        assert_same(x["metrics"], y["metrics"])
    x, y = (pd.read_csv(f / "history.csv").drop(columns=TIMES) for f in (a, b))
    pd.testing.assert_frame_equal(x, y)
    assert not list(b.glob(".*")), "litter"


def flags(cfg: Config) -> list[str]:
    "`cfg` as arguments of `rvos train`."
    return train_words(cfg)[2:]
