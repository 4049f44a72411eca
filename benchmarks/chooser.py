"""Does the chooser name the right one of the true tracks? Writes chooser.csv: mean and spread of
two seeds, with chance beside. Trains what is not there yet under RVOS_HOME: on talking shapes of
all kinds a model and a matcher, on DAVIS the preset `best`.

Scored on clips that no training saw: talking shapes (val clips, and 40 of another seed), and 36
copy-paste clips of the val videos. In rows of kind `absent` the named track is taken away, and the
right answer is none; not for places and sizes, since of two stars one is always leftmost.

    RVOS_DAVIS=... RVOS_BACKBONE_WEIGHTS=... RVOS_TEXT_ENCODER=... \\
        python benchmarks/chooser.py [--data shapes composed]
"""

import argparse
import shlex
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from _common import BACKBONE, DAVIS, TEXT, named, train

from rvos_nb.chooser import Chooser
from rvos_nb.claims import Reading
from rvos_nb.copy_paste import COPY_PASTE, copy_paste_splits
from rvos_nb.data import VideoRecord
from rvos_nb.pictures import read_picture
from rvos_nb.datasets import load_annotations
from rvos_nb.matcher import TrackMatcher
from rvos_nb.runtime import cache_dir
from rvos_nb.segmenter import load_segmenter
from rvos_nb.shapes import shapes_data
from rvos_nb.video import open_video

SEEDS = (0, 1)
FLAGS = {
    "shapes": shlex.split(
        "--split-kind all --shapes-clips 1000 --contrastive-weight 1 --expressions-per-clip 3 "
        "--batch-size 18 --bidirectional-attention --decoder dynamic --fuse-strides 8 16 "
        "--hidden-dim 48 --heads 4 --temporal correlation --clip-len 2 --image-epochs 0.5 "
        "--lr 1e-3 --epochs 12 --epoch-size 5400 --val-every 12 --max-minutes 0 --device cpu"
    ),
    "composed": [
        *("--preset", "best", "--data", f"${DAVIS}", "--backbone-weights", f"${BACKBONE}"),
        *("--text-encoder", f"${TEXT}", "--device", "cpu"),
    ],
}
WAYS = {  # name: (the noun's evidence, are claims read?)
    "geometry": (None, True),
    "logits": ("logits", False),
    "logits + geometry": ("logits", True),
    "matcher": ("scores", False),
    "matcher + geometry": ("scores", True),
}


def trained(data: str, seed: int) -> Path:
    "The last weights of a run, trained now if it is not there."
    run = cache_dir() / "chooser" / f"{data}{seed}"
    if not (run / "last.pth").exists():
        train([*FLAGS[data], "--seed", str(seed)], run, cache_dir())
    return run / "last.pth"


def chooser_of(texts: list[str], claims: bool) -> Chooser:
    "A chooser that reads claims, or one that asks a model about the whole expressions."
    chooser = Chooser(texts)
    if not claims:
        chooser.readings = [Reading(text.lower()) for text in texts]
        chooser.asked = list(dict.fromkeys([*(r.noun for r in chooser.readings), "the object"]))
    return chooser


def answers(record: VideoRecord, segmenter, matcher, ways: dict) -> Iterator[tuple]:
    "(way, expression, the named track is there, the right answer was given)."
    rng = np.random.default_rng(len(record.id))
    objects = [int(o) for o in rng.permutation(record.object_ids())]  # no order to lean on
    expressions = [e for e in record.expressions if e.object_ids]
    texts = [e.text for e in expressions]
    choosers = {}  # (way, track that is left out)
    for way, (_, claims) in ways.items():
        for without in (None, *range(len(objects))):
            choosers[way, without] = chooser_of(texts, claims)
    asked = sorted({text for chooser in choosers.values() for text in chooser.asked})
    vectors = None if matcher is None else matcher.vectors(asked)
    for t, found in enumerate(segmenter.stream(open_video(record.frames), asked)):
        masks = np.stack([record.masks.mask(t, (o,)) for o in objects])
        given = {"logits": found.logits}
        if matcher is not None:
            given["scores"] = matcher.score(read_picture(record.frames[t]), masks, vectors)
        for (way, without), chooser in choosers.items():
            kept = [k for k in range(len(objects)) if k != without]
            rows = [asked.index(text) for text in chooser.asked]
            evidence = {}
            if ways[way][0] == "logits":
                evidence["logits"] = given["logits"][rows]
            elif ways[way][0] == "scores":
                evidence["scores"] = given["scores"][rows][:, kept]
            chooser.add(masks[kept], **evidence)
    for (way, without), chooser in choosers.items():
        for e, choice in zip(expressions, chooser.choose()):
            named_track = objects.index(e.object_ids[0])
            if without is None:
                yield way, e, True, choice.tracks == (named_track,)
            elif without == named_track and ways[way][0] and e.kind in ("attribute", COPY_PASTE):
                yield way, e, False, choice.tracks == ()


def score(name: str, root: Path, segmenter, matcher) -> pd.DataFrame:
    "Rows (data, evidence, kind): expressions, chance, share that is right."
    ways = {w: v for w, v in WAYS.items() if matcher is not None or v[0] != "scores"}
    right, chance = defaultdict(list), defaultdict(list)
    for record in load_annotations(root, "val").values():
        for way, e, there, correct in answers(record, segmenter, matcher, ways):
            for kind in (e.kind, "all") if there else ("absent",):
                right[way, kind].append(correct)
                chance[way, kind].append(1 / len(record.object_ids()) if there else 0)
    rows = []
    for (way, kind), values in right.items():
        row = {"data": name, "evidence": way, "kind": kind, "expressions": len(values)}
        rows.append(row | {"chance": np.mean(chance[way, kind]), "right": np.mean(values)})
    return pd.DataFrame(rows)


def shapes(seed: int) -> pd.DataFrame:
    "Scores on talking shapes."
    segmenter = load_segmenter(trained("shapes", seed), device="cpu")
    torch.manual_seed(seed)
    matcher = TrackMatcher(segmenter.model)
    root = shapes_data(split_kind="all", n_train=1000)
    matcher.fit(load_annotations(root, "train"), seed=seed)
    other = shapes_data(split_kind="all", seed=2026, n_train=1)
    names = {"shapes, val": root, "shapes, another seed": other}
    return pd.concat([score(n, r, segmenter, matcher) for n, r in names.items()])


def composed(seed: int) -> pd.DataFrame:
    "Scores on copy-paste clips of DAVIS's val videos."
    segmenter = load_segmenter(trained("composed", seed), device="cpu", all_pieces=True)
    root = cache_dir() / "chooser" / "copy-paste"
    copy_paste_splits(named(DAVIS), root, train=2, val=36, seed=0)
    return score("composed, val", root, segmenter, None)


def main() -> None:
    "Score both seeds, write the table."
    p = argparse.ArgumentParser()
    p.add_argument("--data", nargs="+", default=["shapes", "composed"])
    args = p.parse_args()
    torch.set_num_threads(1)
    measure = {"shapes": shapes, "composed": composed}
    tables = [measure[d](seed).assign(seed=seed) for d in args.data for seed in SEEDS]
    keys = ["data", "evidence", "kind", "expressions", "chance"]
    wide = pd.concat(tables).pivot_table("right", keys, "seed", sort=False)
    wide.columns = [f"seed {seed}" for seed in wide.columns]
    wide.insert(0, "spread", (wide.max(axis=1) - wide.min(axis=1)) / 2)
    wide.insert(0, "right", wide.drop(columns="spread").mean(axis=1))
    path = Path(__file__).with_suffix(".csv")
    done = wide.reset_index()
    if path.exists():
        old = pd.read_csv(path)
        done = pd.concat([old[~old.data.isin(done.data)], done])
    done.to_csv(path, index=False, float_format="%.4f")
    print(done.round(3).to_string(index=False))


if __name__ == "__main__":
    main()
