"""Training clips a second of the best preset against the report's, same clips and batch, taking turns in one process: writes throughput.csv. Whole training steps count: loading, forward, backward, optimizer. A turn is
a few steps, the first of which is left out: it finds the memory and the processor's cache as the other model left them, which no training does.

    python benchmarks/throughput.py [--turns 6] [--threads 2] [--device cpu]

`report` is literal: ResNet50 and a BERT of base size, all of it trained. `best` has its backbone and text encoder frozen and sees each frame anew; `best, cached` reads what the backbone saw from disk. Speed does not depend on what
weights hold, so all are random and nothing is downloaded. The data is the embedded demo's, enlarged to the clip size. On a GPU the model's own number format is used, and peak memory is noted.
"""
import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from rvos_nb.core import Config
from rvos_nb.demo import demo_data, write_text_encoder
from rvos_nb.training import Trainer, begin_run


def text_encoder(folder: Path, **size) -> str:
    "A BERT of that size with the demo's vocabulary and no weights."
    config = write_text_encoder(folder) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | size))
    return str(folder)


def one_step(trainer: Trainer, batches) -> float:
    "Seconds that a step takes."
    start = time.perf_counter()
    batch = next(batches)
    with trainer.accelerator.autocast(): logits = trainer.model(batch["features"] if "features" in batch else batch["frames"], batch["text_ids"], batch["text_mask"], batch["clip"])
    trainer.accelerator.backward(trainer.loss_fn(logits, batch["masks"], batch["valid"], batch["clip"])[0])
    trainer.accelerator.clip_grad_norm_(trainer.model.parameters(), 1.0)
    trainer.optimizer.step(); trainer.optimizer.zero_grad()
    if trainer.device.type == "cuda": torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("--turns", type=int, default=6); p.add_argument("--threads", type=int, default=2); p.add_argument("--device", default="cpu")
    a, rows = p.parse_args(), []
    torch.set_num_threads(a.threads)
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        base = text_encoder(tmp / "bert-base", hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072)
        small = text_encoder(tmp / "minilm", hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
        for image_size, clip_len, batch_size in (((160, 288), 4, 2), ((256, 448), 1, 8)):
            same = dict(data=str(demo_data(n_train=8, n_val=1)), image_size=image_size, clip_len=clip_len, batch_size=batch_size, backbone_weights="none", text_weights="none", device=a.device, epoch_size=10_000, augment=False)
            report = Config.preset("report", **same, text_encoder=base, accumulate=1)
            best = Config.preset("best", **same, text_encoder=small, compose=0, every=1, feature_cache=False)
            cfgs = {"report": report, "best": best, "best, cached": replace(best, feature_cache=True)}
            trainers = {k: Trainer(replace(cfg, out=str(tmp / f"{k}-{clip_len}"))) for k, cfg in cfgs.items()}
            for t in trainers.values(): begin_run(t)  # makes the cache
            batches, times, peak = {k: iter(t.train_loader) for k, t in trainers.items()}, {k: [] for k in cfgs}, {}
            for turn in range(a.turns + 1):
                for k, t in trainers.items():
                    if t.device.type == "cuda": torch.cuda.reset_peak_memory_stats()
                    seconds = [one_step(t, batches[k]) for _ in range(3)]
                    if t.device.type == "cuda": peak[k] = torch.cuda.max_memory_allocated() / 2**20
                    if turn: times[k] += seconds[1:]
            for k, t in trainers.items():
                seconds = float(np.median(times[k]))
                rows.append({"model": k, "height": image_size[0], "width": image_size[1], "clip_len": clip_len, "batch_size": batch_size, "device": a.device, "threads": a.threads, "s_per_step": round(seconds, 4),
                             "clips_per_s": round(batch_size / seconds, 2), "times_report": round(float(np.median(times["report"])) / seconds, 1), "peak_gpu_mb": round(peak[k]) if k in peak else ""})
                t.close()
            print(pd.DataFrame(rows).to_string(index=False), flush=True)
    pd.DataFrame(rows).to_csv(Path(__file__).with_suffix(".csv"), index=False)


if __name__ == "__main__": main()
