"""The preset `best` on real video, on the CPU, from nothing: copy-paste clips,
feature cache, training and the closing table all count. Writes best_on_davis/.

Scored with the last weights of the fixed schedule: on the val videos, and on 36 copy-paste clips
of them (seed 0) with the right and with the swapped expression.

    RVOS_DAVIS=... RVOS_BACKBONE_WEIGHTS=... RVOS_TEXT_ENCODER=... \\
        python benchmarks/best_on_davis.py [further flags of rvos train]
"""

import shutil
import sys
import tempfile
from pathlib import Path

import pandas as pd
from _common import BACKBONE, DAVIS, HERE, TEXT, means_row, named, score, train, write_means

from rvos_nb.copy_paste import copy_paste_splits
from rvos_nb.datasets import load_annotations

FLAGS = ["--preset", "best", "--data", f"${DAVIS}", "--backbone-weights", f"${BACKBONE}"]
FLAGS += ["--text-encoder", f"${TEXT}", "--device", "cpu"]


def main() -> None:
    "Train, score, write."
    here, davis, flags = HERE / "best_on_davis", named(DAVIS), [*FLAGS, *sys.argv[1:]]
    here.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        seconds = train(flags, run, Path(folder) / "home")
        clips = copy_paste_splits(davis, Path(folder) / "pasted", train=2, val=36, seed=0)
        sets = {"val videos": davis, "copy-paste clips of them": clips}
        rows = [
            means_row(name, score(run, load_annotations(root, "val")))
            for name, root in sets.items()
        ]
        for name in ("history.csv", "scores.csv"):
            shutil.copy(run / name, here / name)
    table = pd.DataFrame([{"rvos train, closing table included, s": round(seconds)}])
    table.to_csv(here / "time.csv", index=False)
    print(table.to_string(index=False))
    write_means(here, rows, flags)


if __name__ == "__main__":
    main()
