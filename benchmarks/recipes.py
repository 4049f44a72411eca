"""Does a model listen where clips are composed in another way than in its training?

Scores the runs that images.py left under RVOS_HOME on clips of the val videos composed by two
recipes, and appends to recipes.csv: J of the named object, J of the other objects (their mean),
and how often the named object wins, that is, fits the mask better than any other one. The first
recipe is copy-paste as in training. The second one is for scoring only, and no choice was made on
it: one or two guests of other sizes on curved paths, matched in brightness to where they are, with
wide edges, before or behind the host's object; then the camera moves, and all is blurred and
compressed.

    RVOS_DAVIS=... python benchmarks/recipes.py RUN [RUN ...]
"""

import argparse
import json
import random
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from _common import DAVIS, HERE, append, is_done, named

from rvos_nb.copy_paste import _about_host, _by_object, _lasting, _some_frames
from rvos_nb.copy_paste import copy_paste_splits, host_guest_pairs
from rvos_nb.data import VideoRecord
from rvos_nb.datasets import load_annotations
from rvos_nb.layout import write_clip, write_texts
from rvos_nb.metrics import region_similarity
from rvos_nb.predictions import predictions_of
from rvos_nb.runtime import cache_dir, lock, write_text
from rvos_nb.scenes import PastedClip
from rvos_nb.segmenter import RVOSSegmenter, load_segmenter

PATH = HERE / "recipes.csv"
FRAMES, STRIDE, CLIPS = 12, 2, 20


def laid_in(frames: np.ndarray, ids: np.ndarray, guest: tuple, rng: np.random.Generator) -> int:
    "Lay a guest (frames, masks) into the clip, in place; its id, 0 where it would not show."
    colours, masks = guest
    T, H, W = ids.shape
    new, before = int(ids[ids < 255].max()) + 1, ids.copy()
    area = masks.sum((1, 2)).max()
    scale = min((rng.uniform(0.015, 0.12) * H * W / area) ** 0.5, 1.5)
    centre, radius = rng.uniform((0.25, 0.15), (0.75, 0.85)) * (H, W), rng.uniform(0, 0.12) * H
    turn, behind = rng.uniform(0, 2 * np.pi, 2) * (1, 0.5), rng.random() < 0.5
    for t in range(T):
        y, x = np.nonzero(masks[t])
        if not len(y):
            continue
        at = centre + radius * np.array([np.sin(turn[0] + t / 4), np.cos(turn[1] + t / 3)])
        shift = at[::-1] - scale * np.array([x.mean(), y.mean()])
        move = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]], np.float32)
        alpha = cv2.warpAffine(masks[t].astype(np.float32), move, (W, H), flags=cv2.INTER_AREA)
        seen = cv2.warpAffine(colours[t], move, (W, H), flags=cv2.INTER_LINEAR).astype(np.float32)
        if behind:
            alpha[(before[t] > 0)] = 0
        inside = alpha > 0.5
        if inside.any():
            ring = cv2.dilate(inside.view(np.uint8), np.ones((31, 31), np.uint8)) > 0
            gain = (frames[t][ring & ~inside].mean() + 40) / (seen[inside].mean() + 40)
            seen *= np.clip(gain, 0.7, 1.4)
        alpha = cv2.GaussianBlur(alpha, (0, 0), 1.6)[..., None]
        frames[t] = (frames[t] * (1 - alpha) + seen * alpha).clip(0, 255).astype(np.uint8)
        ids[t][inside] = new
    counts = np.bincount(ids.ravel(), minlength=256)
    kept = counts[1:new] >= 0.5 * np.bincount(before.ravel(), minlength=256)[1:new]
    if kept.all() and counts[new] >= 0.006 * ids.size:
        return new
    return 0


def filmed(frames: np.ndarray, ids: np.ndarray, rng: np.random.Generator) -> None:
    "The camera moves, and its pictures are blurred and compressed; in place."
    T, H, W = ids.shape
    size = rng.uniform(0.8, 1, 2)  # share of the frame at the start and at the end
    start, end = rng.uniform(0, 1, (2, 2))
    blur, quality = rng.uniform(0.3, 1.5), int(rng.integers(35, 75))
    for t in range(T):
        at = t / max(T - 1, 1)
        share = size[0] + (size[1] - size[0]) * at
        corner = (start + (end - start) * at) * (1 - share) * (W, H)
        move = np.array([[1 / share, 0, -corner[0] / share], [0, 1 / share, -corner[1] / share]])
        ids[t] = cv2.warpAffine(ids[t], move, (W, H), flags=cv2.INTER_NEAREST)
        image = cv2.GaussianBlur(cv2.warpAffine(frames[t], move, (W, H)), (0, 0), blur)
        packed = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        frames[t] = cv2.imdecode(packed, cv2.IMREAD_COLOR)


def composed(
    annotations, pairs: list, pair: tuple, number: int
) -> tuple[np.ndarray, np.ndarray, list] | None:
    "(frames, ids, expressions) of the second recipe; None where it shows too little."
    host, guest, o = pair
    rng, draw = np.random.default_rng([77, number]), random.Random(f"second {number}")
    some = dict(n=FRAMES, frame_stride=STRIDE, size=None, rng=draw)
    frames, ids = _some_frames(annotations[host], **some)
    said = []
    wanted = [(guest, o)]
    if rng.random() < 0.5:
        more = [(g, k) for h, g, k in pairs if h == host and g != guest]
        from_guest = {g for h, g, _ in pairs if h == guest}
        wanted += [p for p in draw.sample(more, len(more)) if p[0] in from_guest][:1]
    for video, k in wanted:
        record = annotations[video]
        colours, masks = _some_frames(record, **some)
        n = min(len(frames), len(colours))
        frames, ids = frames[:n].copy(), ids[:n].copy()
        new = laid_in(frames, ids, (colours[:n], masks[:n] == k), rng)
        if not new:
            return None
        said += [s._replace(object_id=new) for s in _lasting(record)[k]]
    filmed(frames, ids, rng)
    shown = np.bincount(ids.ravel(), minlength=256)
    own = _about_host(annotations[host], PastedClip(frames, ids, 0, False))
    said = [s for s in own if s.object_id not in {x.object_id for x in said}] + said
    if len(_by_object(said)) < 2 or min(shown[o] for o in _by_object(said)) < 0.004 * ids.size:
        return None
    return frames, ids, said


def second_recipe(davis: Path, root: Path) -> Path:
    "The clips of the second recipe, made once."
    if (root / "done.json").exists():
        return root
    annotations, rows, names = load_annotations(davis, "val"), [], []
    pairs = host_guest_pairs(annotations)
    order = random.Random("second").sample(pairs, len(pairs)) * 10
    for number, pair in enumerate(order):
        if len(names) == CLIPS:
            break
        if made := composed(annotations, pairs, pair, number):
            names.append(f"second-{number:04d}")
            write_clip(root / "DAVIS", names[-1], *made[:2])
            rows += [(names[-1], s.object_id, s.annotator, "composed", s.text) for s in made[2]]
    write_texts(root, rows)
    listed = root / "DAVIS/ImageSets/2017"
    for split in ("train", "val"):
        write_text(listed / f"{split}.txt", "".join(f"{v}\n" for v in names))
    write_text(root / "done.json", json.dumps(dict(clips=names)))
    return root


def listening(segmenter: RVOSSegmenter, record: VideoRecord) -> list[dict]:
    "A row an expression: J of the named object, mean J of the others, whether the named one wins."
    objects = sorted({e.object_ids for e in record.expressions})
    frames = []  # of each the J of every expression's mask with every object
    for t, found in enumerate(predictions_of(segmenter, record)):
        truths = [record.masks.mask(t, ids) for ids in objects]
        frames.append([[region_similarity(m, g) for g in truths] for m in found.masks])
    rows = []
    for J, e in zip(np.mean(frames, 0), record.expressions):
        own = objects.index(e.object_ids)
        others = np.delete(J, own)
        rows.append(dict(named=J[own], other=others.mean(), wins=J[own] > others.max()))
    return rows


def main() -> None:
    "Score the runs that the command line names."
    p = argparse.ArgumentParser()
    p.add_argument("runs", nargs="+", type=Path)
    p.add_argument("--threads", type=int, default=1)
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    davis, root = Path(named(DAVIS)), cache_dir() / "recipes"
    with lock(root):
        how = dict(train=2, val=CLIPS, frames=FRAMES, frame_stride=STRIDE, seed=0)
        recipes = {"first": copy_paste_splits(davis, root / "first", **how)}
        recipes["second"] = second_recipe(davis, root / "second")
    for run in args.runs:
        for recipe, data in recipes.items():
            key = dict(run=run.name, recipe=recipe)
            if is_done(PATH, **key):
                continue
            segmenter = load_segmenter(run / "last.pth", device="cpu")
            records = load_annotations(data, "val").values()
            found = pd.DataFrame([row for r in records for row in listening(segmenter, r)])
            row = key | dict(expressions=len(found)) | found.astype(float).mean().to_dict()
            append(PATH, row)
            print(pd.DataFrame([row]).round(3).to_string(index=False), flush=True)


if __name__ == "__main__":
    main()
