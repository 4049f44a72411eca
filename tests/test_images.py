"Images as training video: expressions that are true, masks that move with the image, crowds."

import colorsys
import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import folder_from
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask
from rvos_nb.check import check_data
from rvos_nb.cli import main
from rvos_nb.config import ConfigError, RVOSError
from rvos_nb.datasets import load_annotations
from rvos_nb.images import Picture, Scene, choose, true_expressions
from rvos_nb.pictures import read_picture
from rvos_nb.pseudo_video import _draw_path, _looks_at, _take, images_data

NOUNS = {"dog": "dogs", "person": "people", "teddy bear": "teddy bears", "bear": "bears"}
NOUNS |= {"bus": "buses", "knife": "knives", "scissors": "scissors", "car": "cars"}
PAINTS = {"red": (220, 20, 20), "green": (20, 160, 40), "blue": (20, 60, 220)}
PAINTS |= {"white": (250, 250, 250), "black": (10, 10, 10), "none": (160, 110, 100)}
KINDS = {"category", "place", "size", "colour", "plural", "none"}

# --- a reader of expressions that knows nothing of the maker


def parts(text: str) -> tuple[str, str, str]:
    "(how many: one, many, or a number; the noun; the relation) of a text."
    after = re.search(r" (?:on|at) the (left|right|top|bottom)(?: side)?$", text)
    far = re.search(r" furthest to the (left|right)$", text)
    relation = f"{far[1]}most" if far else after[1] if after else ""
    said = text[: (far or after).start()] if far or after else text
    words = re.sub(r"^(?:the|all|both) ", "", said).split()
    number = "both" if said.startswith("both") else "many" if said.startswith("all ") else ""
    counts = "two three four five six seven eight nine ten".split()
    if words[0] in counts:
        number = words.pop(0)
    same = {"biggest": "largest", "highest": "topmost"}
    rank = same.get(words[0], words[0])
    if rank in ("leftmost", "rightmost", "topmost", "lowest", "largest", "smallest"):
        relation = rank
        words.pop(0)
    elif words[0] in ("red", "orange", "yellow", "green", "blue", "purple", "white", "grey"):
        relation = words.pop(0) if len(words) > 1 else relation
    elif words[0] == "black":
        relation = words.pop(0)
    noun = " ".join(words)
    plural = {many: one for one, many in NOUNS.items() if many != one}
    count = {"both": "2", "": "one"}.get(number, number)
    if count in counts:
        count = str(counts.index(count) + 2)
    if noun in plural:
        return ("many" if count == "one" else count), plural[noun], relation
    return count, noun, relation


def share_of(colour: str, pixels: np.ndarray) -> float:
    "Which share of the pixels [N,3] has a colour, by wide limits."
    found = 0
    for r, g, b in pixels[:: max(1, len(pixels) // 200)].tolist():
        h, s, v = colorsys.rgb_to_hsv(r / 255, g / 255, b / 255)
        hues = dict(red=(340, 375), orange=(15, 40), yellow=(40, 70), green=(75, 170))
        hues |= dict(blue=(190, 258), purple=(258, 315))
        if colour in hues:
            low, high = hues[colour]
            found += (360 * h - low) % 360 <= high - low and s > 0.2 and v > 0.15
        else:
            grey = s < 0.15
            found += {"white": grey and v > 0.7, "grey": grey and 0.25 < v < 0.7}.get(
                colour, v < 0.2
            )
    return found / len(pixels[:: max(1, len(pixels) // 200)])


def fits(relation: str, o: int, others: list[int], frames: np.ndarray, ids: np.ndarray) -> bool:
    "Is the relation true of object o in every frame that shows it?"
    for frame, seen in zip(frames, ids):
        mine = np.argwhere(seen == o)
        if not len(mine):
            continue
        y, x = (mine.mean(0) + 0.5) / seen.shape
        rest = [np.argwhere(seen == k) for k in others if (seen == k).any()]
        middles = [(r.mean(0) + 0.5) / seen.shape for r in rest]
        answers = {
            "": True,
            "left": x < 0.5,
            "right": x > 0.5,
            "top": y < 0.5,
            "bottom": y > 0.5,
            "leftmost": all(x < m[1] for m in middles),
            "rightmost": all(x > m[1] for m in middles),
            "topmost": all(y < m[0] for m in middles),
            "lowest": all(y > m[0] for m in middles),
            "largest": all(len(mine) > len(r) for r in rest),
            "smallest": all(len(mine) < len(r) for r in rest),
        }
        yes = (
            answers[relation] if relation in answers else share_of(relation, frame[seen == o]) > 0.4
        )
        if not yes:
            return False
    return True


def wrong(text: str, ids: tuple, frames: np.ndarray, masks: np.ndarray, names: dict) -> str:
    "What is wrong with an expression about a clip; '' where it is true of exactly its objects."
    count, noun, relation = parts(text)
    there = [o for o in names if (masks == o).any()]
    scope = [o for o in there if names[o] == noun]
    if any(names[o] != noun and names[o].split()[-1] == noun for o in there):
        return f"{noun!r} could be another category"
    meant = [o for o in scope if fits(relation, o, [k for k in scope if k != o], frames, masks)]
    if tuple(meant) != tuple(ids):
        return f"{text!r} is true of {meant}, not of {ids}"
    if ids and not (count == "one" and len(ids) == 1 or count == "many" and len(ids) > 1):
        return "" if count == str(len(ids)) else f"{text!r} of {len(ids)} objects"
    return ""


# --- drawn scenes


def paint(ids: np.ndarray, colours: dict[int, str]) -> np.ndarray:
    "Frames [T,H,W,3] in which each object has its paint."
    table = np.full((256, 3), (120, 140, 130), np.uint8)
    for o, colour in colours.items():
        table[o] = PAINTS[colour]
    return table[ids]


def drawn(rng: np.random.Generator, n: int, size=(60, 90)) -> np.ndarray:
    "Ids [H,W] of up to n ellipses and boxes, which may hide each other."
    ids = np.zeros(size, np.uint8)
    for o in range(1, n + 1):
        h, w = rng.integers(3, 22, 2)
        y, x = rng.integers(0, size[0]), rng.integers(0, size[1])
        if rng.random() < 0.5:
            cv2.ellipse(ids, (int(x), int(y)), (int(w), int(h)), 0, 0, 360, int(o), -1)
        else:
            ids[max(0, y - h) : y + h, max(0, x - w) : x + w] = o
    return ids


def drawn_picture(rng: np.random.Generator, n: int, nouns=tuple(NOUNS)) -> Picture:
    ids = drawn(rng, n)
    there = [o for o in range(1, n + 1) if (ids == o).any()]
    names = {o: str(rng.choice(nouns)) for o in there}
    colours = {o: str(rng.choice(list(PAINTS))) for o in there}
    return Picture(paint(ids[None], colours)[0], ids, names, frozenset())


def moved(rng: np.random.Generator, picture: Picture, n: int) -> Scene:
    views = [_looks_at(p, (48, 72), picture.ids.shape, False) for p in _draw_path(rng, picture, n)]
    frames, ids = (np.stack(x) for x in zip(*(_take(picture, v) for v in views)))
    return Scene(frames, ids, picture.names, picture.crowds)


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(st.integers(0, 10**6), st.integers(1, 7), st.sampled_from([1, 4]))
def test_what_is_said_is_true_of_exactly_the_objects_that_it_names(seed, n, frames):
    rng = np.random.default_rng(seed)
    picture = drawn_picture(rng, n, nouns=list(NOUNS)[: rng.integers(1, 9)])
    if not picture.names:
        return
    scene = moved(rng, picture, frames)
    said = true_expressions(scene, list(NOUNS), rng)
    problems = [wrong(s.text, s.object_ids, scene.frames, scene.ids, scene.names) for s in said]
    assert not any(problems), problems
    assert {s.kind for s in said} <= KINDS
    assert all((s.kind == "none") == (s.object_ids == ()) for s in said)
    assert all((s.kind == "plural") == (len(s.object_ids) > 1) for s in said)


def test_every_kind_and_number_is_said():
    rng, seen = np.random.default_rng(0), set()
    for _ in range(150):
        picture = drawn_picture(rng, int(rng.integers(1, 6)), nouns=("dog", "person", "bus"))
        if picture.names:
            for s in true_expressions(moved(rng, picture, 2), ["car"], rng):
                count, noun, relation = parts(s.text)
                seen |= {s.kind, relation, f"{count} {noun}"}
    assert KINDS | {"left", "right", "top", "bottom", "leftmost", "lowest", "largest"} <= seen
    assert {"smallest", "red", "2 person", "many bus", "one dog", "3 dog", "one car"} <= seen
    assert not {"red person", "blue person"} & seen


def test_the_reader_of_the_tests_finds_a_lie():
    ids = np.zeros((1, 40, 60), np.uint8)
    ids[:, 5:20, 5:20], ids[:, 5:20, 40:55] = 1, 2
    names, frames = {1: "dog", 2: "dog"}, paint(ids, {1: "red", 2: "blue"})
    for text, objects in {"the dog on the left": (1,), "the two red dogs": (1, 2)}.items():
        assert bool(wrong(text, objects, frames, ids, names)) == (text == "the two red dogs")
    assert wrong("both dogs", (1, 2), frames, ids, names) == ""
    for text, objects in {"the dog": (1,), "the car": (1,), "the dogs": ()}.items():
        assert wrong(text, objects, frames, ids, names)


def two_dogs(crowds: frozenset | None = frozenset(), names=("dog", "dog")) -> Scene:
    ids = np.zeros((1, 40, 60), np.uint8)
    ids[:, 5:20, 5:20], ids[:, 5:20, 40:55] = 1, 2
    return Scene(paint(ids, {1: "red", 2: "blue"}), ids, dict(zip((1, 2), names)), crowds)


def texts(scene: Scene, absent=("dog", "car")) -> set[str]:
    rng = np.random.default_rng(0)
    return {s.text for _ in range(30) for s in true_expressions(scene, list(absent), rng)}


def test_a_crowd_makes_its_category_uncountable():
    assert {"both dogs", "the dog on the left", "the car"} <= texts(two_dogs())
    assert {t for t in texts(two_dogs(frozenset({"dog"}))) if "dog" in t} == set()
    assert "the car" in texts(two_dogs(frozenset({"dog"})))
    assert "the car" not in texts(two_dogs(frozenset({"car"})))
    assert texts(two_dogs(None)) == set()


def test_a_noun_that_another_category_shares_is_not_used():
    said = texts(two_dogs(names=("bear", "teddy bear")), absent=("bear", "dog"))
    assert {"the teddy bear", "the dog"} <= said
    assert not {t for t in said if "bear" in t and "teddy" not in t}


def test_each_set_of_objects_gets_two_expressions_at_most():
    rng = np.random.default_rng(3)
    for _ in range(20):
        said = choose(true_expressions(two_dogs(), ["car", "bus"], rng), rng)
        about = [s.object_ids for s in said]
        assert all(about.count(ids) <= 2 for ids in about) and set(about) >= {(1,), (2,), (1, 2)}


# --- motion


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(st.integers(0, 10**6), st.booleans())
def test_masks_move_exactly_as_the_image(seed, mirrored):
    rng = np.random.default_rng(seed)
    picture = drawn_picture(rng, 5)
    if not picture.names:
        return
    H, W = picture.ids.shape
    for pose in _draw_path(rng, picture, 3):
        view = _looks_at(pose, (30, 50), (H, W), mirrored)
        frame, ids = _take(picture, view)
        x, y = view[..., 0].astype(float), view[..., 1].astype(float)
        assert x.min() > -0.51 and x.max() < W - 0.49 and y.min() > -0.51 and y.max() < H - 0.49
        sure = (np.abs(x % 1 - 0.5) > 1e-3) & (np.abs(y % 1 - 0.5) > 1e-3)  # no tie
        near = np.rint(y).astype(int).clip(0, H - 1), np.rint(x).astype(int).clip(0, W - 1)
        assert (ids == picture.ids[near])[sure].all()
        step_x, step_y = np.diff(view, axis=1), np.diff(view, axis=0)
        assert np.ptp(step_x, (0, 1)).max() < 1e-3 and np.ptp(step_y, (0, 1)).max() < 1e-3
        turn = step_x[0, 0, 0] * step_y[0, 0, 1] - step_x[0, 0, 1] * step_y[0, 0, 0]
        assert (turn < 0) == mirrored and abs(step_x[0, 0] @ step_y[0, 0]) < 1e-3
        inside = cv2.erode((ids > 0).astype(np.uint8), np.ones((5, 5))) > 0
        alone = cv2.erode(ids, np.ones((5, 5))) == cv2.dilate(ids, np.ones((5, 5)))
        plain = inside & alone  # far from any edge, a pixel has its object's paint
        change = np.abs(frame.astype(int) - picture.image[near]).max(-1) * plain
        assert change[3:-3, 3:-3].max() <= 2


# --- data on disk


def runs(mask: np.ndarray, compressed: bool) -> dict:
    if compressed:
        found = coco_mask.encode(np.asfortranarray(mask, np.uint8))
        return {"size": list(mask.shape), "counts": found["counts"].decode()}
    flat = mask.ravel(order="F").astype(np.int8)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [1 - flat[-1]]])))
    return {"size": list(mask.shape), "counts": np.diff([0, *edges.tolist()]).tolist()}


def coco_set(root: Path, n: dict[str, int], crowd: str = "") -> Path:
    "Drawn pictures in COCO's layout; in the first of each split, all of `crowd` is one crowd."
    numbers = {name: k for k, name in enumerate(NOUNS, 3)}
    for split, count in n.items():
        rng = np.random.default_rng(len(split))
        images, marks = [], []
        (root / "images" / split).mkdir(parents=True)
        for k in range(count):
            ids = drawn(rng, 5, (96, 128))
            picture = drawn_picture(rng, 1)._replace(ids=ids)
            names = {o: str(rng.choice(list(NOUNS))) for o in range(1, 6) if (ids == o).any()}
            image = paint(ids[None], {o: str(rng.choice(list(PAINTS))) for o in names})[0]
            name = f"{split}{k}.png"
            Image.fromarray(image).save(root / "images" / split / name)
            images.append(dict(id=k + 1, file_name=name, height=96, width=128))
            for o, noun in names.items():
                bad = int(noun == crowd and k == 0)
                area = runs(picture.ids == o, compressed=not bad and o % 2)
                mark = dict(id=len(marks) + 1, image_id=k + 1, category_id=numbers[noun])
                marks.append(mark | dict(iscrowd=bad, segmentation=area))
        found = dict(images=images, annotations=marks)
        found["categories"] = [dict(id=i, name=name) for name, i in numbers.items()]
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(found))
    return root


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return coco_set(tmp_path_factory.mktemp("coco") / "set", dict(train=8, val=4))


@pytest.fixture(scope="module")
def clips(pictures, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("clips") / "clips"
    return images_data(pictures, out, clips=12, val_clips=3, frames=4, progress=False)


def all_files(root: Path) -> dict[str, bytes]:
    return {str(f.relative_to(root)): f.read_bytes() for f in root.rglob("*") if f.is_file()}


def test_clips_are_data_like_any_other(clips):
    assert check_data(clips, quiet=True).empty
    train, val = (load_annotations(clips, s) for s in ("train", "val"))
    assert len(train) == 12 and len(val) == 3 and not set(train) & set(val)
    sources = [{v.split("-")[1].rstrip("0123456789") for v in a} for a in (train, val)]
    assert sources == [{"train"}, {"val"}]  # by image
    assert {len(r.frames) for r in train.values()} == {4}
    said = [e for r in [*train.values(), *val.values()] for e in r.expressions]
    assert {"category", "place", "none", "plural"} <= {e.kind for e in said} <= KINDS
    for record in train.values():
        ids = np.stack([np.array(Image.open(f)) for f in record.masks.files()])
        named = set(record.object_ids())
        assert set(np.unique(ids).tolist()) - {0, 255} == named and named
        assert all(
            record.masks.mask(0, ()).sum() == 0 for e in record.expressions if not e.object_ids
        )


def test_another_seed_is_another_set_and_the_same_is_the_same(pictures, clips, tmp_path):
    how = dict(clips=12, val_clips=3, frames=4, progress=False)
    again = images_data(pictures, tmp_path / "again", **how)
    assert all_files(again) == all_files(clips)
    before = (clips / "images.json").stat().st_mtime_ns
    assert images_data(pictures, clips, **how) == clips  # reused
    assert (clips / "images.json").stat().st_mtime_ns == before
    with pytest.raises(RVOSError, match="seed = 0 instead of 1"):
        images_data(pictures, clips, seed=1, **how)
    other = images_data(pictures, tmp_path / "other", seed=1, **how)
    assert all_files(other) != all_files(clips)


def test_plain_images_stay_as_they_are(pictures, tmp_path):
    out = images_data(pictures, tmp_path / "plain", plain=True, progress=False)
    for split in ("train", "val"):
        source, made = load_annotations(pictures, split), load_annotations(out, split)
        assert made and set(made) <= set(source)
        for v, record in made.items():
            assert len(record.frames) == 1
            change = read_picture(record.frames[0]).astype(int) - read_picture(source[v].frames[0])
            assert np.abs(change).mean() < 12  # JPEG
            for o in record.object_ids():
                assert (record.masks.mask(0, (o,)) == source[v].masks.mask(0, (o,))).all()


def test_a_crowd_is_void_and_is_never_counted(tmp_path):
    root = coco_set(tmp_path / "set", dict(train=3, val=1), crowd="dog")
    marks = json.loads((root / "annotations/instances_train.json").read_text())
    noun = {c["id"]: c["name"] for c in marks["categories"]}
    first = [m for m in marks["annotations"] if m["image_id"] == 1]
    for m in first[:2]:  # whatever was drawn: one of the first picture is a crowd, the rest is not
        m["category_id"] = next(i for i, name in noun.items() if name == "dog")
    first[0]["iscrowd"], first[1]["iscrowd"] = 1, 0
    flat = (
        coco_mask.decode(first[0]["segmentation"])
        if isinstance(first[0]["segmentation"]["counts"], str)
        else None
    )
    if flat is not None:
        first[0]["segmentation"] = runs(flat > 0, compressed=False)
    (root / "annotations/instances_train.json").write_text(json.dumps(marks))
    source = load_annotations(root, "train")["train0"]
    assert source.masks.void(0).any()
    out = images_data(root, tmp_path / "plain", plain=True, progress=False)
    made = load_annotations(out, "train").get("train0")
    if made is not None:
        assert (made.masks.void(0) == source.masks.void(0)).all()
        assert not [e for e in made.expressions if "dog" in e.text]
    moving = images_data(root, tmp_path / "moving", clips=12, val_clips=1, frames=2, progress=False)
    for v, record in load_annotations(moving, "train").items():
        if v.endswith("train0"):
            assert not [e for e in record.expressions if "dog" in e.text]


def test_one_split_is_divided_by_image(tmp_path):
    root = coco_set(tmp_path / "set", dict(train=8))
    out = images_data(root, tmp_path / "out", plain=True, val_fraction=0.25, progress=False)
    splits = [load_annotations(out, s) for s in ("train", "val")]
    assert 1 <= len(splits[1]) <= 2 < len(splits[0]) and not set(splits[0]) & set(splits[1])


def test_what_people_say_goes_with_plain_images_only(pictures, tmp_path):
    root = tmp_path / "refs"
    shutil.copytree(pictures / "images/train", root / "images")
    for part in ("instances.json",):
        shutil.copy(pictures / "annotations/instances_train.json", root / part)
    marks = json.loads((root / "instances.json").read_text())["annotations"]
    refs = []
    for image, split in ((1, "train"), (2, "train"), (3, "val"), (4, "val")):
        thing = next(m["id"] for m in marks if m["image_id"] == image)
        one = dict(sent_id=image, sent=f"my favourite of {image}")
        refs.append(dict(ref_id=image, ann_id=thing, image_id=image, split=split, sentences=[one]))
    (root / "refs(unc).json").write_text(json.dumps(refs))
    plain = images_data(root, tmp_path / "plain", plain=True, progress=False)
    said = [e for r in load_annotations(plain, "train").values() for e in r.expressions]
    assert {e.text for e in said if e.kind == "people"} == {
        "my favourite of 1",
        "my favourite of 2",
    }
    moving = images_data(root, tmp_path / "moving", clips=4, val_clips=2, frames=2, progress=False)
    said = [e for r in load_annotations(moving, "train").values() for e in r.expressions]
    assert said and not any("favourite" in e.text for e in said)


def test_what_cannot_be_is_said_and_nothing_is_left(pictures, clips, tmp_path):
    for how, said in (
        (dict(frames=0), "frames = 0: expected 1 or more"),
        (dict(clips=0), "clips = 0"),
        (dict(paste=2.0), "expected a probability"),
        (dict(size=(8, 8)), "two numbers from 16"),
    ):
        with pytest.raises(ConfigError, match=re.escape(said)):
            images_data(pictures, tmp_path / "out", progress=False, **how)
    with pytest.raises(RVOSError, match="no image with masks and categories"):
        images_data(clips, tmp_path / "out", progress=False)  # videos are no images
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/mine.txt").write_text("mine")
    with pytest.raises(RVOSError, match="is no images data: name a new"):
        images_data(pictures, tmp_path / "taken", progress=False)
    broken = shutil.copytree(pictures, tmp_path / "broken")
    (broken / "images/val/val0.png").write_bytes(b"no picture")
    with pytest.raises(RVOSError, match="val0.png"):
        images_data(broken, tmp_path / "out", plain=True, progress=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["broken", "taken"]


def test_from_the_terminal(pictures, tmp_path, capsys):
    flags = ["--clips", "3", "--val-clips", "1", "--frames", "2", "--size", "48", "64"]
    assert main(["data", "images", str(pictures), str(tmp_path / "out"), *flags]) == 0
    assert f"images: {tmp_path / 'out'}" in capsys.readouterr().out
    record = next(iter(load_annotations(tmp_path / "out", "train").values()))
    assert record.masks.size == (48, 64) and len(record.frames) == 2
    assert main(["data", "images", str(tmp_path / "no"), str(tmp_path / "x")]) == 1
    assert "no such folder" in capsys.readouterr().err


# --- real images


@pytest.fixture(scope="module")
def coco() -> Path:
    return folder_from("RVOS_COCO", "a folder of images with COCO's annotations/instances_*.json")


def test_real_images_get_true_expressions(coco, tmp_path):
    out = images_data(coco, tmp_path / "c", clips=6, val_clips=6, frames=2, size=(120, 160))
    assert check_data(out, quiet=True).empty
    categories = json.loads((coco / "annotations/instances_val.json").read_text())["categories"]
    plain = images_data(coco, tmp_path / "plain", clips=8, val_clips=30, plain=True)
    source = load_annotations(coco, "val")
    known = {c["name"] for c in categories}
    for v, record in load_annotations(plain, "val").items():
        about = {e.text: e.object_ids for e in source[v].expressions}  # category -> its objects
        for e in record.expressions:
            count, noun, relation = parts(e.text)
            if noun not in known or relation:
                continue
            assert tuple(about.get(noun, ())) == e.object_ids, (v, e)
