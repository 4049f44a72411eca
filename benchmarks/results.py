"""The table of results in README.md and its picture: writes benchmarks/results.csv and nbs/images/segmented_clip.jpg.

Trains the demo preset unless it has been trained already (under RVOS_HOME), and reads what report_on_davis.py, best_on_davis.py and all_kinds_on_demo.py left.

    python benchmarks/results.py && python .ci/readme.py
"""
import tempfile
from dataclasses import replace
from pathlib import Path

import pandas as pd
from rvos_nb.data import load_splits, make_loader
from rvos_nb.demo import make_demo_data
from rvos_nb.draw import save_image
from rvos_nb.training import demo_run, load_best, mean_scores, sample_sheet, score_videos

here, run = Path(__file__).parent, demo_run()
model, _ = load_best(run / "last.pth")  # a fixed schedule's last weights: the val videos chose nothing
cfg = model.cfg

def last(scores: pd.DataFrame) -> pd.DataFrame: return scores[scores.checkpoint == "last.pth"]

with tempfile.TemporaryDirectory() as d:  # clips that did not exist while the preset was chosen
    make_demo_data(Path(d) / "data", n_train=1, n_val=100, mix=cfg.demo_mix, seed=7)
    new = load_splits(replace(cfg, data=str(Path(d) / "data")))["val"]
    tables = {"`demo`, talking shapes (attribute)": last(pd.read_csv(run / "scores.csv")),
              "`demo`, 100 clips of another seed": score_videos(model, make_loader(new, cfg, train=False)),
              "talking shapes, all kinds of sentences": last(pd.read_csv(here / "all_kinds_on_demo" / "scores.csv")),
              "`report`, 9 DAVIS val videos": last(pd.read_csv(here / "report_on_davis" / "scores.csv")),
              "`best`, 9 DAVIS val videos": last(pd.read_csv(here / "best_on_davis" / "scores.csv")),
              "`best`, 36 clips composed of them": pd.read_csv(here / "best_on_davis" / "composed.csv")}
rows = [{"model, data": name, "sentences": len(s), **mean_scores(s)} for name, s in tables.items()]
pd.DataFrame(rows).rename(columns={"model": "mean J", "exchanged": "J, sentences exchanged"}).to_csv(here / "results.csv", index=False)

val = load_splits(cfg)["val"]
several = [v for v, a in val.items() if len({e["object_id"] for e in a["expressions"]}) >= 3]  # the first four with three objects or more, good or bad
folder = here.parent / "nbs" / "images"
folder.mkdir(exist_ok=True)
save_image(folder / "segmented_clip.jpg", sample_sheet(model, make_loader(val, cfg, train=False), several[:4]))
