"Merging as ReferFormer does it, a frame's score, files there and back, and every refusal."

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from boxes import COLUMNS, Masks, blurred, save_ids, scenes, truth, write_data
from PIL import Image

from rvos_nb.config import RVOSError
from rvos_nb.data import Expression, VideoRecord
from rvos_nb.evaluation import evaluate
from rvos_nb.layout import ANNOTATORS
from rvos_nb.predictions import (
    FramePrediction,
    FrameTruth,
    groups_of,
    merge_objects,
    open_predictions,
    predictions_of,
    score_frame,
)

FIRST, SINGLE = "anno_0/v0/00000.png", "Annotations/v0/0/00000.png"


@pytest.fixture(scope="module")
def boxes(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("boxes"), scenes())


@pytest.fixture
def written(boxes, tmp_path):
    "Predictions in both layouts, and their scores."
    return tmp_path, evaluate(boxes, Masks(blurred), baselines=(), save=tmp_path)


def scored(boxes, root):
    return evaluate(boxes, open_predictions(root, boxes), baselines=())


def about(*asked: tuple[str, tuple[int, ...]]) -> VideoRecord:
    expressions = [Expression(str(i), "", ids, group) for i, (group, ids) in enumerate(asked)]
    return VideoRecord("v", [], None, expressions)


# --- merging


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_merging_is_referformers_argmax(dtype):
    rng = np.random.default_rng(0)
    record = about(*((a, (o,)) for o in (1, 2, 3) for a in ANNOTATORS))
    p = rng.choice(np.linspace(0, 1, 11, dtype=dtype), (12, 2, 9, 9))  # ties, and exactly 0.5
    for a, ids in enumerate(merge_objects(p, record)):
        mine = p[a::4].copy()
        mine[mine < 0.5] = 0
        assert np.array_equal(ids, np.concatenate([np.full((1, 2, 9, 9), 0.1), mine]).argmax(0))


def test_merging_with_an_index_is_merging_the_indexed_masks():
    rng = np.random.default_rng(1)
    record = about(*((a, (o,)) for o in (1, 2) for a in ANNOTATORS[:3]))
    p, index = rng.random((4, 9, 9)), [3, 0, 1, 1, 2, 3]
    assert np.array_equal(merge_objects(p, record, index), merge_objects(p[index], record))


def test_groups_hold_single_objects_in_the_usual_order():
    asked = [("annot2", (1,)), ("annot1", (2,)), ("annot1", (1,)), ("annot1", (1,)), ("", (3,))]
    record = about(*asked, ("annot1", (1, 2)), ("annot2", ()), ("annot2", None))
    found = groups_of(record)
    assert list(found.items()) == [("annot1", {1: 2, 2: 1}), ("annot2", {1: 0})]
    assert groups_of(about(("mine", (1,)), ("annot1", (1,)))) == {"annot1": {1: 1}, "mine": {1: 0}}
    assert groups_of(about(("annot1", (254,)))) == {"annot1": {254: 0}}
    assert groups_of(about(("annot1", (255,)))) == {} == groups_of(about(("", (1,))))
    assert merge_objects(np.zeros((1, 5, 6)), about(("", (1,)))).shape == (0, 5, 6)


# --- a frame's score


def test_equal_masks_are_scored_once(boxes, monkeypatch):
    "Four annotators agree, so a frame needs each (mask, object) once."
    import rvos_nb.predictions as module

    calls, original = [], module.jf
    monkeypatch.setattr(module, "jf", lambda *args: calls.append(1) or original(*args))
    record = boxes["v0"]
    masks = truth(record, 0)
    found = score_frame(FrameTruth(record, 0), masks, range(8), merge_objects(masks, record))
    assert (found.single == 1).all() and found.merged.shape == (2, 4, 3, 2)
    assert len(calls) == 6  # two objects and the empty mask, against two objects


def test_empty_truth_is_met_by_empty_masks_only(boxes):
    record = replace(boxes["v0"], expressions=[Expression("0", "no such thing", ())])
    empty, full = np.zeros((1, 40, 60), bool), np.ones((1, 40, 60), bool)
    assert score_frame(FrameTruth(record, 0), empty, [0]).single.ravel().tolist() == [1, 1]
    assert score_frame(FrameTruth(record, 0), full, [0]).single.ravel().tolist() == [0, 0]


def test_several_objects_are_their_union(boxes):
    record = replace(boxes["v0"], expressions=[Expression("0", "both things", (1, 2), "annot1")])
    both = record.masks.mask(0, (1,)) | record.masks.mask(0, (2,))
    found = score_frame(FrameTruth(record, 0), both[None], [0], merge_objects(both[None], record))
    assert (found.single == 1).all() and found.merged is None  # nothing competes


# --- sources


def test_wrong_shapes_and_lengths_are_named(boxes):
    class Short(Masks):
        def frames(self, record):
            yield from list(super().frames(record))[:-1]

    class Long(Masks):
        def frames(self, record):
            yield from [*super().frames(record)] * 2

    class Many(Masks):
        def frames(self, record):
            for found in super().frames(record):
                yield replace(found, merged=found.merged * 255)

    def one(record, t):
        return np.zeros((1, 40, 60), bool)

    class One:
        def frames(self, record):
            yield FramePrediction(one(record, 0))

    for source, match in (
        (One(), r"v0: predictions of shape \[1, 40, 60\]; expected \[8, 40, 60\]"),
        (Short(truth), "v0: predictions of 3 frames; expected 4"),
        (Long(truth), "v0: predictions of 5 frames; expected 4"),
        (Many(truth), "v0: object id 255 predicted; expected at most 254"),
    ):
        with pytest.raises(RVOSError, match=match):
            list(predictions_of(source, boxes["v0"]))


# --- files


def test_both_layouts_round_trip(boxes, written):
    root, before = written
    # merging changes masks, so that neither layout can stand for the other
    assert (before["J"] != before["identity_J"]).any()
    after = scored(boxes, root)
    assert after[COLUMNS].equals(before[COLUMNS]) and (after["missing_frames"] == 0).all()
    shutil.move(root / "Annotations", root / "aside")
    merged_only = scored(boxes, root)
    assert merged_only[COLUMNS[2:]].equals(before[COLUMNS[2:]])
    assert np.array_equal(merged_only["J"], before["identity_J"])
    shutil.move(root / "aside", root / "Annotations")
    for k in range(4):
        shutil.rmtree(root / f"anno_{k}")
    single_only = scored(boxes, root)
    assert single_only[["J", "F"]].equals(before[["J", "F"]])


def test_missing_predictions_are_empty_and_counted(boxes, written):
    root, _ = written
    shutil.rmtree(root / "anno_3/v1")
    for t in range(4):
        (root / f"Annotations/v2/0/{t:05d}.png").unlink()
    (root / "Annotations/v0/5/00002.png").unlink()
    scores = scored(boxes, root)
    gone = scores.query("video_id == 'v1' and group == 'annot2_full_video'")
    assert (gone["merged_J"] == 0).all() and (gone["missing_frames"] == 4).all() and len(gone) == 2
    row = scores.query("video_id == 'v2' and expression_id == '0'").iloc[0]
    assert row["J"] == 0 and row["missing_frames"] == 4
    row = scores.query("video_id == 'v0' and expression_id == '5'")
    assert row["missing_frames"].item() == 1


def _rgb(root):
    Image.new("RGB", (60, 40), "red").save(root / FIRST)  # no colour of DAVIS


def _resized(root):
    Image.open(root / FIRST).resize((30, 20), 0).save(root / FIRST)


def _quantised(root):
    Image.open(root / FIRST).convert("RGB").quantize(8).save(root / FIRST)


def _binary(root):
    Image.fromarray(np.full((40, 60), 255, np.uint8)).save(root / FIRST)


def _broken(root):
    (root / FIRST).write_bytes((root / FIRST).read_bytes()[:60])


def _named(root):
    (root / FIRST).rename(root / "anno_0/v0/frame1.png")


def _jpeg(root):
    Image.fromarray(np.zeros((40, 60), np.uint8)).save(root / "anno_0/v0/00000.jpg")


def _ids(root):
    shutil.copy(root / FIRST, root / SINGLE)


def _single_rgb(root):
    Image.new("RGB", (60, 40), "red").save(root / SINGLE)


def _single_size(root):
    Image.open(root / SINGLE).resize((61, 40), 0).save(root / SINGLE)


def _level(root):
    shutil.copy(root / SINGLE, root / "Annotations/v0/00000.png")


def _expression(root):
    shutil.copytree(root / "Annotations/v0/0", root / "Annotations/v0/99")


@pytest.mark.parametrize(
    "damage, match",
    [
        (
            _rgb,
            "anno_0/v0/00000.png: an RGB picture with the colour .255, 0, 0.*expected a palette",
        ),
        (_resized, "anno_0/v0/00000.png: 30x20 pixels; expected 60x40"),
        (_quantised, "anno_0/v0/00000.png: palette index 0 is the colour .* expected object ids"),
        (_binary, "anno_0/v0/00000.png: holds the value 255; expected object ids"),
        (_broken, "anno_0/v0/00000.png: not a mask that can be read"),
        (_named, "anno_0/v0/frame1.png: expected only the video's frames"),
        (_jpeg, "anno_0/v0/00000.jpg: expected only the video's frames"),
        (_ids, "Annotations/v0/0/00000.png: holds the values 0, 1, 2; expected 0 and 255"),
        (_single_rgb, "Annotations/v0/0/00000.png: an RGB picture with the colour"),
        (_single_size, "Annotations/v0/0/00000.png: 61x40 pixels; expected 60x40"),
        (_level, "Annotations/v0/00000.png: expected one folder an expression"),
        (
            _expression,
            "Annotations/v0/99: expected one folder an expression.*ids of this video: 0, 1",
        ),
    ],
)
def test_every_slip_is_named(boxes, written, damage, match):
    root, _ = written
    damage(root)
    with pytest.raises(RVOSError, match=match) as e:
        scored(boxes, root)
    assert "\n" not in str(e.value)


def test_wrong_folders_are_named(boxes, tmp_path):
    with pytest.raises(RVOSError, match="no predictions found; expected anno_0"):
        open_predictions(tmp_path / "nowhere", boxes)
    (tmp_path / "v0").mkdir()
    with pytest.raises(RVOSError, match="no predictions found; expected anno_0"):
        open_predictions(tmp_path, boxes)
    (tmp_path / "anno_0/bear").mkdir(parents=True)
    match = r"none of the 3 videos of split 'val'; expected folders such as 'v0', found \['bear'\]"
    with pytest.raises(RVOSError, match=match):
        open_predictions(tmp_path, boxes)


def test_grey_ids_and_other_palettes_are_read(boxes, written):
    "Values count, not colours, as long as the colours do not contradict them."
    root, before = written
    im = Image.open(root / FIRST)
    Image.fromarray(np.array(im)).save(root / FIRST)  # greyscale ids
    im = Image.open(root / "anno_1/v0/00000.png")
    im.putpalette([0, 0, 0, 10, 20, 30, 40, 50, 60])
    im.save(root / "anno_1/v0/00000.png")
    assert scored(boxes, root)[COLUMNS].equals(before[COLUMNS])


def test_ids_beyond_the_objects_are_proposals_too(boxes, tmp_path):
    "Object 2 is id 7, in some frames only: matched it counts, by identity it does not."
    for v, record in boxes.items():
        for t, frame in enumerate(record.frames):
            ids = record.masks.mask(t, (1,)) + np.uint8(7 if t else 2) * record.masks.mask(t, (2,))
            for k in range(4):
                save_ids(tmp_path / f"anno_{k}/{v}/{frame.stem}.png", ids.astype(np.uint8))
    scores = scored(boxes, tmp_path)
    first, second = (scores[scores["object_ids"] == (o,)] for o in (1, 2))
    assert np.allclose(first[COLUMNS], 1)
    assert np.allclose(second["identity_J"], 0.25) and np.allclose(second["merged_J"], 0.75)


def test_frames_are_saved_under_their_own_names(boxes, written):
    root, _ = written
    stems = [f.stem for f in boxes["v0"].frames]
    assert sorted(p.stem for p in Path(root, "Annotations/v0/3").iterdir()) == stems
    assert sorted(p.name for p in root.iterdir()) == [
        "Annotations",
        *(f"anno_{k}" for k in range(4)),
    ]
