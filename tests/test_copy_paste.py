"Copy-paste data: expressions that stay true, and splits that never mix."

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from records import box, write_frames
from rectangles import GREEN, RED, still
from rvos_nb import copy_paste
from rvos_nb.augment import names_place
from rvos_nb.check import check_data
from rvos_nb.cli import main
from rvos_nb.config import AugmentConfig, ConfigError, RVOSError
from rvos_nb.copy_paste import (
    COPY_PASTE,
    clash,
    copy_paste_clips,
    copy_paste_data,
    copy_paste_splits,
    host_guest_pairs,
)
from rvos_nb.data import Annotations, Expression, ObjectMasks, VideoRecord
from rvos_nb.pictures import read_picture
from rvos_nb.datasets import load_annotations
from rvos_nb.layout import ANNOTATORS, write_clip, write_texts
from rvos_nb.shapes import make_shapes


@pytest.mark.parametrize(
    "a, b, expected",
    [
        (["a girl in white", "a girl"], ["the Girl", "a dancing girl"], True),
        (["a dog on the grass", "a dog"], ["a cat on the grass", "a cat"], False),
        # in one of four expressions: not key
        (["a dog", "a brown one", "it", "a pet"], ["a dog", "a dog"], False),
        # in half of them, punctuation aside
        (["a dog", "a dog", "a pet", "it"], ["a dog", "the dog, running"], True),
        # function words tell nothing apart
        (["the one on the left", "the one"], ["the one behind it", "the one"], False),
        (["a dog"], ["the dog"], True),
        ([], ["a dog"], False),
    ],
)
def test_clash(a, b, expected):
    assert clash(a, b) == clash(b, a) == expected


# --- a data set

VIDEOS = {  # split, video: (box of its object, expressions)
    "train": {
        "bear": (
            (20, 60, 30, 80),
            ["a bear", "a brown bear", "a bear walking to the left", "the bear on the right"],
        ),
        "bus": (
            (30, 60, 60, 130),
            ["a bus", "a white bus", "the largest bus", "a bus turning clockwise"],
        ),
        "girl": (
            (20, 80, 90, 120),
            ["a girl facing left", "a girl who looks left", "a girl", "the girl in the middle"],
        ),
        "place": (
            (20, 80, 90, 120),
            ["the first one", "the middle one", "the left one", "only one"],
        ),
    },
    "val": {
        "dog": ((20, 60, 30, 80), ["a dog"] * 4),
        "cow": ((30, 60, 60, 130), ["a cow"] * 4),
        "pup": ((30, 60, 60, 110), ["a dog"] * 4),
    },
}
COLOUR = (40, 90, 220)  # rolled once for each video of a split


def write_data(root, videos=VIDEOS, T=8):
    "Videos of one still rectangle each, every video in a colour of its own."
    rows, sets = [], root / "DAVIS" / "ImageSets" / "2017"
    for split, named in videos.items():
        for k, (v, (place, said)) in enumerate(named.items()):
            how = dict(colour=np.roll(COLOUR, k), ground=(60, 60, 60))
            write_clip(root / "DAVIS", v, *still(T, box=place, **how))
            rows += [(v, 1, a, "", s) for a, s in zip(ANNOTATORS, said)]
        sets.mkdir(parents=True, exist_ok=True)
        (sets / f"{split}.txt").write_text("".join(f"{v}\n" for v in named))
    write_texts(root, rows)
    return root


def only(*names):
    return {"train": {v: VIDEOS["train"][v] for v in names}}


def write_texts_again(root, rows):
    shutil.rmtree(root / "davis_text_annotations")
    write_texts(root, rows)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("copy_paste") / "source")


@pytest.fixture(scope="module")
def train(source):
    return load_annotations(source, "train")


@pytest.fixture(scope="module")
def out(source):
    how = dict(train=24, val=8, frames=5, progress=False)
    return copy_paste_splits(source, source.parent / "out", **how)


def made_of(annotations, root, n, **how) -> Annotations:
    return load_annotations(copy_paste_data(annotations, root, n, progress=False, **how), "train")


def digest(root) -> dict[str, str]:
    files = [p for p in sorted(Path(root).rglob("*")) if p.is_file()]
    names = [p.relative_to(root).as_posix() for p in files]
    return {n: hashlib.sha256(p.read_bytes()).hexdigest() for n, p in zip(names, files)}


def parts(video: str) -> list[str]:
    return video.rsplit("-", 1)[0].split("+")


def objects_of(e: Expression) -> int:
    (o,) = e.object_ids
    return o


def test_only_pairs_that_go_together(source, train):
    named = ("bear", "bus", "girl")
    pairs = {c[:2] for c in host_guest_pairs(train)}
    assert pairs == {(a, b) for a in named for b in named if a != b}
    pairs = {c[:2] for c in host_guest_pairs(load_annotations(source, "val"))}
    assert pairs == {("dog", "cow"), ("cow", "dog"), ("cow", "pup"), ("pup", "cow")}


def record_of(v: str, said, masks="any") -> VideoRecord:
    "`said` are (text, object ids); the masks are not looked at."
    expressions = [Expression(str(i), text, ids) for i, (text, ids) in enumerate(said)]
    return VideoRecord(v, [], masks, expressions)


def test_nobody_is_its_own_guest():
    "Not even an object that no two expressions call by the same word."
    kid = [(text, (1,)) for text in ("a child", "somebody small", "that kid", "her")]
    records = {"kid": record_of("kid", kid), "dog": record_of("dog", [("a dog", (1,))] * 4)}
    pairs = host_guest_pairs(Annotations(records, "x", "train"))
    assert pairs == [("dog", "kid", 1), ("kid", "dog", 1)]


def test_hidden_objects_unions_and_videos_without_masks_meet_nobody():
    records = {
        "cat": record_of("cat", [("a cat", (1,)), ("two pets", (1, 2)), ("nothing", ())]),
        "dog": record_of("dog", [("a dog", (4,)), ("hidden", None)]),
        "test": record_of("test", [("a bus", (1,))], masks=None),
    }
    pairs = host_guest_pairs(Annotations(records, "x", "train"))
    assert pairs == [("cat", "dog", 4), ("dog", "cat", 1)]


def test_it_loads_and_nothing_is_wrong_with_it(out):
    for split, n in (("train", 24), ("val", 8)):
        found = load_annotations(out, split)
        assert len(found) == n and not found.left_out
        for record in found.values():
            assert {e.kind for e in record.expressions} == {COPY_PASTE} == {"copy-paste"}
            assert len(record.frames) == 5 and record.object_ids() == record.masks.objects(2)
            assert record.object_ids() == (1, 2)
            assert read_picture(record.frames[0]).shape == (96, 160, 3)
    assert check_data(out, quiet=True).empty


def test_train_and_val_never_mix(source, out):
    "By name, and by colour: what a frame shows is of the two videos that the name says."
    for split in ("train", "val"):
        own = list(load_annotations(source, split))
        for v, record in load_annotations(out, split).items():
            frame = read_picture(record.frames[2]).astype(int)
            for i, part in enumerate(parts(v), 1):
                colour = np.roll(COLOUR, own.index(part))
                seen = np.median(frame[record.masks.mask(2, (i,))], 0)
                assert np.abs(seen - colour).max() < 30, (v, part)


def test_expressions_are_true(train, out):
    heard, guests = set(), set()
    for v, record in load_annotations(out, "train").items():
        for e in record.expressions:
            assert not names_place(e.text), e
            own = train[parts(v)[objects_of(e) - 1]].expressions
            assert (e.group, e.text) in {(o.group, o.text) for o in own}
            heard.add(e.text)
            if objects_of(e) == 2:
                guests.add(e.text)
    true = {"a bear", "a brown bear", "a bus", "a white bus", "a bus turning clockwise", "a girl"}
    assert heard == true and "a bus turning clockwise" in guests


def test_a_mirrored_guest_loses_or_swaps_its_words(train, monkeypatch, tmp_path):
    "Without names_place: left becomes right in the mirror, and what cannot be mirrored is gone."
    monkeypatch.setattr(copy_paste, "names_place", lambda text: False)
    named = ["bear", "bus", "girl"]
    found = made_of(train.subset(named), tmp_path / "out", 40, frames=3)
    said, hosts = {}, set()
    for v, record in found.items():
        mine = frozenset(e.text for e in record.expressions if objects_of(e) == 2)
        said.setdefault(parts(v)[1], set()).add(mine)
        hosts |= {e.text for e in record.expressions if objects_of(e) == 1}
    both = {"a girl", "the girl in the middle"}
    assert said["girl"] == {
        frozenset({"a girl facing left", "a girl who looks left", *both}),
        frozenset({"a girl facing right", *both}),
    }
    assert said["bear"] == {
        frozenset({"a bear", "a brown bear", f"a bear walking to the {s}", f"the bear on the {t}"})
        for s, t in (("left", "right"), ("right", "left"))
    }
    assert {len(s) for s in said["bus"]} == {4, 3}  # clockwise is not, in a mirror
    assert hosts == {text for v in named for text in VIDEOS["train"][v][1]}  # hosts stay


def test_same_data_and_seed_same_files_whatever_the_threads(source, out, tmp_path):
    def again(name, **change):
        how = dict(train=24, val=8, frames=5, progress=False)
        return digest(copy_paste_splits(source, tmp_path / name, **how, **change))

    assert again("one", threads=1) == digest(out) == again("five", threads=5)
    assert again("other", seed=1) != digest(out)
    assert json.loads((out / "copy-paste.json").read_text())["seed"] == 0


def test_made_once_and_nothing_else_is_touched(source, train, tmp_path):
    def make(annotations=train, root=tmp_path / "a", n=2, **change):
        return copy_paste_data(annotations, root, n, frames=3, progress=False, **change)

    root = make()
    (root / "mark").touch()
    assert make() == root and (root / "mark").exists()
    for change, words in (
        (dict(n=3), "train_clips = 2 instead of 3"),
        (dict(size=(48, 80)), "size = None instead of"),
        (dict(annotations=train.subset(["bear", "bus"])), "train_data"),
        (dict(root=source), "no copy-paste data"),
    ):
        with pytest.raises(RVOSError, match=words):
            make(**change)
    assert {p.name for p in tmp_path.iterdir()} == {"a"}


def test_sizes_and_lengths(train, tmp_path):
    "The size that training asks for; guests of another size; a video shorter than the clip."
    small = made_of(train, tmp_path / "small", 3, frames=30, size=(48, 80))
    for record in small.values():
        assert len(record.frames) == 8 and read_picture(record.frames[7]).shape == (48, 80, 3)
        assert record.masks.size == (48, 80)
    videos = only("bear") | {"val": VIDEOS["val"]}
    mixed = write_data(tmp_path / "mixed", videos)
    how = dict(size=(200, 300), box=(50, 150, 80, 200), colour=RED, ground=GREEN)
    write_clip(mixed / "DAVIS", "bus", *still(6, **how))
    (mixed / "DAVIS/ImageSets/2017/train.txt").write_text("bear\nbus\n")
    write_texts_again(mixed, [(v, 1, a, "", f"a {v}") for v in ("bear", "bus") for a in ANNOTATORS])
    both = load_annotations(mixed, "train")
    found = made_of(both, tmp_path / "both", 6, frames=8, frame_stride=1)
    for v, record in found.items():
        assert len(record.frames) == 6
        assert record.masks.size == ((96, 160) if v.startswith("bear") else (200, 300))
        assert {o for t in range(6) for o in record.masks.objects(t)} <= {1, 2}
    assert {parts(v)[0] for v in found} == {"bear", "bus"}


def test_objects_that_do_not_show_have_no_expressions(tmp_path):
    "A second object comes only at the end; its number may be the guest's where it does not show."
    root = write_data(tmp_path / "late", only("bear", "bus"), T=40)
    frames, ids = still(40, box=(20, 60, 30, 80))
    ids[39, 70:90, 100:140] = 2
    for kind in ("JPEGImages", "Annotations"):
        shutil.rmtree(root / "DAVIS" / kind / "480p/bear")
    write_clip(root / "DAVIS", "bear", frames, ids)
    said = (("bear", 1, "a bear"), ("bear", 2, "a fish"), ("bus", 1, "a bus"))
    write_texts_again(root, [(v, i, a, "", s) for v, i, s in said for a in ANNOTATORS])
    late = load_annotations(root, "train")
    found = made_of(late, tmp_path / "out", 12, frames=4, frame_stride=1)
    about = {
        frozenset((objects_of(e), e.text) for e in record.expressions)
        for v, record in found.items()
        if v.startswith("bear")
    }
    assert frozenset([(1, "a bear"), (2, "a bus")]) in about


def test_overlapping_objects_and_frames_without_labels(tmp_path):
    "Masks object by object, as MeViS has them, each second frame labelled; expressions of a union."
    records = {}
    for v, left in (("cat", 5), ("bus", 40)):
        there = [box(5, left, 25, left + 25), None] * 4
        part = [box(5, left, 10, left + 25), None] * 4
        masks = ObjectMasks((48, 80), {5: there, 9: part}, labelled=[True, False] * 4)
        texts = [(f"a {v}", (5,)), (f"the head of it, {v}", (9,)), (f"all of the {v}", (5, 9))]
        said = [Expression(str(i), text, ids) for i, (text, ids) in enumerate(texts)]
        frames = write_frames(tmp_path / v, 8)
        records[v] = VideoRecord(v, frames, masks, said)
    both = Annotations(records, tmp_path, "train")
    found = made_of(both, tmp_path / "out", 6, frames=4, frame_stride=1)
    for record in found.values():
        assert len(record.frames) == 4 and set(record.object_ids()) <= {5, 9, 10}
        assert 10 in record.object_ids()
        assert not {e.text for e in record.expressions} & {"all of the cat", "all of the bus"}
        for t in range(4):  # the one on top keeps its number, as ids cannot overlap
            assert record.masks.mask(t, (5,)).any() and record.masks.mask(t, (9,)).any()


def test_odd_expressions_and_names(tmp_path):
    "A json holds what text files cannot: names with blanks, characters beyond latin-1, breaks."
    root = write_data(tmp_path / "odd", only("bear", "bus"))
    long = "b" * 180
    for kind in ("JPEGImages", "Annotations"):
        folder = root / "DAVIS" / kind / "480p"
        (folder / "bus").rename(folder / long)
        (folder / "bear").rename(folder / "a bear é")
    shutil.rmtree(root / "davis_text_annotations")
    shutil.rmtree(root / "DAVIS/ImageSets")
    bear = ["the bear’s nose", "the bear’s\nnose", "the bear’s paw", 'a "bear"']
    videos = {}
    for v, said in (("a bear é", bear), (long, ["a bus"] * 4)):
        videos[v] = {"expressions": {str(i): {"exp": s, "obj_id": "1"} for i, s in enumerate(said)}}
    (root / "meta_expressions/train").mkdir(parents=True)
    text = json.dumps({"videos": videos})
    (root / "meta_expressions/train/meta_expressions.json").write_text(text)
    found = made_of(load_annotations(root, "train"), tmp_path / "out", 4, frames=3)
    assert len(found) == 4 and all(re.fullmatch(r"[\w+.-]{1,200}", v, re.A) for v in found)
    said = {(e.group, e.text) for r in found.values() for e in r.expressions if "bear" in e.text}
    nose = {(who, "the bear’s nose") for who in ("annot1", "annot1_full_video")}
    assert said == nose | {("annot2_full_video", 'a "bear"')}


@pytest.mark.parametrize("keep", [["bear"], ["bear", "place"]])
def test_nobody_to_meet(train, tmp_path, keep):
    with pytest.raises(RVOSError, match=f"no two of its {len(keep)} videos"):
        made_of(train.subset(keep), tmp_path / "out", 2)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_objects_that_are_too_small_end_the_search(tmp_path):
    videos = {v: ((10, 12, 10, 12), VIDEOS["train"][v][1]) for v in ("bear", "bus")}
    root = write_data(tmp_path / "tiny", {"train": videos})
    with pytest.raises(RVOSError, match="0 of 2 clips pasted in .* attempts"):
        made_of(load_annotations(root, "train"), tmp_path / "out", 2)
    assert [p.name for p in tmp_path.iterdir()] == ["tiny"]


@pytest.mark.parametrize(
    "change",
    [
        dict(n=0),
        dict(n=True),
        dict(frames=0),
        dict(frames=2.5),
        dict(frame_stride=0),
        dict(seed=-1),
        dict(size=(8, 80)),
        dict(size=(96,)),
    ],
    ids=str,
)
def test_wrong_settings(train, tmp_path, change):
    with pytest.raises(ConfigError, match="expected"):
        copy_paste_data(**dict(annotations=train, root=tmp_path / "out", n=2) | change)


def test_a_broken_frame_is_named_and_nothing_is_left(tmp_path):
    root = write_data(tmp_path / "broken")
    for p in (root / "DAVIS/JPEGImages/480p/bear").iterdir():
        p.write_bytes(p.read_bytes()[:100])
    broken = load_annotations(root, "train")
    with pytest.raises(RVOSError, match=r"bear/0000\d.jpg: not a picture"):
        made_of(broken, tmp_path / "out", 8)
    (root / "DAVIS/Annotations/480p/bus/00001.png").unlink()
    with pytest.raises(RVOSError, match="00001.png: missing"):
        made_of(broken, tmp_path / "out", 8)
    assert [p.name for p in tmp_path.iterdir()] == ["broken"]


def test_a_folder_that_cannot_be_made_is_named(train, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RVOSError, match="file: cannot be written"):
        made_of(train, tmp_path / "file" / "out", 2)


def test_a_video_in_both_splits_is_refused(tmp_path):
    root = write_data(tmp_path / "both")
    with open(root / "DAVIS/ImageSets/2017/val.txt", "a") as f:
        f.write("bear\n")
    with pytest.raises(RVOSError, match="bear is in train and in val"):
        copy_paste_splits(root, tmp_path / "out", progress=False)


def test_talking_shapes_can_be_pasted(tmp_path):
    "Several objects a video, and expressions about place, size and motion."
    how = dict(n_train=6, n_val=4, n_frames=(5, 6), split_kind="all", progress=False)
    root = make_shapes(tmp_path / "shapes", **how)
    out = copy_paste_splits(root, tmp_path / "out", train=6, val=3, frames=5, progress=False)
    assert check_data(out, quiet=True).empty
    for record in load_annotations(out, "train").values():
        assert max(record.object_ids()) >= 2


def test_the_clips_of_a_run_are_made_once_and_anew_where_the_data_changes(
    train, tmp_path, monkeypatch
):
    monkeypatch.setenv("RVOS_HOME", str(tmp_path))
    augment = AugmentConfig(copy_paste_clips=3, copy_paste_frames=2)

    def clips(annotations=train, size=(48, 80), clip_len=1, seed=0):
        return copy_paste_clips(annotations, augment, size, clip_len=clip_len, seed=seed)

    first = clips()
    assert len(first) == 3 and clips().root == first.root
    for record in first.values():
        assert len(record.frames) == 2 and record.masks.size == (48, 80)
    assert {len(r.frames) for r in clips(clip_len=3).values()} == {3}  # at least the clip's
    others = [clips(seed=1), clips(size=(64, 80)), clips(train.subset(["bear", "bus"]))]
    assert len({a.root for a in (first, *others)}) == 4


# --- the command line


def test_command_line(source, tmp_path, capsys):
    args = ["data", "copy-paste", str(source), str(tmp_path / "out")]
    args += ["--train", "3", "--val", "2", "--frames", "4"]
    assert main(args) == 0 and "out" in capsys.readouterr().out
    assert [len(load_annotations(tmp_path / "out", s)) for s in ("train", "val")] == [3, 2]
    assert main(args) == 0  # reused
    for slip, code, words in (
        (["--seed", "1"], 1, "seed = 0 instead of 1"),
        (["--frames", "0"], 2, "frames = 0: expected 1 or more"),
        (["--val", "many"], 2, "--val"),
    ):
        capsys.readouterr()
        try:
            found = main([*args, *slip])
        except SystemExit as e:
            found = e.code
        err = capsys.readouterr().err
        assert found == code and words in err and err.count("\n") == 1, err
    for folder, words in ((tmp_path / "none", "no such folder"), (source, "no copy-paste data")):
        assert main(["data", "copy-paste", str(folder), str(source)]) == 1
        assert words in capsys.readouterr().err


# --- real video


def test_davis(davis, tmp_path):
    "Real frames at a training size: the layout is whole, and objects are seen."
    train = load_annotations(davis, "train")
    found = made_of(train, tmp_path / "out", 6, frames=4, size=(128, 224))
    assert len(found) == 6 and all(p in train for v in found for p in parts(v))
    for record in found.values():
        guest, host = (np.stack([record.masks.mask(t, (o,)) for t in range(4)]) for o in (2, 1))
        assert guest.shape == (4, 128, 224) and guest.mean() >= 0.008 and host.any()
        assert len(np.unique(read_picture(record.frames[0]))) > 100
    pairs = {frozenset(c[:2]) for c in host_guest_pairs(load_annotations(davis, "val"))}
    alike = (("dog", "libby"), ("car-shadow", "car-roundabout"))
    assert not pairs & {frozenset(p) for p in alike}
