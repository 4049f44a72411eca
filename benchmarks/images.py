"""What labelled images bring to the preset `best`: appends to images.csv, one row a
(row, seed, size).

`without` is the preset on the videos alone; `with images` draws half of its clips from COCO's
training images (`rvos data images`: 800 windows of one frame, and the images as they are). The last
weights are scored on the val videos, on copy-paste clips of them (the named object, and the other
one's expression), and on COCO's validation images as they are,
with made expressions. There `J` is that of expressions of one object, by kind too; `swapped` is
what the mask of another object's expression scores; `own_wins` is the share of masks that fit their
own object better than any other named one; `none_right` is the share of expressions of nothing
that mark less than a thousandth of the image. `wide recipe` draws its copy-paste clips by the
recipe of _wide_recipe.py.

    RVOS_DAVIS=... RVOS_COCO=... RVOS_BACKBONE_WEIGHTS=... RVOS_TEXT_ENCODER=... \\
        python benchmarks/images.py [--rows ROW ...] [--seeds 0 1 2] [--size 256 448] [--fold 0]

With `--fold`, choices can be made without a look at val videos and val images: every third training
video and training image is held out, the rest trains, and what is held out is scored.
"""

import argparse
import json
import re
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from _common import HERE, NO_MEMORY, append, is_done, named, real_parts, train_here
from folds import FOLDS, fold_data, mean_J
from _wide_recipe import wide_clips

from rvos_nb.checkpoints import load_best
from rvos_nb.config import Config
from rvos_nb import sources
from rvos_nb.copy_paste import copy_paste_clips, copy_paste_splits
from rvos_nb.data import VideoRecord, other_expression
from rvos_nb.datasets import load_annotations
from rvos_nb.metrics import region_similarity
from rvos_nb.predictions import predictions_of
from rvos_nb.pseudo_video import images_data
from rvos_nb.runtime import cache_dir, lock, write_text
from rvos_nb.segmenter import RVOSSegmenter

COCO = "RVOS_COCO"  # a folder with images/ and annotations/instances_{train,val}.json
NEGLIGIBLE = 1e-3  # share of the image
HALF, THIRD = (1, 0.7, 0.3), (2, 0.7, 0.3)
ROWS = {  # shares of videos, windows and whole images; and knobs
    "without": ((), {}),
    "with images": (HALF, {}),
    "with images and presence": (HALF, dict(presence=True, presence_weight=1)),
    "with images, 2 x clips": (HALF, dict(epoch_size=1600)),
    "with images, 4 x clips": (HALF, dict(epoch_size=3200)),
    "a third images, 2 x clips": (THIRD, dict(epoch_size=1600)),
    "wide recipe, 2 x clips": (
        HALF,
        dict(epoch_size=1600, copy_paste_clips=960, copy_paste_frames=1),
    ),
}


def fold_images(coco: Path, fold: int) -> Path:
    "The training images of `coco` as data of their own; every third one is its val split."
    root = cache_dir() / "images" / f"fold{fold}" / "coco"
    whole = json.loads((coco / "annotations/instances_train.json").read_text())
    with lock(root):
        for split in ("train", "val"):
            held_out = {i["id"] for i in whole["images"][fold::FOLDS]}
            part = dict(whole)
            for key, name in (("images", "id"), ("annotations", "image_id")):
                part[key] = [x for x in whole[key] if (x[name] in held_out) == (split == "val")]
            write_text(root / f"annotations/instances_{split}.json", json.dumps(part))
            pictures = root / "images" / split
            pictures.parent.mkdir(exist_ok=True)
            if not pictures.exists():
                pictures.symlink_to(coco.absolute() / "images/train")
    return root


def image_sets(coco: Path, root: Path) -> tuple[Path, Path]:
    "Windows that move over the images of `coco`, and the images as they are; made once."
    with lock(root):
        windows = images_data(coco, root / "windows", clips=800, val_clips=20, frames=1)
        return windows, images_data(coco, root / "plain", clips=10**6, val_clips=10**6, plain=True)


def image_rows(segmenter: RVOSSegmenter, record: VideoRecord) -> list[dict]:
    "A row an expression about an image: J, J of the swapped one, whether the own object wins."
    masks = next(iter(predictions_of(segmenter, record))).masks  # [N,H,W]
    single = [i for i, e in enumerate(record.expressions) if len(e.object_ids) == 1]
    truths = {record.expressions[i].object_ids: None for i in single}
    truths = {ids: record.masks.mask(0, ids) for ids in truths}
    alone = VideoRecord(record.id, [], None, [record.expressions[i] for i in single])
    rows = []
    for i, e in enumerate(record.expressions):
        row = {"kind": e.kind, "J": region_similarity(masks[i], record.masks.mask(0, e.object_ids))}
        if e.object_ids == ():
            row = {"kind": "none", "right": masks[i].mean() < NEGLIGIBLE}
        elif i in single and len(truths) > 1:
            k = single[other_expression(alone, single.index(i))]
            row["swapped"] = region_similarity(masks[k], truths[e.object_ids])
            rest = [
                region_similarity(masks[i], truth)
                for ids, truth in truths.items()
                if ids != e.object_ids
            ]
            row["wins"] = float(row["J"] > max(rest))
        rows.append(row)
    return rows


def image_scores(segmenter: RVOSSegmenter, root: Path, split: str = "val") -> dict:
    "The means over all expressions about the images of a split."
    records = load_annotations(root, split).values()
    table = pd.DataFrame([row for record in records for row in image_rows(segmenter, record)])
    one = table[~table.kind.isin(("none", "plural"))]
    pairs = one.dropna(subset=["swapped"])  # images with several named objects
    found = {"images_J": one.J.mean(), "pairs_J": pairs.J.mean()}
    found |= {"pairs_J (swapped)": pairs.swapped.mean(), "own_wins": pairs.wins.mean()}
    by_kind = table[table.kind != "none"].groupby("kind").J.mean()
    found |= {f"J_{kind}": by_kind.get(kind, np.nan) for kind in KINDS}
    return found | {"none_right": table[table.kind == "none"].right.astype(float).mean()}


KINDS = ("category", "place", "size", "colour", "plural")


def trained(row: str, seed: int, size: tuple[int, int], data: Path, sets: tuple) -> Path:
    "The folder of a row's run, trained or gone on with."
    shares, knobs = ROWS[row]
    name = re.sub(r"[^\w.]+", "-", f"{row}-{seed}-{size[0]}-{data.name}")
    out = cache_dir() / "images" / name
    mix = ",".join(f"{root}:{share}" for root, share in zip((data, *sets), shares))
    same = dict(root=str(data), mix=mix, image_size=size, seed=seed, val_every=10_000, out=str(out))
    if row.startswith("wide"):
        sources.copy_paste_clips = partial(wide_clips, images=load_annotations(sets[1], "train"))
    train_here(Config.preset("best", **{**real_parts(), **NO_MEMORY, **same, **knobs}))
    sources.copy_paste_clips = copy_paste_clips
    return out


def main() -> None:
    "Run what the command line names."
    p = argparse.ArgumentParser()
    p.add_argument("--rows", nargs="+", default=["without", "with images"])
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    p.add_argument("--size", type=int, nargs=2, default=(256, 448))
    p.add_argument("--fold", type=int, choices=range(FOLDS))
    p.add_argument("--threads", type=int, default=1)
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    coco, davis = Path(named(COCO)), Path(real_parts()["root"])
    if not (coco / "annotations").is_dir():
        sys.exit(f"{COCO} = {coco}: no annotations/ there; see benchmarks/README.md")
    root = cache_dir() / "images"
    if args.fold is not None:
        coco, davis = fold_images(coco, args.fold), fold_data(davis, args.fold)
        root /= f"fold{args.fold}"
    sets, pasted = image_sets(coco, root), root / "copy-paste"
    held_out = "val" if args.fold is None else f"fold {args.fold}"
    with lock(pasted):
        copy_paste_splits(davis, pasted, train=2, val=20, frames=12, frame_stride=2, seed=0)
    for seed in args.seeds:
        for row in args.rows:
            key = dict(row=row, held_out=held_out, seed=seed, height=args.size[0])
            if is_done(HERE / "images.csv", **key):
                continue
            run = trained(row, seed, tuple(args.size), davis, sets)
            model, _ = load_best(run / "last.pth")
            plain, listening = mean_J(model, davis), mean_J(model, pasted)
            found = {"videos_J": plain["model"]}
            found |= {"pasted_J": listening["model"], "pasted_J (other)": listening["swapped"]}
            found = key | found | image_scores(RVOSSegmenter(model), sets[1])
            append(HERE / "images.csv", found)
            print(pd.DataFrame([found]).T.round(3).to_string(header=False), flush=True)


if __name__ == "__main__":
    main()
