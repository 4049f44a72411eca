"""Training clips a second of the preset `best` against the report's, same clips and batch, taking
turns in one process: writes throughput.csv. Whole training steps count: loading, forward,
backward, optimizer. The first step of a turn is left out: it finds the memory and the processor's
cache as the other model left them, which no training does.

    python benchmarks/throughput.py [--turns 6] [--threads 2] [--device cpu]

`report` is literal: ResNet50 and a BERT of base size, all of it trained. `best` has its backbone
and text encoder frozen and encodes each frame anew; `best, cached` reads features from disk. Speed
does not depend on what weights hold, so all are random and nothing is downloaded. The data is
talking shapes, enlarged to the clip size. On a GPU peak memory is noted.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from _common import backward

from rvos_nb.config import Config
from rvos_nb.encoders import write_text_encoder
from rvos_nb.fit import Trainer
from rvos_nb.shapes import shape_words, shapes_data

SIZES = (((160, 288), 4, 2), ((256, 448), 1, 8))  # image size, frames of a clip, clips of a batch
BERT_BASE = dict(
    hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072
)
MINILM = dict(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)


def text_encoder(folder: Path, **size) -> str:
    "A BERT of that size with the packaged vocabulary and no weights."
    config = write_text_encoder(folder, shape_words()) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | size))
    return str(folder)


def one_step(trainer: Trainer, batches) -> float:
    "Seconds that a training step takes."
    start = time.perf_counter()
    batch = next(batches)
    backward(trainer, batch)
    trainer.accelerator.clip_grad_norm_(trainer.model.parameters(), 1.0)
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()
    if trainer.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def configs(folder: Path, device: str, size: tuple) -> dict[str, Config]:
    "The three models at one size of clip and batch."
    image_size, clip_len, batch_size = size
    same = dict(
        root=str(shapes_data(n_train=8, n_val=1)),
        image_size=image_size,
        clip_len=clip_len,
        batch_size=batch_size,
        backbone_weights="none",
        text_weights="none",
        device=device,
        epoch_size=10_000,
        augment=False,
    )
    base = text_encoder(folder / "bert-base", **BERT_BASE)
    small = text_encoder(folder / "minilm", **MINILM)
    best = Config.preset(
        "best",
        **same,
        text_encoder=small,
        copy_paste_clips=0,
        frame_stride=1,
        feature_cache=False,
    )
    report = Config.preset("report", **same, text_encoder=base, grad_accum_steps=1)
    return {"report": report, "best": best, "best, cached": best.replace(feature_cache=True)}


def measure(cfgs: dict[str, Config], folder: Path, turns: int) -> list[dict]:
    "Rows of the table for one size."
    trainers = {k: Trainer(cfg.replace(out=str(folder / k))) for k, cfg in cfgs.items()}
    for trainer in trainers.values():
        trainer.begin_run()  # makes the cache
    batches = {k: iter(t.train_loader) for k, t in trainers.items()}
    times, peak = {k: [] for k in cfgs}, {}
    for turn in range(turns + 1):
        for k, trainer in trainers.items():
            cuda = trainer.device.type == "cuda"
            if cuda:
                torch.cuda.reset_peak_memory_stats()
            seconds = [one_step(trainer, batches[k]) for _ in range(3)]
            if cuda:
                peak[k] = round(torch.cuda.max_memory_allocated() / 2**20)
            if turn:
                times[k] += seconds[1:]
    rows = []
    for k, trainer in trainers.items():
        data, seconds = trainer.cfg.data, float(np.median(times[k]))
        height, width = trainer.cfg.model.image_size
        rows.append(
            {
                "model": k,
                "height": height,
                "width": width,
                "clip_len": data.clip_len,
                "batch_size": data.batch_size,
                "device": str(trainer.device),
                "threads": torch.get_num_threads(),
                "s_per_step": round(seconds, 4),
                "clips_per_s": round(data.batch_size / seconds, 2),
                "times_report": round(float(np.median(times["report"])) / seconds, 1),
                "peak_gpu_mb": peak.get(k, ""),
            }
        )
        trainer.close()
    return rows


def main() -> None:
    "Measure both sizes, write the table."
    p = argparse.ArgumentParser()
    p.add_argument("--turns", type=int, default=6)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--device", default="cpu")
    args, rows = p.parse_args(), []
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as tmp:
        for n, size in enumerate(SIZES):
            cfgs = configs(Path(tmp), args.device, size)
            rows += measure(cfgs, Path(tmp) / str(n), args.turns)
            print(pd.DataFrame(rows).to_string(index=False), flush=True)
    pd.DataFrame(rows).to_csv(Path(__file__).with_suffix(".csv"), index=False)


if __name__ == "__main__":
    main()
