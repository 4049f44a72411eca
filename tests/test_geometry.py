"Geometry with a planted truth: through real processors, and through detector, tracker and video."

from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from clips import moving
from rvos_nb.detectors import (
    Detector,
    Found,
    SegmenterDetector,
    TextDetector,
    head_noun_phrase,
)
from rvos_nb.draw import write_video
from rvos_nb.sam3 import Sam3
from rvos_nb.segmenter import FrameMasks, Segmenter
from rvos_nb.tracking import DetectAndTrack, Sam2Tracker
from rvos_nb.video import open_video
from tiny_pretrained import SIDE, tiny_dino, tiny_owl, tiny_sam2, tiny_sam3

TEXTS = ["the red circle", "a star", "the blue dog on the left"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("tiny")
    made = {"dino": tiny_dino(root / "dino"), "mm": tiny_dino(root / "mm", mm=True)}
    made |= {"owl": tiny_owl(root / "owl"), "sam2": tiny_sam2(root / "sam2")}
    return made | {"sam3": tiny_sam3(root / "sam3")}


class Planted(torch.nn.Module):
    "Sees the red square where the real processor put it: what a perfect detector answers."

    def __init__(self, config):
        super().__init__()
        self.config = config

    def forward(self, pixel_values, **x):
        n, queries = len(pixel_values), 3
        _, height, width = pixel_values[0].shape
        left, top, right, bottom = _square(pixel_values[0])
        box = [(left + right) / 2 / width, (top + bottom) / 2 / height]
        box += [(right - left) / width, (bottom - top) / height]
        words = x["input_ids"].shape[0 if self.config.model_type == "owlv2" else 1]
        boxes = torch.tensor([[box] * queries] * n)
        return SimpleNamespace(logits=torch.full((n, queries, words), 3.0), pred_boxes=boxes)


def _square(pixels):
    # left, top, right, bottom of the red square in a picture that a processor made, [3,h,w]
    red = pixels[0] - pixels[1] > (pixels[0] - pixels[1]).max() * 0.6
    y, x = torch.nonzero(red, as_tuple=True)
    return tuple(float(v) for v in (x.min(), y.min(), x.max() + 1, y.max() + 1))


def _scene(size):
    # grey with a red square, and its box
    image = np.full((*size, 3), 128, np.uint8)
    image[size[0] // 2 : size[0] // 2 + 14, 5:27] = (255, 0, 0)
    return image, np.array([5, size[0] // 2, 27, size[0] // 2 + 14])


SIZES = [(48, 80), (81, 47), (33, 57), (61, 61)]


@pytest.mark.parametrize("detector", ["dino", "mm", "owl"])
@pytest.mark.parametrize("size", SIZES)
def test_boxes_survive_the_processor(folders, detector, size):
    image, box = _scene(size)
    model = TextDetector(folders[detector], "cpu")
    model.model = Planted(model.model.config)
    found = model.detect(image, TEXTS)
    assert [len(boxes) for boxes in found] == [1, 1, 1]  # three of one object are one
    assert np.abs(np.array([boxes[0].box for boxes in found]) - box).max() <= 1


@pytest.mark.parametrize("prompt", ["box", "mask"])
@pytest.mark.parametrize("size", SIZES)
def test_prompts_reach_the_tracker(folders, size, prompt):
    image, box = _scene(size)
    tracker = Sam2Tracker(folders["sam2"], "cpu")
    mask = _red(image) if prompt == "mask" else None
    session = tracker.start([Found(0.9, tuple(box), mask)])
    session.step(image)
    seen = _square(tracker.processor(images=image, return_tensors="pt")["pixel_values"][0])
    if prompt == "box":
        points = session.state.point_inputs_per_obj[0][0]["point_coords"].flatten().numpy()
    else:
        stored = session.state.mask_inputs_per_obj[0][0][0, 0] > 0
        y, x = (np.flatnonzero(stored.numpy().any(axis)) for axis in (1, 0))
        scale = SIDE / stored.shape[0]
        points = np.array([x[0], y[0], x[-1] + 1, y[-1] + 1]) * scale
    scale = np.array([SIDE / size[1], SIDE / size[0]] * 2)
    assert np.abs((points - seen) / scale).max() <= 1


@pytest.mark.parametrize("size", SIZES)
def test_masks_of_sam3_come_back(folders, size):
    image, _ = _scene(size)
    model = Sam3("cpu", "whole", folders["sam3"])

    def planted(inference_session, frame_idx):  # marks what is red where the processor put it
        pixels = inference_session.get_frame(frame_idx)
        red = pixels[0] - pixels[1] > (pixels[0] - pixels[1]).max() * 0.6
        inference_session.obj_id_to_prompt_id[7] = 0
        none = dict(removed_obj_ids=set(), suppressed_obj_ids=set(), obj_id_to_score={7: 0.9})
        return SimpleNamespace(obj_id_to_mask={7: torch.where(red, 5.0, -5.0)[None]}, **none)

    planted.config, planted.max_num_objects = model.model.config, 3
    model.model = planted
    found = model.segment([image] * 3, "the red square").masks[0]
    truth = _red(image)
    for mask in found:
        off = mask ^ truth
        rows, columns = (np.flatnonzero(truth.any(axis)) for axis in (1, 0))
        inner = np.zeros_like(truth)
        inner[rows[1] : rows[-1], columns[1] : columns[-1]] = True
        outer = np.zeros_like(truth)
        outer[max(rows[0] - 1, 0) : rows[-1] + 2, max(columns[0] - 1, 0) : columns[-1] + 2] = True
        assert not off[inner].any() and not off[~outer].any()  # within a pixel


class Truth(Detector):
    "Detector and tracker that know the red square; absent where it is not in the frame."

    name = "truth"

    def __init__(self, best=None):
        self.best, self.seen = best, 0

    def detect(self, image, expressions):
        self.seen += 1
        y, x = np.nonzero(_red(image))
        if not len(x):
            return [[] for _ in expressions]
        score = 0.9 if self.seen == self.best else 0.6
        return [[Found(score, (x.min(), y.min(), x.max() + 1, y.max() + 1))] for _ in expressions]

    def start(self, found):
        return Follow(found)


class Follow:
    def __init__(self, found):
        self.found, self.first = found, True

    def step(self, image):
        red = _red(image)
        if self.first:  # the boxes must fit the frame that comes first
            y, x = np.nonzero(red)
            box = (x.min(), y.min(), x.max() + 1, y.max() + 1)
            assert all(np.abs(np.subtract(f.box, box)).max() <= 1 for f in self.found)
        self.first = False
        return np.where(red, 5.0, -5.0)[None].repeat(len(self.found), 0)


def _red(image):
    return (image[..., 0] > 200) & (image[..., 1] < 90)


@pytest.mark.parametrize("choose", [False, True])
@pytest.mark.parametrize("size", [(48, 80), (81, 47), (33, 37)])
@pytest.mark.parametrize("n", [1, 2, 7, 80])
@pytest.mark.parametrize("best", [1, 3, 5])
def test_the_truth_comes_back(size, n, best, choose):
    frames = moving(n, *size)
    frames[n // 3 : n // 2] = 0  # leaves and returns
    truth = np.stack([_red(f) for f in frames])
    model = DetectAndTrack(Truth(best), Truth(), choose=choose)
    assert (model.segment(frames, ["a square", "the thing"]).masks == truth).all()


@pytest.mark.parametrize("choose", [False, True])
@pytest.mark.parametrize("size", [(48, 80), (33, 37)])
def test_absent_at_every_key_frame_but_one(size, choose):
    frames = moving(50, *size)
    there = np.zeros(50, bool)
    there[[3, 4, 24, 25, 26, 40]] = True  # the key frames are 5, 15, 25, 35 and 45
    frames[~there] = 0
    truth = np.stack([_red(f) for f in frames])
    assert truth.any((1, 2)).sum() == 6
    model = DetectAndTrack(Truth(), Truth(), choose=choose)
    assert (model.segment(frames, ["a square"]).masks == truth).all()


@pytest.mark.parametrize("choose", [False, True])
def test_nothing_of_nothing(choose):
    black = np.zeros((4, 9, 9, 3), np.uint8)
    assert not DetectAndTrack(Truth(), Truth(), choose=choose).segment(black, "a").masks.any()


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("bars", [0, 16])
def test_through_a_rotated_and_letterboxed_file(tmp_path, rotation, bars):
    frames = moving(12, 64, 96)
    frames[:, :bars] = frames[:, 64 - bars :] = 0
    path = tmp_path / "clip.mp4"
    write_video(path, frames, fps=6)
    if rotation:
        path = _with_rotation(path, rotation)
    video = open_video(path)
    assert (video.size == (96, 64)) == (rotation in (90, 270))
    truth = np.stack([_red(image) for image in video])
    assert truth.any((1, 2)).all() and 0.02 < truth.mean() < 0.3
    found = DetectAndTrack(Truth(3), Truth()).segment(video, ["a square"])
    assert (found.masks == truth).all()
    turned = np.rot90(np.stack([_red(f) for f in frames]), rotation // 90, axes=(1, 2))
    assert (turned == truth).mean() > 0.99  # and the truth itself is upright


def _with_rotation(path, degrees):
    # the same stream with a display matrix that turns it counterclockwise
    turned = path.with_name(f"turned{degrees}.mp4")
    with av.open(str(path)) as source, av.open(str(turned), "w") as sink:
        stream = sink.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                sink.mux(packet)
    data, one = bytearray(turned.read_bytes()), 65536
    a, b = {90: (0, -one), 180: (-one, 0), 270: (0, one)}[degrees]
    at = data.index(b"tkhd") + 4 + 40
    for i, v in enumerate((a, b, 0, -b, a)):
        data[at + 4 * i : at + 4 * i + 4] = int(v).to_bytes(4, "big", signed=True)
    turned.write_bytes(data)
    return turned


# which of several


class Pair(Detector):
    "Two squares, red and green, and a detector that knows only the word square."

    name, names_only = "pair", True

    def __init__(self):
        self.asked = set()

    def detect(self, image, expressions):
        self.asked |= set(expressions)
        boxes = []
        for mark in _pair(image):
            y, x = np.nonzero(mark)
            if len(x):
                boxes.append(Found(0.8, (x.min(), y.min(), x.max() + 1, y.max() + 1)))
        return [boxes if "square" in text else [] for text in expressions]

    def start(self, found):
        return FollowPair(found)


class FollowPair:
    def __init__(self, found):
        self.found, self.which = found, None

    def step(self, image):
        marks = _pair(image)
        if self.which is None:
            self.which = [int(marks[1][int(f.box[1]), int(f.box[0])]) for f in self.found]
        return np.stack([np.where(marks[i], 5.0, -5.0) for i in self.which])


def _pair(image):
    red, green, _ = np.moveaxis(image.astype(int), -1, 0)
    return (red - green > 80), (green - red > 80)


def _two(n=20):
    # red on the left that rests, smaller; green on the right that moves
    frames = np.full((n, 70, 110, 3), 100, np.uint8)
    for t in range(n):
        frames[t, 30:44, 8:22] = (230, 30, 30)
        frames[t, 22:44, 50 + t : 74 + t] = (30, 230, 30)
    return frames


class Colours(Segmenter):
    "Judges the colour words."

    name = "colours"

    def stream(self, video, expressions):
        for frame in video.read():
            red, green = _pair(frame.image)
            marks = [
                red if "red" in e else green if "green" in e else red | green for e in expressions
            ]
            yield FrameMasks(frame, np.where(marks, 6.0, -6.0))


CASES = {
    "the square on the left": "r",
    "the right square": "g",
    "the square that moves": "g",
    "the smallest square": "r",
    "the squares": "rg",
    "the dog": "",
}


@pytest.mark.parametrize("gone", [None, 2, 10])
def test_the_chooser_picks_among_tracks(gone):
    frames = _two()
    if gone is not None:  # a key frame on which the red one is hidden
        frames[gone, 30:44, 8:22] = 100
    detector = Pair()
    found = DetectAndTrack(detector, detector, choose=True).segment(frames, list(CASES))
    truth = {"r": [_pair(f)[0] for f in frames], "g": [_pair(f)[1] for f in frames]}
    for mask, meant in zip(found.masks, CASES.values()):
        wanted = np.any([truth[c] for c in meant], 0) if meant else np.zeros_like(mask)
        assert (mask == wanted).all()
    assert detector.asked <= {"the square", "the squares", "the dog"}  # heads, nothing longer


def test_a_model_judges_the_tracks():
    detector, frames = Pair(), _two()
    how = dict(choose=True, model=Colours())
    asked = ["the red square", "the green square"]
    found = DetectAndTrack(detector, detector, **how).segment(frames, asked)
    for i, mask in enumerate(found.masks):
        assert (mask == [_pair(f)[i] for f in frames]).all()


def test_a_late_object_is_a_candidate_once():
    frames = _two()
    frames[:9, 20:44, 50:] = 100  # green comes late
    detector, started = Pair(), []
    start = detector.start
    detector.start = lambda found: started.append(len(found)) or start(found)
    model = DetectAndTrack(detector, detector, choose=True)
    found = model.segment(frames, ["the right square", "the left square"])
    assert (found.masks[0] == [_pair(f)[1] for f in frames]).all()
    assert set(started) == {2}  # both at the key frame that shows both; nothing new elsewhere


def test_a_plural_takes_all_boxes_without_a_chooser():
    detector, frames = Pair(), _two()
    found = DetectAndTrack(detector, detector).segment(frames, ["the squares", "the square"])
    assert (found.masks[0] == [np.any(_pair(f), 0) for f in frames]).all()
    assert (found.masks[1] == [_pair(f)[0] for f in frames]).all()


HEADS = {
    "a white and blue bus": "a white and blue bus",
    "the red, white and blue flag": "the red, white and blue flag",
    "a black and white dog with a ball": "a black and white dog",
    "a brown and white fishing boat in the harbour": "a brown and white fishing boat",
    "an orange-and-blue train": "an orange-and-blue train",
    "the blue or green car": "the blue or green car",
    "the man in black and the dog": "the man",
    "a man and a dog": "a man",
    "the dog's tail": "the dog's tail",
    "the man's bag on the floor": "the man's bag",
    "the woman who is wearing a red hat": "the woman",
    "the boy that's riding a bike": "the boy",
    "the man whose hat is red": "the man",
    "the left most man": "the man",
    "the man on the left most side": "the man",
    "the second horse from the left": "the horse",
    "a person dressed in white": "a person",
    "a horse ridden by a woman": "a horse",
    "the dancing girl in pink": "the dancing girl",
    "the young running man": "the young running man",
    "the brick building": "the brick building",
    "the front of the train": "the front of the train",
    "one of the dogs": "the dogs",
    "two brown cows": "two brown cows",
    "man in a red shirt": "man",
    "the man not wearing a hat": "the man",
    "a car going straight": "a car",
    "red": "red",
}


def test_head_noun_phrases():
    assert {text: head_noun_phrase(text) for text in HEADS} == HEADS


def test_a_segmenter_is_a_detector():
    frames = _two()
    model = SegmenterDetector(Colours(), masks=True)
    keys = {3, 9}
    watched = dict(model.watch(open_video(frames), keys, ["the green square", "the squares"]))
    assert sorted(watched) == list(range(20)) and not watched[4]
    one, both = watched[9]
    assert one[0].box == (59, 22, 83, 44) and (one[0].mask == _pair(frames[9])[1]).all()
    assert [f.box for f in both] == [(59, 22, 83, 44), (8, 30, 22, 44)]
    assert model.detect(frames[9], ["the green square"])[0][0].box == one[0].box
