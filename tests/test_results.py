"The report's folder, what it refuses, and the closing table of a run."

import json

import numpy as np
import pandas as pd
import pytest
from boxes import COLUMNS, Colours, Masks, blurred, scenes, write_data
from PIL import Image

from rvos_nb import results as rs
from rvos_nb.config import Config, ConfigError, RVOSError
from rvos_nb.evaluation import evaluate
from rvos_nb.fit import fit
from rvos_nb.predictions import open_predictions
from rvos_nb.shapes import make_shapes
from rvos_nb.tables import PROTOCOLS


@pytest.fixture(scope="module")
def boxes(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("boxes"), scenes())


@pytest.fixture
def written(boxes, tmp_path):
    "Predictions in both layouts, and their scores."
    root = tmp_path / "predictions"
    return root, evaluate(boxes, Masks(blurred), baselines=(), save=root)


def test_summary_lists_what_is_missing(boxes, written):
    root, _ = written
    for t in range(4):
        (root / f"Annotations/v2/0/{t:05d}.png").unlink()
    (root / "Annotations/v0/5/00002.png").unlink()
    scores = evaluate(boxes, open_predictions(root, boxes), baselines=())
    s = rs._summarise(scores, boxes, {"what": ""})
    assert s["missing_predictions"] == ["v0/5: 1 of 4 frames", "v2/0: 4 of 4 frames"]
    assert "2 expressions lack predictions" in rs._describe(s)


@pytest.mark.slow
def test_report_writes_all_and_never_mixes(boxes, written, tmp_path, capsys):
    root, before = written
    out = tmp_path / "results"
    asked = {"predictions": str(root), "data": str(boxes.root)}
    rs.report(out, **asked, save_masks=True)
    assert {p.name for p in out.iterdir()} == set(rs._RESULTS)
    text = capsys.readouterr().out
    wanted = ("predictions", "everything", "centre blob", "oracle, stride 32")
    assert all(n in text for n in (*wanted, "3 videos, 24 expressions")) and "nan" not in text
    csv = pd.read_csv(out / "scores.csv", dtype={"expression_id": str})
    mine = csv[csv["source"] == "predictions"]
    assert len(mine) == 24 and np.allclose(mine[COLUMNS], before[COLUMNS])
    assert mine.groupby(["video_id", "object_ids", "expression_id", "group"]).size().eq(1).all()
    masks = open_predictions(out / "masks", boxes)
    again = evaluate(boxes, masks, baselines=())
    assert again[COLUMNS].equals(before[COLUMNS])
    summary = json.loads((out / "summary.json").read_text())
    assert summary["expressions"] == 24
    assert {s["protocol"] for s in summary["scores"]} == set(PROTOCOLS)
    old = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    with pytest.raises(RVOSError, match="holds results of an earlier evaluation .*--overwrite"):
        rs.report(out, **asked)
    first = root / "anno_0/v0/00000.png"
    Image.new("RGB", (60, 40), "red").save(first)  # a failure leaves the old results as they were
    with pytest.raises(RVOSError, match="an RGB picture"):
        rs.report(out, **asked, overwrite=True)
    assert {p.name: p.stat().st_mtime_ns for p in out.iterdir()} == old
    first.unlink()
    (out / "notes.txt").write_text("mine")
    rs.report(out, **asked, overwrite=True)
    # nothing old remains, nothing of the reader's goes
    assert not (out / "masks").exists() and (out / "notes.txt").read_text() == "mine"
    assert len(json.loads((out / "summary.json").read_text())["missing_predictions"]) == 2


def test_report_says_what_it_needs(boxes, tmp_path):
    for asked in ({}, {"run": "a", "predictions": "b"}):
        with pytest.raises(ConfigError, match="either --run or --predictions"):
            rs.report(tmp_path / "o", **asked)
    with pytest.raises(ConfigError, match="--predictions needs --data"):
        rs.report(tmp_path / "o", predictions="b")
    with pytest.raises(RVOSError, match="no checkpoint"):
        rs.report(tmp_path / "o", run=str(tmp_path / "no-run"))
    assert not (tmp_path / "o").exists()
    (tmp_path / "file").touch()
    with pytest.raises(RVOSError, match="is a file"):
        rs.report(tmp_path / "file", predictions="b", data="c")


@pytest.mark.slow
def test_report_takes_a_known_segmenter(boxes, tmp_path, monkeypatch):
    monkeypatch.setitem(rs.SEGMENTERS, "colours", lambda device: Colours())
    with pytest.raises(ConfigError, match="--run colours needs --data"):
        rs.report(tmp_path / "o", run="colours")
    scores = rs.report(tmp_path / "o", run="colours", data=str(boxes.root))
    assert {"model", "swapped", "empty", "other video", "oracle"} < set(scores["source"])
    summary = json.loads((tmp_path / "o/summary.json").read_text())
    assert [r["control"] for r in summary["language_controls"]][0] == "swapped"


# --- a run


@pytest.mark.slow
def test_closing_table_and_report_of_a_run_agree(tmp_path, capsys):
    "Two checkpoints, J, J (swapped) and baselines; `report` scores the same masks."
    data, run = tmp_path / "shapes", tmp_path / "run"
    make_shapes(data, n_train=2, n_val=3, n_frames=(4, 5), size=(72, 120), progress=False)
    few = {"epochs": 2, "epoch_size": 4, "batch_size": 2, "workers": 0}
    fit(Config.preset("demo", root=str(data), out=str(run), device="cpu", **few))
    capsys.readouterr()
    found = rs.closing_table(run)
    columns = ["J", "J (swapped)", "everything", "centre blob", "random object"]
    assert list(found.columns) == columns and list(found.index) == ["best_model.pth", "last.pth"]
    text = capsys.readouterr().out
    assert "quote last.pth, which the val videos did not choose" in text and "J (swapped)" in text
    csv = pd.read_csv(run / "scores.csv")
    last = csv[csv["checkpoint"] == "last.pth"]
    means = last.groupby("source")["J"].mean().round(3)
    want = ["model", "swapped", "everything", "centre blob", "random object"]
    assert np.allclose(found.loc["last.pth"].astype(float), means[want])
    assert Image.open(run / "samples.jpg").size[0] > 300
    scores = rs.report(tmp_path / "o", run=str(run / "last.pth"))
    again = scores[scores["source"] == "model"]["J"]
    assert np.allclose(again, last[last["source"] == "model"]["J"])
    summary = json.loads((tmp_path / "o/summary.json").read_text())
    assert summary["what"].startswith("epoch 2 of ") and "chosen on val" not in summary["what"]
    assert "oracle, stride 4" in {row["source"] for row in summary["scores"]}
