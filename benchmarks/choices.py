"""What the notebooks say of speed, as ratios in one run: writes choices.csv, CPU only.

Each pair is timed alternately and the medians are compared. The data are talking shapes at 480p.

    python benchmarks/choices.py
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
import torch.nn.functional as F

from rvos_nb.caches import FrameCache
from rvos_nb.config import Config
from rvos_nb.pictures import read_picture
from rvos_nb.datasets import load_annotations
from rvos_nb.encoders import VisualBackbone
from rvos_nb.loss import RVOSLoss
from rvos_nb.model import RVOSModel
from rvos_nb.runtime import keep_freed_memory
from rvos_nb.shapes import make_shapes


def paired(without, with_, rounds: int = 7) -> tuple[float, float]:
    "Median milliseconds of both, called in turn; the first call of each is not counted."
    times = ([], [])
    for _ in range(rounds + 1):
        for f, t in zip((without, with_), times):
            start = time.perf_counter()
            f()
            t.append(1000 * (time.perf_counter() - start))
    return tuple(statistics.median(t[1:]) for t in times)


def frame_cache() -> tuple[float, float]:
    "A clip with one object's mask: decoded from JPEG and PNG, or read from the cache."
    with tempfile.TemporaryDirectory() as d:
        root = make_shapes(Path(d) / "data", n_train=4, n_val=1, size=(480, 854), progress=False)
        os.environ["RVOS_HOME"] = d
        annotations, size = load_annotations(root, "train"), (192, 320)
        cache, (video, record) = FrameCache(annotations, size), next(iter(annotations.items()))
        t, ids = np.arange(4), record.expressions[0].object_ids

        def decode():
            for i in t:
                cv2.resize(read_picture(record.frames[i]), size[::-1], interpolation=cv2.INTER_AREA)
                record.masks.mask(int(i), ids)

        def read():
            cache.read(video, t)
            cache.masks(video, t, ids)

        return paired(decode, read, rounds=21)


def channels_last() -> tuple[float, float]:
    "A ResNet50 in evaluation mode."
    backbone, x = VisualBackbone("resnet50", "none").eval(), torch.randn(4, 3, 192, 320)
    y = x.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        return paired(lambda: backbone.features(x), lambda: backbone.features(y))


def fused_adamw() -> tuple[float, float]:
    "An optimizer step of the report's model."
    untrained = dict(backbone_weights="none", text_encoder="demo-bert", text_weights="none")
    model = RVOSModel(Config.preset("report", **untrained).model)
    weights = [p.detach().clone().requires_grad_() for p in model.parameters()]
    for p in weights:
        p.grad = torch.ones_like(p)
    steps = [torch.optim.AdamW(weights, foreach=False, fused=f).step for f in (False, True)]
    return paired(*steps)


def loss_terms() -> tuple[float, float]:
    "The three terms as they are written down, each by itself; what they share computed once."
    x = torch.randn(8, 1, 1, 256, 448, requires_grad=True)
    masks = (torch.rand(8, 1, 256, 448) > 0.8).float()
    valid = torch.ones(8, 1, 256, 448, dtype=torch.bool)

    def textbook():
        y, t, v = x[:, :, 0].flatten(1), masks.flatten(1), valid.float().flatten(1)
        ce, again = (F.binary_cross_entropy_with_logits(y, t, reduction="none") for _ in range(2))
        p, pixels = y.sigmoid() * v, v.sum()
        dice = (1 - (2 * (p * t * v).sum(1) + 1) / (p.sum(1) + (t * v).sum(1) + 1)).mean()
        alpha = 0.25 * t + 0.75 * (1 - t)
        focal = (alpha * (1 - torch.exp(-again)) ** 2 * again * v).sum() / pixels
        return 0.3 * (ce * v).sum() / pixels + 0.6 * dice + 0.1 * focal

    def shared():
        return RVOSLoss()(x, masks, valid)[0]

    assert torch.isclose(textbook(), shared())
    return paired(lambda: textbook().backward(), lambda: shared().backward())


def freed_memory(keep: bool) -> float:
    "Milliseconds of a training step; a process each, since the setting cannot be taken back."
    if keep:
        keep_freed_memory()
    backbone, x = VisualBackbone("mobilenet_v2", "none").train(), torch.randn(1, 4, 3, 192, 320)

    def step():
        backbone(x)[32].sum().backward()

    return paired(step, step)[0]


PAIRS = {
    "4-frame clip at 192x320: decoding JPEG and PNG; reading the frame cache": frame_cache,
    "resnet50, 4 frames, inference: contiguous; channels_last": channels_last,
    "AdamW step of the report's model: one weight at a time; fused": fused_adamw,
    "loss and gradient, 8 masks of 256x448: each term by itself; shared parts once": loss_terms,
}


def main() -> None:
    "Measure all pairs, write the table."
    rows = [(name, *measure()) for name, measure in PAIRS.items()]
    times = {how: [] for how in ("give", "keep")}
    for _ in range(3):
        for how in times:
            command = [sys.executable, __file__, how]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            times[how].append(float(done.stdout.split()[-1]))
    name = "mobilenet_v2, 4 frames, training step: freed memory given back; kept"
    rows.append((name, *map(statistics.median, times.values())))
    table = pd.DataFrame(rows, columns=["choice", "without_ms", "with_ms"])
    table["ratio"] = table.without_ms / table.with_ms
    table.round(2).to_csv(Path(__file__).with_suffix(".csv"), index=False)
    print(table.round(2).to_string(index=False))


if __name__ == "__main__":
    print(freed_memory(sys.argv[1] == "keep")) if sys.argv[1:] else main()
