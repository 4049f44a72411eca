"Frames, masks in all their forms, and the records that hold them."

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask
from rvos_nb.config import RVOSError
from rvos_nb.data import (
    Annotations,
    Expression,
    IdMasks,
    ObjectMasks,
    Problems,
    VideoRecord,
    expression_table,
    object_table,
    other_expression,
)
from rvos_nb.pictures import picture_size, read_mask, read_picture
from rvos_nb.layout import davis_palette, write_ids

SIZE = (24, 32)


def save(folder: Path, maps: list[np.ndarray | None]) -> list[Path | None]:
    "Id maps as PNGs."
    folder.mkdir(parents=True, exist_ok=True)
    paths = [None if ids is None else folder / f"{t:05d}.png" for t, ids in enumerate(maps)]
    for path, ids in zip(paths, maps):
        if path is not None:
            write_ids(path, ids)
    return paths


def disk(x: int, size=SIZE) -> np.ndarray:
    rows, columns = np.mgrid[: size[0], : size[1]]
    return (rows - 12) ** 2 + (columns - x) ** 2 < 40


@pytest.fixture
def maps() -> list[np.ndarray | None]:
    "Three frames of two objects and void; frame 1 is not labelled, object 2 leaves."
    first, last = np.zeros(SIZE, np.uint8), np.zeros(SIZE, np.uint8)
    first[disk(8)] = 1
    first[disk(24)] = 2
    last[disk(10)] = 1
    last[:3] = 255
    return [first, None, last]


def rle(mask: np.ndarray, compressed: bool = True) -> dict:
    "COCO's run lengths of a mask; as numbers by hand, down the columns."
    if compressed:
        found = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        return {"size": list(mask.shape), "counts": found["counts"].decode()}
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges, len(flat)]).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}


# --- pictures


def test_masks_are_ids_never_colours(tmp_path):
    void = Image.fromarray(np.array([[0, 1], [2, 255]], np.uint8), "L")
    void.putpalette(davis_palette())
    void.save(tmp_path / "v.png")
    assert read_mask(tmp_path / "v.png").tolist() == [[0, 1], [2, 255]]
    Image.new("RGB", (4, 4), "red").save(tmp_path / "c.png")
    with pytest.raises(RVOSError, match="c.png.*RGB.*palette"):
        read_mask(tmp_path / "c.png")


def test_missing_and_broken_pictures_are_named(tmp_path):
    for read in (read_picture, read_mask, picture_size):
        with pytest.raises(RVOSError, match=r"none\.png: no such"):
            read(tmp_path / "none.png")
        (tmp_path / "text.png").write_text("no picture")
        with pytest.raises(RVOSError, match=r"text\.png: not a"):
            read(tmp_path / "text.png")


def test_a_mask_of_another_size_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    write_ids(tmp_path / "m.png", np.zeros((60, 80), np.uint8))
    read_pixels = []
    monkeypatch.setattr(Image.Image, "load", lambda self: read_pixels.append(1))
    with pytest.raises(RVOSError, match=r"m\.png: height and width \(60, 80\).*\(6, 8\)"):
        read_mask(tmp_path / "m.png", (6, 8))
    assert picture_size(tmp_path / "m.png") == (60, 80) and not read_pixels


# --- masks from pictures of ids


def test_id_masks_answer_all_questions(tmp_path, maps):
    masks = IdMasks(save(tmp_path, maps))
    assert (len(masks), masks.size) == (3, SIZE)
    assert [masks.labelled(t) for t in range(3)] == [True, False, True]
    assert [masks.objects(t) for t in (0, 2)] == [(1, 2), (1,)]
    assert np.array_equal(masks.mask(0, (1, 2)), disk(8) | disk(24))
    assert np.array_equal(masks.mask(2, (1,)), maps[2] == 1)
    assert not masks.mask(0, ()).any() and masks.mask(0, ()).dtype == bool
    assert not masks.mask(0, (7,)).any()
    assert np.array_equal(masks.void(2), maps[2] == 255) and not masks.void(0).any()
    assert [path.name for path in masks.files()] == ["00000.png", "00002.png"]
    with pytest.raises(RVOSError, match="frame 1 has no mask"):
        masks.mask(1, (1,))


def test_a_frame_is_read_once_for_all_questions(tmp_path, maps, monkeypatch):
    import rvos_nb.data as data

    calls, read = [], data.read_mask
    monkeypatch.setattr(data, "read_mask", lambda *args: calls.append(args) or read(*args))
    masks = IdMasks(save(tmp_path, maps))
    for ids in ((1,), (2,), (1, 2)):
        masks.mask(0, ids)
    masks.objects(0), masks.void(0)
    assert len(calls) == 1
    masks.mask(2, (1,))
    assert len(calls) == 2


def test_an_answer_is_the_caller_s_own(tmp_path, maps):
    for masks in (IdMasks(save(tmp_path, maps)), ObjectMasks(SIZE, {1: [disk(8)]})):
        masks.mask(0, (1,))[:] = True
        masks.void(0)[:] = True
        assert np.array_equal(masks.mask(0, (1,)), disk(8)) and not masks.void(0).any()


def test_masks_that_do_not_fit_are_named(tmp_path, maps):
    paths = save(tmp_path / "masks", maps)
    frames = [tmp_path / f"{t:05d}.jpg" for t in range(3)]
    for frame in frames:
        Image.new("RGB", (SIZE[1], SIZE[0])).save(frame)
    assert IdMasks(paths, frames).objects(2) == (1,)
    write_ids(paths[2], np.zeros((9, 9), np.uint8))
    for masks in (IdMasks(paths, frames), IdMasks(paths)):
        with pytest.raises(RVOSError, match=r"00002\.png: height and width \(9, 9\)"):
            masks.objects(2)
    with pytest.raises(RVOSError, match="3 masks for 2 frames"):
        IdMasks(paths, frames[:2])
    with pytest.raises(RVOSError, match="no frame of this video has a mask"):
        IdMasks([None, None]).size


# --- masks object by object


@pytest.mark.parametrize("form", [lambda m: m, rle, lambda m: rle(m, compressed=False)])
def test_object_masks_in_every_form_may_overlap(form):
    near, far = disk(10), disk(14)
    masks = ObjectMasks(SIZE, {1: [form(near), None], 4: [form(far), form(far)]})
    assert (len(masks), masks.size, masks.labelled(1)) == (2, SIZE, True)
    assert [masks.objects(t) for t in (0, 1)] == [(1, 4), (4,)]
    assert np.array_equal(masks.mask(0, (1,)), near) and np.array_equal(masks.mask(0, (4,)), far)
    assert (masks.mask(0, (1,)) & masks.mask(0, (4,))).any()
    assert np.array_equal(masks.mask(0, (1, 4)), near | far)
    assert not masks.mask(1, (1,)).any() and not masks.mask(0, ()).any()
    assert not masks.void(0).any() and masks.files() == []


def test_polygons_are_filled():
    square = [[4, 4, 12, 4, 12, 10, 4, 10]]
    masks = ObjectMasks(SIZE, {1: [square, square + [[20, 2, 24, 2, 24, 6, 20, 6]], []]})
    expected = np.zeros(SIZE, bool)
    expected[4:10, 4:12] = True
    assert np.array_equal(masks.mask(0, (1,)), expected)
    expected[2:6, 20:24] = True
    assert np.array_equal(masks.mask(1, (1,)), expected)
    assert not masks.mask(2, (1,)).any()


def test_a_polygon_may_leave_the_frame_a_little():
    masks = ObjectMasks(SIZE, {1: [[[-5, -5, 40, -5, 40, 30, -5, 30]]]})
    assert masks.mask(0, (1,)).all()


@pytest.mark.parametrize("seed", range(5))
def test_compressed_run_lengths_are_those_of_pycocotools(seed):
    mask = np.random.default_rng(seed).random((37, 53)) < (0.02, 0.5, 0.98, 0.0, 1.0)[seed]
    packed = rle(mask)
    source = ObjectMasks(
        mask.shape, {1: [packed], 2: [packed | {"counts": packed["counts"].encode()}]}
    )
    for o in (1, 2):
        assert np.array_equal(source.mask(0, (o,)), mask)


HOSTILE = {
    "huge": {"size": [10**6, 10**6], "counts": "x"},
    "too short": {"size": [24, 32], "counts": "1"},
    "too long": {"size": [24, 32], "counts": rle(np.ones((400, 400), bool))["counts"]},
    "no run lengths": {"size": [24, 32], "counts": "é漢"},
    "breaks off": {"size": [24, 32], "counts": "oooo"},
    "endless number": {"size": [24, 32], "counts": "o" * 10**6},
    "negative": {"size": [24, 32], "counts": [-5, 773]},
    "beyond C": {"size": [24, 32], "counts": [2**40, 768 - 2**40]},
    "fractions": {"size": [24, 32], "counts": [1.5, 766.5]},
    "no counts": {"size": [24, 32]},
    "no size": {"counts": "1"},
    "size of text": {"size": "24", "counts": "1"},
    "far point": [[1e9, 0, 0, 1e9, 5, 5]],
    "not a number": [[float("nan"), 0, 0, 3, 3, 3]],
    "infinite": [[float("inf"), 0, 0, 3, 3, 3]],
    "long outline": [[0, 0, 31, 23] * 10**4],
    "two points": [[0, 0, 3, 3]],
    "odd": [[0, 0, 3, 0, 3, 3, 1]],
    "nested": [[[0, 0], [3, 0], [3, 3]]],
    "numbers": [0, 0, 3, 0, 3, 3],
    "text": "polygon",
    "words": [["a", "b", "c", "d", "e", "f"]],
    "other shape": np.zeros((5, 5), bool),
    "number": 5,
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_segmentations_end_in_one_line(what):
    masks = ObjectMasks(SIZE, {3: [None, HOSTILE[what]]}, source=Path("toy.json"))
    start = time.perf_counter()
    with pytest.raises(RVOSError, match=r"toy\.json, object 3, frame 1: .*expected"):
        masks.mask(1, (3,))
    assert time.perf_counter() - start < 1


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(),
    lambda x: st.lists(x, max_size=8) | st.dictionaries(st.sampled_from(["size", "counts"]), x),
    max_leaves=10,
)
POLYGON = st.lists(st.floats(-100, 100) | st.integers(-10, 40), min_size=4, max_size=14)
RLE = st.fixed_dictionaries(
    {
        "size": st.just(list(SIZE)),
        "counts": st.text("0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[]^_`abcdefghijklmno")
        | st.lists(st.integers(-3, 800), max_size=5),
    }
)


@settings(max_examples=400, deadline=10_000, derandomize=True, database=None)
@given(segmentation=st.one_of(ANY, RLE, st.lists(POLYGON, max_size=3)))
def test_any_segmentation_is_a_mask_or_an_error(segmentation):
    try:
        mask = ObjectMasks(SIZE, {1: [segmentation]}).mask(0, (1,))
    except RVOSError:
        return
    assert mask.shape == SIZE and mask.dtype == bool


def test_tracks_have_one_length():
    with pytest.raises(RVOSError, match=r"tracks of \[1, 2\] frames"):
        ObjectMasks(SIZE, {1: [None], 2: [None, None]})
    with pytest.raises(RVOSError, match=r"tracks of \[1, 2\] frames"):
        ObjectMasks(SIZE, {1: [None, None]}, labelled=[True])
    sparse = ObjectMasks(SIZE, {1: [disk(5), None]}, labelled=[True, False])
    assert [sparse.labelled(t) for t in (0, 1)] == [True, False]
    assert len(ObjectMasks(SIZE, {}, labelled=[True] * 4)) == 4


# --- records


def record_of(object_ids, groups=(), masks=None) -> VideoRecord:
    groups = groups or [""] * len(object_ids)
    said = [
        Expression(str(i), f"thing {o}", o, g) for i, (o, g) in enumerate(zip(object_ids, groups))
    ]
    return VideoRecord("v", [Path(f"{t:05d}.jpg") for t in range(3)], masks, said)


def test_a_record_knows_the_objects_that_are_named():
    assert record_of([(3,), (1, 2), (), None, (2,)]).object_ids() == (1, 2, 3)
    assert record_of([None]).object_ids() == ()


def test_a_strided_record_keeps_frames_masks_and_labels_together(tmp_path, maps):
    source = IdMasks(save(tmp_path, maps))
    record = record_of([(1,)], masks=source).strided(2)
    assert [f.name for f in record.frames] == ["00000.jpg", "00002.jpg"]
    masks = record.masks
    assert (len(masks), masks.size, masks.files()) == (2, SIZE, source.files())
    assert masks.labelled(1) and masks.objects(1) == (1,)
    assert np.array_equal(masks.mask(1, (1,)), source.mask(2, (1,)))
    assert np.array_equal(masks.void(1), source.void(2))
    assert record_of([(1,)]).strided(2).masks is None
    assert len(record.strided(2).frames) == len(record.strided(2).masks) == 1


def test_a_split_is_a_dictionary(tmp_path):
    few = Annotations({"v": record_of([(1,), (2,), (1, 2)])}, tmp_path, "val", ["w"])
    assert few["v"].id == "v" and few.root == tmp_path
    assert few.describe().startswith(
        "val: 1 videos, 2 objects, 3 expressions, 3 frames; left out 1"
    )
    assert few.subset(["v"], "dev").split == "dev" and few.subset(["v"]).left_out == ["w"]
    with pytest.raises(RVOSError, match="no video 'u' in split 'val'; there are: v"):
        few.subset(["u"])


def test_problems_are_collected_or_raised():
    listed = Problems(strict=False)
    listed.add("v", Path("a") / "b", "broken")
    assert listed.found == [("v", str(Path("a") / "b"), "broken")]
    strict = Problems()
    strict.add("v", "here", "an empty expression", fatal=False)
    with pytest.raises(RVOSError, match="there: broken"):
        strict.add("v", "there", "broken")


def test_tables_have_a_row_for_each_expression_and_object(tmp_path, maps):
    record = record_of([(1,), (1, 2), ()], masks=IdMasks(save(tmp_path, maps)))
    hidden = VideoRecord("h", record.frames, None, [Expression("0", "a thing", None)])
    split = Annotations({"v": record, "h": hidden}, tmp_path, "val")
    texts = expression_table(split)
    assert texts.object_ids.tolist() == [(1,), (1, 2), (), None] and list(texts.video_id)[-1] == "h"
    objects = object_table(split).set_index("object_id")
    assert list(objects.index) == [1, 2] and objects.shown.tolist() == [1.0, 0.5]
    assert objects.area_percent[2] == pytest.approx(100 * disk(24).mean())
    nothing = Annotations({"v": record_of([()], masks=record.masks)}, tmp_path, "val")
    assert len(object_table(nothing)) == 0 and "area_percent" in object_table(nothing)


# --- the swapped expression


def test_the_other_expression_is_the_same_annotator_s_about_the_next_object():
    record = record_of([(1,), (1,), (2,), (2,)], groups=["a", "b", "a", "b"])
    assert [other_expression(record, i) for i in range(4)] == [2, 3, 0, 1]
    assert other_expression(record_of([(1,), (1,)]), 0) is None


def test_the_other_expression_of_a_group_that_said_nothing_is_the_first():
    assert other_expression(record_of([(1,), (2,), (2,)], groups=["a", "b", "c"]), 0) == 1


def test_the_other_expression_of_several_objects_names_others():
    record = record_of([(1, 2), (1,), (3,), (), None])
    assert [other_expression(record, i) for i in range(5)] == [2, 2, 1, None, None]
    assert other_expression(record_of([(1, 2), (1,)]), 0) is None  # a part of them is no other
    assert other_expression(record_of([(1, 2), (1, 2), ()]), 0) is None
