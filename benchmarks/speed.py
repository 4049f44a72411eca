"""Frames a second of the preset `best` on video of 480p: as it was trained against what
`load_segmenter` makes of it: batch norms folded, channels last, freed memory kept. Writes speed.csv

Two processes answer in turn, so that a busy machine slows both: in each of five rounds each takes
the same 8 frames with one expression. CPU time beside wall time, ratios round by round as median,
least and most. J lies between the masks of the two. `start` is what folding adds when a model is
loaded. Weights are those of RVOS_RUN where it is set; else random ones, since time does not depend
on them. Frames are those of RVOS_DAVIS, else made ones.

    RVOS_RUN=... RVOS_DAVIS=... python benchmarks/speed.py
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
from inference import ALONE, moving

from rvos_nb.checkpoints import load_best, save_checkpoint
from rvos_nb.config import Config
from rvos_nb.metrics import region_similarity
from rvos_nb.model import RVOSModel
from rvos_nb.pictures import read_picture
from rvos_nb.segmenter import RVOSSegmenter, load_segmenter

HERE = Path(__file__).resolve().parent
EXPRESSION = "the dog"


def frames() -> list[np.ndarray]:
    "8 frames, uint8 [480,854,3]."
    root = os.environ.get("RVOS_DAVIS")
    if not root:
        return list(moving(8, 480, 854))
    folder = Path(root, "DAVIS/JPEGImages/480p/dog")
    return [read_picture(f) for f in sorted(folder.glob("*.jpg"))[:8]]


def answer(way: str, run: str, threads: int, out: str) -> None:
    "A process that answers once for each line it is sent, and says how long that took."
    cv2.setNumThreads(1)
    torch.set_num_threads(threads)
    start = time.perf_counter()
    plain = way == "as trained"
    made = RVOSSegmenter(load_best(run)[0], device="cpu") if plain else load_segmenter(run, "cpu")
    print(time.perf_counter() - start, flush=True)
    video = frames()
    made.segment(video, EXPRESSION)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        found = made.segment(video, EXPRESSION)
        print(time.perf_counter() - wall, time.process_time() - cpu, flush=True)
    np.save(f"{out}/{way}.npy", found.masks)


def measure(run: str, threads: int, rounds: int = 5) -> dict:
    "A row of the table."
    ways, times, parts = ("as trained", "as loaded"), {}, {}
    with tempfile.TemporaryDirectory() as out:
        for way in ways:
            command = [sys.executable, __file__, way, run, str(threads), out]
            pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
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
    row = {"threads": threads, "frames": len(masks[0][0])}
    for k, clock in enumerate(("wall", "CPU")):
        before, after = ([t[k] for t in times[way]] for way in ways)
        ratios = sorted(a / b for a, b in zip(before, after))
        row |= {f"as trained, {clock} ms a frame": 1e3 * statistics.median(before) / row["frames"]}
        row |= {f"as loaded, {clock} ms a frame": 1e3 * statistics.median(after) / row["frames"]}
        row |= {f"{clock} ratio": statistics.median(ratios)}
        row |= {f"{clock} least": ratios[0], f"{clock} most": ratios[-1]}
    row |= {"start, s": start["as trained"], "start folded, s": start["as loaded"]}
    row |= {"J between the masks": region_similarity(*masks).mean()}
    return row | {"pixels that differ": int((masks[0] != masks[1]).sum())}


def main() -> None:
    "Measure with one thread and with two, write the table."
    with tempfile.TemporaryDirectory() as folder:
        run = os.environ.get("RVOS_RUN")
        if not run:
            torch.manual_seed(0)
            cfg = Config.preset("best", **ALONE)
            run = str(Path(folder, "best_model.pth"))
            save_checkpoint(Path(run), RVOSModel(cfg.model), cfg)
        rows = []
        for threads in (1, 2):
            rows.append(measure(run, threads))
            table = pd.DataFrame(rows).round(3)
            table.to_csv(HERE / "speed.csv", index=False)
    print(table.T.to_string())


if __name__ == "__main__":
    if sys.argv[1:]:
        answer(*sys.argv[1:3], threads=int(sys.argv[3]), out=sys.argv[4])
    else:
        main()
