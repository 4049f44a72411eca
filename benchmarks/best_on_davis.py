"""The preset `best` on real video, on the CPU, on frozen encoders: writes best_on_davis/.

Scored with the last weights of the fixed schedule: on the val videos, and on 36 copy-paste clips
of them (seed 0) with the right and with the swapped expression. seeds.csv holds each seed,
means.csv the means over those that are there. A run lies in RVOS_HOME and goes on where it broke
off.

    RVOS_DAVIS=... RVOS_BACKBONE_WEIGHTS=... RVOS_TEXT_ENCODER=... \\
        python benchmarks/best_on_davis.py [--seeds 0 1 2]
"""

import argparse

from _common import BACKBONE, DAVIS, HERE, TEXT, named, train_seeds

from rvos_nb.copy_paste import copy_paste_splits
from rvos_nb.datasets import load_annotations
from rvos_nb.runtime import cache_dir, lock

FLAGS = ["--preset", "best", "--data", f"${DAVIS}", "--backbone-weights", f"${BACKBONE}"]
FLAGS += ["--text-encoder", f"${TEXT}", "--device", "cpu"]
FOLDER = HERE / "best_on_davis"


def main() -> None:
    "Train, score, write, seed by seed."
    p = argparse.ArgumentParser()
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    seeds = p.parse_args().seeds
    davis, clips = named(DAVIS), cache_dir() / "best_on_davis" / "pasted"
    with lock(clips):
        copy_paste_splits(davis, clips, train=2, val=36, seed=0)
    roots = {"val videos": davis, "copy-paste clips of them": clips}
    sets = {name: load_annotations(root, "val") for name, root in roots.items()}
    for _ in train_seeds(FOLDER, FLAGS, seeds, sets):
        pass  # all that is wanted is written


if __name__ == "__main__":
    main()
