"""Scoring, without inference, of as many masks as the whole Ref-DAVIS17 val set has: 244 sentences, 61 objects, 30 videos, 1,999 frames, 15,936 masks at 480x854.

Scenes are composed of the real masks of $RVOS_DAVIS, each object at a place and size of its own; the predictions (truth blurred and cut again, a little larger) are PNGs in both layouts and are read from disk, as
`rvos evaluate --predictions` reads them. Wall and CPU time with two processes. Writes scoring.csv beside this file.
    RVOS_DAVIS=... python benchmarks/scoring.py
"""
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from rvos_nb.data import ANNOTATORS, load_annotations, read_mask
from rvos_nb.demo import davis_palette
from rvos_nb.evaluation import as_answer, evaluate, open_predictions, overview, save_masks

# (frames, objects) of the 30 val videos
VIDEOS = [(69, 2), (50, 1), (80, 2), (84, 1), (90, 1), (75, 1), (40, 1), (104, 1), (90, 1), (60, 1), (66, 3), (52, 1), (50, 1), (90, 1), (78, 5), (50, 2), (81, 3), (34, 2),
          (50, 3), (47, 5), (49, 1), (50, 3), (79, 2), (40, 2), (80, 3), (100, 1), (79, 3), (43, 2), (40, 3), (99, 3)]


def compose(davis: Path, frames: int, objects: int, rng: np.random.Generator) -> np.ndarray:
    "Id maps uint8 [T,480,854]: masks of `objects` sequences, shrunk where there are several, played to and fro, the later ones in front."
    folders = sorted((davis / "DAVIS/Annotations/480p").iterdir())
    ids = np.zeros((frames, 480, 854), np.uint8)
    for o in range(1, objects + 1):
        files = sorted(folders[rng.integers(len(folders))].glob("*.png"))
        scale = 1.0 if objects == 1 else rng.uniform(0.4, 0.8)
        dy, dx = rng.integers(-100, 100, 2) if objects > 1 else (0, 0)
        moved = np.float32([[scale, 0, 427 * (1 - scale) + dx], [0, scale, 240 * (1 - scale) + dy]])
        for t in range(frames):
            k = t % (2 * len(files) - 2)
            mask = (read_mask(files[min(k, 2 * len(files) - 2 - k)]) == 1).view(np.uint8)
            ids[t][cv2.warpAffine(mask, moved, (854, 480), flags=cv2.INTER_NEAREST) == 1] = o
    ids[:, :8, :8] = 255
    return ids


def write(root: Path, davis: Path) -> None:
    "The data set under root/data and predictions under root/out."
    rng, rows = np.random.default_rng(0), []
    for n, (frames, objects) in enumerate(VIDEOS):
        name, ids = f"scene{n:02d}", compose(davis, frames, objects, rng)
        for part, suffix in (("JPEGImages", "jpg"), ("Annotations", "png")): (root / "data/DAVIS" / part / "480p" / name).mkdir(parents=True)
        for t, m in enumerate(ids):
            (root / f"data/DAVIS/JPEGImages/480p/{name}/{t:05d}.jpg").touch()  # scoring opens no frame
            image = Image.fromarray(m)
            image.putpalette(davis_palette())
            image.save(root / f"data/DAVIS/Annotations/480p/{name}/{t:05d}.png")
        rows += [(name, o) for o in range(1, objects + 1)]
    (root / "data/DAVIS/ImageSets/2017").mkdir(parents=True)
    (root / "data/DAVIS/ImageSets/2017/val.txt").write_text("\n".join(dict.fromkeys(v for v, _ in rows)))
    (root / "data/davis_text_annotations").mkdir()
    for a in ANNOTATORS: (root / f"data/davis_text_annotations/Davis17_{a}.txt").write_text("\n".join(f'{v} {o} "object {o}"' for v, o in rows))
    for video, entry in load_annotations(root / "data", "val").items():
        for t, path in enumerate(entry["masks"]):
            ids = read_mask(path)
            soft = {(o, a): cv2.blur((ids == o) * np.uint8(255), (9 + 6 * k, 9 + 6 * k)) > 110 for o in {e["object_id"] for e in entry["expressions"]} for k, a in enumerate(ANNOTATORS)}
            masks = np.stack([soft[e["object_id"], e["annotator"]] for e in entry["expressions"]])
            save_masks(root / "out", video, entry, slice(t, t + 1), as_answer(masks[:, None], entry))


def cpu_seconds() -> float: return sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


def main():
    davis = os.environ.get("RVOS_DAVIS")
    if not davis: sys.exit("RVOS_DAVIS is not set: it names the folder that holds DAVIS/")
    with tempfile.TemporaryDirectory() as d:
        write(Path(d), Path(davis))
        annotations = load_annotations(Path(d, "data"), "val")
        start, cpu = time.monotonic(), cpu_seconds()
        scores = evaluate(annotations, open_predictions(Path(d, "out"), annotations), workers=2)
        wall, cpu = time.monotonic() - start, cpu_seconds() - cpu
    masks = sum(len(a["masks"]) * len(a["expressions"]) for a in annotations.values())
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024  # of the largest process
    row = {"videos": len(annotations), "frames": sum(len(a["masks"]) for a in annotations.values()), "sentences": len(scores), "masks": masks, "processes": 2,
           "wall s": wall, "CPU s": cpu, "CPU ms a mask": 1e3 * cpu / masks, "largest process MB": peak}
    table = pd.DataFrame([row]).round(2)
    table.to_csv(Path(__file__).with_suffix(".csv"), index=False)
    print(table.T.to_string(header=False))
    print(overview(scores).round(1).to_string(index=False))


if __name__ == "__main__": main()
