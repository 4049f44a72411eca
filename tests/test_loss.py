"Each term against values worked out by hand, and the corner cases."
import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from rvos_nb.loss import RVOSLoss, bce_loss, choice_loss, dice_loss, focal_loss

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


def test_choice_by_hand():
    x, t = torch.tensor([[2.0, 0.0, 9.0], [1.0, 3.0, 9.0]]), torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])  # the third pixel is background: it has no say
    rows = math.log(1 + math.exp(0.0 - 2.0)), math.log(1 + math.exp(1.0 - 3.0))
    columns = math.log(1 + math.exp(1.0 - 2.0)), math.log(1 + math.exp(0.0 - 3.0))
    assert choice_loss(x, t, torch.ones(2, 3), [0, 0]).item() == pytest.approx((sum(rows) / 2 + sum(columns) / 2) / 2, rel=1e-6)


@given(st.integers(0, 1000), st.floats(0, 20))
@settings(max_examples=30, deadline=None)
def test_choice_has_a_floor_for_who_answers_all_sentences_alike(seed, scale):
    t = torch.eye(3).repeat_interleave(10, 1)
    alike = scale * torch.randn(1, 30, generator=torch.Generator().manual_seed(seed)).expand(3, -1)
    assert choice_loss(alike, t, torch.ones(3, 30), [0, 0, 0]).item() >= math.log(3) - 1e-5
    assert choice_loss(10 * t, t, torch.ones(3, 30), [0, 0, 0]).item() < 1e-3


def test_choice_of_one_object_or_of_one_unseen_is_nothing():
    x, t = torch.randn(2, 6, requires_grad=True), torch.tensor([[1.0] * 3 + [0.0] * 3, [0.0] * 6])
    for clip, target in (([0, 1], t + 0.0), ([0, 0], t)):
        loss = choice_loss(x, target, torch.ones(2, 6), clip)
        loss.backward()
        assert loss.item() == 0 and x.grad.abs().max() == 0


def test_choice_counts_only_valid_pixels():
    x, t, v = torch.randn(2, 8), torch.eye(2).repeat_interleave(4, 1), torch.ones(2, 8)
    v[:, 3] = 0
    wild = x.clone(); wild[:, 3] = 1e4
    assert choice_loss(x, t, v, [0, 0]) == choice_loss(wild, t, v, [0, 0])


def test_choice_enters_the_total_with_its_weight_and_only_with_clips():
    x, y = torch.randn(2, 3, 1, 4, 4), torch.zeros(2, 3, 4, 4)
    y[0, :, :2], y[1, :, 2:] = 1, 1
    plain, with_choice = RVOSLoss(), RVOSLoss(choice=0.5)
    assert with_choice(x, y)[0] == plain(x, y)[0] and "choice" not in plain(x, y, None, [0, 0])[1]
    total, parts = with_choice(x, y, None, [0, 0])
    assert total.item() == pytest.approx(plain(x, y)[0].item() + 0.5 * parts["choice"].item(), rel=1e-5)
    assert parts["choice"].item() == pytest.approx(choice_loss(x.flatten(1), y.flatten(1), torch.ones(2, 48), [0, 0]).item(), rel=1e-5)
