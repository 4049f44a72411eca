"A matcher learns looks from true tracks."

from dataclasses import replace

import numpy as np
import pytest
import torch
from rvos_nb.config import Config, RVOSError
from rvos_nb.pictures import read_picture
from rvos_nb.datasets import load_annotations
from rvos_nb.data import Expression
from rvos_nb.matcher import ClassMatcher, TrackMatcher, _class_ratio, _enlarge, _lessons
from rvos_nb.model import RVOSModel
from rvos_nb.shapes import make_shapes


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    root = make_shapes(tmp_path_factory.mktemp("m") / "shapes", n_train=60, n_val=8, progress=False)
    return load_annotations(root, "train"), load_annotations(root, "val")


@pytest.fixture
def matcher():
    torch.manual_seed(0)
    return TrackMatcher(RVOSModel(Config.preset("demo").model))


@pytest.mark.parametrize("place", [(0, 0), (40, 70), (44, 84)])
@pytest.mark.parametrize("side", [8, 16])
def test_a_crop_is_the_same_wherever_the_object_is(place, side):
    image = np.full((60, 100, 3), 40, np.uint8)
    mask = np.zeros((60, 100), bool)
    y, x = place
    mask[y : y + side, x : x + side] = True
    image[mask] = (255, 0, 128)
    crop = _enlarge(image, mask)
    assert crop.shape == (4, 32, 32)
    assert crop[3, 8:24, 8:24] == pytest.approx(1)  # it fills four fifths
    assert crop[3, :2] == pytest.approx(0) and crop[:3, :2] == pytest.approx(0)
    assert crop[:3, 16, 16] == pytest.approx([1, -1, 0.004], abs=0.01)


def test_a_portrait_object_is_not_squeezed():
    mask = np.zeros((60, 100), bool)
    mask[5:45, 50:60] = True
    shape = _enlarge(np.zeros((60, 100, 3), np.uint8), mask)[3] > 0.5
    rows, columns = shape.any(1).sum(), shape.any(0).sum()
    assert rows / columns == pytest.approx(4, rel=0.2)


def test_what_an_expression_teaches(shapes):
    record = next(r for r in shapes[0].values() if len(r.object_ids()) == 3)
    said = [
        ("the red star", (2,), [-1, 1, -1]),
        ("the leftmost star", (2,), [0, 1, 0]),  # the others may be stars as well
        ("all stars", (1, 3), [1, -1, 1]),
        ("the zebra", (), [-1, -1, -1]),
        ("the object on the left", (1,), None),  # its noun fits everything
        ("the hidden one", None, None),
    ]
    expressions = [Expression(str(n), text, ids) for n, (text, ids, _) in enumerate(said)]
    nouns, fits = _lessons(replace(record, expressions=expressions))
    assert nouns == ["the red star", "the star", "all stars", "the zebra"]
    assert fits.tolist() == [row for _, _, row in said if row]


def test_class_ratios_worked_out():
    # p = (0.8, 0.2): texts of class 0, class 1 and either are 1.6, 0.4 and 1 times as likely
    logits = torch.tensor([[np.log(4.0), 0.0]])
    texts = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]], dtype=logits.dtype)
    found = _class_ratio(logits, texts, temperature=1.0).exp()[:, 0]
    assert found.tolist() == pytest.approx([1.6, 0.4, 1.0])
    # at temperature 2 the odds of 4 are 2
    assert _class_ratio(logits, texts, 2.0).exp()[0].item() == pytest.approx(4 / 3)


def test_a_class_matcher_leaves_out_what_fits_all_and_what_is_unseen():
    parts = dict(backbone_weights="none", text_encoder="demo-bert", text_weights="none")
    judge = ClassMatcher(RVOSModel(Config.preset("best", **parts).model))
    masks = np.zeros((2, 60, 100), bool)
    masks[1, 5:20, 5:20] = True
    vectors = judge.vectors(["the red star", "the object"])
    assert vectors.sum(1).tolist() == pytest.approx([1, 0])
    scores = judge.score(np.zeros((60, 100, 3), np.uint8), masks, vectors)
    assert scores[0, 1] != 0 and np.count_nonzero(scores) == 1
    assert (judge.score(np.zeros((60, 100, 3), np.uint8), masks & False, vectors) == 0).all()


def test_a_class_matcher_needs_a_class_prior():
    with pytest.raises(RVOSError, match="class_prior = False"):
        ClassMatcher(RVOSModel(Config.preset("demo").model))


def test_unseen_tracks_score_nothing(matcher):
    masks = np.zeros((3, 60, 100), bool)
    masks[1, 5:20, 5:20] = True
    image = np.zeros((60, 100, 3), np.uint8)
    scores = matcher.score(image, masks, matcher.vectors(["the star", "the red star"]))
    assert scores.shape == (2, 3)
    assert (scores[:, [0, 2]] == 0).all() and (scores[:, 1] != 0).all()
    assert (matcher.score(image, masks & False, matcher.vectors(["a"])) == 0).all()


@pytest.mark.slow
def test_it_learns_colours_and_leaves_the_model_alone(matcher, shapes):
    train, val = shapes
    before = [p.clone() for p in matcher._reader[0].parameters()]
    losses = matcher.fit(train, epochs=15)
    assert losses[-1] < 0.8 * losses[0]
    assert all(torch.equal(a, b) for a, b in zip(before, matcher._reader[0].parameters()))
    right = []
    for record in val.values():
        objects = list(record.object_ids())
        masks = np.stack([record.masks.mask(0, (o,)) for o in objects])
        vectors = matcher.vectors([e.text for e in record.expressions])
        scores = matcher.score(read_picture(record.frames[0]), masks, vectors)
        right += [
            objects[k] == e.object_ids[0] for k, e in zip(scores.argmax(1), record.expressions)
        ]
    assert np.mean(right) > 0.6  # chance: a third


def test_nothing_to_learn_from_is_an_error(matcher, shapes):
    train = shapes[0]
    with pytest.raises(RVOSError, match="two named objects"):
        matcher.fit(train.of({}))


def test_a_model_without_words_is_an_error():
    knobs = dict(backbone="tiny", backbone_weights="none", text_encoder="demo-bert")
    report = Config.preset("report", text_weights="none", hidden_dim=16, heads=2, **knobs)
    with pytest.raises(RVOSError, match="pooling = 'cls'"):
        TrackMatcher(RVOSModel(report.model))
