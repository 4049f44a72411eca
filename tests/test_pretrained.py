"Pretrained families on tiny random models, and the geometry of detector and tracker with stubs."

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from clips import moving
from rvos_nb.cli import main
from rvos_nb.config import ConfigError, RVOSError
from rvos_nb.draw import write_video
from rvos_nb.pretrained import CLIPSeg, DetectAndTrack, Found, Sam2Tracker, TextDetector
from rvos_nb.segmenter import load_segmenter, predict
from rvos_nb.shapes import make_shapes
from rvos_nb.video import open_video
from tiny_pretrained import SIDE, tiny_clipseg, tiny_dino, tiny_owl, tiny_sam2

TEXTS = ["the red circle", "a star", "the blue dog on the left"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("tiny")
    made = {"clipseg": tiny_clipseg(root / "clipseg"), "sam2": tiny_sam2(root / "sam2")}
    made |= {"dino": tiny_dino(root / "dino"), "mm": tiny_dino(root / "mm", mm=True)}
    made["owl"] = tiny_owl(root / "owl")
    return made


@pytest.mark.parametrize("size", [(48, 80), (81, 47), (33, 33)])
@pytest.mark.parametrize("n", [1, 5])
def test_clipseg_equals_the_public_call(folders, size, n):
    frames = moving(n, *size)
    model = load_segmenter(f"clipseg:{folders['clipseg']}", "cpu")
    found = model.segment(frames, TEXTS)
    assert found.masks.shape == (3, n, *size)
    how = dict(text=TEXTS, images=[frames[-1]] * 3, padding=True, return_tensors="pt")
    naive = model.model(**model.processor(**how)).logits.detach().numpy()
    assert np.abs(found.logits[:, -1] - naive).max() < 1e-3


def test_clipseg_refuses_what_it_would_cut(folders):
    with pytest.raises(ConfigError, match="reads 77"):
        CLIPSeg("cpu", folders["clipseg"]).stream(open_video(moving(1)), ["the dog " * 60])


@pytest.mark.parametrize("detector", ["dino", "mm", "owl"])
@pytest.mark.parametrize("n", [1, 6])
def test_grounded_sam2_runs(folders, detector, n, tmp_path):
    name = f"grounded-sam2:{folders[detector]},{folders['sam2']}"
    model = load_segmenter(name, "cpu")
    model.detector.threshold = 0.0
    found = predict(model, moving(n, 61, 47), TEXTS, tmp_path / "out", progress=False)
    assert found["complete"] and len(found["frames"]) == n
    model.detector.threshold = 1.0  # nothing is found: nothing is marked
    assert not model.segment(moving(n, 61, 47), TEXTS).masks.any()


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


@pytest.mark.parametrize("detector", ["dino", "mm", "owl"])
@pytest.mark.parametrize("size", [(48, 80), (81, 47), (33, 57), (61, 61)])
def test_boxes_survive_the_processor(folders, detector, size):
    image, box = _scene(size)
    model = TextDetector(folders[detector], "cpu")
    model.model = Planted(model.model.config)
    found = model.detect(image, TEXTS)
    assert np.abs(np.array([f.box for f in found]) - box).max() <= 1


@pytest.mark.parametrize("size", [(48, 80), (81, 47), (33, 57), (61, 61)])
def test_boxes_reach_the_tracker(folders, size):
    image, box = _scene(size)
    tracker = Sam2Tracker(folders["sam2"], "cpu")
    session = tracker.start([tuple(box)])
    asked = []
    add = session.state.add_point_inputs
    session.state.add_point_inputs = lambda *a: (asked.append(a[2]), add(*a))
    session.step(image)
    seen = _square(tracker.processor(images=image, return_tensors="pt")["pixel_values"][0])
    points = asked[0]["point_coords"].flatten().numpy()
    scale = np.array([SIDE / size[1], SIDE / size[0]] * 2)
    assert np.abs((points - seen) / scale).max() <= 1


def test_owl_scores_each_expression_by_itself(folders):
    model, image = TextDetector(folders["owl"], "cpu", threshold=0), moving(1)[0]
    together = model.detect(image, TEXTS)
    for text, found in zip(TEXTS, together):
        alone = model.detect(image, [text])[0]
        assert np.allclose(found.box, alone.box, atol=1e-3)
        assert abs(found.score - alone.score) < 1e-5


@pytest.mark.parametrize("detector", ["dino", "mm", "owl"])
def test_a_detector_refuses_what_it_would_cut(folders, detector):
    model = TextDetector(folders[detector], "cpu")
    with pytest.raises(ConfigError, match="tokens: .* reads"):
        model.detect(moving(1)[0], ["the dog " * 60])


def test_a_session_forgets(folders):
    session = Sam2Tracker(folders["sam2"], "cpu").start([(1, 2, 30, 20), (40, 2, 60, 20)])
    for image in moving(40):
        assert session.step(image).shape[0] == 2
    assert len(session.state.processed_frames) <= 2
    for kept in session.state.output_dict_per_obj.values():
        assert len(kept["non_cond_frame_outputs"]) <= session.reach
        assert not any("high_res_masks" in out for out in kept["non_cond_frame_outputs"].values())


def test_forgetting_changes_nothing(folders):
    tracker, answers = Sam2Tracker(folders["sam2"], "cpu"), []
    for forget in (True, False):
        session = tracker.start([(1, 2, 30, 20)])
        if not forget:
            session._forget = lambda: None
        answers.append(np.stack([session.step(image) for image in moving(24)]))
    assert (answers[0] == answers[1]).all()


class Truth:
    "Detector and tracker that know the red square; absent where it is not in the frame."

    name = "truth"

    def __init__(self, best=None):
        self.best, self.seen = best, 0

    def detect(self, image, expressions):
        red = _red(image)
        self.seen += 1
        y, x = np.nonzero(red)
        if not len(x):
            return [None] * len(expressions)
        score = 0.9 if self.seen == self.best else 0.5
        return [Found(score, (x.min(), y.min(), x.max() + 1, y.max() + 1))] * len(expressions)

    def start(self, boxes):
        return Follow(boxes)


class Follow:
    def __init__(self, boxes):
        self.boxes, self.first = boxes, True

    def step(self, image):
        red = _red(image)
        if self.first:  # the boxes must fit the frame that comes first
            y, x = np.nonzero(red)
            assert all(box == (x.min(), y.min(), x.max() + 1, y.max() + 1) for box in self.boxes)
        self.first = False
        return np.where(red, 5.0, -5.0)[None].repeat(len(self.boxes), 0)


def _red(image):
    return (image[..., 0] == 255) & (image[..., 1] == 40)


@pytest.mark.parametrize("size", [(48, 80), (81, 47), (33, 37)])
@pytest.mark.parametrize("n", [1, 2, 7, 80])
@pytest.mark.parametrize("best", [1, 3, 5])
def test_the_truth_comes_back(size, n, best):
    frames = moving(n, *size)
    frames[n // 3 : n // 2] = 0  # leaves and returns
    truth = np.stack([_red(f) for f in frames])
    model = DetectAndTrack(Truth(best), Truth())
    assert (model.segment(frames, ["a", "b"]).masks == truth).all()


@pytest.mark.parametrize("size", [(48, 80), (33, 37)])
def test_absent_at_every_key_frame_but_one(size):
    frames = moving(50, *size)
    there = np.zeros(50, bool)
    there[[3, 4, 24, 25, 26, 40]] = True  # the key frames are 5, 15, 25, 35 and 45
    frames[~there] = 0
    truth = np.stack([_red(f) for f in frames])
    assert truth.any((1, 2)).sum() == 6
    assert (DetectAndTrack(Truth(), Truth()).segment(frames, ["a"]).masks == truth).all()


def test_nothing_of_nothing():
    black = np.zeros((4, 9, 9, 3), np.uint8)
    assert not DetectAndTrack(Truth(), Truth()).segment(black, "a").masks.any()


@pytest.mark.parametrize("model", ["clipseg", "grounded"])
def test_in_a_terminal(folders, model, tmp_path):
    names = {"clipseg": f"clipseg:{folders['clipseg']}"}
    names |= {"grounded": f"grounded-sam2:{folders['dino']},{folders['sam2']}"}
    clip, name = tmp_path / "clip.mp4", names[model]
    write_video(clip, moving(5), fps=5)
    out, data = str(tmp_path / "out"), str(tmp_path / "shapes")
    assert main(["predict", "--model", name, str(clip), "the red circle", "--out", out]) == 0
    make_shapes(data, n_train=1, n_val=2, n_frames=(4, 4), split_kind="all")
    scored = str(tmp_path / "scored")
    assert main(["evaluate", "--model", name, "--data", data, "--out", scored]) == 0
    sources = set(pd.read_csv(scored + "/scores.csv")["source"])
    assert {"model", "swapped", "empty", "other video"} <= sources


@pytest.mark.parametrize("name", ["clipseg:sam9", "grounded-sam2:sam9"])
def test_an_unknown_name_is_one_line(name):
    with pytest.raises(RVOSError, match="sam9: no such folder, and no known model") as e:
        load_segmenter(name, "cpu")
    assert "\n" not in str(e.value)


def test_a_model_of_another_family_is_refused(folders):
    with pytest.raises(ConfigError, match="type clipseg is no detector"):
        load_segmenter(f"grounded-sam2:{folders['clipseg']}", "cpu")
