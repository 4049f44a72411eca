"Pasting: exact masks, even motion, and enough of every object to be seen."

import re

import cv2
import numpy as np
import pytest
from rectangles import BLUE, GREEN, RED, guest, still
from rvos_nb.config import RVOSError
from rvos_nb.scenes import _visible, paste_clip


def corner(T=8):
    "A red L: the box round it holds some of the green, too."
    frames, mask = guest(T)
    frames[:, 15:28, 40:60], mask[:, 15:28, 40:60] = GREEN, False
    return frames, mask


def plain_host(T=8, **how):
    "Its object looks like its ground: all that is red is the guest."
    return still(T, colour=BLUE, **how)


def pasted(n=60, host=None, of=None):
    host, of = host or still(), of or guest()
    made = [paste_clip(*host, *of, seed=seed) for seed in range(n)]
    assert sum(m is not None for m in made) > 0.9 * n
    return [m for m in made if m]


# --- the picture and its mask


def test_a_pixel_of_the_guest_shows_the_guest_and_no_other_does():
    for made in pasted(host=plain_host(), of=corner()):
        share = made.frames[..., 0] / 200  # of red in the pixel: the guest's alpha
        clear = np.abs(share - 0.5) > 0.01  # a half is rounded either way
        assert ((share > 0.5) == (made.ids == made.guest_id))[clear].all() and clear.mean() > 0.99
        assert made.frames[..., 1].max() == 0, "the guest's old background shows at its edge"
        assert np.median(share[made.ids == made.guest_id]) > 0.99, "sharp inside"
        assert ((share > 0.02) & (share < 0.98)).any(), "soft at the edge"


def test_outside_the_guest_and_its_edge_nothing_changes():
    (frames, ids), kernel = still(), np.ones((7, 7), np.uint8)
    for made in pasted():
        for f, m, f0, m0 in zip(made.frames, made.ids, frames, ids):
            near = ((m == 2) | (m0 > 0)).view(np.uint8)
            away = cv2.dilate(near, kernel) == 0  # round the host is the edge of a guest behind it
            assert (f[away] == f0[away]).all() and (m[m != 2] == m0[m != 2]).all()


def test_behind_the_host_not_a_pixel_of_it_is_lost():
    (frames, ids), kinds = still(box=(20, 80, 40, 120)), set()
    for made in pasted(host=(frames, ids)):
        touches = (np.roll(made.ids == 2, 1, 2) & (ids == 1)).any()
        front = ((made.ids == 2) & (ids == 1)).any()
        if not front and touches:  # behind: the host's pixels are those of the host
            assert (made.frames[ids == 1] == frames[ids == 1]).all()
            kinds.add("behind")
        elif front:
            kinds.add("front")
    assert kinds == {"behind", "front"}


def test_thin_parts_of_a_guest_stay_in_its_mask():
    frames, mask = np.zeros((2, 100, 100, 3), np.uint8), np.zeros((2, 100, 100), bool)
    mask[:, 10:60, 20:80] = True
    mask[:, 60:95, 48:50] = True  # a body and a leg of two pixels
    frames[mask] = RED
    for made in pasted(30, plain_host(2, size=(240, 400), box=(0, 60, 0, 60)), (frames, mask)):
        red = made.frames[..., 0].astype(int)
        assert ((red > 100) == (made.ids == 2))[np.abs(red - 100) > 2].all()


def test_the_guest_moves_on_a_line_at_an_even_pace():
    "Centre of a rigid guest that is whole in the frame: within a pixel of a line, steps alike."
    paths = []
    for made in pasted(150, plain_host(12, box=(0, 12, 0, 12)), guest(12)):
        m = made.ids == made.guest_id
        cut = m[:, [0, -1]].any() or m[:, :, [0, -1]].any()
        if cut or len(set(m.sum((1, 2)))) > 1:  # by the border, or behind something
            continue
        centres = np.array([np.argwhere(x).mean(0) for x in m])
        line = centres[0] + np.linspace(0, 1, 12)[:, None] * (centres[-1] - centres[0])
        assert np.abs(centres - line).max() <= 1
        paths.append(centres[-1] - centres[0])
    assert len(paths) > 20 and np.abs(paths).max(0)[1] > 20
    assert np.std(paths, 0).min() > 2  # and they do move, each its own way


# --- what must be seen of every object


def test_every_object_keeps_enough_of_itself():
    frames, ids = still(box=(10, 50, 20, 60))
    ids[:, 60:80, 100:140], frames[:, 60:80, 100:140] = 7, RED
    tiny = np.pad(np.ones((8, 2, 2), np.uint8), ((0, 0), (0, 94), (0, 158)))
    assert len(pasted(host=(np.zeros((*tiny.shape, 3), np.uint8), tiny))) > 50
    for made in pasted(120, (frames, ids)):
        assert made.guest_id == 8
        for i in (1, 7):
            assert (made.ids == i).sum() >= 0.5 * (ids == i).sum()
        assert (made.ids == 8).mean() >= 0.008


@pytest.mark.parametrize(
    "seen, own, covered, expected",
    [
        (80, 200, 10, True),
        (79, 200, 10, False),
        (80, 201, 10, False),
        (80, 100, 50, True),
        (80, 100, 51, False),
        (79, 100, 0, False),
    ],
)
def test_what_is_visible_enough(seen, own, covered, expected):
    "10,000 pixels, a host of 100: 0.8 % are 80 pixels, 40 % of 200 are 80, half of the host is 50."
    ids, guest = np.zeros((1, 100, 100), np.uint8), np.zeros((1, 100, 100), bool)
    ids[0, 0], ids[0, 1] = 7, 255  # a row of the host's, a row of void, which may be covered
    guest[0, 0, :covered] = True
    guest[0, 1, : seen - covered] = True
    assert _visible(ids, guest, own) == expected


@pytest.mark.parametrize(
    "host, of",
    [
        (still(box=(0, 0, 0, 0)), guest()),
        (still(), (guest()[0], guest()[1] & False)),
        (still(box=(0, 96, 0, 160)), guest()),
        (still(), guest(size=(60, 80), box=(15, 17, 20, 22))),
    ],
    ids=["no host", "no guest", "the host is everywhere", "a guest of four pixels"],
)
def test_none_where_it_cannot_be(host, of):
    made = [paste_clip(*host, *of, seed=seed) for seed in range(20)]
    if host[1].all():
        assert all(m is None or (m.ids == 1).sum() >= 0.5 * m.ids.size for m in made)
    else:
        assert made == [None] * 20


def test_void_and_ids_stay():
    frames, ids = still(id=5)
    ids[:, :10, :40] = 255
    some = set()
    for made in pasted(80, (frames, ids)):
        assert made.guest_id == 6 and set(np.unique(made.ids)) == {0, 5, 6, 255}
        elsewhere = made.ids != 6
        assert (made.ids[elsewhere] == ids[elsewhere]).all()
        some.add(bool((ids[~elsewhere] == 255).any()))
    assert some == {True, False}  # a guest in front covers void, too


def test_a_guest_that_comes_and_goes_stays_itself():
    frames, mask = guest()
    mask = mask.copy()
    mask[:3] = False
    for made in pasted(30, of=(frames, mask)):
        assert not (made.ids[:3] == 2).any() and (made.ids[3:] == 2).any()


def test_a_mirrored_guest_is_said_to_be_one():
    seen = {}
    for made in pasted(60, plain_host(box=(0, 8, 0, 8)), corner()):  # its upright is on the left
        m = made.ids == 2
        if m[:, [0, -1]].any() or m[:, :, [0, -1]].any():
            continue
        ys, xs = np.nonzero(m[0])
        upright = xs[ys < ys.min() + 3].mean()
        seen.setdefault(made.mirrored, set()).add(upright > xs.mean())
    assert seen == {False: {False}, True: {True}}


def test_same_seed_same_clip_and_arrays_are_new():
    host, of = still(), guest()
    before = [a.copy() for a in (*host, *of)]
    a, b, c = (paste_clip(*host, *of, seed=seed) for seed in (3, 3, 4))
    assert (a.frames == b.frames).all() and (a.ids == b.ids).all() and not (a.ids == c.ids).all()
    assert all((x == y).all() for x, y in zip(before, (*host, *of)))
    assert a.frames.dtype == a.ids.dtype == np.uint8


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(guest_mask=guest()[1].astype(np.uint8)), "guest_mask: expected a bool array"),
        (dict(guest_mask=guest()[1][:, :9]), "guest_masks: expected shape"),
        (
            dict(guest_frames=guest()[0][:3], guest_mask=guest()[1][:3]),
            "expected 8 frames like the host, found 3",
        ),
        (dict(frames=still()[0] / 255), "frames: expected uint8"),
        (dict(frames=still()[0].tolist()), "frames: expected a numpy array, found list"),
        (dict(guest_frames=guest()[0][..., 0]), "guest_frames: expected shape"),
        (dict(ids=still(id=254)[1]), "object 254"),
    ],
)
def test_wrong_arrays_are_named(change, words):
    (frames, ids), (guest_frames, guest_mask) = still(), guest()
    right = dict(frames=frames, ids=ids, guest_frames=guest_frames, guest_mask=guest_mask, seed=0)
    with pytest.raises(RVOSError, match=re.escape(words)):
        paste_clip(**right | change)
