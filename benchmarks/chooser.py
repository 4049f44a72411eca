"""Does the chooser name what an expression means, among the true tracks: one, several, none? Writes
chooser.csv: mean and spread of three seeds, with chance beside.

Shapes: talking shapes of all kinds (val clips, and 40 of another seed), and clips whose expressions
name one, several or no object; a seed is that of the matcher, trained on 1000 other clips.
Composed: 36 copy-paste clips of DAVIS's val videos, and 24 in which the guest is pasted twice and
meant in the plural; a seed is that of the clips. In rows of kind `absent` the named track is taken
away, and the right answer is none; not for places and sizes, since of two stars one is always
leftmost. Chance knows how many are meant, and never says none.

    RVOS_DAVIS=... RVOS_BACKBONE_WEIGHTS=... RVOS_TEXT_ENCODER=... \\
        python benchmarks/chooser.py [--data shapes composed] [--ways matcher classes]

`--ways logits` takes a trained segmenter for a judge, seeds 0 and 1, and trains what is not there
yet under RVOS_HOME. `--folds` chooses the matcher of classes' four numbers on copy-paste clips of
the training videos, each third of the videos held out once, and writes chooser_folds.csv.
"""

import argparse
import math
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from _common import BACKBONE, DAVIS, TEXT, named, real_parts, train

from rvos_nb import matcher as matchers
from rvos_nb.chooser import Chooser
from rvos_nb.claims import Reading
from rvos_nb.config import Config
from rvos_nb.copy_paste import COPY_PASTE, copy_paste_data
from rvos_nb.data import Annotations, VideoRecord
from rvos_nb.datasets import load_annotations
from rvos_nb.detectors import head_noun_phrase
from rvos_nb.matcher import ClassMatcher, TrackMatcher
from rvos_nb.model import RVOSModel
from rvos_nb.pictures import read_picture
from rvos_nb.runtime import cache_dir
from rvos_nb.scenes import paste_clip
from rvos_nb.segmenter import load_segmenter
from rvos_nb.shapes import shapes_data
from rvos_nb.video import open_video

COMPOSED = dict(frames=12, frame_stride=2, size=(320, 560))  # clips of copy-paste
AWAY = ("attribute", COPY_PASTE)  # kinds that are false once their object has been taken away
EACH = 3  # a matcher looks at each third frame of them
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


@dataclass
class Clip:
    "Frames, true tracks, and what is said of them."

    frames: list  # paths, or uint8 [H,W,3]
    masks: list[np.ndarray]  # bool [K,H,W]
    said: list[tuple[str, str, frozenset]]  # text, kind, tracks that are meant

    def image(self, t: int) -> np.ndarray:
        frame = self.frames[t]
        return frame if isinstance(frame, np.ndarray) else read_picture(frame)


def clip_of(record: VideoRecord) -> Clip:
    "A record as a clip, its objects in an order that nobody can lean on."
    rng = np.random.default_rng(len(record.id))
    objects = [int(o) for o in rng.permutation(record.object_ids())]
    times = range(len(record.frames))
    masks = [np.stack([record.masks.mask(t, (o,)) for o in objects]) for t in times]
    said = [
        (e.text, e.kind, frozenset(map(objects.index, e.object_ids)))
        for e in record.expressions
        if e.object_ids is not None
    ]
    return Clip(record.frames, masks, said)


# --- composed clips


def plural(noun: str) -> str:
    words = {"man": "men", "woman": "women", "person": "people", "child": "children"}
    words |= {name: name for name in ("sheep", "deer", "fish")}
    return words.get(noun, noun + ("es" if noun.endswith(("s", "x", "ch")) else "s"))


def noun_of(record: VideoRecord) -> str:
    "What most expressions of a video's only object call it: 'dog'."
    heads = [head_noun_phrase(e.text).split()[-1] for e in record.expressions]
    return Counter(heads).most_common(1)[0][0]


def with_twin(record: VideoRecord, videos: Annotations, seed: int) -> Clip | None:
    "A composed clip with its guest pasted once more; None where there is no room."
    guest = videos[record.id.rsplit("-", 1)[0].split("+")[1]]
    n = len(record.frames)
    if len(guest.frames) < n:
        return None
    frames = np.stack([read_picture(path) for path in record.frames])
    ids = np.zeros(frames.shape[:3], np.uint8)
    for o in record.object_ids():
        ids[np.stack([record.masks.mask(t, (o,)) for t in range(n)])] = o
    shown = np.stack([read_picture(path) for path in guest.frames[:n]])
    mask = np.stack([guest.masks.mask(t, tuple(guest.object_ids())) for t in range(n)])
    made = paste_clip(frames, ids, shown, mask, seed=seed)
    if made is None or made.guest_id != 3:
        return None
    masks = [np.stack([i == o for o in (3, 1, 2)]) for i in made.ids]
    noun = plural(noun_of(guest))
    texts = [f"the {noun}", f"the two {noun}", f"both {noun}", f"all {noun}"]
    return Clip(list(made.frames), masks, [(t, "plural", frozenset((0, 2))) for t in texts])


def composed_clips(videos: Annotations, seed: int, n: int = 36, twins: int = 24) -> Iterator[Clip]:
    "Clips of two objects, then of three."
    root = cache_dir() / "chooser" / f"copy-paste-{videos.split}-{len(videos)}-{n}-{seed}"
    records = load_annotations(
        copy_paste_data(videos, root, n, seed=seed, **COMPOSED), videos.split
    )
    yield from map(clip_of, records.values())
    made = (with_twin(r, videos, seed=i) for i, r in enumerate(records.values()))
    yield from (clip for clip, _ in zip(filter(None, made), range(twins)))


# --- answers


def chooser_of(texts: list[str], claims: bool) -> Chooser:
    "A chooser that reads claims, or one that asks a model about the whole expressions."
    chooser = Chooser(texts)
    if not claims:
        chooser.readings = [Reading(text.lower()) for text in texts]
        chooser.asked = list(dict.fromkeys([*(r.noun for r in chooser.readings), "the object"]))
    return chooser


class Judge:
    "Evidence about the tracks of a clip: a matcher's scores, a segmenter's logits, or nothing."

    def __init__(self, matcher=None, segmenter=None, claims: bool = True, each: int = 1):
        self.matcher, self.segmenter, self.claims, self.each = matcher, segmenter, claims, each

    def evidence(self, clip: Clip, asked: list[str]) -> Iterator[dict]:
        "`logits` or `scores` of each frame."
        if self.segmenter is not None:
            for found in self.segmenter.stream(open_video(clip.frames), asked):
                yield {"logits": found.logits}
        elif self.matcher is not None:
            vectors = self.matcher.vectors(asked)
            for t, masks in enumerate(clip.masks):
                looked = t % self.each == 0
                yield (
                    {"scores": self.matcher.score(clip.image(t), masks, vectors)} if looked else {}
                )
        else:
            yield from ({} for _ in clip.masks)

    def choosers(self, clip: Clip) -> dict[frozenset, Chooser]:
        "{tracks that are left out: a chooser that has seen the others}."
        texts = [text for text, _, _ in clip.said]
        away = {meant for _, kind, meant in clip.said if kind in AWAY}
        found = {without: chooser_of(texts, self.claims) for without in {frozenset(), *away}}
        asked = next(iter(found.values())).asked
        for masks, given in zip(clip.masks, self.evidence(clip, asked)):
            for without, chooser in found.items():
                kept = [k for k in range(len(masks)) if k not in without]
                scores = {k: v[:, kept] if k == "scores" else v for k, v in given.items()}
                chooser.add(masks[kept], **scores)
        return found

    def rows(self, clip: Clip, **choose) -> Iterator[dict]:
        "Of each expression: its kind, chance, and whether the answer was right."
        for without, chooser in self.choosers(clip).items():
            kept = [k for k in range(len(clip.masks[0])) if k not in without]
            for (_, kind, meant), choice in zip(clip.said, chooser.choose(**choose)):
                found = {kept[k] for k in choice.tracks}
                if not without:
                    chance = 1 / math.comb(len(kept), len(meant)) if meant else 0
                    yield {"kind": kind, "chance": chance, "right": found == meant}
                elif without == meant and kind in AWAY and (self.matcher or self.segmenter):
                    yield {"kind": "absent", "chance": 0, "right": not found}


def table(name: str, clips: Iterator[Clip], judges: dict[str, Judge]) -> pd.DataFrame:
    "A row a (evidence, kind)."
    rows = [
        {"data": name, "evidence": way, **row}
        for clip in clips
        for way, judge in judges.items()
        for row in judge.rows(clip)
    ]
    found = pd.DataFrame(rows)
    present = found[~found.kind.isin(["absent", "none"])].assign(kind="all")
    groups = pd.concat([found, present]).groupby(["data", "evidence", "kind"], sort=False)
    means = groups.agg(
        expressions=("right", "size"), chance=("chance", "mean"), right=("right", "mean")
    )
    return means.reset_index()


# --- the data


def trained(data: str, seed: int) -> Path:
    "The last weights of a run, trained now if it is not there."
    run = cache_dir() / "chooser" / f"{data}{seed}"
    if not (run / "last.pth").exists():
        train([*FLAGS[data], "--seed", str(seed)], run, cache_dir())
    return run / "last.pth"


def segmenter_judges(data: str, seed: int) -> dict[str, Judge]:
    segmenter = load_segmenter(trained(data, seed), device="cpu")
    cfg = segmenter.model.cfg
    cfg.single_object = False  # a judge looks at the whole map, frame by frame
    cfg.target_weight = cfg.memory_frames = 0
    return {
        "logits": Judge(segmenter=segmenter, claims=False),
        "logits + geometry": Judge(segmenter=segmenter),
    }


def shapes(seed: int, ways: list[str]) -> Iterator[pd.DataFrame]:
    "Scores on talking shapes."
    judges = {"geometry": Judge()} if "geometry" in ways else {}
    if "matcher" in ways:
        torch.manual_seed(seed)
        matcher = TrackMatcher(
            RVOSModel(Config.preset("demo").model)
        )  # its text encoder, untrained
        matcher.fit(load_annotations(shapes_data("generalised", n_train=1000), "train"), seed=seed)
        judges["matcher"] = Judge(matcher, claims=False)
        judges["matcher + geometry"] = Judge(matcher)
    if "logits" in ways and seed < 2:
        judges |= segmenter_judges("shapes", seed)
    sets = {
        "val": ("all", 0),
        "another seed": ("all", 2026),
        "one, several, none": ("generalised", 0),
    }
    for name, (kind, number) in sets.items():
        records = load_annotations(shapes_data(kind, seed=number, n_train=1), "val")
        yield table(f"shapes, {name}", map(clip_of, records.values()), judges)


def class_matcher() -> ClassMatcher:
    return ClassMatcher(RVOSModel(Config.preset("best", **real_parts()).model))


def composed(seed: int, ways: list[str]) -> Iterator[pd.DataFrame]:
    "Scores on copy-paste clips of DAVIS's val videos."
    judges = {"geometry": Judge()} if "geometry" in ways else {}
    if "classes" in ways:
        matcher = class_matcher()
        judges["classes"] = Judge(matcher, claims=False, each=EACH)
        judges["classes + geometry"] = Judge(matcher, each=EACH)
    if "logits" in ways and seed < 2:
        judges |= segmenter_judges("composed", seed)
    clips = composed_clips(load_annotations(named(DAVIS), "val"), seed)
    yield table("composed, val", clips, judges)


def add(table: pd.DataFrame, seed: int) -> None:
    "Put a seed's figures into chooser.csv; other rows and seeds are kept."
    path, keys = Path(__file__).with_suffix(".csv"), ["data", "evidence", "kind"]
    new = table.set_index(keys).rename(columns={"right": f"seed {seed}"})
    old = pd.read_csv(path).set_index(keys) if path.exists() else new.iloc[:0]
    done = new.combine_first(old)
    seeds = done[sorted(c for c in done if c.startswith("seed "))]
    done["right"], done["spread"] = seeds.mean(axis=1), (seeds.max(axis=1) - seeds.min(axis=1)) / 2
    done = done[["expressions", "chance", "right", "spread", *seeds]].sort_index().reset_index()
    done.to_csv(path, index=False, float_format="%.4f")
    print(done[done.data.isin(table.data)].round(3).to_string(index=False), flush=True)


def measure(data: list[str], ways: list[str], seeds: list[int]) -> None:
    "Score, and write after each seed."
    run = {"shapes": shapes, "composed": composed}
    for d in data:
        for seed in seeds:
            add(pd.concat(run[d](seed, ways)), seed)


# --- choices on the training videos

TEMPERATURES, LEAST = (1.0, 2.0, 4.0, 8.0), (0.1, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5)


class Remembered:
    "A matcher of classes that has classified a clip's crops, for many temperatures."

    def __init__(self, matcher: ClassMatcher, clip: Clip):
        self.vectors, self.logits = matcher.vectors, []
        for t in range(0, len(clip.masks), EACH):
            masks = clip.masks[t]
            seen = np.flatnonzero(masks.any((1, 2)))
            found = (
                matcher._classify(clip.image(t), masks[seen]) if len(seen) else torch.zeros(0, 1000)
            )
            self.logits.append((seen, found))
        size = (masks.shape[2] // 4, masks.shape[1] // 4)
        clip.masks = [
            np.stack(
                [cv2.resize(m.astype(np.uint8), size, interpolation=cv2.INTER_AREA) for m in x]
            )
            > 0
            for x in clip.masks
        ]

    def at(self, temperature: float, scale: float, offset: float):
        "The same matcher with other numbers, for `Judge`."
        self.line, self.frames = (temperature, scale, offset), iter(self.logits)
        return self

    def score(self, image, masks, vectors) -> np.ndarray:
        temperature, scale, offset = self.line
        scores = np.zeros((len(vectors), len(masks)))
        seen, logits = next(self.frames)
        ratios = matchers._class_ratio(logits, vectors, temperature)
        known = vectors.any(1)[:, None]
        scores[:, seen] = torch.where(known, scale * ratios + offset, 0.0).numpy()
        return scores


def fit_line(margins: list[tuple[float, bool]]) -> tuple[float, float]:
    "Logistic regression: scale and offset of log-odds that a track is meant."
    x, fits = (torch.tensor(v, dtype=torch.float64) for v in zip(*margins))
    line = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([line], max_iter=100, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        odds = line[0] * x + line[1]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(odds, fits)
        loss.backward()
        return loss

    optimizer.step(closure)
    return line[0].item(), line[1].item()


def margins_of(clip: Clip, seen: Remembered, temperature: float) -> list[tuple[float, bool]]:
    "The mean log ratio of each text and track, and whether the text means the track."
    chooser = Judge(seen.at(temperature, 1.0, 0.0), each=EACH).choosers(clip)[frozenset()]
    found = []
    for reading, (_, _, meant) in zip(chooser.readings, clip.said):
        found += [(v, k in meant) for k, v in enumerate(chooser.evidence(reading))]
    return found


def folds() -> None:
    "Numbers of the matcher of classes, by training videos that each was not fitted to."
    torch.set_num_threads(1)
    videos, matcher, rows = load_annotations(named(DAVIS), "train"), class_matcher(), []
    number = {v: i % 3 for i, v in enumerate(sorted(videos))}
    clips, members = [], []
    for fold in range(3):
        held = videos.of({v: videos[v] for v in videos if number[v] == fold})
        for clip in composed_clips(held, seed=100 + fold, n=24, twins=16):
            clips.append((clip, Remembered(matcher, clip)))
            members.append(fold)
    for temperature in TEMPERATURES:
        margins = [margins_of(clip, seen, temperature) for clip, seen in clips]
        for fold in range(3):
            line = fit_line([m for ms, f in zip(margins, members) if f != fold for m in ms])
            for least in LEAST:
                found = pd.DataFrame(
                    row
                    for (clip, seen), f in zip(clips, members)
                    if f == fold
                    for row in Judge(seen.at(temperature, *line), each=EACH).rows(clip, least=least)
                )
                means = found.groupby("kind").right.mean()
                row = {"temperature": temperature, "least": least, "fold": fold}
                row |= {"scale": line[0], "offset": line[1], "one": means[COPY_PASTE]}
                rows.append(row | {"plural": means["plural"], "none": means["absent"]})
        line = fit_line([m for ms in margins for m in ms])
        print(f"temperature {temperature}: on all folds scale {line[0]:.2f}, offset {line[1]:.2f}")
    done = pd.DataFrame(rows)
    done.to_csv(Path(__file__).with_name("chooser_folds.csv"), index=False, float_format="%.4f")
    means = done.groupby(["temperature", "least"])[["one", "plural", "none"]].mean()
    print(means.assign(mean=means.mean(axis=1)).round(3).to_string())


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("--data", nargs="+", default=["shapes", "composed"])
    p.add_argument("--ways", nargs="+", default=["geometry", "matcher", "classes"])
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    p.add_argument("--folds", action="store_true")
    args = p.parse_args()
    torch.set_num_threads(1)
    folds() if args.folds else measure(args.data, args.ways, args.seeds)


if __name__ == "__main__":
    main()
