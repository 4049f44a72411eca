"`predict` and `rvos predict` as a user meets them: files, exit codes, one line for a slip, Ctrl-C."

import itertools
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from clips import Bright, last_layer, moving, untrained
from PIL import Image
from rvos_nb.checkpoints import load_best, save_checkpoint
from rvos_nb.cli import main
from rvos_nb.config import Config, RVOSError
from rvos_nb.pictures import read_picture
from rvos_nb.draw import PALETTE, video_writer, write_video
from rvos_nb.layout import davis_palette
from rvos_nb.model import RVOSModel
from rvos_nb.parts import resize
from rvos_nb.segmenter import FrameMasks, RVOSSegmenter, Segmenter, predict
from rvos_nb.video import open_video, shapes_clip

PROGRAM = [sys.executable, "-c", "import sys; from rvos_nb.cli import main; sys.exit(main())"]
TEXTS = ["the red circle", "the blue star", "the thing on the left"]
CFG = Config.preset("demo", image_size=(48, 80), hidden_dim=16)


@pytest.fixture(scope="module")
def segmenter():
    return untrained()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    "A run folder with an untrained model."
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("run")
    save_checkpoint(folder / "best_model.pth", RVOSModel(CFG.model), CFG)
    return folder


def names(folder):
    return sorted(p.name for p in folder.iterdir())


# --- the function


def test_predict_writes_what_it_says(tmp_path, segmenter):
    write_video(tmp_path / "a.mp4", moving(10, 47, 81), fps=30000 / 1001)
    out = tmp_path / "out"
    summary = predict(segmenter, tmp_path / "a.mp4", TEXTS, out, progress=False)
    assert names(out) == ["masks", "overlay.mp4", "scores.json"]
    with av.open(str(out / "overlay.mp4")) as video:
        stream = video.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == Fraction(30000, 1001)
        assert (stream.height, stream.width, len(list(video.decode(stream)))) == (48, 82, 10)
    result = segmenter.segment(tmp_path / "a.mp4", TEXTS)
    assert names(out / "masks") == [f"{t:05d}.png" for t in range(10)]
    for file, ids in zip(sorted((out / "masks").iterdir()), result.merged()):
        with Image.open(file) as im:
            assert im.mode == "P" and (np.array(im) == ids).all()
            assert bytes(im.palette.palette)[:12] == bytes(davis_palette()[:12])
    assert json.loads((out / "scores.json").read_text("utf-8")) == json.loads(json.dumps(summary))
    assert summary["complete"] and summary["frames"] == list(range(10))
    rows = summary["expressions"]
    assert [row["expression"] for row in rows] == TEXTS and rows[1]["rgb"] == PALETTE[1]
    assert np.allclose([row["score"] for row in rows], result.scores, atol=1e-4)


def test_uneven_pace_is_kept(tmp_path, segmenter):
    stamps = [0, 40, 100, 140, 900, 940]
    with video_writer(tmp_path / "a.mp4", fps=6, time_base=Fraction(1, 1000)) as add:
        for frame, stamp in zip(moving(6), stamps):
            add(frame, stamp)

    def milliseconds(path):
        video = open_video(path)
        return [round(float(f.stamp * video.time_base) * 1000) for f in video.read()]

    predict(segmenter, tmp_path / "a.mp4", "the red circle", tmp_path / "out")
    assert milliseconds(tmp_path / "out/overlay.mp4") == stamps
    predict(segmenter, tmp_path / "a.mp4", "the red circle", tmp_path / "out2", every=2)
    assert milliseconds(tmp_path / "out2/overlay.mp4") == [0, 100, 900]


def test_predict_replaces_only_when_asked(tmp_path, segmenter):
    out = tmp_path / "out"
    predict(segmenter, moving(4), "one", out)
    with pytest.raises(RVOSError, match="--overwrite"):
        predict(segmenter, moving(4), "two", out)
    predict(segmenter, moving(2), "two", out, overlay=False, overwrite=True)
    assert names(out) == ["masks", "scores.json"] and len(names(out / "masks")) == 2
    (tmp_path / "file").touch()
    with pytest.raises(RVOSError, match="is a file"):
        predict(segmenter, moving(4), "one", tmp_path / "file")


@pytest.mark.parametrize("error", [RVOSError, KeyboardInterrupt])
def test_an_error_on_the_way_leaves_nothing(tmp_path, segmenter, error):
    good = open_video(moving(20))

    def read():
        yield from itertools.islice(good.read(), 9)
        raise error("broken after frame 8")

    with pytest.raises(error):
        predict(segmenter, replace(good, read=read), "one", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- the command


def check(out, n, size, fps, texts):
    "What every prediction holds."
    video = open_video(out / "overlay.mp4")
    assert (video.size, video.length) == (size, n) and abs(video.fps - fps) < 1e-6
    with av.open(str(out / "overlay.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.pix_fmt, stream.codec_context.name) == ("yuv420p", "h264")
    masks = sorted((out / "masks").iterdir())
    assert len(masks) == n
    with Image.open(masks[0]) as im:
        assert im.mode == "P" and im.size == size[::-1]
        assert set(np.unique(im)) <= set(range(len(texts) + 1))
    scores = json.loads((out / "scores.json").read_text("utf-8"))
    assert [e["expression"] for e in scores["expressions"]] == texts and scores["complete"]
    assert [f"{t:05d}.png" for t in scores["frames"]] == [m.name for m in masks]
    assert not [p for p in out.rglob("*") if p.name.startswith(".")]


def test_the_clip_of_shapes(run, tmp_path, capsys):
    texts, out = ["the red circle", "the “blue” star"], tmp_path / "out"
    args = ["predict", "--run", str(run), str(shapes_clip()), *texts, "--out", str(out)]
    assert main(args) == 0
    check(out, 48, (288, 480), fps=12, texts=texts)
    said = capsys.readouterr().out
    assert "orange" in said and "the “blue” star" in said and str(out) in said


def test_flags(run, tmp_path):
    out = tmp_path / "out"
    flags = ["--run", str(run / "best_model.pth"), "--no-overlay", "--every", "7"]
    args = ["predict", str(shapes_clip()), "the red circle", "--out", str(out), *flags]
    assert main([*args, "--max-side", "100"]) == 0
    assert names(out) == ["masks", "scores.json"]
    assert names(out / "masks") == [f"{t:05d}.png" for t in range(0, 48, 7)]
    with Image.open(out / "masks/00000.png") as im:
        assert im.size == (100, 60)


def test_the_expression_decides_about_the_pieces_of_a_mask(run, tmp_path):
    model = load_best(run)[0]
    noise = np.random.default_rng(0).integers(0, 255, (96, 160, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    asked = ["the dog", "all the dogs"]
    found = RVOSSegmenter(model, device="cpu").segment(tmp_path / "noise.png", asked)
    with torch.no_grad():  # so that the mask is in pieces
        low = -float(np.quantile(found.logits, 0.8))
        last_layer(model).bias += low
    save_checkpoint(tmp_path / "one.pth", model, CFG.replace(single_object=True))
    marked = []
    for n, text in enumerate(asked):
        out = tmp_path / f"out{n}"
        args = [str(tmp_path / "noise.png"), text, "--run", str(tmp_path / "one.pth")]
        assert main(["predict", *args, "--out", str(out)]) == 0
        with Image.open(next((out / "masks").iterdir())) as im:
            marked.append(np.array(im) > 0)
    whole = (resize(torch.from_numpy(found.logits) + low, (96, 160)) > 0)[:, 0].numpy()
    share = [shown.sum() / mask.sum() for shown, mask in zip(marked, whole)]
    assert 0 < share[0] < 0.97 < share[1] < 1.1
    assert not (marked[0] & ~whole[0]).mean() > 0.01


def test_a_real_video(run, tmp_path, davis):
    frames = sorted((davis / "DAVIS/JPEGImages/480p/dog").glob("*.jpg"))
    write_video(tmp_path / "dog.mp4", map(read_picture, frames), fps=24)
    args = ["predict", "--run", str(run), str(tmp_path / "dog.mp4"), "the dog", "the grass"]
    assert main([*args, "--out", str(tmp_path / "out")]) == 0
    check(tmp_path / "out", len(frames), (480, 854), fps=24, texts=["the dog", "the grass"])
    args = ["predict", "--run", str(run), str(frames[0].parent), "the dog", "--every", "10"]
    assert main([*args, "--out", str(tmp_path / "out2")]) == 0
    assert len(names(tmp_path / "out2/masks")) == -(-len(frames) // 10)


SLIPS = [
    (["{clip}", ""], 2, "expression 1 is empty"),
    (["{clip}", "the dog", " "], 2, "expression 2 is empty"),
    (["{clip}", "very " * 70 + "long"], 2, "at most 64"),
    (["{clip}"], 2, "no expressions"),
    ([], 2, "PATH"),
    (["{tmp}/none.mp4", "the dog"], 1, "no such video"),
    (["{tmp}/text.mp4", "the dog"], 1, "not a video that can be read"),
    (["{tmp}/text.txt", "the dog"], 1, "text, not a video"),
    (["{tmp}/empty", "the dog"], 1, "no pictures in this folder"),
    (["{tmp}/nothing.gif", "the dog"], 1, "nothing.gif"),
    (["{clip}", "the dog", "--every", "0"], 2, "every = 0"),
    (["{clip}", "the dog", "--max-side", "big"], 2, "--max-side"),
    (["{clip}", "the dog", "--run", "{tmp}"], 1, "no checkpoint"),
    (["{clip}", "the dog", "--run", "{tmp}/none"], 1, "no such run folder"),
    (["{clip}", "the dog", "--device", "tpu"], 2, "--device"),
    (["{clip}", "the dog", "--out", "{tmp}/text.txt"], 1, "is a file"),
]


@pytest.mark.parametrize("args, code, words", SLIPS, ids=[words for *_, words in SLIPS])
def test_a_slip_gets_one_line(run, tmp_path, capsys, args, code, words):
    (tmp_path / "text.txt").write_text("the dog\n" * 100)
    (tmp_path / "text.mp4").write_text("the dog\n")
    without_pictures = b"GIF89a\x01\x00\x01\x00\x00\x00\x00\x00;"
    (tmp_path / "nothing.gif").write_bytes(without_pictures)
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    args = [a.format(clip=shapes_clip(), tmp=tmp_path) for a in args]
    for flag, value in (("--run", run), ("--out", tmp_path / "out")):
        args += [] if flag in args else [flag, str(value)]
    try:
        found = main(["predict", *args])
    except SystemExit as e:
        found = e.code
    said = capsys.readouterr().err
    one_line = said.count("\n") == 1 and "Traceback" not in said
    assert found == code and words in said and one_line, (found, said)
    assert sorted(tmp_path.rglob("*")) == before, "nothing is left behind"


def test_an_earlier_prediction_is_kept(run, tmp_path, capsys):
    args = ["predict", "--run", str(run), str(shapes_clip()), "one", "--every", "24"]
    args += ["--out", str(tmp_path / "out")]
    assert main(args) == 0 and main(args) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main([*args, "--overwrite"]) == 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends a Unix signal")
def test_ctrl_c_leaves_usable_files(run, tmp_path):
    images = (np.full((240, 400, 3), t % 256, np.uint8) for t in range(3000))
    write_video(tmp_path / "long.mp4", images)
    out = tmp_path / "out"
    args = ["predict", "--run", str(run), str(tmp_path / "long.mp4"), "the dog", "--out", str(out)]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    p = subprocess.Popen([*PROGRAM, *args], **pipes)
    deadline = time.monotonic() + 120
    while not list(out.glob(".new-*/masks/00009.png")) and time.monotonic() < deadline:
        time.sleep(0.02)
    p.send_signal(signal.SIGINT)
    said, problems = p.communicate(timeout=120)
    assert p.returncode == 130 and "interrupted after" in said, said + problems
    assert "Traceback" not in problems
    scores = json.loads((out / "scores.json").read_text("utf-8"))
    n = len(scores["frames"])
    assert 10 <= n < 3000 and not scores["complete"] and f"after {n} frames" in said
    assert len(list(open_video(out / "overlay.mp4"))) == len(names(out / "masks")) == n
    assert names(out) == ["masks", "overlay.mp4", "scores.json"]


MEMORY = """
import sys, torch
torch.set_num_threads(1)
from rvos_nb.cli import main
run, video, out = sys.argv[1:]
texts = ["the red circle", "the blue star"]
assert main(["predict", "--run", run, video, *texts, "--out", out]) == 0
print("peak", next(l.split()[1] for l in open("/proc/self/status") if l.startswith("VmHWM")))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc")
def test_memory_does_not_grow_with_the_video(tmp_path):
    cfg = CFG.replace(temporal="conv3d")
    save_checkpoint(tmp_path / "run/best_model.pth", untrained(temporal="conv3d").model, cfg)
    still, peaks = moving(1, 96, 160)[0], []
    for n in (200, 2000):
        write_video(tmp_path / f"{n}.mp4", (still + np.uint8(t % 128) for t in range(n)))
        args = [tmp_path / "run", tmp_path / f"{n}.mp4", tmp_path / f"out{n}"]
        command = [sys.executable, "-c", MEMORY, *args]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert len(names(tmp_path / f"out{n}/masks")) == n
        peaks.append(int(done.stdout.split("peak")[1]))
    assert peaks[1] < 1.15 * peaks[0], peaks
    more = 2000 * 96 * 160 * 3 / 1024  # kilobytes of the frames that are more
    assert peaks[1] - peaks[0] < more / 2


# --- anybody's segmenter


def test_a_segmenter_of_ones_own(tmp_path):
    summary = predict(Bright(), moving(4), ["one", "two"], tmp_path / "out", progress=False)
    assert summary["complete"] and summary["frames"] == [0, 1, 2, 3]
    assert {row["frames_marked"] for row in summary["expressions"]} == {4}
    with Image.open(tmp_path / "out/masks/00000.png") as im:
        assert set(np.unique(im)) == {0, 1}  # equal answers: the first expression wins


class OneIsThere(Segmenter):
    "Marks a corner for the first expression from frame 2 on, and nothing for the others."

    name = "one is there"

    def stream(self, video, expressions):
        for t, frame in enumerate(video.read()):
            logits = np.full((len(expressions), 6, 8), -3.0, np.float32)
            logits[0, :2, :2] = -3 if t < 2 else 2
            yield FrameMasks(frame, logits)


def test_no_such_object(run, tmp_path, capsys):
    "Presence of frame and video in scores.json, and a line in the terminal."
    found = predict(OneIsThere(), moving(4), TEXTS[:2], tmp_path / "a", progress=False)
    written = json.loads((tmp_path / "a/scores.json").read_text("utf-8"))
    first, second = written["expressions"]
    assert written == json.loads(json.dumps(found))
    assert first["present"] and first["presence"] == 0.8808 and first["frames_marked"] == 2
    assert first["frame_presence"] == [0.0474, 0.0474, 0.8808, 0.8808]
    assert not second["present"] and second["presence"] == 0.0474
    model = load_best(run)[0]
    with torch.no_grad():
        last_layer(model).bias -= 100
    save_checkpoint(tmp_path / "none.pth", model, CFG)
    frames = np.zeros((48, 80, 3), np.uint8)
    Image.fromarray(frames).save(tmp_path / "black.png")
    args = [str(tmp_path / "black.png"), "the dog", "--run", str(tmp_path / "none.pth")]
    assert main(["predict", *args, "--out", str(tmp_path / "b")]) == 0
    assert "no such object in this video (presence 0.00): the dog" in capsys.readouterr().out


def test_unread_words_stand_in_scores_json(tmp_path):
    segmenter = untrained()
    segmenter.model.text.known_tokens.fill_(True)
    asked = ["the red circle", "the xyzzy"]
    summary = predict(segmenter, moving(2), asked, tmp_path / "out", progress=False)
    written = json.loads((tmp_path / "out/scores.json").read_text("utf-8"))
    for found in (summary, written):
        assert [row["unread_words"] for row in found["expressions"]] == [[], ["xyzzy"]]


def test_nothing_is_written_for_an_expression_that_cannot_be_read(tmp_path):
    for text in ("\u200b", "собака"):
        with pytest.raises(RVOSError, match="no letter|none of it"):
            predict(untrained(), moving(2), text, tmp_path / "out", progress=False)
    assert list(tmp_path.iterdir()) == []


# --- files that are not whole, and expressions for one object


def cut_off(path, share=0.6):
    "48 frames as an mp4 whose index stands in front, of which a part was downloaded."
    write_video(path, moving(48, 48, 80), fps=12)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])


def test_a_cut_off_file_is_answered_as_far_as_it_goes(run, tmp_path, capsys):
    cut_off(tmp_path / "a.mp4")
    out = tmp_path / "out"
    args = ["predict", tmp_path / "a.mp4", "the circle", "--run", run, "--out", out]
    code = main([str(a) for a in args])
    n = len(list(open_video(tmp_path / "a.mp4")))
    said = capsys.readouterr().out
    summary = json.loads((out / "scores.json").read_text())
    reason = f"ends after {n} of the 48 frames that it announces"
    assert 10 < n < 48 and code == 130
    assert (summary["complete"], summary["reason"]) == (False, reason)
    assert said.count(f"a.mp4: {reason}") == 1
    assert len(names(out / "masks")) == len(summary["frames"]) == n
    assert len(list(open_video(out / "overlay.mp4"))) == n


def test_a_lost_frame_keeps_its_number_in_all_files(segmenter, tmp_path):
    for t, image in enumerate(moving(6, 48, 80)):
        Image.fromarray(image).save(tmp_path / f"{t}.png")
    (tmp_path / "2.png").write_bytes(b"no picture")
    summary = predict(segmenter, tmp_path, TEXTS, tmp_path / "out", progress=False)
    assert (summary["lost_frames"], summary["frames"]) == ([2], [0, 1, 3, 4, 5])
    assert not summary["complete"] and summary["reason"] == "frame 2 cannot be decoded"
    assert names(tmp_path / "out" / "masks") == [f"{t:05d}.png" for t in (0, 1, 3, 4, 5)]
    with av.open(str(tmp_path / "out" / "overlay.mp4")) as video:
        times = [round(24 * frame.time) for frame in video.decode(video=0)]
    assert times == [0, 1, 3, 4, 5]


def test_two_expressions_for_one_object_are_said(tmp_path, capsys):
    texts = ["the circle", "circle"]
    write_video(tmp_path / "a.mp4", moving(4, 48, 80), fps=12)
    summary = predict(Bright(), tmp_path / "a.mp4", texts, tmp_path / "out", progress=False)
    assert summary["overlaps"] == [[1, 2]]
    assert "expressions 1 and 2 mark the same pixels" in capsys.readouterr().out


def test_the_overlay_keeps_the_shape_of_pixels(segmenter, tmp_path):
    frames = moving(4, 48, 80)
    with video_writer(tmp_path / "a.mp4", 25, pixel_aspect=Fraction(2)) as add:
        for frame in frames:
            add(frame)
    assert open_video(tmp_path / "a.mp4").pixel_aspect == 2
    predict(segmenter, tmp_path / "a.mp4", TEXTS, tmp_path / "out", progress=False)
    assert open_video(tmp_path / "out" / "overlay.mp4").pixel_aspect == 2
