"Folders to annotations to batches: both forms of the sentences, the cache, clips, and the batch's contract."
import itertools
import json
import multiprocessing
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rvos_nb.core import Config, RVOSError
from rvos_nb.data import (ANNOTATORS, FrameCache, RVOSDataset, TrainSampler, check_data, clip_frames, hold_out, load_annotations, load_splits, load_tokenizer, make_loader,
                          make_loaders, read_mask, read_meta_expressions, read_text_annotations)
from rvos_nb.demo import davis_palette, make_demo_data
from rvos_nb.draw import denormalise


@pytest.fixture(scope="session")
def demo(tmp_path_factory) -> Path:
    return make_demo_data(tmp_path_factory.mktemp("data") / "demo", n_train=6, n_val=3, n_frames=(5, 9), progress=False)


@pytest.fixture
def copy(demo, tmp_path) -> Path: return Path(shutil.copytree(demo, tmp_path / "copy"))


def cfg_for(root, **kw): return Config(**dict(data=str(root), image_size=(48, 80), clip_len=4, val_window=4, batch_size=2, contrast=1, augment=True, epoch_size=0) | kw)


# --- annotations

def test_davis_val_is_complete(davis):
    val = load_annotations(davis, "val")
    assert len(val) == 9
    assert len(val.left_out) >= 21 and "left out" in val.describe()
    for v, a in val.items():
        assert [f.stem for f in a["frames"]] == [m.stem for m in a["masks"]] and all(m.exists() for m in a["masks"])
        assert [e["annotator"] for e in a["expressions"]] == list(ANNOTATORS)
    assert val["blackswan"]["expressions"][1] == {"expression_id": "1", "object_id": 1, "annotator": "annot1_full_video", "expression": "a black feathered swan", "kind": ""}


def test_both_forms_say_the_same(davis, tmp_path):
    "The text files and the converted json of the same data."
    root = tmp_path / "converted"
    root.mkdir()
    (root / "DAVIS").symlink_to(davis / "DAVIS")
    shutil.copytree(davis / "meta_expressions", root / "meta_expressions")
    assert {v: a["expressions"] for v, a in load_annotations(root, "val").items()} == {v: a["expressions"] for v, a in load_annotations(davis, "val").items()}


def test_latin1_and_misspelt_names(tmp_path):
    for a in ANNOTATORS:
        text = 'clasic-car 1 "a caf\xe9 racer"\ndog-scale 2 "a dog"\nmotor-bike 1 "a bike"\n'
        (tmp_path / f"Davis17_{a}.txt").write_bytes(text.encode("latin-1" if a.startswith("annot2") else "utf-8"))
    found = read_text_annotations(tmp_path)
    assert set(found) == {"classic-car", "dogs-scale", "motorbike"} and {e["expression"] for e in found["classic-car"]} == {"a caf\xe9 racer"}


@pytest.mark.parametrize("line", ["bear", 'bear one "a bear"', "bear 1 a bear", '"a bear"'])
def test_a_bad_line_is_named(copy, line):
    path = copy / "davis_text_annotations" / "Davis17_annot1.txt"
    n = len(path.read_text().splitlines()) + 1
    with open(path, "a") as f: f.write(line + "\n")
    with pytest.raises(RVOSError, match=rf"Davis17_annot1.txt, line {n}.*expected"): load_annotations(copy, "val")


def test_a_missing_file_or_a_wrong_encoding_is_named(copy):
    path = copy / "davis_text_annotations" / "Davis17_annot1.txt"
    path.write_bytes('x 1 "caf\xe9"\n'.encode("latin-1"))
    with pytest.raises(RVOSError, match="Davis17_annot1.txt: not utf-8"): load_annotations(copy, "val")
    path.unlink()
    with pytest.raises(RVOSError, match="Davis17_annot1.txt: missing"): load_annotations(copy, "val")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"videos": []}', '{"videos": {"a": 1}}', '{"videos": {"a": {"expressions": {"0": {"obj_id": "1"}}}}}',
                                  '{"videos": {"a": {"expressions": {"0": {"exp": "x", "obj_id": "one"}}}}}', "\xff"])
def test_a_broken_json_is_named(tmp_path, text):
    path = tmp_path / "meta_expressions.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(RVOSError, match="meta_expressions.json"): read_meta_expressions(path)


def test_folders_that_are_not_data(tmp_path, copy):
    with pytest.raises(RVOSError, match="no such folder"): load_annotations(tmp_path / "nowhere", "val")
    with pytest.raises(RVOSError, match="JPEGImages/480p"): load_annotations(tmp_path, "val")
    shutil.rmtree(copy / "davis_text_annotations")
    with pytest.raises(RVOSError, match="davis_text_annotations"): load_annotations(copy, "val")


def test_converted_layout_without_image_sets(demo, tmp_path):
    "Ref-YouTube-VOS style: valid/JPEGImages/<video>, the videos taken from the json and the folders."
    val, root = load_annotations(demo, "val"), tmp_path / "conv"
    keep = list(val)[:2]
    for v in keep:
        shutil.copytree(val[v]["frames"][0].parent, root / "valid" / "JPEGImages" / v)
        shutil.copytree(val[v]["masks"][0].parent, root / "valid" / "Annotations" / v)
    meta = {"videos": {v: {"expressions": {e["expression_id"]: {"exp": e["expression"], "obj_id": str(e["object_id"])} for e in a["expressions"]}} for v, a in val.items()}}
    (root / "meta_expressions" / "valid").mkdir(parents=True)
    (root / "meta_expressions" / "valid" / "meta_expressions.json").write_text(json.dumps(meta))
    found = load_annotations(root, "val")
    assert list(found) == keep and found.left_out == [v for v in val if v not in keep]
    assert [e["expression"] for e in found[keep[0]]["expressions"]] == [e["expression"] for e in val[keep[0]]["expressions"]]


def test_split_is_by_video_and_dev_is_held_out_by_video(demo):
    splits = load_splits(cfg_for(demo, dev_fraction=0.34))
    assert (len(splits["train"]), len(splits["dev"]), len(splits["val"])) == (4, 2, 3)
    assert not set(splits["train"]) & set(splits["dev"]) and not (set(splits["train"]) | set(splits["dev"])) & set(splits["val"])
    assert list(hold_out(load_annotations(demo, "train"), 0.34, 0)[1]) == list(splits["dev"])  # the seed decides
    assert len(load_splits(cfg_for(demo, max_videos=2))["train"]) == 2


def test_a_video_in_both_splits_is_refused(copy):
    sets = copy / "DAVIS" / "ImageSets" / "2017"
    name = (sets / "train.txt").read_text().split()[0]
    with open(sets / "val.txt", "a") as f: f.write(f"\n{name}\n")
    with pytest.raises(RVOSError, match=f"{name} is in train and in val"): load_splits(cfg_for(copy))


# --- pictures

def test_masks_are_ids_never_colours(demo, tmp_path):
    ids = read_mask(load_annotations(demo, "val")[next(iter(load_annotations(demo, "val")))]["masks"][0])
    assert ids.max() <= 4 and ids.dtype == np.uint8
    void = Image.fromarray(np.array([[0, 1], [2, 255]], np.uint8), "L")
    void.putpalette(davis_palette())
    void.save(tmp_path / "v.png")
    assert read_mask(tmp_path / "v.png").tolist() == [[0, 1], [2, 255]]
    Image.new("RGB", (4, 4)).save(tmp_path / "c.png")
    with pytest.raises(RVOSError, match="c.png.*RGB.*palette"): read_mask(tmp_path / "c.png")


# --- cache

def test_cache_holds_what_is_on_disk(demo, tmp_path, capsys):
    val = load_annotations(demo, "val")
    cache = FrameCache(val, (144, 240), tmp_path)  # the demo data's own size: nothing is resized
    assert "MB" in capsys.readouterr().out
    v = list(val)[1]
    frames, ids = cache.read(v, np.array([2, 0]))
    assert np.array_equal(frames[0], np.array(Image.open(val[v]["frames"][2]))) and np.array_equal(ids[1], read_mask(val[v]["masks"][0]))
    FrameCache(val, (144, 240), tmp_path)
    assert capsys.readouterr().out == ""  # found, not built again


def test_cache_is_keyed_by_data_and_size(copy, tmp_path):
    val = load_annotations(copy, "val")
    a = FrameCache(val, (48, 80), tmp_path)
    assert FrameCache(val, (48, 96), tmp_path).folder != a.folder
    f = val[next(iter(val))]["frames"][0]
    Image.new("RGB", (240, 144), "red").save(f)
    b = FrameCache(load_annotations(copy, "val"), (48, 80), tmp_path)
    assert b.folder != a.folder and b.frames[0, 0, 0, 0] > 200


def test_cache_refuses_to_fill_the_disk(demo, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda p: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(RVOSError, match="GB free.*RVOS_HOME"): FrameCache(load_annotations(demo, "val"), (48, 80), tmp_path)
    assert not any(p.is_dir() for p in tmp_path.iterdir())


def test_a_broken_frame_leaves_no_cache(copy, tmp_path):
    val = load_annotations(copy, "val")
    bad = val[next(iter(val))]["frames"][3]
    bad.write_bytes(bad.read_bytes()[:300])
    with pytest.raises(RVOSError, match=bad.name): FrameCache(val, (48, 80), tmp_path / "cache")
    assert not any(p.is_dir() for p in (tmp_path / "cache").iterdir())


def _build(root, folder, queue):
    cache = FrameCache(load_annotations(root, "train"), (48, 80), Path(folder))
    queue.put((cache.folder.name, int(cache.frames.sum())))


def test_two_processes_build_one_cache(demo, tmp_path):
    spawn = multiprocessing.get_context("spawn")
    queue = spawn.Queue()
    ps = [spawn.Process(target=_build, args=(demo, tmp_path, queue)) for _ in range(2)]
    for p in ps: p.start()
    results = {queue.get(timeout=120) for _ in ps}
    for p in ps: p.join()
    assert len(results) == 1 and len([p for p in tmp_path.iterdir() if p.is_dir()]) == 1


# --- clips

def test_clips_stay_inside_and_in_order():
    rng, seen = random.Random(0), set()
    for n, length, stride in itertools.product((1, 2, 5, 30), (1, 4), (1, 3)):
        for _ in range(40):
            t = clip_frames(n, length, stride, rng)
            assert len(t) == length and t.min() >= 0 and t.max() < n and (np.diff(t) >= 0).all()
            if n == 30 and length == 4: seen.add((t[0], t[1] - t[0]))
            if n >= length: assert len(set(np.diff(t))) <= 1  # one stride a clip
    assert {s for _, s in seen} == {1, 2, 3} and len({a for a, _ in seen}) > 15


def test_short_videos_are_padded_and_marked(copy):
    train = load_annotations(copy, "train")
    v = next(iter(train))
    for f in train[v]["frames"][2:] + train[v]["masks"][2:]: f.unlink()
    train = load_annotations(copy, "train").subset([v])
    for is_train in (True, False):
        item = RVOSDataset(train, cfg_for(copy, augment=False), train=is_train)[0]
        assert item["valid"].flatten(1).any(1).tolist() == [True, True, False, False] and item["frame_ids"].tolist() == [0, 1, 1, 1]


def test_void_is_not_valid(copy):
    val = load_annotations(copy, "val")
    v = next(iter(val))
    ids = read_mask(val[v]["masks"][0])
    ids[:72] = 255
    im = Image.fromarray(ids, "L")
    im.putpalette(davis_palette())
    im.save(val[v]["masks"][0])
    item = RVOSDataset(load_annotations(copy, "val"), cfg_for(copy))[0]
    assert not item["valid"][0, :24].any() and item["valid"][0, 24:].all() and not item["masks"][0, :24].any() and item["valid"][1].all()


def test_items_follow_their_seed(demo):
    ds = RVOSDataset(load_annotations(demo, "train"), cfg_for(demo), train=True)
    same = [torch.equal(ds[(i, 7)]["frames"], ds[(i, 7)]["frames"]) for i in range(8)]
    other = [torch.equal(ds[(i, 7)]["frames"], ds[(i, 8)]["frames"]) for i in range(8)]
    assert all(same) and not any(other)


def test_epochs_differ_repeat_and_do_not_depend_on_workers(demo):
    def epoch(e, workers, seed=0):
        loader = make_loader(load_annotations(demo, "train"), cfg_for(demo, workers=workers, seed=seed), train=True)
        loader.set_epoch(e)
        return torch.cat([b["frames"] for b in loader])
    first = epoch(0, 0)
    assert torch.equal(first, epoch(0, 0)) and torch.equal(first, epoch(0, 2))
    assert not torch.equal(first, epoch(1, 0)) and not torch.equal(first, epoch(0, 0, seed=1))


def test_sampler_visits_everything_once(demo):
    ds = RVOSDataset(load_annotations(demo, "train"), cfg_for(demo), train=True)
    assert sorted(i for i, *_ in TrainSampler(ds)) == list(range(len(ds)))
    short, long = list(TrainSampler(ds, 7)), list(TrainSampler(ds, 3 * len(ds)))
    assert len({i for i, *_ in short}) == 7 and len(long) == 3 * len(ds) and {i for i, *_ in long} == set(range(len(ds))) and len(set(long)) == 3 * len(ds)


def test_clips_are_single_frames_in_the_first_epochs(demo):
    cfg = cfg_for(demo, clip_len=3, still=0.5, epochs=4, epoch_size=4, max_stride=1)
    loader = make_loader(load_annotations(demo, "train"), cfg, True)
    def lengths(epoch):
        loader.set_epoch(epoch)
        return {b["frames"].shape[1] for b in loader} | {b["masks"].shape[1] for b in loader} | {b["valid"].shape[1] for b in loader}
    assert [lengths(e) for e in range(4)] == [{1}, {1}, {3}, {3}]


def test_contrast_puts_other_objects_of_the_same_clip_side_by_side(demo):
    ds = RVOSDataset(load_annotations(demo, "train"), cfg_for(demo, augment=False), train=True)
    order = list(TrainSampler(ds, 60, contrast=3))
    groups = [list(g) for _, g in itertools.groupby(order, key=lambda p: p[1])]
    assert sum(map(len, groups)) == 60 and max(map(len, groups)) == 3
    for g in groups[:-1]:
        items = [ds[p] for p in g]
        objects = {e["object_id"] for e in ds.annotations[items[0]["video_id"]]["expressions"]}
        assert len({i["video_id"] for i in items}) == 1 and len({i["object_id"] for i in items}) == len(items) == min(3, len(objects))
    same = [torch.equal(ds[g[0]]["frames"], ds[g[1]]["frames"]) for g in groups if len(g) > 1]
    assert sum(same) >= 0.9 * len(same)  # the same frames, but for an object that these do not show


# --- batches

def test_the_contract(demo):
    train, val = make_loaders(cfg_for(demo))
    for batch in (next(iter(train)), next(iter(val))):
        B = len(batch["expression"])
        assert batch["frames"].shape == (B, 4, 3, 48, 80) and batch["frames"].dtype == torch.float32
        assert batch["masks"].shape == batch["valid"].shape == (B, 4, 48, 80) and set(batch["masks"].unique().tolist()) <= {0, 1} and batch["valid"].dtype == torch.bool
        assert batch["text_ids"].shape == batch["text_mask"].shape and batch["text_ids"].dtype == batch["text_mask"].dtype == torch.int64
        assert batch["text_mask"].sum(1).max() == batch["text_ids"].shape[1]  # no further than the longest
        assert batch["object_id"].shape == (B,) and batch["frame_ids"].shape == (B, 4) and len(batch["video_id"]) == len(batch["expression_id"]) == B
        pixels = denormalise(batch["frames"])
        assert pixels.dtype == np.uint8 and 30 < pixels.mean() < 220


def test_masks_are_of_the_named_object(demo):
    val = load_annotations(demo, "val")
    loader = make_loader(val, cfg_for(demo), train=False)
    for batch in loader:
        for i, (v, o) in enumerate(zip(batch["video_id"], batch["object_id"])):
            ids = loader.dataset.cache.read(v, batch["frame_ids"][i].numpy())[1]
            assert np.array_equal(batch["masks"][i].numpy() > 0, ids == o.item())


def test_validation_covers_each_video_once_and_in_order(demo):
    val = load_annotations(demo, "val")
    seen = {}
    for batch in make_loader(val, cfg_for(demo), train=False):
        assert len(set(batch["video_id"])) == 1 and (batch["frame_ids"] == batch["frame_ids"][0]).all()  # one window, all its sentences
        for i, e in enumerate(batch["expression_id"]):
            seen.setdefault((batch["video_id"][i], e), []).extend(batch["frame_ids"][i][batch["valid"][i].flatten(1).any(1)].tolist())
    assert seen == {(v, e["expression_id"]): list(range(len(a["frames"]))) for v, a in val.items() for e in a["expressions"]}


def test_tokens_are_the_encoder_s_own():
    t = load_tokenizer("demo-bert")
    assert t.decode(t("the red circle")["input_ids"], skip_special_tokens=True) == "the red circle"
    with pytest.raises(RVOSError, match="no-such/encoder"): load_tokenizer("no-such/encoder")


# --- check_data

def test_clean_data_has_no_problems(demo): assert check_data(demo).empty


def test_real_data_has_no_problems(davis): assert check_data(davis).empty


FAULTS = {
    "missing mask": (lambda a, v: a[v]["masks"][1].unlink(), "no such mask"),
    "missing frame": (lambda a, v: a[v]["frames"][1].unlink(), "a mask without a frame"),
    "truncated frame": (lambda a, v: a[v]["frames"][1].write_bytes(a[v]["frames"][1].read_bytes()[:400]), "not a picture"),
    "colours": (lambda a, v: Image.new("RGB", (240, 144)).save(a[v]["masks"][1]), "mode RGB"),
    "size": (lambda a, v: Image.new("P", (24, 14)).save(a[v]["masks"][1]), "height and width"),
    "text": (lambda a, v: a[v]["masks"][1].write_text("no picture"), "not a mask"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found(copy, fault):
    a = load_annotations(copy, "val")
    v = list(a)[1]
    FAULTS[fault][0](a, v)
    table = check_data(copy)
    assert len(table) == 1 and v in table["where"][0] and FAULTS[fault][1] in table["problem"][0], table.to_string()


def test_sentences_without_an_object(copy):
    v = next(iter(load_annotations(copy, "val")))
    for a in ANNOTATORS:
        with open(copy / "davis_text_annotations" / f"Davis17_{a}.txt", "a") as f: f.write(f'{v} 9 "a ghost"\n{v} 1 ""\n')
    problems = check_data(copy).problem
    assert problems.str.contains("object 9 has sentences").sum() == 1 and problems.str.contains("empty sentence").sum() == 4


def _append(root, name, text, encoding="utf-8"):
    with open(root / "davis_text_annotations" / f"Davis17_{name}.txt", "ab") as f: f.write(text.encode(encoding))


def _blank(a, v):
    for m in a[v]["masks"]:
        im = Image.new("P", (240, 144))
        im.putpalette(davis_palette())
        im.save(m)


def _drop(path, words):
    path.write_text("".join(line for line in path.read_text().splitlines(True) if words not in line))


MORE_FAULTS = {  # fault: (what is done to the root, its annotations and a video of val; what must be said; of which video)
    "a frame and its mask are missing": (lambda r, a, v: (a[v]["frames"][2].unlink(), a[v]["masks"][2].unlink()), "00002.jpg.*frames before and after", True),
    "empty masks throughout": (lambda r, a, v: _blank(a, v), "no mask shows any object", True),
    "unknown video": (lambda r, a, v: _append(r, "annot1", 'nobody-knows 1 "a thing"\n'), "nobody-knows.*not known", False),
    "misspelt video": (lambda r, a, v: [_append(r, n, f'{v}s 1 "a thing"\n') for n in ANNOTATORS], "not known", False),
    "misspelt in all files": (lambda r, a, v: [f.write_text(f.read_text(encoding=e).replace(f"{v} ", f"{v}x "), encoding=e) for n in ANNOTATORS
                                               for f, e in [(r / "davis_text_annotations" / f"Davis17_{n}.txt", "utf-8" if n < "annot2" else "latin-1")]], "is shapes-val-000. meant", True),
    "UTF-8 in a latin-1 file": (lambda r, a, v: _append(r, "annot2", f'{v} 1 "a caf\xe9"\n'), "UTF-8 that was read as latin-1", True),
    "control characters": (lambda r, a, v: _append(r, "annot1", f'{v} 1 "a \x01 dog"\n'), "characters that no text has", True),
    "not UTF-8": (lambda r, a, v: _append(r, "annot1", f'{v} 1 "a caf\xe9"\n', "latin-1"), "annot1.txt.*not utf-8", False),
    "empty sentence": (lambda r, a, v: _append(r, "annot1", f'{v} 1 ""\n'), "empty sentence", True),
    "over-long sentence": (lambda r, a, v: _append(r, "annot1", f'{v} 1 "{"very " * 70}long"\n'), "71 words", True),
    "the same twice": (lambda r, a, v: _append(r, "annot1", f'{v} 1 "a thing"\n'), "has a sentence in this file already", True),
    "object 255": (lambda r, a, v: _append(r, "annot1", f'{v} 255 "void"\n'), "255 is void", True),
    "no line": (lambda r, a, v: _append(r, "annot1", "bear\n"), "line .*expected", False),
    "listed twice": (lambda r, a, v: (r / "DAVIS/ImageSets/2017/val.txt").write_text("\n".join([*a, v])), "stands there 2 times", True),
    "in both splits": (lambda r, a, v: (r / "DAVIS/ImageSets/2017/train.txt").write_text((r / "DAVIS/ImageSets/2017/train.txt").read_text() + f"\n{v}\n"), "in train and in val", True),
    "listed without frames": (lambda r, a, v: shutil.rmtree(a[v]["frames"][0].parent), "no frames, but val.txt lists", True),
    "listed without sentences": (lambda r, a, v: [_drop(r / "davis_text_annotations" / f"Davis17_{n}.txt", f"{v} ") for n in ANNOTATORS], "no sentence about it", True),
    "a list that leads out": (lambda r, a, v: (r / "DAVIS/ImageSets/2017/val.txt").write_text("\n".join([*a, "../../up"])), "plain name", False),
    "a list that is no text": (lambda r, a, v: (r / "DAVIS/ImageSets/2017/val.txt").write_bytes(b"\xff\xfe"), "not a text file", False),
    "a file of sentences is missing": (lambda r, a, v: (r / "davis_text_annotations" / "Davis17_annot2.txt").unlink(), "annot2.txt.*missing", False),
    "no masks at all": (lambda r, a, v: shutil.rmtree(a[v]["masks"][0].parent), "no such mask", True),
}


@pytest.mark.parametrize("fault", MORE_FAULTS)
def test_check_lists(copy, fault):
    "Each fault alone; nothing is raised, the table names it, and where a video can be blamed, the video."
    a = load_annotations(copy, "val")
    v = list(a)[1]
    do, words, blamed = MORE_FAULTS[fault]
    do(copy, a, v)
    table = check_data(copy)
    lines = table["where"] + ": " + table["problem"]
    assert lines.str.contains(words).any(), table.to_string()
    assert not blamed or v in set(table.video), table.to_string()


def test_check_lists_all_faults_at_once(copy):
    a = load_annotations(copy, "val")
    for (fault, _), v in zip(FAULTS.values(), itertools.cycle(a)): fault(a, v)
    for text in ('nobody 1 "x"\n', "no line\n", f'{list(a)[0]} 1 ""\n'): _append(copy, "annot1", text)
    assert len(check_data(copy)) >= 8  # some faults hide others


def test_check_reads_the_converted_form(tmp_path, demo):
    root, val = tmp_path / "conv", load_annotations(demo, "val")
    for v in val:
        shutil.copytree(val[v]["frames"][0].parent, root / "valid" / "JPEGImages" / v)
        shutil.copytree(val[v]["masks"][0].parent, root / "valid" / "Annotations" / v)
    path = root / "meta_expressions" / "valid" / "meta_expressions.json"
    path.parent.mkdir(parents=True)
    v, w, x = val
    good = '{"exp": "a thing", "obj_id": "1"}'
    path.write_text(f'{{"videos": {{"{v}": {{"expressions": {{"0": {good}, "0": {good}}}}}, "{w}": {{"expressions": {{"0": {{"obj_id": 1}}}}}}, "{x}": {{"expressions": {{"0": {good}}}}}, "{x}": 5}}}}')
    table = check_data(root)
    text = "\n".join(table["where"] + ": " + table["problem"])
    for words in ("'0' stands there 2 times", f"'{x}' stands there 2 times", "KeyError: 'exp'", "expected a dictionary with 'expressions'"): assert words in text, text
    path.write_text("{")
    assert check_data(root).problem.str.contains("not JSON").any()


def test_partial_copies_of_davis_are_no_problem(copy):
    "Sentences about an official video whose frames are not here are left out, not a fault."
    for n in ANNOTATORS: _append(copy, n, 'bear 1 "a bear"\n')
    assert check_data(copy).empty
