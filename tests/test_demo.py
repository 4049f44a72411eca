"The demo data: what the notebook promises, re-checked from the files alone by simpler means than the generator's."
import functools, hashlib, json, multiprocessing as mp, re
from collections import Counter

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from rvos_nb import demo
from rvos_nb.core import ConfigError, RVOSError

SHAPES, COLOURS = "circle square triangle star cross".split(), "red orange yellow green blue purple".split()
N_TRAIN, N_VAL = 36, 4
FILES = {a: f"Davis17_{a}.txt" for a in ("annot1", "annot1_full_video", "annot2", "annot2_full_video")}


@pytest.fixture(scope="session", params=["attribute", "all"])
def root(request, tmp_path_factory):
    return demo.make_demo_data(tmp_path_factory.mktemp("demo") / request.param, N_TRAIN, N_VAL, mix=request.param, progress=False)


def digest(root):
    return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in root.rglob("*") if p.is_file()}


def masks_of(root, video):
    return np.stack([np.array(Image.open(p)) for p in sorted((root / "DAVIS/Annotations/480p" / video).iterdir())])


def videos(root):
    return [p.name for p in sorted((root / "DAVIS/Annotations/480p").iterdir())]


@functools.cache
def looks(root):
    "The objects of every video as the generator drew them; their masks must be those on disk."
    settings = json.loads((root / "demo.json").read_text())
    found = {}
    for video in videos(root):
        _, split, number = video.split("-")
        scene, _, _ = demo.draw_clip(settings["seed"], split, int(number), settings["mix"], tuple(settings["n_frames"]), tuple(settings["size"]))
        assert np.array_equal(scene.masks, masks_of(root, video))
        found[video] = scene.things
    return found


def test_layout(root):
    names = {s: (root / f"DAVIS/ImageSets/2017/{s}.txt").read_text().split() for s in ("train", "val")}
    assert len(names["train"]) == N_TRAIN and len(names["val"]) == N_VAL
    assert sorted(names["train"] + names["val"]) == videos(root) and not set(names["train"]) & set(names["val"])
    lengths = set()
    for video in videos(root):
        images = sorted((root / "DAVIS/JPEGImages/480p" / video).iterdir())
        labels = sorted((root / "DAVIS/Annotations/480p" / video).iterdir())
        lengths.add(len(images))
        assert [p.name for p in images] == [f"{t:05d}.jpg" for t in range(len(images))]
        assert [p.stem for p in images] == [p.stem for p in labels] and {p.suffix for p in labels} == {".png"}
        with Image.open(images[0]) as im: assert (im.mode, im.size) == ("RGB", (240, 144))
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
        text = (root / "davis_text_annotations" / file).read_bytes().decode("latin-1" if annotator.startswith("annot2") else "utf-8")
        rows = [re.fullmatch(r'(\S+) (\d+) "([^"]+)"', line).groups() for line in text.splitlines()]
        assert {(v, int(i)) for v, i, _ in rows} == objects and len(rows) == len(objects)
        part = table[table.annotator == annotator]
        assert [(v, int(i), e) for v, i, e in rows] == list(zip(part.video_id, part.object_id, part.expression))
    assert (table.groupby(["video_id", "object_id"]).expression.nunique() == 4).all()


def test_latin1_is_really_used(tmp_path, monkeypatch):
    demo.write_texts(tmp_path, [("v", 1, "annot1", "attribute", "caf\u00e9"), ("v", 1, "annot2", "attribute", "caf\u00e9")])
    folder = tmp_path / "davis_text_annotations"
    assert (folder / FILES["annot1"]).read_bytes() == b'v 1 "caf\xc3\xa9"\n'
    assert (folder / FILES["annot2"]).read_bytes() == b'v 1 "caf\xe9"\n'


def middles(masks, n):
    "x and y [n,T] of the middle of what is seen of each object, in shares of the frame; nan where unseen."
    grid = np.mgrid[:masks.shape[1], :masks.shape[2]]
    y, x = [np.array([[(g[m == i + 1].mean() + 0.5) / side if (m == i + 1).any() else np.nan for m in masks] for i in range(n)])
            for g, side in zip(grid, masks.shape[1:])]
    return x, y


def claims(text, things, x, y):
    "The objects (from 1) that `text` fits, by its words; sizes from the drawn areas, since masks may be cut."
    words = re.findall(r"[a-z]+", text)
    shape = next((s for s in SHAPES for w in words if w in (s, s + "s", s + "es")), None)
    colour = next((c for c in COLOURS if c in words), None)
    scope = [i for i, t in enumerate(things) if shape in (None, t.shape) and colour in (None, t.colour)]
    area = np.stack([t.areas for t in things])
    extreme = lambda q: {i + 1 for i in scope if all(np.nanmin(q[j] - q[i]) > 0 for j in scope if j != i)}
    has = lambda *options: any(o in words for o in options)
    if has("leftmost") or "furthest to the left" in text: return extreme(x)
    if has("rightmost") or "furthest to the right" in text: return extreme(-x)
    if has("topmost", "highest"): return extreme(y)
    if has("lowest"): return extreme(-y)
    if has("small", "little", "smaller", "smallest"): return extreme(area)
    if has("big", "large", "larger", "bigger", "largest", "biggest"): return extreme(-area)
    if has("still", "motionless") or "not move" in text: return {i + 1 for i in scope if np.ptp(things[i].centres, axis=0).max() < 1}
    if has("moving", "going", "moves"):  # the direction of the whole way seen, by its larger component
        fits = set()
        for i in scope:
            path = things[i].centres[~np.isnan(x[i])]
            (dx, dy) = path[-1] - path[0]
            name = ("right" if dx > 0 else "left") if abs(dx) > abs(dy) else ("down" if dy > 0 else "up")
            if max(abs(dx), abs(dy)) > 3 and any(w.startswith(name) for w in words): fits.add(i + 1)
        return fits
    side = {"left": x, "right": 1 - x, "top": y, "upper": y, "bottom": 1 - y, "lower": 1 - y}
    for word, q in side.items():
        if word in words: return {i + 1 for i in scope if np.nanmax(q[i]) < 0.5}
    return {i + 1 for i in scope}


def test_every_sentence_is_true_of_exactly_its_object(root):
    table, things = pd.read_csv(root / "expression_kinds.csv"), looks(root)
    for video, part in table.groupby("video_id"):
        x, y = middles(masks_of(root, video), len(things[video]))
        for row in part.itertuples():
            assert claims(row.expression, things[video], x, y) == {row.object_id}, (video, row.expression)


def test_kinds(root):
    table = pd.read_csv(root / "expression_kinds.csv")
    if root.name == "attribute": assert set(table.kind) == {"attribute"}
    else:
        counts = pd.crosstab(table.kind, table.annotator.str[:6])
        assert set(counts.index) == set(demo.KINDS) and (counts > 5).all().all()


def test_colours_on_screen_are_those_named(root):
    for video, things in list(looks(root).items())[:12]:
        mask = masks_of(root, video)[0]
        frame = np.array(Image.open(root / "DAVIS/JPEGImages/480p" / video / "00000.jpg").convert("HSV")).astype(float)
        for i, thing in enumerate(things):
            h, s, _ = np.median(frame[mask == i + 1], axis=0)
            away = {c: abs((h * 360 / 256 - hue + 180) % 360 - 180) for c, hue in demo.HUES.items()}
            assert min(away, key=away.get) == thing.colour and s > 170
        assert np.median(frame[mask == 0][:, 1]) < 100  # the ground is pale


def test_looks_differ_or_have_twins(root):
    pairs = [[(t.shape, t.colour) for t in things] for things in looks(root).values()]
    twins = np.mean([len(set(p)) < len(p) for p in pairs])
    if root.name == "all": assert twins > 0.5
    else:
        assert twins == 0
        shared = [len({s for s, _ in p}) < len(p) or len({c for _, c in p}) < len(p) for p in pairs]
        assert np.mean(shared) > 0.5


def depth(polygon, size):
    "How far inside `polygon` each pixel's centre lies, [h,w] in pixels, negative outside: one call of OpenCV for each pixel and no drawing."
    outline = polygon.astype(np.float32).reshape(-1, 1, 2)
    return np.array([[cv2.pointPolygonTest(outline, (x + 0.5, y + 0.5), True) for x in range(size[1])] for y in range(size[0])])


def test_areas(root):
    for video, things in looks(root).items():
        for thing in things: assert (thing.areas >= 0.01 * 144 * 240).all() and (thing.areas <= 0.1 * 144 * 240).all()


def test_masks_are_the_outlines(root):
    checked = 0
    for video, things in list(looks(root).items())[::4]:
        masks = masks_of(root, video)
        for t in (0, len(masks) - 1):
            for i, thing in enumerate(things):
                inside = depth(thing.polygon(t), masks.shape[1:])
                on_top = np.isin(masks[t], range(i + 1, len(things) + 1))  # this thing, or one painted later
                assert (inside[masks[t] == i + 1] > -0.75).all()  # no pixel whose centre is farther out than half its diagonal and a bit
                assert on_top[inside > 0.75].all()
                checked += (inside > 0.75).sum()
    assert checked > 10_000


def test_objects_hide_each_other_and_leave(root):
    gone = back = hidden = 0
    for video, things in looks(root).items():
        seen = np.stack([(masks_of(root, video) == i + 1).sum((1, 2)) for i in range(len(things))])
        gone += (seen[:, -1] == 0).any()
        back += ((seen == 0).any(1) & (seen[:, -1] > 0)).any()
        for i, t in enumerate(things):  # well inside the frame and yet much smaller than drawn: something lies on it
            r = 1.5 * np.sqrt(t.areas[:, None])
            inside = ((t.centres > r) & (t.centres < np.array([240, 144]) - r)).all(1)
            hidden += (inside & (seen[i] < 0.7 * t.areas)).any()
        assert (seen > 0).mean(1).min() >= 0.5
    assert hidden > 0
    if root.name == "all": assert gone > 3 and back > 3
    else: assert gone == back == 0


def test_same_seed_same_bytes_other_seed_other_bytes(tmp_path):
    small = dict(n_train=3, n_val=2, size=(96, 160), mix="all", progress=False)
    a, b, c = (digest(demo.make_demo_data(tmp_path / n, seed=s, **small)) for n, s in (("a", 5), ("b", 5), ("c", 6)))
    assert a == b
    assert a["DAVIS/JPEGImages/480p/shapes-train-0000/00000.jpg"] != c["DAVIS/JPEGImages/480p/shapes-train-0000/00000.jpg"]
    assert a["DAVIS/JPEGImages/480p/shapes-train-0000/00000.jpg"] != a["DAVIS/JPEGImages/480p/shapes-val-0000/00000.jpg"]


@pytest.mark.parametrize("name, value", [
    ("n_train", 0), ("n_train", 2.5), ("n_val", -1), ("n_val", True), ("n_frames", 9), ("n_frames", (12, 8)), ("n_frames", (3, 8)),
    ("size", (144,)), ("size", (32, 200)), ("size", "big"), ("mix", "hard"), ("mix", []), ("seed", -1), ("seed", None)])
def test_wrong_arguments_are_named(tmp_path, name, value):
    for make in (lambda **k: demo.make_demo_data(tmp_path / "x", **k), demo.demo_data):
        with pytest.raises(ConfigError, match=f"^{name} = "): make(**{name: value})
    assert not list(tmp_path.iterdir())


def test_a_frame_too_narrow_says_so(tmp_path):
    with pytest.raises(RVOSError, match="less narrow"): demo.make_demo_data(tmp_path / "x", 1, 1, size=(64, 4000), progress=False)
    assert not list(tmp_path.iterdir())


SMALL = dict(n_train=1, n_val=1, size=(96, 160), progress=False)


def test_taken_folders(tmp_path):
    made = demo.make_demo_data(tmp_path / "demo", **SMALL)
    before = {p: p.stat().st_mtime_ns for p in made.rglob("*")}
    assert demo.make_demo_data(str(made), **SMALL) == made and {p: p.stat().st_mtime_ns for p in made.rglob("*")} == before
    with pytest.raises(RVOSError, match="seed = 0 instead of 1"): demo.make_demo_data(made, **SMALL, seed=1)
    (made / "demo.json").write_text("{")
    with pytest.raises(RVOSError, match="damaged"): demo.make_demo_data(made, **SMALL)
    other = tmp_path / "other"; other.mkdir(); (other / "thesis.txt").write_text("mine")
    with pytest.raises(RVOSError, match="no demo data"): demo.make_demo_data(other, **SMALL)
    with pytest.raises(RVOSError, match="no demo data"): demo.make_demo_data(other / "thesis.txt", **SMALL)
    assert [p.name for p in other.iterdir()] == ["thesis.txt"]
    empty = tmp_path / "empty"; empty.mkdir()
    assert (demo.make_demo_data(empty, **SMALL) / "demo.json").is_file()


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch, error):
    write, calls = demo.write_clip, []
    def failing(*args):
        calls.append(args)
        if len(calls) == 3: raise error("stop")
        write(*args)
    monkeypatch.setattr(demo, "write_clip", failing)
    with pytest.raises(error): demo.make_demo_data(tmp_path / "x", 4, 1, size=(96, 160), progress=False)
    assert len(calls) == 3 and not list(tmp_path.iterdir())


def _worker(root, queue):
    queue.put(str(demo.make_demo_data(root, 6, 2, size=(96, 160), progress=False)))


def test_two_processes_at_once(tmp_path):
    context = mp.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=_worker, args=(tmp_path / "x", queue)) for _ in range(2)]
    for w in workers: w.start()
    assert {queue.get(timeout=120) for _ in workers} == {str(tmp_path / "x")}
    for w in workers: w.join(); assert w.exitcode == 0
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    alone = demo.make_demo_data(tmp_path / "y", 6, 2, size=(96, 160), progress=False)
    assert digest(tmp_path / "x") == digest(alone)


def test_losing_the_race_returns_the_winners_data(tmp_path, monkeypatch):
    write, first = demo.write_texts, []
    def slow(tmp, rows):  # while this one is about to finish, another one does
        write(tmp, rows)
        if not first: first.append(1); demo.make_demo_data(tmp_path / "x", **SMALL)
    monkeypatch.setattr(demo, "write_texts", slow)
    assert demo.make_demo_data(tmp_path / "x", **SMALL) == tmp_path / "x"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_demo_data_is_made_once(tmp_path, monkeypatch):
    monkeypatch.setenv("RVOS_HOME", str(tmp_path))
    a = demo.demo_data(**SMALL)
    assert a.parent == tmp_path / "demo" and demo.demo_data(**SMALL) == a
    assert demo.demo_data("all", **SMALL) != a and demo.demo_data(seed=1, **SMALL) != a


def test_progress_goes_to_stderr(tmp_path, capsys):
    demo.make_demo_data(tmp_path / "x", **{**SMALL, "progress": True})
    out, err = capsys.readouterr()
    assert out == "" and "2/2" in err
    demo.make_demo_data(tmp_path / "y", **SMALL)
    assert capsys.readouterr() == ("", "")


def test_packaged_text_encoder_is_what_the_function_writes(tmp_path):
    folder = demo.write_text_encoder(tmp_path / "bert")
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {p.name: p.read_bytes() for p in demo.demo_text_encoder().iterdir()}


def test_tokenizer_knows_every_word(root, monkeypatch):
    from transformers import AutoModel, AutoConfig, AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(demo.demo_text_encoder())
    assert tokenizer.is_fast
    table = pd.read_csv(root / "expression_kinds.csv")
    for text in table.expression: assert tokenizer.tokenize(text) == re.findall("[a-z]+", text)  # a whole word each, none spelt
    for text in ("xylophone quartz 4711 z9", "The RED circle!", "bike-packing: (a man's bike)?"): assert "[UNK]" not in tokenizer.tokenize(text)
    ids = tokenizer(["the red circle", "star"], padding=True, return_tensors="pt")
    config = AutoConfig.from_pretrained(demo.demo_text_encoder())
    assert (config.hidden_size, config.num_hidden_layers, config.vocab_size) == (64, 2, len(tokenizer))
    assert AutoModel.from_config(config)(**ids).last_hidden_state.shape == (2, 5, 64)
    assert tokenizer.pad_token_id == config.pad_token_id == 0


def test_thresholds_leave_a_gap():
    low = np.full(5, 0.2)
    assert demo._on_side(low) is True and demo._on_side(low + 0.3) is None and demo._on_side(low + 0.5) is False
    q = np.stack([low, low + 0.05, low + 0.2])
    assert demo._first(q, 0, [1, 2], 0.08) is None and demo._first(q, 0, [2], 0.08) is True and demo._first(q, 2, [0, 1], 0.08) is False
    turn = np.array([[0, 0], [20, 0], [0, 0]])
    assert demo._moves(turn, "moving right", 100) is None and demo._moves(turn, "moving up", 100) is False
    slant = np.array([[0, 0], [20, 20], [40, 40]])
    assert demo._moves(slant, "moving right", 100) is None and demo._moves(slant, "moving left", 100) is False
    assert demo._moves(slant, "resting", 100) is False


def test_phrasings_are_unique_and_grammatical():
    texts = Counter(t for s in ["", *SHAPES] for c in ["", *COLOURS] for r in demo._WORDING if s or c or r for t in demo._phrasings(s, c, r))
    assert not [t for t, n in texts.items() if n > 1]
    assert not [t for t in texts if re.search(r"\ba [aeiou]|\ban [^aeiou]|\s\s|^\s|\s$|crosss", t)]
