"""The table of results in README.md: writes results.csv.

Trains the demo preset unless it has been trained already (under RVOS_HOME), and reads what
report_on_davis.py, best_on_davis.py and all_kinds_on_shapes.py left.

    python benchmarks/results.py && python .ci/readme.py
"""

import tempfile
from pathlib import Path

import pandas as pd
from _common import HERE, means_row, score

from rvos_nb.datasets import load_annotations
from rvos_nb.fit import demo_run
from rvos_nb.shapes import make_shapes, shapes_data


def main() -> None:
    "Score the demo model twice, collect the other tables, write."
    run = demo_run()
    with (
        tempfile.TemporaryDirectory() as folder
    ):  # clips that did not exist for the preset's choice
        unseen = make_shapes(Path(folder) / "data", n_train=1, n_val=100, seed=7)
        rows = [
            means_row(name, score(run, load_annotations(root, "val")))
            for name, root in {
                "`demo`, talking shapes (attribute)": shapes_data(),
                "`demo`, 100 clips of another seed": unseen,
            }.items()
        ]
    others = {
        "talking shapes, all kinds": ("all_kinds_on_shapes", 0),
        "`report`, 9 DAVIS val videos": ("report_on_davis", 0),
        "`best`, 9 DAVIS val videos": ("best_on_davis", 0),
        "`best`, 36 copy-paste clips of them": ("best_on_davis", 1),
    }
    for name, (script, k) in others.items():
        means = pd.read_csv(HERE / script / "means.csv")
        rows.append({**means.iloc[k], "data": name})
    table = pd.DataFrame(rows).rename(columns={"data": "model, data"})
    table.to_csv(HERE / "results.csv", index=False, float_format="%.3f")
    print(table.round(3).to_string(index=False))


if __name__ == "__main__":
    main()
