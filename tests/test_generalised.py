"Expressions of several objects or of none, from the files to the terminal: train, predict, score."

import json

import layouts
import numpy as np
import pandas as pd
import pytest
from layouts import N, TrueMasks
from rvos_nb.checkpoints import load_best
from rvos_nb.cli import main
from rvos_nb.datasets import load_annotations
from rvos_nb.encoders import load_tokenizer
from rvos_nb.evaluation import evaluate
from rvos_nb.loaders import make_loader
from rvos_nb.predictions import FramePrediction
from rvos_nb.segmenter import RVOSSegmenter
from rvos_nb.tables import generalised_scores, language_controls
from rvos_nb.fit import fit
from runs import tiny


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    "MeViS's layout: objects that overlap, 'both boxes' (two), 'a zebra' (none)."
    root = tmp_path_factory.mktemp("mevis")
    layouts.mevis(root)
    return root


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    "One step of a model with a head for presence."
    out = tmp_path_factory.mktemp("run") / "run"
    knobs = dict(presence=True, presence_weight=1.0, batch_size=4, expressions_per_clip=4)
    knobs |= dict(grad_accum_steps=1, epochs=1, epoch_size=4, augment=False)
    fit(tiny(data, out, **knobs))
    return out


def test_a_clip_is_drawn_with_all_that_is_said_of_it(data):
    "Beside an object also several of them, and none: the same frames, union and empty masks."
    cfg = tiny(data, data / "unused", expressions_per_clip=4, batch_size=4, epoch_size=4)
    tokenizer = load_tokenizer("demo-bert")
    loader = make_loader(load_annotations(data, "train"), cfg, tokenizer, train=True)
    (batch,) = loader
    masks = dict(zip(batch["object_ids"], batch["masks"]))
    assert len(masks) == 4 and set(batch["clip_index"].tolist()) == {0}
    (one, two), (both,) = ([mask for ids, mask in masks.items() if len(ids) == n] for n in (1, 2))
    assert one.any() and two.any() and not masks[()].any()
    assert (both == one.maximum(two)).all()


def test_the_head_was_trained_and_comes_back(run):
    model, state = load_best(run)
    assert model.presence is not None and state["config"]["loss"]["presence_weight"] == 1.0


def test_evaluation_prints_them(data, run, tmp_path, capsys):
    assert main(["evaluate", "--run", str(run), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "N-acc" in said and "J&F, several" in said
    written = json.loads((tmp_path / "out/summary.json").read_text("utf-8"))
    rows = {row["source"]: row for row in written["generalised"]}
    assert rows["nothing"]["N-acc"] == 100 and rows["nothing"]["T-acc"] == 0
    assert rows["everything"]["N-acc"] == 0 and rows["everything"]["T-acc"] == 100
    assert rows["oracle"]["gIoU"] == rows["oracle"]["N-acc"] == 100
    scores = pd.read_csv(tmp_path / "out/scores.csv")
    assert {"IoU", "marked_frames"} <= set(scores.columns)
    assert "nothing" in pd.read_csv(tmp_path / "out/breakdowns.csv").columns


def test_controls_ask_only_about_what_is_there(data, run):
    "No swap for what is not there, none between a whole and its part, and no gain from silence."
    annotations = load_annotations(data, "val")
    scores = evaluate(annotations, RVOSSegmenter(load_best(run)[0]), baselines=())
    asked = scores.groupby("source")["expression"].agg(sorted).to_dict()
    assert asked["model"] == ["a zebra", "both boxes", "the blue box", "the red box"]
    assert asked["empty"] == ["both boxes", "the blue box", "the red box"]
    assert asked["swapped"] == ["the blue box", "the red box"]  # both share with each
    assert language_controls(scores).set_index("control")["videos"]["swapped"] == 1


def test_the_truth_has_full_marks_and_slips_cost_what_they_should(data):
    annotations = load_annotations(data, "val")
    (record,) = annotations.values()
    names = [e.text for e in record.expressions]

    class Slip(TrueMasks):
        def frames(self, record):
            for t, found in enumerate(super().frames(record)):
                masks = found.masks.copy()
                masks[names.index("the red box")] = False  # a false "nothing"
                masks[names.index("a zebra"), 0, 0] = t == 1  # a pixel in one frame
                yield FramePrediction(masks)

    how = dict(controls=(), baselines=())
    scores = evaluate(annotations, TrueMasks(), **how)
    assert (generalised_scores(scores) == 100).all(axis=None)
    found = evaluate(annotations, Slip(), **how).set_index("expression")
    assert found.loc["a zebra", "J"] == pytest.approx((N - 1) / N)  # by frame, as MeViS counts
    assert found.loc["a zebra", ["IoU", "marked_frames"]].tolist() == [0, 1]
    row = generalised_scores(found.reset_index()).loc["predictions"]
    assert row["gIoU"] == 50 and row["N-acc"] == 0 and row["T-acc"] == pytest.approx(200 / 3)
    assert row["J&F, several"] == 100 and np.isclose(row["J&F, one"], 50)


def test_prediction_says_that_there_is_no_such_object(data, run, tmp_path, capsys):
    frames = data / "valid_u" / "JPEGImages" / "street"
    args = ["predict", str(frames), "a zebra", "both boxes", "--run", str(run)]
    assert main([*args, "--out", str(tmp_path / "out")]) == 0
    summary = json.loads((tmp_path / "out/scores.json").read_text("utf-8"))
    lines = capsys.readouterr().out.splitlines()
    for n, row in enumerate(summary["expressions"], 1):
        (line,) = [line for line in lines if line.startswith(f"{n}  ")]
        assert row["present"] == (row["presence"] > 0.5) == (row["frames_marked"] > 0)
        assert len(row["frame_presence"]) == N
        assert ("no such object in this video" in line) == (not row["present"])
