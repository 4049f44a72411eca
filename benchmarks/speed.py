"""Frames a second of the preset `best` on video of 480p, in pairs of ways. Writes speed.csv

- `as trained` against `as loaded`: what `load_segmenter` makes of the trained weights: batch norms
  folded, channels last, freed memory kept; both frame by frame.
- `as loaded` against `onnx`: ONNX Runtime runs the backbone (_onnx.py).
- `as loaded` against `compiled`: torch.compile of the model's two steps.
- `as loaded` against `online` and `offline`: what the memories cost.

Two processes answer in turn, so that a busy machine slows both: in each of five rounds each takes
the same 40 frames with one expression. CPU time beside wall time, ratios round by round as median,
least and most. J lies between the masks of the two. `start` is the time until a model is loaded and
has answered the frames a first time, with nothing kept from earlier processes.
Weights are those of RVOS_RUN where it is set; else random ones, since time does not depend on
them. Frames are those of RVOS_DAVIS, else made ones.

    RVOS_RUN=... RVOS_DAVIS=... python benchmarks/speed.py [--after onnx compiled]

With `--after`, only the rows of these ways are measured, and take the place of the old ones.
"""

import argparse
import dataclasses
import itertools
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
from _onnx import on_onnx_runtime
from inference import ALONE, moving

from rvos_nb.checkpoints import load_best, save_checkpoint
from rvos_nb.config import Config
from rvos_nb.metrics import region_similarity
from rvos_nb.model import RVOSModel
from rvos_nb.pictures import read_picture
from rvos_nb.segmenter import RVOSSegmenter, load_segmenter

HERE = Path(__file__).resolve().parent
EXPRESSION, FRAMES = "the dog", 40
PAIRS = [("as trained", "as loaded")]
PAIRS += [("as loaded", way) for way in ("onnx", "compiled", "online", "offline")]


def frames() -> list[np.ndarray]:
    "FRAMES frames, uint8 [480,854,3]."
    root = os.environ.get("RVOS_DAVIS")
    if not root:
        return list(moving(FRAMES, 480, 854))
    folder = Path(root, "DAVIS/JPEGImages/480p/dog")
    return [read_picture(f) for f in sorted(folder.glob("*.jpg"))[:FRAMES]]


def segmenter(way: str, run: str, out: str) -> RVOSSegmenter:
    "The model that answers in this way; files that it makes lie in `out`."
    if way == "as trained":
        made = RVOSSegmenter(load_best(run)[0], device="cpu")
    else:
        mode = "online" if way == "online" else "offline"
        made = load_segmenter(run, "cpu", mode=mode)
    best = Config.preset("best").model
    knobs = {k: getattr(best, k) for k in NO_MEMORY} if way in ("online", "offline") else NO_MEMORY
    made.model.cfg = dataclasses.replace(made.model.cfg, **knobs)
    if way == "onnx":
        on_onnx_runtime(made.model, Path(out, "backbone.onnx"))
    if way == "compiled":
        for step in ("encode_frames", "segment"):
            setattr(made.model, step, torch.compile(getattr(made.model, step)))
    return made


def answer(way: str, run: str, threads: int, out: str) -> None:
    "A process that answers once for each line it is sent, and says how long that took."
    cv2.setNumThreads(1)
    torch.set_num_threads(threads)
    video = frames()
    start = time.perf_counter()
    made = segmenter(way, run, out)
    made.segment(video, EXPRESSION)
    print(time.perf_counter() - start, flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        found = made.segment(video, EXPRESSION)
        print(time.perf_counter() - wall, time.process_time() - cpu, flush=True)
    np.save(f"{out}/{way}.npy", found.masks)


def measure(run: str, threads: int, ways: tuple[str, str], rounds: int = 5) -> dict:
    "A row of the table."
    times, parts = {}, {}
    with tempfile.TemporaryDirectory() as out:
        for way in ways:
            command = [sys.executable, __file__, "answer", way, run, str(threads), out]
            home = os.environ | {"RVOS_HOME": out, "TORCHINDUCTOR_CACHE_DIR": out}
            pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=home)
            parts[way] = subprocess.Popen(command, **pipes)
            times[way] = [float(parts[way].stdout.readline())]  # the time to start
        start = {way: times[way].pop() for way in ways}
        for _ in range(rounds):
            for way in ways:
                parts[way].stdin.write("again\n")
                parts[way].stdin.flush()
                times[way].append([float(x) for x in parts[way].stdout.readline().split()])
        for way in ways:
            parts[way].stdin.close()
            parts[way].wait()
        masks = [np.load(f"{out}/{way}.npy") for way in ways]
    row = {"before": ways[0], "after": ways[1], "threads": threads, "frames": len(masks[0][0])}
    for k, clock in enumerate(("wall", "CPU")):
        before, after = ([t[k] for t in times[way]] for way in ways)
        ratios = sorted(a / b for a, b in zip(before, after))
        row |= {f"before, {clock} ms a frame": 1e3 * statistics.median(before) / row["frames"]}
        row |= {f"after, {clock} ms a frame": 1e3 * statistics.median(after) / row["frames"]}
        row |= {f"{clock} ratio": statistics.median(ratios)}
        row |= {f"{clock} least": ratios[0], f"{clock} most": ratios[-1]}
    row |= {"start before, s": start[ways[0]], "start after, s": start[ways[1]]}
    row |= {"J between the masks": region_similarity(*masks).mean()}
    return row | {"pixels that differ": int((masks[0] != masks[1]).sum())}


def main(after: list[str]) -> None:
    "Measure each pair with one thread and with two, write the table."
    path = HERE / "speed.csv"
    rows = pd.read_csv(path).to_dict("records") if path.exists() else []
    rows = [row for row in rows if row["after"] not in after]
    order = [way for _, way in PAIRS]
    with tempfile.TemporaryDirectory() as folder:
        run = os.environ.get("RVOS_RUN")
        if not run:
            torch.manual_seed(0)
            cfg = Config.preset("best", **ALONE)
            run = str(Path(folder, "best_model.pth"))
            save_checkpoint(Path(run), RVOSModel(cfg.model), cfg)
        wanted = [pair for pair in PAIRS if pair[1] in after]
        for ways, threads in itertools.product(wanted, (1, 2)):
            rows.append(measure(run, threads, ways))
            rows.sort(key=lambda row: order.index(row["after"]))
            table = pd.DataFrame(rows).round(3)
            table.to_csv(path, index=False)
    print(table.T.to_string())


if __name__ == "__main__":
    if sys.argv[1:2] == ["answer"]:
        answer(*sys.argv[2:4], threads=int(sys.argv[4]), out=sys.argv[5])
    else:
        p = argparse.ArgumentParser()
        ways = [after for _, after in PAIRS]
        p.add_argument("--after", nargs="+", choices=ways, default=ways)
        main(p.parse_args().after)
