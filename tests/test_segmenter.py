"Segmenters: windows without a seam, one visual pass for all expressions, what answers mean."

import math

import numpy as np
import pytest
import torch
from clips import Bright, last_layer, moving, untrained
from hypothesis import given
from hypothesis import strategies as st
from rvos_nb.answers import confidence, merge_logits, video_score
from rvos_nb.caches import normalise
from rvos_nb.checkpoints import save_checkpoint
from rvos_nb.config import Config, ConfigError, RVOSError
from rvos_nb.data import Expression, VideoRecord
from rvos_nb.metrics import region_similarity
from rvos_nb.model import keep_best_components
from rvos_nb.predictions import merge_objects
from rvos_nb.segmenter import (
    SEGMENTERS,
    FrameMasks,
    RVOSSegmenter,
    Segmenter,
    check_expressions,
    load_segmenter,
    warn_unread,
)
from rvos_nb.video import Frame, open_video
from rvos_nb.windows import sliding_windows, temporal_receptive_field, view_size

TEXTS = [
    "the red circle",
    "the blue star",
    "the thing on the left",
    "a green square",
    "the big cross",
    "yellow",
    "the small one",
    "something that moves to the right",
]


@pytest.fixture(scope="module")
def frame_by_frame():
    return untrained()


@pytest.fixture(scope="module")
def with_conv3d():
    return untrained(temporal="conv3d")


@pytest.fixture(scope="module")
def with_correlation():
    return untrained(temporal="correlation")


# --- expressions


def test_expressions_are_tidied():
    assert check_expressions("the dog") == ["the dog"]
    assert check_expressions(text for text in ("a\n b ", "c")) == ["a b", "c"]


SLIPS = [
    ("", "expression 1 is empty"),
    (["a", "\t"], "expression 2 is empty"),
    ([], "no expressions"),
    (["a"] * 255, "255 expressions"),
    ([None], "NoneType"),
]


@pytest.mark.parametrize("slip, words", SLIPS, ids=[words for _, words in SLIPS])
def test_expressions_that_cannot_be_asked(slip, words, frame_by_frame):
    with pytest.raises(ConfigError, match=words):
        check_expressions(slip)
    with pytest.raises(ConfigError, match=words):
        frame_by_frame.segment(moving(2), slip)


def test_too_many_tokens_are_refused_at_once(frame_by_frame):
    with pytest.raises(ConfigError, match="expression 2 has 82 tokens: expected at most 64"):
        frame_by_frame.stream(open_video(moving(2)), ["the dog", "red " * 80])


def test_the_empty_expression_can_be_streamed(frame_by_frame):
    found = list(frame_by_frame.stream(open_video(moving(2)), ["", "the red circle"]))
    assert len(found) == 2 and np.isfinite(found[0].logits).all()
    assert (found[0].logits[0] != found[0].logits[1]).any()


# --- what is read of an expression


@pytest.fixture(scope="module")
def reader():
    "A segmenter whose model was pretrained, as far as its tokens are concerned."
    model = untrained().model
    model.text.known_tokens.fill_(True)
    return RVOSSegmenter(model, name="reader", device="cpu")


def test_unread_words(reader):
    # which words these are: test_reading.py
    assert reader.unread_words("the xyzzy on the left, the \N{DOG FACE} dog") == [
        "xyzzy",
        "\N{DOG FACE}",
    ]


@pytest.mark.parametrize("text", ["собака", "左边的狗", "שמאל ימין", "\N{LEFTWARDS ARROW}"])
def test_an_expression_of_which_nothing_is_read_is_refused(reader, text):
    with pytest.raises(ConfigError, match="none of it|no letter"):
        reader.segment(moving(2), text)


@pytest.mark.parametrize("text", ["\u200b", "\N{DOG FACE}", "?!", "\u200b \u2060", "..."])
def test_an_expression_without_a_letter_is_refused(text):
    with pytest.raises(ConfigError, match="no letter and no digit"):
        check_expressions(["the dog", text])


def test_words_never_met_in_training_are_not_read():
    model = untrained().model
    tokens = model.tokenizer(["the red circle"], return_tensors="pt")
    model.train().text(tokens["input_ids"], tokens["attention_mask"])
    segmenter = RVOSSegmenter(model, device="cpu")
    assert segmenter.unread_words("the red circle") == []
    assert segmenter.unread_words("the blue dog") == ["blue", "dog"]  # in the vocabulary, both


def test_unread_words_are_said_in_one_line_each(reader, capsys):
    assert warn_unread(reader, ["the dog", "the xyzzy blorp"]) == [[], ["xyzzy", "blorp"]]
    said = capsys.readouterr().err.splitlines()
    assert said == ["“the xyzzy blorp”: reader does not know “xyzzy”, “blorp”"]
    assert warn_unread(Bright(), ["xyzzy"]) == [[]]  # who has no `unread_words` is not asked
    reader.segment(moving(2), "the xyzzy")
    assert "does not know “xyzzy”" in capsys.readouterr().err


# --- windows


@given(st.integers(0, 40), st.integers(1, 9), st.integers(0, 5))
def test_windows_give_each_item_once_with_its_neighbours(n, size, reach):
    answered = []
    for held, part in sliding_windows(range(n), size, reach):
        assert held == list(range(held[0], held[-1] + 1)) and len(held) <= size + 3 * reach
        for i in held[part]:
            assert {max(0, i - reach), min(n - 1, i + reach)} <= set(held)
        answered += held[part]
    assert answered == list(range(n))


@pytest.mark.parametrize("window", [1, 3, 5, 16])
@pytest.mark.parametrize("kind", ["with_conv3d", "with_correlation"])
def test_no_seam(kind, window, request):
    "Windows in other places give the same masks; plain windows would not."
    video, segmenter = moving(30), request.getfixturevalue(kind)
    a = segmenter.segment(video, TEXTS[:2])
    b = RVOSSegmenter(segmenter.model, window, device="cpu").segment(video, TEXTS[:2])
    assert np.abs(a.logits - b.logits).max() < 1e-4
    assert least_J(a.masks, b.masks) >= 0.97
    parts = [segmenter.segment(video[t : t + 5], TEXTS[:2]).masks for t in range(0, 30, 5)]
    plain = np.concatenate(parts, 1)
    assert least_J(a.masks, plain) < 0.97, "this test cannot see a seam"


def least_J(a, b):
    return min(region_similarity(x, y).min() for x, y in zip(a, b))


KINDS = [
    dict(),
    dict(temporal="conv3d"),
    dict(temporal="conv3d", decoder="bilinear", pooling="cls", fuse_strides=(32,)),
    dict(temporal="correlation"),
    dict(temporal="correlation", decoder="dynamic", fuse_strides=(8, 16)),
]


@pytest.mark.parametrize("knobs", KINDS, ids=str)
def test_the_stream_is_the_model_on_the_whole_video(knobs):
    segmenter, frames = untrained(window=4, **knobs), moving(11)
    expected = {"conv3d": 3, "correlation": 1}.get(knobs.get("temporal"), 0)
    assert temporal_receptive_field(segmenter.model) == expected
    text = segmenter.model.tokenizer(TEXTS[:2], padding=True, return_tensors="pt")
    x = normalise(torch.from_numpy(frames).movedim(-1, 1))[None]
    with torch.inference_mode():
        whole = segmenter.model(x, text["input_ids"], text["attention_mask"])[:, :, 0]
    assert np.abs(segmenter.segment(frames, TEXTS[:2]).logits - whole.numpy()).max() < 1e-4


def test_expressions_share_the_visual_pass_and_do_not_disturb_each_other(with_conv3d, monkeypatch):
    encoded, encode = [], with_conv3d.model.encode_frames

    def counted(frames):
        encoded.append(frames.shape[1])
        return encode(frames)

    monkeypatch.setattr(with_conv3d.model, "encode_frames", counted)
    many = TEXTS + [f"number {i}" for i in range(4)]  # more than are answered at once
    together = with_conv3d.segment(moving(), many).logits
    assert sum(encoded) == 20, "each frame is encoded once"
    for text, x in zip(many, together):
        assert np.abs(with_conv3d.segment(moving(), text).logits[0] - x).max() < 1e-4


def test_a_stream_reads_no_further_than_it_must(frame_by_frame):
    read = []

    def frames():
        for t, image in enumerate(moving(20)):
            read.append(t)
            yield Frame(t, t, image)

    from dataclasses import replace

    video = replace(open_video(moving(20)), read=frames)
    stream = frame_by_frame.stream(video, ["the red circle"])
    assert next(stream).frame.index == 0 and len(read) <= 9


# --- answers


def test_masks_are_at_the_videos_size(frame_by_frame):
    video = moving(5, 121, 203)
    result = frame_by_frame.segment(video, TEXTS[:3])
    assert result.masks.shape == (3, 5, 121, 203) and result.masks.dtype == bool
    assert 0.02 < result.masks.mean() < 0.98
    p = np.stack([result.probabilities(n) for n in range(3)])
    assert ((p > 0.5) == result.masks)[p != 0.5].all()
    found = next(frame_by_frame.stream(open_video(video), TEXTS[:3]))
    assert (found.masks == result.masks[:, 0]).all()
    assert (found.merged == result.merged()[0]).all()
    assert np.allclose(found.scores, result.frame_scores[:, 0])
    assert np.allclose(found.probabilities, p[:, 0])
    assert next(result.overlays()).shape == (121, 203, 3)


def test_logits_may_have_any_size():
    image = moving(1)[0]
    for size in ((1, 1), (12, 20), (48, 80), (96, 10)):
        found = FrameMasks(Frame(0, 0, image), np.ones((2, *size), np.float32))
        assert found.masks.shape == (2, 48, 80) and found.masks.all()
        assert found.size == (48, 80) and (found.merged == 1).all()


def test_merged_as_in_the_evaluation():
    logits = np.random.default_rng(0).normal(size=(3, 12, 20)).astype(np.float32)
    expressions = [Expression(str(o), "", (o,), "annot1") for o in (1, 2, 3)]
    record = VideoRecord("a", [], None, expressions)
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    assert (merge_logits(logits) == merge_objects(p, record)[0]).all()


def test_scores():
    one = [[[-100, 100], [-3, -4]], [[-1, -2], [-3, -4]]]  # one expression, two frames
    assert confidence(np.float32([one])).tolist() == [[1.0, 0.0]]
    assert video_score(confidence(np.float32([one]))).tolist() == [1.0]
    assert video_score(np.zeros((2, 3))).tolist() == [0, 0]


# --- anybody's


class Forgetful(Segmenter):
    "Answers the first expression only, or no frame at all."

    name = "forgetful"

    def __init__(self, n):
        self.n = n

    def stream(self, video, expressions):
        for frame in list(video.read())[: self.n]:
            yield FrameMasks(frame, np.zeros((1, 4, 4), np.float32))


def test_a_segmenter_that_loses_answers_is_stopped():
    assert Forgetful(2).segment(moving(2), "a").logits.shape == (1, 2, 4, 4)
    with pytest.raises(RVOSError, match="forgetful: 1 answers to 2 expressions in frame 0 of"):
        Forgetful(2).segment(moving(2), ["a", "b"])
    with pytest.raises(RVOSError, match="forgetful: no answer for any frame of video"):
        Forgetful(0).segment(moving(2), "a")


# --- loading


def test_runs_checkpoints_and_names(tmp_path, monkeypatch):
    cfg = Config.preset("demo", image_size=(48, 80), hidden_dim=16)
    segmenter = untrained()
    save_checkpoint(tmp_path / "run/best_model.pth", segmenter.model, cfg)
    expected = segmenter.segment(moving(3), "a").logits
    for source in (tmp_path / "run", str(tmp_path / "run/best_model.pth")):
        again = load_segmenter(source, device="cpu")
        assert np.allclose(again.segment(moving(3), "a").logits, expected, atol=1e-5)
    assert load_segmenter(tmp_path / "run", device="cpu").name == "run"
    monkeypatch.setitem(SEGMENTERS, "bright", lambda device: Bright())
    assert isinstance(load_segmenter("bright"), Bright)
    with pytest.raises(RVOSError, match="sam9: no such run folder.*known names: .*bright"):
        load_segmenter("sam9")
    with pytest.raises(RVOSError, match="no checkpoint"):
        load_segmenter(tmp_path)
    with pytest.raises(ConfigError, match="cuda"):
        if torch.cuda.is_available():
            raise ConfigError("cuda is here")
        load_segmenter(tmp_path / "run", device="cuda")


def test_the_expression_decides_about_the_pieces_of_a_mask(tmp_path):
    "A model for single objects keeps the confident components, unless several are named."
    asked = ["the red star", "the red stars", "every star"]
    cfg = Config.preset("demo", image_size=(48, 80), hidden_dim=16, single_object=True)
    model = untrained(single_object=True).model
    noise = np.random.default_rng(0).integers(0, 255, (2, 48, 80, 3), np.uint8)
    model.cfg.single_object = False
    everything = RVOSSegmenter(model, device="cpu").segment(noise, asked).logits
    with torch.no_grad():  # so that masks are in pieces
        last_layer(model).bias -= float(np.quantile(everything, 0.8))
    everything = RVOSSegmenter(model, device="cpu").segment(noise, asked).logits
    model.cfg.single_object = True
    save_checkpoint(tmp_path / "last.pth", model, cfg)
    found = load_segmenter(tmp_path, device="cpu").segment(noise, asked).logits
    best = keep_best_components(torch.from_numpy(everything), cfg.model.component_ratio).numpy()
    assert np.allclose(found, [*best[:1], *everything[1:]], atol=1e-5)
    assert 0 < (found[0] > 0).sum() < (everything[0] > 0).sum()
    assert (best[1:] > 0).sum() < (everything[1:] > 0).sum()


@pytest.mark.parametrize("frame", [(480, 854), (854, 480), (500, 500), (40, 2000), (7, 5)])
@pytest.mark.parametrize("trained", [(256, 448), (96, 160), (90, 150)])
def test_a_frame_is_seen_in_its_own_shape(frame, trained):
    h, w = view_size(frame, trained)
    step = math.gcd(*trained, 32)
    assert h % step == w % step == 0 and min(h, w) >= step
    side = math.sqrt(math.prod(trained) / math.prod(frame))
    assert abs(h - frame[0] * side) <= step and abs(w - frame[1] * side) <= step
    assert view_size(trained, trained) == trained


def test_a_portrait_is_not_squeezed_into_the_training_shape(with_conv3d):
    H, W = with_conv3d.model.cfg.image_size
    found = with_conv3d.segment(np.zeros((2, 2 * W, 2 * H, 3), np.uint8), "the red circle")
    assert W > H and found.logits.shape[2:] == (W, H) and found.masks.shape[2:] == (2 * W, 2 * H)
