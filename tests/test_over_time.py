"Measures that look at the order of frames, against cases that are known."

import numpy as np
import pytest
from clips import moving
from hypothesis import given
from hypothesis import strategies as st
from rvos_nb.over_time import decay, identity_switches, recovery, temporal_stability


def test_decay_is_the_first_quarter_minus_the_last():
    assert decay(np.array([1, 1, 0.5, 0.5, 0.5, 0.5, 0, 0])) == 1
    assert decay(np.full(7, 0.3)) == 0 and decay(np.array([0.4])) == 0
    assert decay(np.array([0, 1.0])) == -1


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_decay_backwards_is_its_opposite(values):
    assert decay(np.array(values)) == pytest.approx(-decay(np.array(values[::-1])))


def textured(n: int = 6) -> tuple[np.ndarray, np.ndarray]:
    "A noisy ground and a square of it that moves by 4 pixels a frame, and the square's mask."
    rng = np.random.default_rng(0)
    ground = np.kron(rng.integers(0, 256, (24, 40), dtype=np.uint8), np.ones((4, 4), np.uint8))
    square = np.kron(rng.integers(0, 256, (8, 8), dtype=np.uint8), np.ones((4, 4), np.uint8))
    frames, masks = np.repeat(ground[None], n, 0), np.zeros((n, 96, 160), bool)
    for t in range(n):
        frames[t, 30:62, 40 + 4 * t : 72 + 4 * t] = square
        masks[t, 30:62, 40 + 4 * t : 72 + 4 * t] = True
    return np.repeat(frames[..., None], 3, -1), masks


def test_a_mask_that_moves_with_the_picture_is_stable():
    frames, masks = textured()
    assert temporal_stability(frames, masks) > 0.9
    still = np.repeat(masks[:1], len(masks), 0)  # it stays where the object was
    assert temporal_stability(frames, still) < temporal_stability(frames, masks) - 0.02
    flicker = masks & (np.arange(len(masks)) % 2 == 0)[:, None, None]
    assert temporal_stability(frames, flicker) == 0
    many = temporal_stability(frames, np.stack([[masks, still], [flicker, masks]]))
    assert many.shape == (2, 2) and many[0, 0] == many[1, 1] == temporal_stability(frames, masks)


def test_nothing_is_stable():
    frames = moving()
    assert temporal_stability(frames, np.zeros(frames.shape[:3], bool)) == 1
    assert temporal_stability(frames[:1], np.ones((1, *frames.shape[1:3]), bool)) == 1


def test_switches_are_counted_between_frames_that_fit_something():
    steady = np.array([[0.9] * 10, [0.2] * 10])
    assert identity_switches(steady) == 0
    jumps = steady.copy()
    jumps[:, 4] = (0.2, 0.9)  # there and back
    assert identity_switches(jumps) == pytest.approx(20)
    jumps[:, 4] = (0.02, 0.05)  # fits nothing
    assert identity_switches(jumps) == 0


def test_recovery_is_what_comes_after_a_return():
    visible = np.array([0, 1, 1, 0, 0, 1, 1, 1, 1, 1, 1, 0, 1], bool)
    J = np.linspace(0, 1.2, 13)
    assert recovery(J, visible) == pytest.approx(np.mean(J[[5, 6, 7, 8, 9, 12]]))
    assert recovery(J, visible, frames=1) == pytest.approx(np.mean(J[[5, 12]]))
    entered = np.array([0, 0, 1, 1], bool)
    assert np.isnan(recovery(J[:4], entered)) and np.isnan(recovery(J[:4], entered & False))
