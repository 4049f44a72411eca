"""Malformed label files of every format, at whatever reads them.

Each ends in records or in RVOSError, never in another exception, a hang or a write outside.
"""

import copy
import json
import pickle
import shutil
import zipfile
from pathlib import Path

import layouts
import pytest
from hypothesis import given
from hypothesis import strategies as st
from malformed import cases, damaged, survives
from rvos_nb.config import RVOSError
from rvos_nb.data import Problems
from rvos_nb.datasets import load_annotations
from rvos_nb.labels import read_refs
from rvos_nb.submissions import check_submission

CASES = {
    "labelme": 250,
    "cvat": 300,
    "coco": 250,
    "coco-frames": 250,
    "refcoco": 250,
    "pickles": 150,
    "mevis": 300,
    "tables": 250,
    "legends": 150,
    "zips": 100,
}  # 2,250 in all
pytestmark = pytest.mark.slow


def read_all(root: Path, split: str = "train") -> None:
    "Records in both manners, and what the first frames' masks are."
    survives(load_annotations, root, split)
    found = survives(load_annotations, root, split, Problems(strict=False))
    for record in (found or {}).values():
        if record.masks is not None and record.masks.labelled(0):
            survives(record.masks.objects, 0)
            survives(record.masks.void, 0)


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([-1, 0, 1, 255, 10**12, 10**400, 0.5, float("nan"), float("inf"), 1e300]),
    st.sampled_from(["", "1", "-1", "..", "../../up", "a/b", "\0", "\ud800", "é", "x" * 300]),
    st.sampled_from([[], {}, [[]], [None], {"": 1}, [1, 2], [[1, 2, 3]], {"size": [1, 1]}]),
    st.lists(st.floats(-50, 50), max_size=9),
)


def places(value, place=()):
    "All places in JSON, the outermost first."
    yield place
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        if isinstance(inner, (dict, list)):
            yield from places(inner, (*place, key))
        else:
            yield (*place, key)


@st.composite
def spoilt(draw, good):
    "JSON in which one to three places hold something else, or nothing."
    value = copy.deepcopy(good)
    for _ in range(draw(st.integers(1, 3))):
        every = list(places(value))
        if len(every) < 2:
            return value
        *above, last = draw(st.sampled_from(every[1:]))
        inner = value
        for key in above:
            inner = inner[key]
        if draw(st.integers(0, 3)) == 0:
            del inner[last]
        else:
            inner[last] = copy.deepcopy(draw(JUNK))  # it may be spoilt in turn
    return value


def json_or_damage(path: Path):
    good = json.loads(path.read_text())
    text = spoilt(good).map(lambda x: json.dumps(x).encode("utf-8", errors="surrogatepass"))
    return st.one_of(text, text, damaged(path.read_bytes()))


def made(name, folder):
    outer = folder / name
    layouts.LAYOUTS[name](outer / "inner")
    return outer


FILES = {
    "labelme": "yard/00000.json",
    "cvat": "yard/annotations.xml",
    "coco": "annotations/instances_train.json",
    "coco-frames": "annotations/instances_default.json",
    "mevis": "train/mask_dict.json",
}


@pytest.fixture(scope="module")
def outer(tmp_path_factory):
    "A folder in which nothing may appear but what the tests put there."
    folder = tmp_path_factory.mktemp("outer")
    yield folder
    assert all([p.name for p in place.iterdir()] == ["inner"] for place in folder.iterdir())


def fuzz(outer: Path, name: str, file: str, data, strategy) -> None:
    root = outer / name / "inner"
    if not root.exists():
        made(name, outer)
    path = root / file
    spare = path.with_name(path.name + ".good")
    if not spare.exists():
        shutil.copy(path, spare)
    path.write_bytes(data.draw(strategy(spare)))
    try:
        read_all(root)
    finally:
        shutil.copy(spare, path)


@cases(CASES["labelme"])
@given(data=st.data())
def test_labelme(outer, data):
    fuzz(outer, "labelme", FILES["labelme"], data, json_or_damage)


@cases(CASES["coco"])
@given(data=st.data())
def test_coco(outer, data):
    fuzz(outer, "coco", FILES["coco"], data, json_or_damage)


@cases(CASES["coco-frames"])
@given(data=st.data())
def test_coco_frames(outer, data):
    fuzz(outer, "coco-frames", FILES["coco-frames"], data, json_or_damage)


@cases(CASES["mevis"])
@given(data=st.data(), file=st.sampled_from(["mask_dict.json", "meta_expressions.json"]))
def test_mevis(outer, data, file):
    fuzz(outer, "mevis", f"train/{file}", data, json_or_damage)


@cases(CASES["refcoco"])
@given(data=st.data())
def test_refcoco(outer, data):
    def refs(path):
        good = pickle.loads(path.read_bytes())
        return spoilt(good).map(pickle.dumps)

    fuzz(outer, "refcoco", "refs(unc).p", data, refs)


@cases(CASES["pickles"])
@given(data=st.data())
def test_pickles(outer, data):
    fuzz(outer, "refcoco", "refs(unc).p", data, lambda path: damaged(path.read_bytes()))


NUMBER = st.one_of(st.integers(-5, 99).map(str), st.sampled_from(["", "nan", "1e400", "x", "٣"]))
ATTRIBUTES = ("frame", "outside", "points", "rle", "left", "top", "width", "height", "id", "label")


def xml(path):
    text = path.read_text()

    def change(edits):
        out = text
        for name, value, n in edits:
            parts = out.split(f' {name}="')
            k = 1 + n % max(1, len(parts) - 1)
            if k < len(parts):
                parts[k] = value + '"' + parts[k].partition('"')[2]
            out = f' {name}="'.join(parts)
        return out.encode()

    values = st.one_of(NUMBER, st.lists(NUMBER, max_size=6).map(",".join))
    edit = st.tuples(st.sampled_from(ATTRIBUTES), values, st.integers(0, 20))
    return st.one_of(st.lists(edit, min_size=1, max_size=3).map(change), damaged(path.read_bytes()))


@cases(CASES["cvat"])
@given(data=st.data())
def test_cvat(outer, data):
    fuzz(outer, "cvat", FILES["cvat"], data, xml)


CELLS = st.one_of(
    st.sampled_from(["yard", "street", "1", "2", "1;2", "none", "..", "../up", "\0", '"', "train"]),
    st.text(max_size=8),
)


def csv_text(path):
    lines = st.lists(st.lists(CELLS, max_size=5).map(",".join), max_size=5).map("\n".join)
    head = st.sampled_from(["video,object,expression,split\n", "object,expression\n", ""])
    free = st.tuples(head, lines).map(lambda x: (x[0] + x[1]).encode(errors="surrogatepass"))
    return st.one_of(free, damaged(path.read_bytes()))


@cases(CASES["tables"])
@given(data=st.data())
def test_tables(outer, data):
    fuzz(outer, "masks", "expressions.csv", data, csv_text)


@cases(CASES["legends"])
@given(data=st.data())
def test_legends(outer, data):
    lines = st.lists(st.lists(st.one_of(CELLS, NUMBER), max_size=4).map(":".join), max_size=4)
    free = lines.map(lambda x: "\n".join(x).encode(errors="surrogatepass"))
    kinds = lambda path: st.one_of(free, damaged(path.read_bytes()))  # noqa: E731
    fuzz(outer, "painted", "labelmap.txt", data, kinds)


@cases(CASES["zips"])
@given(data=st.data())
def test_zips(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "zips"
    folder.mkdir(exist_ok=True)
    good = folder / "good.zip"
    if not good.exists():
        frame = next(iter(made("painted", folder).rglob("00000.png")))
        with zipfile.ZipFile(good, "w") as archive:
            for t in range(3):
                archive.write(frame, f"Annotations/street/0/{t:05d}.png")
    bad = folder / "bad.zip"
    bad.write_bytes(data.draw(damaged(good.read_bytes())))
    survives(check_submission, bad)


@pytest.mark.parametrize("end", [b"r\x01", b"X\x05\x00", b"\x8b\x02", b"J\x00", b"G\x40"])
def test_a_pickle_that_breaks_off_within_a_number(end, tmp_path):
    (tmp_path / "refs(unc).p").write_bytes(b"\x80\x04]" + end)
    with pytest.raises(RVOSError, match="not a pickle of plain lists"):
        read_refs(tmp_path / "refs(unc).p", lambda where, what: None)
