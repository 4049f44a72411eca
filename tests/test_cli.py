"The program `rvos` as a user meets it: help, one line for a slip, exit codes."
import subprocess
import sys

import pytest
from rvos_nb.cli import main, one_line, preset_in


def rvos(*args):
    code = "import sys; from rvos_nb.cli import main; sys.exit(main())"
    return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True)


@pytest.mark.parametrize("level, words", [((), ("data", "train")), (("data",), ("demo", "check")), (("data", "demo"), ("PATH", "--mix", "--seed")), (("data", "check"), ("PATH",)),
                                          (("train",), ("--preset", "--lr", "--backbone-weights", "--minutes", "--resume", "--init", "--max-videos", "--image-size"))])
def test_help_at_every_level(level, words, capsys):
    with pytest.raises(SystemExit) as e: main([*level, "--help"])
    out = capsys.readouterr().out
    assert e.value.code == 0 and all(w in out for w in words), out


def test_every_flag_says_what_it_is_for(capsys):
    with pytest.raises(SystemExit): main(["train", "--help"])
    out = capsys.readouterr().out
    assert "climbs" in out and "frames a training clip has" in out  # the comments of Config


def test_a_preset_becomes_the_defaults(capsys):
    with pytest.raises(SystemExit): main(["train", "--preset", "report", "--help"])
    assert "(default: resnet50)" in capsys.readouterr().out
    assert preset_in(["train", "--preset=report"]) == preset_in(["--preset", "demo", "--preset", "report"]) == "report" and preset_in(["--preset"]) == "demo"
    assert preset_in(["train"]) == "demo" and preset_in(["train", "--data", "X"]) == preset_in(["train", "--data=X"]) == "best"  # real data has a preset of its own
    assert preset_in(["train", "--data", "X", "--preset", "demo"]) == "demo"


@pytest.mark.parametrize("args, words", [("train --lr fast", "--lr"), ("train --decoder unet", "x32"), ("train --clip-len 0", "clip_len = 0: expected 1 or more"),
                                         ("train --image-size 3", "Expected 2 values"), ("train --epoch 3", "did you mean"), ("train --preset worst", "report"), ("", "data"),
                                         ("trian", "trian"), ("data", "demo"), ("data demo", "PATH"), ("train --device cuda", "GPU")])
def test_a_slip_gets_one_line_and_code_2(args, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try: code = main(args.split())
    except SystemExit as e: code = e.code
    err = capsys.readouterr().err
    assert code == 2 and words in err and err.count("\n") == 1 and "Traceback" not in err, err
    assert not list(tmp_path.iterdir())


def test_bad_data_is_code_1_and_one_line(tmp_path):
    r = rvos("train", "--data", str(tmp_path / "none"), "--out", str(tmp_path / "r"))
    assert r.returncode == 1 and r.stderr.count("\n") == 1 and "no such folder" in r.stderr, r.stderr


def test_data_demo_and_check(tmp_path):
    root = tmp_path / "shapes"
    r = rvos("data", "demo", str(root), "--train", "3", "--val", "2", "--mix", "all", "--seed", "4")
    assert r.returncode == 0 and (root / "DAVIS" / "ImageSets" / "2017" / "val.txt").exists(), r.stderr
    r = rvos("data", "check", str(root))
    assert r.returncode == 0 and "no problems found" in r.stdout, r.stdout + r.stderr
    next((root / "DAVIS" / "Annotations" / "480p").glob("*/00001.png")).unlink()
    r = rvos("data", "check", str(root))
    assert r.returncode == 1 and "00001.png" in r.stdout and "1 problem found" in r.stdout, r.stdout + r.stderr
    r = rvos("data", "demo", str(root), "--seed", "5")
    assert r.returncode == 1 and str(root) in r.stderr and r.stderr.strip().count("\n") == 0, r.stderr


def test_train_from_the_command_line(tmp_path):
    root = tmp_path / "shapes"
    assert rvos("data", "demo", str(root), "--train", "3", "--val", "2").returncode == 0
    args = f"train --preset demo --data {root} --out {tmp_path / 'run'} --image-size 48 80 --epochs 1 --epoch-size 4 --batch-size 2 --hidden-dim 16 --device cpu".split()
    r = rvos(*args)
    assert r.returncode == 0 and "best val IoU" in r.stdout and (tmp_path / "run" / "samples.jpg").exists(), r.stderr
    r = rvos(*args)
    assert r.returncode == 1 and "already holds a run" in r.stderr
    r = rvos(*args, "--resume", "--epochs", "2")
    assert r.returncode == 0 and "epoch   2" in r.stdout, r.stdout + r.stderr


def test_one_line_reads_boxes_of_any_terminal():
    for bar, line in ("│─", "|-"):
        box = f"+ Title +\n{bar} Wrong value for --lr. {bar}\n{bar} {line * 20} {bar}\n{bar} --lr FLOAT {bar}\n"
        assert one_line(box) == "Wrong value for --lr (expected --lr FLOAT)"
