"Any video and any sentences: reading files of all kinds, windows without a seam, one visual pass, bounded memory."
import itertools
import json
import struct
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from PIL import Image
from rvos_nb.core import Config, ConfigError, RVOSError
from rvos_nb.data import load_annotations, load_tokenizer, make_loader
from rvos_nb.demo import davis_palette, make_demo_data
from rvos_nb.draw import PALETTE, video_writer, write_video
from rvos_nb.evaluation import merge
from rvos_nb.inference import (Segmenter, check_sentences, confidence, enlarge, merge_logits, open_video, predict, temporal_reach, video_score, windows)
from rvos_nb.metrics import region_similarity
from rvos_nb.model import RVOSModel
from rvos_nb.training import predict_video, save_checkpoint

SENTENCES = ["the red circle", "the blue star", "the thing on the left", "a green square", "the big cross", "yellow", "the small one", "something that moves to the right"]


def moving(n=20, h=48, w=80):
    "A bright square that moves over a gradient, uint8 [n,h,w,3]."
    y, x = np.mgrid[:h, :w]
    frames = np.stack([np.stack([x * 2 + 20, y * 3 + 30, 200 - x], -1)] * n).astype(np.uint8)
    for t in range(n): frames[t, h // 4:h // 2, (k := (2 * t) % (w - 16)):k + 16] = (255, 40, 40)
    return frames


def segmenter(window=8, **knobs):
    torch.manual_seed(0)
    model = RVOSModel(Config(**{"image_size": (48, 80), "hidden_dim": 16, **knobs})).eval()
    with torch.no_grad():  # an untrained model has no opinion: let neighbouring frames count, and about half of the pixels be marked
        for m in model.temporal.modules():
            if isinstance(m, torch.nn.BatchNorm3d): m.weight *= 5
        if model.motion is not None:
            for m in model.motion.tell.values(): m.weight *= 20
        s = Segmenter(model, window)
        (model.decoder.bias if knobs.get("decoder") == "shared" else model.head.layers[-1]).bias -= float(np.median(s.segment(moving(), "the red circle").logits))
    return s


@pytest.fixture(scope="module")
def frame_by_frame(): return segmenter()


@pytest.fixture(scope="module")
def with_conv3d(): return segmenter(temporal="conv3d")


@pytest.fixture(scope="module")
def with_motion(): return segmenter(temporal="motion")


# --- reading

def write(path, frames, codec, pix_fmt, rate=12, sound=None):
    "A video file of any kind, with sound where a codec for it is named."
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=rate, pix_fmt=pix_fmt)
        stream.height, stream.width = frames.shape[1:3]
        audio = out.add_stream(sound, rate=48000) if sound else None
        for frame in frames: out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode())
        if audio:
            wave = av.AudioFrame.from_ndarray(np.zeros((2, 1024 * 40), np.float32), format="fltp", layout="stereo")
            wave.sample_rate = 48000
            fifo = av.AudioFifo()
            fifo.write(wave)
            while (chunk := fifo.read(audio.frame_size or 1024)) is not None: out.mux(audio.encode(chunk))
            out.mux(audio.encode())


KINDS = [("a.mp4", "libx264", "yuv420p", None, (48, 80)), ("a.mov", "libx264", "yuv420p", "aac", (48, 80)), ("a.webm", "libvpx-vp9", "yuv420p", None, (48, 80)),
         ("a.webm", "libvpx", "yuv420p", "libopus", (48, 80)), ("a.avi", "mpeg4", "yuv420p", None, (48, 80)), ("a.gif", "gif", "rgb8", None, (48, 80)),
         ("a.mp4", "libx264", "yuv444p", None, (47, 81)), ("a.avi", "mjpeg", "yuvj444p", None, (45, 79))]


@pytest.mark.parametrize("name, codec, pix_fmt, sound, size", KINDS, ids=lambda x: str(x))
def test_kinds_of_files(tmp_path, name, codec, pix_fmt, sound, size):
    for c in filter(None, (codec, sound)):
        if c not in av.codecs_available: pytest.skip(f"this PyAV has no {c}")
    frames = moving(10, *size)
    write(tmp_path / name, frames, codec, pix_fmt, sound=sound)
    video = open_video(tmp_path / name)
    assert (video.size, video.name, video.length) == (size, name, 10) and abs(video.fps - 12) < 0.6, video  # a gif counts in hundredths
    back = list(video.read())
    assert [f.index for f in back] == list(range(10)) and len(list(video)) == 10
    assert np.abs(np.stack([f.image for f in back]).astype(int) - frames).mean() < (25 if name == "a.gif" else 8)
    times = np.array([float(f.stamp * video.time_base) for f in back])
    assert np.abs(times - np.arange(10) / 12).max() < 0.06 and times[0] == 0


@pytest.mark.parametrize("degrees, matrix", [(90, (0, 1, -1, 0)), (180, (-1, 0, 0, -1)), (270, (0, -1, 1, 0))])
def test_a_telephone_held_upright(tmp_path, degrees, matrix):
    write_video(tmp_path / "a.mp4", moving(4))
    data = (tmp_path / "a.mp4").read_bytes()
    a, b, c, d = (v << 16 for v in matrix)
    at = data.index(b"tkhd") + 44  # the display matrix of a version 0 track header
    (tmp_path / "turned.mp4").write_bytes(data[:at] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + data[at + 36:])
    lying, turned = np.stack(list(open_video(tmp_path / "a.mp4"))), open_video(tmp_path / "turned.mp4")
    assert turned.size == ((48, 80) if degrees == 180 else (80, 48))
    assert (np.stack(list(turned)) == np.rot90(lying, -degrees // 90, (1, 2))).all()  # the matrix turns clockwise


def test_uneven_pace_is_kept(tmp_path, frame_by_frame):
    stamps = [0, 40, 100, 140, 900, 940]
    with video_writer(tmp_path / "a.mp4", fps=6, time_base=Fraction(1, 1000)) as add:
        for frame, stamp in zip(moving(6), stamps): add(frame, stamp)
    seconds = lambda path: [round(float(f.stamp * v.time_base), 3) for v in [open_video(path)] for f in v.read()]
    assert seconds(tmp_path / "a.mp4") == [s / 1000 for s in stamps]
    predict(frame_by_frame, tmp_path / "a.mp4", "the red circle", tmp_path / "out")
    assert seconds(tmp_path / "out/overlay.mp4") == [s / 1000 for s in stamps]
    predict(frame_by_frame, tmp_path / "a.mp4", "the red circle", tmp_path / "out2", every=2)
    assert seconds(tmp_path / "out2/overlay.mp4") == [0, 0.1, 0.9]


def test_folders_lists_arrays_and_images(tmp_path):
    frames = moving(12)
    for t, f in enumerate(frames): Image.fromarray(f).save(tmp_path / f"frame_{t}.png")  # frame_10 sorts before frame_2 as text
    (tmp_path / "._frame_0.png").write_bytes(b"left by another system")
    (tmp_path / "notes.txt").write_text("not a frame")
    files = [tmp_path / f"frame_{t}.png" for t in range(12)]
    for form in (tmp_path, str(tmp_path), files, [Image.fromarray(f) for f in frames], list(frames), frames, open_video(frames)):
        assert (np.stack(list(open_video(form))) == frames).all()
    for form in (files[0], Image.fromarray(frames[0]), frames[0]): assert (np.stack(list(open_video(form))) == frames[:1]).all()


def test_a_photo_taken_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it upright
    Image.fromarray(moving(1)[0]).save(tmp_path / "a.png", exif=exif)
    assert open_video(tmp_path / "a.png").size == (80, 48)


@pytest.mark.parametrize("every, max_side, size, length", [(1, 0, (48, 80), 20), (3, 0, (48, 80), 7), (1, 40, (24, 40), 20), (20, 33, (20, 33), 1), (1, 500, (48, 80), 20)])
def test_every_and_max_side(every, max_side, size, length):
    video = open_video(moving(), every, max_side)
    frames = list(video.read())
    assert (video.size, video.length, video.fps) == (size, length, 24 / every)
    assert len(frames) == length and frames[0].image.shape[:2] == size and [f.index for f in frames] == list(range(0, 20, every))


def test_no_video(tmp_path):
    (tmp_path / "notes.txt").write_text("the dog\n" * 100)  # FFmpeg would draw the text
    (tmp_path / "notes.mp4").write_text("the dog\n" * 30)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "nothing").mkdir()
    (tmp_path / "a.png").write_bytes(b"not a picture")
    write_video(tmp_path / "a.mp4", moving(40, 96, 160))
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "a.mp4").read_bytes()[:900])
    with av.open(str(tmp_path / "sound.mp4"), "w") as out:
        audio = out.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
        frame.sample_rate = 48000
        out.mux(audio.encode(frame))
        out.mux(audio.encode())
    for slip, words in (("notes.txt", "text, not a video"), ("notes.mp4", "not a video that can be read"), ("empty.mp4", "not a video"), ("nothing", "no pictures in this folder"),
                        ("a.png", "not a picture"), ("cut.mp4", "not a video"), ("none.mp4", "no such video"), ("sound.mp4", "only sound")):
        with pytest.raises(RVOSError, match=words) as e: open_video(tmp_path / slip)
        assert slip in str(e.value) and "\n" not in str(e.value)
    for slip, words in (([], "without frames"), (np.zeros((0, 4, 4, 3), np.uint8), "without frames"), (moving() / 255, "float64"), (moving()[..., 0], "uint8"), (None, "NoneType"), ([1], "int")):
        with pytest.raises(RVOSError, match=words): open_video(slip)
    with pytest.raises(RVOSError, match="frame 1 is 40x24"): list(open_video([moving()[0], moving(1, 24, 40)[0]]))
    for knobs in (dict(every=0), dict(max_side=-1)):
        with pytest.raises(ConfigError, match=next(iter(knobs))): open_video(moving(), **knobs)


# --- sentences

def test_sentences():
    tokenizer = load_tokenizer("demo-bert")
    assert check_sentences("the dog", tokenizer) == ["the dog"] and check_sentences((s for s in ("a\n b ", "c")), tokenizer) == ["a b", "c"]
    for slip, words in (("", "sentence 1 is empty"), (["a", "\t"], "sentence 2 is empty"), ([], "no sentences"), (["a"] * 255, "255 sentences"), ("word " * 80, "expected at most 64"), ([None], "NoneType")):
        with pytest.raises(ConfigError, match=words): check_sentences(slip, tokenizer)


# --- windows

@given(st.integers(0, 40), st.integers(1, 9), st.integers(0, 5))
def test_windows_give_each_item_once_with_its_neighbours(n, size, reach):
    answered = []
    for held, part in windows(range(n), size, reach):
        assert held == list(range(held[0], held[-1] + 1)) and len(held) <= size + 3 * reach
        for i in held[part]: assert {max(0, i - reach), min(n - 1, i + reach)} <= set(held)
        answered += held[part]
    assert answered == list(range(n))


@pytest.mark.parametrize("window", [1, 3, 5, 16])
@pytest.mark.parametrize("kind", ["with_conv3d", "with_motion"])
def test_no_seam(kind, window, request):
    "Windows in other places give the same masks, with a model whose frames depend on each other; plain windows would not."
    video, model = moving(30), request.getfixturevalue(kind)
    a, b = model.segment(video, SENTENCES[:2]), Segmenter(model.model, window).segment(video, SENTENCES[:2])
    assert np.abs(a.logits - b.logits).max() < 1e-4
    assert min(region_similarity(x, y).min() for x, y in zip(a.masks, b.masks)) >= 0.97
    plain = np.concatenate([model.segment(video[t:t + 5], SENTENCES[:2]).masks for t in range(0, 30, 5)], 1)
    assert min(region_similarity(x, y).min() for x, y in zip(a.masks, plain)) < 0.97, "this test cannot see a seam"


@pytest.mark.parametrize("knobs", [dict(), dict(temporal="conv3d"), dict(temporal="conv3d", decoder="x32", pooling="cls", fuse_strides=(32,)), dict(temporal="motion"), dict(temporal="motion", decoder="shared", fuse_strides=(8, 16))])
def test_the_stream_is_the_model_on_the_whole_video(knobs):
    s, frames = segmenter(window=4, **knobs), moving(11)
    assert s.reach == {"conv3d": 3, "motion": 1}.get(knobs.get("temporal"), 0) == temporal_reach(s.model)
    text = s.tokenizer(SENTENCES[:2], padding=True, return_tensors="pt")
    from rvos_nb.draw import normalise
    with torch.inference_mode(): whole = s.model(normalise(torch.from_numpy(frames).movedim(-1, 1))[None], text["input_ids"], text["attention_mask"])[:, :, 0]
    assert np.abs(s.segment(frames, SENTENCES[:2]).logits - whole.numpy()).max() < 1e-4


def test_as_validation_sees_it(tmp_path, frame_by_frame):
    annotations = load_annotations(make_demo_data(tmp_path / "demo", n_train=1, n_val=1, progress=False), "val")
    (video, entry), = annotations.items()
    logits = predict_video(frame_by_frame.model, make_loader(annotations, frame_by_frame.model.cfg, False), video)[1].numpy()
    assert np.abs(frame_by_frame.segment(entry["frames"], [e["expression"] for e in entry["expressions"]]).logits - logits).max() < 1e-3


def test_sentences_share_the_look_and_do_not_disturb_each_other(with_conv3d, monkeypatch):
    looked, look = [], with_conv3d.model.look
    monkeypatch.setattr(with_conv3d.model, "look", lambda x: looked.append(x.shape[1]) or look(x))
    many = SENTENCES + [f"number {i}" for i in range(4)]  # more than are answered at once
    together = with_conv3d.segment(moving(), many).logits
    assert sum(looked) == 20, "each frame is looked at once"
    for s, x in zip(many, together): assert np.abs(with_conv3d.segment(moving(), s).logits[0] - x).max() < 1e-4


# --- answers

def test_masks_are_at_the_videos_size(frame_by_frame):
    result = frame_by_frame.segment(moving(5, 121, 203), SENTENCES[:3])
    assert result.masks.shape == (3, 5, 121, 203) and result.masks.dtype == bool and 0.02 < result.masks.mean() < 0.98
    for n in range(3): assert (((p := result.probabilities(n)) > 0.5) == result.masks[n])[p != 0.5].all()
    found = next(frame_by_frame.stream(moving(5, 121, 203), SENTENCES[:3], progress=False))
    assert (found.masks == result.masks[:, 0]).all() and (found.merged == result.merged()[0]).all() and np.allclose(found.scores, result.frame_scores[:, 0])
    assert np.allclose(found.probabilities, [result.probabilities(n)[0] for n in range(3)])
    assert next(result.overlays()).shape == (121, 203, 3)


def test_enlarged_as_torch_does_it():
    x = np.random.default_rng(0).normal(size=(3, 12, 20)).astype(np.float32)
    for size in ((48, 80), (33, 51), (7, 9)):
        expected = torch.nn.functional.interpolate(torch.from_numpy(x)[None], size=size, mode="bilinear", align_corners=False)[0].numpy()
        assert np.abs(enlarge(x, size) - expected).max() < 1e-4


def test_merged_as_in_the_evaluation():
    logits = np.random.default_rng(0).normal(size=(3, 4, 12, 20)).astype(np.float32)
    entry = {"expressions": [{"annotator": "annot1", "object_id": o, "expression": ""} for o in (1, 2, 3)]}
    assert (merge_logits(logits) == merge(1 / (1 + np.exp(-logits.astype(np.float64))), entry)[0]).all()


def test_scores():
    logits = np.float32([[[[-100, 100], [-3, -4]], [[-1, -2], [-3, -4]]]])  # one sentence, two frames
    assert confidence(logits).tolist() == [[1.0, 0.0]] and video_score(confidence(logits)).tolist() == [1.0]
    assert video_score(np.zeros((2, 3))).tolist() == [0, 0]


# --- files

def test_predict_writes_what_it_says(tmp_path, frame_by_frame):
    write_video(tmp_path / "a.mp4", moving(10, 47, 81), fps=30000 / 1001)
    summary = predict(frame_by_frame, tmp_path / "a.mp4", SENTENCES[:3], tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["masks", "overlay.mp4", "scores.json"]
    with av.open(str(tmp_path / "out/overlay.mp4")) as video:
        stream = video.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt, stream.average_rate) == ("h264", "yuv420p", Fraction(30000, 1001))
        assert (stream.height, stream.width, len(list(video.decode(stream)))) == (48, 82, 10)
    result = frame_by_frame.segment(tmp_path / "a.mp4", SENTENCES[:3])
    files = sorted((tmp_path / "out/masks").iterdir())
    assert [f.name for f in files] == [f"{t:05d}.png" for t in range(10)]
    for file, ids in zip(files, result.merged()):
        with Image.open(file) as im: assert im.mode == "P" and (np.array(im) == ids).all() and bytes(im.palette.palette)[:12] == bytes(davis_palette()[:12])
    assert summary == json.loads((tmp_path / "out/scores.json").read_text("utf-8")) | {"expressions": summary["expressions"]}
    assert summary["complete"] and summary["frames"] == list(range(10)) and [e["expression"] for e in summary["expressions"]] == SENTENCES[:3]
    assert np.allclose([e["score"] for e in summary["expressions"]], result.scores, atol=1e-4) and summary["expressions"][1]["rgb"] == PALETTE[1]


def test_predict_replaces_only_when_asked(tmp_path, frame_by_frame):
    predict(frame_by_frame, moving(4), "one", tmp_path / "out")
    with pytest.raises(RVOSError, match="--overwrite"): predict(frame_by_frame, moving(4), "two", tmp_path / "out")
    predict(frame_by_frame, moving(2), "two", tmp_path / "out", overlay=False, overwrite=True)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["masks", "scores.json"] and len(list((tmp_path / "out/masks").iterdir())) == 2
    (tmp_path / "file").touch()
    with pytest.raises(RVOSError, match="is a file"): predict(frame_by_frame, moving(4), "one", tmp_path / "file")


@pytest.mark.parametrize("error", [RVOSError, KeyboardInterrupt])
def test_an_error_on_the_way_leaves_nothing(tmp_path, frame_by_frame, error):
    def read():
        yield from itertools.islice(good.read(), 9)
        raise error("broken after frame 8")
    good = open_video(moving(20))
    from dataclasses import replace
    with pytest.raises(error): predict(frame_by_frame, replace(good, read=read), "one", tmp_path / "out")
    assert not (tmp_path / "out").exists()


MEMORY = """
import sys, torch
torch.set_num_threads(1)
from rvos_nb.cli import main
assert main(["predict", "--run", sys.argv[1], sys.argv[2], "the red circle", "the blue star", "--out", sys.argv[3]]) == 0
print("peak", next(l.split()[1] for l in open("/proc/self/status") if l.startswith("VmHWM")))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc")
def test_memory_does_not_grow_with_the_video(tmp_path, with_conv3d):
    save_checkpoint(tmp_path / "run/best_model.pth", with_conv3d.model, with_conv3d.model.cfg, 1, {}, [])
    peaks = []
    for n in (200, 2000):
        write_video(tmp_path / f"{n}.mp4", (moving(1, 96, 160)[0] + np.uint8(t % 128) for t in range(n)))
        done = subprocess.run([sys.executable, "-c", MEMORY, tmp_path / "run", tmp_path / f"{n}.mp4", tmp_path / f"out{n}"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert len(list((tmp_path / f"out{n}/masks").iterdir())) == n
        peaks.append(int(done.stdout.split("peak")[1]))
    assert peaks[1] < 1.15 * peaks[0], peaks
    assert peaks[1] - peaks[0] < 2000 * 96 * 160 * 3 / 1024 / 2, "kilobytes: less than half of the frames that are more"
