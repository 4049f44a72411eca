"From a video of one's own to masks of a model that was fine-tuned on it, through the program."

import json
from pathlib import Path

import numpy as np
import pytest
from rvos_nb.cli import main
from rvos_nb.config import Config, RVOSError, config_from_dict
from rvos_nb.corrections import extract_frames
from rvos_nb.draw import write_video
from rvos_nb.fit import fit
from rvos_nb.layout import write_ids
from rvos_nb.pictures import picture_files, read_picture
from rvos_nb.sharing import ModelCard, run_settings, train_words
from runs import make_data, tiny

N = 12  # frames of a clip
SIDE = 14
COLOURS = {"red": (220, 40, 40), "blue": (40, 60, 220)}


def places(t, n):
    "Rows and columns of the objects 1 and 2 in frame `t` of clip `n`."
    return {1: (4 + n, 4 + 3 * t), 2: (26 - n, 60 - 3 * t)}


def film(path, n):
    "An mp4 of two squares that pass each other."
    rng = np.random.default_rng(n)
    frames = []
    for t in range(N):
        frame = rng.integers(60, 90, (48, 80, 3), dtype=np.uint8)
        for (y, x), colour in zip(places(t, n).values(), COLOURS.values()):
            frame[y : y + SIDE, x : x + SIDE] = colour
        frames.append(frame)
    write_video(path, frames)
    return path


def label(root, clip, n):
    "Draw the masks of the frames that are there, and say what the objects are called."
    (root / "masks" / clip).mkdir(parents=True)
    for frame in picture_files(root / "frames" / clip):
        ids = np.zeros((48, 80), np.uint8)
        for o, (y, x) in places(int(frame.stem), n).items():
            ids[y : y + SIDE, x : x + SIDE] = o
        write_ids(root / "masks" / clip / f"{frame.stem}.png", ids)
    with open(root / "expressions.csv", "a") as table:
        for o, colour in enumerate(COLOURS, 1):
            table.write(f"{clip},{o},the {colour} square\n")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    "A run on other data, to start from."
    folder = tmp_path_factory.mktemp("base")
    cfg = tiny(make_data(folder), folder / "run", epochs=1, epoch_size=4)
    fit(cfg.replace(augment=False, grad_accum_steps=1))
    return folder / "run"


def say(*args):
    "The program's exit code."
    return main([str(a) for a in args])


def test_from_a_video_to_a_model_that_saw_it(base, tmp_path, capsys):
    mine, data, run = tmp_path / "mine", tmp_path / "data", tmp_path / "run"
    clips = [film(tmp_path / f"clip {n}.mp4", n) for n in range(3)]
    for n, clip in enumerate(clips):
        assert say("data", "frames", clip, mine, "--every", 3) == 0
        label(mine, f"clip-{n}", n)
    said = capsys.readouterr().out
    assert "4 frames" in said and f"rvos data check {mine}" in said
    assert say("data", "check", mine) == 0
    assert say("data", "convert", mine, data, "--val-fraction", 0.34) == 0
    flags = ["--epochs", 4, "--lr", 0.01, "--epoch-size", 60, "--val-every", 4]
    start = ["train", "--init-from", base, "--data", data, "--out", run, "--device", "cpu"]
    assert say(*start, *flags) == 0
    J = {}
    for name, folder in {"before": base, "after": run}.items():
        out = tmp_path / name
        assert say("evaluate", "--run", folder, "--data", data, "--out", out) == 0
        summary = json.loads((out / "summary.json").read_text())
        rows = {(r["protocol"], r["source"]): r["J"] for r in summary["scores"]}
        J[name] = rows["per_expression", "model"]
        assert {c["control"] for c in summary["language_controls"]} >= {"swapped"}
    assert J["after"] > J["before"] + 20, J
    out = tmp_path / "found"
    assert say("predict", clips[0], "the red square", "--run", run, "--out", out) == 0
    masks = [read_picture(p).any(-1) for p in picture_files(out / "masks")]
    assert len(masks) == N
    y, x = places(6, 0)[1]
    true = np.zeros((48, 80), bool)
    true[y : y + SIDE, x : x + SIDE] = True
    assert (masks[6] & true).sum() > 0.4 * (masks[6] | true).sum()


# --- frames


def test_frames_have_the_numbers_of_the_video(tmp_path):
    clip = film(tmp_path / "Clip one.mp4", 0)
    folder = extract_frames(clip, tmp_path / "mine", every=5)
    assert folder == tmp_path / "mine" / "frames" / "Clip-one"
    assert [p.name for p in picture_files(folder)] == ["00000.jpg", "00005.jpg", "00010.jpg"]
    for path in picture_files(folder):
        y, x = places(int(path.stem), 0)[1]
        assert np.abs(read_picture(path)[y + 5, x + 5] - np.array(COLOURS["red"])).max() < 60
    table = tmp_path / "mine" / "expressions.csv"
    table.write_text("video,object,expression\nmine,1,x\n")
    again = extract_frames(folder, tmp_path / "mine", every=1, max_side=40, name="small")
    assert read_picture(picture_files(again)[0]).shape == (24, 40, 3)
    assert table.read_text().endswith("mine,1,x\n"), "what is said stays"


def test_all_frames_or_none(tmp_path, capsys):
    clip, mine = film(tmp_path / "clip.mp4", 0), tmp_path / "mine"
    extract_frames(clip, mine)
    before = sorted(mine.rglob("*"))
    (tmp_path / "text.mp4").write_text("no video")
    slips = {
        "is there; another clip needs another": dict(video=clip),
        "plain name": dict(video=clip, name="../up"),
        "not a video": dict(video=tmp_path / "text.mp4"),
        "no such video": dict(video=tmp_path / "none.mp4"),
        "every = 0": dict(video=clip, every=0, name="b"),
    }
    for said, how in slips.items():
        with pytest.raises(RVOSError, match=said):
            extract_frames(root=mine, **how)
    frames = [np.zeros((24, 40, 3), np.uint8), np.zeros((12, 20, 3), np.uint8)]
    with pytest.raises(RVOSError, match="expected one size"):  # after the first was written
        extract_frames(frames, mine, every=1, name="broken")
    assert sorted(mine.rglob("*")) == before
    capsys.readouterr()
    assert say("data", "frames", clip, tmp_path / "text.mp4") == 1
    assert capsys.readouterr().err.count("\n") == 1


# --- a run to start from


def test_settings_go_along_with_the_weights(base):
    cfg = run_settings(base)
    assert (cfg.model.hidden_dim, cfg.optim.epochs) == (16, 1) and cfg.run.out == ""
    assert cfg.run.init_from == str(base / "best_model.pth")
    assert (Path(cfg.model.text_encoder) / "config.json").exists()


@pytest.mark.parametrize("change, said", [(["--hidden-dim", "32"], "size mismatch"), ([], "")])
def test_a_model_that_differs_is_refused(base, tmp_path, capsys, change, said):
    args = ["train", "--init-from", base, "--out", tmp_path / "new", "--device", "cpu"]
    done = say(*args, *change, "--epoch-size", 2, "--seed", 5)
    err = capsys.readouterr().err
    assert done == int(bool(said)) and said in err
    if said:
        assert "do not fit this config" in err and not (tmp_path / "new").exists()
        assert say("train", "--init-from", tmp_path / "none") == 1
    else:
        new = config_from_dict(json.loads((tmp_path / "new" / "config.json").read_text()))
        old = config_from_dict(json.loads((base / "config.json").read_text()))
        assert (new.data.root, new.model.hidden_dim) == (old.data.root, old.model.hidden_dim)


def test_a_card_says_what_a_run_started_from(base):
    cfg = run_settings(base).replace(init_from="user/name", lr=1e-4, name="demo")
    card = ModelCard("me/mine", cfg, epoch=3, trained_on="my clips", license="mit").text()
    assert "starting from the weights of `user/name`" in card
    command = card.partition("```bash\nrvos train")[2].partition("\n```")[0]
    assert "--init-from user/name" in command and "--lr 0.0001" in command
    assert "hidden-dim" not in command and "--preset" not in command
    plain = train_words(Config.preset("best", root="X", augment=False))
    assert plain == "rvos train --preset best --data X --no-augment".split()
