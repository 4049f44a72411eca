"""J and F of one frame: the definition (full-size OpenCV dilation, as davis2017-evaluation does it) against the exported words.

CPU time on one core, best of seven runs. Masks of $RVOS_DAVIS if set, else moving blobs, all at 480x854. Writes jf.csv beside this file.
    python benchmarks/jf.py
"""
import os
from pathlib import Path
from time import process_time

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from rvos_nb.metrics import jf, jf_frame


def davis_masks(root: str) -> dict[str, np.ndarray]:
    "First 40 frames of the val sequences, bool [T, H, W]."
    names = Path(root, "DAVIS/ImageSets/2017/val.txt").read_text().split()
    files = {n: sorted(Path(root, "DAVIS/Annotations/480p", n).glob("*.png"))[:40] for n in names}
    return {n: np.stack([np.array(Image.open(f)) == 1 for f in fs]) for n, fs in files.items()}


def blobs() -> dict[str, np.ndarray]:
    "Ragged disks of three sizes, wandering, bool [40, 480, 854]."
    y, x = np.mgrid[:480, :854]
    def blob(t, radius):
        dy, dx = y - 240 - 60 * np.sin(t / 9), x - 200 - 10 * t
        return np.hypot(dy, dx) < radius * (1 + 0.2 * np.sin(5 * np.arctan2(dy, dx) + t / 3))
    return {f"blob {radius}": np.stack([blob(t, radius) for t in range(40)]) for radius in (20, 80, 180)}


def milliseconds(fn, masks: np.ndarray, repeat: int = 7) -> float:
    "CPU time of a frame, best of `repeat`; the prediction is the mask of five frames before."
    lag, times = masks[np.maximum(np.arange(len(masks)) - 5, 0)], []
    for _ in range(repeat):
        start = process_time()
        fn(masks, lag)
        times.append(process_time() - start)
    return 1e3 * min(times) / len(masks)


def main():
    cv2.setNumThreads(1)
    root = os.environ.get("RVOS_DAVIS")
    rows = []
    for name, masks in (davis_masks(root) if root else blobs()).items():
        plain = milliseconds(lambda gt, pred: [jf_frame(g, p) for g, p in zip(gt, pred)], masks)
        fast = milliseconds(jf, masks)
        rows.append({"masks": name, "share of pixels": masks.mean(), "definition ms": plain, "fast ms": fast, "ratio": plain / fast})
    table = pd.DataFrame(rows)
    table.loc[len(table)] = ["mean", *table.iloc[:, 1:4].mean(), table["definition ms"].mean() / table["fast ms"].mean()]
    table = table.round(3)
    table.to_csv(Path(__file__).with_suffix(".csv"), index=False)
    print(table.to_string(index=False))


if __name__ == "__main__": main()
