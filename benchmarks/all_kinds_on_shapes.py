"""Talking shapes with all kinds of expressions (looks, sizes, comparisons, places, motions), on the
CPU, from nothing: writes all_kinds_on_shapes/.

Scored with the last weights of the fixed schedule, on the val clips and on 40 clips of another
seed that played no part when the flags were chosen. kinds.csv holds each seed, means.csv the means
over the seeds that are in it. A run lies in RVOS_HOME and goes on where it broke off.

    python benchmarks/all_kinds_on_shapes.py [--seeds 0 1 2]
"""

import argparse
import shlex

import pandas as pd
from _common import HERE, score, train, write_means

from rvos_nb.datasets import load_annotations
from rvos_nb.runtime import cache_dir, lock
from rvos_nb.shapes import shapes_data

FLAGS = shlex.split(
    "--split-kind all --shapes-clips 1000 --contrastive-weight 1 --expressions-per-clip 3 "
    "--batch-size 18 --bidirectional-attention --decoder dynamic --fuse-strides 8 16 "
    "--hidden-dim 48 --heads 4 --temporal correlation --clip-len 2 --image-epochs 0.5 --lr 1e-3 "
    "--epochs 18 --epoch-size 5400 --val-every 18 --max-minutes 0 --device cpu"
)
FOLDER = HERE / "all_kinds_on_shapes"
SETS = {  # clips -> settings of the data
    "val clips": dict(split_kind="all", n_train=1000),
    "clips of another seed": dict(split_kind="all", seed=2026, n_train=1),
}
COLUMNS = {"model": "J", "swapped": "J (swapped)"}
COLUMNS |= {name: name for name in ("everything", "centre blob", "random object")}


def by_kind(seed: int, clips: str, scores: pd.DataFrame) -> pd.DataFrame:
    "J, J (swapped) and the baselines' J for each kind of expression, and for all."
    wide = scores.pivot_table(
        index=["video_id", "expression_id", "kind"], columns="source", values="J"
    ).reset_index()
    wide = pd.concat([wide.assign(kind="all"), wide])
    kinds = wide.groupby("kind", sort=False)[list(COLUMNS)].mean().rename(columns=COLUMNS)
    kinds.insert(0, "expressions", wide.groupby("kind", sort=False).size())
    kinds.insert(0, "clips", clips)
    kinds.insert(0, "seed", seed)
    return kinds.reset_index()


def with_seed(name: str, seed: int, found: pd.DataFrame) -> pd.DataFrame:
    "The table `name` with `found` as its rows of the seed."
    path = FOLDER / name
    old = pd.read_csv(path) if path.exists() else found[:0]
    table = pd.concat([old[old.seed != seed], found]).sort_values("seed", kind="stable")
    table.to_csv(path, index=False, float_format="%.4f")
    return table


def main() -> None:
    "Train, score, write, seed by seed."
    p = argparse.ArgumentParser()
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    FOLDER.mkdir(exist_ok=True)
    for seed in p.parse_args().seeds:
        run = cache_dir() / "all_kinds" / f"all-kinds-{seed}"
        train([*FLAGS, "--seed", str(seed)], run, cache_dir())
        annotations = {name: load_annotations(shapes_data(**s), "val") for name, s in SETS.items()}
        kinds = [by_kind(seed, name, score(run, a)) for name, a in annotations.items()]
        history = pd.read_csv(run / "history.csv")
        history.insert(0, "seed", seed)
        with lock(cache_dir() / "all_kinds" / "csv"):
            with_seed("history.csv", seed, history)
            kinds = with_seed("kinds.csv", seed, pd.concat(kinds))
            print(kinds.round(3).to_string(index=False))
            means = kinds[kinds.kind == "all"].groupby("clips", sort=False)
            means = means[["expressions", *COLUMNS.values()]].mean().reset_index()
            means = means.astype({"expressions": int}).rename(columns={"clips": "data"})
            write_means(FOLDER, means.to_dict("records"), FLAGS)


if __name__ == "__main__":
    main()
