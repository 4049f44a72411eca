"Clicks that correct an answer, and the labels that are written."

import json

import numpy as np
import pytest
from clips import Bright, moving, untrained
from rvos_nb.check import check_data
from rvos_nb.config import RVOSError
from rvos_nb.corrections import (
    Click,
    LabelPicker,
    choose_pieces,
    correct_answer,
    write_labels,
)
from rvos_nb.datasets import load_annotations
from rvos_nb.segmenter import FrameMasks, load_segmenter
from rvos_nb.tracking import _prompts
from rvos_nb.video import open_video
from tiny_pretrained import tiny_dino, tiny_sam2


def blobs(**places):
    "Logits [4,12,20] with a blob of 4 x 4 pixels, of the value given, for each (row, column)."
    logits = np.full((4, 12, 20), -9, np.float32)
    for value, column in places.values():
        for t in range(4):
            logits[t, 4:8, column + t : column + t + 4] = value  # moves a pixel a frame
    return logits


def at(t, row, column, wanted=True):
    return Click(t, (column + 0.5) / 20, (row + 0.5) / 12, wanted)


def test_this_takes_one_piece_through_all_frames():
    logits = blobs(a=(3, 1), b=(2, 10))
    found = choose_pieces([logits], [at(2, 5, 4)])
    assert found.any((1, 2)).all() and found.sum() == 4 * 16
    assert not found[:, :, 9:].any(), "the piece that nobody pointed at is dropped"
    both = choose_pieces([logits], [at(2, 5, 4), at(0, 5, 11)])
    assert both.sum() == 2 * 4 * 16


def test_not_that_removes_a_piece_and_keeps_the_others():
    logits = blobs(a=(3, 1), b=(2, 10))
    found = choose_pieces([logits], [at(3, 5, 5, wanted=False)])
    assert (found == (logits == 2)).all()
    assert (choose_pieces([logits], [at(0, 0, 0, wanted=False)]) == (logits > 0)).all()


def test_pieces_that_grew_together_are_separated():
    logits = blobs(a=(3, 1), b=(3, 10))
    logits[:, 5, :][logits[:, 5, :] < 0] = 0.5  # a bridge
    found = choose_pieces([logits], [at(0, 5, 2), at(0, 5, 12, wanted=False)])
    assert found.sum() == 4 * 16 and found[0, 5, 2] and not found[0, 5, 12]


def test_what_was_thought_of_can_be_chosen_and_what_was_not_cannot():
    own, other = blobs(a=(3, 1), b=(-1.5, 10)), blobs(c=(2, 14))
    assert choose_pieces([own], [at(0, 5, 11)]).sum() == 4 * 16
    assert (choose_pieces([own, other], [at(0, 5, 16)]) == (other > 0)).all()
    with pytest.raises(RVOSError, match="frame 1"):
        choose_pieces([own, other], [at(0, 0, 0)])
    with pytest.raises(RVOSError):
        choose_pieces([own], [at(0, 5, 2), at(1, 5, 3, wanted=False)])


def test_clicks_at_the_edge():
    x = np.arange(24).reshape(2, 3, 4)
    assert Click(1, 1.0, 1.0, True).value(x) == 23 and Click(0, 0.0, 0.0, True).value(x) == 0


class Prompted(Bright):
    "A model that takes prompts: marks all of a frame after it was told of a place."

    def __init__(self, frames=99):
        self.told, self.frames = [], frames

    def correct(self, video, clicks, answer):
        self.told.append(clicks)
        for frame, _ in zip(video.read(), range(self.frames)):
            yield FrameMasks(frame, np.full((1, 6, 10), 5, np.float32))


def test_a_model_that_takes_prompts_is_asked():
    video, clicks = open_video(moving(4)), [at(1, 2, 3)]
    segmenter = Prompted()
    found = correct_answer(segmenter, video, [blobs()], clicks)
    assert found.shape == (4, 6, 10) and (found == 5).all() and segmenter.told == [clicks]
    with pytest.raises(RVOSError, match="2 of 4"):
        correct_answer(Prompted(2), video, [blobs()], clicks)


@pytest.fixture(scope="module")
def sam2(tmp_path_factory):
    "A tiny SAM 2 behind a tiny detector."
    folder = tmp_path_factory.mktemp("tiny")
    parts = tiny_dino(folder / "dino"), tiny_sam2(folder / "sam2")
    return load_segmenter(f"grounded-sam2:{','.join(parts)}", device="cpu")


def test_sam2_takes_the_clicks(sam2, monkeypatch):
    video, answer = open_video(moving(40)), np.full((40, 12, 20), -1, np.float32)
    answer[6, 3:6, 2:9] = 1

    sessions, start = [], sam2.tracker.start
    monkeypatch.setattr(sam2.tracker, "start", lambda f: sessions.append(start(f)) or sessions[-1])

    def found(*clicks):
        return correct_answer(sam2, video, [answer], clicks).astype(float)

    here, there = at(6, 4, 4), at(6, 10, 18)
    first = found(here)
    assert first.shape == (40, 32, 32) and np.array_equal(first, found(here))
    for others in ([there], [here._replace(wanted=False)], [here, there]):
        moved = np.abs(found(*others) - first).max((1, 2))
        assert moved[6] > 1e-4 and (moved[:6] > 0).any() and (moved[7:] > 0).any()
    later = np.abs(found(here, at(30, 2, 2)) - first).max((1, 2))
    assert (later[:30] == 0).all() and later[30] > 1e-4, "nothing before it changes"
    assert len(sessions) == 12  # forwards and backwards, each time
    for session in sessions:
        (kept,) = session.state.output_dict_per_obj.values()
        assert len(kept["non_cond_frame_outputs"]) <= session.reach < 33
        assert len(session.state.processed_frames) <= 2


def test_what_sam2_cannot_be_told(sam2):
    answer = np.full((4, 12, 20), -1, np.float32)
    with pytest.raises(RVOSError, match="nothing is marked in frame 2.*“this”"):
        correct_answer(sam2, open_video(moving(4)), [answer], [at(1, 2, 3, wanted=False)])
    with pytest.raises(RVOSError, match="3 of 4 frames"):
        correct_answer(sam2, open_video(moving(3)), [answer], [at(1, 2, 3)])


def test_a_negative_click_alone_goes_with_the_box_of_the_answer():
    answer = np.full((4, 8), -1, np.float32)
    answer[1:3, 2:6] = 1
    click = Click(0, 0.25, 0.5, wanted=False)
    told = _prompts([click], answer, (40, 80))
    assert told["input_points"] == [[[[20, 20]]]] and told["input_labels"] == [[[0]]]
    assert told["input_boxes"] == [[[20, 10, 60, 30]]]
    assert "input_boxes" not in _prompts([click, click._replace(wanted=True)], answer, (40, 80))


# --- labels

FRAMES = moving(4, 48, 80)


def labels(root, **how):
    answers = {"a blob": blobs(a=(3, 1)), "the other": blobs(b=(3, 10)), "a": blobs(a=(4, 1))}
    return write_labels(root, "clip", open_video(FRAMES), answers, **how)


def test_labels_are_data_and_pass_the_check(tmp_path):
    record = load_annotations(labels(tmp_path / "mine"), "train")["clip"]
    found = {e.text: e.object_ids for e in record.expressions}
    assert found == {"a blob": (1,), "the other": (2,), "a": (1,)}
    for t in range(4):
        first, second = record.masks.mask(t, (1,)), record.masks.mask(t, (2,))
        assert first.shape == (48, 80) and 150 < first.sum() <= 256
        assert first[22, 4 * (1 + t) + 8] and second[22, 4 * (10 + t) + 8]
        shown = next(iter(open_video([record.frames[t]])))
        assert np.abs(shown.astype(int) - FRAMES[t]).mean() < 6
    write_labels(tmp_path / "mine", "two", open_video(FRAMES), {"x": blobs(a=(3, 2))})
    assert list(load_annotations(tmp_path / "mine", "train")) == ["clip", "two"]
    problems = check_data(tmp_path / "mine")
    assert problems.empty, problems.to_string()


def test_nothing_is_lost_or_half_written(tmp_path):
    root = labels(tmp_path / "mine")
    before = {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}
    overlapping = blobs(a=(3, 1)) + blobs(b=(14, 3))
    slips = {
        "holds 'clip' already": ("clip", {"x": blobs(a=(3, 1))}),
        "share": ("new", {"x": blobs(a=(3, 1)), "y": overlapping}),
        "marks nothing": ("new", {"x": blobs()}),
        "no answer": ("new", {}),
        "plain name": ("../new", {"x": blobs(a=(3, 1))}),
    }
    for said, (name, answers) in slips.items():
        with pytest.raises(RVOSError, match=said):
            write_labels(root, name, open_video(FRAMES), answers)
    with pytest.raises(ValueError):  # a video that became shorter
        write_labels(root, "new", open_video(FRAMES[:2]), {"x": blobs(a=(3, 1))})
    assert {p: p.read_bytes() for p in root.rglob("*") if p.is_file()} == before
    assert not list(root.glob(".new-*"))
    labels(root, replace=True)
    meta = json.loads((root / "meta_expressions/train/meta_expressions.json").read_text())
    assert list(meta["videos"]) == ["clip"]


# --- the picker


@pytest.fixture(scope="module")
def segmenter():
    return untrained()


@pytest.fixture
def picker(segmenter):
    videos = {"my clip!.mp4": moving(6), "other.mp4": moving(5)}
    picker = LabelPicker(segmenter, videos, width=160)
    picker.type_expression("the red square")
    return picker


def piece(picker):
    "The place of a marked pixel, as shares of width and height."
    logits = picker.answers.found[picker.answers.asked][0].astype(np.float32)
    row, column = np.unravel_index(logits.argmax(), logits.shape)
    return (column + 0.5) / logits.shape[1], (row + 0.5) / logits.shape[0]


def test_a_click_changes_the_answer_and_undo_brings_it_back(picker):
    x, y = piece(picker)
    before = picker.answers.found["the red square"]
    picture = picker.image.value
    picker.meaning.value = "not that"
    picker.click.value = f"{x} {y} 1"
    after = picker.answers.found["the red square"]
    place = Click(0, x, y, True)
    assert place.value(before) > 0 > place.value(after) and picker.image.value != picture
    picker.undo.click()
    assert (picker.answers.found["the red square"] == before).all()
    assert picker.image.value == picture and picker.clicks == []
    for nonsense in ("", "a b", "2 0.5 1", "nan 0 1", "0.5"):
        picker.click.value = nonsense
    assert picker.clicks == []


def test_a_click_before_a_question_is_said(segmenter):
    picker = LabelPicker(segmenter, {"a": moving(3)}, width=80)
    picker.click.value = "0.5 0.5 1"
    picker.keep.click()
    assert "expression first" in picker.status.value and picker.kept == {}


def test_keep_and_write_twice(picker, tmp_path):
    picker.labels.value = str(tmp_path / "mine")
    picker.export.click()
    assert "keep at least one" in picker.status.value and not (tmp_path / "mine").exists()
    x, y = piece(picker)
    picker.click.value = f"{x} {y} 1"
    picker.keep.click()
    picker.export.click()
    picker.export.click()  # the same clip again: replaced
    picker.choose_video("other.mp4")
    assert picker.kept == {} and picker.clicks == []
    picker.type_expression("a square")
    picker.keep.click()
    picker.export.click()
    found = load_annotations(tmp_path / "mine", "train")
    assert {name: len(r.frames) for name, r in found.items()} == {"my-clip": 6, "other": 5}
    another = LabelPicker(picker.segmenter, {"other.mp4": moving(3)}, width=80)
    another.type_expression("a square")
    another.keep.click()
    another.write(tmp_path / "mine")
    assert len(load_annotations(tmp_path / "mine", "train")) == 3, "nobody's labels are replaced"
