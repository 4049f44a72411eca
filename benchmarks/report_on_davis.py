"""The preset `report` on real video, on the CPU, for 15 minutes: writes report_on_davis/.

A ResNet50 and bert-base would be the report's own choice; they do not finish an epoch in that time
on two cores, so MobileNetV2 and MiniLM take their places.

    RVOS_DAVIS=... RVOS_BACKBONE_WEIGHTS=... RVOS_TEXT_ENCODER=... \\
        python benchmarks/report_on_davis.py [minutes]
"""

import shutil
import sys
import tempfile
from pathlib import Path

from _common import BACKBONE, DAVIS, HERE, TEXT, means_row, named, score, train, write_means

from rvos_nb.datasets import load_annotations

FLAGS = ["--preset", "report", "--data", f"${DAVIS}", "--backbone", "mobilenet_v2"]
FLAGS += ["--backbone-weights", f"${BACKBONE}", "--text-encoder", f"${TEXT}", "--device", "cpu"]


def main() -> None:
    "Train, score, write."
    here, davis = HERE / "report_on_davis", named(DAVIS)
    flags = [*FLAGS, "--max-minutes", sys.argv[1] if len(sys.argv) > 1 else "15"]
    here.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        train(flags, run, Path(folder) / "home")
        rows = [means_row("val videos", score(run, load_annotations(davis, "val")))]
        shutil.copy(run / "history.csv", here / "history.csv")
    write_means(here, rows, flags)


if __name__ == "__main__":
    main()
