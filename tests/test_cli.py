"The program `rvos` as a user meets it: help, one line for a slip, exit codes."

import subprocess
import sys

import pandas as pd
import pytest

from rvos_nb.cli import main, one_line, preset_in
from rvos_nb.shapes import make_shapes


def rvos(*args):
    "The program in a process of its own."
    code = "import sys; from rvos_nb.cli import main; sys.exit(main())"
    return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    "A data folder of a few clips."
    folder = tmp_path_factory.mktemp("small") / "shapes"
    return make_shapes(folder, n_train=2, n_val=1, n_frames=(4, 5), progress=False)


TRAIN_FLAGS = "--preset --lr --backbone-weights --max-minutes --runs --init-from --max-videos"


@pytest.mark.parametrize(
    "level, words",
    [
        ((), ("data", "train", "evaluate", "predict")),
        (("data",), ("demo", "download", "check", "copy-paste")),
        (("data", "demo"), ("PATH", "--split-kind", "--seed")),
        (("data", "check"), ("PATH",)),
        (("train",), (*TRAIN_FLAGS.split(), "--image-size", "--data", "--frame-stride")),
    ],
)
def test_help_at_every_level(level, words, capsys):
    with pytest.raises(SystemExit) as e:
        main([*level, "--help"])
    out = capsys.readouterr().out
    assert e.value.code == 0 and all(w in out for w in words), out


def test_every_flag_says_what_it_is_for(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    out = capsys.readouterr().out
    assert "climbs" in out and "frames of a training clip" in out  # the comments of Config


def test_a_preset_becomes_the_defaults(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--preset", "report", "--help"])
    assert "(default: resnet50)" in capsys.readouterr().out
    assert preset_in(["train", "--preset=report"]) == "report"
    assert preset_in(["--preset", "demo", "--preset", "report"]) == "report"
    assert preset_in(["--preset"]) == preset_in(["train"]) == "demo"
    assert preset_in(["train", "--data", "X"]) == preset_in(["train", "--data=X"]) == "best"
    assert preset_in(["train", "--data", "X", "--preset", "demo"]) == "demo"


@pytest.mark.parametrize(
    "args, words",
    [
        ("train --lr fast", "--lr"),
        ("train --decoder unet", "bilinear"),
        ("train --clip-len 0", "clip_len = 0: expected 1 or more"),
        ("train --feature-cache", "feature_cache = True: expected freeze_backbone"),
        ("train --image-size 3", "xpected 2"),
        ("train --epoch 3", "did you mean"),
        ("train --preset worst", "report"),
        ("", "data"),
        ("trian", "trian"),
        ("data", "demo"),
        ("data demo", "PATH"),
        ("train --device cuda", "GPU"),
    ],
)
def test_a_slip_gets_one_line_and_code_2(args, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        code = main(args.split())
    except SystemExit as e:
        code = e.code
    err = capsys.readouterr().err
    assert code == 2 and words in err and err.count("\n") == 1 and "Traceback" not in err, err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_bad_data_is_code_1_and_one_line(tmp_path):
    r = rvos("train", "--data", str(tmp_path / "none"), "--out", str(tmp_path / "r"))
    assert r.returncode == 1 and r.stderr.count("\n") == 1 and "no such folder" in r.stderr


@pytest.mark.slow
def test_data_demo_check_and_copy_paste(tmp_path):
    root = tmp_path / "shapes"
    few = ("--train", "3", "--val", "3")
    r = rvos("data", "demo", str(root), *few, "--split-kind", "all", "--seed", "4")
    assert r.returncode == 0 and (root / "DAVIS/ImageSets/2017/val.txt").exists(), r.stderr
    r = rvos("data", "check", str(root))
    assert r.returncode == 0 and "no problems found" in r.stdout, r.stdout + r.stderr
    pasted = tmp_path / "pasted"
    r = rvos("data", "copy-paste", str(root), str(pasted), *few, "--frames", "3")
    assert r.returncode == 0 and (pasted / "DAVIS/ImageSets/2017/train.txt").exists(), r.stderr
    next((root / "DAVIS" / "Annotations" / "480p").glob("*/00001.png")).unlink()
    r = rvos("data", "check", str(root))
    assert r.returncode == 1 and "00001.png" in r.stdout and "1 problem found" in r.stdout
    r = rvos("data", "demo", str(root), "--seed", "5")
    assert r.returncode == 1 and str(root) in r.stderr and r.stderr.strip().count("\n") == 0


@pytest.mark.slow
def test_train_closes_with_the_table_of_evaluate(tmp_path):
    root, run = tmp_path / "shapes", tmp_path / "run"
    assert rvos("data", "demo", str(root), "--train", "3", "--val", "2").returncode == 0
    flags = "--image-size 48 80 --epochs 1 --epoch-size 4 --batch-size 2 --hidden-dim 16"
    args = f"train --preset demo --data {root} --out {run} {flags} --device cpu".split()
    r = rvos(*args)
    assert r.returncode == 0 and "best val IoU" in r.stdout and "J (swapped)" in r.stdout, r.stderr
    assert (run / "samples.jpg").exists() and (run / "curves.png").exists()
    scores = pd.read_csv(run / "scores.csv")
    assert {"best_model.pth", "last.pth"} == set(scores.checkpoint)
    r = rvos(*args, "--lr", "0.1")
    assert r.returncode == 1 and "holds another run: lr was" in r.stderr
    r = rvos(*args, "--epochs", "2")
    assert r.returncode == 0 and "epoch   2" in r.stdout, r.stdout + r.stderr


@pytest.mark.parametrize(
    "args",
    [
        "train --data {data} --out {bad}",
        "train --data {data} --runs {bad}",
        "train --data {data}",
        "data demo {bad}",
        "data copy-paste {data} {bad} --train 1 --val 1 --frames 2",
        "evaluate --predictions {data} --data {data} --out {bad}",
    ],
)
def test_what_cannot_be_written_is_one_line(args, small, tmp_path, monkeypatch, capsys):
    "Below a file nobody can make a folder, not even root."
    (tmp_path / "file").touch()
    bad = tmp_path / "file" / "below"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RVOS_HOME", str(tmp_path / "home" if "bad" in args else bad))
    code = main(args.format(data=small, bad=bad).split())
    err = capsys.readouterr().err
    assert code == 1 and err.count("\n") == 1 and str(bad.parent) in err and "cannot be" in err, err
    assert not (tmp_path / "home" / "cache").exists() and not (tmp_path / "runs").exists()


def test_one_line_reads_boxes_of_any_terminal():
    for bar, line in ("│─", "|-"):
        rows = [" Wrong value for --lr. ", f" {line * 20} ", " --lr FLOAT "]
        box = "+ Title +\n" + "".join(f"{bar}{row}{bar}\n" for row in rows)
        assert one_line(box) == "Wrong value for --lr (expected --lr FLOAT)"
