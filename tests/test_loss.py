"Each term against values worked out by hand, and the corner cases."
import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from rvos_nb.loss import RVOSLoss, bce_loss, dice_loss, focal_loss

LOGITS, TARGET = torch.tensor([[math.log(3), -math.log(3), math.log(3)]]), torch.tensor([[1.0, 1.0, 0.0]])  # probabilities 3/4, 1/4, 3/4
ALL = torch.ones(1, 3)


def test_bce_by_hand():
    assert bce_loss(LOGITS, TARGET, ALL).item() == pytest.approx((-math.log(0.75) - 2 * math.log(0.25)) / 3, rel=1e-6)


def test_dice_by_hand():
    assert dice_loss(LOGITS, TARGET, ALL).item() == pytest.approx(1 - (2 * 1.0 + 1) / (1.75 + 2 + 1), rel=1e-6)  # overlap 1, areas 7/4 and 2


def test_dice_is_averaged_over_clips_not_pixels():
    big, small = torch.full((1, 3), 30.0), torch.tensor([[-30.0, -30.0, -30.0]])
    both = dice_loss(torch.cat([big, small]), torch.ones(2, 3), torch.ones(2, 3)).item()
    assert both == pytest.approx((0 + (1 - 1 / 4)) / 2, abs=1e-5)


def test_focal_by_hand():
    terms = [0.25 * 0.25**2 * -math.log(0.75), 0.25 * 0.75**2 * -math.log(0.25), 0.75 * 0.75**2 * -math.log(0.25)]
    assert focal_loss(LOGITS, TARGET, ALL).item() == pytest.approx(sum(terms) / 3, rel=1e-5)


def test_total_is_the_report_s_mixture():
    x, y = LOGITS.reshape(1, 1, 1, 1, 3), TARGET.reshape(1, 1, 1, 3)
    total, parts = RVOSLoss()(x, y)
    assert total.item() == pytest.approx(0.3 * bce_loss(LOGITS, TARGET, ALL).item() + 0.6 * dice_loss(LOGITS, TARGET, ALL).item() + 0.1 * focal_loss(LOGITS, TARGET, ALL).item(), rel=1e-6)
    assert set(parts) == {"bce", "dice", "focal"} and not any(p.requires_grad for p in parts.values())


def test_empty_mask_is_defined():
    y = torch.zeros(1, 2, 4, 4)
    quiet, loud = RVOSLoss()(torch.full((1, 2, 1, 4, 4), -20.0), y)[0], RVOSLoss()(torch.full((1, 2, 1, 4, 4), 20.0), y)[0]
    assert quiet.item() < 1e-4 < 1 < loud.item() and math.isfinite(loud.item())


def test_nothing_valid_is_no_loss_and_no_nan():
    x = torch.randn(1, 1, 1, 4, 4, requires_grad=True)
    total, _ = RVOSLoss()(x, torch.ones(1, 1, 4, 4), torch.zeros(1, 1, 4, 4))
    total.backward()
    assert total.item() == 0 and torch.equal(x.grad, torch.zeros_like(x))


def test_targets_are_resized_by_nearest_neighbour():
    y = torch.zeros(1, 1, 4, 4)
    y[..., ::2, ::2] = 1  # nearest neighbour takes exactly these; a mean would give 1/4
    x = torch.full((1, 1, 1, 2, 2), 20.0)
    assert RVOSLoss()(x, y)[0].item() < 1e-4


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))
def test_void_never_counts(seed, b, t, h, w):
    g = torch.Generator().manual_seed(seed)
    x, y = torch.randn(b, t, 1, h, w, generator=g), (torch.rand(b, t, h, w, generator=g) > 0.5).float()
    v = torch.rand(b, t, h, w, generator=g) > 0.5
    x2 = torch.where(v[:, :, None], x, torch.randn(b, t, 1, h, w, generator=g) * 50)
    y2 = torch.where(v, y, 1 - y)
    assert torch.allclose(RVOSLoss()(x, y, v)[0], RVOSLoss()(x2, y2, v)[0], atol=1e-6)
    assert torch.isfinite(RVOSLoss()(x, y, v)[0])


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="expected"): RVOSLoss()(torch.zeros(1, 2, 1, 4, 4), torch.zeros(1, 3, 4, 4))
