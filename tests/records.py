"What the tests of caches, loaders and copy-paste share: records built by hand."

from pathlib import Path

import numpy as np
from PIL import Image
from rvos_nb.data import Annotations, Expression, ObjectMasks, VideoRecord


def box(top: int, left: int, bottom: int, right: int, size=(48, 80)) -> np.ndarray:
    "A rectangle as a bool mask."
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return mask


def write_frames(folder: Path, n: int, size=(48, 80)) -> list[Path]:
    "Noise that differs from frame to frame, as PNGs, which lose nothing."
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(n)
    paths = [folder / f"{t:05d}.png" for t in range(n)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return paths


def by_hand(folder: Path, tracks: dict[int, list], expressions: list, **how) -> Annotations:
    "One video, 'v', of noise; `expressions` are (text, object ids)."
    n = len(next(iter(tracks.values())))
    frames = write_frames(folder / "frames", n)
    masks = ObjectMasks((48, 80), tracks, **how)
    said = [Expression(str(i), text, ids) for i, (text, ids) in enumerate(expressions)]
    return Annotations({"v": VideoRecord("v", frames, masks, said)}, folder, "train")
