"""The best preset on real DAVIS video, on the CPU, from nothing: composing clips, caching features and training all count. Writes best_on_davis/{command.txt,time.csv,history.csv,scores.csv,composed.csv}.

RVOS_DAVIS names the data (DAVIS/ and davis_text_annotations/), RVOS_BACKBONE_WEIGHTS a state dict of torchvision's mobilenet_v2, RVOS_TEXT_ENCODER a folder with a BERT-like model (the committed figures: all-MiniLM-L6-v2, which is
the preset's own). Scored with the last weights of the fixed schedule: on the val videos (scores.csv, as any run), and on 36 clips composed of them by seed 0, with the right sentence and with the other object's (composed.csv).

    RVOS_DAVIS=... RVOS_BACKBONE_WEIGHTS=... RVOS_TEXT_ENCODER=... python benchmarks/best_on_davis.py [further flags of rvos train]
"""
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

here = Path(__file__).parent / "best_on_davis"
named = {k: os.environ.get(k) or sys.exit(f"{k} is not set; see the head of {Path(__file__).name}") for k in ("RVOS_DAVIS", "RVOS_BACKBONE_WEIGHTS", "RVOS_TEXT_ENCODER")}
flags = ["--preset", "best", "--data", "$RVOS_DAVIS", "--backbone-weights", "$RVOS_BACKBONE_WEIGHTS", "--text-encoder", "$RVOS_TEXT_ENCODER", "--device", "cpu", *sys.argv[1:]]

with tempfile.TemporaryDirectory() as folder:
    run, args = Path(folder) / "run", [named.get(f[1:], f) if f.startswith("$") else f for f in flags]
    home = {**os.environ, "RVOS_HOME": str(Path(folder) / "home")}  # nothing made before
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", "import sys; from rvos_nb.cli import main; sys.exit(main())", "train", *args, "--out", str(run)], check=True, env=home)
    wall = time.monotonic() - start
    os.environ["RVOS_HOME"] = home["RVOS_HOME"]
    from rvos_nb.data import compose_splits, load_annotations, make_loader
    from rvos_nb.training import load_best, mean_scores, score_videos
    model, _ = load_best(run / "last.pth")
    composed = load_annotations(compose_splits(named["RVOS_DAVIS"], Path(folder) / "composed", train=2, val=36, seed=0), "val")
    scores = score_videos(model, make_loader(composed, model.cfg, train=False))
    here.mkdir(exist_ok=True)
    for name in ("history.csv", "scores.csv"): shutil.copy(run / name, here / name)
    scores.to_csv(here / "composed.csv", index=False)
    history = pd.read_csv(run / "history.csv")
    times = {"all, scoring included, s": wall, "training alone, s": (-(-model.cfg.epoch_size // model.cfg.batch_size) / history.train_it_s).sum(), "batches a second": history.train_it_s.mean()}
    pd.DataFrame([times]).round(1).to_csv(here / "time.csv", index=False)
    print(f"{wall:.0f} s; composed clips: {mean_scores(scores).to_dict()}")
    if keep := os.environ.get("RVOS_KEEP_RUN"): shutil.copytree(run, keep, dirs_exist_ok=True)
(here / "command.txt").write_text("rvos train " + " ".join(f if f.startswith("$") else shlex.quote(f) for f in flags) + "\n")
