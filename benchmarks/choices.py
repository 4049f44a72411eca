"""What the notebooks say of speed, measured as ratios in one run: writes choices.csv (choice, without_ms, with_ms, ratio), CPU only.

Each pair is timed alternately and the medians are compared. The data are the embedded demo clips at 480p, decoded from JPEG; RVOS_HOME holds them.

    python benchmarks/choices.py
"""
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from rvos_nb.core import Config, keep_freed_memory
from rvos_nb.data import FrameCache, load_annotations, read_frame, read_mask
from rvos_nb.demo import make_demo_data
from rvos_nb.loss import RVOSLoss
from rvos_nb.model import RVOSModel, VisualBackbone


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
    with tempfile.TemporaryDirectory() as d:
        import cv2
        root = make_demo_data(Path(d) / "data", n_train=4, n_val=1, size=(480, 854), progress=False)
        annotations, size = load_annotations(root, "train"), (192, 320)
        os.environ["RVOS_HOME"] = d
        cache, (video, a) = FrameCache(annotations, size), next(iter(annotations.items()))
        t = np.arange(4)
        def decode():
            for i in t: cv2.resize(read_frame(a["frames"][i]), size[::-1], interpolation=cv2.INTER_AREA), read_mask(a["masks"][i])
        return paired(decode, lambda: cache.read(video, t), rounds=21)


def channels_last() -> tuple[float, float]:
    backbone, x = VisualBackbone("resnet50", "none").eval(), torch.randn(4, 3, 192, 320)
    y = x.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode(): return paired(lambda: backbone.features(x), lambda: backbone.features(y))


def fused_adamw() -> tuple[float, float]:
    weights = [p.detach().clone().requires_grad_() for p in RVOSModel(Config.preset("report", backbone_weights="none", text_encoder="demo-bert", text_weights="none")).parameters()]
    for p in weights: p.grad = torch.ones_like(p)
    return paired(*(torch.optim.AdamW(weights, foreach=False, fused=f).step for f in (False, True)))


def loss_terms() -> tuple[float, float]:
    x, masks, valid = torch.randn(8, 1, 1, 256, 448, requires_grad=True), (torch.rand(8, 1, 256, 448) > 0.8).float(), torch.ones(8, 1, 256, 448, dtype=torch.bool)
    def textbook():  # the three terms as they are written down, each by itself
        y, t, v = x[:, :, 0].flatten(1), masks.flatten(1), valid.float().flatten(1)
        ce, again = (F.binary_cross_entropy_with_logits(y, t, reduction="none") for _ in range(2))
        p, pixels = y.sigmoid() * v, v.sum()
        dice = (1 - (2 * (p * t * v).sum(1) + 1) / (p.sum(1) + (t * v).sum(1) + 1)).mean()
        focal = ((0.25 * t + 0.75 * (1 - t)) * (1 - torch.exp(-again)) ** 2 * again * v).sum() / pixels
        return 0.3 * (ce * v).sum() / pixels + 0.6 * dice + 0.1 * focal
    shared = lambda: RVOSLoss()(x, masks, valid)[0]
    assert torch.isclose(textbook(), shared())
    return paired(lambda: textbook().backward(), lambda: shared().backward())


def freed_memory(keep: bool) -> float:  # one process each: the setting cannot be taken back
    if keep: keep_freed_memory()
    backbone, x = VisualBackbone("mobilenet_v2", "none").train(), torch.randn(1, 4, 3, 192, 320)
    def step(): backbone(x)[32].sum().backward()
    return paired(step, step)[0]


if sys.argv[1:]:
    print(freed_memory(sys.argv[1] == "keep"))
    sys.exit()
pairs = {"4-frame clip at 192x320: decoding 480p JPEG and PNG; reading the frame cache": frame_cache,
         "resnet50, 4 frames, inference: contiguous; channels_last": channels_last,
         "AdamW step of the report's model: one weight at a time; fused": fused_adamw,
         "loss and its gradient, 8 masks of 256x448: each term by itself; what they share once": loss_terms}
rows = [(name, *f()) for name, f in pairs.items()]
times = {how: [] for how in ("give", "keep")}
for _ in range(3):
    for how in times: times[how].append(float(subprocess.run([sys.executable, __file__, how], capture_output=True, text=True, check=True).stdout.split()[-1]))
rows.append(("mobilenet_v2, 4 frames, training step: freed memory given back; kept", *map(statistics.median, times.values())))
table = pd.DataFrame(rows, columns=["choice", "without_ms", "with_ms"])
table["ratio"] = table.without_ms / table.with_ms
table.round(2).to_csv(Path(__file__).with_suffix(".csv"), index=False)
print(table.round(2).to_string(index=False))
