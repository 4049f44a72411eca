"Each format that others document: written by a test, read, checked, trained on, scored, converted."

from pathlib import Path

import numpy as np
import pytest
from layouts import LAYOUTS, TrueMasks
from rvos_nb.check import check_data
from rvos_nb.config import Config
from rvos_nb.convert import convert_data
from rvos_nb.data import Annotations, VideoRecord
from rvos_nb.datasets import load_annotations
from rvos_nb.evaluation import evaluate
from rvos_nb.fit import fit

each_format = pytest.mark.parametrize("name", LAYOUTS)


def masks_of(record: VideoRecord) -> dict[str, list[np.ndarray]]:
    "{text: a mask a frame}."
    times = range(len(record.frames))
    return {e.text: [record.masks.mask(t, e.object_ids) for t in times] for e in record.expressions}


def assert_same(found: dict, wanted: dict) -> None:
    assert set(found) == set(wanted)
    for text, track in wanted.items():
        assert len(found[text]) == len(track)
        for t, (a, b) in enumerate(zip(found[text], track)):
            assert np.array_equal(a, b), f"{text!r}, frame {t}"


def tree(root: Path) -> dict[str, bytes]:
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def assert_same_records(a: Annotations, b: Annotations) -> None:
    assert list(a) == list(b) and a.split == b.split
    for video, record in a.items():
        other = b[video]
        assert [f.name for f in record.frames] == [f.name for f in other.frames]
        assert [f.read_bytes() for f in record.frames] == [f.read_bytes() for f in other.frames]
        assert record.expressions == other.expressions
        assert (record.masks is None) == (other.masks is None)
        if record.masks is None:
            continue
        for t in range(len(record.frames)):
            assert record.masks.labelled(t) == other.masks.labelled(t)
            if not record.masks.labelled(t):
                continue
            assert record.masks.objects(t) == other.masks.objects(t)
            assert np.array_equal(record.masks.void(t), other.masks.void(t))
            for o in record.masks.objects(t):
                assert np.array_equal(record.masks.mask(t, (o,)), other.masks.mask(t, (o,)))


@each_format
def test_is_read(name, tmp_path):
    wanted = LAYOUTS[name](tmp_path)
    for split, videos in wanted.items():
        found = load_annotations(tmp_path, split)
        assert (found.format, found.split, sorted(found)) == (name, split, sorted(videos))
        for video, texts in videos.items():
            assert_same(masks_of(found[video]), texts)
        assert load_annotations(tmp_path, split, format=name).format == name


@each_format
def test_is_checked(name, tmp_path, capsys):
    LAYOUTS[name](tmp_path)
    table = check_data(tmp_path)
    assert table.empty, table.to_string()
    assert f"format {name}" in capsys.readouterr().out


@each_format
def test_the_truth_scores_100(name, tmp_path):
    LAYOUTS[name](tmp_path)
    scores = evaluate(load_annotations(tmp_path, "val"), TrueMasks(), baselines=("nothing",))
    mine = scores[scores["source"] == "predictions"]
    assert len(mine) and (mine["J"] == 1).all() and (mine["F"] == 1).all()


@each_format
def test_is_converted_bit_for_bit_and_back(name, tmp_path):
    wanted = LAYOUTS[name](tmp_path / "src")
    before = tree(tmp_path / "src")
    out = convert_data(tmp_path / "src", tmp_path / "out")
    assert tree(tmp_path / "src") == before
    for split, videos in wanted.items():
        found = load_annotations(out, split)
        assert found.format == "meta_expressions"
        assert_same_records(load_annotations(tmp_path / "src", split), found)
        for video, texts in videos.items():
            assert_same(masks_of(found[video]), texts)
    assert check_data(out, quiet=True).empty
    again = convert_data(out, tmp_path / "again")
    assert tree(again) == tree(out)


@each_format
def test_is_trained_on_for_one_step(name, tmp_path):
    LAYOUTS[name](tmp_path / "data")
    run = str(tmp_path / "run")
    small = dict(root=str(tmp_path / "data"), out=run, epochs=1, epoch_size=2, batch_size=2)
    small |= dict(image_size=(32, 48), device="cpu", clip_len=2, copy_paste_clips=0)
    small |= dict(expressions_per_clip=2)
    result = fit(Config.preset("demo", **small))
    assert len(result.history) == 1 and np.isfinite(result.history["train_loss"]).all()
