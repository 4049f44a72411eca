"""Talking shapes with all kinds of expressions (looks, sizes, comparisons, places, motions), on the
CPU, from nothing: writes all_kinds_on_shapes/.

Scored with the last weights of the fixed schedule, on the val clips and on 40 clips of another
seed that played no part when the flags were chosen.

    python benchmarks/all_kinds_on_shapes.py [further flags of rvos train]
"""

import shlex
import shutil
import sys
import tempfile
from pathlib import Path

import pandas as pd
from _common import HERE, means_row, score, train, write_means

from rvos_nb.datasets import load_annotations
from rvos_nb.shapes import shapes_data

FLAGS = shlex.split(
    "--split-kind all --shapes-clips 1000 --contrastive-weight 1 --expressions-per-clip 3 "
    "--batch-size 18 --bidirectional-attention --decoder dynamic --fuse-strides 8 16 "
    "--hidden-dim 48 --heads 4 --temporal correlation --clip-len 2 --image-epochs 0.5 --lr 1e-3 "
    "--epochs 18 --epoch-size 5400 --val-every 18 --max-minutes 0 --device cpu"
)


def by_kind(clips: str, scores: pd.DataFrame) -> pd.DataFrame:
    "J, J (swapped) and a random object's J for each kind of expression, and for all."
    wide = scores.pivot_table(
        index=["video_id", "expression_id", "kind"], columns="source", values="J"
    ).reset_index()
    wide = pd.concat([wide.assign(kind="all"), wide])
    columns = {"model": "J", "swapped": "J (swapped)", "random object": "random object"}
    kinds = wide.groupby("kind", sort=False)[list(columns)].mean().rename(columns=columns)
    kinds["expressions"] = wide.groupby("kind", sort=False).size()
    return kinds.reset_index().assign(clips=clips)


def main() -> None:
    "Train, score, write."
    here, flags = HERE / "all_kinds_on_shapes", [*FLAGS, *sys.argv[1:]]
    here.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        seconds = train(flags, run, Path(folder) / "home")
        sets = {
            "val clips": shapes_data(split_kind="all", n_train=1000),
            "clips of another seed": shapes_data(split_kind="all", seed=2026, n_train=1),
        }
        scores = {name: score(run, load_annotations(root, "val")) for name, root in sets.items()}
        shutil.copy(run / "history.csv", here / "history.csv")
    kinds = pd.concat([by_kind(name, s) for name, s in scores.items()])
    kinds.to_csv(here / "kinds.csv", index=False, float_format="%.4f")
    time = pd.DataFrame([{"rvos train, closing table included, s": round(seconds)}])
    time.to_csv(here / "time.csv", index=False)
    print(kinds.round(3).to_string(index=False))
    write_means(here, [means_row(name, s) for name, s in scores.items()], flags)


if __name__ == "__main__":
    main()
