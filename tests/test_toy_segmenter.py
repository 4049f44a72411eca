"A segmenter of ten lines, which inherits from nobody, works with all that takes a segmenter."

import numpy as np
import pytest
from rvos_nb.datasets import load_annotations
from rvos_nb.evaluation import evaluate
from rvos_nb.picker import VideoPicker
from rvos_nb.segmenter import FrameMasks, Segmenter, predict
from rvos_nb.shapes import make_shapes
from rvos_nb.visualization import gallery, visualize_specific_videos


class LeftOrRight:
    name = "left or right"

    def stream(self, video, expressions):
        for frame in video.read():
            ramp = np.linspace(1, -1, 16, dtype=np.float32)[None]  # (1, 16): any size will do
            sides = [-1 if "right" in text else 1 for text in expressions]
            yield FrameMasks(frame, np.stack([side * ramp for side in sides]))


@pytest.fixture(scope="module")
def annotations(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy") / "shapes"
    root = make_shapes(folder, n_train=1, n_val=2, n_frames=(4, 4), split_kind="all")
    return load_annotations(root, "val")


def test_predicts(tmp_path):
    frames = np.zeros((3, 20, 32, 3), np.uint8)
    found = predict(LeftOrRight(), frames, ["left", "on the right"], tmp_path / "out")
    assert [row["frames_marked"] for row in found["expressions"]] == [3, 3]
    masks = Segmenter.segment(LeftOrRight(), frames, ["left", "on the right"]).masks
    assert masks[0, :, :, :16].all() and masks[1, :, :, 16:].all()
    assert not (masks[0] & masks[1]).any()


def test_is_evaluated(annotations):
    scores = evaluate(annotations, LeftOrRight())
    sources = set(scores["source"])
    assert {"model", "swapped", "empty", "other video"} <= sources
    own = scores[scores["source"] == "model"].set_index(["video_id", "expression_id"])["J"]
    record = next(iter(annotations.values()))
    e = record.expressions[0]
    masks = Segmenter.segment(LeftOrRight(), record.frames, e.text).masks[0]
    truth = np.stack([record.masks.mask(t, e.object_ids) for t in range(4)])
    J = (truth & masks).sum((1, 2)) / (truth | masks).sum((1, 2))
    assert own[record.id, e.id] == pytest.approx(J.mean(), abs=1e-9)


def test_is_shown(annotations):
    video = next(iter(annotations))
    assert len(visualize_specific_videos(annotations, LeftOrRight(), video, expressions=2)) == 2
    scores = evaluate(annotations, LeftOrRight(), controls=(), baselines=())
    assert gallery(annotations, LeftOrRight(), scores, n=1).ndim == 3
    picker = VideoPicker(LeftOrRight(), annotations, width=160)
    picker.type_expression("on the right")
    assert "on the right" in picker.status.value
