"Feature memory, and both memories as a config asks for them."

import pytest
import torch
from rvos_nb.config import Config
from rvos_nb.memory import FeatureMemory, Recall
from small_models import dynamic

C, H, W = 8, 8, 12


def walking(n: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    "Cells [T,C,H,W] of an object of two halves that look different, and its truth [T,H,W]."
    rng = torch.Generator().manual_seed(0)
    cells = 0.1 * torch.randn(n, C, H, W, generator=rng)
    truth = torch.zeros(n, H, W, dtype=torch.bool)
    cells[:, 0] += 1
    for t in range(n):
        k = 2 * (t // 3)
        truth[t, 2:6, k : k + 4] = True
        cells[t, 1, 2:6, k : k + 2] += 2
        cells[t, 2, 2:6, k + 2 : k + 4] += 2
    return cells, truth


def test_a_frame_in_doubt_is_answered_by_earlier_ones():
    cells, truth = walking()
    logits = torch.where(truth, 3.0, -3.0)[None]
    logits[:, 7] = torch.where(truth[7], -0.5, -3.0)  # nothing is marked
    memory = FeatureMemory()
    found = torch.cat([memory.read(cells[t : t + 1], logits[:, t : t + 1]) for t in range(12)], 1)
    assert torch.equal(found[:, 0], logits[:, 0])  # nothing to remember yet
    assert ((found[0, 7] > 0) == truth[7]).float().mean() > 0.95 and not (logits[0, 7] > 0).any()


def test_memory_is_bounded_and_spread_over_the_past():
    memory = FeatureMemory(frames=4)
    cells, _ = walking(40)
    for t in range(40):
        memory.read(cells[t : t + 1], torch.full((3, 1, 16, 24), float(t)))
        assert len(memory.kept) <= 3
    assert len(memory.kept) == 3 and memory.seen == 40


def test_a_config_chooses():
    maps = {"8": torch.randn(1, 1, 4, 8, 12), "16": torch.randn(1, 1, 6, 4, 6)}
    logits = torch.linspace(-3, 3, 8 * 12).view(1, 1, 8, 12)
    none, both = Recall(dynamic()), Recall(dynamic(target_weight=0.5, memory_frames=3))
    for recall in (none, both):
        recall.add(maps, logits)
    assert none.answer(maps, logits) is logits
    assert not torch.equal(both.answer(maps, logits), logits)
    presets = {n: Recall(Config.preset(n).model) for n in ("best", "report", "demo")}
    assert [n for n, r in presets.items() if r.target or r.features] == ["best"]


@pytest.mark.parametrize("frames", [1, 2])
def test_the_last_frame_is_always_remembered(frames):
    memory, (cells, _) = FeatureMemory(frames), walking()
    for t in range(12):
        memory.read(cells[t : t + 1], torch.zeros(1, 1, H, W))
    assert memory.last is not None and len(memory.kept) == frames - 1
