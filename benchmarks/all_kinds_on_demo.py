"""The demo data with all kinds of sentences (looks, sizes, comparisons, places, motions), on the CPU, from nothing: writes all_kinds_on_demo/{command.txt,time.csv,history.csv,scores.csv,kinds.csv}.

Scored with the last weights of the fixed schedule, on the val clips and on 40 clips of another seed that played no part when the flags were chosen.

    python benchmarks/all_kinds_on_demo.py [further flags of rvos train]
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

here = Path(__file__).parent / "all_kinds_on_demo"
flags = shlex.split("--demo-mix all --demo-clips 1000 --choice-weight 1 --contrast 3 --batch-size 18 --look-back --decoder shared --fuse-strides 8 16 --hidden-dim 48 --heads 4 --temporal motion --clip-len 2 --still 0.5 "
                    "--lr 1e-3 --epochs 18 --epoch-size 5400 --val-every 18 --minutes 0 --device cpu") + sys.argv[1:]

with tempfile.TemporaryDirectory() as folder:
    run, home = Path(folder) / "run", {**os.environ, "RVOS_HOME": str(Path(folder) / "home")}  # nothing made before
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", "import sys; from rvos_nb.cli import main; sys.exit(main())", "train", *flags, "--out", str(run)], check=True, env=home)
    wall = time.monotonic() - start
    os.environ["RVOS_HOME"] = home["RVOS_HOME"]
    from rvos_nb.data import load_annotations, make_loader
    from rvos_nb.demo import demo_data
    from rvos_nb.training import load_best, score_videos
    model, _ = load_best(run / "last.pth")
    found = {}
    for name, data in (("val clips", demo_data(mix="all", n_train=1000)), ("clips of another seed", demo_data(mix="all", seed=2026, n_train=1))):
        scores = score_videos(model, make_loader(load_annotations(data, "val"), model.cfg, train=False))
        found[name] = pd.concat([scores.assign(kind="all"), scores]).groupby("kind", sort=False)[["model", "exchanged", "random object"]].agg(["mean", "size"])
        found[name] = pd.concat([found[name].xs("mean", axis=1, level=1), found[name]["model"]["size"].rename("sentences")], axis=1)
    here.mkdir(exist_ok=True)
    for name in ("history.csv", "scores.csv"): shutil.copy(run / name, here / name)
    kinds = pd.concat(found, names=["clips"]).reset_index()
    kinds.to_csv(here / "kinds.csv", index=False, float_format="%.4f")
    history = pd.read_csv(run / "history.csv")
    pd.DataFrame([{"all, scoring included, s": wall, "training alone, s": (-(-model.cfg.epoch_size // model.cfg.batch_size) / history.train_it_s).sum()}]).round(1).to_csv(here / "time.csv", index=False)
    print(f"{wall:.0f} s\n{kinds.round(3).to_string(index=False)}")
    if keep := os.environ.get("RVOS_KEEP_RUN"): shutil.copytree(run, keep, dirs_exist_ok=True)
(here / "command.txt").write_text("rvos train " + " ".join(map(shlex.quote, flags)) + "\n")
