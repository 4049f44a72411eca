"Packing, pushing and fetching a run: what goes up, what comes back, what each trouble says."

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hub_server import hub_env, serve_hub
from huggingface_hub import ModelCard as HubCard
from runs import make_data, tiny

from rvos_nb.checkpoints import load_best
from rvos_nb.config import ConfigError, RVOSError
from rvos_nb.fit import fit
from rvos_nb.download import fetch_run, is_hub_id
from rvos_nb.results import report
from rvos_nb.sharing import pack_run, push_run

SHAPES = dict(trained_on="talking shapes", license="apache-2.0")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    "A trained run and, beside it, its evaluation."
    folder = tmp_path_factory.mktemp("hub")
    fit(tiny(make_data(folder), folder / "run", epochs=1))
    report(folder / "scores", run=str(folder / "run"), workers=1)
    return folder / "run"


def rvos(hub, home: Path, *args, token: str = "", **env) -> subprocess.CompletedProcess:
    "The program in a process of its own that knows only this hub."
    env = {**os.environ, **hub_env(hub, home, token), **env}
    code = "import sys; from rvos_nb.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)


def python(hub, home: Path, code: str, token: str = "", **env) -> subprocess.CompletedProcess:
    env = {**os.environ, **hub_env(hub, home, token), **env}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)


def test_names_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "best").mkdir(parents=True)
    assert is_hub_id("me/model") and is_hub_id("me/model@abc123")
    for source in ("runs/best", "clipseg", "a/b/c", "/me/model", "../model", "me/", "me/m@", "~/x"):
        assert not is_hub_id(source), source
    with pytest.raises(ConfigError, match="expected a model's name such as user/name"):
        fetch_run("clipseg")


def test_a_packed_run_answers_as_before_and_names_no_folder_of_this_machine(run, tmp_path):
    packed = pack_run(run, tmp_path / "packed", "me/m", **SHAPES, evaluation=run.parent / "scores")
    before, after = load_best(run)[0], load_best(packed)[0]
    for name, weight in before.state_dict().items():
        assert torch.equal(weight, after.state_dict()[name])
    for path in packed.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert str(run.parent).encode() not in content, path
            assert str(Path.home()).encode() + b"/" not in content, path
            assert path.suffix in (".json", ".safetensors", ".md"), path
    known = json.loads((packed / "config.json").read_text())
    assert known["image_size"] == [32, 48]


def test_the_card_holds_what_was_measured(run, tmp_path):
    packed = pack_run(run, tmp_path / "packed", "me/m", **SHAPES, evaluation=run.parent / "scores")
    card = HubCard.load(packed / "README.md")
    assert (card.data.library_name, card.data.license) == ("rvos_nb", "apache-2.0")
    assert card.data.pipeline_tag == "image-segmentation"
    summary = json.loads((run.parent / "scores" / "summary.json").read_text())
    mine = next(
        r for r in summary["scores"] if (r["source"], r["protocol"]) == ("model", "per_expression")
    )
    told = {r.metric_type: r.metric_value for r in card.data.eval_results}
    assert told == {k: round(mine[k], 2) for k in ("J", "F", "J&F")}
    assert f"| model | {mine['J']:.1f} | {mine['F']:.1f} | {mine['J&F']:.1f} |" in card.text
    for word in ("centre blob", "other video", "95 % interval", 'load_segmenter("me/m")', "Limits"):
        assert word in card.text
    plain = HubCard.load(pack_run(run, tmp_path / "plain", "me/m", **SHAPES) / "README.md")
    assert plain.data.eval_results is None and "Not evaluated" in plain.text


def test_what_is_missing_is_said_and_nothing_is_written(run, tmp_path):
    with pytest.raises(ConfigError, match="--trained-on what that is and with --license"):
        pack_run(run, tmp_path / "packed", "me/m")
    with pytest.raises(RVOSError, match="rvos evaluate --run"):
        pack_run(run, tmp_path / "packed", "me/m", **SHAPES, evaluation=tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    summary = json.loads((run.parent / "scores" / "summary.json").read_text())
    fake = tmp_path / "fake"
    fake.mkdir()
    (fake / "best_model.pth").write_bytes(b"")
    (other / "summary.json").write_text(json.dumps(summary | {"run": str(fake)}))
    with pytest.raises(RVOSError, match="is about .*fake, not about"):
        pack_run(run, tmp_path / "packed", "me/m", **SHAPES, evaluation=other)
    with pytest.raises(ConfigError, match="expected a model's name"):
        push_run(run, "model", **SHAPES)
    assert not (tmp_path / "packed").exists()


def test_a_dry_run_sends_nothing(run, tmp_path):
    with serve_hub() as hub:
        args = ["push", run, "me/m", "--trained-on", "shapes", "--license", "apache-2.0"]
        done = rvos(hub, tmp_path, *args, "--dry-run", tmp_path / "packed")
        assert done.returncode == 0, done.stderr
        assert "me/m, private:" in done.stdout and "MB  model.safetensors" in done.stdout
        assert hub.asked == [] and (tmp_path / "packed" / "README.md").is_file()


@pytest.mark.slow
def test_there_and_back_with_a_pinned_revision(run, tmp_path):
    clip = tmp_path / "clip"
    clip.mkdir()
    for t in range(2):
        cv2.imwrite(str(clip / f"{t}.png"), np.full((40, 64, 3), 90 * t, np.uint8))
    with serve_hub(token="good") as hub:
        args = ["push", run, "me/m", "--trained-on", "shapes", "--license", "apache-2.0"]
        done = rvos(hub, tmp_path / "a", *args, token="good")
        assert done.returncode == 0, done.stderr
        assert hub.repos["me/m"].private
        files = hub.repos["me/m"].at("main")[1]
        assert {"model.safetensors", "config.json", "README.md"} <= set(files)
        first = hub.repos["me/m"].commits[-1][0]
        assert first in done.stdout
        again = rvos(hub, tmp_path / "a", *args, token="good")  # large files are there already
        assert again.returncode == 0
        uploads = [a for a in hub.asked if a.startswith("PUT")]
        assert len(uploads) == len(set(uploads))
        hub.repos["me/m"].add({"model.safetensors": b"no", "evil.py": b"import os"})
        predict = ["predict", clip, "the star", "--out", tmp_path / "out"]
        done = rvos(hub, tmp_path / "b", *predict, "--run", f"me/m@{first}", token="good")
        assert done.returncode == 0, done.stderr
        broken = rvos(hub, tmp_path / "c", *predict, "--run", "me/m", "--overwrite", token="good")
        assert broken.returncode == 1 and "safetensors" in broken.stderr.splitlines()[-1]
        assert not any("evil.py" in a for a in hub.asked if a.startswith("GET"))


FETCH = """
import sys
from rvos_nb.config import RVOSError
from rvos_nb.download import fetch_run
try:
    print(fetch_run(sys.argv[1]))
except RVOSError as e:
    print("error:", e)
"""


@pytest.mark.slow
def test_each_trouble_is_one_line(run, tmp_path):
    packed = pack_run(run, tmp_path / "packed", "me/m", **SHAPES)

    def said(name: str, token: str = "", **env) -> str:
        code = FETCH.replace("sys.argv[1]", repr(name))
        done = python(hub, tmp_path / f"home{len(asked)}", code, token, **env)
        asked.append(name)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    asked = []
    with serve_hub(token="good") as hub:
        hub.add_folder("me/open", packed)
        hub.add_folder("me/gated", packed, gated=403)
        hub.add_folder("me/secret", packed, private=True)
        (tmp_path / "else").mkdir()
        (tmp_path / "else" / "config.json").write_text("{}")
        hub.add_folder("me/else", tmp_path / "else")
        assert Path(said("me/open")).is_dir()
        assert "no such model, or a private one" in said("me/none")
        assert "no such model, or a private one" in said("me/secret")
        assert Path(said("me/secret", token="good")).is_dir()
        assert "gated: ask for access" in said("me/gated")
        assert "no such revision" in said("me/open@0123abc")
        assert "not a model of rvos_nb" in said("me/else")
        assert "not on this machine yet" in said("me/open", HF_HUB_OFFLINE="1")
        wrong = ["push", run, "me/m", "--trained-on", "shapes", "--license", "apache-2.0"]
        done = rvos(hub, tmp_path / "w", *wrong, token="bad")
        assert done.returncode == 1 and "the hub refuses the token" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert "me/m" not in hub.repos
    assert "not on this machine yet" in said("me/open")  # the hub is gone
    done = rvos(hub, tmp_path / "w", *wrong, token="good")
    assert done.returncode == 1 and done.stderr.startswith("rvos: me/m: ")
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


@pytest.mark.slow
def test_a_download_that_broke_off_goes_on(run, tmp_path):
    packed = pack_run(run, tmp_path / "packed", "me/m", **SHAPES)
    code = FETCH.replace("sys.argv[1]", repr("me/m"))
    with serve_hub(cut_at=100_000) as hub:
        hub.add_folder("me/m", packed)
        broken = python(hub, tmp_path / "home", code)
        hub.cut_at = 0
        whole = python(hub, tmp_path / "home", code)
    assert broken.returncode == whole.returncode == 0, broken.stderr + whole.stderr
    folder = Path(whole.stdout.strip())
    weights = (folder / "model.safetensors").read_bytes()
    assert weights == (packed / "model.safetensors").read_bytes()
