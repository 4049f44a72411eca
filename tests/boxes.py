"Small data in DAVIS's layout and sources of predictions, for the tests of evaluation."

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from rvos_nb.data import Annotations, VideoRecord, other_expression
from rvos_nb.datasets import load_annotations
from rvos_nb.layout import ANNOTATORS, write_ids
from rvos_nb.predictions import FramePrediction, merge_objects

COLUMNS = ["J", "F", "merged_J", "merged_F", "identity_J", "identity_F"]
COLOURS = np.uint8([(90, 90, 90), (255, 0, 0), (0, 0, 255)])  # of background, object 1 and object 2


def save_ids(path: Path, ids: np.ndarray):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_ids(path, ids)


def write_data(
    root: Path,
    videos: dict[str, np.ndarray],  # id maps [T,H,W]; 255 is void
    expressions: dict[tuple[str, int, str], str] | None = None,  # of (video, object, annotator)
) -> Annotations:
    "A val split in DAVIS's layout; by default each annotator says something about each object."
    if expressions is None:
        expressions = {}
        for v, ids in videos.items():
            for o in np.setdiff1d(ids, (0, 255)):
                expressions |= {(v, int(o), a): f"thing {o}" for a in ANNOTATORS}
    (root / "DAVIS/ImageSets/2017").mkdir(parents=True)
    (root / "DAVIS/ImageSets/2017/val.txt").write_text("\n".join(videos))
    (root / "davis_text_annotations").mkdir()
    for a in ANNOTATORS:
        lines = [f'{v} {o} "{text}"' for (v, o, who), text in expressions.items() if who == a]
        (root / f"davis_text_annotations/Davis17_{a}.txt").write_text("\n".join(lines))
    for v, ids in videos.items():
        (root / "DAVIS/JPEGImages/480p" / v).mkdir(parents=True)
        for t, m in enumerate(ids):
            picture = Image.fromarray(COLOURS[np.where(m > 2, 0, m)])
            path = root / f"DAVIS/JPEGImages/480p/{v}/{t:05d}.jpg"
            picture.save(path, quality=100, subsampling=0)
            save_ids(root / f"DAVIS/Annotations/480p/{v}/{t:05d}.png", m)
    return load_annotations(root, "val")


def scenes(n: int = 3, seed: int = 0, shape=(4, 40, 60)) -> dict[str, np.ndarray]:
    "Two boxes that wander and never meet, and a void corner."
    rng, videos = np.random.default_rng(seed), {}
    for k in range(n):
        ids = np.zeros(shape, np.uint8)
        for m in ids:
            y, x = rng.integers(2, 18), rng.integers(2, 12)
            m[y : y + 10 + k, x : x + 12] = 1
            m[y : y + 8, x + 25 : x + 40] = 2
            m[30:, 50:] = 255
        videos[f"v{k}"] = ids
    return videos


@dataclass(frozen=True)
class Masks:
    "A source of predictions from a function: (record, t) -> probabilities or bool masks [N,H,W]."

    of: Callable[[VideoRecord, int], np.ndarray]

    def frames(self, record: VideoRecord):
        for t in range(len(record.frames)):
            p = self.of(record, t)
            yield FramePrediction(p > 0.5, merge_objects(p, record))


def truth(record: VideoRecord, t: int) -> np.ndarray:
    return np.stack([record.masks.mask(t, e.object_ids) for e in record.expressions])


def swapped(record: VideoRecord, t: int) -> np.ndarray:
    "The truth of the video's next object."
    return truth(record, t)[[other_expression(record, i) for i in range(len(record.expressions))]]


def nothing(record: VideoRecord, t: int) -> np.ndarray:
    return np.zeros((len(record.expressions), *record.masks.size), bool)


def blurred(record: VideoRecord, t: int) -> np.ndarray:
    "Probabilities, sometimes above one half for both objects."
    from rvos_nb.evaluation import oracle_mask

    p = np.stack([oracle_mask(m, 4) for m in truth(record, t)])
    return 0.6 * p + 0.6 * np.random.default_rng(t).random(p.shape, np.float32)


class Colours:
    "A segmenter of ten lines, which listens: it marks the colour that the expression names."

    name = "colours"
    channels = {"red": 0, "green": 1, "blue": 2}

    def stream(self, video, expressions):
        from rvos_nb.segmenter import FrameMasks

        for frame in video.read():
            logits = np.full((len(expressions), *frame.image.shape[:2]), -1, np.float32)
            for n, text in enumerate(expressions):
                for c in {self.channels[w] for w in text.split() if w in self.channels}:
                    rest = np.delete(frame.image, c, axis=2).max(2)
                    logits[n] = frame.image[..., c] - rest.astype(np.float32) - 100
            yield FrameMasks(frame, logits)
