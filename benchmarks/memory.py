"""What memory and a second look bring: memory.csv, one row a (run, data, looks, memory).

Each frame is answered once by the model, or twice (`looks`): the second time closer, with frames
1.25 times larger, at objects that seem to fill less than 6 % of the frame, from further away, with
frames 0.8 times as large, at others; the answer is the mean. Each memory then changes the same
logits:

- `none`: each frame by itself.
- `features`: 28_memory, affinity readout in the manner of STM and Cutie: cells of every fifth
  earlier frame (six at most) and of the last one say what similar cells were.
- `query`: query propagation in the manner of OnlineRefer, without training: the mean feature of the
  object minus that of the rest, over all frames, looks for the object in each frame.
- `tracks`: mask pieces linked into tracks by overlap and feature similarity; tracks whose evidence,
  summed over the frames, is below 0.8 of the best track's are taken out.
- `target, online` and `target, offline`: 27_target, fitted to the frames so far, or to all.
- `target and features`: the target model offline, then the feature memory: the preset `best`.

`J` and `F` are those of the named object, `other` is J with the other objects that are named in the
clip, `wins` how often the named one has the highest J. The measures of 66_over_time: `decay` of J,
`stability`, `switches` in 100 frames, `recovery` after an occlusion.

    RVOS_DAVIS=... RVOS_COCO=... python benchmarks/memory.py RUN [RUN ...] --data videos
    python benchmarks/memory.py [RUN] --data shapes

`--data videos` takes val videos, composed clips of both recipes of recipes.py and val images,
`--data shapes` talking shapes of another seed: expressions about looks, as the demo's run (the
one that is taken without RUN) knows them, and of all kinds, where shapes look alike, hide each
other, leave and return; the rows `all-kinds` are of a run with the flags of all_kinds_on_shapes.py.
With `--fold`, RUN is one that images.py trained without that fold, and the fold's videos, composed
clips and images are scored: the choices were made there.
"""

import argparse
import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from _common import DAVIS, HERE, append, is_done, named
from folds import fold_data
from images import COCO, fold_images, image_sets
from recipes import CLIPS, FRAMES, STRIDE, second_recipe
from torch import Tensor

from rvos_nb.claims import read_expression
from rvos_nb.copy_paste import copy_paste_splits
from rvos_nb.data import VideoRecord
from rvos_nb.datasets import load_annotations
from rvos_nb.fit import demo_run
from rvos_nb.memory import FeatureMemory
from rvos_nb.metrics import jf, region_similarity
from rvos_nb.over_time import decay, identity_switches, recovery, temporal_stability
from rvos_nb.parts import resize
from rvos_nb.runtime import cache_dir, lock
from rvos_nb.segmenter import RVOSSegmenter, load_segmenter
from rvos_nb.shapes import shapes_data
from rvos_nb.target import TargetModel, video_cells
from rvos_nb.video import open_video
from rvos_nb.windows import _windows, tokenise

PATH = HERE / "memory.csv"
WEIGHT = 0.4  # of the target model: the preset's


def added(logits: Tensor, scores: Tensor) -> Tensor:
    "Logits [N,T,H,W] and scores [N,T,h,w] of cells, summed."
    return logits + resize(scores, logits.shape[-2:])


def target_memory(logits: Tensor, cells: Tensor, online: bool = False) -> Tensor:
    "The target model, as 49_windows uses it."
    target, found = TargetModel(), []
    if not online:
        target.add(cells, logits)
    for t in range(len(cells)):
        if online:
            target.add(cells[t : t + 1], logits[:, t : t + 1])
        found.append(target.scores(cells[t : t + 1]))
    return added(logits, WEIGHT * torch.cat(found, 1))


def at_cells(logits: Tensor, cells: Tensor) -> Tensor:
    "Logits [N,T,H,W] averaged over the cells: [N,T,h,w]."
    return F.interpolate(logits, cells.shape[-2:], mode="area")


def feature_memory(logits: Tensor, cells: Tensor) -> Tensor:
    "The feature memory, as 49_windows uses it."
    memory, found = FeatureMemory(), []
    for t in range(len(cells)):
        found.append(memory.read(cells[t : t + 1], logits[:, t : t + 1]))
    return torch.cat(found, 1)


def query_memory(logits: Tensor, cells: Tensor) -> Tensor:
    "The object's mean feature minus that of the rest, as a query for each frame."
    now = at_cells(logits, cells)
    groups = [torch.where(now > 0, now.sigmoid(), 0), (now <= 0).float()]
    weights = [g.sum((1, 2, 3))[:, None].clamp(min=1e-3) for g in groups]
    own, rest = (torch.einsum("nthw,tchw->nc", g, cells) / w for g, w in zip(groups, weights))
    query, middle = own - rest, (own + rest) / 2
    scores = torch.einsum("nc,tchw->nthw", query, cells)
    scores = scores - (query * middle).sum(1)[:, None, None, None]
    return added(logits, 6 * scores * (weights[0] > 1)[..., None, None])


def pieces(logits: np.ndarray) -> list[np.ndarray]:
    "Connected parts [h,w] above -1 of at least 12 pixels."
    n, label, stats, _ = cv2.connectedComponentsWithStats((logits > -1).astype(np.uint8))
    return [label == k for k in range(1, n) if stats[k, cv2.CC_STAT_AREA] >= 12]


def linked(logits: np.ndarray, features: np.ndarray) -> list[dict]:
    "The pieces of logits [T,h,w] as tracks: where each is, and its evidence."
    tracks = []
    for t, found in enumerate(map(pieces, logits)):
        looks = [features[t][:, m].mean(1) for m in found]
        looks = [x / np.linalg.norm(x) for x in looks]
        pairs = []
        for i, m in enumerate(found):
            for k, track in enumerate(tracks):
                overlap = region_similarity(m, track["mask"]) * 0.9 ** (t - track["last"] - 1)
                pairs.append((overlap + max(looks[i] @ track["look"], 0), i, k))
        taken = {}
        for score, i, k in sorted(pairs, reverse=True):
            if score > 0.6 and i not in taken and k not in taken.values():
                taken[i] = k
        for i, m in enumerate(found):
            if i not in taken:
                taken[i] = len(tracks)
                tracks.append(dict(look=looks[i], places=[], evidence=0.0))
            track = tracks[taken[i]]
            look = 0.8 * track["look"] + 0.2 * looks[i]
            track |= dict(mask=m, last=t, look=look / np.linalg.norm(look))
            track["places"].append((t, m))
            track["evidence"] += max(logits[t][m].max(), 0)
    return tracks


def track_memory(logits: Tensor, cells: Tensor) -> Tensor:
    "Only pieces of tracks with much evidence stay."
    features = resize(cells - cells.mean((0, 2, 3), keepdim=True), logits.shape[-2:]).numpy()
    out = logits.numpy().copy()
    for own in out:
        tracks = linked(own, features)
        most = max((track["evidence"] for track in tracks), default=0)
        for track in tracks:
            if track["evidence"] < 0.8 * most:
                for t, m in track["places"]:
                    own[t][m] = -np.abs(own[t][m])
    return torch.from_numpy(out)


BOTH = "target and features"
MEMORIES = {
    "none": lambda logits, cells: logits,
    "features": feature_memory,
    "query": query_memory,
    "tracks": track_memory,
    "target, online": lambda *known: target_memory(*known, online=True),
    "target, offline": target_memory,
    BOTH: lambda logits, c: feature_memory(target_memory(logits, c), c),
}
SMALL, CLOSER, FURTHER = 0.06, 1.25, 0.8  # share of the frame, scales
WAYS = [*((1, memory) for memory in MEMORIES), (2, "none"), (2, BOTH)]  # looks, memory


def look(segmenter: RVOSSegmenter, record: VideoRecord, texts: list, scale: float = 1) -> tuple:
    "(logits [N,T,h,w], cells [T,C,h,w]) of a video whose frames are seen so many times larger."
    runner, model, video = segmenter.runner, segmenter.model, open_video(record.frames)
    text, mask = runner.encode_text(tokenise(model.tokenizer, texts))
    cfg = model.cfg
    size = tuple(32 * round(scale * n / 32) for n in cfg.image_size)
    model.cfg = dataclasses.replace(cfg, image_size=size)
    parts = [(maps, logits) for _, maps, logits in _windows(runner, video, text, mask)]
    model.cfg = cfg
    cells = torch.cat([video_cells(m) for maps, _ in parts for m in maps])
    return torch.cat([logits for _, logits in parts], 1), cells


@torch.inference_mode()
def answered(segmenter: RVOSSegmenter, record: VideoRecord, texts: list[str], looks: set) -> dict:
    "{looks: (logits, cells)} of a video; cells are those of the closest look."
    logits, cells = look(segmenter, record, texts)
    found = {1: (logits, cells)}
    if 2 not in looks:
        return found
    areas = (logits > 0).float().mean((2, 3))  # [N,T]
    small = areas.sum(1) / (areas > 0).sum(1).clamp(min=1) < SMALL
    groups = [(s, g) for s, g in ((FURTHER, ~small), (CLOSER, small)) if g.any()]
    for scale, group in groups:  # the closer look comes last and is the finest
        again, fine = look(segmenter, record, [t for t, g in zip(texts, group) if g], scale)
        size = max(logits.shape[-2:], again.shape[-2:])
        logits = resize(logits, size).clone()  # the first look stays
        logits[group] = (logits[group] + resize(again, size)) / 2
        cells = fine if scale == CLOSER else cells
    return found | {2: (logits, cells)}


def rows_of(record: VideoRecord, texts: list, masks: np.ndarray, stability: np.ndarray) -> list:
    "A row an expression of one object, from masks [N,T,H,W] of the texts at the video's size."
    labelled = [t for t in range(len(record.frames)) if record.masks.labelled(t)]
    single = [e for e in record.expressions if e.object_ids and len(e.object_ids) == 1]
    if not single:
        return []
    objects = list(dict.fromkeys(e.object_ids for e in single))
    truth = np.stack([[record.masks.mask(t, ids) for t in labelled] for ids in objects])
    void = [record.masks.void(t) for t in labelled]
    rows = []
    for e in single:
        n, own = texts.index(e.text), objects.index(e.object_ids)
        m = masks[n, labelled]
        J = np.stack([region_similarity(m, g) for g in truth])  # [K,T]
        F = [jf(g, x, v)[1] for g, x, v in zip(truth[own], m, void)]
        row = dict(J=J[own].mean(), F=np.mean(F))
        if len(objects) > 1:
            others = np.delete(J, own, 0).mean(1)
            row |= dict(other=others.mean(), wins=float(J[own].mean() > others.max()))
        if len(labelled) > 1:
            row |= dict(decay=decay(J[own]), stability=stability[n], switches=identity_switches(J))
            row |= dict(recovery=recovery(J[own], truth[own].any((1, 2))))
        rows.append(row)
    return rows


def scored(segmenter: RVOSSegmenter, root: Path, ways: list[tuple]) -> dict[tuple, dict]:
    "The means over the expressions of a val split, for each of the `ways` (looks, memory)."
    rows, looks = {way: [] for way in ways}, {n for n, _ in ways}
    for record in load_annotations(root, "val").values():
        texts = list(dict.fromkeys(e.text for e in record.expressions))
        lone = [read_expression(text).count == 1 for text in texts]
        answers = answered(segmenter, record, texts, looks)
        size = record.masks.size
        seen = segmenter.runner.view_size(size)
        images = np.stack([cv2.resize(i, seen[::-1]) for i in open_video(record.frames)])
        found = []  # in each of the ways the finished logits [N,T,h,w]
        for n, memory in ways:
            parts = MEMORIES[memory](*answers[n]).split(1, 1)  # frame by frame
            found.append(np.concatenate([segmenter.runner.finish(x, size, lone) for x in parts], 1))
        stability = temporal_stability(images, np.stack(found) > 0)  # the flow is the same for all
        for way, x, stable in zip(ways, found, stability):
            masks = (resize(torch.from_numpy(x), size) > 0).numpy()
            rows[way] += rows_of(record, texts, masks, stable)
    frames = {way: pd.DataFrame(r) for way, r in rows.items()}
    return {
        w: dict(expressions=len(f)) | f.astype(float).mean().to_dict() for w, f in frames.items()
    }


def sets_of(args) -> dict[str, Path]:
    "The data that are scored, by name."
    if args.data == "shapes":
        kinds = {"shapes, another seed": "attribute", "shapes of all kinds, another seed": "all"}
        return {k: shapes_data(split_kind=v, seed=2026, n_train=1) for k, v in kinds.items()}
    coco, davis, root = Path(named(COCO)), Path(named(DAVIS)), cache_dir() / "images"
    if args.fold is not None:
        coco, davis = fold_images(coco, args.fold), fold_data(davis, args.fold)
        root /= f"fold{args.fold}"
        sets = {
            "videos": davis,
            "composed": root / "copy-paste",
            "images": image_sets(coco, root)[1],
        }
        return {f"fold {args.fold}, {name}": data for name, data in sets.items()}
    recipes = cache_dir() / "recipes"
    with lock(recipes):
        how = dict(train=2, val=CLIPS, frames=FRAMES, frame_stride=STRIDE, seed=0)
        sets = {"val videos": davis, "composed": copy_paste_splits(davis, recipes / "first", **how)}
        sets["composed, second recipe"] = second_recipe(davis, recipes / "second")
    return sets | {"val images": image_sets(coco, root)[1]}


def main() -> None:
    "Score what the command line names."
    p = argparse.ArgumentParser()
    p.add_argument("runs", nargs="*", type=Path)
    p.add_argument("--data", choices=["videos", "shapes"], default="videos")
    p.add_argument("--fold", type=int)
    p.add_argument("--memories", nargs="+", choices=list(MEMORIES), default=list(MEMORIES))
    p.add_argument("--threads", type=int, default=1)
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    sets = sets_of(args)
    for run in args.runs or [demo_run()]:
        name = run.name if args.runs else "demo"
        segmenter = load_segmenter(run / "last.pth" if args.runs else run, device="cpu")
        for data, root in sets.items():
            key = dict(run=name, data=data)
            ways = [
                (n, memory)
                for n, memory in WAYS
                if memory in args.memories and not is_done(PATH, **key, looks=n, memory=memory)
            ]
            if not ways:
                continue
            found = scored(segmenter, root, ways)
            rows = [key | dict(looks=n, memory=m) | row for (n, m), row in found.items()]
            for row in rows:
                append(PATH, row)
            print(pd.DataFrame(rows).round(3).to_string(index=False), flush=True)


if __name__ == "__main__":
    main()
