"The target model: a discriminant fitted to a video, and the two ways to answer with it."

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from clips import moving
from rvos_nb.config import Config, ConfigError
from rvos_nb.segmenter import RVOSSegmenter
from rvos_nb.target import TargetModel
from small_models import built, dynamic

C, T, H, W = 6, 8, 12, 20


def two_groups(rng) -> tuple[torch.Tensor, torch.Tensor]:
    "Cells [T,C,H,W] of an object and of a ground whose strongest feature says nothing, and truth."
    truth = torch.zeros(T, H, W, dtype=torch.bool)
    for t in range(T):
        truth[t, 3:8, t : t + 6] = True
    cells = torch.from_numpy(rng.normal(size=(T, C, H, W))).float()
    cells[:, 0] *= 10
    cells[:, 1:3] += 4.0 * truth[:, None]
    return cells, truth


@pytest.fixture
def groups():
    return two_groups(np.random.default_rng(0))


def test_it_is_fishers_discriminant(groups):
    cells, truth = groups
    target = TargetModel(ridge=1e-6)
    logits = torch.where(truth, 9.0, -9.0)[None]
    target.add(cells, logits)
    q, bias = target.classifier()
    x, y = cells.movedim(1, -1).reshape(-1, C).double().numpy(), truth.flatten().numpy()
    means = [x[y].mean(0), x[~y].mean(0)]
    within = sum((x[k] - m).T @ (x[k] - m) for k, m in zip((y, ~y), means)) / len(x)
    expected = np.linalg.solve(within, means[0] - means[1])
    assert np.allclose(q[0].numpy(), expected, rtol=1e-2, atol=1e-2 * np.abs(expected).max())
    assert bias[0].item() == pytest.approx(-expected @ np.mean(means, 0), rel=2e-2, abs=2e-2)
    assert ((target.scores(cells)[0] > 0) == truth).float().mean() > 0.99


def test_frames_may_come_one_by_one(groups):
    cells, truth = groups
    logits = torch.randn(3, T, 3 * H, 3 * W, generator=torch.Generator().manual_seed(0))
    at_once, one_by_one = TargetModel(), TargetModel()
    at_once.add(cells, logits)
    for t in range(T):
        one_by_one.add(cells[t : t + 1], logits[:, t : t + 1])
    assert torch.allclose(at_once.scores(cells), one_by_one.scores(cells), atol=1e-4)


def test_most_frames_outvote_the_others(groups):
    cells, truth = groups
    logits = torch.where(truth, 2.0, -2.0)[None].clone()
    logits[:, 2] = logits[:, 2].roll(9, -1)  # a wrong answer
    target = TargetModel(ridge=0.01)
    target.add(cells, logits)
    assert ((target.scores(cells)[0, 2] > 0) == truth[2]).float().mean() > 0.95


@pytest.mark.parametrize("logit", [-5.0, 5.0])
def test_without_two_groups_it_says_nothing(groups, logit):
    cells, _ = groups
    target = TargetModel()
    target.add(cells, torch.full((2, T, H, W), logit))
    assert not target.scores(cells).any()


def remembering(weight: float = 2.0, **knobs) -> RVOSSegmenter:
    cfg = dynamic(fuse_strides=(8, 16), target_weight=weight, image_size=(64, 96), **knobs)
    return RVOSSegmenter(built(cfg), device="cpu")


def marking(segmenter: RVOSSegmenter) -> RVOSSegmenter:
    "An untrained model that marks about half of the cells, so that there is something to remember."
    weight, segmenter.model.cfg.target_weight = segmenter.model.cfg.target_weight, 0.0
    middle = np.median(segmenter.segment(moving(), "the red circle").logits)
    segmenter.model.cfg.target_weight = weight
    with torch.no_grad():
        segmenter.model.decoder.bias.bias -= float(middle)
    return segmenter


def test_online_sees_no_future_and_offline_does():
    clip, n = moving(), 8
    videos = [np.concatenate([clip[:n], rest]) for rest in (clip[n:], 255 - clip[n:])]
    segmenter = marking(remembering())
    found = {}
    for mode in ("online", "offline"):
        segmenter.mode = mode
        found[mode] = [segmenter.segment(v, "the red circle").logits[0, :n] for v in videos]
    assert np.allclose(*found["online"], atol=1e-4)
    assert np.abs(np.subtract(*found["offline"])).max() > 0.01


def test_the_last_frame_is_the_same_both_ways():
    "All frames are known then; the rest of the difference is float16 on the disk."
    segmenter, last = marking(remembering()), {}
    for mode in ("online", "offline"):
        segmenter.mode = mode
        last[mode] = segmenter.segment(moving(), ["the red circle", "a star"]).logits[:, -1]
    assert np.allclose(last["online"], last["offline"], atol=0.05)
    segmenter.model.cfg.target_weight = 0.0
    assert (
        np.abs(
            segmenter.segment(moving(), "the red circle").logits[0, -1] - last["online"][0]
        ).max()
        > 0.1
    )


def test_an_absent_object_is_absent_from_the_whole_video(monkeypatch):
    segmenter = remembering(0.0, presence=True)
    T = len(moving())
    values = torch.full((2, T), -3.0)
    values[:, 1] = 2.0  # in one frame the model believes to see both
    values[0] += 4.0

    def answer(maps, size, text, mask):
        return values[:, :, None, None].expand(-1, -1, 16, 24)

    monkeypatch.setattr(segmenter.runner, "answer", answer)
    segmenter.runner.window = T
    marked = segmenter.segment(moving(), ["a star", "a circle"]).masks.any((1, 2, 3))
    assert marked.tolist() == [True, False]
    segmenter.mode = "online"
    assert segmenter.segment(moving(), ["a star", "a circle"]).masks.any((1, 2, 3)).all()


def test_wrong_knobs_are_refused():
    with pytest.raises(
        ConfigError, match="target_weight = 1.0, memory_frames = 0: expected a decoder"
    ):
        Config.preset("report", target_weight=1.0)
    with pytest.raises(ConfigError, match="mode = 'both': expected 'offline' or 'online'"):
        RVOSSegmenter(SimpleNamespace(), mode="both")
