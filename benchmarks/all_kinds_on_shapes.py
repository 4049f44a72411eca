"""Talking shapes with all kinds of expressions (looks, sizes, comparisons, places, motions), on the
CPU: writes all_kinds_on_shapes/.

The backbone is a frozen MobileNetV2: a small one that starts from nothing learns colours in minutes
and shapes much later. Its maps are computed once, so the same time holds more steps.

Scored with the last weights of the fixed schedule, on the val clips and on 40 clips of another
seed that played no part when the flags were chosen; the last choices were made on clips of a third
seed. kinds.csv and seeds.csv hold each seed, means.csv the means over those that are there. A run
lies in RVOS_HOME and goes on where it broke off.

    RVOS_BACKBONE_WEIGHTS=... python benchmarks/all_kinds_on_shapes.py [--seeds 0 1 2]
"""

import argparse
import shlex

import pandas as pd
from _common import BACKBONE, HERE, named, replace_seed, train_seeds

from rvos_nb.datasets import load_annotations
from rvos_nb.shapes import shapes_data

FLAGS = shlex.split(
    "--split-kind all --shapes-clips 1000 --contrastive-weight 1 --expressions-per-clip 3 "
    "--batch-size 18 --backbone mobilenet_v2 --backbone-weights $RVOS_BACKBONE_WEIGHTS "
    "--freeze-backbone --feature-cache --bidirectional-attention --decoder dynamic "
    "--fuse-strides 8 16 --hidden-dim 48 --heads 4 --temporal correlation --clip-len 2 "
    "--image-epochs 0.25 --lr 2e-3 --epochs 16 --epoch-size 5400 --val-every 16 --max-minutes 0 "
    "--device cpu"
)
FOLDER = HERE / "all_kinds_on_shapes"
SETS = {  # clips -> settings of the data
    "val clips": dict(split_kind="all", n_train=1000),
    "clips of another seed": dict(split_kind="all", seed=2026, n_train=1),
}
COLUMNS = {"model": "J", "swapped": "J (swapped)", "random object": "random object"}


def by_kind(clips: str, scores: pd.DataFrame) -> pd.DataFrame:
    "J, J (swapped) and a random object's J for each kind of expression, and for all."
    wide = scores.pivot_table(
        index=["video_id", "expression_id", "kind"], columns="source", values="J"
    ).reset_index()
    wide = pd.concat([wide.assign(kind="all"), wide])
    kinds = wide.groupby("kind", sort=False)[list(COLUMNS)].mean().rename(columns=COLUMNS)
    kinds["expressions"] = wide.groupby("kind", sort=False).size()
    return kinds.reset_index().assign(clips=clips)


def main() -> None:
    "Train, score, write, seed by seed."
    p = argparse.ArgumentParser()
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    seeds = p.parse_args().seeds
    named(BACKBONE)
    sets = {name: load_annotations(shapes_data(**which), "val") for name, which in SETS.items()}
    for seed, scores in train_seeds(FOLDER, FLAGS, seeds, sets):
        kinds = pd.concat([by_kind(*found) for found in scores.items()])
        kinds = replace_seed(FOLDER / "kinds.csv", kinds, seed)
        print(kinds.round(3).to_string(index=False))


if __name__ == "__main__":
    main()
