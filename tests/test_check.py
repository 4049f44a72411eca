"`check_data` finds each fault, blames the right video, and is asked once before each run."

import itertools
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rvos_nb.check as check
from PIL import Image
from rvos_nb.check import check_data, describe_problems, known_problems
from rvos_nb.config import RVOSError
from rvos_nb.data import Annotations, ObjectMasks
from rvos_nb.datasets import DATASETS, Reader, load_annotations
from rvos_nb.layout import ANNOTATORS, write_ids
from rvos_nb.shapes import make_shapes


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    return make_shapes(folder, n_train=6, n_val=3, n_frames=(5, 9), progress=False)


@pytest.fixture
def copy(shapes, tmp_path) -> Path:
    return Path(shutil.copytree(shapes, tmp_path / "copy"))


def text_file(root: Path, annotator: str) -> Path:
    return root / "davis_text_annotations" / f"Davis17_{annotator}.txt"


def list_file(root: Path, split: str = "val") -> Path:
    return root / "DAVIS/ImageSets/2017" / f"{split}.txt"


def add_line(root: Path, annotator: str, line: str, encoding: str = "utf-8") -> None:
    with open(text_file(root, annotator), "ab") as f:
        f.write((line + "\n").encode(encoding))


def mask_file(record, t: int) -> Path:
    return record.masks.files()[t]


# --- clean data


def test_clean_data_has_no_problems(shapes):
    assert check_data(shapes).empty


@pytest.mark.slow
def test_real_data_has_no_problems(davis):
    assert check_data(davis).empty


@pytest.mark.parametrize("gone", ["train", "val"])
def test_a_folder_with_one_split_has_no_problems(copy, gone):
    list_file(copy, gone).unlink()
    assert check_data(copy).empty


@pytest.mark.parametrize("gone", ["train", "val"])
def test_a_copy_of_one_split_alone_has_no_problems(copy, gone):
    for folder in (copy / "DAVIS").glob(f"*/480p/shapes-{gone}-*"):
        shutil.rmtree(folder)
    list_file(copy, gone).unlink()
    for a in ANNOTATORS:
        path = text_file(copy, a)
        lines = [x for x in path.read_text("latin-1").splitlines(True) if f"-{gone}-" not in x]
        path.write_text("".join(lines), "latin-1")
    assert check_data(copy).empty


def test_partial_copies_of_davis_are_no_problem(copy):
    "Expressions about an official video whose frames are not here are left out, not a fault."
    for a in ANNOTATORS:
        add_line(copy, a, 'bear 1 "a bear"')
    assert check_data(copy).empty


def test_a_folder_that_is_no_data_is_said(tmp_path):
    with pytest.raises(RVOSError, match="no such folder"):
        check_data(tmp_path / "nowhere")
    table = check_data(tmp_path)
    assert len(table) == 1 and "no frames found; expected" in table["problem"][0]


# --- one fault in one frame

FAULTS = {
    "missing mask": (lambda r: mask_file(r, 1).unlink(), "no such mask"),
    "missing frame": (lambda r: r.frames[1].unlink(), "a mask without a frame"),
    "truncated frame": (
        lambda r: r.frames[1].write_bytes(r.frames[1].read_bytes()[:400]),
        "not a picture",
    ),
    "frame without a header": (lambda r: r.frames[1].write_bytes(b"\xff\xd8"), "not a picture"),
    "colours": (lambda r: Image.new("RGB", (240, 144), "red").save(mask_file(r, 1)), "RGB"),
    "size": (lambda r: Image.new("P", (24, 14)).save(mask_file(r, 1)), "height and width"),
    "text": (lambda r: mask_file(r, 1).write_text("no picture"), "not a mask"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found(copy, fault):
    record = list(load_annotations(copy, "val").values())[1]
    do, words = FAULTS[fault]
    do(record)
    table = check_data(copy)
    assert len(table) == 1 and words in table["problem"][0], table.to_string()
    assert record.id in table["where"][0] and table["video"][0] == record.id


def test_an_object_that_no_mask_shows(copy):
    v = next(iter(load_annotations(copy, "val")))
    for a in ANNOTATORS:
        add_line(copy, a, f'{v} 9 "a ghost"\n{v} 1 ""')
    problems = check_data(copy).problem
    assert problems.str.contains("object 9 has expressions").sum() == 1
    assert problems.str.contains("empty expression").sum() == 4


# --- faults of lists, texts and folders


def _blank(r, a, v):
    for path in a[v].masks.files():
        write_ids(path, np.zeros((144, 240), np.uint8))


def _lose_frame_and_mask(r, a, v):
    mask_file(a[v], 2).unlink()
    a[v].frames[2].unlink()


def _misspell_once(r, a, v):
    for who in ANNOTATORS:
        add_line(r, who, f'{v}s 1 "a thing"')


def _rewrite(r, change):
    "Change each line of the four files."
    for who in ANNOTATORS:
        path, encoding = text_file(r, who), "utf-8" if who < "annot2" else "latin-1"
        lines = path.read_text(encoding).splitlines(True)
        path.write_text("".join(map(change, lines)), encoding)


def _add_to_list(r, a, v):
    list_file(r, "train").write_text(list_file(r, "train").read_text() + f"\n{v}\n")


MORE_FAULTS = {  # (what is done to root, annotations and video; what is said; of that video?)
    "a frame and its mask are missing": (
        _lose_frame_and_mask,
        "00002.jpg.*frames before and after",
        True,
    ),
    "empty masks throughout": (_blank, "no mask shows any object", True),
    "unknown video": (
        lambda r, a, v: add_line(r, "annot1", 'nobody-knows 1 "a thing"'),
        "nobody-knows.*not known",
        False,
    ),
    "misspelt video": (_misspell_once, "not known", False),
    "misspelt in all files": (
        lambda r, a, v: _rewrite(r, lambda line: line.replace(f"{v} ", f"{v}x ")),
        "is shapes-val-000. meant",
        True,
    ),
    "UTF-8 in a latin-1 file": (
        lambda r, a, v: add_line(r, "annot2", f'{v} 1 "a caf\xe9"'),
        "UTF-8 that was read as latin-1",
        True,
    ),
    "control characters": (
        lambda r, a, v: add_line(r, "annot1", f'{v} 1 "a \x01 dog"'),
        "characters that no text has",
        True,
    ),
    "not UTF-8": (
        lambda r, a, v: add_line(r, "annot1", f'{v} 1 "a caf\xe9"', "latin-1"),
        "annot1.txt.*not utf-8",
        False,
    ),
    "empty expression": (
        lambda r, a, v: add_line(r, "annot1", f'{v} 1 ""'),
        "empty expression",
        True,
    ),
    "over-long expression": (
        lambda r, a, v: add_line(r, "annot1", f'{v} 1 "{"very " * 70}long"'),
        "71 words",
        True,
    ),
    "the same twice": (
        lambda r, a, v: add_line(r, "annot1", f'{v} 1 "a thing"'),
        "has an expression in this file already",
        True,
    ),
    "object 255": (lambda r, a, v: add_line(r, "annot1", f'{v} 255 "void"'), "255 is void", True),
    "no line": (lambda r, a, v: add_line(r, "annot1", "bear"), "line .*expected", False),
    "listed twice": (
        lambda r, a, v: list_file(r).write_text("\n".join([*a, v])),
        "stands there 2 times",
        True,
    ),
    "in both splits": (_add_to_list, "in train and in val", True),
    "listed without frames": (
        lambda r, a, v: shutil.rmtree(a[v].frames[0].parent),
        "no frames, but val.txt lists",
        True,
    ),
    "listed without expressions": (
        lambda r, a, v: _rewrite(r, lambda line: "" if f"{v} " in line else line),
        "no expression about it",
        True,
    ),
    "a list that leads out": (
        lambda r, a, v: list_file(r).write_text("\n".join([*a, "../../up"])),
        "plain name",
        False,
    ),
    "a list that is no text": (
        lambda r, a, v: list_file(r).write_bytes(b"\xff\xfe"),
        "not a text file",
        False,
    ),
    "a file of expressions is missing": (
        lambda r, a, v: text_file(r, "annot2").unlink(),
        "annot2.txt.*missing",
        False,
    ),
    "no masks at all": (
        lambda r, a, v: shutil.rmtree(mask_file(a[v], 0).parent),
        "no such mask",
        True,
    ),
}


@pytest.mark.parametrize("fault", MORE_FAULTS)
def test_check_lists(copy, fault):
    "Each fault alone; nothing is raised, and where a video can be blamed, the table names it."
    annotations = load_annotations(copy, "val")
    v = list(annotations)[1]
    do, words, blamed = MORE_FAULTS[fault]
    do(copy, annotations, v)
    table = check_data(copy)
    lines = table["where"] + ": " + table["problem"]
    assert lines.str.contains(words).any(), table.to_string()
    assert not blamed or v in set(table.video), table.to_string()


def test_check_lists_all_faults_at_once(copy):
    annotations = load_annotations(copy, "val")
    for (do, _), record in zip(FAULTS.values(), itertools.cycle(annotations.values())):
        if mask_file(record, 1).exists() and record.frames[1].exists():
            do(record)
    for line in ('nobody 1 "x"', "no line", f'{list(annotations)[0]} 1 ""'):
        add_line(copy, "annot1", line)
    assert len(check_data(copy)) >= 6  # some faults hide others


def test_check_reads_the_converted_form(tmp_path, shapes):
    root, val = tmp_path / "conv", load_annotations(shapes, "val")
    for v, record in val.items():
        shutil.copytree(record.frames[0].parent, root / "valid" / "JPEGImages" / v)
        shutil.copytree(mask_file(record, 0).parent, root / "valid" / "Annotations" / v)
    path = root / "meta_expressions" / "valid" / "meta_expressions.json"
    path.parent.mkdir(parents=True)
    v, w, x = val
    good = '{"exp": "a thing", "obj_id": "1"}'
    videos = [
        f'"{v}": {{"expressions": {{"0": {good}, "0": {good}}}}}',
        f'"{w}": {{"expressions": {{"0": {{"obj_id": 1}}}}}}',
        f'"{x}": {{"expressions": {{"0": {good}}}}}',
        f'"{x}": 5',
    ]
    path.write_text('{"videos": {' + ", ".join(videos) + "}}")
    table = check_data(root)
    text = "\n".join(table["where"] + ": " + table["problem"])
    for words in (
        "'0' stands there 2 times",
        f"'{x}' stands there 2 times",
        "KeyError: 'exp'",
        "expected a dictionary with 'expressions'",
    ):
        assert words in text, text
    path.write_text("{")
    assert check_data(root).problem.str.contains("not JSON").any()


def test_masks_without_a_word_on_what_is_named(tmp_path, shapes):
    v, record = next(iter(load_annotations(shapes, "val").items()))
    shutil.copytree(record.frames[0].parent, tmp_path / "valid" / "JPEGImages" / v)
    shutil.copytree(mask_file(record, 0).parent, tmp_path / "valid" / "Annotations" / v)
    path = tmp_path / "meta_expressions" / "valid" / "meta_expressions.json"
    path.parent.mkdir(parents=True)
    path.write_text(f'{{"videos": {{"{v}": {{"expressions": {{"0": {{"exp": "a thing"}}}}}}}}}}')
    problems = check_data(tmp_path).problem
    assert len(problems) == 1 and "no expression says which object it names" in problems[0]
    shutil.rmtree(tmp_path / "valid" / "Annotations")
    assert check_data(tmp_path).empty  # a test set: its masks are hidden


# --- masks that are no pictures


@pytest.fixture
def boxes(shapes, monkeypatch):
    "A reader whose masks are arrays; a test says how they come out."
    val = load_annotations(shapes, "val")
    record = next(iter(val.values()))

    def use(size, n, **how):
        tracks = {o: [np.ones(size, bool)] * n for o in record.object_ids()}
        masks = ObjectMasks(size, tracks, **how)
        split = Annotations({record.id: replace(record, masks=masks)}, shapes, "val")
        reader = Reader("boxes", lambda root, split: split == "val", lambda *args: split)
        monkeypatch.setitem(DATASETS, "boxes", reader)
        return check_data(shapes, quiet=True, format="boxes")

    return use, len(record.frames)


def test_masks_must_fit_their_frames(boxes):
    use, n = boxes
    assert use((144, 240), n).empty
    table = use((96, 160), n)
    (what,) = table.problem
    assert "width (96, 160), but" in what and f"(and {n - 1} others of this video)" in what
    assert "masks of 2" in use((144, 240), 2).problem[0]


def test_frames_without_labels_are_no_problem(boxes):
    use, n = boxes
    assert use((96, 160), n, labelled=[False] * n).problem.str.contains("no mask shows").all()
    assert use((144, 240), n, labelled=[t == 2 for t in range(n)]).empty


# --- before each run


@pytest.fixture
def counted(monkeypatch, tmp_path):
    "How often data was read; the answers are kept in a folder of this test."
    calls = []
    monkeypatch.setenv("RVOS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(check, "check_data", lambda *a, **k: calls.append(a) or check_data(*a, **k))
    return calls


def test_a_clean_folder_is_read_once(copy, counted):
    assert known_problems(copy).empty and known_problems(copy).empty and len(counted) == 1
    (copy / "runs").mkdir()
    (copy / "runs" / "history.csv").write_text("a run beside the data changes nothing")
    assert known_problems(copy).empty and len(counted) == 1


def test_any_change_of_a_file_is_a_new_question(copy, counted):
    known_problems(copy)
    record = next(iter(load_annotations(copy, "val").values()))
    mask_file(record, 1).unlink()
    assert len(known_problems(copy)) == 1 and len(counted) == 2
    table = known_problems(copy)
    assert len(counted) == 2 and table.video[0] == record.id and "no such mask" in table.problem[0]
    list_file(copy).touch()
    known_problems(copy)
    assert len(counted) == 3


def test_data_of_another_format_is_watched_whole(tmp_path, counted, monkeypatch):
    reader = Reader(
        "any", lambda root, split: True, lambda root, split, problems: Annotations({}, root, split)
    )
    monkeypatch.setitem(DATASETS, "any", reader)
    folder = tmp_path / "data" / "somewhere"
    folder.mkdir(parents=True)
    known_problems(tmp_path / "data"), known_problems(tmp_path / "data")
    assert len(counted) == 1
    (folder / "labels.json").write_text("{}")
    known_problems(tmp_path / "data")
    assert len(counted) == 2


def test_a_list_is_cut_to_what_fits_a_screen(copy):
    for record in load_annotations(copy, "val").values():
        shutil.rmtree(mask_file(record, 0).parent)
    table = check_data(copy)
    text = describe_problems(copy, table, most=2)
    assert len(text.splitlines()) == 3 and f"and {len(table) - 2} more: `rvos data check" in text
    assert "more" not in describe_problems(copy, table, most=len(table))
