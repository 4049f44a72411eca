"""From the report's model to the best preset, one weakness at a time: writes ablation.csv, one row a (model, data, seed, budget). Rows that are there are kept, so it can be stopped and started again.

Each model gets as many steps as fit into the same time (3 minutes, one thread), by timing a few steps; composing clips and caching features come before, and `cache_s` is what they took (little, where an earlier row had made them). Its last weights are scored:
J and F of every val sentence at the masks' own size, J with the sentence of the next object of the clip, and J by kind of sentence. Data: `real` (RVOS_DAVIS; scored on its val videos and on clips composed
of them, fixed by seed 0), and `demo` (talking shapes with all kinds of sentences; everything trained from nothing, so rows that need pretrained parts are left out). The best preset is the row +one object; `best` is
the same with the preset's own schedule, beside models that get the full budget: --minutes 10 --threads 2 --rows report best "report's head on cached features". The rows of MORE, variants of +composed, are run where --rows names them, `more` all of them.

    RVOS_DAVIS=... RVOS_BACKBONE_WEIGHTS=... RVOS_TEXT_ENCODER=... python benchmarks/ablation.py [--minutes 3] [--seeds 0 1] [--data real demo] [--rows report best ...]
"""
import argparse
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from rvos_nb.core import Config, home, lock, resumable, write_text
from rvos_nb.data import compose_splits, load_annotations, load_splits, make_loader, read_mask
from rvos_nb.metrics import jf, region_similarity
from rvos_nb.training import Trainer, begin_run, load_best, partner, predict_video, train_epochs

HERE = Path(__file__).parent
named = lambda k: os.environ.get(k) or sys.exit(f"{k} is not set; see the head of {Path(__file__).name}")
REAL_PARTS = lambda: dict(data=named("RVOS_DAVIS"), backbone="mobilenet_v2", backbone_weights=named("RVOS_BACKBONE_WEIGHTS"), text_encoder=named("RVOS_TEXT_ENCODER"), text_weights="default", device="cpu")
DEMO_PARTS = dict(demo_mix="all", demo_clips=1000, backbone="tiny", backbone_weights="none", text_encoder="demo-bert", text_weights="none", image_size=(96, 160), device="cpu", epoch_size=1600, contrast=3)

best = Config.preset("best")
pick = lambda *names: {n: getattr(best, n) for n in names}
TIME = dict(temporal="motion", clip_len=2, still=0.5)
STEPS = {  # each adds to those before it; real data
    "report": {},
    "+decoder": dict(clip_len=1, batch_size=8, accumulate=1, temporal="none", every=best.every, **pick("decoder", "fuse_strides", "hidden_dim", "heads", "image_size")),
    "+words": pick("pooling", "positions", "gate", "look_back"),
    "+recipe": pick("backbone_lr_scale", "text_lr_scale", "feature_cache", "lr", "schedule", "weight_decay", "dropout", "head_dropout", "drop_words", "ema"),
    "+names": pick("names", "skip_words"),
    "+composed": pick("compose", "compose_share", "contrast", "stray"),
    "+one object": pick("one_object"),
    "+time": TIME,
}
DEMO_STEPS = {  # on the demo data, where everything is trained from nothing and every clip has several objects
    "report": {},
    "+decoder": {**STEPS["+decoder"], "image_size": (96, 160), "fuse_strides": (8, 16), "every": 1, "hidden_dim": 48, "heads": 4, "batch_size": 9},
    "+words": STEPS["+words"],
    "+recipe": dict(lr=1e-3, schedule="cosine", weight_decay=1e-4, dropout=0.0, head_dropout=0.0, augment=False, max_stride=2),
    "+choice": dict(choice_weight=1.0),
    "+conv3d": dict(temporal="conv3d", clip_len=4, still=0.5),
    "+time": TIME,
}
MORE = {  # on real data: variants of the row +composed, whose masks keep all their pieces
    "best, more composed, fewer words": dict(compose_share=0.65, skip_words=0.8),
    "best, listening as a choice": dict(choice_weight=0.5),
    "best without strays": dict(stray=0.0),
    "best, words in all steps": dict(skip_words=0.0),
    "best without composed clips": dict(compose=0, contrast=1),
    **{f"best, composed {share:g}": dict(compose_share=share) for share in (0.2, 0.4, 0.75, 0.8)},
    **{f"best, {n} training videos": dict(max_videos=n) for n in (4, 8)},
}


def config(row: str, data: str, seed: int) -> Config | None:
    "The Config of a row, None where it makes no sense for this data."
    steps, parts = (STEPS, REAL_PARTS()) if data == "real" else (DEMO_STEPS, DEMO_PARTS)
    if data == "real":
        if row == "best" or row in MORE: return Config.preset("best", **{**parts, **MORE.get(row, {})}, one_object=row == "best", seed=seed, minutes=0.0)
        if row == "report's head on cached features": return Config.preset("report", **parts, seed=seed, backbone_lr_scale=0.0, text_lr_scale=0.0, feature_cache=True, patience=0)
    if row not in steps: return None
    changes = {}
    for name, more in steps.items():
        changes |= more
        if name == row: break
    return Config.preset("report", **{**parts, **changes}, seed=seed, patience=0)


def fitted(cfg: Config, minutes: float) -> tuple[Config, float]:
    "`cfg` with as many steps as fit into `minutes`, measured over a few; and the seconds that its caches took."
    start = time.monotonic()
    trainer = Trainer(replace(cfg, out=str(home() / "ablation" / f"timing-{os.getpid()}"), minutes=0.0))
    begin_run(trainer)  # makes the cache of features
    made, a_step = time.monotonic() - start, []
    for epoch in (0, cfg.epochs - 1) if cfg.still else (0,):  # the first epochs may have single frames
        steps = []
        trainer.train_loader.set_epoch(epoch)
        loading = time.monotonic()
        for batch in trainer.train_loader:
            logits = trainer.model.train()(batch["features"] if "features" in batch else batch["frames"], batch["text_ids"], batch["text_mask"], batch["clip"])
            trainer.accelerator.backward(trainer.loss_fn(logits, batch["masks"], batch["valid"], batch["clip"])[0])
            trainer.optimizer.step(); trainer.optimizer.zero_grad()
            steps.append(-loading + (loading := time.monotonic()))
            if len(steps) == 15: break
        a_step.append(np.median(steps[3:]))
    trainer.close()
    a_step = cfg.still * a_step[0] + (1 - cfg.still) * a_step[-1]
    clips = int(60 * minutes / a_step * cfg.batch_size)
    if cfg.schedule == "restarts":  # whole epochs, as the report has them, but at least one, of as many clips as there is time for
        size = min(len(trainer.train_loader.dataset) if not cfg.epoch_size else cfg.epoch_size, clips)
        return replace(cfg, epochs=max(1, clips // size), epoch_size=size, val_every=10_000, minutes=0.0), made
    epochs = max(4, round(minutes))
    return replace(cfg, epochs=epochs, epoch_size=max(clips // epochs, cfg.batch_size), val_every=10_000, minutes=0.0), made


def score(model, cfg: Config, annotations) -> pd.DataFrame:
    "One row a sentence: J, F, and J of what the next object's sentence gives, at the masks' size over all frames."
    loader, rows = make_loader(annotations, cfg, False), []
    for video, a in annotations.items():
        ids, (_, logits) = np.stack([read_mask(m) for m in a["masks"]]), predict_video(model, loader, video)
        void, pred = ids == 255, [(F.interpolate(x[:, None], size=ids.shape[1:], mode="bilinear", align_corners=False)[:, 0] > 0).numpy() for x in logits]
        for i, e in enumerate(a["expressions"]):
            other, (j, f) = partner(a["expressions"], i), jf(ids == e["object_id"], pred[i], void)
            rows.append({"kind": e["kind"], "J": j.mean(), "F": f.mean(), "other": region_similarity(ids == e["object_id"], pred[other], void).mean() if other is not None else np.nan})
    return pd.DataFrame(rows)


def run_row(row: str, data: str, seed: int, minutes: float) -> dict | None:
    cfg = config(row, data, seed)
    if cfg is None: return None
    trained = "+composed" if row == "+one object" else row  # nothing is learnt for it: the same run, answered in another way
    out = home() / "ablation" / f"{data}-{trained.strip('+').replace(' ', '-')}-{seed}-{minutes:g}"
    if (out / "fitted.json").exists(): known = json.loads((out / "fitted.json").read_text())
    else:
        fits, made = fitted(cfg, minutes)
        if row != "best": cfg = fits
        write_text(out / "fitted.json", json.dumps(known := {"made": made, "knobs": {k: getattr(cfg, k) for k in ("epochs", "epoch_size", "val_every", "minutes")}}))
    made, cfg, start = known["made"], replace(cfg, **known["knobs"], out=str(out), resume=bool(resumable(out))), time.monotonic()
    trainer = Trainer(cfg)
    trainer.select_loader = make_loader(trainer.splits["val"].subset(list(trainer.splits["val"])[:1]), cfg, False)  # nothing is selected, and all is scored below
    begin_run(trainer)
    train_epochs(trainer)
    trainer.close()
    model, state = load_best(out / "last.pth")
    model.cfg = replace(model.cfg, one_object=cfg.one_object)  # a run that is kept may be scored again with another answer
    history = pd.DataFrame(state["history"])
    about = {"row": row, "data": data, "seed": seed, "minutes": minutes, "threads": torch.get_num_threads(), "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
             "steps": cfg.epochs * -(-cfg.epoch_size // (cfg.batch_size * cfg.accumulate)), "cache_s": round(made), "clips_per_s": round(history.train_it_s.mean() * cfg.batch_size, 2), "train_iou": history.train_iou.iloc[-1]}
    splits = {"val": load_splits(cfg)["val"]}
    if data == "real": splits["composed"] = load_annotations(composed_val(cfg), "val")
    for name, annotations in splits.items():
        s = score(model, cfg, annotations)
        about |= {f"{name}_J": s.J.mean(), f"{name}_JF": (s.J.mean() + s.F.mean()) / 2, f"{name}_other": s.other.mean()}
        if data == "demo": about |= {f"J_{k}": j for k, j in s.groupby("kind").J.mean().items()}
    print(f"{row}, {data}, seed {seed}: {time.monotonic() - start:.0f} s in all", flush=True)
    return about


def composed_val(cfg: Config) -> Path:
    "Clips composed of the val videos, by seed 0; made once."
    root = home() / "ablation" / "composed"
    with lock(root): return compose_splits(cfg.data, root, train=2, val=36, seed=0)


def is_done(path: Path, **key) -> bool:
    "Has the table at `path` a row with these values?"
    return path.exists() and bool(np.logical_and.reduce([pd.read_csv(path)[k] == v for k, v in key.items()]).any())


def append(path: Path, row: dict) -> None:
    "Add `row` to the table at `path`; several processes may."
    with lock(home() / path.stem / "csv"):
        table = pd.concat([pd.read_csv(path)] * path.exists() + [pd.DataFrame([row])])
        table.to_csv(path, index=False, float_format="%.4f")


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("--minutes", type=float, default=3.0); p.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    p.add_argument("--data", nargs="+", default=["real", "demo"]); p.add_argument("--rows", nargs="+", default=[*STEPS, "report's head on cached features", *DEMO_STEPS])
    p.add_argument("--threads", type=int, default=1)
    a, path = p.parse_args(), HERE / "ablation.csv"
    torch.set_num_threads(a.threads)
    for seed in a.seeds:
        for data in a.data:
            for row in dict.fromkeys(r for rows in a.rows for r in (MORE if rows == "more" else [rows])):
                if is_done(path, row=row, data=data, seed=seed, minutes=a.minutes): continue
                if found := run_row(row, data, seed, a.minutes): append(path, found)


if __name__ == "__main__": main()
