"Composed clips: exact masks, even motion, enough of everybody to be seen, sentences that stay true, and splits that never mix."
import hashlib
import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from rvos_nb.augment import _visible, clash, compose_clip, names_place
from rvos_nb.cli import main
from rvos_nb.core import ConfigError, RVOSError
from rvos_nb.data import ANNOTATORS, Annotations, check_data, compose_data, compose_splits, couples, load_annotations, read_frame, read_mask
from rvos_nb.demo import make_demo_data, write_clip, write_texts

RED, GREEN, BLUE = (200, 0, 0), (0, 200, 0), (0, 0, 200)


def still(T=8, size=(96, 160), box=(35, 65, 100, 130), colour=GREEN, ground=BLUE, id=1):
    "One rectangle that stands still: frames, masks."
    frames, masks = np.zeros((T, *size, 3), np.uint8) + np.uint8(ground), np.zeros((T, *size), np.uint8)
    y0, y1, x0, x1 = box
    frames[:, y0:y1, x0:x1], masks[:, y0:y1, x0:x1] = colour, id
    return frames, masks


def guest(T=8, size=(60, 80), box=(15, 40, 20, 60)):
    "A red rectangle on green, of which nothing may be seen outside its mask."
    frames, masks = still(T, size, box, RED, GREEN)
    return frames, masks == 1


def corner(T=8):
    "A red L: the box round it holds some of the green, too."
    frames, mask = guest(T)
    frames[:, 15:28, 40:60], mask[:, 15:28, 40:60] = GREEN, False
    return frames, mask


def plain_host(T=8, **kw): return still(T, colour=BLUE, **kw)  # its object looks like its ground: all that is red is the guest


def composed(n=60, host=None, of=None):
    host, of = host or still(), of or guest()
    made = [compose_clip(*host, *of, seed) for seed in range(n)]
    assert sum(m is not None for m in made) > 0.9 * n
    return [m for m in made if m]


# --- one clip: the picture and its mask

def test_a_pixel_of_the_guest_shows_the_guest_and_no_other_does():
    for made in composed(host=plain_host(), of=corner()):
        share = made.frames[..., 0] / 200  # of red in the pixel: the guest's alpha
        clear = np.abs(share - 0.5) > 0.01  # a half is rounded either way
        assert ((share > 0.5) == (made.masks == made.guest_id))[clear].all() and clear.mean() > 0.99
        assert made.frames[..., 1].max() == 0, "the guest's old background shows at its edge"
        assert np.median(share[made.masks == made.guest_id]) > 0.99 and ((share > 0.02) & (share < 0.98)).any(), "sharp inside, soft at the edge"


def test_outside_the_guest_and_its_edge_nothing_changes():
    (frames, masks), kernel = still(), np.ones((7, 7), np.uint8)
    for made in composed():
        for f, m, f0, m0 in zip(made.frames, made.masks, frames, masks):
            away = cv2.dilate(((m == 2) | (m0 > 0)).view(np.uint8), kernel) == 0  # round the host may be the edge of a guest behind it
            assert (f[away] == f0[away]).all() and (m[m != 2] == m0[m != 2]).all()


def test_behind_the_host_not_a_pixel_of_it_is_lost():
    (frames, masks), kinds = still(box=(20, 80, 40, 120)), set()
    for made in composed(host=(frames, masks)):
        touches = (np.roll(made.masks == 2, 1, 2) & (masks == 1)).any()
        front = ((made.masks == 2) & (masks == 1)).any()
        if not front and touches:  # behind: the host's pixels are those of the host
            assert (made.frames[masks == 1] == frames[masks == 1]).all()
            kinds.add("behind")
        elif front: kinds.add("front")
    assert kinds == {"behind", "front"}


def test_thin_parts_of_a_guest_stay_in_its_mask():
    frames, mask = np.zeros((2, 100, 100, 3), np.uint8), np.zeros((2, 100, 100), bool)
    mask[:, 10:60, 20:80] = True; mask[:, 60:95, 48:50] = True  # a body and a leg of two pixels
    frames[mask] = RED
    for made in composed(30, plain_host(2, size=(240, 400), box=(0, 60, 0, 60)), (frames, mask)):
        red = made.frames[..., 0].astype(int)
        assert ((red > 100) == (made.masks == 2))[np.abs(red - 100) > 2].all()


def test_the_guest_moves_on_a_line_at_an_even_pace():
    "Centre of a rigid guest that is whole in the frame: within a pixel of a line, whose steps are alike."
    paths = []
    for made in composed(150, plain_host(12, box=(0, 12, 0, 12)), guest(12)):
        m = made.masks == made.guest_id
        if m[:, [0, -1]].any() or m[:, :, [0, -1]].any() or len(set(m.sum((1, 2)))) > 1: continue  # cut by the border, or behind something
        centres = np.array([np.argwhere(x).mean(0) for x in m])
        line = centres[0] + np.linspace(0, 1, 12)[:, None] * (centres[-1] - centres[0])
        assert np.abs(centres - line).max() <= 1
        paths.append(centres[-1] - centres[0])
    assert len(paths) > 20 and np.abs(paths).max(0)[1] > 20 and np.std(paths, 0).min() > 2  # and they do move, each its own way


# --- what must be seen of everybody

def test_everybody_keeps_enough_of_itself():
    frames, masks = still(box=(10, 50, 20, 60))
    masks[:, 60:80, 100:140], frames[:, 60:80, 100:140] = 7, RED
    g = guest()
    full = composed(host=(np.zeros_like(masks)[..., None].repeat(3, -1), np.pad(np.ones((8, 2, 2), np.uint8), ((0, 0), (0, 94), (0, 158)))), of=g)
    assert len(full) > 50
    for made in composed(120, (frames, masks), g):
        assert made.guest_id == 8
        for i in (1, 7): assert (made.masks == i).sum() >= 0.5 * (masks == i).sum()
        assert (made.masks == 8).mean() >= 0.008


@pytest.mark.parametrize("seen, own, covered, expected", [(80, 200, 10, True), (79, 200, 10, False), (80, 201, 10, False), (80, 100, 50, True), (80, 100, 51, False),
                                                          (79, 100, 0, False)])
def test_what_is_visible_enough(seen, own, covered, expected):
    "By hand, in a frame of 10,000 pixels with a host of 100: 0.8 % are 80 pixels, 40 % of 200 are 80, half of the host is 50."
    masks, guest = np.zeros((1, 100, 100), np.uint8), np.zeros((1, 100, 100), bool)
    masks[0, 0], masks[0, 1] = 7, 255  # a row of the host's, a row of void, which may be covered
    guest[0, 0, :covered] = guest[0, 1, :seen - covered] = True
    assert _visible(masks, guest, own) == expected


@pytest.mark.parametrize("host, of", [(still(box=(0, 0, 0, 0)), guest()), (still(), (guest()[0], guest()[1] & False)), (still(box=(0, 96, 0, 160)), guest()[:2]),
                                      (still(), guest(size=(60, 80), box=(15, 17, 20, 22)))])
def test_none_where_it_cannot_be(host, of):
    "A host without objects, a guest that is nowhere, one that has only a place that covers half of the host, one of four pixels."
    made = [compose_clip(*host, *of, seed) for seed in range(20)]
    if host[1].all(): assert all(m is None or (m.masks == 1).sum() >= 0.5 * m.masks.size for m in made)
    else: assert made == [None] * 20


def test_void_and_ids_stay():
    frames, masks = still(id=5)
    masks[:, :10, :40] = 255
    some = set()
    for made in composed(80, (frames, masks)):
        assert made.guest_id == 6 and set(np.unique(made.masks)) == {0, 5, 6, 255}
        elsewhere = made.masks != 6
        assert (made.masks[elsewhere] == masks[elsewhere]).all()
        some.add(bool((masks[~elsewhere] == 255).any()))
    assert some == {True, False}  # a guest in front covers void, too


def test_a_guest_that_comes_and_goes_stays_itself():
    frames, mask = guest()
    mask = mask.copy(); mask[:3] = False
    for made in composed(30, of=(frames, mask)): assert not (made.masks[:3] == 2).any() and (made.masks[3:] == 2).any()


def test_a_mirrored_guest_is_said_to_be_one():
    seen = {}
    for made in composed(60, plain_host(box=(0, 8, 0, 8)), corner()):  # wide below, its upright on the left
        m = made.masks == 2
        if m[:, [0, -1]].any() or m[:, :, [0, -1]].any(): continue
        ys, xs = np.nonzero(m[0])
        upright = xs[ys < ys.min() + 3].mean()
        seen.setdefault(made.mirrored, set()).add(upright > xs.mean())
    assert seen == {False: {False}, True: {True}}


def test_same_seed_same_clip_and_arrays_are_new():
    host, of = still(), guest()
    before = [a.copy() for a in (*host, *of)]
    a, b, c = (compose_clip(*host, *of, seed) for seed in (3, 3, 4))
    assert (a.frames == b.frames).all() and (a.masks == b.masks).all() and not (a.masks == c.masks).all()
    assert all((x == y).all() for x, y in zip(before, (*host, *of))) and a.frames.dtype == a.masks.dtype == np.uint8


@pytest.mark.parametrize("change, words", [
    (dict(guest_mask=guest()[1].astype(np.uint8)), "guest_mask: expected a bool array"), (dict(guest_mask=guest()[1][:, :9]), "guest_masks: expected shape"),
    (dict(guest_frames=guest()[0][:3], guest_mask=guest()[1][:3]), "expected 8 frames like the host, found 3"), (dict(frames=still()[0] / 255), "frames: expected uint8"),
    (dict(guest_frames=guest()[0][..., 0]), "guest_frames: expected shape"), (dict(masks=still(id=254)[1]), "object 254")])
def test_wrong_arrays_are_named(change, words):
    (frames, masks), (guest_frames, guest_mask) = still(), guest()
    with pytest.raises(RVOSError, match=re.escape(words)): compose_clip(**dict(frames=frames, masks=masks, guest_frames=guest_frames, guest_mask=guest_mask, seed=0) | change)


# --- who may meet whom

@pytest.mark.parametrize("a, b, expected", [
    (["a girl in white", "a girl"], ["the Girl", "a dancing girl"], True), (["a dog on the grass", "a dog"], ["a cat on the grass", "a cat"], False),
    (["a dog", "a brown one", "it", "a pet"], ["a dog", "a dog"], False),  # in one of four sentences: not key
    (["a dog", "a dog", "a pet", "it"], ["a dog", "the dog, running"], True),  # in half of them, punctuation aside
    (["the one on the left", "the one"], ["the one behind it", "the one"], False),  # function words tell nothing apart
    (["a dog"], ["the dog"], True), ([], ["a dog"], False)])
def test_clash(a, b, expected): assert clash(a, b) == clash(b, a) == expected


# --- a data set

VIDEOS = {  # split, video: (box of its object, sentences)
    "train": {"bear": ((20, 60, 30, 80), ["a bear", "a brown bear", "a bear walking to the left", "the bear on the right"]),
              "bus": ((30, 60, 60, 130), ["a bus", "a white bus", "the largest bus", "a bus turning clockwise"]),
              "girl": ((20, 80, 90, 120), ["a girl facing left", "a girl who looks left", "a girl", "the girl in the middle"]),
              "place": ((20, 80, 90, 120), ["the first one", "the middle one", "the left one", "only one"])},
    "val": {"dog": ((20, 60, 30, 80), ["a dog"] * 4), "cow": ((30, 60, 60, 130), ["a cow"] * 4), "pup": ((30, 60, 60, 110), ["a dog"] * 4)}}


def write_data(root, videos=VIDEOS, T=8):
    "Videos of one still rectangle each, every video in a colour of its own."
    rows = []
    for split, named in videos.items():
        for k, (v, (box, said)) in enumerate(named.items()):
            frames, masks = still(T, (96, 160), box, np.roll([40, 90, 220], k), (60, 60, 60))
            write_clip(root / "DAVIS", v, frames, masks)
            rows += [(v, 1, a, "", s) for a, s in zip(ANNOTATORS, said)]
        (root / "DAVIS" / "ImageSets" / "2017").mkdir(parents=True, exist_ok=True)
        (root / "DAVIS" / "ImageSets" / "2017" / f"{split}.txt").write_text("".join(f"{v}\n" for v in named))
    write_texts(root, rows)
    return root


@pytest.fixture(scope="module")
def source(tmp_path_factory): return write_data(tmp_path_factory.mktemp("compose") / "source")


@pytest.fixture(scope="module")
def out(source): return compose_splits(source, source.parent / "out", train=24, val=8, frames=5, progress=False)


def digest(root): return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(Path(root).rglob("*")) if p.is_file()}
def parts(video): return video.rsplit("-", 1)[0].split("+")


def test_only_couples_that_go_together(source):
    assert {c[:2] for c in couples(load_annotations(source, "train"))} == {(a, b) for a in ("bear", "bus", "girl") for b in ("bear", "bus", "girl") if a != b}
    assert {c[:2] for c in couples(load_annotations(source, "val"))} == {("dog", "cow"), ("cow", "dog"), ("cow", "pup"), ("pup", "cow")}


def test_nobody_is_its_own_guest():
    "Not even an object that no two sentences call by the same word."
    said = {"kid": ["a child", "somebody small", "that kid", "her"], "dog": ["a dog"] * 4}
    videos = {v: {"expressions": [{"object_id": 1, "annotator": a, "expression": s} for a, s in zip(ANNOTATORS, ss)]} for v, ss in said.items()}
    assert couples(Annotations(videos, Path("x"), "train")) == [("dog", "kid", 1), ("kid", "dog", 1)]


def test_it_loads_and_nothing_is_wrong_with_it(out):
    for split, n in (("train", 24), ("val", 8)):
        found = load_annotations(out, split)
        assert len(found) == n and not found.left_out
        for a in found.values():
            assert len(a["frames"]) == 5 and {e["kind"] for e in a["expressions"]} == {"composed"}
            assert {e["object_id"] for e in a["expressions"]} == {1, 2} == set(np.unique(read_mask(a["masks"][2])).tolist()) - {0}
            assert read_frame(a["frames"][0]).shape == (96, 160, 3)
    assert check_data(out, quiet=True).empty


def test_train_and_val_never_mix(source, out):
    "By name, and by colour: what a frame shows is of the two videos that the name says."
    for split in ("train", "val"):
        own = load_annotations(source, split)
        for v, a in load_annotations(out, split).items():
            assert all(p in own for p in parts(v))
            frame, mask = read_frame(a["frames"][2]).astype(int), read_mask(a["masks"][2])
            for i, p in enumerate(parts(v), 1):
                colour = np.roll([40, 90, 220], list(own).index(p))
                assert np.abs(np.median(frame[mask == i], 0) - colour).max() < 30, (v, p)


def test_sentences_are_true(source, out):
    originals = {e["expression"] for a in load_annotations(source, "train").values() for e in a["expressions"]}
    heard, guests = set(), set()
    for v, a in load_annotations(out, "train").items():
        for e in a["expressions"]:
            assert not names_place(e["expression"]), e
            own = load_annotations(source, "train")[parts(v)[e["object_id"] - 1]]["expressions"]
            assert (e["annotator"], e["expression"]) in {(o["annotator"], o["expression"]) for o in own}
            heard.add(e["expression"])
            if e["object_id"] == 2: guests.add(e["expression"])
    assert heard == {"a bear", "a brown bear", "a bus", "a white bus", "a bus turning clockwise", "a girl"} and heard < originals
    assert "a bus turning clockwise" in guests


def test_a_mirrored_guest_loses_or_swaps_its_words(source, monkeypatch, tmp_path):
    "names_place leaves no sentence with a side, so it is switched off here: then left becomes right in the mirror, and what cannot be mirrored is gone."
    import rvos_nb.data as data
    monkeypatch.setattr(data, "names_place", lambda text: False)
    found = load_annotations(compose_data(load_annotations(source, "train").subset(["bear", "bus", "girl"]), tmp_path / "out", 40, frames=3, progress=False), "train")
    said = {}
    for v, a in found.items():
        mine = frozenset(e["expression"] for e in a["expressions"] if e["object_id"] == 2)
        said.setdefault(parts(v)[1], set()).add(mine)
    assert said["girl"] == {frozenset(["a girl facing left", "a girl who looks left", "a girl", "the girl in the middle"]), frozenset(["a girl facing right", "a girl", "the girl in the middle"])}
    assert said["bear"] == {frozenset(["a bear", "a brown bear", f"a bear walking to the {s}", f"the bear on the {t}"]) for s, t in (("left", "right"), ("right", "left"))}
    assert {len(s) for s in said["bus"]} == {4, 3}  # clockwise is not, in a mirror
    assert {e["expression"] for a in found.values() for e in a["expressions"] if e["object_id"] == 1} == {t for k in ("bear", "bus", "girl") for t in VIDEOS["train"][k][1]}  # hosts stay


def test_same_data_and_seed_same_files_whatever_the_threads(source, out, tmp_path):
    how = dict(train=24, val=8, frames=5, progress=False)
    assert digest(compose_splits(source, tmp_path / "one", threads=1, **how)) == digest(out) == digest(compose_splits(source, tmp_path / "five", threads=5, **how))
    other = digest(compose_splits(source, tmp_path / "other", seed=1, **how))
    assert other != digest(out) and json.loads((out / "composed.json").read_text())["seed"] == 0


def test_made_once_and_nothing_else_is_touched(source, tmp_path):
    train, how = load_annotations(source, "train"), dict(frames=3, progress=False)
    root = compose_data(train, tmp_path / "a", 2, **how)
    (root / "mark").touch()
    assert compose_data(train, root, 2, **how) == root and (root / "mark").exists()
    with pytest.raises(RVOSError, match="train_clips = 2 instead of 3"): compose_data(train, root, 3, **how)
    with pytest.raises(RVOSError, match="size = None instead of"): compose_data(train, root, 2, size=(48, 80), **how)
    with pytest.raises(RVOSError, match="train_data"): compose_data(train.subset(["bear", "bus"]), root, 2, **how)
    with pytest.raises(RVOSError, match="no composed data"): compose_data(train, source, 2, **how)
    assert {p.name for p in tmp_path.iterdir()} == {"a"}


def test_sizes_and_lengths(source, tmp_path):
    "The size that training asks for; guests of another size; a video that is shorter than the clip."
    train = load_annotations(source, "train")
    small = load_annotations(compose_data(train, tmp_path / "small", 3, frames=30, size=(48, 80), progress=False), "train")
    for a in small.values(): assert len(a["frames"]) == 8 and read_frame(a["frames"][7]).shape == (48, 80, 3) and read_mask(a["masks"][0]).shape == (48, 80)
    mixed = write_data(tmp_path / "mixed", {"train": {"bear": VIDEOS["train"]["bear"]}, "val": VIDEOS["val"]})
    frames, masks = still(6, (200, 300), (50, 150, 80, 200), RED, GREEN)
    write_clip(mixed / "DAVIS", "bus", frames, masks)
    (mixed / "DAVIS/ImageSets/2017/train.txt").write_text("bear\nbus\n")
    write_texts_again(mixed, [("bear", 1, a, "", "a bear") for a in ANNOTATORS] + [("bus", 1, a, "", "a bus") for a in ANNOTATORS])
    found = load_annotations(compose_data(load_annotations(mixed, "train"), tmp_path / "both", 6, frames=8, every=1, progress=False), "train")
    for v, a in found.items():
        assert len(a["frames"]) == 6 and read_mask(a["masks"][0]).shape == ((96, 160) if v.startswith("bear") else (200, 300))
    assert {parts(v)[0] for v in found} == {"bear", "bus"} and check_pairs(found)


def write_texts_again(root, rows):
    for p in (root / "davis_text_annotations").iterdir(): p.unlink()
    (root / "davis_text_annotations").rmdir()
    write_texts(root, rows)


def check_pairs(annotations): return all(set(np.unique(read_mask(m)).tolist()) <= {0, 1, 2} for a in annotations.values() for m in a["masks"])


def test_objects_that_do_not_show_have_no_sentences(tmp_path):
    "The host's second object comes only at the end: where the clip does not show it, nothing is said of it, and its number may be the guest's."
    root = write_data(tmp_path / "late", {"train": {k: VIDEOS["train"][k] for k in ("bear", "bus")}}, T=40)
    frames, masks = still(40, box=(20, 60, 30, 80))
    masks[39, 70:90, 100:140] = 2
    shutil.rmtree(root / "DAVIS/JPEGImages/480p/bear"); shutil.rmtree(root / "DAVIS/Annotations/480p/bear")
    write_clip(root / "DAVIS", "bear", frames, masks)
    write_texts_again(root, [(v, i, a, "", s) for v, i, s in (("bear", 1, "a bear"), ("bear", 2, "a fish"), ("bus", 1, "a bus")) for a in ANNOTATORS])
    found = load_annotations(compose_data(load_annotations(root, "train"), tmp_path / "out", 12, frames=4, every=1, progress=False), "train")
    about = {frozenset((e["object_id"], e["expression"]) for e in a["expressions"]) for v, a in found.items() if v.startswith("bear")}
    assert frozenset([(1, "a bear"), (2, "a bus")]) in about


def test_odd_sentences_and_names(tmp_path):
    "A converted json holds what the four text files cannot: names with blanks, characters beyond latin-1, line breaks."
    root = write_data(tmp_path / "odd", {"train": {"bear": VIDEOS["train"]["bear"], "bus": VIDEOS["train"]["bus"]}})
    long = "b" * 180
    for kind in ("JPEGImages", "Annotations"): (root / "DAVIS" / kind / "480p/bus").rename(root / "DAVIS" / kind / "480p" / long)
    for kind in ("JPEGImages", "Annotations"): (root / "DAVIS" / kind / "480p/bear").rename(root / "DAVIS" / kind / "480p" / "a bear é")
    shutil.rmtree(root / "davis_text_annotations"); shutil.rmtree(root / "DAVIS/ImageSets")
    said = ["the bear’s nose", "the bear’s\nnose", "the bear’s paw", 'a "bear"'], ["a bus"] * 4
    videos = {v: {"expressions": {str(i): {"exp": s, "obj_id": "1"} for i, s in enumerate(ss)}} for v, ss in zip(("a bear é", long), said)}
    (root / "meta_expressions/train").mkdir(parents=True)
    (root / "meta_expressions/train/meta_expressions.json").write_text(json.dumps({"videos": videos}))
    found = load_annotations(compose_data(load_annotations(root, "train"), tmp_path / "out", 4, frames=3, progress=False), "train")
    assert len(found) == 4 and all(re.fullmatch(r"[\w+.-]{1,200}", v, re.A) for v in found)
    bear = {(e["annotator"], e["expression"]) for a in found.values() for e in a["expressions"] if "bear" in e["expression"]}
    assert bear == {("annot1", "the bear’s nose"), ("annot1_full_video", "the bear’s nose"), ("annot2_full_video", 'a "bear"')}


@pytest.mark.parametrize("keep, words", [(["bear"], "no two of its 1 videos"), (["bear", "place"], "no two of its 2 videos")])
def test_nobody_to_meet(source, tmp_path, keep, words):
    with pytest.raises(RVOSError, match=words): compose_data(load_annotations(source, "train").subset(keep), tmp_path / "out", 2, progress=False)
    assert not list(tmp_path.iterdir())


def test_objects_that_fill_their_frames_end_the_search(tmp_path):
    root = write_data(tmp_path / "tiny", {"train": {v: ((10, 12, 10, 12), VIDEOS["train"][v][1]) for v in ("bear", "bus")}})
    with pytest.raises(RVOSError, match="0 of 2 clips composed in .* attempts"): compose_data(load_annotations(root, "train"), tmp_path / "out", 2, progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["tiny"]


@pytest.mark.parametrize("change", [dict(n=0), dict(n=True), dict(frames=0), dict(every=0), dict(seed=-1), dict(size=(8, 80)), dict(size=(96,)), dict(frames=2.5)])
def test_wrong_settings(source, tmp_path, change):
    with pytest.raises(ConfigError, match="expected"): compose_data(**dict(annotations=load_annotations(source, "train"), root=tmp_path / "out", n=2) | change)


def test_a_broken_frame_is_named_and_nothing_is_left(tmp_path):
    root = write_data(tmp_path / "broken")
    for p in (root / "DAVIS/JPEGImages/480p/bear").iterdir(): p.write_bytes(p.read_bytes()[:100])
    with pytest.raises(RVOSError, match=r"bear/0000\d.jpg: not a picture"): compose_data(load_annotations(root, "train"), tmp_path / "out", 8, progress=False)
    (root / "DAVIS/Annotations/480p/bus/00001.png").unlink()
    with pytest.raises(RVOSError, match="00001.png: missing"): compose_data(load_annotations(root, "train"), tmp_path / "out", 8, progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["broken"]


def test_a_folder_that_cannot_be_made_is_named(source, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RVOSError, match="file.out: cannot be written"): compose_data(load_annotations(source, "train"), tmp_path / "file" / "out", 2, progress=False)


def test_a_video_in_both_splits_is_refused(source, tmp_path):
    root = write_data(tmp_path / "both")
    with open(root / "DAVIS/ImageSets/2017/val.txt", "a") as f: f.write("bear\n")
    with pytest.raises(RVOSError, match="bear is in train and in val"): compose_splits(root, tmp_path / "out", progress=False)


def test_demo_data_composes(tmp_path):
    "Several objects a video, and sentences about place, size and motion."
    root = make_demo_data(tmp_path / "demo", 6, 4, (5, 6), mix="all", progress=False)
    out = compose_splits(root, tmp_path / "out", train=6, val=3, frames=5, progress=False)
    assert check_data(out, quiet=True).empty
    for a in load_annotations(out, "train").values(): assert max(e["object_id"] for e in a["expressions"]) >= 2


# --- the command line

def test_command_line(source, tmp_path, capsys):
    args = ["data", "compose", str(source), str(tmp_path / "out"), "--train", "3", "--clips", "2", "--frames", "4"]
    assert main(args) == 0 and "out" in capsys.readouterr().out
    assert [len(load_annotations(tmp_path / "out", s)) for s in ("train", "val")] == [3, 2]
    assert main(args) == 0  # reused
    for slip, code, words in ((["--seed", "1"], 1, "seed = 0 instead of 1"), (["--frames", "0"], 2, "frames = 0: expected 1 or more"), (["--clips", "many"], 2, "--clips")):
        capsys.readouterr()
        try: found = main([*args, *slip])
        except SystemExit as e: found = e.code
        err = capsys.readouterr().err
        assert found == code and words in err and err.count("\n") == 1, err
    assert main(["data", "compose", str(tmp_path / "none"), str(tmp_path / "x")]) == 1 and "no such folder" in capsys.readouterr().err
    assert main(["data", "compose", str(source), str(source)]) == 1 and "no composed data" in capsys.readouterr().err


# --- real video

def test_davis(davis, tmp_path):
    "Real frames at a training size: the layout is whole, objects are seen, and what is not near the guest is the host's own picture."
    train = load_annotations(davis, "train")
    out = compose_data(train, tmp_path / "out", 6, frames=4, size=(128, 224), progress=False)
    found = load_annotations(out, "train")
    assert len(found) == 6 and all(p in train for v in found for p in parts(v))
    for v, a in found.items():
        ids = np.stack([read_mask(m) for m in a["masks"]])
        assert ids.shape == (4, 128, 224) and (ids == 2).mean() >= 0.008 and (ids == 1).any() and set(np.unique(ids)) == {0, 1, 2}
        host = np.stack([read_frame(f) for f in a["frames"]]).astype(int)
        assert len(np.unique(host)) > 100
    val = load_annotations(davis, "val")
    assert not {frozenset(c[:2]) for c in couples(val)} & {frozenset(p) for p in (("dog", "libby"), ("car-shadow", "car-roundabout"))}
