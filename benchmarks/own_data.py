"""How many clips of one's own are worth labelling? Writes own_data.csv, one row a (variant, seed);
rows that are there are kept. The val videos are not looked at.

A model that knows pictures only (RVOS_COCO: class names as expressions) is fine-tuned on a few
videos, as a reader does with clips of his own: `rvos train --init-from`. Of the training videos
every third one is held out (another third for each seed) and scored; the clips to learn from are
drawn from the others, with every fifth frame labelled. A variant says how many clips, how many
expressions a clip (of four that are there) and how many frames a clip are labelled; "from nothing"
has the same clips without the weights to start from.

J is on the held-out videos with their own expressions, "J (copy-paste)" and its swapped control on
clips pasted from them.

    RVOS_DAVIS=... RVOS_COCO=... RVOS_BACKBONE_WEIGHTS=... RVOS_TEXT_ENCODER=... \\
        python benchmarks/own_data.py [--seeds 0 1 2] [--rows 4]
"""

import argparse
import itertools
import json
import random
import time
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from _common import NO_MEMORY, append, is_done, named, real_parts, train, train_here

from rvos_nb.config import Config
from rvos_nb.copy_paste import copy_paste_data
from rvos_nb.data import Annotations
from rvos_nb.datasets import load_annotations
from rvos_nb.evaluation import evaluate
from rvos_nb.runtime import cache_dir, write_text
from rvos_nb.segmenter import load_segmenter
from rvos_nb.sharing import run_settings

COCO = "RVOS_COCO"  # a folder with COCO's images and instances
FOLDS = 3
EVERY = 5  # frames of a video to one that is labelled
BASE = (
    "--preset best --data $RVOS_COCO --backbone mobilenet_v2 --device cpu --epochs 6 "
    "--backbone-weights $RVOS_BACKBONE_WEIGHTS --text-encoder $RVOS_TEXT_ENCODER"
).split()
SHORT = dict(epochs=3, epoch_size=160, copy_paste_clips=40, frame_stride=1, val_every=10_000)
FINE = dict(lr=2e-4)  # a tenth of the preset's


class Variant(NamedTuple):
    "What is labelled."

    clips: int
    expressions: int = 4  # a clip
    frames: int = 12  # a clip
    start: str = "pictures"  # or "nothing"


VARIANTS = [
    Variant(0),
    *(Variant(n) for n in (1, 2, 4, 8)),
    Variant(8, expressions=1),
    Variant(8, frames=3),
    Variant(8, start="nothing"),
]


def held_out(videos: Annotations, seed: int) -> tuple[list[str], list[str]]:
    "(videos to learn from, in the order in which they are labelled; videos to be scored on)."
    names = sorted(videos)
    scored = names[seed % FOLDS :: FOLDS]
    others = [v for v in names if v not in scored]
    random.Random(seed).shuffle(others)
    return others, scored


def write_split(root: Path, split: str, entries: dict) -> None:
    "One split of data in the native layout: its list and its expressions."
    name = {"val": "valid"}.get(split, split)
    meta = json.dumps({"videos": entries})
    write_text(root / "meta_expressions" / name / "meta_expressions.json", meta)
    listed = "".join(f"{v}\n" for v in entries)
    write_text(root / "DAVIS" / "ImageSets" / "2017" / f"{split}.txt", listed)


def own_data(videos: Annotations, variant: Variant, seed: int) -> Path:
    "The labelled clips of a variant as data of their own; its val split is one video, unused."
    root = cache_dir() / "own_data" / f"{'-'.join(map(str, variant[:3]))}-{seed}"
    others, scored = held_out(videos, seed)
    splits = {"train": others[: variant.clips], "val": scored[:1]}
    for split, names in splits.items():
        entries = {}
        for v in names:
            record, rng = videos[v], random.Random(f"{seed} {v}")
            labelled = record.frames[::EVERY]
            step = max(1, len(labelled) // variant.frames)
            frames = labelled[::step][: variant.frames]
            said = rng.sample(record.expressions, len(record.expressions))[: variant.expressions]
            for kind, suffix in (("JPEGImages", ".jpg"), ("Annotations", ".png")):
                place = root / "DAVIS" / kind / "480p" / v
                place.mkdir(parents=True, exist_ok=True)
                for frame in frames:
                    source = videos.root / "DAVIS" / kind / "480p" / v / f"{frame.stem}{suffix}"
                    if not (place / source.name).exists():
                        (place / source.name).symlink_to(source.absolute())
            expressions = {
                str(n): {"exp": e.text, "obj_id": str(e.object_ids[0])} for n, e in enumerate(said)
            }
            entries[v] = {"expressions": expressions, "frames": [f.stem for f in frames]}
        write_split(root, split, entries)
    return root


def scores_of(run: Path, videos: Annotations, seed: int) -> dict[str, float]:
    "J on the held-out videos, and on clips pasted from them J and J (swapped)."
    _, scored = held_out(videos, seed)
    plain = videos.subset(scored)
    pasted = cache_dir() / "own_data" / f"pasted-{seed}"
    copy_paste_data(plain, pasted, 16, frames=4, frame_stride=6, seed=0, progress=False)
    strided = plain.of({v: record.strided(EVERY) for v, record in plain.items()})
    segmenter, found = load_segmenter(run / "last.pth", device="cpu"), {}
    for name, data in {"J": strided, "copy-paste": load_annotations(pasted, "train")}.items():
        table = evaluate(
            data,
            segmenter,
            controls=("swapped",),
            baselines=(),
            protocols=("per_expression",),
        )
        means = table.groupby("source").J.mean()
        if name == "J":
            found["J"] = means["model"]
        else:
            found |= {"J (copy-paste)": means["model"]}
            found |= {"J (copy-paste, swapped)": means["swapped"]}
    return found


def trained(videos: Annotations, variant: Variant, seed: int, base: Path) -> tuple[Path, float]:
    "The run of a variant, and the seconds that it took."
    if not variant.clips:
        return base, 0.0
    run = cache_dir() / "own_data" / f"run-{'-'.join(map(str, variant))}-{seed}"
    if variant.start == "nothing":
        cfg = Config.preset("best", **real_parts(), **NO_MEMORY).replace(**SHORT)
    else:
        cfg = run_settings(base).replace(**SHORT, **FINE)
    root = own_data(videos, variant, seed)
    began = time.monotonic()
    train_here(cfg.replace(root=str(root), seed=seed, out=str(run), device="cpu"))
    return run, time.monotonic() - began


def main() -> None:
    "Run what the command line names."
    p = argparse.ArgumentParser()
    p.add_argument("--seeds", type=int, nargs="+", default=list(range(FOLDS)))
    p.add_argument("--rows", type=int, default=1000)  # at most so many in this call
    args = p.parse_args()
    torch.set_num_threads(1)
    named(COCO)
    path = Path(__file__).with_suffix(".csv")
    videos = load_annotations(named("RVOS_DAVIS"), "train")
    base = cache_dir() / "own_data" / "base"
    if not (base / "curves.png").exists():  # the last file that a run writes
        train([*BASE, "--val-every", "10000"], base, cache_dir())
    missing = [
        (variant, seed)
        for variant, seed in itertools.product(VARIANTS, args.seeds)
        if not is_done(path, **variant._asdict(), seed=seed)
    ]
    for variant, seed in missing[: args.rows]:
        run, seconds = trained(videos, variant, seed, base)
        row = {**variant._asdict(), "seed": seed, "seconds": seconds}
        append(path, row | scores_of(run, videos, seed))
        print(pd.read_csv(path).tail(1).round(3).to_string(index=False), flush=True)


if __name__ == "__main__":
    main()
