"Each term against values worked out by hand, the corner cases, and what the notebook claims."

import math
import re
from pathlib import Path

import nbformat
import pytest
import torch
from hypothesis import given, settings, strategies as st

from rvos_nb.config import LossConfig
from rvos_nb.loss import (
    RVOSLoss,
    bce_loss,
    contrastive_loss,
    dice_loss,
    focal_loss,
    presence_loss,
)

NOTEBOOK = Path(__file__).resolve().parent.parent / "nbs" / "30_loss.ipynb"
LOGITS = torch.tensor([[math.log(3), -math.log(3), math.log(3)]])  # probabilities 3/4, 1/4, 3/4
TARGET = torch.tensor([[1.0, 1.0, 0.0]])
ALL = torch.ones(1, 3)
SAME, APART = torch.tensor([0, 0]), torch.tensor([0, 1])


def test_bce_by_hand():
    by_hand = (-math.log(0.75) - 2 * math.log(0.25)) / 3
    assert bce_loss(LOGITS, TARGET, ALL).item() == pytest.approx(by_hand, rel=1e-6)


def test_dice_by_hand():
    by_hand = 1 - (2 * 1.0 + 1) / (1.75 + 2 + 1)  # overlap 1, areas 7/4 and 2
    assert dice_loss(LOGITS, TARGET, ALL).item() == pytest.approx(by_hand, rel=1e-6)


def test_dice_is_averaged_over_clips_not_pixels():
    found, missed = torch.full((1, 3), 30.0), torch.full((1, 3), -30.0)
    both = dice_loss(torch.cat([found, missed]), torch.ones(2, 3), torch.ones(2, 3)).item()
    assert both == pytest.approx((0 + (1 - 1 / 4)) / 2, abs=1e-5)


def test_focal_by_hand():
    terms = [
        0.25 * 0.25**2 * -math.log(0.75),
        0.25 * 0.75**2 * -math.log(0.25),
        0.75 * 0.75**2 * -math.log(0.25),
    ]
    assert focal_loss(LOGITS, TARGET, ALL).item() == pytest.approx(sum(terms) / 3, rel=1e-5)


def test_total_is_the_reports_mixture():
    total, parts = RVOSLoss()(LOGITS.reshape((1, 1, 1, 1, 3)), TARGET.reshape((1, 1, 1, 3)))
    terms = [term(LOGITS, TARGET, ALL).item() for term in (bce_loss, dice_loss, focal_loss)]
    by_hand = 0.3 * terms[0] + 0.6 * terms[1] + 0.1 * terms[2]
    assert total.item() == pytest.approx(by_hand, rel=1e-6)
    assert set(parts) == {"bce", "dice", "focal"}
    assert not any(part.requires_grad for part in parts.values())


@pytest.mark.parametrize("term", ["bce", "dice", "focal"])
def test_each_weight_weighs_its_term(term):
    none = dict(bce_weight=0.0, dice_weight=0.0, focal_weight=0.0)
    loss = RVOSLoss(LossConfig(**none | {f"{term}_weight": 2.0}))
    total, parts = loss(LOGITS.reshape((1, 1, 1, 1, 3)), TARGET.reshape((1, 1, 1, 3)))
    assert total.item() == pytest.approx(2 * parts[term].item(), rel=1e-6)


def test_empty_mask_is_defined():
    y = torch.zeros(1, 2, 4, 4)
    quiet = RVOSLoss()(torch.full((1, 2, 1, 4, 4), -20.0), y)[0].item()
    loud = RVOSLoss()(torch.full((1, 2, 1, 4, 4), 20.0), y)[0].item()
    assert quiet < 1e-4 < 1 < loud and math.isfinite(loud)


def test_nothing_valid_is_no_loss_and_no_nan():
    x = torch.randn((1, 1, 1, 4, 4), requires_grad=True)
    total, _ = RVOSLoss()(x, torch.ones(1, 1, 4, 4), torch.zeros(1, 1, 4, 4))
    total.backward()
    assert total.item() == 0 and torch.equal(x.grad, torch.zeros_like(x))


def test_targets_are_resized_by_nearest_neighbour():
    y = torch.zeros(1, 1, 4, 4)
    y[..., ::2, ::2] = 1  # nearest neighbour takes exactly these; a mean would give 1/4
    x = torch.full((1, 1, 1, 2, 2), 20.0)
    assert RVOSLoss()(x, y)[0].item() < 1e-4


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.tuples(*[st.integers(1, 3)] * 2, *[st.integers(1, 9)] * 2))
def test_void_never_counts(seed, shape):
    g = torch.Generator().manual_seed(seed)
    b, t, h, w = shape
    x = torch.randn((b, t, 1, h, w), generator=g)
    y = (torch.rand(shape, generator=g) > 0.5).float()
    v = torch.rand(shape, generator=g) > 0.5
    x2 = torch.where(v[:, :, None], x, torch.randn((b, t, 1, h, w), generator=g) * 50)
    y2 = torch.where(v, y, 1 - y)
    assert torch.allclose(RVOSLoss()(x, y, v)[0], RVOSLoss()(x2, y2, v)[0], atol=1e-6)
    assert torch.isfinite(RVOSLoss()(x, y, v)[0])


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="expected"):
        RVOSLoss()(torch.zeros((1, 2, 1, 4, 4)), torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match="expected"):
        RVOSLoss()(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4))


def test_half_precision_is_summed_in_full():
    y = torch.zeros(1, 1, 300, 300)
    y[..., :50, :50] = 1
    x = 8 * y[:, :, None] - 4
    half, full = RVOSLoss()(x.bfloat16(), y)[0], RVOSLoss()(x, y)[0]
    assert half.dtype == torch.float32 and torch.equal(half, full)


# --- expressions and objects of one clip choose each other


def test_contrastive_by_hand():
    x = torch.tensor([[2.0, 0.0, 9.0], [1.0, 3.0, 9.0]])
    t = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])  # the third pixel has no say
    rows = math.log(1 + math.exp(0.0 - 2.0)), math.log(1 + math.exp(1.0 - 3.0))
    columns = math.log(1 + math.exp(1.0 - 2.0)), math.log(1 + math.exp(0.0 - 3.0))
    by_hand = (sum(rows) / 2 + sum(columns) / 2) / 2
    found = contrastive_loss(x, t, torch.ones(2, 3), SAME).item()
    assert found == pytest.approx(by_hand, rel=1e-6)


@given(st.integers(0, 1000), st.floats(0, 20))
@settings(max_examples=30, deadline=None)
def test_contrastive_has_a_floor_for_one_answer_to_all_expressions(seed, scale):
    t = torch.eye(3).repeat_interleave(10, 1)
    noise = torch.randn(1, 30, generator=torch.Generator().manual_seed(seed))
    alike, clip = scale * noise.expand(3, -1), torch.zeros(3, dtype=torch.int64)
    assert contrastive_loss(alike, t, torch.ones(3, 30), clip).item() >= math.log(3) - 1e-5
    assert contrastive_loss(10 * t, t, torch.ones(3, 30), clip).item() < 1e-3


def test_contrastive_of_one_object_or_of_one_unseen_is_nothing():
    x = torch.randn(2, 6, requires_grad=True)
    t = torch.tensor([[1.0] * 3 + [0.0] * 3, [0.0] * 6])
    for clip_index, target in ((APART, t + 0.0), (SAME, t)):
        loss = contrastive_loss(x, target, torch.ones(2, 6), clip_index)
        loss.backward()
        assert loss.item() == 0 and x.grad.abs().max() == 0


def test_contrastive_counts_only_valid_pixels():
    x, t, v = torch.randn(2, 8), torch.eye(2).repeat_interleave(4, 1), torch.ones(2, 8)
    v[:, 3] = 0
    wild = x.clone()
    wild[:, 3] = 1e4
    assert contrastive_loss(x, t, v, SAME) == contrastive_loss(wild, t, v, SAME)


def test_clips_are_averaged_whatever_their_numbers():
    x, t = torch.randn(4, 8), torch.eye(4).repeat_interleave(2, 1)
    ones = torch.ones(4, 8)
    both = contrastive_loss(x, t, ones, torch.tensor([0, 1, 0, 1]))
    rows = [contrastive_loss(x[i::2], t[i::2], ones[:2], SAME) for i in (0, 1)]
    assert both.item() == pytest.approx((rows[0].item() + rows[1].item()) / 2, rel=1e-6)
    again = contrastive_loss(x, t, ones, torch.tensor([3, 7, 3, 7]))
    assert again == both


def test_contrastive_knows_no_choice_between_a_whole_and_its_part():
    "Both objects against each of them: only the two objects are alternatives."
    x = torch.randn((3, 6), generator=torch.Generator().manual_seed(1))
    t = torch.tensor([[1.0, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0], [1, 1, 1, 1, 0, 0]])
    ones, clip = torch.ones(3, 6), torch.zeros(3, dtype=torch.int64)
    apart = contrastive_loss(x[:2], t[:2], ones[:2], SAME)
    # the third row is alone, so its terms are 0: two of three rows count
    assert contrastive_loss(x, t, ones, clip).item() == pytest.approx(2 / 3 * apart.item())


def test_presence_by_hand():
    "Two frames with the surest pixel at 3/4: the object is in the first one."
    x, t = LOGITS.expand(2, -1), torch.cat([TARGET, torch.zeros_like(TARGET)])
    by_hand = -(math.log(0.75) + math.log(0.25)) / 2
    assert presence_loss(x, t, torch.ones(2, 3)).item() == pytest.approx(by_hand, rel=1e-6)


def test_presence_counts_valid_pixels_and_known_frames():
    x = torch.tensor([[2.0, -1.0, 9.0], [5.0, 5.0, 5.0]])
    t = torch.tensor([[0.0, 0.0, 1.0], [1.0, 1.0, 1.0]])
    v = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])  # the second frame has no truth
    by_hand = math.log(1 + math.exp(2))  # nothing is there, and the surest pixel says 2
    assert presence_loss(x, t, v).item() == pytest.approx(by_hand, rel=1e-6)
    assert presence_loss(x, t, torch.zeros(2, 3)).item() == 0
    x.requires_grad_()
    presence_loss(x, t, v).backward()
    assert x.grad[0, 0] > 0 and (x.grad.flatten()[1:] == 0).all()


def test_presence_is_by_frame_and_enters_the_total_with_its_weight():
    x = torch.randn((2, 3, 1, 4, 4), generator=torch.Generator().manual_seed(2))
    y = torch.zeros(2, 3, 4, 4)
    y[0, 1, :2] = 1  # there in one frame of one clip
    assert "presence" not in RVOSLoss()(x, y)[1]
    total, parts = RVOSLoss(LossConfig(presence_weight=0.5))(x, y)
    surest = x[:, :, 0].flatten(2).amax(2)
    there = torch.tensor([[0.0, 1, 0], [0, 0, 0]])
    by_hand = torch.nn.functional.binary_cross_entropy_with_logits(surest, there)
    assert parts["presence"].item() == pytest.approx(by_hand.item(), rel=1e-6)
    assert total.item() == pytest.approx(RVOSLoss()(x, y)[0].item() + 0.5 * by_hand.item())


def test_contrastive_enters_the_total_with_its_weight_and_only_with_clips():
    x, y = torch.randn((2, 3, 1, 4, 4)), torch.zeros(2, 3, 4, 4)
    y[0, :, :2], y[1, :, 2:] = 1, 1
    plain = RVOSLoss(LossConfig(contrastive_weight=0.0))
    weighted = RVOSLoss(LossConfig(contrastive_weight=0.5))
    assert weighted(x, y)[0] == plain(x, y)[0]
    assert "contrastive" not in plain(x, y, None, SAME)[1]
    total, parts = weighted(x, y, None, SAME)
    expected = plain(x, y)[0].item() + 0.5 * parts["contrastive"].item()
    assert total.item() == pytest.approx(expected, rel=1e-5)
    by_itself = contrastive_loss(x.flatten(1), y.flatten(1), torch.ones(2, 48), SAME)
    assert parts["contrastive"].item() == pytest.approx(by_itself.item(), rel=1e-5)


# --- what the notebook says of an object on 1 % of the frame


def terms(found: float, area: float = 0.01, n: int = 10_000) -> dict[str, float]:
    "The terms where the share `found` of an object is found, probabilities 0.95 and 0.001."
    size = round(area * n)
    t, p = torch.zeros(1, n), torch.full((1, n), 0.001)
    t[:, :size] = 1
    p[:, : round(found * size)] = 0.95
    losses = {"BCE": bce_loss, "Dice": dice_loss, "focal": focal_loss}
    return {name: loss(torch.logit(p), t, torch.ones(1, n)).item() for name, loss in losses.items()}


def test_dice_falls_from_1_to_near_0_while_the_object_is_found():
    missed, half, found = terms(0), terms(0.5), terms(1)
    assert (round(missed["Dice"], 2), round(found["Dice"], 2)) == (0.99, 0.07)
    assert (round(missed["BCE"], 2), round(found["BCE"], 4)) == (0.07, 0.0015)
    for name in missed:
        assert missed[name] > half[name] > found[name]
    factors = {name: missed[name] / found[name] for name in missed}
    assert factors["BCE"] > factors["Dice"]  # so nothing is said of a relative fall of Dice


def test_dice_is_nearly_all_of_the_weighted_sum_that_moves():
    weights = {"BCE": 0.3, "Dice": 0.6, "focal": 0.1}
    falls = {name: w * (terms(0)[name] - terms(1)[name]) for name, w in weights.items()}
    assert falls["Dice"] / sum(falls.values()) > 0.95


def test_a_missed_object_costs_dice_the_same_and_the_others_its_area():
    small, large = terms(0, area=0.001), terms(0, area=0.1)
    assert 0.95 < small["Dice"] < large["Dice"] < 1
    for name in ("BCE", "focal"):
        assert 80 < large[name] / small[name] < 110


@pytest.mark.parametrize("p, harder", [(0.001, bce_loss), (0.01, dice_loss), (0.5, dice_loss)])
def test_which_term_pushes_harder_at_a_missed_pixel(p, harder):
    slopes = {}
    for loss in (bce_loss, dice_loss):
        t = torch.zeros(1, 10_000)
        t[:, :100] = 1
        x = torch.logit(torch.where(t > 0, p, 0.001)).requires_grad_()
        loss(x, t, torch.ones_like(t)).backward()
        slopes[loss] = -x.grad[0, 0].item()
    assert max(slopes, key=slopes.get) is harder
    if p == 0.001:
        assert 4.5 < slopes[bce_loss] / slopes[dice_loss] < 6.5  # "five times harder"


def test_the_notebooks_table_is_the_one_that_its_words_speak_of():
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    at = next(i for i, c in enumerate(cells) if c.source.startswith("def three_terms"))
    shown = cells[at].outputs[0]["data"]["text/plain"]
    rows = [[float(x) for x in re.findall(r"[\d.]+", line)] for line in shown.splitlines()[1:]]
    for share, *values in rows:
        assert values == pytest.approx(list(terms(share).values()), abs=6e-5)
    assert "from 0.99 to 0.07" in cells[at + 1].source
    assert "from 0.07 to 0.0015" in cells[at + 1].source
