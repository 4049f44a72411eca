"Clips, groups, samplers, the batch's contract, and the splits that a Config names."

import itertools
import random
import shutil
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from records import box, by_hand
from rvos_nb.augment import flip_words
from rvos_nb.caches import FeatureCache, denormalise
from rvos_nb.config import AugmentConfig, Config, ConfigError, DataConfig, RVOSError
from rvos_nb.copy_paste import COPY_PASTE
from rvos_nb.data import Expression, IdMasks
from rvos_nb.pictures import read_picture
from rvos_nb.datasets import hold_out, load_annotations
from rvos_nb.encoders import load_tokenizer
from rvos_nb.layout import write_ids
from rvos_nb.loaders import (
    Collate,
    Draw,
    RVOSDataset,
    TrainSampler,
    clip_frames,
    finish_batch,
    make_loader,
)
from rvos_nb.model import RVOSModel
from rvos_nb.shapes import make_shapes
from rvos_nb.sources import epoch_table, load_splits, make_loaders

SIZE = (48, 80)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    return make_shapes(folder, n_train=6, n_val=3, n_frames=(5, 9), progress=False)


@pytest.fixture(scope="module")
def all_kinds(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "all"
    how = dict(n_train=6, n_val=1, n_frames=(5, 9), split_kind="all", progress=False)
    return make_shapes(folder, **how)


@pytest.fixture
def copy(shapes, tmp_path) -> Path:
    return Path(shutil.copytree(shapes, tmp_path / "copy"))


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("demo-bert")


def cfg_for(root, **knobs) -> Config:
    small = dict(image_size=SIZE, clip_len=4, val_window=4, batch_size=2, epoch_size=0)
    small |= dict(expressions_per_clip=1, augment=True)
    return Config.preset("demo", **{"root": str(root), **small, **knobs})


def dataset_for(root, split="train", **knobs) -> RVOSDataset:
    annotations = root if isinstance(root, dict) else load_annotations(root, split)
    cfg = cfg_for("", **knobs)
    return RVOSDataset(annotations, cfg.data, cfg.augment, SIZE, train=split == "train")


def loader_for(root, tokenizer, split="train", **knobs):
    cfg = cfg_for(root, **knobs)
    return make_loader(load_annotations(root, split), cfg, tokenizer, train=split == "train")


def groups_of(draws) -> list[list[Draw]]:
    return [list(g) for _, g in itertools.groupby(draws, key=lambda draw: draw[1:])]


# --- clips


def test_clips_stay_inside_and_in_order():
    rng, seen = random.Random(0), set()
    for n, length, stride in itertools.product((1, 2, 5, 30), (1, 4), (1, 3)):
        for _ in range(40):
            t = clip_frames(n, length, stride, rng)
            assert len(t) == length and t.min() >= 0 and t.max() < n and (np.diff(t) >= 0).all()
            if n == 30 and length == 4:
                seen.add((t[0], t[1] - t[0]))
            if n >= length:
                assert len(set(np.diff(t))) <= 1  # one stride a clip
    assert {s for _, s in seen} == {1, 2, 3} and len({a for a, _ in seen}) > 15


@pytest.mark.parametrize("split", ["train", "val"])
def test_short_videos_are_padded_and_marked(copy, split):
    train = load_annotations(copy, "train")
    record = next(iter(train.values()))
    for file in [*record.frames[2:], *record.masks.files()[2:]]:
        file.unlink()
    short = load_annotations(copy, "train").subset([record.id])
    item = dataset_for(short, split, augment=False)[0]
    assert item["valid"].flatten(1).any(1).tolist() == [True, True, False, False]
    assert item["frame_ids"].tolist() == [0, 1, 1, 1]


def test_void_and_frames_without_labels_are_not_valid(tmp_path):
    ids = np.zeros(SIZE, np.uint8)
    ids[:10], ids[10:20] = 255, 1
    write_ids(tmp_path / "mask.png", ids)
    annotations = by_hand(tmp_path, {1: [None] * 3}, [("a", (1,))])
    masks = IdMasks([tmp_path / "mask.png", None, tmp_path / "mask.png"])
    annotations["v"] = replace(annotations["v"], masks=masks)
    item = dataset_for(annotations, "val")[0]
    assert item["valid"].flatten(1).any(1).tolist() == [True, False, True, False]
    assert not item["valid"][0, :10].any() and item["valid"][0, 10:].all()
    assert not item["masks"][0, :10].any() and item["masks"][0, 10:20].all()


def test_expressions_of_several_objects_mean_their_union_and_of_none_an_empty_mask(tmp_path):
    tracks = {1: [box(0, 0, 9, 9)], 2: [box(5, 5, 30, 30)]}
    said = [("a", (1,)), ("both", (1, 2)), ("nothing", ()), ("hidden", None)]
    annotations = by_hand(tmp_path, tracks, said)
    for split in ("train", "val"):
        dataset = dataset_for(annotations, split, clip_len=1, val_window=1, augment=False)
        assert len(dataset) == 3  # nobody knows the mask of the fourth
        masks = [dataset[i]["masks"][0].numpy() for i in range(3)]
        assert np.array_equal(masks[1], tracks[1][0] | tracks[2][0])
        assert np.array_equal(masks[0], tracks[1][0]) and not masks[2].any()
        assert dataset[1]["object_ids"] == (1, 2) and dataset[2]["object_ids"] == ()


def test_hidden_masks_are_nothing_to_train_on(tmp_path):
    annotations = by_hand(tmp_path, {1: [None]}, [("a", None)])
    with pytest.raises(RVOSError, match="all masks are hidden"):
        dataset_for(annotations)


def test_a_clip_shows_every_object_of_its_group(tmp_path):
    "Each object shows in half of the frames; four draws of a single frame find both now and then."
    there, off = box(0, 0, 20, 20), None
    tracks = {1: [there, there, off, off], 2: [there, off, there, off]}
    annotations = by_hand(tmp_path, tracks, [("a", (1,)), ("b", (2,))])
    dataset = dataset_for(annotations, clip_len=1, augment=False)
    alone = [dataset[Draw(0, (0,), seed, 1)]["masks"].any().item() for seed in range(200)]
    both = [dataset[Draw(0, (0, 1), seed, 1)]["frame_ids"].item() == 0 for seed in range(200)]
    assert np.mean(alone) == pytest.approx(1 - 0.5**4, abs=0.06)
    assert np.mean(both) == pytest.approx(1 - 0.75**4, abs=0.1)  # 0.68; without a redraw 0.25


def test_items_follow_their_seed(shapes):
    dataset = dataset_for(shapes)
    for i in range(8):
        a, b, c = (dataset[Draw(i, (i,), seed, 4)]["frames"].clone() for seed in (7, 7, 8))
        assert torch.equal(a, b) and not torch.equal(a, c)


# --- groups


@pytest.mark.parametrize("kind", ["shapes", "all_kinds"])
def test_all_items_of_a_group_have_identical_frames(kind, tokenizer, request):
    loader = loader_for(
        request.getfixturevalue(kind),
        tokenizer,
        expressions_per_clip=3,
        epoch_size=90,
        batch_size=4,  # a batch cuts every second group
    )
    dataset, mirrored = loader.dataset, []
    fresh = dataset_for(dataset.annotations)
    for group in groups_of(loader.sampler):
        assert len({draw.group for draw in group}) == 1
        items = [dataset[draw] for draw in group]
        for item, draw in zip(items, group):
            again = fresh[draw]  # a worker that has not seen the rest of the group
            assert torch.equal(item["frames"], items[0]["frames"])
            for k in ("frames", "masks", "valid", "frame_ids"):
                assert torch.equal(item[k], again[k])
            text = dataset.expression(draw.item).text
            assert item["expression"] == (flip_words(text) if item["mirrored"] else text)
            assert item["expression"] == again["expression"]
        assert len({item["mirrored"] for item in items}) == 1
        mirrored.append(items[0]["mirrored"])
    assert any(mirrored) and not all(mirrored)


def test_a_batch_tells_which_rows_show_the_same_clip(shapes, tokenizer):
    how = dict(expressions_per_clip=3, epoch_size=60, batch_size=4)
    loader = loader_for(shapes, tokenizer, **how)
    draws = list(loader.sampler)
    cut = 0
    for k, batch in enumerate(loader):
        mine, first = draws[4 * k : 4 * k + 4], batch["clip_index"].tolist()
        clips = [draw[1:] for draw in mine]
        assert first == [clips.index(clip) for clip in clips]
        assert batch["clip_index"].dtype == torch.int64
        for row, other in enumerate(first):
            assert torch.equal(batch["frames"][row], batch["frames"][other])
        cut += k > 0 and draws[4 * k][1:] == draws[4 * k - 1][1:]
    assert cut > 3  # groups that a border of batches cuts


def test_a_group_is_about_different_objects_of_one_video(shapes):
    dataset = dataset_for(shapes, expressions_per_clip=3, epoch_size=60, augment=False)
    groups = groups_of(TrainSampler(dataset))
    assert sum(map(len, groups)) == 60 and max(map(len, groups)) == 3
    for group in groups[:-1]:
        items = [dataset[draw] for draw in group]
        objects = dataset.annotations[items[0]["video_id"]].object_ids()
        assert len({item["video_id"] for item in items}) == 1
        assert len({item["object_ids"] for item in items}) == len(items) == min(3, len(objects))
        assert all(item["masks"].any() for item in items)


# --- the order of an epoch


def test_epochs_differ_repeat_and_do_not_depend_on_workers(shapes, tokenizer):
    def epoch(number, workers, seed=0):
        how = dict(workers=workers, seed=seed, expressions_per_clip=2)
        loader = loader_for(shapes, tokenizer, **how)
        loader.set_epoch(number)
        return torch.cat([batch["frames"] for batch in loader])

    first = epoch(0, 0)
    assert torch.equal(first, epoch(0, 0)) and torch.equal(first, epoch(0, 2))
    assert not torch.equal(first, epoch(1, 0)) and not torch.equal(first, epoch(0, 0, seed=1))


def test_the_sampler_visits_everything_once(shapes):
    n = len(dataset_for(shapes))
    items = [draw.item for draw in TrainSampler(dataset_for(shapes))]
    assert sorted(items) == list(range(n))
    short = list(TrainSampler(dataset_for(shapes, epoch_size=7)))
    long = list(TrainSampler(dataset_for(shapes, epoch_size=3 * n)))
    assert len({draw.item for draw in short}) == 7
    assert len(set(long)) == 3 * n and {draw.item for draw in long} == set(range(n))


def test_an_epoch_goes_on_after_the_items_that_were_seen(shapes, tokenizer):
    loader = loader_for(shapes, tokenizer)
    loader.set_epoch(3)
    whole = list(loader.sampler)
    loader.set_epoch(3, start=5)
    assert list(loader.sampler) == whole[5:] and len(loader.sampler) == len(whole) - 5


def test_clips_are_single_frames_in_the_first_epochs(shapes, tokenizer):
    how = dict(clip_len=3, image_epochs=0.5, epochs=4, epoch_size=4, max_stride=1)
    loader = loader_for(shapes, tokenizer, **how)

    def lengths(epoch):
        loader.set_epoch(epoch)
        return {batch[k].shape[1] for batch in loader for k in ("frames", "masks", "valid")}

    assert [lengths(e) for e in range(4)] == [{1}, {1}, {3}, {3}]


def items_of(plain, pasted, objects=2, **knobs) -> SimpleNamespace:
    "What a sampler looks at: videos of some objects with two expressions each, the last pasted."
    cfg = cfg_for("", **knobs)
    records = {}
    for v in range(plain + pasted):
        kind = COPY_PASTE if v >= plain else "colour"
        objects_twice = [(1 + i // 2,) for i in range(2 * objects)]
        said = [Expression(str(i), "", ids, kind=kind) for i, ids in enumerate(objects_twice)]
        records[f"v{v}"] = SimpleNamespace(expressions=said)
    items = [(v, e, 0) for v in records for e in range(2 * objects)]
    known = dict(annotations=records, items=items, data=cfg.data, augment=cfg.augment)
    said = [records[v].expressions[e] for v, e, _ in items]
    sized = type("Items", (SimpleNamespace,), {"__len__": lambda self: len(self.items)})
    return sized(expression=said.__getitem__, **known)


@pytest.mark.parametrize("prob", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("together", [1, 2])
def test_the_share_of_copy_paste_clips(prob, together):
    how = dict(epoch_size=4000, expressions_per_clip=together, copy_paste_prob=prob)
    dataset = items_of(plain=30, pasted=5, **how)
    sampler = TrainSampler(dataset)
    drawn = [dataset.items[draw.item][0] for draw in sampler]
    pasted = np.array([int(v[1:]) >= 30 for v in drawn])
    assert len(drawn) == len(sampler) == 4000 and pasted.mean() == pytest.approx(prob, abs=0.03)
    assert (0 < prob < 1) == (0 < pasted.sum() < 4000)
    for kind in set(pasted.tolist()):  # each as often as any other of its kind
        times = np.bincount([d.item for d, p in zip(sampler, pasted) if p == kind])
        times = times[times > 0]
        most = 1 if together == 1 else 0.7 * times.max()
        assert len(times) == (20 if kind else 120) and times.max() - times.min() <= most
    sampler.set_epoch(1)
    assert [dataset.items[draw.item][0] for draw in sampler] != drawn


def test_copy_paste_clips_alone_are_a_training_set():
    "Somebody may train on data that `rvos data copy-paste` wrote."
    dataset = items_of(plain=0, pasted=3, epoch_size=50, copy_paste_prob=0.0)
    assert len(list(TrainSampler(dataset))) == 50


def plain_order(dataset, size, together, seed, epoch) -> list[tuple[int, int]]:
    "(item, seed) of an epoch without copy-paste clips, by another route."
    about, items_about = [], defaultdict(lambda: defaultdict(list))
    for i, (video, e, _) in enumerate(dataset.items):
        ids = dataset.annotations[video].expressions[e].object_ids
        about.append((video, ids))
        items_about[video][ids].append(i)
    rng, order = random.Random(seed * 1_000_003 + epoch), []
    while len(order) < size:
        for i in rng.sample(range(len(dataset)), len(dataset)):
            (video, ids), number = about[i], rng.getrandbits(31)
            others = [x for other, x in items_about[video].items() if other != ids]
            chosen = rng.sample(others, min(together - 1, len(others)))
            order += [(i, number)] + [(rng.choice(x), number) for x in chosen]
            if len(order) >= size:
                break
    return order[:size]


@pytest.mark.parametrize("size, together", [(0, 1), (7, 1), (7, 3), (100, 3), (100, 2)])
def test_without_copy_paste_clips_their_probability_changes_nothing(size, together):
    how = dict(epoch_size=size, expressions_per_clip=together, copy_paste_prob=0.5)
    dataset = items_of(plain=6, pasted=0, objects=3, **how)
    for seed, epoch in ((0, 0), (0, 1), (3, 2)):
        sampler = TrainSampler(dataset, seed)
        sampler.set_epoch(epoch)
        drawn = [(draw.item, draw.seed) for draw in sampler]
        how = dict(size=size or len(dataset), together=together, seed=seed, epoch=epoch)
        assert drawn == plain_order(dataset, **how)


def test_the_epoch_as_a_table(shapes, tokenizer):
    loader = loader_for(shapes, tokenizer, expressions_per_clip=2, epoch_size=20)
    table = epoch_table(loader, 10)
    assert list(table.columns) == ["video", "object", "expression", "frames", "mirrored"]
    items = [loader.dataset[draw] for draw in itertools.islice(loader.sampler, 10)]
    assert table.video.tolist() == [item["video_id"] for item in items]
    assert table.frames[0] == " ".join(map(str, items[0]["frame_ids"].tolist()))
    assert table.object[0] != table.object[1] and table.frames[0] == table.frames[1]


# --- other expressions for lone objects


def with_texts(annotations, texts, video=0):
    "One video alone, its first object with these texts."
    record = list(annotations.values())[video]
    ids = record.expressions[0].object_ids
    said = [Expression(str(i), text, ids, group="annot1") for i, text in enumerate(texts)]
    return annotations.of({record.id: replace(record, expressions=said)})


def test_other_expressions_are_for_single_objects(shapes):
    "A clip of one object may get any expression, and its mask stays; with a choice all are true."
    annotations = load_annotations(shapes, "train")
    lone, video = with_texts(annotations, ["a shape"]), list(annotations)[1]
    both = annotations.of({**lone, video: annotations[video]})
    own = [e.text for e in annotations[video].expressions]
    assert len(annotations[video].object_ids()) > 1
    some, never = (dataset_for(both, negative_text_prob=p) for p in (0.5, 0.0))
    items, quiet = ([d[Draw(0, (0,), s, 4)] for s in range(60)] for d in (some, never))
    texts = [item["expression"] for item in items]
    assert 15 < sum(text != "a shape" for text in texts) < 45 and set(texts) <= {"a shape", *own}
    assert len(set(texts)) > 3
    for a, b in zip(items, quiet):
        assert b["expression"] == "a shape" and a["object_ids"] == b["object_ids"]
        assert all(torch.equal(a[k], b[k]) for k in ("frames", "masks", "valid", "frame_ids"))
    for k, text in enumerate(own, 1):
        said = {some[Draw(k, (k,), seed, 4)]["expression"] for seed in range(10)}
        assert said <= {text, flip_words(text)}
    val = dataset_for(both, "val", negative_text_prob=0.5)
    assert {val[i]["expression"] for i in range(len(val))} == {"a shape", *own}


def test_where_an_expression_names_no_object_all_keep_their_words(tmp_path):
    annotations = by_hand(tmp_path, {1: [box(0, 0, 9, 9)]}, [("a", (1,)), ("none", ())])
    dataset = dataset_for(annotations, negative_text_prob=1.0, augment=False)
    assert all(dataset[Draw(1, (1,), s, 1)]["expression"] == "none" for s in range(10))
    assert {dataset[Draw(0, (0,), s, 1)]["expression"] for s in range(20)} == {"a"}


# --- batches


def test_the_contract(shapes, tokenizer):
    train, val = make_loaders(cfg_for(shapes, expressions_per_clip=2), tokenizer)
    for batch in (next(iter(train)), next(iter(val))):
        B = len(batch["expression"])
        assert batch["frames"].shape == (B, 4, 3, *SIZE) and batch["frames"].dtype == torch.float32
        assert batch["masks"].shape == batch["valid"].shape == (B, 4, *SIZE)
        assert set(batch["masks"].unique().tolist()) <= {0, 1}
        assert batch["masks"].dtype == torch.float32 and batch["valid"].dtype == torch.bool
        ids, mask = batch["text_ids"], batch["text_mask"]
        assert ids.shape == mask.shape and ids.dtype == mask.dtype == torch.int64
        assert mask.sum(1).max() == ids.shape[1]  # no further than the longest
        assert batch["frame_ids"].shape == (B, 4) and batch["clip_index"].shape == (B,)
        assert len(batch["video_id"]) == len(batch["expression_id"]) == B
        assert all(isinstance(ids, tuple) for ids in batch["object_ids"])
        pixels = denormalise(batch["frames"])
        assert pixels.dtype == np.uint8 and 30 < pixels.mean() < 220
        assert "features" not in batch


def test_masks_are_of_the_named_object(shapes, tokenizer):
    loader = loader_for(shapes, tokenizer, "val")
    for batch in loader:
        for i, (video, ids) in enumerate(zip(batch["video_id"], batch["object_ids"])):
            t = batch["frame_ids"][i].numpy()
            truth = loader.dataset.cache.masks(video, t, ids)
            assert np.array_equal(batch["masks"][i].numpy() > 0, truth)


def test_validation_covers_each_video_once_and_in_order(shapes, tokenizer):
    seen = {}
    for batch in loader_for(shapes, tokenizer, "val"):
        assert len(set(batch["video_id"])) == 1  # one window, all its expressions
        assert (batch["frame_ids"] == batch["frame_ids"][0]).all()
        assert set(batch["clip_index"].tolist()) == {0}
        for i, e in enumerate(batch["expression_id"]):
            real = batch["valid"][i].flatten(1).any(1)
            frames = seen.setdefault((batch["video_id"][i], e), [])
            frames.extend(batch["frame_ids"][i][real].tolist())
    val = load_annotations(shapes, "val")
    for video, record in val.items():
        for e in record.expressions:
            assert seen.pop((video, e.id)) == list(range(len(record.frames)))
    assert not seen


def test_many_expressions_of_a_window_are_several_batches(tmp_path, tokenizer):
    said = [(f"a {i}", (1,)) for i in range(40)]
    annotations = by_hand(tmp_path, {1: [box(0, 0, 9, 9)]}, said)
    loader = make_loader(annotations, cfg_for(""), tokenizer, train=False)
    assert [len(batch["expression"]) for batch in loader] == [16, 16, 8]


# --- cached features


def small_model(**knobs) -> RVOSModel:
    torch.manual_seed(0)
    how = dict(decoder="dynamic", fuse_strides=(16, 32), freeze_backbone=True, hidden_dim=16)
    cfg = Config.preset("demo", **{**how, "heads": 2, "image_size": SIZE, **knobs})
    return RVOSModel(cfg.model).eval()


def with_features(dataset: RVOSDataset, model: RVOSModel) -> RVOSDataset:
    key = model.feature_key()
    dataset.features = FeatureCache(dataset.cache, model.encode_frames, key)
    return dataset


def test_frames_masks_features_and_words_are_mirrored_together(shapes):
    texts = ["the shape on the left", "the one left of the circle", "a shape"]
    annotations = with_texts(load_annotations(shapes, "train"), texts)
    dataset = with_features(dataset_for(annotations, clip_len=2), small_model())
    features, (video,) = dataset.features, annotations
    assert not np.array_equal(features.maps["4"][0], features.maps["4"][1])
    said = [("the shape on the left", "the shape on the right"), (texts[1], None), (texts[2],) * 2]
    for i, words in enumerate(said):
        seen = []
        for seed in range(24):
            item = dataset[Draw(i, (i,), seed, 2)]
            t, mirrored = item["frame_ids"].numpy(), item["mirrored"]
            for name, x in features.read(video, t, mirrored).items():
                assert torch.equal(item["features"][name], x)
            step = -1 if mirrored else 1
            frames = dataset.cache.read(video, t)[:, :, ::step]
            assert np.array_equal(item["frames"].numpy(), frames.transpose(0, 3, 1, 2))
            masks = dataset.cache.masks(video, t, item["object_ids"])[:, :, ::step]
            assert np.array_equal(item["masks"].numpy(), masks) and item["masks"].any()
            assert item["expression"] == words[mirrored]
            seen.append(mirrored)
        # half of them, or none where nobody can say what is true in a mirror
        assert 4 < sum(seen) < 20 if words[1] else not any(seen)
    for seed in range(8):  # one expression of a group forbids it to the others
        assert not dataset[Draw(0, (0, 1), seed, 2)]["mirrored"]
    still = dataset_for(annotations, clip_len=2, augment=False)
    still.features = features
    assert not any(still[Draw(0, (0,), seed, 2)]["mirrored"] for seed in range(8))


def test_a_batch_of_features_stands_for_one_of_frames(shapes, tokenizer):
    model, how = small_model(), dict(clip_len=2, augment=False)
    plain, cached = dataset_for(shapes, **how), with_features(dataset_for(shapes, **how), model)
    draws = [Draw(i, (0, 5), 7, 2) for i in (0, 5)] + [Draw(9, (9,), 8, 2)]
    collate = Collate(tokenizer)
    a, b = (finish_batch(collate([d[draw] for draw in draws]), "cpu") for d in (cached, plain))
    assert "features" not in b and set(a) - set(b) == {"features"}
    for k, x in b.items():
        assert torch.equal(a[k], x) if isinstance(x, torch.Tensor) else a[k] == x
    with torch.inference_mode():
        now = model.encode_frames(b["frames"])
        assert {s: x.shape for s, x in a["features"].items()} == {
            s: x.shape for s, x in now.items()
        }
        how = dict(clip_index=b["clip_index"])
        text = b["text_ids"], b["text_mask"]
        from_frames = model(b["frames"], *text, **how)
        from_features = model(b["frames"], *text, features=a["features"], **how)
    torch.testing.assert_close(from_features, from_frames, atol=0.05, rtol=0)


def test_what_is_cached_must_stay_the_same():
    with pytest.raises(ConfigError, match="feature_cache = True: expected freeze_backbone = True"):
        Config.preset("demo", feature_cache=True)


# --- splits


def test_the_split_is_by_video_and_dev_is_held_out_by_video(shapes):
    splits = load_splits(cfg_for(shapes, dev_fraction=0.34))
    assert [len(splits[s]) for s in ("train", "dev", "val")] == [4, 2, 3]
    assert not set(splits["train"]) & set(splits["dev"])
    assert not (set(splits["train"]) | set(splits["dev"])) & set(splits["val"])
    held_out = hold_out(load_annotations(shapes, "train"), 0.34, 0)[1]
    assert list(held_out) == list(splits["dev"])  # the seed decides
    assert len(load_splits(cfg_for(shapes, max_videos=2))["train"]) == 2


def test_a_video_in_both_splits_is_refused(copy):
    sets = copy / "DAVIS" / "ImageSets" / "2017"
    name = (sets / "train.txt").read_text().split()[0]
    with open(sets / "val.txt", "a") as f:
        f.write(f"\n{name}\n")
    with pytest.raises(RVOSError, match=f"{name} is in train and in val"):
        load_splits(cfg_for(copy))


def test_bad_videos_stop_a_run_or_are_left_out(copy, capsys):
    bad = next(iter(load_annotations(copy, "train").values()))
    bad.frames[1].write_bytes(b"no picture")
    with pytest.raises(RVOSError, match="1 problems; mend them.*--skip-bad") as e:
        load_splits(cfg_for(copy))
    assert f"{bad.id}/00001.jpg" in str(e.value)
    assert bad.id not in load_splits(cfg_for(copy, skip_bad=True))["train"]
    assert f"left out 1 videos: {bad.id}" in capsys.readouterr().out


def test_every_nth_frame_and_copy_paste_clips_are_for_training_alone(shapes):
    cfg = cfg_for(shapes, dev_fraction=0.3, clip_len=2)
    thinner = cfg.replace(frame_stride=3, copy_paste_clips=4)
    whole, thin = load_splits(cfg), load_splits(thinner)
    kinds = {v: record.expressions[0].kind for v, record in thin["train"].items()}
    clips = {v for v, kind in kinds.items() if kind == COPY_PASTE}
    assert len(clips) == 4 and set(thin["train"]) - clips == set(whole["train"])
    assert thin["train"].split == "train"
    for v, record in whole["train"].items():
        few = thin["train"][v]
        assert few.frames == record.frames[::3] and len(record.frames) > len(few.frames) > 0
        assert few.expressions == record.expressions
        for t in range(len(few.frames)):
            ids = record.object_ids()
            assert np.array_equal(few.masks.mask(t, ids), record.masks.mask(3 * t, ids))
    for v in clips:
        assert len(thin["train"][v].frames) == cfg.augment.copy_paste_frames
        assert set(v.rsplit("-", 1)[0].split("+")) <= set(whole["train"])  # none that is held out
        assert read_picture(thin["train"][v].frames[0]).shape == (*SIZE, 3)
    for split in ("dev", "val"):
        assert list(thin[split]) == list(whole[split])
        for v, record in thin[split].items():
            assert record.frames == whole[split][v].frames
    assert list(load_splits(thinner)["train"]) == list(thin["train"])


def test_knobs_have_their_groups():
    "A dataset is handed the two groups that it needs, and no other."
    with pytest.raises(TypeError):
        RVOSDataset({}, Config(), SIZE)
    assert DataConfig().clip_len == 1 and not AugmentConfig().augment
