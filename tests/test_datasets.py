"Folders to records: both forms of the expressions, hidden and sparse masks, several objects."

import json
import os
import shutil
from pathlib import Path

import pytest
from rvos_nb.config import ConfigError, RVOSError
from rvos_nb.data import Annotations, IdMasks, Problems
from rvos_nb.datasets import (
    DATASETS,
    Reader,
    hold_out,
    known_splits,
    load_annotations,
    read_meta_expressions,
    read_text_annotations,
)
from rvos_nb.layout import ANNOTATORS, DAVIS_2017
from rvos_nb.shapes import make_shapes


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    return make_shapes(folder, n_train=6, n_val=3, n_frames=(5, 9), progress=False)


@pytest.fixture
def copy(shapes, tmp_path) -> Path:
    return Path(shutil.copytree(shapes, tmp_path / "copy"))


def write_meta(root: Path, split: str, videos: dict[str, dict]) -> Path:
    "A meta_expressions.json of {video: {expression id: entry}}."
    path = root / "meta_expressions" / split / "meta_expressions.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"videos": {v: {"expressions": e} for v, e in videos.items()}}))
    return path


def convert(annotations: Annotations, root: Path, videos: list[str], entries=None) -> Path:
    "`videos` in the layout of Ref-YouTube-VOS; the expressions of all, or `entries`."
    for v in videos:
        record = annotations[v]
        shutil.copytree(record.frames[0].parent, root / "valid" / "JPEGImages" / v)
        shutil.copytree(record.masks.files()[0].parent, root / "valid" / "Annotations" / v)
    if entries is None:
        entries = {}
        for v, record in annotations.items():
            said = record.expressions
            entries[v] = {e.id: {"exp": e.text, "obj_id": str(e.object_ids[0])} for e in said}
    write_meta(root, "valid", entries)
    return root


# --- the two forms


def test_davis_val_is_complete(davis):
    val = load_annotations(davis, "val")
    assert len(val) == 9
    assert len(val.left_out) >= 21 and "left out" in val.describe()
    for record in val.values():
        assert [f.stem for f in record.frames] == [m.stem for m in record.masks.files()]
        assert all(m.exists() for m in record.masks.files())
        assert [e.group for e in record.expressions] == list(ANNOTATORS)
    e = val["blackswan"].expressions[1]
    assert (e.id, e.object_ids, e.group, e.kind) == ("1", (1,), "annot1_full_video", "")
    assert e.text == "a black feathered swan"


def test_both_forms_say_the_same(davis, tmp_path):
    "The text files and the converted json of the same data."
    root = tmp_path / "converted"
    root.mkdir()
    (root / "DAVIS").symlink_to(davis / "DAVIS")
    shutil.copytree(davis / "meta_expressions", root / "meta_expressions")
    text, converted = load_annotations(davis, "val"), load_annotations(root, "val")
    assert (text.format, converted.format) == ("davis", "meta_expressions")
    assert {v: r.expressions for v, r in text.items()} == {
        v: r.expressions for v, r in converted.items()
    }


def test_the_shapes_state_the_kind_of_each_expression(shapes):
    expressions = [e for r in load_annotations(shapes, "val").values() for e in r.expressions]
    assert {e.kind for e in expressions} == {"attribute"}
    assert [e.id for e in expressions[:4]] == ["0", "1", "2", "3"]


def test_latin1_and_misspelt_names(tmp_path):
    text = 'clasic-car 1 "a caf\xe9 racer"\ndog-scale 2 "a dog"\nmotor-bike 1 "a bike"\n'
    for a in ANNOTATORS:
        encoding = "latin-1" if a.startswith("annot2") else "utf-8"
        (tmp_path / f"Davis17_{a}.txt").write_bytes(text.encode(encoding))
    found = read_text_annotations(tmp_path)
    assert set(found) == {"classic-car", "dogs-scale", "motorbike"} <= DAVIS_2017
    assert {e.text for e in found["classic-car"]} == {"a caf\xe9 racer"}
    assert [e.group for e in found["dogs-scale"]] == list(ANNOTATORS)


def test_a_byte_order_mark_is_no_part_of_the_text(copy):
    path = copy / "davis_text_annotations" / "Davis17_annot1.txt"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    before = load_annotations(copy, "train")
    assert "shapes-train-0000" in before and not before.left_out


@pytest.mark.parametrize("line", ["bear", 'bear one "a bear"', "bear 1 a bear", '"a bear"'])
def test_a_bad_line_is_named(copy, line):
    path = copy / "davis_text_annotations" / "Davis17_annot1.txt"
    n = len(path.read_text().splitlines()) + 1
    with open(path, "a") as f:
        f.write(line + "\n")
    with pytest.raises(RVOSError, match=rf"Davis17_annot1.txt, line {n}.*expected"):
        load_annotations(copy, "val")


def test_a_missing_file_or_a_wrong_encoding_is_named(copy):
    path = copy / "davis_text_annotations" / "Davis17_annot1.txt"
    path.write_bytes('x 1 "caf\xe9"\n'.encode("latin-1"))
    with pytest.raises(RVOSError, match=r"Davis17_annot1.txt: not utf-8 \("):
        load_annotations(copy, "val")
    path.unlink()
    with pytest.raises(RVOSError, match="Davis17_annot1.txt: missing"):
        load_annotations(copy, "val")


BROKEN_JSON = [
    "",
    "[]",
    "{}",
    '{"videos": []}',
    '{"videos": {"a": 1}}',
    '{"videos": {"a": {"expressions": {"0": {"obj_id": "1"}}}}}',
    '{"videos": {"a": {"expressions": {"0": {"exp": "x", "obj_id": "one"}}}}}',
    '{"videos": {"a": {"expressions": {"0": {"exp": "x", "obj_id": [1, "one"]}}}}}',
    '{"videos": {"a": {"expressions": {"0": {"exp": "x", "obj_id": [[1]]}}}}}',
    '{"videos": {"a": {"expressions": {"0": {"exp": "x", "obj_id": [1, 255]}}}}}',
    "\xff",
]


@pytest.mark.parametrize("text", BROKEN_JSON)
def test_a_broken_json_is_named(tmp_path, text):
    path = tmp_path / "meta_expressions.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(RVOSError, match="meta_expressions.json"):
        read_meta_expressions(path)


def test_an_expression_may_name_several_objects_or_none_or_hide_them(tmp_path):
    said = {
        "0": {"exp": "the dog", "obj_id": "2"},
        "1": {"exp": "both", "obj_id": [2, "1", 2]},
        "2": {"exp": "a zebra", "obj_id": []},
        "3": {"exp": "the same dog", "obj_id": 2},
        "4": {"exp": "who knows"},
        "5": {"exp": "who knows", "obj_id": None},
    }
    path = write_meta(tmp_path, "valid", {"v": said})
    found = {e.id: e for e in read_meta_expressions(path)["v"]}
    ids = {i: e.object_ids for i, e in found.items()}
    assert ids == {"0": (2,), "1": (1, 2), "2": (), "3": (2,), "4": None, "5": None}
    groups = [found[i].group for i in "012345"]
    assert groups == ["annot1", "", "", "annot1_full_video", "", ""]  # by place, of single objects


# --- folders


def test_folders_that_are_not_data(tmp_path, copy):
    with pytest.raises(RVOSError, match="no such folder"):
        load_annotations(tmp_path / "nowhere", "val")
    with pytest.raises(RVOSError, match="JPEGImages/480p"):
        load_annotations(tmp_path, "val")
    shutil.rmtree(copy / "davis_text_annotations")
    with pytest.raises(RVOSError, match="davis_text_annotations"):
        load_annotations(copy, "val")


def test_converted_layout_without_image_sets(shapes, tmp_path):
    "As Ref-YouTube-VOS: valid/JPEGImages/<video>, the videos taken from json and folders."
    val = load_annotations(shapes, "val")
    keep = list(val)[:2]
    found = load_annotations(convert(val, tmp_path / "conv", keep), "val")
    assert list(found) == keep and found.left_out == [v for v in val if v not in keep]
    texts = [[e.text for e in split[keep[0]].expressions] for split in (found, val)]
    assert texts[0] == texts[1]


def test_masks_of_a_test_set_are_hidden(shapes, tmp_path):
    val = load_annotations(shapes, "val")
    v, w = list(val)[:2]
    entries = {v: {"0": {"exp": "a thing"}}, w: {"0": {"exp": "a thing", "obj_id": "1"}}}
    root = convert(val, tmp_path / "conv", [v, w], entries)
    assert load_annotations(root, "val")[v].masks is not None  # they are there, nobody hides them
    shutil.rmtree(root / "valid" / "Annotations")
    found = load_annotations(root, "val")
    assert found[v].masks is None and found[v].expressions[0].object_ids is None
    assert isinstance(found[w].masks, IdMasks)  # named, so lost, and the first read says so
    with pytest.raises(RVOSError, match="no such mask"):
        found[w].masks.mask(0, (1,))


@pytest.mark.parametrize(
    "kept, labelled",
    [
        ((0, 3, 6), (0, 3, 6)),
        ((2, 5), (2, 5)),  # evenly spaced, the first ones later
        ((0, 2, 4, 6), range(7)),  # most have one
        ((0, 3, 5), range(7)),  # not evenly spaced
        ((4, 6), range(7)),  # no step leads to the first one
        ((3,), range(7)),  # one alone has no step
        ((), range(7)),
    ],
)
def test_sparse_masks_are_not_labelled_and_lost_masks_are_lost(tmp_path, kept, labelled):
    videos, texts = tmp_path / "DAVIS", tmp_path / "davis_text_annotations"
    for part, suffix in (("JPEGImages", "jpg"), ("Annotations", "png")):
        (videos / part / "480p" / "v").mkdir(parents=True)
        for t in range(7) if part == "JPEGImages" else kept:
            (videos / part / "480p" / "v" / f"{t:05d}.{suffix}").touch()
    texts.mkdir()
    for a in ANNOTATORS:
        (texts / f"Davis17_{a}.txt").write_text('v 1 "a thing"\n')
    masks = load_annotations(tmp_path, "val")["v"].masks
    assert [t for t in range(7) if masks.labelled(t)] == list(labelled)


@pytest.mark.parametrize("here, gone", [("train", "val"), ("val", "train")])
def test_a_folder_may_hold_one_split(copy, here, gone):
    (copy / f"DAVIS/ImageSets/2017/{gone}.txt").unlink()
    assert known_splits(copy) == [here] and len(load_annotations(copy, here))
    with pytest.raises(RVOSError, match=f"no split '{gone}' there; expected {here}"):
        load_annotations(copy, gone)


# --- readers


def test_the_reader_that_was_added_last_is_asked_first(shapes, monkeypatch):
    val = load_annotations(shapes, "val")
    few = Reader("few", lambda root, split: split == "val", lambda *how: val.subset(list(val)[:1]))
    monkeypatch.setitem(DATASETS, "few", few)
    assert load_annotations(shapes, "val").format == "few"
    assert load_annotations(shapes, "train").format == "davis"
    assert len(load_annotations(shapes, "val", format="davis")) == 3
    with pytest.raises(ConfigError, match="format = 'fewer': expected one of .*few"):
        load_annotations(shapes, "val", format="fewer")


def test_problems_are_collected_or_stop_at_the_first(copy):
    with open(copy / "davis_text_annotations" / "Davis17_annot1.txt", "a") as f:
        f.write("bear\nbear\n")
    listed = Problems(strict=False)
    assert len(load_annotations(copy, "val", listed)) == 3 and len(listed.found) == 2
    with pytest.raises(RVOSError, match="expected: video object"):
        load_annotations(copy, "val")


# --- splits


def test_dev_is_held_out_by_video(shapes):
    train = load_annotations(shapes, "train")
    rest, dev = hold_out(train, 0.34)
    assert (len(rest), len(dev), dev.split) == (4, 2, "dev")
    assert not set(rest) & set(dev) and set(rest) | set(dev) == set(train)
    assert list(hold_out(train, 0.34)[1]) == list(dev)  # the seed decides
    assert list(hold_out(train, 0.34, seed=1)[1]) != list(dev)
    with pytest.raises(RVOSError, match="only one training video"):
        hold_out(train.subset(list(train)[:1]), 0.5)


def test_real_data_is_read_as_before(davis):
    "Ids, order and groups decide which expressions are swapped, so figures rest on them."
    for split, videos in (("train", 15), ("val", 9)):
        found = load_annotations(davis, split)
        assert len(found) == videos
        for record in found.values():
            assert [e.id for e in record.expressions] == ["0", "1", "2", "3"]
            assert [e.object_ids for e in record.expressions] == [(1,)] * 4
            assert os.path.commonpath([davis, *record.frames]) == str(davis)
