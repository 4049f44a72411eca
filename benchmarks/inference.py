"""Inference: what sharing a video's visual pass saves, memory over the video's length, and the seam between windows. Writes inference_{sharing,memory,seam}.csv beside this file.

Sharing: 8 sentences in one call and in 8 calls, 16 frames at 480x854, in turn, median of five rounds; the same masks. The report's model (ResNet50, stride 32) and one with an FPN on MobileNetV2, untrained, since
time does not depend on the weights, with the small text encoder of the demo. Memory: `rvos predict` with two sentences on mp4s of 320x192 pixels in a process of its own, peak from /proc (Linux);
so large that 2,000 frames kept as an array would be a third of the whole, and could not hide.
Seam: a run of the report's preset trained on DAVIS (RVOS_RUN names it, RVOS_DAVIS the data), the first 40 frames of val videos, J between the masks of two window phases; left out where the two are not named.

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
from rvos_nb.core import Config
from rvos_nb.data import load_annotations, read_frame
from rvos_nb.draw import write_video
from rvos_nb.inference import Segmenter
from rvos_nb.metrics import region_similarity
from rvos_nb.model import RVOSModel
from rvos_nb.training import save_checkpoint

SENTENCES = ["the dog", "the man on the left", "a black swan", "the red car", "the woman in white", "a goat on the rocks", "the leftmost thing", "what moves fastest"]
SMALL_TEXT = dict(backbone_weights="none", text_encoder="demo-bert", text_weights="none")
MODELS = {"best (mobilenet_v2, shared pyramid, 256x448)": Config.preset("best", **SMALL_TEXT), "demo (tiny backbone, FPN, 96x160)": Config(), "report (resnet50, x32, conv3d, 224x384)": Config.preset("report", **SMALL_TEXT),
          "mobilenet_v2, FPN, 224x384": Config.preset("report", backbone="mobilenet_v2", decoder="fpn", fuse_strides=(16, 32), hidden_dim=64, pooling="words", temporal="none", **SMALL_TEXT)}


def moving(n: int, h: int, w: int):
    "A bright square over a gradient, frame by frame, uint8 [h,w,3]."
    y, x = np.mgrid[:h, :w]
    ground = np.stack([x * 150 // w + 20, y * 150 // h + 30, 200 - x * 150 // w], -1).astype(np.uint8)
    for t in range(n):
        frame = ground.copy()
        frame[h // 4:h // 2, (k := 3 * t % (w - w // 5)):k + w // 5] = (255, 40, 40)
        yield frame


def sharing(name: str, cfg: Config, rounds: int = 5) -> dict:
    torch.manual_seed(0)
    s, video = Segmenter(RVOSModel(cfg)), list(moving(16, 480, 854))
    s.segment(video[:8], SENTENCES[0])  # the first call is not counted
    times = {"together": [], "apart": []}
    for _ in range(rounds):
        start = time.perf_counter()
        together = s.segment(video, SENTENCES)
        middle = time.perf_counter()
        apart = [s.segment(video, sentence) for sentence in SENTENCES]
        times["together"].append(middle - start)
        times["apart"].append(time.perf_counter() - middle)
    logits = np.concatenate([a.logits for a in apart])
    masks = np.concatenate([a.masks for a in apart])
    one, eight = (statistics.median(times[k]) for k in ("together", "apart"))
    return {"model": name, "8 sentences in one call, s": one, "in 8 calls, s": eight, "ratio": statistics.median(b / a for a, b in zip(*times.values())),
            "largest difference of probabilities": float(np.abs(1 / (1 + np.exp(-logits)) - 1 / (1 + np.exp(-together.logits))).max()), "masks differ in pixels": int((masks != together.masks).sum()),
            "of": masks.size}


PREDICT = """
import sys, torch
torch.set_num_threads(1)
from rvos_nb.cli import main
assert main(["predict", "--run", sys.argv[1], sys.argv[2], "the dog", "the man on the left", "--out", sys.argv[3]]) == 0
print("peak", next(l.split()[1] for l in open("/proc/self/status") if l.startswith("VmHWM")))
"""


def memory(lengths=(200, 500, 1000, 2000)) -> pd.DataFrame:
    torch.manual_seed(0)
    cfg, rows = Config(temporal="conv3d"), []
    with tempfile.TemporaryDirectory() as d:
        save_checkpoint(Path(d, "run/best_model.pth"), RVOSModel(cfg), cfg, 1, {}, [])
        for n in lengths:
            write_video(Path(d, f"{n}.mp4"), moving(n, 192, 320))
            out = subprocess.run([sys.executable, "-c", PREDICT, f"{d}/run", f"{d}/{n}.mp4", f"{d}/{n}"], capture_output=True, text=True, check=True).stdout
            rows.append({"frames": n, "peak MB": int(out.split("peak")[1]) / 1024, "frames as array, MB": n * 192 * 320 * 3 / 2**20})
    table = pd.DataFrame(rows)
    table["against the shortest"] = table["peak MB"] / table["peak MB"][0]
    return table


def seam(videos=("dog", "goat", "dance-twirl"), n: int = 40) -> pd.DataFrame:
    s, annotations, rows = Segmenter.load(os.environ["RVOS_RUN"], device="cpu"), load_annotations(os.environ["RVOS_DAVIS"], "val"), []
    for video in videos:
        frames, sentence = [read_frame(f) for f in annotations[video]["frames"][:n]], annotations[video]["expressions"][0]["expression"]
        def plain(starts): return np.concatenate([s.segment(frames[a:b], sentence).masks[0] for a, b in zip(starts, [*starts[1:], n])])
        follow = region_similarity(plain(range(0, n, 8)), plain([0, *range(4, n, 8)]))
        overlap = region_similarity(*(Segmenter(s.model, window).segment(frames, sentence).masks[0] for window in (8, 5)))
        rows.append({"video": video, "sentence": sentence, "plain windows, mean J": follow.mean(), "least": follow.min(), "with overlap, mean J": overlap.mean(), "least J": overlap.min()})
    return pd.DataFrame(rows)


def main():
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    parts = {"memory": memory, "sharing": lambda: pd.DataFrame([sharing(*m) for m in MODELS.items()]), "seam": seam}
    if not {"RVOS_RUN", "RVOS_DAVIS"} <= set(os.environ): parts.pop("seam")
    for name in sys.argv[1:] or parts:
        table = parts[name]()
        table.round(4).to_csv(Path(__file__).with_name(f"inference_{name}.csv"), index=False)
        print(table.round(3).to_string(index=False), flush=True)


if __name__ == "__main__": main()
