"""Copy-paste clips by a wider recipe, for the row `wide recipe` of images.py: one to three guests a
clip, of other videos and of labelled images, and a picture as a hand-held camera takes it: a part
of the frame, other light, sometimes blurred, more or less compressed. One frame a clip.
"""

import hashlib
import json
import random
from pathlib import Path

import cv2
import numpy as np

from rvos_nb.config import AugmentConfig, RVOSError
from rvos_nb.copy_paste import COPY_PASTE, _about_guest, _by_object, _lasting, _said, _some_frames
from rvos_nb.copy_paste import clash, fingerprint
from rvos_nb.data import Annotations
from rvos_nb.datasets import load_annotations
from rvos_nb.layout import write_clip, write_texts
from rvos_nb.runtime import already_made, cache_dir, lock, made_once, write_text
from rvos_nb.scenes import paste_clip


def hand_held(frame: np.ndarray, ids: np.ndarray, rng: np.random.Generator) -> tuple:
    "Frame [H,W,3] and ids [H,W] as another camera would show them."
    H, W = ids.shape
    share = np.exp(rng.uniform(np.log(0.6), 0)) if rng.random() < 0.6 else 1
    corner = rng.uniform(0, 1, 2) * (1 - share) * (W, H)
    move = np.array([[1 / share, 0, -corner[0] / share], [0, 1 / share, -corner[1] / share]])
    ids = cv2.warpAffine(ids, move, (W, H), flags=cv2.INTER_NEAREST)
    image = cv2.warpAffine(frame, move, (W, H))
    if rng.random() < 0.4:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.5))
    gain, lift, gamma = rng.uniform(0.8, 1.25), rng.uniform(-20, 20), np.exp(rng.normal(0, 0.2))
    curve = (np.arange(256) / 255) ** gamma * gain * 255 + lift
    light = curve[image] * rng.uniform(0.93, 1.07, 3)
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 95))]
    packed = cv2.imencode(".jpg", light.clip(0, 255).astype(np.uint8), quality)[1]
    return cv2.imdecode(packed, cv2.IMREAD_COLOR), ids


class Recipe:
    "Hosts of `train`, and guests of `train` and `images`."

    def __init__(self, train: Annotations, images: Annotations, size: tuple[int, int], seed: int):
        self.records = dict(train) | {f"image {v}": r for v, r in images.items()}
        self.lasting = {v: _lasting(r) for v, r in self.records.items()}
        self.hosts = [v for v in train if self.lasting[v]]
        objects = [(v, o) for v in self.records for o in self.lasting[v]]
        self.guests = [
            [(v, o) for v, o in objects if (v in train) == video] for video in (True, False)
        ]
        self.size, self.seed = size, seed

    def texts(self, v: str, o: int | None = None) -> list[tuple]:
        "All that is said of an object of a video, or of each of them."
        said = _by_object(_said(self.records[v]))
        return [tuple(s.text for s in said[k]) for k in said if o in (None, k)]

    def clip(self, number: int) -> tuple | None:
        "(frame, ids, expressions); None where too little would show."
        rng = np.random.default_rng([self.seed, number])
        draw = random.Random(f"{self.seed} wide {number}")
        host = self.hosts[number % len(self.hosts)]
        one = dict(n=1, frame_stride=1, rng=draw)
        frames, ids = _some_frames(self.records[host], size=self.size, **one)
        inside = self.texts(host)
        said = [s for some in self.lasting[host].values() for s in some]
        for _ in range(int(rng.integers(1, 4))):
            v, o = draw.choice(draw.choice([g for g in self.guests if g]))
            (own,) = self.texts(v, o)
            if v == host or any(clash(own, other) for other in inside):
                continue
            colours, labels = _some_frames(self.records[v], size=None, **one)
            new = paste_clip(frames, ids, colours, labels == o, seed=int(rng.integers(2**31)))
            if new is not None and (about := _about_guest(self.lasting[v][o], new)):
                frames, ids = new.frames, new.ids
                said += about
                inside.append(own)
        frame, ids = hand_held(frames[0], ids[0], rng)
        shown = np.bincount(ids.ravel(), minlength=256)
        said = [s for s in said if shown[s.object_id] > 0.004 * ids.size]
        return (frame, ids, said) if len(_by_object(said)) > 1 else None


def wide_clips(
    train: Annotations, augment: AugmentConfig, image_size: tuple, clip_len: int, seed: int, images
) -> Annotations:
    "Stands in for `copy_paste_clips` of rvos_nb."
    n, size = augment.copy_paste_clips, tuple(image_size)
    settings = dict(clips=n, size=list(size), seed=seed, train=fingerprint(train))
    settings["images"] = fingerprint(images)
    key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
    root = cache_dir() / "copy_paste" / f"wide-{key}"
    with lock(root):
        if not already_made(root, settings, COPY_PASTE):
            with made_once(root, settings, COPY_PASTE) as tmp:
                _write(tmp, Recipe(train, images, size, seed), n)
    return load_annotations(root, "train")


def _write(root: Path, recipe: Recipe, n: int) -> None:
    rows, names = [], []
    for number in range(20 * n):
        if len(names) == n:
            break
        if made := recipe.clip(number):
            frame, ids, said = made
            names.append(f"wide-{number:05d}")
            write_clip(root / "DAVIS", names[-1], frame[None], ids[None])
            rows += [(names[-1], s.object_id, s.annotator, COPY_PASTE, s.text) for s in said]
    if len(names) < n:
        raise RVOSError(f"{len(names)} of {n} clips in {20 * n} attempts")
    write_texts(root, rows)
    write_text(root / "DAVIS/ImageSets/2017/train.txt", "".join(f"{v}\n" for v in names))
