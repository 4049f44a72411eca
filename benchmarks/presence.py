"""Expressions of several objects or of none on talking shapes, on the CPU: writes presence.csv.

Three ways to learn them: with the mask's terms alone, with the loss term of presence, and with its
head, too. The backbone is a frozen MobileNetV2: a small one that starts from nothing learns colours
in minutes and shapes much later, and "the red star" beside a red circle needs both.

Scored with the last weights of the fixed schedule, on the val clips and on 40 clips of another
seed that played no part in any choice; choices were made on clips of a third seed.

    python benchmarks/presence.py [--rows ROW ...] [--seeds 0 1 2]
"""

import argparse
import itertools
from pathlib import Path

import pandas as pd
from _common import BACKBONE, HERE, append, is_done, named, train

from rvos_nb.datasets import load_annotations
from rvos_nb.evaluation import evaluate
from rvos_nb.runtime import cache_dir
from rvos_nb.segmenter import load_segmenter
from rvos_nb.tables import generalised_scores
from rvos_nb.shapes import shapes_data

PATH = HERE / "presence.csv"
ROWS = {
    "masks alone": "",
    "presence term": "--presence-weight 1",
    "presence term and head": "--presence-weight 1 --presence",
}
FLAGS = (
    "--split-kind generalised --shapes-clips 300 --expressions-per-clip 4 --batch-size 16 "
    "--lr 2e-3 --backbone mobilenet_v2 --backbone-weights $RVOS_BACKBONE_WEIGHTS "
    "--freeze-backbone --feature-cache --image-size 144 240 --decoder dynamic --fuse-strides 8 16 "
    "--bidirectional-attention --hidden-dim 48 --heads 4 --epochs 5 --epoch-size 3200 "
    "--val-every 5 --max-minutes 0 --device cpu"
)
DATA = {
    "val clips": dict(seed=0, n_train=300),
    "clips of another seed": dict(seed=2026, n_train=1),
}


def by_kind(scores: pd.DataFrame) -> dict:
    "gIoU, N-acc and T-acc in percent; for each kind its J and the share answered by nothing."
    found = generalised_scores(scores).loc["model", ["gIoU", "N-acc", "T-acc"]].to_dict()
    silent = scores["marked_frames"] == 0
    for kind, mine in scores.groupby("kind"):
        found |= {f"J, {kind}": mine["J"].mean(), f"nothing, {kind}": silent[mine.index].mean()}
    return found


def scored(run: Path) -> list[dict]:
    "A row for each set of clips."
    segmenter, rows = load_segmenter(run / "last.pth", device="cpu"), []
    for name, which in DATA.items():
        clips = load_annotations(shapes_data("generalised", **which), "val")
        how = dict(controls=(), baselines=(), protocols=("per_expression",))
        rows.append({"data": name} | by_kind(evaluate(clips, segmenter, **how)))
    return rows


def main() -> None:
    "Train, score, append."
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    asked = parser.parse_args()
    named(BACKBONE)
    for seed, row in itertools.product(asked.seeds, asked.rows):
        if is_done(PATH, row=row, seed=seed, data=list(DATA)[-1]):
            continue
        run = cache_dir() / "presence" / f"{row}-{seed}".replace(" ", "-")
        train(f"{FLAGS} {ROWS[row]} --seed {seed}".split(), run, cache_dir())
        for found in scored(run):
            append(PATH, {"row": row, "seed": seed} | found)
    print(pd.read_csv(PATH).round(3).to_string(index=False))


if __name__ == "__main__":
    main()
