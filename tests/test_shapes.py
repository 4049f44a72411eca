"Talking shapes: what the notebook promises, checked from the files by simpler means."

import functools
import hashlib
import itertools
import json
import multiprocessing as mp
import re
from collections import Counter

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rvos_nb import shapes
from rvos_nb.check import check_data
from rvos_nb.config import ConfigError, RVOSError
from rvos_nb.datasets import load_annotations
from rvos_nb.layout import ANNOTATORS, write_texts
from rvos_nb.scenes import HUES, Scene, Shape
from rvos_nb.shapes import (
    KINDS,
    Phrase,
    draw_clip,
    expressions_for,
    is_unique,
    make_shapes,
    shape_words,
    shapes_data,
    truth,
)

SHAPES = "circle square triangle star cross".split()
COLOURS = "red orange yellow green blue purple".split()
N_TRAIN, N_VAL = 36, 4
FILES = {a: f"Davis17_{a}.txt" for a in ANNOTATORS}


@pytest.fixture(scope="session", params=["attribute", "all"])
def root(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes") / request.param
    return make_shapes(folder, N_TRAIN, N_VAL, split_kind=request.param, progress=False)


def digest(root):
    files = [p for p in root.rglob("*") if p.is_file()]
    return {
        p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files
    }


def masks_of(root, video):
    paths = sorted((root / "DAVIS/Annotations/480p" / video).iterdir())
    return np.stack([np.array(Image.open(p)) for p in paths])


def videos(root):
    return [p.name for p in sorted((root / "DAVIS/Annotations/480p").iterdir())]


@functools.cache
def looks(root):
    "The objects of every video as the generator drew them; their masks must be those on disk."
    settings = json.loads((root / "shapes.json").read_text())
    found = {}
    for video in videos(root):
        _, split, number = video.split("-")
        how = {k: settings[k] for k in ("split_kind", "n_frames", "size")}
        how["size"] = tuple(how["size"])
        scene, _, _ = draw_clip(settings["seed"], split, int(number), **how)
        assert np.array_equal(scene.masks, masks_of(root, video))
        found[video] = scene.shapes
    return found


def test_layout(root):
    names = {
        s: (root / f"DAVIS/ImageSets/2017/{s}.txt").read_text().split() for s in ("train", "val")
    }
    assert len(names["train"]) == N_TRAIN and len(names["val"]) == N_VAL
    assert sorted(names["train"] + names["val"]) == videos(root)
    assert not set(names["train"]) & set(names["val"])
    lengths = set()
    for video in videos(root):
        images = sorted((root / "DAVIS/JPEGImages/480p" / video).iterdir())
        labels = sorted((root / "DAVIS/Annotations/480p" / video).iterdir())
        lengths.add(len(images))
        assert [p.name for p in images] == [f"{t:05d}.jpg" for t in range(len(images))]
        assert [f"{p.stem}.png" for p in images] == [p.name for p in labels]
        with Image.open(images[0]) as im:
            assert (im.mode, im.size) == ("RGB", (240, 144))
        with Image.open(labels[0]) as im:
            assert (im.mode, im.size) == ("P", (240, 144))
            assert im.getpalette()[:15] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, 0, 0, 128]
    assert lengths <= set(range(8, 13)) and len(lengths) > 1


def test_ids_are_one_to_n_in_the_first_frame(root):
    for video in videos(root):
        masks = masks_of(root, video)
        ids = set(np.unique(masks[0]))
        assert ids == set(range(max(ids) + 1)) and 3 <= len(ids) <= 5
        assert set(np.unique(masks)) == ids


def test_text_files_agree_with_the_kinds_table(root):
    table = pd.read_csv(root / "expression_kinds.csv")
    assert list(table.columns) == ["video_id", "object_id", "annotator", "kind", "expression"]
    objects = {(v, i) for v in videos(root) for i in range(1, masks_of(root, v).max() + 1)}
    for annotator, file in FILES.items():
        encoding = "latin-1" if annotator.startswith("annot2") else "utf-8"
        text = (root / "davis_text_annotations" / file).read_bytes().decode(encoding)
        rows = [re.fullmatch(r'(\S+) (\d+) "([^"]+)"', line).groups() for line in text.splitlines()]
        assert {(v, int(i)) for v, i, _ in rows} == objects and len(rows) == len(objects)
        part = table[table.annotator == annotator]
        found = zip(part.video_id, part.object_id, part.expression)
        assert [(v, int(i), e) for v, i, e in rows] == list(found)
    assert (table.groupby(["video_id", "object_id"]).expression.nunique() == 4).all()


def middles(masks, n):
    "x and y [n,T] of the middle of what is seen, in shares of the frame; nan where unseen."
    found = np.full((2, n, len(masks)), np.nan)
    for i in range(n):
        for t, m in enumerate(masks):
            if (m == i + 1).any():
                rows, columns = np.nonzero(m == i + 1)
                found[:, i, t] = columns.mean() + 0.5, rows.mean() + 0.5
    h, w = masks.shape[1:]
    return found / np.array([w, h])[:, None, None]


RANKS = {  # words that rank: the quantity whose smallest value is meant
    ("leftmost", "furthest to the left"): "x",
    ("rightmost", "furthest to the right"): "-x",
    ("topmost", "highest"): "y",
    ("lowest",): "-y",
    ("small", "little", "smaller", "smallest"): "area",
    ("big", "large", "larger", "bigger", "largest", "biggest"): "-area",
}


def heading(path):
    "The direction of the whole way, by its larger component; '' where there is none."
    dx, dy = path[-1] - path[0]
    if max(abs(dx), abs(dy)) <= 3:
        return ""
    if abs(dx) > abs(dy):
        return "right" if dx > 0 else "left"
    return "down" if dy > 0 else "up"


def claims(text, things, x, y):
    "The objects (from 1) that `text` fits, by its words; sizes are of whole shapes."
    words = re.findall(r"[a-z]+", text)
    shape = next((s for s in SHAPES for w in words if w in (s, s + "s", s + "es")), None)
    colour = next((c for c in COLOURS if c in words), None)
    scope = [
        i for i, t in enumerate(things) if shape in (None, t.shape) and colour in (None, t.colour)
    ]
    said = [q for names, q in RANKS.items() if any(f" {n} " in f" {text} " for n in names)]
    if said:
        q = {"x": x, "y": y, "area": np.stack([t.areas for t in things])}[said[0].strip("-")]
        q = -q if said[0].startswith("-") else q
        return {i + 1 for i in scope if all(np.nanmin(q[j] - q[i]) > 0 for j in scope if j != i)}
    if {"still", "motionless"} & set(words) or "not move" in text:
        return {i + 1 for i in scope if np.ptp(things[i].centres, axis=0).max() < 1}
    if {"moving", "going", "moves"} & set(words):
        ways = {i: heading(things[i].centres[~np.isnan(x[i])]) for i in scope}
        return {i + 1 for i, way in ways.items() if way and any(w.startswith(way) for w in words)}
    side = {"left": x, "right": 1 - x, "top": y, "upper": y, "bottom": 1 - y, "lower": 1 - y}
    said = [q for word, q in side.items() if word in words]
    return {i + 1 for i in scope if not said or np.nanmax(said[0][i]) < 0.5}


@pytest.mark.slow
def test_every_expression_is_true_of_exactly_its_object(root):
    table, things = pd.read_csv(root / "expression_kinds.csv"), looks(root)
    for video, part in table.groupby("video_id"):
        x, y = middles(masks_of(root, video), len(things[video]))
        for row in part.itertuples():
            found = claims(row.expression, things[video], x, y)
            assert found == {row.object_id}, (video, row.expression)


def test_kinds(root):
    table = pd.read_csv(root / "expression_kinds.csv")
    if root.name == "attribute":
        assert set(table.kind) == {"attribute"}
    else:
        counts = pd.crosstab(table.kind, table.annotator.str[:6])
        assert set(counts.index) == set(KINDS) and (counts > 5).all().all()


@pytest.fixture(scope="module")
def generalised(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generalised") / "shapes"
    return make_shapes(folder, 24, 4, split_kind="generalised", progress=False)


def said_in(root):
    "(video, expression) of both splits, as the readers give them."
    for split in ("train", "val"):
        for video, record in load_annotations(root, split).items():
            yield from ((video, e) for e in record.expressions)


COUNTS = {"two": 2, "both": 2, "three": 3}


def test_several_or_none_are_exactly_those_that_are_named(generalised):
    things, kinds = looks(generalised), Counter()
    for video, e in said_in(generalised):
        x, y = middles(masks_of(generalised, video), len(things[video]))
        found = claims(e.text, things[video], x, y)
        assert found == set(e.object_ids), (video, e.text)
        counted = [n for word, n in COUNTS.items() if word in e.text.split()]
        assert not found or not counted or counted == [len(found)], (video, e.text)
        assert e.kind == ("none", "attribute", "plural")[min(len(found), 2)]
        kinds[e.kind] += 1
    assert set(kinds.values()) == {4 * 28}


def test_half_of_what_is_absent_nearly_is_there(generalised):
    "A shape and a colour of the scene that do not go together, or one word that fits nothing."
    hard, things = Counter(), looks(generalised)
    for video, e in said_in(generalised):
        if e.kind == "none":
            words = {s for s in SHAPES for w in e.text.split() if w in (s, s + "s", s + "es")}
            words |= set(COLOURS) & set(e.text.split())
            there = {word for t in things[video] for word in (t.shape, t.colour)}
            hard[len(words - there)] += 1
    assert hard[0] == hard[1] == sum(hard.values()) / 2


def test_the_words_do_not_betray_what_is_absent(generalised):
    "Without shapes and colours, expressions of no object use the phrases of the others."
    nouns = {f"{noun}{end}" for noun in (*SHAPES, *COLOURS, "object", "shape") for end in ("", "s")}
    phrases = {}
    for _, e in said_in(generalised):
        rest = " ".join(w for w in e.text.split() if w not in {*nouns, "one", "ones", "crosses"})
        phrases.setdefault(e.kind == "none", Counter())[rest] += 1
    assert set(phrases[False]) - set(phrases[True]) <= {"the that is", "all", "the three"}
    assert {"both", "every", "the two"} <= set(phrases[True])


def test_generalised_data_are_whole(generalised):
    assert check_data(generalised, quiet=True).empty
    assert not (generalised / "davis_text_annotations").exists()


def test_colours_on_screen_are_those_named(root):
    for video, things in list(looks(root).items())[:12]:
        mask = masks_of(root, video)[0]
        path = root / "DAVIS/JPEGImages/480p" / video / "00000.jpg"
        frame = np.array(Image.open(path).convert("HSV")).astype(float)
        for i, thing in enumerate(things):
            h, s, _ = np.median(frame[mask == i + 1], axis=0)
            away = {c: abs((h * 360 / 256 - hue + 180) % 360 - 180) for c, hue in HUES.items()}
            assert min(away, key=away.get) == thing.colour and s > 170
        assert np.median(frame[mask == 0][:, 1]) < 100  # the ground is pale


def test_looks_differ_or_have_twins(root):
    pairs = [[(t.shape, t.colour) for t in things] for things in looks(root).values()]
    twins = np.mean([len(set(p)) < len(p) for p in pairs])
    if root.name == "all":
        assert twins > 0.5
    else:
        assert twins == 0
        shared = [len({s for s, _ in p}) < len(p) or len({c for _, c in p}) < len(p) for p in pairs]
        assert np.mean(shared) > 0.5


def depth(polygon, size):
    "How far inside `polygon` each pixel's centre lies, [h,w] in pixels: nothing is drawn."
    outline = polygon.astype(np.float32).reshape(-1, 1, 2)
    found = np.zeros(size)
    for y, x in np.ndindex(*size):
        found[y, x] = cv2.pointPolygonTest(outline, (x + 0.5, y + 0.5), True)
    return found


def test_areas(root):
    for video, things in looks(root).items():
        for thing in things:
            share = thing.areas / (144 * 240)
            assert (share >= 0.01).all() and (share <= 0.1).all()


@pytest.mark.slow
def test_masks_are_the_outlines(root):
    checked = 0
    for video, things in list(looks(root).items())[::4]:
        masks = masks_of(root, video)
        for t in (0, len(masks) - 1):
            for i, thing in enumerate(things):
                inside = depth(thing.polygon(t), masks.shape[1:])
                # this thing, or one painted later
                on_top = np.isin(masks[t], range(i + 1, len(things) + 1))
                # no pixel whose centre is farther out than half its diagonal and a bit
                assert (inside[masks[t] == i + 1] > -0.75).all()
                assert on_top[inside > 0.75].all()
                checked += (inside > 0.75).sum()
    assert checked > 10_000


def test_objects_hide_each_other_and_leave(root):
    gone = back = hidden = 0
    for video, things in looks(root).items():
        seen = np.stack([(masks_of(root, video) == i + 1).sum((1, 2)) for i in range(len(things))])
        gone += (seen[:, -1] == 0).any()
        back += ((seen == 0).any(1) & (seen[:, -1] > 0)).any()
        # well inside the frame and yet much smaller than drawn: something lies on it
        for i, t in enumerate(things):
            r = 1.5 * np.sqrt(t.areas[:, None])
            inside = ((t.centres > r) & (t.centres < np.array([240, 144]) - r)).all(1)
            hidden += (inside & (seen[i] < 0.7 * t.areas)).any()
        assert (seen > 0).mean(1).min() >= 0.5
    assert hidden > 0
    if root.name == "all":
        assert gone > 3 and back > 3
    else:
        assert gone == back == 0


def test_same_seed_same_bytes_other_seed_other_bytes(tmp_path):
    small = dict(n_train=3, n_val=2, size=(96, 160), split_kind="all", progress=False)
    seeds = {"a": 5, "b": 5, "c": 6}
    a, b, c = (digest(make_shapes(tmp_path / n, seed=s, **small)) for n, s in seeds.items())
    assert a == b
    first = "DAVIS/JPEGImages/480p/shapes-{}-0000/00000.jpg"
    assert a[first.format("train")] != c[first.format("train")]
    assert a[first.format("train")] != a[first.format("val")]


@pytest.mark.parametrize(
    "name, value",
    [
        ("n_train", 0),
        ("n_train", 2.5),
        ("n_val", -1),
        ("n_val", True),
        ("n_frames", 9),
        ("n_frames", (12, 8)),
        ("n_frames", (3, 8)),
        ("size", (144,)),
        ("size", (32, 200)),
        ("size", "big"),
        ("split_kind", "hard"),
        ("split_kind", []),
        ("seed", -1),
        ("seed", None),
    ],
)
def test_wrong_arguments_are_named(tmp_path, name, value):
    for make in (lambda **k: make_shapes(tmp_path / "x", **k), shapes_data):
        with pytest.raises(ConfigError, match=f"^{name} = "):
            make(**{name: value})
    assert not list(tmp_path.iterdir())


def test_a_frame_too_narrow_says_so(tmp_path):
    with pytest.raises(RVOSError, match="less narrow"):
        make_shapes(tmp_path / "x", 1, 1, size=(64, 4000), progress=False)
    assert not list(tmp_path.iterdir())


SMALL = dict(n_train=1, n_val=1, size=(96, 160), progress=False)


def test_taken_folders(tmp_path):
    made = make_shapes(tmp_path / "shapes", **SMALL)
    before = {p: p.stat().st_mtime_ns for p in made.rglob("*")}
    assert make_shapes(str(made), **SMALL) == made
    assert {p: p.stat().st_mtime_ns for p in made.rglob("*")} == before
    with pytest.raises(RVOSError, match="seed = 0 instead of 1"):
        make_shapes(made, **SMALL, seed=1)
    (made / "shapes.json").write_text("{")
    with pytest.raises(RVOSError, match="damaged"):
        make_shapes(made, **SMALL)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    with pytest.raises(RVOSError, match="no shapes data"):
        make_shapes(other, **SMALL)
    with pytest.raises(RVOSError, match="no shapes data"):
        make_shapes(other / "thesis.txt", **SMALL)
    assert [p.name for p in other.iterdir()] == ["thesis.txt"]
    empty = tmp_path / "empty"
    empty.mkdir()
    assert (make_shapes(empty, **SMALL) / "shapes.json").is_file()


@pytest.mark.parametrize(
    "error, said", [(KeyboardInterrupt, KeyboardInterrupt), (OSError, RVOSError)]
)
def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch, error, said):
    write, calls = shapes.write_clip, []

    def failing(*args):
        calls.append(args)
        if len(calls) == 3:
            raise error("stop")
        write(*args)

    monkeypatch.setattr(shapes, "write_clip", failing)
    with pytest.raises(said, match="stop" if said is RVOSError else None):
        make_shapes(tmp_path / "x", 4, 1, size=(96, 160), progress=False)
    assert len(calls) == 3 and not list(tmp_path.iterdir())


def _worker(root, queue):
    queue.put(str(make_shapes(root, 6, 2, size=(96, 160), progress=False)))


@pytest.mark.slow
def test_two_processes_at_once(tmp_path):
    context = mp.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=_worker, args=(tmp_path / "x", queue)) for _ in range(2)]
    for w in workers:
        w.start()
    assert {queue.get(timeout=120) for _ in workers} == {str(tmp_path / "x")}
    for w in workers:
        w.join()
        assert w.exitcode == 0
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    alone = make_shapes(tmp_path / "y", 6, 2, size=(96, 160), progress=False)
    assert digest(tmp_path / "x") == digest(alone)


def test_losing_the_race_returns_the_winners_data(tmp_path, monkeypatch):
    write, first = write_texts, []

    def slow(tmp, rows):  # while this one is about to finish, another one does
        write(tmp, rows)
        if not first:
            first.append(1)
            make_shapes(tmp_path / "x", **SMALL)

    monkeypatch.setattr(shapes, "write_texts", slow)
    assert make_shapes(tmp_path / "x", **SMALL) == tmp_path / "x"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_shapes_data_are_made_once(tmp_path, monkeypatch):
    monkeypatch.setenv("RVOS_HOME", str(tmp_path))
    a = shapes_data(**SMALL)
    assert a.parent == tmp_path / "shapes" and shapes_data(**SMALL) == a
    assert shapes_data("all", **SMALL) != a and shapes_data(seed=1, **SMALL) != a


def test_progress_goes_to_stderr(tmp_path, capsys):
    make_shapes(tmp_path / "x", **{**SMALL, "progress": True})
    out, err = capsys.readouterr()
    assert out == "" and "2/2" in err
    make_shapes(tmp_path / "y", **SMALL)
    assert capsys.readouterr() == ("", "")


def test_every_word_that_is_said_is_listed(root):
    table, words = pd.read_csv(root / "expression_kinds.csv"), shape_words()
    assert {w for text in table.expression for w in text.split()} <= set(words)
    assert words == sorted(set(words)) and all(re.fullmatch("[a-z]+", w) for w in words)


def square(colour, x):
    "A square that stands still, in each of 4 frames, at `x`."
    at = np.full((4, 2), (x, 50.0))
    rgb = np.array([255.0, 0, 0])
    return Shape("square", colour, rgb, centres=at, areas=np.full(4, 400.0), angles=np.zeros(4))


def test_truth_has_three_values():
    scene = Scene((100, 200), [square("red", 30), square("red", 170), square("blue", 100)])
    left, red = dict(kind="place", relation="left"), dict(colour="red")
    assert truth(Phrase("", **left, **red), scene) == [True, False, False]
    assert truth(Phrase("", **left, shape="square"), scene) == [True, False, None]
    assert truth(Phrase("", "attribute", "square", "red"), scene) == [True, True, False]
    assert truth(Phrase("", **left, colour="blue"), scene) == [False, False, None]  # alone
    assert truth(Phrase("", "size", **red, relation="small"), scene) == [None, None, False]


def test_each_expression_names_its_object_alone(root):
    things = [Scene((144, 240), shapes) for shapes in list(looks(root).values())[:6]]
    for scene in things:
        for i in range(len(scene.shapes)):
            said = expressions_for(scene, i, root.name)
            assert said and all(is_unique(phrase, scene, i) for phrase in said)
            assert len({phrase.text for phrase in said}) == len(said)


def test_thresholds_leave_a_gap():
    low = np.full(5, 0.2)
    assert [shapes._on_side(low + d) for d in (0, 0.3, 0.5)] == [True, None, False]
    q = np.stack([low, low + 0.05, low + 0.2])
    assert shapes._first(q, 0, [1, 2], 0.08) is None
    assert shapes._first(q, 0, [2], 0.08) is True
    assert shapes._first(q, 2, [0, 1], 0.08) is False
    turn = np.array([[0, 0], [20, 0], [0, 0]])
    assert shapes._moves(turn, "moving right", 100) is None
    assert shapes._moves(turn, "moving up", 100) is False
    slant = np.array([[0, 0], [20, 20], [40, 40]])
    assert shapes._moves(slant, "moving right", 100) is None
    assert shapes._moves(slant, "moving left", 100) is False
    assert shapes._moves(slant, "resting", 100) is False


def test_phrasings_are_unique_and_grammatical():
    claims = itertools.product(["", *SHAPES], ["", *COLOURS], shapes._WORDING)
    texts = [text for claim in claims if any(claim) for text in shapes._phrasings(*claim)]
    assert not [text for text, n in Counter(texts).items() if n > 1]
    slip = re.compile(r"\ba [aeiou]|\ban [^aeiou]|\s\s|^\s|\s$|crosss")
    assert not [text for text in texts if slip.search(text)]
