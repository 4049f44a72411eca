"""J and F of one frame: the definition (full-size OpenCV dilation, as davis2017-evaluation does it)
against the exported bit-packed words. Writes jf.csv.

CPU time on one core, best of seven runs. Masks of RVOS_DAVIS if set, else moving blobs, at 480x854.

    python benchmarks/jf.py
"""

import os
from pathlib import Path
from time import process_time

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from rvos_nb.metrics import _jf_frame, jf


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
    return {f"blob {r}": np.stack([blob(t, r) for t in range(40)]) for r in (20, 80, 180)}


def milliseconds(score, masks: np.ndarray, repeat: int = 7) -> float:
    "CPU time of a frame, best of `repeat`; the prediction is the mask of five frames before."
    lag, times = masks[np.maximum(np.arange(len(masks)) - 5, 0)], []
    for _ in range(repeat):
        start = process_time()
        score(masks, lag)
        times.append(process_time() - start)
    return 1e3 * min(times) / len(masks)


def main() -> None:
    "Measure, write the table."
    cv2.setNumThreads(1)
    root = os.environ.get("RVOS_DAVIS")
    rows = []

    def definition(gt, pred):
        return [_jf_frame(g, p) for g, p in zip(gt, pred)]

    for name, masks in (davis_masks(root) if root else blobs()).items():
        plain, fast = milliseconds(definition, masks), milliseconds(jf, masks)
        rows.append([name, masks.mean(), plain, fast, plain / fast])
    columns = ["masks", "share of pixels", "definition ms", "fast ms", "ratio"]
    table = pd.DataFrame(rows, columns=columns)
    means = table.iloc[:, 1:4].mean()
    table.loc[len(table)] = ["mean", *means, means["definition ms"] / means["fast ms"]]
    table = table.round(3)
    table.to_csv(Path(__file__).with_suffix(".csv"), index=False)
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
