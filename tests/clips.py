"What the tests of video, segmenter and prediction share: a moving square, models without training."

import numpy as np
import torch
from rvos_nb.config import Config
from rvos_nb.model import RVOSModel
from rvos_nb.segmenter import FrameMasks, RVOSSegmenter
from torch import nn


def moving(n: int = 20, h: int = 48, w: int = 80) -> np.ndarray:
    "A bright square that moves over a gradient, uint8 [n,h,w,3]."
    y, x = np.mgrid[:h, :w]
    ground = np.stack([x * 2 + 20, y * 3 + 30, 200 - x], -1).astype(np.uint8)
    frames = np.stack([ground] * n)
    for t in range(n):
        left = (2 * t) % (w - 16)
        frames[t, h // 4 : h // 2, left : left + 16] = (255, 40, 40)
    return frames


def untrained(window: int = 8, **knobs) -> RVOSSegmenter:
    "A model that marks about half of the pixels, with neighbouring frames that count."
    torch.manual_seed(0)
    cfg = Config.preset("demo", **{"image_size": (48, 80), "hidden_dim": 16, **knobs})
    segmenter = RVOSSegmenter(RVOSModel(cfg.model), window, device="cpu")
    model = segmenter.model
    with torch.no_grad():
        for m in model.modules():
            if isinstance(m, nn.BatchNorm3d):
                m.weight *= 5
        if model.correlation is not None:
            for m in model.correlation.proj.values():
                m.weight *= 20
        median = float(np.median(segmenter.segment(moving(), "the red circle").logits))
        last_layer(model).bias -= median
    return segmenter


def last_layer(model: RVOSModel) -> nn.Conv2d:
    "The layer whose bias is added to each logit."
    decoder = model.decoder
    return decoder.bias if model.cfg.decoder == "dynamic" else decoder.head.layers[-1]


class Bright:
    "A segmenter in ten lines that inherits from nobody: pixels brighter than their frame's mean."

    name = "bright"

    def stream(self, video, expressions):
        for frame in video.read():
            grey = frame.image.mean(-1, dtype=np.float32)
            answer = (grey - grey.mean()) / 20
            yield FrameMasks(frame, np.stack([answer] * len(expressions)))
