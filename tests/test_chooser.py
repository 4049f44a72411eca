"Hand-made tracks: the right one is chosen, several, or none."

import numpy as np
import pytest
from rvos_nb.augment import flip_words
from rvos_nb.chooser import Chooser
from rvos_nb.config import RVOSError

T, H, W = 12, 60, 100


def track(start, step=(0, 0), size=10, seen=range(T)) -> np.ndarray:
    "A square, bool [T,H,W]: first top left corner (x, y), step a frame."
    masks = np.zeros((T, H, W), bool)
    for t in seen:
        x, y = start[0] + step[0] * t, start[1] + step[1] * t
        masks[t, max(0, y) : max(0, y + size), max(0, x) : max(0, x + size)] = True
    return masks


def choose(text: str, tracks: list[np.ndarray], fits=None, least=0.3, scores=False):
    "The choice for one expression; `fits`: log-odds of each track for the noun."
    chooser = Chooser([text])
    for masks in np.array(tracks).swapaxes(0, 1):
        if fits is None:
            chooser.add(masks)
        elif scores:
            chooser.add(
                masks, scores=np.array([fits] + [[0.0] * len(tracks)])[: len(chooser.asked)]
            )
        else:
            mine = np.full((H, W), -9.0)
            for mask, odds in zip(masks, fits):
                mine[mask] = odds
            chooser.add(masks, np.stack([mine, np.zeros((H, W))])[: len(chooser.asked)])
    return chooser.choose(least)[0]


AT_LEFT, AT_RIGHT = track((5, 25)), track((80, 25))
AT_TOP, AT_BOTTOM = track((45, 2)), track((45, 48))
CENTRE = track((45, 25))
FOUR = [AT_LEFT, AT_RIGHT, AT_TOP, AT_BOTTOM]
MOVING = [
    track((60, 25), (-3, 0)),
    track((20, 25), (3, 0)),
    track((45, 45), (0, -3)),
    track((45, 5), (0, 3)),
    CENTRE,
]
SIZES = [track((5, 5), size=6), track((30, 5), size=12), track((60, 5), size=24)]

CASES = [
    ("the dog on the left", FOUR, 0),
    ("the dog on the right", FOUR, 1),
    ("the dog at the top", FOUR, 2),
    ("the dog at the bottom", FOUR, 3),
    ("the leftmost dog", FOUR, 0),
    ("the rightmost dog", FOUR, 1),
    ("the highest dog", FOUR, 2),
    ("the lowest of the dogs", FOUR, 3),
    ("the dog in the middle", [AT_LEFT, CENTRE, AT_RIGHT], 1),
    ("the first dog from the left", [CENTRE, AT_RIGHT, AT_LEFT], 2),
    ("the second dog from the left", [AT_RIGHT, CENTRE, AT_LEFT], 1),
    ("the third dog from the left", [AT_RIGHT, CENTRE, AT_LEFT], 0),
    ("the dog in the top left corner", [track((5, 45)), track((5, 3)), track((85, 3))], 1),
    ("the smallest dog", SIZES, 0),
    ("the second largest dog", SIZES, 1),
    ("the big dog", SIZES, 2),
    ("the dog moving left", MOVING, 0),
    ("the dog running to the right", MOVING, 1),
    ("the dog going up", MOVING, 2),
    ("the dog going down", MOVING, 3),
    ("the dog that does not move", MOVING, 4),
    ("the fastest dog", [track((5, 5), (1, 0)), track((5, 40), (4, 0)), AT_RIGHT], 1),
    ("the slowest dog", [track((5, 5), (1, 0)), track((5, 40), (4, 0)), track((5, 20), (5, 0))], 0),
]
each_case = pytest.mark.parametrize("text,tracks,wanted", CASES, ids=[c[0] for c in CASES])


@each_case
def test_places_sizes_and_motions(text, tracks, wanted):
    assert choose(text, tracks).tracks == (wanted,)


@each_case
def test_mirrored_tracks_and_words_choose_the_same(text, tracks, wanted):
    mirrored = [masks[:, :, ::-1] for masks in tracks]
    assert choose(flip_words(text), mirrored).tracks == (wanted,)


@each_case
def test_the_order_of_candidates_does_not_matter(text, tracks, wanted):
    direct = choose(text, tracks)
    for shift in range(1, len(tracks)):
        turned = choose(text, tracks[shift:] + tracks[:shift])
        assert turned.tracks == ((wanted - shift) % len(tracks),)
        assert np.allclose(np.roll(turned.scores, shift), direct.scores)


@each_case
def test_the_size_of_the_video_does_not_matter(text, tracks, wanted):
    tall = [masks.repeat(2, axis=1).repeat(2, axis=2) for masks in tracks]
    assert choose(text, tall).tracks == (wanted,)


def test_the_reverse_of_a_motion_is_the_other_direction():
    backwards = [masks[::-1] for masks in MOVING]
    assert choose("the dog moving left", backwards).tracks == (1,)


@pytest.mark.parametrize("scores", [False, True])
def test_the_noun_comes_first(scores):
    # a cat further to the left is no dog: log-odds -4 against 3
    tracks = [AT_LEFT, CENTRE, AT_RIGHT]
    assert choose("the leftmost dog", tracks, fits=[-4, 3, 3], scores=scores).tracks == (1,)
    assert choose("the leftmost dog", tracks, fits=[3, 3, 3], scores=scores).tracks == (0,)
    assert choose("the second dog from the left", tracks, [3, -4, 3], scores=scores).tracks == (2,)
    assert choose("the dog", tracks, fits=[-4, -4, 3], scores=scores).tracks == (2,)


def test_only_tracks_of_the_noun_are_ahead():
    tracks = [AT_RIGHT, CENTRE, AT_LEFT, track((15, 5))]  # two dogs, then two cats
    assert choose("the leftmost dog", tracks, fits=[3, 3, -4, -4], scores=True).tracks == (1,)
    assert choose("the rightmost dog", tracks[::-1], [-4, -4, 3, 3], scores=True).tracks == (3,)


def test_what_stands_out_whatever_is_asked_is_not_preferred():
    chooser = Chooser(["the dog"])  # log-odds 4 for the dog and 5 for any object, against 1 and 0
    logits = np.full((2, H, W), -9.0)
    logits[:, AT_LEFT[0]] = [[4], [5]]
    logits[:, AT_RIGHT[0]] = [[1], [0]]
    chooser.add(np.stack([AT_LEFT[0], AT_RIGHT[0]]), logits)
    assert chooser.evidence(chooser.readings[0]) == pytest.approx([-1, 1], abs=1e-3)
    assert chooser.choose()[0].tracks == (1,)


def test_a_direction_is_more_than_a_part_of_the_way():
    # far to the left and as far down is not "moving left"; a shorter way straight to the left is
    diagonal, straight = track((80, 5), (-4, 4)), track((60, 40), (-1, 0))
    assert choose("the dog moving left", [diagonal, straight]).tracks == (1,)


def test_directions_count_in_pixels_whatever_the_shape_of_the_frame():
    # 4 pixels left and 3 down a frame, in a frame of 100 x 60: more left than down; and its reverse
    slanted, resting = track((85, 5), (-4, 3)), track((5, 45))
    scores = choose("the dog moving left", [slanted, resting]).scores
    assert scores[0] > 0.9 and scores[1] == pytest.approx(0.5)
    assert choose("the dog moving down", [slanted, resting]).scores[0] < 0.1


def test_an_object_that_is_hidden_for_a_moment_has_not_moved():
    hidden = track((40, 20), size=20)
    hidden[4:6, :, 40:58] = False  # of which the centre seems to jump
    slow = track((10, 45), (0, -1))
    assert choose("the dog that stands still", [slow, hidden]).tracks == (1,)
    assert choose("the slowest dog", [slow, hidden]).tracks == (1,)


def test_a_generic_noun_asks_no_model():
    chooser = Chooser(["the object on the left"])
    assert chooser.asked == ["the object"]
    assert choose("the object on the left", [AT_RIGHT, AT_LEFT], fits=[9, -9]).tracks == (1,)


def test_evidence_worked_out():
    # "the dog": probability 0.8 inside, "the object": 0.5; log-odds log 4 against 0
    chooser = Chooser(["the dog"])
    assert chooser.asked == ["the dog", "the object"]
    logits = np.stack([np.full((H, W), np.log(4)), np.zeros((H, W))])
    for masks in np.array([AT_LEFT, AT_RIGHT]).swapaxes(0, 1):
        chooser.add(masks, logits)
    assert chooser.evidence(chooser.readings[0]) == pytest.approx([np.log(4)] * 2)


def test_logits_and_scores_add_up():
    chooser = Chooser(["the dog"])
    logits = np.stack([np.full((H, W), np.log(4)), np.zeros((H, W))])
    for masks in np.array([AT_LEFT, AT_RIGHT]).swapaxes(0, 1):
        chooser.add(masks, logits, scores=np.array([[1.0, -2.0], [0.5, 0.5]]))
    expected = [np.log(4) + 0.5, np.log(4) - 2.5]
    assert chooser.evidence(chooser.readings[0]) == pytest.approx(expected)


def test_a_side_score_worked_out():
    # middles at x = 0.1 and 0.85: sides sigmoid(4) and sigmoid(-3.5), ranks sigmoid(25), (-25)
    scores = choose("the dog on the left", [AT_LEFT, AT_RIGHT]).scores
    far = 1 / (1 + np.exp(25))
    assert scores[0] == pytest.approx((1 - far) / (1 + np.exp(-4)), rel=1e-6)
    assert scores[1] == pytest.approx(1e-9 / (1 + np.exp(3.5)), rel=1e-3)  # no less than 1e-9


def test_frames_that_hide_a_track_do_not_count():
    # the same mean whether a track is seen in all frames or in three
    brief = track((5, 25), seen=(0, 1, 2))
    both = choose("the dog", [AT_RIGHT, brief], fits=[1.0, 1.5])
    assert both.tracks == (1,)
    still = track((5, 25), seen=(0, 1, 5, 6, 7, 11))
    assert choose("the dog standing still", [MOVING[1], still]).tracks == (1,)
    leaves = track((60, 25), (8, 0))
    assert not leaves[-1].any()
    assert choose("the dog moving right", [CENTRE, leaves]).tracks == (1,)


def test_a_hidden_part_makes_no_track_small():
    hidden = track((60, 5), size=24)
    hidden[2:10, :28] = False  # one row of 24 is left
    assert choose("the largest dog", [track((5, 5), size=14), hidden]).tracks == (1,)


def test_plurals():
    tracks = [AT_LEFT, CENTRE, AT_RIGHT]
    assert set(choose("the dogs", tracks, fits=[3, -4, 3]).tracks) == {0, 2}
    assert set(choose("the two dogs", tracks, fits=[3, -1, 2]).tracks) == {0, 2}
    assert choose("the two dogs", tracks, fits=[3, -4, -4]).tracks == (0,)
    assert set(choose("the dogs on the left", [*tracks, track((20, 5))]).tracks) == {0, 3}
    assert set(choose("the two leftmost dogs", tracks).tracks) == {0, 1}
    assert choose("the dogs", tracks, fits=[-4, -4, -4]).tracks == ()


def test_of_two_that_surely_fit_the_place_decides():
    found = choose("the dog on the left", [AT_LEFT, AT_RIGHT], fits=[6, 14], scores=True)
    assert found.tracks == (0,)
    found = choose("the dog on the left", [AT_LEFT, AT_RIGHT], fits=[-14, 6], scores=True)
    assert found.tracks == (1,)


def test_none_fits():
    assert choose("the dog", [AT_LEFT, AT_RIGHT], fits=[-3, -4]).tracks == ()
    assert choose("the dog", [AT_LEFT, AT_RIGHT], fits=[-3, -4], least=0.0).tracks == (0,)


def test_no_candidate_and_one():
    chooser = Chooser(["the dog", "the dogs on the left"])
    for _ in range(T):
        chooser.add(np.zeros((0, H, W), bool), np.zeros((3, 9, 9)))
    assert [(c.tracks, len(c.scores)) for c in chooser.choose()] == [((), 0), ((), 0)]
    assert choose("the dog on the left", [AT_RIGHT]).tracks == (0,)
    assert choose("the second dog from the left", [AT_RIGHT]).scores[0] < 1e-6


def test_tracks_that_are_never_seen():
    nothing = np.zeros((T, H, W), bool)
    found = choose("the dog on the left", [nothing, AT_RIGHT, nothing])
    assert found.tracks == (1,) and found.scores[0] == found.scores[2] == 0
    assert choose("the dog on the left", [nothing, nothing]).tracks == ()
    assert choose("the dogs", [nothing, nothing], fits=[1, 1]).tracks == ()


def test_one_frame_is_enough():
    chooser = Chooser(["the dog on the left", "the dog moving left", "the dog"])
    chooser.add(np.stack([AT_RIGHT[0], AT_LEFT[0]]))
    assert [len(c.tracks) for c in chooser.choose()] == [1, 1, 1]
    assert chooser.choose()[0].tracks == (1,)
    assert Chooser(["the dog"]).choose()[0].tracks == ()


def test_several_expressions_share_questions():
    chooser = Chooser(["the dog on the left", "the dog on the right", "the cat"])
    assert chooser.asked == ["the dog", "the cat", "the object"]


def test_memory_does_not_grow_with_the_frames():
    chooser = Chooser(["the dog"])
    large = np.zeros((2, 480, 854), bool)
    large[:, 10:50, 10:50] = True
    for _ in range(3):
        chooser.add(large, np.zeros((2, 30, 40)))
    kept = [v for v in vars(chooser).values() if isinstance(v, np.ndarray)]
    assert sum(v.nbytes for v in kept) < 1000
    assert len(chooser._looks) == 3 and len(chooser._looks[0]) == 2


@pytest.mark.parametrize(
    "masks,more,says",
    [
        (np.zeros((2, H, W)), {}, "bool"),
        (np.zeros((H, W), bool), {}, "[K,H,W]"),
        (None, {}, "NoneType"),
        (np.zeros((2, H, W), bool), {"logits": np.zeros((1, 9, 9))}, "asked"),
        (np.zeros((2, H, W), bool), {"logits": np.zeros((9, 9))}, "asked"),
        (np.zeros((2, H, W), bool), {"scores": np.zeros((2, 3))}, "[2, 2]"),
        (np.zeros((3, H, W), bool), {}, "as before"),
    ],
)
def test_wrong_shapes_are_named(masks, more, says):
    chooser = Chooser(["the dog"])
    chooser.add(np.zeros((2, H, W), bool))
    with pytest.raises(RVOSError) as e:
        chooser.add(masks, **more)
    assert says in str(e.value)
    assert len(chooser._looks) == 1  # nothing of the wrong frame was taken in
