"""Malformed files of every kind, at whatever reads them.

Each ends in a result or in RVOSError, never in another exception, a hang or a write outside.
"""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from malformed import cases, damaged, survives
from PIL import Image
from rvos_nb.check import _check_frame, check_data
from rvos_nb.config import config_from_dict
from rvos_nb.data import IdMasks, Problems
from rvos_nb.pictures import read_mask, read_picture
from rvos_nb.datasets import load_annotations, read_meta_expressions, read_text_annotations
from rvos_nb.layout import ANNOTATORS
from rvos_nb.runtime import read_tensors
from rvos_nb.shapes import make_shapes

CASES = {
    "text files": 600,
    "JSON": 600,
    "PNG": 400,
    "JPEG": 400,
    "ImageSets": 200,
    "checkpoints": 200,
}  # 2,400 in all
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    "A folder inside a folder in which nothing else may appear."
    outer = tmp_path_factory.mktemp("outer")
    yield outer / "inner"
    assert [p.name for p in outer.iterdir()] == ["inner"]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return make_shapes(
        tmp_path_factory.mktemp("data") / "shapes",
        n_train=2,
        n_val=1,
        n_frames=(4, 4),
        progress=False,
    )


# --- expressions

NAMES = st.one_of(
    st.sampled_from(["bear", "clasic-car", "..", "../../up", "/etc", "a/b", "\\", "\0"]),
    st.text(max_size=12),
)
LINES = st.one_of(
    st.builds(
        '{} {} "{}"'.format,
        NAMES,
        st.one_of(st.integers(), st.text(max_size=5)),
        st.text(max_size=30),
    ),
    st.text(max_size=60),
)


@cases(CASES["text files"])
@given(
    files=st.lists(
        st.one_of(st.lists(LINES, max_size=6).map("\n".join), st.binary(max_size=200)),
        min_size=4,
        max_size=4,
    ),
    missing=st.integers(0, 12),
    collect=st.booleans(),
)
def test_text_files(box, files, missing, collect):
    folder = box / "texts"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for i, (a, content) in enumerate(zip(ANNOTATORS, files)):
        if i != missing:
            (folder / f"Davis17_{a}.txt").write_bytes(
                content
                if isinstance(content, bytes)
                else content.encode("utf-8", errors="surrogatepass")
            )
    problems = Problems(strict=not collect)
    found = survives(read_text_annotations, folder, problems)
    if collect:
        assert found is not None and all(len(p) == 3 for p in problems.found)
    for video in found or {}:
        assert (folder / video).parent == folder


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.just(10**400),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(NAMES, x, max_size=3),
    max_leaves=8,
)
IDS = JSON | st.integers(-5, 300) | st.lists(st.integers(-5, 300), max_size=3)
SAID = st.fixed_dictionaries({"exp": JSON | st.text(max_size=20)}, optional={"obj_id": IDS})
EXPRESSIONS = JSON | st.dictionaries(NAMES, JSON | SAID, max_size=3)
VIDEO = JSON | st.fixed_dictionaries({"expressions": EXPRESSIONS})
VIDEOS = JSON | st.dictionaries(NAMES, VIDEO, max_size=3)
META = JSON | st.fixed_dictionaries({"videos": VIDEOS})


@cases(CASES["JSON"])
@given(
    content=st.one_of(
        META.map(lambda x: json.dumps(x).encode()),
        st.binary(max_size=100),
        st.text(max_size=100).map(str.encode),
    ),
    collect=st.booleans(),
)
@example(content=b'{"videos":' + b"[" * 100_000, collect=False)
@example(
    content=b'{"videos": {"a": {"expressions": {"0": {"exp": "x", "obj_id": '
    + b"9" * 5000
    + b"}}}}}",
    collect=False,
)
@example(content=b'{"videos": {"a": {}, "a": {}}}', collect=True)
def test_json(box, content, collect):
    box.mkdir(exist_ok=True)
    (box / "meta_expressions.json").write_bytes(content)
    problems = Problems(strict=not collect)
    found = survives(read_meta_expressions, box / "meta_expressions.json", problems)
    for video, expressions in (found or {}).items():
        assert (box / video).parent == box
        for e in expressions:
            assert isinstance(e.text, str)
            assert e.object_ids is None or all(type(o) is int for o in e.object_ids)
            assert collect or (box / e.id).parent == box


# --- pictures


def picture(kind: str, mode: str) -> bytes:
    rng, buffer = np.random.default_rng(0), io.BytesIO()
    im = Image.fromarray(
        rng.integers(0, 3, (24, 32) if mode == "P" else (24, 32, 3), dtype=np.uint8),
        "L" if mode == "P" else "RGB",
    )
    if mode == "P":
        im.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    im.save(buffer, kind)
    return buffer.getvalue()


PNG, JPEG = picture("PNG", "P"), picture("JPEG", "RGB")


@cases(CASES["PNG"])
@given(
    content=st.one_of(
        damaged(PNG),
        damaged(PNG),
        st.binary(max_size=100).map(lambda b: PNG[:8] + b),
        st.just(picture("PNG", "RGB")),
    )
)
def test_png(box, content):
    box.mkdir(exist_ok=True)
    (box / "m.png").write_bytes(content)
    ids = survives(read_mask, box / "m.png")
    assert ids is None or (ids.dtype == np.uint8 and ids.ndim == 2)


@cases(CASES["JPEG"])
@given(
    content=st.one_of(
        damaged(JPEG),
        damaged(JPEG),
        st.binary(max_size=100).map(lambda b: JPEG[:2] + b),
        damaged(PNG),
    ),
    mask=damaged(PNG),
)
def test_jpeg(box, content, mask):
    box.mkdir(exist_ok=True)
    (box / "f.jpg").write_bytes(content)
    (box / "f.png").write_bytes(mask)
    frame = survives(read_picture, box / "f.jpg")
    assert frame is None or (frame.dtype == np.uint8 and frame.ndim == 3)
    masks = IdMasks([box / "f.png"], [box / "f.jpg"])
    ids, problems = survives(_check_frame, box / "f.jpg", masks, 0)
    assert frame is not None or problems


# --- the folder as a whole


@cases(CASES["ImageSets"])
@given(
    names=st.one_of(
        st.lists(NAMES, max_size=4).map(
            lambda x: "\n".join(x).encode("utf-8", errors="surrogatepass")
        ),
        st.binary(max_size=60),
    ),
    kinds=st.one_of(st.none(), st.binary(max_size=60)),
)
def test_lists_and_tables(box, shapes, names, kinds):
    root = box / "data"
    if not root.exists():
        shutil.copytree(shapes, root)
    (root / "DAVIS" / "ImageSets" / "2017" / "val.txt").write_bytes(names)
    if kinds is not None:
        (root / "expression_kinds.csv").write_bytes(kinds)
    for problems in (None, Problems(strict=False)):
        for record in (survives(load_annotations, root, "val", problems) or {}).values():
            assert all(root in f.resolve().parents for f in record.frames)
    assert set(survives(check_data, root, True).columns) == {"split", "video", "where", "problem"}


@cases(CASES["checkpoints"])
@given(
    content=st.one_of(
        st.binary(max_size=200),
        st.binary(max_size=100).map(lambda b: b"PK\x03\x04" + b),
        st.binary(max_size=100).map(lambda b: b"\x80\x02" + b + b"."),
    ),
    config=JSON,
)
def test_checkpoints_and_configs(box, content, config):
    box.mkdir(exist_ok=True)
    (box / "c.pth").write_bytes(content)
    survives(read_tensors, box / "c.pth")
    survives(config_from_dict, config, "config.json")


def test_there_are_enough_cases():
    assert sum(CASES.values()) >= 2000 and Path(__file__).read_text().count("\n@given(") == len(
        CASES
    )
