"`rvos predict` as a user meets it: files, exit codes, one line for a slip, Ctrl-C."
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace

import av
import numpy as np
import pytest
import torch
from PIL import Image
from rvos_nb.cli import main
from rvos_nb.core import Config
from rvos_nb.draw import write_video
from rvos_nb.inference import Segmenter, demo_clip, open_video
from rvos_nb.model import RVOSModel
from rvos_nb.training import load_best, save_checkpoint

PROGRAM = [sys.executable, "-c", "import sys; from rvos_nb.cli import main; sys.exit(main())"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    "A run folder with an untrained model."
    torch.manual_seed(0)
    cfg = Config(image_size=(48, 80), hidden_dim=16)
    folder = tmp_path_factory.mktemp("run")
    save_checkpoint(folder / "best_model.pth", RVOSModel(cfg), cfg, 1, {}, [])
    return folder


def check(out, n, size, fps, sentences):
    "What every prediction holds."
    video = open_video(out / "overlay.mp4")
    assert (video.size, video.length) == (size, n) and abs(video.fps - fps) < 1e-6
    with av.open(str(out / "overlay.mp4")) as container: assert container.streams.video[0].pix_fmt == "yuv420p" and container.streams.video[0].codec_context.name == "h264"
    masks = sorted((out / "masks").iterdir())
    assert len(masks) == n
    with Image.open(masks[0]) as im: assert im.mode == "P" and im.size == size[::-1] and set(np.unique(im)) <= set(range(len(sentences) + 1))
    scores = json.loads((out / "scores.json").read_text("utf-8"))
    assert [e["expression"] for e in scores["expressions"]] == sentences and scores["complete"] and [f"{t:05d}.png" for t in scores["frames"]] == [m.name for m in masks]
    assert not [p for p in out.rglob("*") if p.name.startswith(".")]


def test_demo_clip(run, tmp_path, capsys):
    sentences = ["the red circle", "the “blue” star"]
    assert main(["predict", "--run", str(run), str(demo_clip()), *sentences, "--out", str(tmp_path / "out")]) == 0
    check(tmp_path / "out", 48, (288, 480), 12, sentences)
    out = capsys.readouterr().out
    assert "orange" in out and "the “blue” star" in out and str(tmp_path / "out") in out


def test_flags(run, tmp_path):
    assert main(["predict", str(demo_clip()), "the red circle", "--out", str(tmp_path / "out"), "--run", str(run / "best_model.pth"), "--no-overlay", "--every", "7", "--max-side", "100"]) == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["masks", "scores.json"]
    assert [m.name for m in sorted((tmp_path / "out/masks").iterdir())] == [f"{t:05d}.png" for t in range(0, 48, 7)]
    assert Image.open(tmp_path / "out/masks/00000.png").size == (100, 60)


def test_all_pieces(run, tmp_path):
    model = load_best(run)[0]
    model.cfg = cfg = replace(model.cfg, one_object=True)
    noise = np.random.default_rng(0).integers(0, 255, (96, 160, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    logits = Segmenter(model).segment(tmp_path / "noise.png", ["the dog"]).logits
    with torch.no_grad(): model.head.layers[-1].bias -= float(np.quantile(logits, 0.8))  # so that the mask is in pieces
    save_checkpoint(tmp_path / "one.pth", model, cfg, 1, {}, [])
    marked = {}
    for flags in ((), ("--all-pieces",)):
        assert main(["predict", str(tmp_path / "noise.png"), "the dog", "--run", str(tmp_path / "one.pth"), "--out", str(tmp_path / f"out{len(flags)}"), *flags]) == 0
        with Image.open(next((tmp_path / f"out{len(flags)}/masks").iterdir())) as im: marked[len(flags)] = np.array(im) > 0
    assert 0 < marked[0].sum() < marked[1].sum() and not (marked[0] & ~marked[1]).any()


def test_real_video(run, tmp_path, davis):
    from rvos_nb.data import read_frame
    frames = sorted((davis / "DAVIS/JPEGImages/480p/dog").glob("*.jpg"))
    write_video(tmp_path / "dog.mp4", map(read_frame, frames), fps=24)
    assert main(["predict", "--run", str(run), str(tmp_path / "dog.mp4"), "the dog", "the grass", "--out", str(tmp_path / "out")]) == 0
    check(tmp_path / "out", len(frames), (480, 854), 24, ["the dog", "the grass"])
    assert main(["predict", "--run", str(run), str(frames[0].parent), "the dog", "--out", str(tmp_path / "out2"), "--every", "10"]) == 0
    assert len(list((tmp_path / "out2/masks").iterdir())) == -(-len(frames) // 10)


@pytest.mark.parametrize("args, code, words", [
    (["{clip}", ""], 2, "sentence 1 is empty"), (["{clip}", "the dog", " "], 2, "sentence 2 is empty"), (["{clip}", "very " * 70 + "long"], 2, "at most 64"), (["{clip}"], 2, "no sentences"),
    ([], 2, "PATH"), (["{tmp}/none.mp4", "the dog"], 1, "no such video"), (["{tmp}/text.mp4", "the dog"], 1, "not a video that can be read"), (["{tmp}/text.txt", "the dog"], 1, "text, not a video"),
    (["{tmp}/empty", "the dog"], 1, "no pictures in this folder"), (["{tmp}/nothing.gif", "the dog"], 1, "nothing.gif"), (["{clip}", "the dog", "--every", "0"], 2, "every = 0"),
    (["{clip}", "the dog", "--max-side", "big"], 2, "--max-side"), (["{clip}", "the dog", "--run", "{tmp}"], 1, "no checkpoint"), (["{clip}", "the dog", "--device", "tpu"], 2, "--device"),
    (["{clip}", "the dog", "--out", "{tmp}/text.txt"], 1, "is a file")])
def test_a_slip_gets_one_line(run, tmp_path, capsys, args, code, words):
    (tmp_path / "text.txt").write_text("the dog\n" * 100)
    (tmp_path / "text.mp4").write_text("the dog\n")
    (tmp_path / "nothing.gif").write_bytes(b"GIF89a\x01\x00\x01\x00\x00\x00\x00;")  # a gif without pictures
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    args = [a.format(clip=demo_clip(), tmp=tmp_path) for a in args]
    defaults = [x for flag, value in (("--run", run), ("--out", tmp_path / "out")) if flag not in args for x in (flag, str(value))]
    try: found = main(["predict", *args, *defaults])
    except SystemExit as e: found = e.code
    err = capsys.readouterr().err
    assert found == code and words in err and err.count("\n") == 1 and "Traceback" not in err, (found, err)
    assert sorted(tmp_path.rglob("*")) == before, "nothing is left behind"


def test_an_earlier_prediction_is_kept(run, tmp_path, capsys):
    args = ["predict", "--run", str(run), str(demo_clip()), "one", "--out", str(tmp_path / "out"), "--every", "24"]
    assert main(args) == 0 and main(args) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main([*args, "--overwrite"]) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="sends a Unix signal")
def test_ctrl_c_leaves_usable_files(run, tmp_path):
    write_video(tmp_path / "long.mp4", (np.full((240, 400, 3), t % 256, np.uint8) for t in range(3000)))
    p = subprocess.Popen([*PROGRAM, "predict", "--run", str(run), str(tmp_path / "long.mp4"), "the dog", "--out", str(tmp_path / "out")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "out").glob(".new-*/masks/00009.png")) and time.monotonic() < deadline: time.sleep(0.02)
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=120)
    assert p.returncode == 130 and "interrupted after" in out and "Traceback" not in err, out + err
    scores = json.loads((tmp_path / "out/scores.json").read_text("utf-8"))
    n = len(scores["frames"])
    assert 10 <= n < 3000 and not scores["complete"] and f"after {n} frames" in out
    assert len(list(open_video(tmp_path / "out/overlay.mp4"))) == len(list((tmp_path / "out/masks").iterdir())) == n
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["masks", "overlay.mp4", "scores.json"]
