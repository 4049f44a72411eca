"""What a change to the preset `best` does, without a look at the val videos: the training videos in
three folds, each held out once. Appends to folds.csv, one row a (variant, fold, seed); rows that
are there are kept.

A held-out fold is scored as the val videos are in ablation.py: J of its videos' own expressions,
and on copy-paste clips of them J with the right and with the swapped expression.

    RVOS_DAVIS=... RVOS_BACKBONE_WEIGHTS=... RVOS_TEXT_ENCODER=... \\
        python benchmarks/folds.py NAME [flags of rvos train] [--folds 0 1 2] [--seeds 0 1]

With `--of OTHER` nothing is trained: the models that variant OTHER left under RVOS_HOME are scored
again, with flags that change only how a model answers: --single-object, --component-ratio.
"""

import argparse
import itertools
import sys
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import torch
import tyro
from _common import NO_MEMORY, append, is_done, real_parts, train_here

from rvos_nb.checkpoints import _ANSWERS, load_best
from rvos_nb.config import Config, ModelConfig
from rvos_nb.copy_paste import copy_paste_splits
from rvos_nb.datasets import load_annotations
from rvos_nb.evaluation import evaluate
from rvos_nb.runtime import cache_dir, lock, write_text
from rvos_nb.segmenter import RVOSSegmenter

FOLDS = 3


def fold_data(source: Path, fold: int) -> Path:
    "The training videos of `source` as data of their own; every third one is its val split."
    root = cache_dir() / "folds" / f"fold{fold}"
    names = sorted(load_annotations(source, "train"))
    splits = {
        "train": [v for i, v in enumerate(names) if i % FOLDS != fold],
        "val": names[fold::FOLDS],
    }
    with lock(root):
        for part in ("DAVIS/JPEGImages", "DAVIS/Annotations", "davis_text_annotations"):
            (root / part).parent.mkdir(parents=True, exist_ok=True)
            if not (root / part).exists():
                (root / part).symlink_to(source.absolute() / part)
        for split, videos in splits.items():
            path = root / "DAVIS/ImageSets/2017" / f"{split}.txt"
            write_text(path, "".join(f"{v}\n" for v in videos))
    return root


def answer_config(flags: list[str], trained: ModelConfig, of: str) -> ModelConfig:
    "The trained config with flags that only change how it answers; others end the program."
    cfg = tyro.cli(tyro.conf.OmitArgPrefixes[ModelConfig], args=flags, default=trained)
    old = asdict(trained)
    if other := [k for k, v in asdict(cfg).items() if v != old[k] and k not in _ANSWERS]:
        sys.exit(f"--of {of}: {other[0]} needs a training of its own")
    return cfg


def mean_J(model, root, source: str = "model") -> pd.Series:
    "Mean J of a split's expressions by source: model, swapped."
    scores = evaluate(
        load_annotations(root, "val"),
        RVOSSegmenter(model),
        controls=("swapped",),
        baselines=(),
        protocols=("per_expression",),
    )
    return scores.groupby("source").J.mean()


def main() -> None:
    "Run what the command line names."
    p = argparse.ArgumentParser()
    p.add_argument("name")
    p.add_argument("--folds", type=int, nargs="+", default=list(range(FOLDS)))
    p.add_argument("--seeds", type=int, nargs="+", default=[0])
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--of")
    args, flags = p.parse_known_args()
    path = Path(__file__).with_suffix(".csv")
    torch.set_num_threads(args.threads)
    for seed, fold in itertools.product(args.seeds, args.folds):
        if is_done(path, variant=args.name, fold=fold, seed=seed):
            continue
        parts = real_parts()
        data = fold_data(Path(parts["root"]), fold)
        folder = cache_dir() / "folds" / f"{args.of or args.name}-{fold}-{seed}"
        if not args.of:
            same = dict(val_every=10_000, seed=seed, out=str(folder), **NO_MEMORY)
            preset = Config.preset("best", **{**parts, **same, "root": str(data)})
            train_here(tyro.cli(tyro.conf.OmitArgPrefixes[Config], args=flags, default=preset))
        pasted = cache_dir() / "folds" / f"copy-paste{fold}"
        with lock(pasted):
            copy_paste_splits(data, pasted, train=2, val=20, frames=12, frame_stride=2, seed=0)
        model, state = load_best(folder / "last.pth")
        if args.of:
            model.cfg = answer_config(flags, model.cfg, args.of)
        plain, listening = mean_J(model, data), mean_J(model, pasted)
        of = ["--of", args.of] if args.of else []
        row = {
            "variant": args.name,
            "fold": fold,
            "seed": seed,
            "flags": " ".join([*of, *flags]),
            "train_iou": state["history"][-1]["train_iou"],
            "J": plain["model"],
            "J (copy-paste)": listening["model"],
            "J (copy-paste, swapped)": listening["swapped"],
        }
        append(path, row)
        print(pd.DataFrame([row]).drop(columns="flags").round(3).to_string(index=False))


if __name__ == "__main__":
    main()
