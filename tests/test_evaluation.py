"""Protocols against the official figures, means and intervals by hand, files there and back, and every refusal with a real file."""
import contextlib, json, shutil
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from rvos_nb import evaluation as ev
from rvos_nb.core import Config, ConfigError, RVOSError
from rvos_nb.data import ANNOTATORS, load_annotations
from rvos_nb.demo import davis_palette, make_demo_data
from rvos_nb.model import RVOSModel

COLUMNS = ["J", "F", "merged_J", "merged_F", "identity_J", "identity_F"]


def save_ids(path: Path, ids: np.ndarray):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(ids)
    image.putpalette(davis_palette())
    image.save(path)


def write_data(root: Path, videos: dict[str, np.ndarray], sentences: dict[tuple[str, int, str], str] | None = None):
    "A val split in DAVIS's layout: id maps [T,H,W] by video, and sentences by (video, object, annotator), by default one from each annotator."
    if sentences is None:
        sentences = {(v, int(o), a): f"thing {o}" for v, ids in videos.items() for o in np.setdiff1d(ids, (0, 255)) for a in ANNOTATORS}
    (root / "DAVIS/ImageSets/2017").mkdir(parents=True)
    (root / "DAVIS/ImageSets/2017/val.txt").write_text("\n".join(videos))
    (root / "davis_text_annotations").mkdir()
    for a in ANNOTATORS:
        lines = [f'{v} {o} "{text}"' for (v, o, who), text in sentences.items() if who == a]
        (root / f"davis_text_annotations/Davis17_{a}.txt").write_text("\n".join(lines))
    for v, ids in videos.items():
        (root / "DAVIS/JPEGImages/480p" / v).mkdir(parents=True)
        for t, m in enumerate(ids):
            Image.fromarray(np.full((*m.shape, 3), 90, np.uint8)).save(root / f"DAVIS/JPEGImages/480p/{v}/{t:05d}.jpg")
            save_ids(root / f"DAVIS/Annotations/480p/{v}/{t:05d}.png", m)
    return load_annotations(root, "val")


def scenes(n: int = 3, seed: int = 0, shape=(4, 40, 60)) -> dict[str, np.ndarray]:
    "Two boxes that wander and never meet, and a void corner."
    rng, videos = np.random.default_rng(seed), {}
    for k in range(n):
        ids = np.zeros(shape, np.uint8)
        for t, m in enumerate(ids):
            y, x = rng.integers(2, 18), rng.integers(2, 12)
            m[y:y + 10 + k, x:x + 12] = 1
            m[y:y + 8, x + 25:x + 40] = 2
            m[30:, 50:] = 255
        videos[f"v{k}"] = ids
    return videos


def exchanged(entry, frames, size):
    ids, objects = ev.read_ids(entry, frames), ev.objects_of(entry)
    return np.stack([ids == objects[(objects.index(e["object_id"]) + 1) % len(objects)] for e in entry["expressions"]])


def blurred(entry, frames, size):
    "Probabilities that depend on nothing but the frame's number, whatever the pieces."
    p = ev.truth(entry, frames, size, stride=4)
    noise = [np.random.default_rng(t).random((len(p), *size), np.float32) for t in range(len(entry["masks"]))[frames]]
    return 0.6 * p + 0.6 * np.stack(noise, 1)  # sometimes above one half for both objects


@pytest.fixture(scope="module")
def boxes(tmp_path_factory): return write_data(tmp_path_factory.mktemp("boxes"), scenes())


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp("demo") / "shapes"
    make_demo_data(root, n_train=1, n_val=3, n_frames=(4, 5), progress=False)
    return load_annotations(root, "val")


# --- protocols

def lag(m): return m[np.maximum(np.arange(len(m)) - 5, 0)]


def test_golden_pairs_through_the_whole_way(davis, tmp_path):
    "Composed real masks with void, predictions lagging and exchanged: both protocols give the official evaluator's figures."
    golden = json.loads((davis / "golden_jf.json").read_text())["pairs"]
    for name, want in golden.items():
        a, b = ([np.array(Image.open(f)) for f in sorted((davis / "DAVIS/Annotations/480p" / s).glob("*.png"))] for s in name.split("+"))
        a, b = np.stack(a[:want["frames"]]), np.stack(b[:want["frames"]])
        g = np.where(a == 1, 1, np.where(b == 1, 2, 0)).astype(np.uint8)
        g[:, :20, :40] = 255
        annotations = write_data(tmp_path / name, {"pair": g})
        for t, p in enumerate(np.uint8([0, 2, 1])[lag(np.where(g == 255, 0, g))]):
            for k in range(4): save_ids(tmp_path / name / f"out/anno_{k}/pair/{t:05d}.png", p)
        scores = ev.evaluate(annotations, ev.open_predictions(tmp_path / name / "out", annotations))
        assert len(scores) == 8
        for _, s in scores.groupby("annotator"):
            matched, own = s.sort_values("matched_id"), s.sort_values("object_id")  # the golden lists follow the predictions
            for m in "JF":
                assert np.allclose(matched[f"merged_{m}"], want["matched"][m], rtol=0, atol=1e-9), (name, m)
                assert np.allclose(own[f"identity_{m}"], want["identity"][m], rtol=0, atol=1e-9), (name, m)


def test_permuted_real_masks_are_forgiven_by_merged_only(davis, tmp_path):
    read = lambda s: np.stack([np.array(Image.open(f)) for f in sorted((davis / "DAVIS/Annotations/480p" / s).glob("*.png"))[:20]])
    a, b = read("cows"), read("dog")
    ids = np.where(a == 1, 1, np.where(b == 1, 2, 0)).astype(np.uint8)
    annotations = write_data(tmp_path, {"cows+dog": ids})
    both = ((ids == 1).any((1, 2)) & (ids == 2).any((1, 2))).all()
    scores = ev.evaluate(annotations, lambda v: exchanged)
    assert both and (scores[["merged_J", "merged_F"]] == 1).all(axis=None) and (scores["identity_J"] == 0).all() and (scores["J"] == 0).all()
    assert ev.gap(scores)["identity gap"].item() > 80


def test_permuted_truth_without_davis(boxes):
    scores = ev.evaluate(boxes, lambda v: exchanged)
    assert (scores[["merged_J", "merged_F"]] == 1).all(axis=None) and (scores[["J", "identity_J"]] == 0).all(axis=None)
    assert set(zip(scores["object_id"], scores["matched_id"])) == {(1, 2), (2, 1)}


def test_best_total_and_not_the_best_first():
    assert ev.match(np.array([[0.9, 0.8], [0.7, 0.1]])) == {1: 0, 0: 1}
    assert ev.match(np.array([[0.1, 0.2], [0.3, 0.9], [0.8, 0.85]])) == {0: 2, 1: 1}  # more predictions than objects


def test_void_is_scored_nowhere(boxes):
    def over_void(entry, frames, size):
        ids = ev.read_ids(entry, frames)
        return np.stack([(ids == e["object_id"]) | (ids == 255) for e in entry["expressions"]])
    assert (ev.evaluate(boxes, lambda v: over_void)[COLUMNS] == 1).all(axis=None)


def test_outlines_match_within_the_tolerance_and_no_further(tmp_path):
    ids = np.zeros((2, 240, 320), np.uint8)  # diagonal 400: a tolerance of 4 pixels
    ids[:, 100:160, 100:200] = 1
    annotations = write_data(tmp_path, {"v": ids})
    def moved(entry, frames, size, by): return np.stack([np.roll(ev.read_ids(entry, frames) == 1, by, 2)] * 4)
    f = [ev.evaluate(annotations, lambda v: partial(moved, by=k))["F"].iloc[0] for k in (3, 4, 5)]
    assert f[0] == f[1] == 1 and f[2] < 0.8


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_merging_is_referformers_argmax(dtype):
    rng = np.random.default_rng(0)
    entry = {"expressions": [{"annotator": a, "object_id": o} for o in (1, 2, 3) for a in ANNOTATORS]}
    p = rng.choice(np.linspace(0, 1, 11, dtype=dtype), (12, 2, 9, 9))  # ties, and exactly 0.5
    for a, ids in enumerate(ev.merge(p, entry)):
        mine = p[a::4].copy()
        mine[mine < 0.5] = 0
        assert np.array_equal(ids, np.concatenate([np.full((1, 2, 9, 9), 0.1), mine]).argmax(0))


def test_ids_beyond_the_objects_are_proposals_too(boxes, tmp_path):
    "Object 2 is predicted as id 7: matched it counts, by identity it does not; also where it shows in some frames only."
    for v, entry in boxes.items():
        for t in range(len(entry["masks"])):
            ids = ev.read_ids(entry, slice(t, t + 1))[0]
            for k in range(4): save_ids(tmp_path / f"anno_{k}/{v}/{t:05d}.png", np.uint8([0, 1, 7 if t else 2])[np.where(ids == 255, 0, ids)])
    scores = ev.evaluate(boxes, ev.open_predictions(tmp_path, boxes)).set_index(["object_id"])
    assert np.allclose(scores.loc[1, COLUMNS], 1) and np.allclose(scores.loc[2, "identity_J"], 0.25) and np.allclose(scores.loc[2, "merged_J"], 0.75)


def test_pieces_change_nothing(boxes, monkeypatch):
    whole = ev.evaluate(boxes, lambda v: blurred)
    monkeypatch.setattr(ev, "PIECE", 1)
    assert ev.evaluate(boxes, lambda v: blurred)[COLUMNS].equals(whole[COLUMNS])
    assert whole["J"].between(0.1, 0.99).all()


def test_processes_change_nothing(boxes):
    sources = ev.floors() | ev.ceilings()
    one, two = (ev.evaluate(boxes, sources, workers=n) for n in (1, 2))
    assert one.drop(columns="J_frames").equals(two.drop(columns="J_frames"))


def test_wrong_shape_is_named(boxes):
    with pytest.raises(RVOSError, match=r"v0: predictions of shape \[1, .*expected \[8,"):
        ev.evaluate(boxes, lambda v: lambda entry, frames, size: np.zeros((1, 4, *size), bool))


# --- means and intervals

def test_annotators_are_averaged_last(tmp_path):
    "annot2 wrote about one video only. Rows would average otherwise than annotators do."
    videos = scenes(3)
    sentences = {(v, o, a): "a thing" for v in videos for o in (1, 2) for a in ANNOTATORS if a != "annot2" or v == "v0"}
    annotations = write_data(tmp_path, videos, sentences)
    scores = ev.evaluate(annotations, lambda v: ev.truth if v == "v0" else partial(ev.constant, value=False))
    overview = ev.overview(scores).set_index("protocol")
    by_annotator = (3 * (1 / 3) + 1) / 4
    assert overview.loc["merged", "J"] == pytest.approx(100 * by_annotator)
    assert overview.loc["per_expression", "J"] == pytest.approx(100 * 8 / 20)


def test_object_without_a_sentence_counts_as_empty_when_merged(tmp_path):
    sentences = {("v0", o, a): "a thing" for o in (1, 2) for a in ANNOTATORS if (a, o) != ("annot2", 2)}
    scores = ev.evaluate(write_data(tmp_path, scenes(1), sentences), lambda v: ev.truth)
    assert scores["J"].notna().sum() == 7 and scores["J"].mean() == 1
    assert scores.query("annotator == 'annot2' and object_id == 2")["merged_J"].tolist() == [0.0]


def test_interval_is_the_bootstrap_over_videos():
    rng = np.random.default_rng(1)
    value = rng.random(40)  # one mean a video, 3 rows each: rows of a video stand and fall together
    scores = pd.DataFrame({"video_id": np.repeat([f"v{i:02d}" for i in range(40)], 3), "annotator": "annot1", "J": np.repeat(value, 3), "F": 0.0})
    d = ev.draws(scores, "per_expression")
    assert d[0, 0] == pytest.approx(100 * value.mean()) and d[0, 2] == pytest.approx(50 * value.mean())
    low, high = ev.interval(d[:, 0])
    assert (high - low) / 2 == pytest.approx(196 * value.std() / np.sqrt(40), rel=0.1)  # the normal approximation
    assert np.array_equal(ev.draws(scores, "per_expression"), d)  # the same again
    assert np.isnan(ev.interval(ev.draws(scores[:3], "per_expression")[:, 0])).all()  # one video


def test_weights_follow_the_rows_of_a_video():
    scores = pd.DataFrame({"video_id": list("aab"), "annotator": "annot1", "J": [1, 1, 0], "F": [1, 1, 0]})
    d = ev.draws(scores, "per_expression", n=200)[:, 0]
    assert d[0] == pytest.approx(200 / 3) and set(d[1:].round(6)) == {0, round(200 / 3, 6), 100}


# --- floors, ceilings, controls

def test_floors_and_ceilings(boxes):
    scores = ev.evaluate(boxes, ev.floors() | ev.ceilings())
    mean = scores.groupby("source")["J"].mean()
    assert mean["truth"] == 1 and mean["nothing"] == 0 and mean["truth, stride 4"] > mean["truth, stride 8"] > mean["truth, stride 16"]
    area = np.mean([(ev.read_ids(e) == o).sum((1, 2)).mean() / (ev.read_ids(e) != 255).sum((1, 2)).mean() for e in boxes.values() for o in (1, 2)])
    assert mean["everything"] == pytest.approx(area)


def test_controls_ask_what_they_say(shapes):
    "Against the model asked directly: exchanged, empty and other sentences."
    torch.manual_seed(0)
    model = RVOSModel(Config())
    model.head.layers[-1].bias.data.fill_(0.3)  # some pixels on either side of one half
    sources, (video, following) = ev.model_sources(model, shapes), list(shapes)[:2]
    assert list(sources) == ["model", "exchanged sentences", "empty sentence", "other video's sentences"]
    entry, frames = shapes[video], slice(0, 3)
    size = ev.read_ids(entry, slice(0, 1)).shape[1:]
    answers = {name: source(video)(entry, frames, size) for name, source in sources.items()}
    own = answers["model"]
    assert own.shape == (len(entry["expressions"]), 3, *size) and not np.array_equal(own[0], own[-1])
    places = [ev.partner(entry["expressions"], i) for i in range(len(own))]
    assert np.array_equal(answers["exchanged sentences"], own[places]) and sorted(places) == list(range(len(own)))
    def ask(sentence):
        asked = ev._asking(shapes.subset([video]), lambda v: [sentence])
        return ev.model_sources(model, asked)["model"](video)(asked[video], frames, size)[0]
    assert np.allclose(answers["empty sentence"], ask(""), atol=1e-5) and np.array_equal(answers["empty sentence"][0], answers["empty sentence"][-1])
    assert np.allclose(answers["other video's sentences"][1], ask(shapes[following]["expressions"][1]["expression"]), atol=1e-5)


def test_one_object_a_video_has_no_exchange(tmp_path):
    videos = {v: np.where(ids == 2, 0, ids) for v, ids in scenes(2).items()}
    annotations = write_data(tmp_path, videos)
    sources = ev.model_sources(RVOSModel(Config()), annotations)
    scores = ev.evaluate(annotations, {n: sources[n] for n in ("model", "exchanged sentences", "empty sentence")})
    assert "exchanged sentences" not in set(scores["source"])
    assert (ev.table(scores, ev.ORDER).loc["exchanged sentences"] == "n/a").all()
    assert ev.listening(scores).set_index("control").loc["exchanged sentences", "videos"] == 0


def test_the_drop_is_taken_on_the_same_videos():
    row = lambda source, video, j: {"source": source, "video_id": video, "annotator": "annot1", "J": j, "F": j}
    scores = pd.DataFrame([row("model", "a", 0.9), row("model", "b", 0.5), row("model", "c", 0.3), row("exchanged sentences", "b", 0.1), row("exchanged sentences", "c", 0.1)])
    r = ev.listening(scores).set_index("control").loc["exchanged sentences"]
    assert r["videos"] == 2 and r["model"] == pytest.approx(40) and r["drop"] == pytest.approx(30) and 20 <= r["low"] <= r["high"] <= 40


# --- breakdowns

def test_breakdown_by_hand():
    scores = pd.DataFrame({"video_id": list("aabb"), "kind": ["x", "y", "x", "x"], "J": [1, 0.5, 0, 0.5], "F": [1, 0.5, 0, 0.5],
                           "expression": ["a red bright star", "the Left one", "a dog", "a big black dog"], "J_frames": [np.array([1, 1, 0, 0.0])] * 4, "source": "model"})
    t = ev.by(scores, "kind").set_index("kind")
    assert t.loc["x", "J&F"] == pytest.approx(50) and t.loc["x", "sentences"] == 3 and t.loc["y", "videos"] == 1 and np.isnan(t.loc["y", "low"])
    w = ev.by_words(scores).set_index("sentences with")["sentences"].to_dict()
    assert w == {"colour words": 2, "place words": 1, "size words": 1, "none of these": 1}  # "bright" is not "right"
    assert ev.decay(scores).iloc[0, 1:].tolist() == [100, 100, 0, 0, 100]


def test_object_facts_by_hand(tmp_path):
    ids = np.zeros((4, 40, 30), np.uint8)  # diagonal 50
    for t in range(3): ids[t, 5:15, 2 + 5 * t:12 + 5 * t] = 1  # 100 pixels, 5 a frame, gone at the end
    ids[:, 30:35, 10:20] = 2
    ids[3, 30:32, 10:20] = 0
    said = {1: "a green star", 2: "the big star"}
    f = ev.object_facts(write_data(tmp_path, {"v": ids}, {("v", o, a): s for o, s in said.items() for a in ANNOTATORS})).set_index("object_id")
    assert f.loc[1, "area_percent"] == pytest.approx(100 / 12) and f.loc[1, "speed"] == pytest.approx(10) and f.loc[1, "shown"] == 0.75
    assert f.loc[2, "least_area"] == pytest.approx(0.6) and f.loc[2, "shown"] == 1 and (f["similar"] == 1).all()


def test_refvos_categories_and_label_noise(davis, tmp_path):
    annotations = load_annotations(davis, "val")
    rows = [{"source": "model", "video_id": v, **e, "J": 0.5, "F": 0.5} for v, a in annotations.items() for e in a["expressions"]]
    t = ev.by_categories(pd.DataFrame(rows), ev.read_categories(davis)).set_index("RefVOS category")
    assert t.loc["says: category", "sentences"] == len(annotations) == 9
    assert t.loc[[i for i in t.index if "Trivial" in i or "rivial" in i or "Not a" in i], "sentences"].sum() == 9
    noisy = write_data(tmp_path, {"lab-coat": scenes(1)["v0"], "other": scenes(1)["v0"]})
    scores = ev.evaluate(noisy, lambda v: ev.truth)
    assert set(scores[scores["label_noise"]]["video_id"]) == {"lab-coat"}
    assert set(ev.video_table(scores).set_index("video_id")["note"].items()) == {("lab-coat", "known label noise"), ("other", "")}


def test_categories_of_another_form_are_refused(tmp_path):
    (tmp_path / "DAVIS17_RE_categorization.csv").write_text("video_id,instance_id\na,1\n")
    with pytest.raises(RVOSError, match="DAVIS17_RE_categorization.csv: no column"): ev.read_categories(tmp_path)
    assert ev.read_categories(tmp_path / "elsewhere") is None


# --- files

@pytest.fixture
def written(boxes, tmp_path):
    "Predictions in both layouts, and their scores."
    return tmp_path, ev.evaluate(boxes, lambda v: blurred, save=tmp_path)


def test_both_layouts_round_trip(boxes, written):
    root, before = written
    assert (before["J"] != before["identity_J"]).any()  # merging changes masks, so that neither layout can stand for the other
    after = ev.evaluate(boxes, ev.open_predictions(root, boxes))
    assert after[COLUMNS].equals(before[COLUMNS]) and (after["missing_frames"] == 0).all()
    shutil.move(root / "Annotations", root / "aside")
    merged_only = ev.evaluate(boxes, ev.open_predictions(root, boxes))
    assert merged_only[COLUMNS[2:]].equals(before[COLUMNS[2:]]) and np.array_equal(merged_only["J"], before["identity_J"])
    shutil.move(root / "aside", root / "Annotations")
    for k in range(4): shutil.rmtree(root / f"anno_{k}")
    single_only = ev.evaluate(boxes, ev.open_predictions(root, boxes))
    assert single_only[["J", "F"]].equals(before[["J", "F"]])


def test_missing_predictions_are_empty_and_listed(boxes, written):
    root, before = written
    shutil.rmtree(root / "anno_3/v1")
    for t in range(4): (root / f"Annotations/v2/0/{t:05d}.png").unlink()
    (root / "Annotations/v0/5/00002.png").unlink()
    scores = ev.evaluate(boxes, ev.open_predictions(root, boxes))
    gone = scores.query("video_id == 'v1' and annotator == 'annot2_full_video'")
    assert (gone["merged_J"] == 0).all() and (gone["missing_frames"] == 4).all() and len(gone) == 2
    row = scores.query("video_id == 'v2' and expression_id == '0'").iloc[0]
    assert row["J"] == 0 and row["missing_frames"] == 4
    assert scores.query("video_id == 'v0' and expression_id == '5'")["missing_frames"].item() == 1
    s = ev.summarise(scores, boxes, "predictions", {"what": ""})
    assert s["missing_predictions"] == ["v0/5: 1 of 4 frames", "v1/3: 4 of 4 frames", "v1/7: 4 of 4 frames", "v2/0: 4 of 4 frames"]
    assert "4 sentences lack predictions" in ev.describe_summary(s)


FIRST, SINGLE = "anno_0/v0/00000.png", "Annotations/v0/0/00000.png"

def _rgb(root): (im := Image.open(root / FIRST)).convert("RGB").save(root / FIRST)
def _resized(root): Image.open(root / FIRST).resize((30, 20), 0).save(root / FIRST)
def _quantised(root): Image.open(root / FIRST).convert("RGB").quantize(8).save(root / FIRST)
def _binary(root): Image.fromarray(np.full((40, 60), 255, np.uint8)).save(root / FIRST)
def _broken(root): (root / FIRST).write_bytes((root / FIRST).read_bytes()[:60])
def _named(root): (root / FIRST).rename(root / "anno_0/v0/frame1.png")
def _jpeg(root): Image.fromarray(np.zeros((40, 60), np.uint8)).save(root / "anno_0/v0/00000.jpg")
def _ids(root): shutil.copy(root / FIRST, root / SINGLE)
def _single_rgb(root): Image.open(root / SINGLE).convert("RGB").save(root / SINGLE)
def _single_size(root): Image.open(root / SINGLE).resize((61, 40), 0).save(root / SINGLE)
def _level(root): shutil.copy(root / SINGLE, root / "Annotations/v0/00000.png")
def _expression(root): shutil.copytree(root / "Annotations/v0/0", root / "Annotations/v0/99")

@pytest.mark.parametrize("damage, match", [
    (_rgb, "anno_0/v0/00000.png: a picture of mode RGB; expected a palette PNG"), (_resized, "anno_0/v0/00000.png: 30x20 pixels; expected 60x40"),
    (_quantised, "anno_0/v0/00000.png: palette index 0 is the colour .* expected object ids"), (_binary, "anno_0/v0/00000.png: holds the value 255; expected object ids"),
    (_broken, "anno_0/v0/00000.png: not a mask that can be read"), (_named, "anno_0/v0/frame1.png: expected only the video's frames"),
    (_jpeg, "anno_0/v0/00000.jpg: expected only the video's frames"), (_ids, "Annotations/v0/0/00000.png: holds the values 0, 1, 2; expected 0 and 255"),
    (_single_rgb, "Annotations/v0/0/00000.png: a picture of mode RGB"), (_single_size, "Annotations/v0/0/00000.png: 61x40 pixels; expected 60x40"),
    (_level, "Annotations/v0/00000.png: expected one folder a sentence"), (_expression, "Annotations/v0/99: expected one folder a sentence.*ids of this video: 0, 1"),
])
def test_every_slip_is_named(boxes, written, damage, match):
    root, _ = written
    damage(root)
    with pytest.raises(RVOSError, match=match) as e: ev.evaluate(boxes, ev.open_predictions(root, boxes))
    assert "\n" not in str(e.value)


def test_wrong_folders_are_named(boxes, tmp_path):
    with pytest.raises(RVOSError, match="no predictions found; expected anno_0"): ev.open_predictions(tmp_path / "nowhere", boxes)
    (tmp_path / "v0").mkdir()
    with pytest.raises(RVOSError, match="no predictions found; expected anno_0"): ev.open_predictions(tmp_path, boxes)
    (tmp_path / "anno_0/bear").mkdir(parents=True)
    with pytest.raises(RVOSError, match=r"none of the 3 videos of split 'val'; expected folders such as 'v0', found \['bear'\]"): ev.open_predictions(tmp_path, boxes)


def test_grey_ids_and_other_palettes_are_read(boxes, written):
    "Values count, not colours, as long as the colours do not contradict them."
    root, before = written
    im = Image.open(root / FIRST)
    Image.fromarray(np.array(im)).save(root / FIRST)  # greyscale ids
    im = Image.open(root / "anno_1/v0/00000.png")
    im.putpalette([0, 0, 0, 10, 20, 30, 40, 50, 60])
    im.save(root / "anno_1/v0/00000.png")
    assert ev.evaluate(boxes, ev.open_predictions(root, boxes))[COLUMNS].equals(before[COLUMNS])


# --- the report

def test_report_writes_all_and_never_mixes(boxes, written, tmp_path, capsys):
    root, before = written
    out = tmp_path / "results"
    ev.report(out, predictions=str(root), data=str(boxes.root), save_masks=True)
    assert {p.name for p in out.iterdir()} == set(ev.RESULTS)
    text = capsys.readouterr().out
    assert all(n in text for n in ("predictions", "everything", "centre blob", "truth, stride 32", "3 videos, 24 sentences")) and "nan" not in text
    csv = pd.read_csv(out / "scores.csv", dtype={"expression_id": str})
    mine = csv[csv["source"] == "predictions"]
    assert len(mine) == 24 and np.allclose(mine[COLUMNS], before[COLUMNS]) and mine.groupby(["video_id", "object_id", "expression_id", "annotator"]).size().eq(1).all()
    again = ev.evaluate(boxes, ev.open_predictions(out / "masks", boxes))
    assert again[COLUMNS].equals(before[COLUMNS])
    summary = json.loads((out / "summary.json").read_text())
    assert summary["sentences"] == 24 and {s["protocol"] for s in summary["scores"]} == set(ev.PROTOCOLS)
    old = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    with pytest.raises(RVOSError, match="holds results of an earlier evaluation .*--overwrite"): ev.report(out, predictions=str(root), data=str(boxes.root))
    _rgb(root)  # an evaluation that fails leaves the old results as they were
    with pytest.raises(RVOSError, match="mode RGB"): ev.report(out, predictions=str(root), data=str(boxes.root), overwrite=True)
    assert {p.name: p.stat().st_mtime_ns for p in out.iterdir()} == old
    (root / FIRST).unlink()
    (out / "notes.txt").write_text("mine")
    ev.report(out, predictions=str(root), data=str(boxes.root), overwrite=True)
    assert not (out / "masks").exists() and (out / "notes.txt").read_text() == "mine"  # nothing old remains, nothing of the reader's goes
    assert len(json.loads((out / "summary.json").read_text())["missing_predictions"]) == 2


def test_report_says_what_it_needs(boxes, tmp_path):
    with pytest.raises(ConfigError, match="either --run or --predictions"): ev.report(tmp_path / "o")
    with pytest.raises(ConfigError, match="either --run or --predictions"): ev.report(tmp_path / "o", run="a", predictions="b")
    with pytest.raises(ConfigError, match="--predictions needs --data"): ev.report(tmp_path / "o", predictions="b")
    with pytest.raises(RVOSError, match="no checkpoint"): ev.report(tmp_path / "o", run=str(tmp_path / "no-run"))
    assert not (tmp_path / "o").exists()
    (tmp_path / "file").touch()
    with pytest.raises(RVOSError, match="is a file"): ev.report(tmp_path / "file", predictions="b", data="c")


def test_pictures(boxes):
    scores = ev.evaluate(boxes, ev.floors() | {"model": lambda v: blurred})
    mine = scores[scores["source"] == "model"]
    labels = [t.get_text() for t in ev.bar_chart(scores, ev.ORDER).axes[0].get_yticklabels()]
    assert labels == ["everything", "nothing", "centre blob", "model"]
    assert len(ev.time_chart(mine).axes) == 3 and len(ev.time_chart(mine, ["v1"]).axes) == 1
    with pytest.raises(RVOSError, match="no scores of video 'bear'; there are: v0, v1, v2"): ev.time_chart(mine, ["bear"])
    sheet = ev.worst_sheet(boxes, lambda v: blurred, mine, n=2)
    assert sheet.dtype == np.uint8 and sheet.ndim == 3 and ((sheet.astype(int) @ (1, 0, -1)) > 100).any()  # orange
