"The caches: what is read is what is on disk, a folder is whole or absent, and stale ones are left."

import math
import multiprocessing
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from records import box, by_hand, write_frames
from rvos_nb.caches import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    FeatureCache,
    FrameCache,
    denormalise,
    normalise,
)
from rvos_nb.config import RVOSError
from rvos_nb.data import Annotations, IdMasks, VideoRecord
from rvos_nb.pictures import read_mask, read_picture
from rvos_nb.datasets import load_annotations
from rvos_nb.layout import write_ids
from rvos_nb.shapes import make_shapes
from torch import nn


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    return make_shapes(folder, n_train=6, n_val=3, n_frames=(5, 9), progress=False)


@pytest.fixture
def copy(shapes, tmp_path) -> Path:
    return Path(shutil.copytree(shapes, tmp_path / "copy"))


def folders(path: Path) -> set[str]:
    return {p.name for p in path.iterdir() if p.is_dir()}


# --- colours


def test_every_value_survives_the_round_trip():
    x = torch.arange(256, dtype=torch.uint8).view(1, 16, 16).expand(8, 3, 16, 16)
    x = x.unflatten(0, (2, 4))
    y = normalise(x)
    assert y.dtype == torch.float32 and y.shape == x.shape
    assert np.array_equal(denormalise(y), x.movedim(-3, -1).numpy())
    assert np.array_equal(denormalise(y.numpy()), denormalise(y))
    assert denormalise(y.requires_grad_()).dtype == np.uint8


def test_normalise_is_the_formula():
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.integers(0, 256, (3, 5, 7)), dtype=torch.uint8)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    assert torch.allclose(normalise(x).double(), (x.double() / 255 - mean) / std, atol=1e-6)


def test_values_out_of_range_are_clipped():
    x = torch.tensor([-9.0, 9.0]).view(1, 1, 2).expand(3, 1, 2)
    assert set(np.unique(denormalise(x))) == {0, 255}


# --- frames and masks


def test_the_cache_holds_what_is_on_disk(shapes, tmp_path, capsys):
    val = load_annotations(shapes, "val")
    cache = FrameCache(val, (144, 240), tmp_path)  # the data's own size: nothing is resized
    assert "MB" in capsys.readouterr().out
    video = list(val)[1]
    record, t = val[video], np.array([2, 0])
    assert np.array_equal(cache.read(video, t)[0], read_picture(record.frames[2]))
    for o in record.object_ids():
        assert np.array_equal(cache.masks(video, t, (o,))[1], record.masks.mask(0, (o,)))
    assert cache.labelled(video, t).all() and not cache.void(video, t).any()
    FrameCache(val, (144, 240), tmp_path)
    assert capsys.readouterr().out == ""  # found, not built again


@pytest.mark.parametrize("size", [(48, 80), (96, 160), (33, 57), (150, 250)])
def test_planes_are_the_ids_resized_to_the_nearest_pixel(shapes, tmp_path, size):
    val = load_annotations(shapes, "val")
    cache = FrameCache(val, size, tmp_path)
    for video, record in val.items():
        t = np.arange(len(record.frames))
        planes = cache.planes(video, t)
        assert planes.shape == (len(record.object_ids()) + 1, len(t), *size)
        for i, path in enumerate(record.masks.files()):
            ids = cv2.resize(read_mask(path), size[::-1], interpolation=cv2.INTER_NEAREST)
            for o, plane in zip((*record.object_ids(), 255), planes):
                assert np.array_equal(plane[i] == 1, ids == o)
        assert np.array_equal(cache.masks(video, t, record.object_ids()), planes[:-1].any(0))


def test_objects_may_overlap_and_an_expression_may_name_none_or_several(tmp_path):
    tracks = {3: [box(0, 0, 20, 20), None], 7: [box(10, 10, 30, 30), box(5, 5, 9, 9)]}
    said = [("a", (3,)), ("both", (3, 7)), ("no such thing", ())]
    cache = FrameCache(by_hand(tmp_path, tracks, said), (48, 80), tmp_path)
    t = np.arange(2)
    a, b = (cache.masks("v", t, (o,)) for o in (3, 7))
    assert np.array_equal(a[0], tracks[3][0]) and not a[1].any() and (a & b)[0].sum() == 100
    assert np.array_equal(cache.masks("v", t, (3, 7)), a | b)
    assert cache.masks("v", t, ()).shape == (2, 48, 80) and not cache.masks("v", t, ()).any()


def test_frames_without_labels_and_void_are_remembered(tmp_path):
    ids = np.zeros((48, 80), np.uint8)
    ids[:10], ids[10:20] = 255, 1
    write_ids(tmp_path / "mask.png", ids)
    annotations = by_hand(tmp_path, {1: [None] * 3}, [("a", (1,))])
    masks = IdMasks([None, tmp_path / "mask.png", None])
    annotations["v"] = replace(annotations["v"], masks=masks)
    cache, t = FrameCache(annotations, (48, 80), tmp_path), np.arange(3)
    assert cache.labelled("v", t).tolist() == [False, True, False]
    assert np.array_equal(cache.void("v", t)[1], ids == 255) and not cache.void("v", t)[::2].any()
    assert cache.masks("v", t, (1,)).any((1, 2)).tolist() == [False, True, False]


def test_hidden_masks_leave_the_frames(tmp_path):
    frames = write_frames(tmp_path / "frames", 2)
    hidden = Annotations({"v": VideoRecord("v", frames, None, [])}, tmp_path, "test")
    cache = FrameCache(hidden, (48, 80), tmp_path)
    assert np.array_equal(cache.read("v", [1])[0], read_picture(frames[1]))
    assert not cache.labelled("v", [0, 1]).any()


def test_the_cache_is_keyed_by_data_size_and_objects(copy, tmp_path):
    val = load_annotations(copy, "val")
    a = FrameCache(val, (48, 80), tmp_path)
    assert FrameCache(val, (48, 96), tmp_path).folder != a.folder
    video = next(iter(val))
    fewer = val.of(dict(val))
    fewer[video] = replace(val[video], expressions=val[video].expressions[:1])
    assert FrameCache(fewer, (48, 80), tmp_path).folder != a.folder
    assert FrameCache(val.subset([video]), (48, 80), tmp_path).folder != a.folder
    Image.new("RGB", (240, 144), "red").save(val[video].frames[0])
    b = FrameCache(load_annotations(copy, "val"), (48, 80), tmp_path)
    assert b.folder != a.folder and b.frames[0, 0, 0, 0] > 200


def test_the_cache_refuses_to_fill_the_disk(shapes, tmp_path, monkeypatch):
    full = shutil._ntuple_diskusage(10**9, 10**9, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda p: full)
    with pytest.raises(RVOSError, match="GB free.*--image-size.*RVOS_HOME"):
        FrameCache(load_annotations(shapes, "val"), (48, 80), tmp_path)
    assert not folders(tmp_path)


def test_a_broken_frame_leaves_no_cache(copy, tmp_path):
    val = load_annotations(copy, "val")
    bad = next(iter(val.values())).frames[3]
    bad.write_bytes(bad.read_bytes()[:300])
    with pytest.raises(RVOSError, match=bad.name):
        FrameCache(val, (48, 80), tmp_path / "cache")
    assert not folders(tmp_path / "cache")


def test_a_missing_file_and_another_size_are_named(copy, tmp_path):
    val = load_annotations(copy, "val")
    record = next(iter(val.values()))
    Image.new("RGB", (100, 50)).save(record.frames[2])
    with pytest.raises(RVOSError, match=r"00002.*144, 240.*50, 100"):
        FrameCache(val, (48, 80), tmp_path)
    polygons = by_hand(tmp_path / "polygons", {1: [box(0, 0, 9, 9)]}, [("a", (1,))])
    Image.new("RGB", (100, 50)).save(polygons["v"].frames[0])
    with pytest.raises(RVOSError, match=r"00000.png: 100x50 pixels, but its mask has 80x48"):
        FrameCache(polygons, (48, 80), tmp_path)
    record.masks.files()[1].unlink()
    with pytest.raises(RVOSError, match="00001.png: missing; `rvos data check`"):
        FrameCache(val, (48, 80), tmp_path)


def _build(root, folder, queue):
    cache = FrameCache(load_annotations(root, "train"), (48, 80), Path(folder))
    queue.put((cache.folder.name, int(cache.frames.sum()), int(cache.packed.sum())))


@pytest.mark.slow
def test_two_processes_build_one_cache(shapes, tmp_path):
    spawn = multiprocessing.get_context("spawn")
    queue = spawn.Queue()
    processes = [spawn.Process(target=_build, args=(shapes, tmp_path, queue)) for _ in range(2)]
    for p in processes:
        p.start()
    results = {queue.get(timeout=120) for _ in processes}
    for p in processes:
        p.join()
    assert len(results) == 1 and len(folders(tmp_path)) == 1


# --- features


@pytest.fixture
def frames(shapes, tmp_path) -> FrameCache:
    return FrameCache(load_annotations(shapes, "train"), (48, 80), tmp_path)


class Stem(nn.Module):
    "Two maps of a clip, from random weights; counts its calls."

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, kernel_size=5, stride=4, padding=2)
        self.calls = []

    def forward(self, x):
        self.calls.append(tuple(x.shape))
        flat = self.conv(x.flatten(0, 1))
        maps = {"4": flat, "objectness": flat.mean(1, keepdim=True)[..., ::2, ::2]}
        return {name: m.unflatten(0, x.shape[:2]) for name, m in maps.items()}


def assert_alike(half: torch.Tensor, x: torch.Tensor) -> None:
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), x, rtol=2**-10, atol=1e-3 * float(x.abs().max()))


def test_the_cache_holds_what_the_function_answers(frames, capsys):
    stem = Stem()
    cache = FeatureCache(frames, stem, "stem")
    n = math.prod(cache.maps["4"].shape) + math.prod(cache.maps["objectness"].shape)
    said = f"feature cache: {2 * n / 1e6:.0f} MB for {frames.n} frames and their mirror images"
    assert said in capsys.readouterr().out
    assert sum(shape[1] for shape in stem.calls) == 2 * frames.n + 1  # the first one for the sizes
    for video in list(frames.videos)[::2]:
        t = np.array([2, 0])
        images = frames.read(video, t)
        for mirrored, shown in ((False, images), (True, images[:, :, ::-1])):
            x = torch.from_numpy(shown.transpose(0, 3, 1, 2).copy())
            with torch.inference_mode():
                now = stem(normalise(x)[None])
            kept = cache.read(video, t, mirrored)
            assert set(kept) == set(now) == {"4", "objectness"}
            for name in now:
                assert_alike(kept[name], now[name][0])


def test_the_feature_cache_is_made_once_for_each_key_and_data(shapes, frames, tmp_path, capsys):
    stem = Stem()
    first = FeatureCache(frames, stem, "one")
    assert stem.calls and capsys.readouterr().out
    stem.calls.clear()
    again = FeatureCache(frames, stem, "one")
    assert again.folder == first.folder and not stem.calls and not capsys.readouterr().out
    other = FeatureCache(frames, stem, "two")
    assert other.folder != first.folder and stem.calls
    videos = list(frames.videos)[:2]
    fewer = FrameCache(load_annotations(shapes, "train").subset(videos), (48, 80), tmp_path)
    assert FeatureCache(fewer, stem, "one").folder not in (other.folder, first.folder)


def test_the_feature_cache_refuses_to_fill_the_disk(frames, tmp_path, monkeypatch):
    before = folders(tmp_path)
    usage = shutil._ntuple_diskusage
    monkeypatch.setattr(shutil, "disk_usage", lambda p: usage(10**9, 10**9, 10**5))
    words = (
        r"feature cache needs 0.0 GB.*0.0 GB free.*--frame-stride.*--no-feature-cache.*RVOS_HOME"
    )
    with pytest.raises(RVOSError, match=words):
        FeatureCache(frames, Stem(), "stem")
    assert folders(tmp_path) == before
    monkeypatch.setattr(shutil, "disk_usage", lambda p: usage(10**9, 10**9, 10**7))
    FeatureCache(frames, Stem(), "stem")  # with 10 MB there is room


def test_an_interrupted_feature_cache_leaves_nothing(frames, tmp_path):
    stem, before = Stem(), folders(tmp_path)

    def press(x):
        if len(stem.calls) == 3:
            raise KeyboardInterrupt
        return stem(x)

    with pytest.raises(KeyboardInterrupt):
        FeatureCache(frames, press, "stem")
    assert len(stem.calls) == 3 and folders(tmp_path) == before
    for m in FeatureCache(frames, stem, "stem").maps.values():
        each = np.abs(m.astype(np.float32)).reshape(*m.shape[:2], -1).max(-1)
        assert (each > 0).all(), "a frame that nobody encoded"
