"What an expression claims about place, size and motion, and what it leaves to the model."

import pytest
from rvos_nb.augment import flip_words
from rvos_nb.claims import Claim, read_expression
from rvos_nb.shapes import _WORDING

LEFT, RIGHT = Claim("x", -1), Claim("x", 1)
LEFTMOST, RIGHTMOST = Claim("x", -1, 0), Claim("x", 1, 0)
TOP, BOTTOM = Claim("y", -1), Claim("y", 1)
TOPMOST, LOWEST = Claim("y", -1, 0), Claim("y", 1, 0)
LARGEST, SMALLEST = Claim("area", 1, 0), Claim("area", -1, 0)
MIDDLE = Claim("middle", -1, 0)
STILL, MOVING = Claim("speed", -1), Claim("speed", 1)
TO_LEFT, TO_RIGHT = Claim("heading x", -1), Claim("heading x", 1)
UP, DOWN = Claim("heading y", -1), Claim("heading y", 1)

CASES = [
    # place
    ("the dog on the left", "the dog", LEFT),
    ("the dog at the right", "the dog", RIGHT),
    ("dog on right", "the dog", RIGHT),
    ("the left dog", "the dog", LEFT),
    ("the right-hand car", "the car", RIGHT),
    ("left dog", "the dog", LEFT),
    ("the dog in the left half", "the dog", LEFT),
    ("the dog on the right-hand side of the picture", "the dog", RIGHT),
    ("the dog to the left of the man", "the dog", LEFT),
    ("the dog on the left, running", "the dog, running", LEFT),
    ("the bird at the top of the frame", "the bird", TOP),
    ("the bird in the lower half", "the bird", BOTTOM),
    ("the cat in the lower right corner", "the cat", RIGHT, BOTTOM),
    ("the leftmost red star", "the red star", LEFTMOST),
    ("the right-most of the three men", "the men", RIGHTMOST),
    ("the person on the far right", "the person", RIGHTMOST),
    ("the star furthest to the left", "the star", LEFTMOST),
    ("the dog nearest the left edge", "the dog", LEFTMOST),
    ("the furthest-left dog", "the dog", LEFTMOST),
    ("the highest of the red stars", "the red stars", TOPMOST),
    ("the upper star", "the star", TOPMOST),
    ("the lowest one", "the one", LOWEST),
    ("the second dog from the left", "the dog", Claim("x", -1, 1)),
    ("the third of the cars from the right", "the cars", Claim("x", 1, 2)),
    ("the dog sitting in the middle", "the dog sitting", MIDDLE),
    ("the man in the centre of the picture", "the man", MIDDLE),
    # size and distance
    ("the smaller of the two squares", "the squares", SMALLEST),
    ("the biggest dog", "the dog", LARGEST),
    ("the third largest fish", "the fish", Claim("area", 1, 2)),
    ("the dog that is larger", "the dog", LARGEST),
    ("the tallest man", "the man", Claim("height", 1, 0)),
    ("the dog closest to the camera", "the dog", LARGEST),
    ("the car in the background", "the car", SMALLEST),
    # motion
    ("the star that moves to the left", "the star", TO_LEFT),
    ("the swan that is swimming right", "the swan", TO_RIGHT),
    ("the car driving from right to left", "the car", TO_LEFT),
    ("a bird flying towards the right side", "a bird", TO_RIGHT),
    ("the shape going up", "the shape", UP),
    ("the shape falling downwards", "the shape", DOWN),
    ("the cross that does not move", "the cross", STILL),
    ("the horse that isn’t moving", "the horse", STILL),
    ("the car that's parked", "the car", STILL),
    ("the stationary object", "the object", STILL),
    ("the moving car", "the car", MOVING),
    ("the fastest car", "the car", Claim("speed", 1, 0)),
    ("the car moving slowest", "the car", Claim("speed", -1, 0)),
    ("The Dog On The LEFT.", "the dog", LEFT),
    ("the small dog on the left moving right", "the dog", TO_RIGHT, LEFT, SMALLEST),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_paraphrases(case):
    text, noun, *claims = case
    found = read_expression(text)
    assert (found.noun, set(found.claims), found.count) == (noun, set(claims), 1)


NO_CLAIMS = [
    "a white cell phone in a left hand",
    "the man's right arm",
    "a man looking to the left",
    "the dog facing right",
    "the girl right behind the car",
    "a dog left alone",
    "a man walking down the street",
    "a woman in a pink top",
    "the cat on top of the car",
    "the man in the middle of the road",
    "the dog in front of the house",
    "a little girl with a big hat",
    "the man riding the smaller horse",
    "a golden retriever walking in the grass",
    "a dog with a bright collar",
    "xyzzy plugh",
]


@pytest.mark.parametrize("text", NO_CLAIMS)
def test_what_only_looks_like_a_claim_stays(text):
    assert (read_expression(text).noun, read_expression(text).claims) == (text, ())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_a_mirrored_text_claims_the_mirror_image(case):
    text, mirrored = case[0], flip_words(case[0])
    turned = [
        Claim(c.quantity, -c.sign if c.quantity in ("x", "heading x") else c.sign, c.rank)
        for c in read_expression(text).claims
    ]
    assert set(read_expression(mirrored).claims) == set(turned)
    assert read_expression(mirrored).noun == read_expression(text).noun


@pytest.mark.parametrize(
    "text,count",
    [
        ("the two dogs on the right", 2),
        ("both cows", 2),
        ("three men", 3),
        ("the dogs", 0),
        ("all women", 0),
        ("the dogs with bones", 0),
        ("the bus", 1),
        ("grass", 1),
        ("the man with two dogs", 1),
        ("the larger of the two dogs", 1),
        ("a dog in boots", 1),
    ],
)
def test_how_many_are_meant(text, count):
    assert read_expression(text).count == count


@pytest.mark.parametrize(
    "text", ["the object moving left", "the one on the left", "the leftmost", "the biggest", ""]
)
def test_a_noun_that_fits_everything(text):
    assert read_expression(text).generic


@pytest.mark.parametrize("text", ["the dog on the left", "the red one", "the person", "horses"])
def test_a_noun_that_does_not(text):
    assert not read_expression(text).generic


def test_every_wording_of_the_talking_shapes_is_read_whole():
    for relation, (_, wordings) in _WORDING.items():
        for wording in wordings:
            found = read_expression(wording.format(n="red star", s="red stars"))
            assert bool(found.claims) == bool(relation), wording
            assert found.noun.removeprefix("the ").removeprefix("a ").startswith("red star")
            assert len(found.noun.split()) <= 3 or not relation


def test_no_text_takes_long():
    read_expression("the dog on the left of " * 2000)
    read_expression("the second " + "very " * 5000 + "dog")
