"""Inference: what sharing the visual pass saves, memory over the video's length, the seam.

Writes inference_{sharing,memory,seam}.csv beside this file.

Sharing: 8 expressions in one call and in 8 calls, 16 frames at 480x854, in turn, median of five
rounds; the same masks. The models are untrained, since time does not depend on the weights, with
the small text encoder of the demo.
Memory: `rvos predict` with two expressions on mp4s of 320x192 pixels, each in a process of its
own, peak from /proc (Linux). 2,000 frames kept as an array would be a third of the whole, and
could not hide.
Seam: a run of the report's preset trained on DAVIS (RVOS_RUN names it, RVOS_DAVIS the data), the
first 40 frames of val videos, J between the masks of two window phases. Left out where the two
are not named.

    RVOS_RUN=... RVOS_DAVIS=... python benchmarks/inference.py [memory] [sharing] [seam]
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from _common import NO_MEMORY

from rvos_nb.checkpoints import save_checkpoint
from rvos_nb.config import Config
from rvos_nb.pictures import read_picture
from rvos_nb.datasets import load_annotations
from rvos_nb.draw import write_video
from rvos_nb.metrics import region_similarity
from rvos_nb.model import RVOSModel
from rvos_nb.segmenter import RVOSSegmenter, load_segmenter

TEXTS = [
    "the dog",
    "the man on the left",
    "a black swan",
    "the red car",
    "the woman in white",
    "a goat on the rocks",
    "the leftmost thing",
    "what moves fastest",
]
SMALL = dict(backbone_weights="none", text_encoder="demo-bert", text_weights="none")
ALONE = SMALL | NO_MEMORY
PYRAMID = dict(
    backbone="mobilenet_v2",
    decoder="fpn",
    fuse_strides=(16, 32),
    hidden_dim=64,
    pooling="words",
    temporal="none",
)
MODELS = {
    "best (mobilenet_v2, shared pyramid, 256x448)": Config.preset("best", **ALONE),
    "demo (tiny backbone, FPN, 96x160)": Config.preset("demo"),
    "report (resnet50, x32, conv3d, 160x288)": Config.preset("report", **SMALL),
    "mobilenet_v2, FPN, 160x288": Config.preset("report", **PYRAMID, **SMALL),
}


def moving(n: int, h: int, w: int):
    "A bright square over a gradient, frame by frame, uint8 [h,w,3]."
    y, x = np.mgrid[:h, :w]
    ground = np.stack([x * 150 // w + 20, y * 150 // h + 30, 200 - x * 150 // w], -1)
    ground = ground.astype(np.uint8)
    for t in range(n):
        frame = ground.copy()
        left = 3 * t % (w - w // 5)
        frame[h // 4 : h // 2, left : left + w // 5] = (255, 40, 40)
        yield frame


def sharing_of(name: str, cfg: Config, rounds: int = 5) -> dict:
    "A row of the table."
    torch.manual_seed(0)
    segmenter, video = RVOSSegmenter(RVOSModel(cfg.model), device="cpu"), list(moving(16, 480, 854))
    segmenter.segment(video[:8], TEXTS[0])  # the first call is not counted
    one, eight = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        together = segmenter.segment(video, TEXTS)
        middle = time.perf_counter()
        apart = [segmenter.segment(video, text) for text in TEXTS]
        one.append(middle - start)
        eight.append(time.perf_counter() - middle)
    logits = np.concatenate([a.logits for a in apart])
    masks = np.concatenate([a.masks for a in apart])
    p, q = (1 / (1 + np.exp(-x)) for x in (logits, together.logits))
    return {
        "model": name,
        "8 expressions in one call, s": statistics.median(one),
        "in 8 calls, s": statistics.median(eight),
        "ratio": statistics.median(b / a for a, b in zip(one, eight)),
        "largest difference of probabilities": float(np.abs(p - q).max()),
        "masks differ in pixels": int((masks != together.masks).sum()),
        "of": masks.size,
    }


def sharing() -> pd.DataFrame:
    return pd.DataFrame([sharing_of(name, cfg) for name, cfg in MODELS.items()])


PREDICT = """
import sys, torch
torch.set_num_threads(1)
from rvos_nb.cli import main
run, video, out = sys.argv[1:]
texts = ["the dog", "the man on the left"]
assert main(["predict", "--run", run, video, *texts, "--out", out]) == 0
print("peak", next(l.split()[1] for l in open("/proc/self/status") if l.startswith("VmHWM")))
"""


def memory(lengths=(200, 500, 1000, 2000)) -> pd.DataFrame:
    torch.manual_seed(0)
    cfg, rows = Config.preset("demo", temporal="conv3d"), []
    with tempfile.TemporaryDirectory() as d:
        save_checkpoint(Path(d, "run/best_model.pth"), RVOSModel(cfg.model), cfg)
        for n in lengths:
            write_video(Path(d, f"{n}.mp4"), moving(n, 192, 320))
            command = [sys.executable, "-c", PREDICT, f"{d}/run", f"{d}/{n}.mp4", f"{d}/{n}"]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            peak = int(done.stdout.split("peak")[1]) / 1024
            array = n * 192 * 320 * 3 / 2**20
            rows.append({"frames": n, "peak MB": peak, "frames as array, MB": array})
    table = pd.DataFrame(rows)
    table["against the shortest"] = table["peak MB"] / table["peak MB"][0]
    return table


def seam(videos=("dog", "goat", "dance-twirl"), n: int = 40) -> pd.DataFrame:
    segmenter = load_segmenter(os.environ["RVOS_RUN"], device="cpu")
    annotations, rows = load_annotations(os.environ["RVOS_DAVIS"], "val"), []
    for video in videos:
        frames = [read_picture(f) for f in annotations[video].frames[:n]]
        text = annotations[video].expressions[0].text

        def plain(starts):
            parts = [frames[a:b] for a, b in zip(starts, [*starts[1:], n])]
            return np.concatenate([segmenter.segment(part, text).masks[0] for part in parts])

        def overlapping(window):
            other = RVOSSegmenter(segmenter.model, window, device="cpu")
            return other.segment(frames, text).masks[0]

        follow = region_similarity(plain(range(0, n, 8)), plain([0, *range(4, n, 8)]))
        overlap = region_similarity(overlapping(8), overlapping(5))
        row = {"video": video, "expression": text}
        row |= {"plain windows, mean J": follow.mean(), "least": follow.min()}
        row |= {"with overlap, mean J": overlap.mean(), "least J": overlap.min()}
        rows.append(row)
    return pd.DataFrame(rows)


def main():
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    parts = {"memory": memory, "sharing": sharing, "seam": seam}
    if not {"RVOS_RUN", "RVOS_DAVIS"} <= set(os.environ):
        parts.pop("seam")
    for name in sys.argv[1:] or parts:
        table = parts[name]()
        table.round(4).to_csv(Path(__file__).with_name(f"inference_{name}.csv"), index=False)
        print(table.round(3).to_string(index=False), flush=True)


if __name__ == "__main__":
    main()
