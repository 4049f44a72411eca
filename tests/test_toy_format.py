"A format of one's own, a folder of frames and one JSON of polygons, in a reader of a few lines."

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rvos_nb.check import check_data
from rvos_nb.config import RVOSError
from rvos_nb.data import Annotations, Expression, ObjectMasks, Problems, VideoRecord
from rvos_nb.pictures import picture_size
from rvos_nb.datasets import DATASETS, Reader, load_annotations

# --- the format: <root>/<split>/<video>/*.jpg, and <root>/<split>/labels.json with
# {video: {"objects": {id: [polygons or null, a frame]}, "expressions": [[text, [ids]], ...]}}


def detect(root: Path, split: str) -> bool:
    return (root / split / "labels.json").exists()


def read(root: Path, split: str, problems: Problems) -> Annotations:
    path, records = root / split / "labels.json", {}
    for video, entry in json.loads(path.read_text()).items():
        frames = sorted((root / split / video).glob("*.jpg"))
        if not frames:
            problems.add(video, root / split / video, "no frames; expected *.jpg")
            continue
        tracks = {int(o): polygons for o, polygons in entry["objects"].items()}
        masks = ObjectMasks(picture_size(frames[0]), tracks, path)
        said = enumerate(entry["expressions"])
        expressions = [Expression(str(i), text, tuple(ids)) for i, (text, ids) in said]
        records[video] = VideoRecord(video, frames, masks, expressions)
    return Annotations(records, root, split)


# --- what it gives


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setitem(DATASETS, "toy", Reader("toy", detect, read))
    near, far = [[4, 4, 20, 4, 20, 16, 4, 16]], [[12, 8, 40, 8, 40, 30]]
    labels = {
        "objects": {"1": [near, near, None], "2": [far, far, far]},
        "expressions": [["the square", [1]], ["both", [1, 2]], ["a zebra", []]],
    }
    (tmp_path / "val" / "street").mkdir(parents=True)
    (tmp_path / "val" / "labels.json").write_text(json.dumps({"street": labels}))
    for t in range(3):
        grey = np.full((32, 48, 3), 40 * t, np.uint8)
        Image.fromarray(grey).save(tmp_path / "val" / "street" / f"{t:05d}.jpg")
    return tmp_path


def test_is_read(root):
    val = load_annotations(root, "val")
    assert val.format == "toy" and len(val["street"].frames) == 3
    masks = val["street"].masks
    square, triangle = masks.mask(0, (1,)), masks.mask(0, (2,))
    assert square.sum() == 16 * 12 and (square & triangle).any()  # they overlap
    assert np.array_equal(masks.mask(0, (1, 2)), square | triangle)
    assert [masks.objects(t) for t in range(3)] == [(1, 2), (1, 2), (2,)]


def test_is_checked(root):
    assert check_data(root).empty
    path = root / "val" / "labels.json"
    path.write_text(path.read_text().replace("[[4, 4, 20", "[[4, 4, 1e9", 1))
    table = check_data(root)
    assert len(table) == 1 and "object 1, frame 0" in table["where"][0]
    assert "far outside" in table["problem"][0] and table["video"][0] == "street"
    (root / "val" / "street" / "00001.jpg").write_text("no picture")
    assert len(check_data(root)) == 2


def test_problems_of_its_own_are_told(root):
    for frame in (root / "val" / "street").glob("*.jpg"):
        frame.unlink()
    with pytest.raises(RVOSError, match="street: no frames; expected"):
        load_annotations(root, "val")
    assert check_data(root)["problem"].str.contains("no frames; expected").sum() == 1
