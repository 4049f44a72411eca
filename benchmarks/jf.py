"""J and F of one frame: the definition (full-size OpenCV dilation, as davis2017-evaluation does it)
against the exported bit-packed words, in numpy alone and in numba's machine code. Writes jf.csv.

CPU time on one core: nine rounds, in each of which all three score the same video, and the median
over rounds of a round's ratio. The rows `drawn` are disks that wander, the others the val sequences
of RVOS_DAVIS if that is set, all at 480x854; the prediction is the mask of five frames before.
`differences` counts frames whose J or F is not the definition's to the last bit. The last two rows
are seconds of the first call in a fresh process: with nothing compiled, and with the code kept.

    python benchmarks/jf.py
"""

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from time import process_time

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from rvos_nb.metrics import _compiled, _jf_frame, _jf_words, _pack, jf

FIRST_CALL = """
import time, numpy as np
from rvos_nb.metrics import jf
masks = np.random.default_rng(0).random((1, 480, 854)) < 0.5
start = time.perf_counter()
jf(masks, masks)
print(time.perf_counter() - start)
"""


def davis_masks(root: str) -> dict[str, np.ndarray]:
    "First 40 frames of the val sequences, bool [T,H,W]."
    names = Path(root, "DAVIS/ImageSets/2017/val.txt").read_text().split()
    found = {}
    for name in names:
        files = sorted(Path(root, "DAVIS/Annotations/480p", name).glob("*.png"))[:40]
        found[name] = np.stack([np.array(Image.open(f)) == 1 for f in files])
    return found


def blob(t: int, radius: int) -> np.ndarray:
    "A ragged disk that wanders, bool [480,854]."
    y, x = np.mgrid[:480, :854]
    dy, dx = y - 240 - 60 * np.sin(t / 9), x - 200 - 10 * t
    return np.hypot(dy, dx) < radius * (1 + 0.2 * np.sin(5 * np.arctan2(dy, dx) + t / 3))


def blobs() -> dict[str, np.ndarray]:
    "Disks of three sizes, bool [40,480,854]."
    return {f"drawn, radius {r}": np.stack([blob(t, r) for t in range(40)]) for r in (20, 80, 180)}


def by_definition(gt: np.ndarray, pred: np.ndarray) -> np.ndarray:
    return np.array([_jf_frame(g, p) for g, p in zip(gt, pred)]).T


def with_numpy(gt: np.ndarray, pred: np.ndarray) -> np.ndarray:
    "The words without numba, [2,T]."
    return np.array([_jf_words(_pack(g), _pack(p), g.shape[1], r=8) for g, p in zip(gt, pred)]).T


def row_of(name: str, masks: np.ndarray, rounds: int = 9) -> dict:
    "Milliseconds a frame of each way, the ratios, and frames that differ."
    lag = masks[np.maximum(np.arange(len(masks)) - 5, 0)]
    ways = {"definition": by_definition, "numpy": with_numpy, "numba": jf}
    times, answers = {way: [] for way in ways}, {}
    for _ in range(rounds):
        for way, score in ways.items():
            start = process_time()
            answers[way] = np.array(score(masks, lag))
            times[way].append(1e3 * (process_time() - start) / len(masks))
    row = {"masks": name, "share of pixels": masks.mean()}
    row |= {f"{way} ms": statistics.median(t) for way, t in times.items()}
    for way in ("numpy", "numba"):
        ratios = sorted(a / b for a, b in zip(times["definition"], times[way]))
        row |= {f"{way} ratio": statistics.median(ratios)}
        row |= {f"{way} least": ratios[0], f"{way} most": ratios[-1]}
    wrong = [(answers[way] != answers["definition"]).any(0) for way in ("numpy", "numba")]
    return row | {"differences": int(np.sum(wrong))}


def first_calls() -> list[dict]:
    "Seconds of the first call where nothing is compiled yet, and where it is."
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "NUMBA_CACHE_DIR": folder}
        for name in ("first call, compiled then", "first call, compiled before"):
            command = [sys.executable, "-c", FIRST_CALL]
            how = dict(env=environment, capture_output=True, text=True, check=True)
            seconds = float(subprocess.run(command, **how).stdout)
            rows.append({"masks": name, "seconds": seconds})
    return rows


def main() -> None:
    "Measure, write the table."
    if _compiled() is None:
        sys.exit("numba is not installed: pip install 'rvos_nb[speed]'")
    cv2.setNumThreads(1)
    root = os.environ.get("RVOS_DAVIS")
    videos = (davis_masks(root) if root else {}) | blobs()
    jf(*next(iter(videos.values()))[None, :1].repeat(2, 0))  # compiles
    table = pd.DataFrame([row_of(name, masks) for name, masks in videos.items()])
    means = dict(table.mean(numeric_only=True), differences=table.differences.sum())
    table = pd.concat([table, pd.DataFrame([{"masks": "mean"} | means, *first_calls()])])
    table.round(3).to_csv(Path(__file__).with_suffix(".csv"), index=False)
    print(table.round(3).to_string(index=False))


if __name__ == "__main__":
    main()
