"""From the report's model to the preset `best`, one weakness at a time: appends to ablation.csv,
one row a (model, data, seed, budget). Rows that are there are kept: it can be stopped and resumed.

Each model gets as many steps as fit into the same time (3 minutes, one thread), by timing a few
steps; a seed that is added later, perhaps on another machine, gets the mean of those that are
there. Copy-paste clips and feature caches come before, and `cache_s` is what they took. The last
weights are scored: J and J&F of every val expression, J (swapped), and J by kind of expression.
Data: `real` (RVOS_DAVIS; its val videos, and copy-paste clips of them, fixed by seed 0) and
`shapes` (talking shapes of all kinds; everything trained from nothing). `best` is the preset with
its own schedule, beside models with the full budget:
--minutes 10 --threads 2 --rows report best "report's head on cached features".
The rows of MORE, variants of +copy-paste, run where --rows names them; `more` means all of them.

    RVOS_DAVIS=... RVOS_BACKBONE_WEIGHTS=... RVOS_TEXT_ENCODER=... python benchmarks/ablation.py \\
        [--minutes 3] [--seeds 0 1 2] [--data real shapes] [--rows report best ...]
"""

import argparse
import json
import os
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from _common import HERE, NO_MEMORY, append, backward, is_done, real_parts, rows_with, train_here

from rvos_nb.checkpoints import load_best
from rvos_nb.config import Config
from rvos_nb.copy_paste import copy_paste_splits
from rvos_nb.datasets import load_annotations
from rvos_nb.evaluation import evaluate
from rvos_nb.fit import Trainer
from rvos_nb.sources import load_splits
from rvos_nb.runtime import cache_dir, lock, write_text
from rvos_nb.segmenter import RVOSSegmenter

PATH = HERE / "ablation.csv"
HEAD = "report's head on cached features"
SHAPES_PARTS = dict(
    split_kind="all",
    shapes_clips=1000,
    backbone="tiny",
    backbone_weights="none",
    text_encoder="demo-bert",
    text_weights="none",
    image_size=(96, 160),
    device="cpu",
    epoch_size=1600,
    expressions_per_clip=3,
)
BEST = {k: v for group in asdict(Config.preset("best")).values() for k, v in group.items()}


def of_best(names: str) -> dict:
    "These knobs as the preset `best` has them."
    return {name: BEST[name] for name in names.split()}


CORRELATION = dict(temporal="correlation", clip_len=2, image_epochs=0.5)
STEPS = {  # each adds to those before it; real data
    "report": {},
    "+decoder": dict(
        clip_len=1,
        batch_size=8,
        grad_accum_steps=1,
        temporal="none",
        **of_best("frame_stride decoder fuse_strides hidden_dim heads image_size"),
    ),
    "+words": of_best("pooling positions film bidirectional_attention"),
    "+recipe": of_best(
        "freeze_backbone freeze_text feature_cache lr schedule weight_decay dropout head_dropout "
        "word_dropout"
    ),
    "+class prior": of_best("class_prior text_dropout"),
    "+copy-paste": of_best(
        "copy_paste_clips copy_paste_prob expressions_per_clip negative_text_prob"
    ),
    "+single object": of_best("single_object"),
    "+correlation": CORRELATION,
}
SHAPES_STEPS = {  # everything trained from nothing, and every clip has several objects
    "report": {},
    "+decoder": {
        **STEPS["+decoder"],
        "image_size": (96, 160),
        "fuse_strides": (8, 16),
        "frame_stride": 1,
        "hidden_dim": 48,
        "heads": 4,
        "batch_size": 9,
    },
    "+words": STEPS["+words"],
    "+recipe": dict(
        lr=1e-3,
        schedule="cosine",
        weight_decay=1e-4,
        dropout=0.0,
        head_dropout=0.0,
        augment=False,
        max_stride=2,
    ),
    "+contrastive": dict(contrastive_weight=1.0),
    "+conv3d": dict(temporal="conv3d", clip_len=4, image_epochs=0.5),
    "+correlation": CORRELATION,
}
MORE = {  # on real data: variants of the row +copy-paste, whose masks keep all their pieces
    "best, more copy-paste, less text": dict(copy_paste_prob=0.65, text_dropout=0.8),
    "best, contrastive loss": dict(contrastive_weight=0.5),
    "best without negative text": dict(negative_text_prob=0.0),
    "best, text in all steps": dict(text_dropout=0.0),
    "best without copy-paste": dict(copy_paste_clips=0, expressions_per_clip=1),
    **{f"best, copy-paste {p:g}": dict(copy_paste_prob=p) for p in (0.2, 0.4, 0.75, 0.8)},
    **{f"best, {n} training videos": dict(max_videos=n) for n in (4, 8)},
}


def config(row: str, data: str, seed: int) -> Config | None:
    "The Config of a row, None where it makes no sense for this data."
    same = dict(seed=seed, patience=0, max_minutes=0.0)
    if data == "real":
        parts = real_parts()
        if row == "best" or row in MORE:
            changes = {**parts, **NO_MEMORY, **MORE.get(row, {}), **same}
            return Config.preset("best", single_object=row == "best", **changes)
        if row == HEAD:
            frozen = dict(freeze_backbone=True, freeze_text=True, feature_cache=True)
            return Config.preset("report", **parts, **frozen, **same)
    steps, parts = (STEPS, real_parts()) if data == "real" else (SHAPES_STEPS, SHAPES_PARTS)
    if row not in steps:
        return None
    names = list(steps)
    changes = dict(parts)
    for name in names[: names.index(row) + 1]:
        changes |= steps[name]
    return Config.preset("report", **{**changes, **same})


def seconds_per_step(trainer: Trainer, epoch: int) -> float:
    "Median over a few training steps of that epoch."
    seconds = []
    trainer.model.train()
    trainer.train_loader.set_epoch(epoch)
    before = time.monotonic()
    for batch in trainer.train_loader:
        backward(trainer, batch)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
        now = time.monotonic()
        seconds.append(now - before)
        before = now
        if len(seconds) == 15:
            break
    return float(np.median(seconds[3:]))


def known_steps(row: str, data: str, minutes: float) -> int | None:
    "Steps that this row had with other seeds, their mean; None where it is the first."
    others = rows_with(PATH, row=row, data=data, minutes=minutes)
    return round(others.steps.mean()) if len(others) else None


def fitted(cfg: Config, minutes: float, steps: int | None) -> tuple[dict, float]:
    "Knobs for these steps, else for as many as fit into `minutes`; seconds that its caches took."
    start = time.monotonic()
    timing = cache_dir() / "ablation" / f"timing-{os.getpid()}"
    trainer = Trainer(cfg.replace(out=str(timing)))
    trainer.begin_run()  # makes the feature cache
    cached = time.monotonic() - start
    if steps is None:
        share = cfg.data.image_epochs  # the first epochs may have single frames
        step = (1 - share) * seconds_per_step(trainer, cfg.optim.epochs - 1)
        if share:
            step += share * seconds_per_step(trainer, 0)
        clips = int(60 * minutes / step * cfg.data.batch_size)
    else:
        clips = steps * cfg.data.batch_size * cfg.optim.grad_accum_steps
    trainer.close()
    if cfg.optim.schedule == "restarts":  # whole epochs, as the report has them
        size = min(cfg.data.epoch_size or len(trainer.train_loader.dataset), clips)
        epochs = max(1, clips // size)
    else:
        epochs = max(4, round(minutes))
        size = max(clips // epochs, cfg.data.batch_size)
    return dict(epochs=epochs, epoch_size=size, val_every=10_000), cached


def train_row(
    row: str, cfg: Config, out: Path, minutes: float, steps: int | None
) -> tuple[Config, float]:
    "Train a row, or go on with it; its Config and the seconds that its caches took."
    note = out / "fitted.json"
    if not note.exists():
        knobs, cached = fitted(cfg, minutes, steps)
        if row == "best":  # its own schedule
            knobs = dict(val_every=10_000)
        write_text(note, json.dumps({"cached": cached, "knobs": knobs}))
    known = json.loads(note.read_text())
    cfg = cfg.replace(**known["knobs"], out=str(out))
    train_here(cfg)
    return cfg, known["cached"]


def split_means(name: str, scores: pd.DataFrame, kinds: bool) -> dict:
    "J, J&F and J (swapped) of one split; with `kinds` also J by kind of expression."
    own = scores[scores.source == "model"]
    swapped = scores[scores.source == "swapped"]
    J, F = own.J.mean(), own.F.mean()
    found = {f"{name}_J": J, f"{name}_J&F": (J + F) / 2, f"{name}_J (swapped)": swapped.J.mean()}
    if kinds:
        found |= {f"J_{kind}": j for kind, j in own.groupby("kind").J.mean().items()}
    return found


def run_row(row: str, data: str, seed: int, minutes: float) -> dict | None:
    "Train and score one row."
    cfg = config(row, data, seed)
    if cfg is None:
        return None
    start = time.monotonic()
    trained = "+copy-paste" if row == "+single object" else row  # the same run, answered otherwise
    name = f"{data}-{trained.strip('+').replace(' ', '-')}-{seed}-{minutes:g}"
    steps = known_steps(row, data, minutes)
    cfg, cached = train_row(row, cfg, cache_dir() / "ablation" / name, minutes, steps)
    model, state = load_best(Path(cfg.run.out) / "last.pth")
    model.cfg.single_object = cfg.model.single_object
    history = pd.DataFrame(state["history"])
    batch = cfg.data.batch_size * cfg.optim.grad_accum_steps
    trained_parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    about = {
        "row": row,
        "data": data,
        "seed": seed,
        "minutes": minutes,
        "threads": torch.get_num_threads(),
        "trained_parameters": trained_parameters,
        "steps": cfg.optim.epochs * -(-cfg.data.epoch_size // batch),
        "cache_s": round(cached),
        "clips_per_s": round(history.train_it_s.mean() * cfg.data.batch_size, 2),
        "train_iou": history.train_iou.iloc[-1],
    }
    splits = {"val": load_splits(cfg)["val"]}
    if data == "real":
        splits["copy_paste"] = load_annotations(pasted_val(cfg.data.root), "val")
    for split, annotations in splits.items():
        scores = evaluate(
            annotations,
            RVOSSegmenter(model),
            controls=("swapped",),
            baselines=(),
            protocols=("per_expression",),
        )
        about |= split_means(split, scores, kinds=data == "shapes")
    print(f"{row}, {data}, seed {seed}: {time.monotonic() - start:.0f} s in all", flush=True)
    return about


def pasted_val(root: str) -> Path:
    "Copy-paste clips of the val videos, by seed 0; made once."
    pasted = cache_dir() / "ablation" / "copy-paste"
    with lock(pasted):
        return copy_paste_splits(root, pasted, train=2, val=36, seed=0)


def main() -> None:
    "Run what the command line names."
    p = argparse.ArgumentParser()
    p.add_argument("--minutes", type=float, default=3.0)
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    p.add_argument("--data", nargs="+", default=["real", "shapes"])
    p.add_argument("--rows", nargs="+", default=[*STEPS, HEAD, *SHAPES_STEPS])
    p.add_argument("--threads", type=int, default=1)
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    rows = [row for name in args.rows for row in (MORE if name == "more" else [name])]
    jobs = [(r, d, s) for s in args.seeds for d in args.data for r in dict.fromkeys(rows)]
    for row, data, seed in jobs:
        key = dict(row=row, data=data, seed=seed, minutes=args.minutes)
        if not is_done(PATH, **key) and (found := run_row(**key)):
            append(PATH, found)


if __name__ == "__main__":
    main()
