"What only the field's data sets have: hidden masks, test ids, pickles, crowds, sizes."

import json
import pickle
from pathlib import Path

import layouts
import numpy as np
import pytest
from layouts import CROWD, N, TrueMasks, track
from rvos_nb.check import check_data
from rvos_nb.config import RVOSError
from rvos_nb.convert import convert_data
from rvos_nb.data import Problems
from rvos_nb.datasets import load_annotations
from rvos_nb.evaluation import evaluate

COCO = Path(__file__).resolve().parent.parent.parent / "shared" / "coco"


def test_the_videos_of_test_are_no_part_of_valid(tmp_path):
    layouts.hidden_youtube_vos(tmp_path)
    found = load_annotations(tmp_path, "val")
    assert list(found) == ["street"] and found["street"].masks is None
    assert found["street"].expressions[0].object_ids is None
    assert check_data(tmp_path, quiet=True).empty
    out = convert_data(tmp_path, tmp_path / "out")
    assert load_annotations(out, "val")["street"].expressions == found["street"].expressions
    assert load_annotations(out, "val")["street"].masks is None
    with pytest.raises(RVOSError, match="hidden"):
        evaluate(found, object())


def test_hidden_mevis(tmp_path):
    layouts.mevis(tmp_path)
    path = tmp_path / "valid_u" / "meta_expressions.json"
    meta = json.loads(path.read_text())
    for said in meta["videos"]["street"]["expressions"].values():
        del said["obj_id"], said["anno_id"]
    (tmp_path / "valid").mkdir()
    (tmp_path / "valid" / "meta_expressions.json").write_text(json.dumps(meta))
    (tmp_path / "valid" / "JPEGImages").symlink_to(tmp_path / "valid_u" / "JPEGImages")
    assert load_annotations(tmp_path, "val")["street"].masks is not None  # valid_u
    hidden = load_annotations(tmp_path, "valid")
    assert hidden["street"].masks is None and hidden.format == "mevis"


def test_a_folder_of_one_split_of_mevis(tmp_path):
    layouts.mevis(tmp_path)
    found = load_annotations(tmp_path / "valid_u", "val")
    assert (found.split, list(found)) == ("all", ["street"])


def test_lost_masks_of_mevis_are_named(tmp_path):
    layouts.mevis(tmp_path)
    path = tmp_path / "train" / "mask_dict.json"
    masks = json.loads(path.read_text())
    first, second = masks
    path.write_text(json.dumps({first: masks[first][:-1]}))
    table = check_data(tmp_path, quiet=True)
    words = table["problem"].str.cat(sep=" ")
    assert f"no masks of annotation '{second}'" in words or "a list of 2" in words


@pytest.mark.parametrize("form", ["p", "json", "parquet"])
def test_refs_in_three_forms(tmp_path, form):
    if form == "parquet":
        pytest.importorskip("pyarrow")
    wanted = layouts.refcoco(tmp_path, form)
    found = load_annotations(tmp_path, "val")
    assert found.format == "refcoco" and set(found) == set(wanted["val"])
    (record,) = found.values()
    said = {e.text: e.object_ids for e in record.expressions}
    assert said["both boxes"] == (1, 2) and said["a zebra"] == ()
    assert np.array_equal(record.masks.mask(0, (2,)), track(2)[0])


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("evil"),))


def test_a_pickle_that_runs_something_is_refused(tmp_path, monkeypatch):
    layouts.refcoco(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps([Evil()]))
    with pytest.raises(RVOSError, match="not a pickle of plain lists.*python -c"):
        load_annotations(tmp_path, "val")
    assert not (tmp_path / "evil").exists()


def test_a_crowd_is_void_unless_somebody_names_it(tmp_path):
    layouts.coco(tmp_path / "coco")
    record = next(iter(load_annotations(tmp_path / "coco", "val").values()))
    objects = record.masks.mask(0, record.masks.objects(0))
    assert np.array_equal(record.masks.void(0), CROWD & ~objects)
    root = tmp_path / "refcoco"
    layouts.refcoco(root, "json")
    path = root / "refs(unc).json"
    refs = json.loads(path.read_text())
    crowd = json.loads((root / "instances.json").read_text())["annotations"][-1]["id"]
    refs.append(refs[-1] | {"ann_id": crowd, "ref_id": 99, "sentences": ["the crowd"]})
    path.write_text(json.dumps(refs))
    (record,) = load_annotations(root, "val").values()
    named = next(e for e in record.expressions if e.text == "the crowd")
    assert np.array_equal(record.masks.mask(0, named.object_ids), CROWD)


def test_sizes_that_differ_are_told(tmp_path):
    layouts.coco(tmp_path)
    path = tmp_path / "annotations" / "instances_val.json"
    path.write_text(path.read_text().replace('"height": 32', '"height": 33'))
    table = check_data(tmp_path, quiet=True)
    assert len(table) and table["problem"].str.contains("33").any(), table.to_string()


def test_images_that_are_not_there_are_told(tmp_path):
    layouts.coco(tmp_path)
    lost = next((tmp_path / "images" / "val").iterdir())
    lost.unlink()
    listed = Problems(strict=False)
    load_annotations(tmp_path, "val", listed)
    where = [where for _, where, _ in listed.found]
    assert any(str(place).startswith(str(tmp_path)) for place in where)


def test_labelled_frames_survive_a_conversion(tmp_path):
    layouts.labelme(tmp_path / "src")
    (tmp_path / "src" / "yard" / "00001.json").unlink()
    out = convert_data(tmp_path / "src", tmp_path / "out")
    masks = load_annotations(out, "train")["yard"].masks
    assert [masks.labelled(t) for t in range(N)] == [True, False, True]


def test_conversion_leaves_nothing_half_written(tmp_path, monkeypatch):
    layouts.mevis(tmp_path / "src")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(RVOSError, match="is not empty"):
        convert_data(tmp_path / "src", tmp_path / "out")
    monkeypatch.setattr("rvos_nb.convert.shutil.copyfile", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert_data(tmp_path / "src", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def interrupted(*_):
    raise KeyboardInterrupt


# --- real images


@pytest.fixture
def coco():
    if not COCO.is_dir():
        pytest.skip("no real COCO images beside the checkout")
    return COCO


def test_real_images_are_read_and_checked(coco):
    train, val = (load_annotations(coco, split) for split in ("train", "val"))
    assert len(train) == 98 and len(val) == 50  # two images have no things
    assert check_data(coco, quiet=True).empty
    lists = json.loads((coco / "annotations" / "instances_train.json").read_text())
    crowds = {f"{a['image_id']:012d}" for a in lists["annotations"] if a["iscrowd"]}
    assert {v for v, r in train.items() if r.masks.void(0).any()} == crowds & set(train)


def test_real_images_are_scored(coco):
    val = load_annotations(coco, "val")
    few = val.subset(list(val)[:4])
    scores = evaluate(few, TrueMasks(), baselines=("centre blob",), oracle_strides=(1,))
    mean = scores.groupby("source")["J"].mean()
    assert mean["predictions"] == mean["oracle"] == 1 and 0 < mean["centre blob"] < 0.5
    assert set(scores["video_id"]) == set(few)
