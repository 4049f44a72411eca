"""The table of results in README.md and its picture: writes benchmarks/results.csv and nbs/images/segmented_clip.jpg.

Trains the demo preset unless it has been trained already (under RVOS_HOME), and reads what report_on_davis.py left.

    python benchmarks/results.py && python .ci/readme.py
"""
from pathlib import Path

import pandas as pd
from rvos_nb.data import load_splits, make_loader
from rvos_nb.draw import save_image
from rvos_nb.training import demo_run, load_best, mean_scores, sample_sheet

here = Path(__file__).parent
run = demo_run()
tables = {"`demo`, talking shapes (attribute)": pd.read_csv(run / "scores.csv"),
          "`report`, 9 DAVIS val videos": pd.read_csv(here / "report_on_davis" / "scores.csv")}
rows = []
for name, scores in tables.items():
    last = scores[scores.checkpoint == "last.pth"]  # a fixed schedule's last weights: the val videos chose nothing
    rows.append({"model, data": name, "sentences": len(last), **mean_scores(last)})
pd.DataFrame(rows).rename(columns={"model": "mean J", "exchanged": "J, sentences exchanged"}).to_csv(here / "results.csv", index=False)

model, _ = load_best(run / "last.pth")
val = load_splits(model.cfg)["val"]
several = [v for v, a in val.items() if len({e["object_id"] for e in a["expressions"]}) >= 3]  # the first four with three objects or more, good or bad
folder = here.parent / "nbs" / "images"
folder.mkdir(exist_ok=True)
save_image(folder / "segmented_clip.jpg", sample_sheet(model, make_loader(val, model.cfg, train=False), several[:4]))
