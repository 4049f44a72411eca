"Protocols against the official figures, means by hand, controls, oracles, any segmenter."

import json
import tracemalloc
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from boxes import (
    COLUMNS,
    Colours,
    Masks,
    blurred,
    nothing,
    save_ids,
    scenes,
    swapped,
    truth,
    write_data,
)
from PIL import Image

from rvos_nb import evaluation as ev, tables
from rvos_nb.config import ConfigError, RVOSError
from rvos_nb.data import Annotations, Expression, ObjectMasks, VideoRecord, other_expression
from rvos_nb.layout import ANNOTATORS
from rvos_nb.predictions import FrameTruth, _match, open_predictions, predictions_of
from rvos_nb.segmenter import FrameMasks

NO_BASELINES = {"controls": (), "baselines": ()}


@pytest.fixture(scope="module")
def boxes(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("boxes"), scenes())


def annotations_of(*records: VideoRecord) -> Annotations:
    "Records that lie on no disk."
    return Annotations({r.id: r for r in records}, "nowhere", "val")


def coloured(boxes) -> Annotations:
    "The boxes with expressions that name the objects' colours, as `Colours` understands them."
    said = {(1,): "the red thing", (2,): "a blue thing"}
    records = []
    for record in boxes.values():
        expressions = [replace(e, text=said[e.object_ids]) for e in record.expressions]
        records.append(replace(record, expressions=expressions))
    return annotations_of(*records)


def tracks(path, masks: dict[int, list], expressions: list[Expression], **rest) -> VideoRecord:
    "A record of `ObjectMasks`, with grey frames in the folder `path`."
    path.mkdir(exist_ok=True)
    n, size = len(masks[1]), np.shape(next(m for m in masks[1] if m is not None))
    frames = [path / f"{t:05d}.jpg" for t in range(n)]
    for frame in frames:
        Image.fromarray(np.full((*size, 3), 90, np.uint8)).save(frame)
    return VideoRecord(path.name, frames, ObjectMasks(size, masks, **rest), expressions)


# --- protocols


def lag(m):
    return m[np.maximum(np.arange(len(m)) - 5, 0)]


def real_masks(davis, name: str, n: int) -> np.ndarray:
    files = sorted((davis / "DAVIS/Annotations/480p" / name).glob("*.png"))[:n]
    return np.stack([np.array(Image.open(f)) for f in files])


@pytest.mark.slow
def test_golden_pairs_through_the_whole_way(davis, tmp_path):
    "Composed real masks with void, predictions lagging and swapped: the official figures."
    golden = json.loads((davis / "golden_jf.json").read_text())["pairs"]
    for name, want in golden.items():
        a, b = (real_masks(davis, s, want["frames"]) for s in name.split("+"))
        g = np.where(a == 1, 1, np.where(b == 1, 2, 0)).astype(np.uint8)
        g[:, :20, :40] = 255
        annotations = write_data(tmp_path / name, {"pair": g})
        for t, p in enumerate(np.uint8([0, 2, 1])[lag(np.where(g == 255, 0, g))]):
            for k in range(4):
                save_ids(tmp_path / name / f"out/anno_{k}/pair/{t:05d}.png", p)
        source = open_predictions(tmp_path / name / "out", annotations)
        scores = ev.evaluate(annotations, source, **NO_BASELINES)
        assert len(scores) == 8
        for _, s in scores.groupby("group"):
            matched = s.sort_values("matched_id")  # the golden lists follow the predictions
            own = s.sort_values("object_ids")
            for m in "JF":
                close = {"rtol": 0, "atol": 1e-9}
                assert np.allclose(matched[f"merged_{m}"], want["matched"][m], **close), (name, m)
                assert np.allclose(own[f"identity_{m}"], want["identity"][m], **close), (name, m)


def test_permuted_real_masks_are_forgiven_by_merged_only(davis, tmp_path):
    a, b = real_masks(davis, "cows", 20), real_masks(davis, "dog", 20)
    ids = np.where(a == 1, 1, np.where(b == 1, 2, 0)).astype(np.uint8)
    assert ((ids == 1).any((1, 2)) & (ids == 2).any((1, 2))).all()
    annotations = write_data(tmp_path, {"cows+dog": ids})
    scores = ev.evaluate(annotations, Masks(swapped), **NO_BASELINES)
    assert (scores[["merged_J", "merged_F"]] == 1).all(axis=None)
    assert (scores[["identity_J", "J"]] == 0).all(axis=None)
    assert tables.identity_gap(scores)["identity gap"].item() > 80


def test_permuted_truth_without_davis(boxes):
    scores = ev.evaluate(boxes, Masks(swapped), **NO_BASELINES)
    assert (scores[["merged_J", "merged_F"]] == 1).all(axis=None)
    assert (scores[["J", "identity_J"]] == 0).all(axis=None)
    assert set(zip(scores["object_ids"], scores["matched_id"])) == {((1,), 2), ((2,), 1)}


def test_best_total_and_not_the_best_first():
    assert _match(np.array([[0.9, 0.8], [0.7, 0.1]])) == {1: 0, 0: 1}
    more = np.array([[0.1, 0.2], [0.3, 0.9], [0.8, 0.85]])  # more predictions than objects
    assert _match(more) == {0: 2, 1: 1}


def over_void(record, t):
    return truth(record, t) | record.masks.void(t)


def test_void_is_scored_nowhere(boxes):
    scores = ev.evaluate(boxes, Masks(over_void), **NO_BASELINES)
    assert boxes["v0"].masks.void(0).any() and (scores[COLUMNS] == 1).all(axis=None)


def test_outlines_match_within_the_tolerance_and_no_further(tmp_path):
    ids = np.zeros((2, 240, 320), np.uint8)  # diagonal 400: a tolerance of 4 pixels
    ids[:, 100:160, 100:200] = 1
    annotations = write_data(tmp_path, {"v": ids})
    f = []
    for by in (3, 4, 5):
        moved = Masks(lambda record, t, by=by: np.roll(truth(record, t), by, 2))
        f.append(ev.evaluate(annotations, moved, **NO_BASELINES)["F"].iloc[0])
    assert f[0] == f[1] == 1 and f[2] < 0.8


def test_only_the_protocols_that_are_asked_for(boxes):
    whole = ev.evaluate(boxes, Masks(blurred), **NO_BASELINES)
    single = ev.evaluate(boxes, Masks(blurred), protocols=("per_expression",), **NO_BASELINES)
    assert single[["J", "F"]].equals(whole[["J", "F"]]) and whole["J"].between(0.1, 0.99).all()
    assert single[COLUMNS[2:]].isna().all(axis=None)
    assert list(single.columns) == list(whole.columns)
    merged = tables.table(single).loc["predictions", ["merged", "identity", "identity gap"]]
    assert (merged == "n/a").all()


@pytest.mark.slow
def test_processes_change_nothing(boxes):
    rest = {"oracle_strides": (8, 1), "controls": ("swapped", "empty")}
    data = coloured(boxes)
    for source in (Masks(blurred), Colours()):
        one, two = (ev.evaluate(data, source, workers=n, **rest) for n in (1, 2))
        frames = (np.stack(scores["J_frames"]) for scores in (one, two))
        assert np.array_equal(*frames, equal_nan=True)
        assert one.drop(columns="J_frames").equals(two.drop(columns="J_frames"))


# --- any segmenter


def test_a_segmenter_of_ten_lines_is_scored_with_all_controls(boxes):
    "`Colours` marks what has the named colour: it listens, and the controls show it."
    scores = ev.evaluate(coloured(boxes), Colours(), oracle_strides=(1,))
    mean = scores.groupby("source")["J"].mean()
    assert list(dict.fromkeys(scores["source"])) == [
        "model",
        "swapped",
        "empty",
        "other video",
        "everything",
        "nothing",
        "centre blob",
        "oracle",
        "random object",
    ]
    assert mean["model"] > 0.97 and mean["swapped"] < 0.02 and mean["empty"] == 0
    assert mean["other video"] == mean["model"]  # these videos' expressions are the same
    assert mean["random object"] == pytest.approx(0.5) and mean["oracle"] == 1
    drops = tables.language_controls(scores).set_index("control")["drop"]
    assert drops["swapped"] > 90 and drops["other video"] == 0


class Counting(Colours):
    asked = []

    def stream(self, video, expressions):
        self.asked.append((video.name, list(expressions)))
        return super().stream(video, expressions)


def test_one_stream_answers_a_video_and_each_text_is_asked_once(boxes):
    data = coloured(boxes)
    data["v1"] = replace(data["v1"], expressions=[Expression("0", "something else", (1,))])
    Counting.asked = []
    ev.evaluate(data, Counting(), baselines=())
    own = ["the red thing", "a blue thing"]
    want = [("v0", [*own, "", "something else"]), ("v1", ["something else", "", own[0]])]
    assert Counting.asked[:2] == want and len(Counting.asked) == 3
    Counting.asked = []
    ev.evaluate(data, Counting(), controls=("swapped",), baselines=())
    assert Counting.asked[0] == ("v0", own)


def test_controls_ask_what_they_say(boxes):
    "Each control's scores are those of its texts, asked directly."
    data = coloured(boxes)
    data["v1"] = replace(data["v1"], expressions=data["v1"].expressions[:3])
    scores = ev.evaluate(data, Colours(), baselines=())
    record, donor = data["v0"], data["v1"].expressions
    n = len(record.expressions)
    texts = {
        "model": [e.text for e in record.expressions],
        "swapped": [record.expressions[other_expression(record, i)].text for i in range(n)],
        "empty": [""] * n,
        "other video": [donor[i % 3].text for i in range(n)],
    }
    for control, asked in texts.items():
        again = [replace(e, text=x) for e, x in zip(record.expressions, asked)]
        want = ev.evaluate(
            annotations_of(replace(record, expressions=again)), Colours(), **NO_BASELINES
        )
        mine = scores[(scores["source"] == control) & (scores["video_id"] == "v0")]
        assert mine[COLUMNS].reset_index(drop=True).equals(want[COLUMNS]), control
        assert mine["expression"].tolist() == texts["model"]


def test_masks_are_enlarged_to_the_size_of_the_truth(boxes):
    class Coarse:
        name = "coarse"

        def stream(self, video, expressions):
            for frame in video.read():
                logits = np.full((len(expressions), 4, 6), -1, np.float32)
                logits[:, :2] = 1
                yield FrameMasks(frame, logits)

    found = next(predictions_of(Coarse(), boxes["v0"]))
    assert found.masks.shape == (8, 40, 60) and found.masks[:, :20].all()
    assert not found.masks[:, 20:].any()


def test_a_segmenter_that_loses_something_is_named(boxes):
    class Loses(Colours):
        def stream(self, video, expressions):
            for found in super().stream(video, expressions[:-1]):
                yield found

    class Stops(Colours):
        def stream(self, video, expressions):
            yield next(super().stream(video, expressions))

    shape = r"v0: colours gave logits of shape \[2, 40, 60\]; expected \[3, h, w\]"
    with pytest.raises(RVOSError, match=shape):
        ev.evaluate(coloured(boxes), Loses())
    with pytest.raises(RVOSError, match="v0: predictions of 1 frames; expected 4"):
        ev.evaluate(coloured(boxes), Stops())


def test_unknown_names_are_refused(boxes):
    for what in ("controls", "baselines", "protocols"):
        with pytest.raises(ConfigError, match=f"{what}: 'mood' is unknown; expected some of"):
            ev.evaluate(boxes, Colours(), **{what: ("mood",)})


class Still:
    "The same mask in every frame."

    size = 288, 480

    def labelled(self, t):
        return True

    def mask(self, t, object_ids):
        found = np.zeros(self.size, bool)
        found[50:150, 100:200] = bool(object_ids)
        return found

    def void(self, t):
        return np.zeros(self.size, bool)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_video(tmp_path):
    "Peak of what Python and numpy hold, for 10 and for 100 frames of 288x480."
    frame = tmp_path / "0.png"
    Image.fromarray(np.full((*Still.size, 3), 90, np.uint8)).save(frame)
    peaks = []
    for n in (10, 100):
        expressions = [Expression(str(i), "a red thing", (i,), "annot1") for i in (1, 2)]
        data = annotations_of(VideoRecord("still", [frame] * n, Still(), expressions))
        tracemalloc.start()
        ev.evaluate(data, Colours(), oracle_strides=(8,))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


# --- records of any kind


def test_overlapping_several_and_no_objects(tmp_path):
    a, b = np.zeros((2, 30, 40), bool)
    a[5:20, 5:20] = True
    b[10:25, 10:30] = True
    expressions = [
        Expression("0", "one", (1,), "annot1"),
        Expression("1", "both", (1, 2), "annot1"),
        Expression("2", "a unicorn", ()),
        Expression("3", "other", (2,), "annot1"),
    ]
    data = annotations_of(tracks(tmp_path / "v", {1: [a, a], 2: [b, None]}, expressions))
    scores = ev.evaluate(data, Masks(truth), oracle_strides=(1,)).set_index(
        ["source", "expression_id"]
    )
    mine = scores.loc["predictions"]
    assert (mine[["J", "F"]] == 1).all(axis=None)  # the union, and nothing for the unicorn
    assert mine.loc[["1", "2"], COLUMNS[2:]].isna().all(axis=None)
    assert mine.loc[["0", "3"], COLUMNS[2:]].notna().all(axis=None)
    assert (scores.loc["oracle", ["J", "F"]] == 1).all(axis=None)
    assert scores.loc[("nothing", "2"), "J"] == 1 and scores.loc[("everything", "2"), "J"] == 0
    both = (a | b).mean() / 2 + a.mean() / 2
    assert scores.loc[("everything", "1"), "J"] == pytest.approx(both)


def test_without_groups_nothing_is_merged(boxes):
    record = boxes["v0"]
    alone = [replace(e, group="") for e in record.expressions]
    scores = ev.evaluate(annotations_of(replace(record, expressions=alone)), Masks(truth))
    assert scores[COLUMNS[2:]].isna().all(axis=None) and scores["J"].notna().all()
    row = tables.table(scores).loc["predictions"]
    assert row["J"] == "100.0" and row["per_expression"] == "100.0"
    assert row["merged"] == row["identity"] == row["identity gap"] == "n/a"


def test_frames_without_labels_are_scored_nowhere(tmp_path):
    mask = np.zeros((30, 40), bool)
    mask[5:20, 5:20] = True
    labelled = [True, False, False, True]
    expressions = [Expression("0", "it", (1,), "annot1")]
    record = tracks(tmp_path / "v", {1: [mask, None, None, mask]}, expressions, labelled=labelled)

    def wrong_in_between(record, t):
        return mask[None] if labelled[t] else ~mask[None]

    scores = ev.evaluate(annotations_of(record), Masks(wrong_in_between), **NO_BASELINES)
    assert (scores[COLUMNS] == 1).all(axis=None)
    assert np.isnan(scores["J_frames"][0]).tolist() == [False, True, True, False]
    none = tracks(tmp_path / "w", {1: [mask, mask]}, expressions, labelled=[False, False])
    with pytest.raises(RVOSError, match="w: none of its 2 frames is labelled"):
        ev.evaluate(annotations_of(none), Masks(truth))


def test_hidden_truth_is_refused(boxes):
    record = boxes["v1"]
    hidden = [replace(e, object_ids=None) for e in record.expressions]
    for secret in (replace(record, masks=None), replace(record, expressions=hidden)):
        with pytest.raises(RVOSError, match="v1: its true masks are hidden.*choose a split"):
            ev.evaluate(annotations_of(boxes["v0"], secret), Colours())


# --- means and intervals


def test_annotators_are_averaged_last(tmp_path):
    "annot2 wrote about one video only. Rows would average otherwise than annotators do."
    videos, said = scenes(3), {}
    for v in videos:
        for a in ANNOTATORS:
            if a != "annot2" or v == "v0":
                said |= {(v, o, a): "a thing" for o in (1, 2)}
    annotations = write_data(tmp_path, videos, said)

    def first_only(record, t):
        return truth(record, t) if record.id == "v0" else nothing(record, t)

    scores = ev.evaluate(annotations, Masks(first_only), **NO_BASELINES)
    overview = tables.overview(scores).set_index("protocol")
    by_annotator = (3 * (1 / 3) + 1) / 4
    assert overview.loc["merged", "J"] == pytest.approx(100 * by_annotator)
    assert overview.loc["per_expression", "J"] == pytest.approx(100 * 8 / 20)


def test_object_without_an_expression_counts_as_empty_when_merged(tmp_path):
    said = {("v0", o, a): "a thing" for o in (1, 2) for a in ANNOTATORS if (a, o) != ("annot2", 2)}
    scores = ev.evaluate(write_data(tmp_path, scenes(1), said), Masks(truth), **NO_BASELINES)
    assert scores["J"].notna().sum() == 7 and scores["J"].mean() == 1
    lacking = scores[(scores["group"] == "annot2") & (scores["object_ids"] == (2,))]
    assert lacking["merged_J"].tolist() == [0.0]


def test_interval_is_the_bootstrap_over_videos():
    rng = np.random.default_rng(1)
    value = rng.random(40)  # one mean a video, 3 rows each: rows of a video stand and fall together
    videos = np.repeat([f"v{i:02d}" for i in range(40)], 3)
    rows = {"video_id": videos, "group": "annot1", "J": np.repeat(value, 3), "F": 0.0}
    scores = pd.DataFrame(rows)
    draws = tables.bootstrap(scores, "per_expression")
    assert draws[0, 0] == pytest.approx(100 * value.mean())
    assert draws[0, 2] == pytest.approx(50 * value.mean())
    low, high = tables.confidence_interval(draws[:, 0])
    normal = 196 * value.std() / np.sqrt(40)  # the normal approximation
    assert (high - low) / 2 == pytest.approx(normal, rel=0.1)
    assert np.array_equal(tables.bootstrap(scores, "per_expression"), draws)  # the same again
    one_video = tables.bootstrap(scores[:3], "per_expression")[:, 0]
    assert np.isnan(tables.confidence_interval(one_video)).all()


def test_weights_follow_the_rows_of_a_video():
    rows = {"video_id": list("aab"), "group": "annot1", "J": [1, 1, 0], "F": [1, 1, 0]}
    d = tables.bootstrap(pd.DataFrame(rows), "per_expression", n=200)[:, 0]
    assert d[0] == pytest.approx(200 / 3)
    assert set(d[1:].round(6)) == {0, round(200 / 3, 6), 100}


# --- baselines, oracles, controls


def test_baselines_and_oracles(boxes):
    scores = ev.evaluate(boxes, Masks(truth), oracle_strides=(16, 8, 4, 1))
    mean = scores.groupby("source")["J"].mean()
    assert mean["oracle"] == 1 and mean["nothing"] == 0
    assert mean["oracle, stride 4"] > mean["oracle, stride 8"] > mean["oracle, stride 16"]
    shares = []
    for record in boxes.values():
        for o in (1, 2):
            area = np.mean([record.masks.mask(t, (o,)).sum() for t in range(4)])
            shares.append(area / (~record.masks.void(0)).sum())
    assert mean["everything"] == pytest.approx(np.mean(shares))
    assert mean["random object"] == pytest.approx(0.5)  # one of two objects that never meet


def test_oracles_see_frames_of_the_models_size():
    mask = np.zeros((48, 64), bool)
    mask[10:30, 10:40] = True
    assert np.array_equal(ev.oracle_mask(mask, 1, (24, 32)), mask)
    own, small = ev.oracle_mask(mask, 8), ev.oracle_mask(mask, 4, (24, 32))
    assert own.shape == small.shape == mask.shape and np.array_equal(own, small)


def test_centre_blob_is_centred():
    m = ev.centre_blob(40, 60)
    assert m.sum() == pytest.approx(np.pi * 10 * 15, rel=0.03)
    assert np.array_equal(m, m[::-1, ::-1])


def test_one_object_a_video_has_nobody_to_swap_with(tmp_path):
    videos = {v: np.where(ids == 2, 0, ids) for v, ids in scenes(2).items()}
    annotations = write_data(tmp_path, videos)
    scores = ev.evaluate(annotations, Colours(), controls=("swapped", "empty"))
    assert not {"swapped", "random object"} & set(scores["source"])
    assert (tables.table(scores, tables.ORDER).loc["swapped"] == "n/a").all()
    assert tables.language_controls(scores).set_index("control").loc["swapped", "videos"] == 0
    means = tables.mean_scores(scores)
    assert means["J (swapped)"] == means["random object"] == "n/a"
    assert list(means.index) == ["J", "J (swapped)", "everything", "centre blob", "random object"]


def test_the_short_form_is_the_mean_over_expressions():
    rows = {"source": ["model", "model", "swapped"], "J": [0.5, 0.7, 0.25]}
    want = {"J": 0.6, "J (swapped)": 0.25, "everything": "n/a"}
    found = tables.mean_scores(pd.DataFrame(rows)).to_dict()
    assert {k: found[k] for k in want} == want


def test_the_drop_is_taken_on_the_same_videos():
    def row(source, video, j):
        row = {"source": source, "video_id": video, "expression_id": "0", "group": "annot1"}
        return row | {"J": j, "F": j}

    rows = [row("model", "a", 0.9), row("model", "b", 0.5), row("model", "c", 0.3)]
    rows += [row("swapped", "b", 0.1), row("swapped", "c", 0.1)]
    r = tables.language_controls(pd.DataFrame(rows)).set_index("control").loc["swapped"]
    assert r["videos"] == 2 and r["model"] == pytest.approx(40) and r["drop"] == pytest.approx(30)
    assert 20 <= r["low"] <= r["high"] <= 40


def test_trivial_answers_are_computed_once_for_each_set_of_objects(boxes):
    answers = ev._trivial_answers(FrameTruth(boxes["v0"], 0), tables.BASELINES, (8,), None)
    assert {name: len(a.p) for name, a in answers.items()} == {
        "everything": 1,
        "nothing": 1,
        "centre blob": 1,
        "oracle, stride 8": 2,
    }
