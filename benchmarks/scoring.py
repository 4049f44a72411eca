"""Scoring, without inference, of as many masks as the whole Ref-DAVIS17 val set has: 244
expressions, 61 objects, 30 videos, 1,999 frames, 15,936 masks at 480x854. Writes scoring.csv.

Scenes are composed of the real masks of RVOS_DAVIS, each object at a place and size of its own. The
predictions (truth blurred and cut again, a little larger) are PNGs in both layouts and are read
from disk, as `rvos evaluate --predictions` reads them. Wall and CPU time with two processes.

    RVOS_DAVIS=... python benchmarks/scoring.py
"""

import resource
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from _common import DAVIS, named

from rvos_nb.pictures import read_mask
from rvos_nb.datasets import load_annotations
from rvos_nb.evaluation import evaluate
from rvos_nb.tables import overview
from rvos_nb.layout import ANNOTATORS, write_ids
from rvos_nb.predictions import open_predictions

VIDEOS = (  # (frames, objects) of the 30 val videos
    *((69, 2), (50, 1), (80, 2), (84, 1), (90, 1), (75, 1), (40, 1), (104, 1), (90, 1), (60, 1)),
    *((66, 3), (52, 1), (50, 1), (90, 1), (78, 5), (50, 2), (81, 3), (34, 2), (50, 3), (47, 5)),
    *((49, 1), (50, 3), (79, 2), (40, 2), (80, 3), (100, 1), (79, 3), (43, 2), (40, 3), (99, 3)),
)


def compose(davis: Path, frames: int, objects: int, rng: np.random.Generator) -> np.ndarray:
    "Ids uint8 [T,480,854]: masks of `objects` videos, shrunk where several, played to and fro."
    folders = sorted((davis / "DAVIS/Annotations/480p").iterdir())
    ids = np.zeros((frames, 480, 854), np.uint8)
    for o in range(1, objects + 1):
        files = sorted(folders[rng.integers(len(folders))].glob("*.png"))
        scale = 1.0 if objects == 1 else rng.uniform(0.4, 0.8)
        dy, dx = rng.integers(-100, 100, 2) if objects > 1 else (0, 0)
        left, top = 427 * (1 - scale) + dx, 240 * (1 - scale) + dy
        moved = np.float32([[scale, 0, left], [0, scale, top]])
        last = 2 * len(files) - 2
        for t in range(frames):
            k = t % last
            mask = (read_mask(files[min(k, last - k)]) == 1).view(np.uint8)
            pasted = cv2.warpAffine(mask, moved, (854, 480), flags=cv2.INTER_NEAREST)
            ids[t][pasted == 1] = o
    ids[:, :8, :8] = 255
    return ids


def write_predictions(out: Path, video: str, t: int, ids: np.ndarray, objects: int) -> None:
    "A frame's predictions in both layouts: the truth blurred and cut again, by annotator."
    for k, _ in enumerate(ANNOTATORS):
        merged = np.zeros_like(ids)
        for o in range(1, objects + 1):
            blurred = cv2.blur((ids == o) * np.uint8(255), (9 + 6 * k, 9 + 6 * k)) > 110
            merged[blurred & (merged == 0)] = o
            number = 4 * (o - 1) + k
            path = out / "Annotations" / video / str(number) / f"{t:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), blurred.view(np.uint8) * 255)
        path = out / f"anno_{k}" / video / f"{t:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_ids(path, merged)


def write(root: Path, davis: Path) -> None:
    "The data set under root/data and predictions under root/out."
    rng, rows, data = np.random.default_rng(0), [], root / "data"
    for n, (frames, objects) in enumerate(VIDEOS):
        name, ids = f"scene{n:02d}", compose(davis, frames, objects, rng)
        pictures = data / "DAVIS/JPEGImages/480p" / name
        masks = data / "DAVIS/Annotations/480p" / name
        pictures.mkdir(parents=True)
        masks.mkdir(parents=True)
        blank = cv2.imencode(".jpg", np.zeros((480, 854, 3), np.uint8))[1].tobytes()
        for t, m in enumerate(ids):
            (pictures / f"{t:05d}.jpg").write_bytes(blank)
            write_ids(masks / f"{t:05d}.png", m)
            write_predictions(root / "out", name, t, m, objects)
        rows += [(name, o) for o in range(1, objects + 1)]
    (data / "DAVIS/ImageSets/2017").mkdir(parents=True)
    names = dict.fromkeys(v for v, _ in rows)
    (data / "DAVIS/ImageSets/2017/val.txt").write_text("\n".join(names))
    (data / "davis_text_annotations").mkdir()
    text = "\n".join(f'{v} {o} "object {o}"' for v, o in rows)
    for annotator in ANNOTATORS:
        (data / f"davis_text_annotations/Davis17_{annotator}.txt").write_text(text)


def cpu_seconds() -> float:
    "Of this process and its children."
    usage = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(u.ru_utime + u.ru_stime for u in usage)


def main() -> None:
    "Write, score, measure."
    davis = Path(named(DAVIS))
    with tempfile.TemporaryDirectory() as d:
        write(Path(d), davis)
        annotations = load_annotations(Path(d, "data"), "val")
        predictions = open_predictions(Path(d, "out"), annotations)
        start, cpu = time.monotonic(), cpu_seconds()
        scores = evaluate(annotations, predictions, controls=(), baselines=(), workers=2)
        wall, cpu = time.monotonic() - start, cpu_seconds() - cpu
    masks = sum(len(a.frames) * len(a.expressions) for a in annotations.values())
    row = {
        "videos": len(annotations),
        "frames": sum(len(a.frames) for a in annotations.values()),
        "expressions": len(scores),
        "masks": masks,
        "processes": 2,
        "wall s": wall,
        "CPU s": cpu,
        "CPU ms a mask": 1e3 * cpu / masks,
        "largest process MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    table = pd.DataFrame([row]).round(2)
    table.to_csv(Path(__file__).with_suffix(".csv"), index=False)
    print(table.T.to_string(header=False))
    print(overview(scores).round(1).to_string(index=False))


if __name__ == "__main__":
    main()
