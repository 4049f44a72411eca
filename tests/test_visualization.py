"Figures and sheets: what is shown of whom, with and without truth."

import numpy as np
import pandas as pd
import pytest
from clips import Bright, moving, untrained
from rvos_nb.config import RVOSError
from rvos_nb.data import Annotations, Expression, IdMasks, VideoRecord
from rvos_nb.layout import write_ids
from rvos_nb.visualization import (
    PREDICTED,
    TRUE,
    gallery,
    paint_mask,
    show_attention,
    show_both,
    show_prediction,
    visualize_specific_videos,
    word_attention,
)


def square(n=6):
    "The moving square's ids, uint8 [n,48,80]."
    ids = np.zeros((n, 48, 80), np.uint8)
    for t in range(n):
        ids[t, 12:24, 2 * t : 2 * t + 16] = 1
    return ids


@pytest.fixture
def record(tmp_path):
    "A video of six frames, of which frames 1 and 4 are not labelled; two expressions."
    from PIL import Image

    frames, masks = [], []
    for t, (image, ids) in enumerate(zip(moving(6), square())):
        frames.append(tmp_path / f"{t}.png")
        Image.fromarray(image).save(frames[-1])
        masks.append(None if t in (1, 4) else tmp_path / f"ids{t}.png")
        if masks[-1]:
            write_ids(masks[-1], ids)
    expressions = [Expression("0", "the square", (1,), "a"), Expression("1", "nothing", (), "b")]
    return VideoRecord("moving", frames, IdMasks(masks), expressions)


def annotated(tmp_path, *records):
    return Annotations({r.id: r for r in records}, root=tmp_path, split="val")


def titles(figure):
    return [ax.get_title() for ax in figure.axes if ax.get_title()]


def test_colours_of_masks():
    image, mask = np.full((20, 20, 3), 90, np.uint8), np.zeros((20, 20), bool)
    mask[5:15, 5:15] = True
    assert (paint_mask(image, mask, TRUE, alpha=1.0)[8, 8] == TRUE).all()
    both = show_both(image, mask, np.roll(mask, 5, axis=1), alpha=1.0)
    assert (both[8, 7] == PREDICTED).all() and (both[0, 0] == 90).all()
    assert (both[8, 19] == 255).all() and (both[8, 18] == TRUE).all(), "a blue line, edged in white"


def test_frames_with_labels_are_shown(record, tmp_path):
    annotations = annotated(tmp_path, record)
    (figure,) = visualize_specific_videos(annotations, Bright(), "moving", columns=9)
    assert [t.split(",")[0] for t in titles(figure)] == [f"frame {t}" for t in (0, 2, 3, 5)]
    assert len(figure.axes) == 8 and figure.get_suptitle() == "moving: the square"
    figures = visualize_specific_videos(annotations, Bright(), ["moving"], expressions=0)
    assert len(figures) == 2
    with pytest.raises(RVOSError, match="moving"):
        visualize_specific_videos(annotations, Bright(), "other")


def test_ours_and_theirs_stand_below_each_other(record):
    models, data = (
        {"ours": Bright(), "theirs": Bright()},
        annotated(record.frames[0].parent, record),
    )
    figures = visualize_specific_videos(data, models, record.id, expressions=2)
    said = [figure.get_suptitle() for figure in figures]
    assert [title.split(",")[0] for title in said] == ["ours", "theirs"] * 2


def test_J_stands_above_the_frames():
    truth = square(2).astype(bool)
    pred = truth.copy()
    pred[1, :18] = False  # half of the square
    figure = show_prediction(moving(2), pred, truth, "title", numbers=[3, 7])
    assert titles(figure) == ["frame 3, J 1.00", "frame 7, J 0.50"]
    void = ~pred & truth
    figure = show_prediction(moving(2), pred, truth, "title", void=void, cmap="cool")
    assert titles(figure) == ["frame 0, J 1.00", "frame 1, J 1.00"]


def test_hidden_masks_need_no_truth(record, tmp_path):
    hidden = VideoRecord("hidden", record.frames, None, [Expression("0", "the square", None)])
    (figure,) = visualize_specific_videos(annotated(tmp_path, hidden), Bright(), "hidden")
    assert len(figure.axes) == 4 and titles(figure)[0] == "frame 0"


def test_a_gallery_of_the_worst_has_one_row_a_video(record, tmp_path):
    other = VideoRecord("other", record.frames, record.masks, record.expressions)
    scores = pd.DataFrame(
        [("moving", "0", 0.9), ("moving", "1", 0.1), ("other", 0, 0.2), ("other", "1", np.nan)],
        columns=["video_id", "expression_id", "J"],
    )
    annotations = annotated(tmp_path, record, other)
    two = gallery(annotations, Bright(), scores, n=3)
    one = gallery(annotations, Bright(), scores, n=1)
    assert two.dtype == np.uint8 and two.shape[1:] == one.shape[1:]
    assert two.shape[0] > 1.8 * one.shape[0]


def test_attention_adds_up_to_one():
    segmenter = untrained()
    words, shares = word_attention(segmenter, moving(1)[0], "the red circle")
    assert words == ["the", "red", "circle"] and shares.shape[0] == 3
    assert shares.min() >= 0 and shares.sum(0).max() <= 1 + 1e-5
    assert show_attention(segmenter, moving(1)[0], "the red circle").dtype == np.uint8


def test_attention_is_ours_alone():
    with pytest.raises(RVOSError, match="bright: its attention cannot be read"):
        word_attention(Bright(), moving(1)[0], "the red circle")
    with pytest.raises(RVOSError, match="pooling = 'cls'"):
        word_attention(untrained(pooling="cls"), moving(1)[0], "the red circle")
    with pytest.raises(RVOSError, match="is empty"):
        word_attention(untrained(), moving(1)[0], " ")


def test_the_gallery_says_its_colours_with_squares(record):
    annotations = Annotations({record.id: record}, root=record.frames[0].parent, split="val")
    scores = pd.DataFrame({"video_id": [record.id], "expression_id": ["0"], "J": [0.5]})
    sheet = gallery(annotations, Bright(), scores)
    legend = sheet[4:24].reshape(-1, 3)
    for colour in (PREDICTED, TRUE):
        assert (legend == colour).all(1).sum() >= 100, "a square of the very colour"
