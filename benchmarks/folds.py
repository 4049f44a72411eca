"""What a change to the best preset does, without a look at the val videos: the training videos in three folds, each held out once. Appends to folds.csv, one row a (variant, fold, seed); rows that are there are kept.

A held-out fold is scored as the val videos are in ablation.py: J of its videos' own sentences (`plain`), and on clips composed of them J with the right sentence (`right`) and with the other object's (`other`).

    RVOS_DAVIS=... RVOS_BACKBONE_WEIGHTS=... RVOS_TEXT_ENCODER=... python benchmarks/folds.py NAME [flags of rvos train] [--folds 0 1 2] [--seeds 0 1]

With `--of OTHER` nothing is trained: the models that variant OTHER left under RVOS_HOME are scored again, with flags that change only how a model answers: --one-object, and --sure X, the share of the surest
piece's peak that another must reach to stay (`SURE` in 06_model).
"""
import argparse
import itertools
import sys
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import rvos_nb.model
import torch
import tyro
from ablation import REAL_PARTS, append, is_done, score
from rvos_nb.core import Config, home, lock, write_text
from rvos_nb.data import compose_splits, load_annotations
from rvos_nb.training import Trainer, begin_run, load_best, train_epochs

FOLDS = 3


def fold_data(source: Path, fold: int) -> Path:
    "The training videos of `source` as data of their own: every third one, from number `fold` on, is its val split."
    root = home() / "folds" / f"fold{fold}"
    names = sorted(load_annotations(source, "train"))
    with lock(root):
        for part in ("DAVIS/JPEGImages", "DAVIS/Annotations", "davis_text_annotations"):
            (root / part).parent.mkdir(parents=True, exist_ok=True)
            if not (root / part).exists(): (root / part).symlink_to(source.absolute() / part)
        for split, videos in (("train", [v for i, v in enumerate(names) if i % FOLDS != fold]), ("val", names[fold::FOLDS])):
            write_text(root / "DAVIS/ImageSets/2017" / f"{split}.txt", "".join(f"{v}\n" for v in videos))
    return root


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("name"); p.add_argument("--folds", type=int, nargs="+", default=list(range(FOLDS))); p.add_argument("--seeds", type=int, nargs="+", default=[0]); p.add_argument("--threads", type=int, default=1)
    p.add_argument("--of"); p.add_argument("--sure", type=float, default=rvos_nb.model.SURE)
    a, flags = p.parse_known_args()
    path = Path(__file__).with_suffix(".csv")
    torch.set_num_threads(a.threads)
    answer = [*(["--of", a.of] if a.of else []), *(["--sure", f"{a.sure:g}"] if a.sure != rvos_nb.model.SURE else [])]
    rvos_nb.model.SURE = a.sure
    for seed, fold in itertools.product(a.seeds, a.folds):
        if is_done(path, variant=a.name, fold=fold, seed=seed): continue
        parts = REAL_PARTS()
        folder = home() / "folds" / f"{a.of or a.name}-{fold}-{seed}"
        data = str(fold_data(Path(parts["data"]), fold))
        if not a.of:
            trainer = Trainer(tyro.cli(Config, args=flags, default=Config.preset("best", **parts | {"data": data}, val_every=10_000, seed=seed, out=str(folder))))
            begin_run(trainer)
            train_epochs(trainer)
            trainer.close()
        composed = home() / "folds" / f"composed{fold}"
        with lock(composed): compose_splits(data, composed, train=2, val=20, frames=12, every=2, seed=0)
        model, state = load_best(folder / "last.pth")
        cfg = tyro.cli(Config, args=flags, default=model.cfg) if a.of else model.cfg
        if other := [k for k, v in asdict(cfg).items() if v != asdict(model.cfg)[k] and k != "one_object"]: sys.exit(f"--of {a.of}: {other[0]} needs a training of its own; expected no flag but --one-object or --no-one-object")
        model.cfg = cfg
        plain, listening = score(model, cfg, load_annotations(data, "val")), score(model, cfg, load_annotations(composed, "val"))
        row = {"variant": a.name, "fold": fold, "seed": seed, "flags": " ".join([*answer, *flags]), "train_iou": state["history"][-1]["train_iou"], "plain": plain.J.mean(), "right": listening.J.mean(), "other": listening.other.mean()}
        append(path, row)
        print(pd.DataFrame([row]).drop(columns="flags").round(3).to_string(index=False), flush=True)


if __name__ == "__main__": sys.exit(main())
