"Checkpoints: written whole, read as data, built into a model again, refused if foreign."

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from rvos_nb.checkpoints import (
    build_from_checkpoint,
    check_same_run,
    export_model,
    find_checkpoint,
    load_best,
    load_checkpoint,
    load_or_backup,
    run_folder,
    save_checkpoint,
    save_parts,
)
from rvos_nb.config import Config, ConfigError, RVOSError
from rvos_nb.encoders import write_text_encoder
from rvos_nb.model import RVOSModel
from rvos_nb.runtime import backup_path
from rvos_nb.shapes import shape_words
from runs import assert_same
from safetensors.torch import save_file

SMALL = Config.preset("demo", hidden_dim=16, heads=2, image_size=(32, 48))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return RVOSModel(SMALL.model)


@pytest.fixture
def run(model, tmp_path):
    "A run folder with a best and a last model."
    folder = tmp_path / "run"
    for name, epoch in (("best_model.pth", 2), ("last.pth", 3)):
        metrics = {"epoch": epoch, "val_iou": 0.5}
        more = dict(metrics=metrics, history=[metrics])
        save_checkpoint(folder / name, model, SMALL, epoch, **more)
    save_parts(model, folder)
    return folder


def test_a_checkpoint_holds_what_it_takes_to_resume_and_to_rebuild(model, run):
    state = load_checkpoint(run / "last.pth")
    assert {"model", "config", "epoch", "metrics", "history"} == set(state)
    assert_same(state["model"], dict(model.state_dict()))
    assert state["config"] == asdict(SMALL) and state["epoch"] == 3
    optimizer = torch.optim.AdamW(model.parameters())
    more = dict(optimizer=optimizer.state_dict(), epoch_state={"batches": 4})
    save_checkpoint(run / "last.pth", model, SMALL, **more)
    assert load_checkpoint(run / "last.pth")["epoch_state"] == {"batches": 4}
    assert load_checkpoint(backup_path(run / "last.pth"))["epoch"] == 3


def test_a_disk_that_is_full_is_said(model, tmp_path):
    (tmp_path / f".last.pth.{os.getpid()}.tmp").symlink_to("/dev/full")
    with pytest.raises(RVOSError, match="last.pth: cannot be written.*is the disk full.*make room"):
        save_checkpoint(tmp_path / "last.pth", model, SMALL)


def test_which_file_a_run_means(model, tmp_path):
    with pytest.raises(RVOSError, match="no checkpoint; expected"):
        find_checkpoint(tmp_path)
    expected = []
    for name in ("last.previous.pth", "last.pth", "model.safetensors"):
        (tmp_path / name).touch()
        expected.append(find_checkpoint(tmp_path).name == name)
    for name in ("best_model.previous.pth", "best_model.pth"):
        (tmp_path / name).touch()
        expected.append(find_checkpoint(tmp_path).name == name)
    assert all(expected) and find_checkpoint(tmp_path / "last.pth").name == "last.pth"
    assert find_checkpoint(tmp_path, "last.pth").name == "last.pth"


def test_an_unreadable_best_model_gives_way_to_the_one_before(run, capsys):
    best = run / "best_model.pth"
    expected = load_checkpoint(best)
    shutil.copy(best, backup_path(best))
    best.write_bytes(best.read_bytes()[:-100])
    assert_same(load_best(run)[1], expected)
    assert "continuing with best_model.previous.pth" in capsys.readouterr().out
    backup_path(best).unlink()
    with pytest.raises(RVOSError, match="best_model.pth"):
        load_or_backup(best)


# --- is it the same run?


SAME = (
    dict(max_minutes=60.0, checkpoint_minutes=1.0, device="cpu", workers=2, out="a/b", runs="x"),
    dict(single_object=True, epochs=20, patience=3, name="mine", root="elsewhere/"),
)
OTHER = dict(lr=0.1), dict(seed=1), dict(init_from="a"), dict(precision="bf16"), dict(batch_size=4)


def test_which_run_is_the_same():
    state = {"config": asdict(SMALL), "data": "abc", "processes": 1}
    for knobs in SAME:
        check_same_run(state, SMALL.replace(**knobs), "abc", 1)
    for knobs in OTHER:
        with pytest.raises(RVOSError, match=f"runs/a holds another run: {next(iter(knobs))} was"):
            check_same_run(state, SMALL.replace(**knobs, out="runs/a"), "abc", 1)
    with pytest.raises(RVOSError, match="had other files or expressions than the talking shapes"):
        check_same_run(state, SMALL, "abd", 1)
    for before, now in ((1, 2), (2, 1)):
        with pytest.raises(RVOSError, match=f"processes was {before} and is {now} now"):
            check_same_run(state | {"processes": before}, SMALL, "abc", now)


def test_a_new_run_is_named_by_preset_data_and_date(tmp_path):
    cfg = SMALL.replace(root="some/My data!/", runs=str(tmp_path))
    names = [run_folder(cfg, "abc") for _ in range(2)]
    assert names[0].parent == tmp_path and names[0].name.startswith("demo-My_data_-20")
    names[0].mkdir()
    assert run_folder(cfg, "abc") != names[0]
    assert run_folder(cfg.replace(out="x/y"), "abc") == Path("x/y")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "config.json").write_text('{"not": "ours"}')
    assert run_folder(cfg, "abc").name.startswith("demo-My_data_-20")


# --- foreign


class Bomb:
    "What a malicious checkpoint holds: unpickled, it makes a file."

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_foreign_checkpoints_are_refused(tmp_path):
    foreign = {"a.pth": {"x": Bomb(tmp_path / "gone off")}, "b.pth": {"model": {}}, "c.pth": [1, 2]}
    for name, content in foreign.items():
        torch.save(content, tmp_path / name)
        with pytest.raises(RVOSError, match=name):
            load_best(tmp_path / name)
    (tmp_path / "d.pth").write_bytes(b"PK\x03\x04 half")
    with pytest.raises(RVOSError, match="d.pth"):
        load_best(tmp_path / "d.pth")
    with pytest.raises(RVOSError, match="no checkpoint"):
        load_best(tmp_path / "nowhere")
    assert not (tmp_path / "gone off").exists()


def test_a_checkpoint_s_config_is_checked(run, tmp_path):
    path = tmp_path / "c.pth"
    state = torch.load(run / "best_model.pth", weights_only=True)
    knobs = {"unknown_knob": 1}, {"hidden_dim": "many"}, {"decoder": "eval"}
    for wrong in knobs:
        config = state["config"] | {"model": state["config"]["model"] | wrong}
        torch.save(state | {"config": config}, path)
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            load_best(path)
    torch.save(state | {"config": {"hidden_dim": 8}}, path)  # without groups, as in 0.1.0
    with pytest.raises(ConfigError, match="groups data, augment, model"):
        load_best(path)
    torch.save(state | {"model": {"weights": [1, 2]}}, path)
    with pytest.raises(RVOSError, match="more than tensors"):
        load_best(path)


def test_weights_of_another_model_are_named(run):
    state = load_checkpoint(run / "last.pth")
    name = next(iter(state["model"]))
    del state["model"][name]
    with pytest.raises(RVOSError, match="does not fit its own config.*"):
        build_from_checkpoint(state, run)


# --- moved, exported


def test_a_run_can_be_moved_to_a_machine_without_its_text_encoder(tmp_path):
    encoder = write_text_encoder(tmp_path / "encoder", shape_words())
    cfg = SMALL.replace(text_encoder=str(encoder))
    model = RVOSModel(cfg.model)
    save_checkpoint(tmp_path / "run" / "last.pth", model, cfg, 1)
    save_parts(model, tmp_path / "run")
    shutil.rmtree(encoder)
    moved = shutil.move(tmp_path / "run", tmp_path / "elsewhere")
    again, state = load_best(moved)
    assert state["epoch"] == 1 and not again.training
    assert_same(dict(again.state_dict()), dict(model.state_dict()))
    assert again.tokenizer("the red star").input_ids == model.tokenizer("the red star").input_ids


def test_a_model_travels_as_safetensors(run, tmp_path):
    path = export_model(run, tmp_path / "export")
    assert path.read_bytes()[8:9] == b"{" and (tmp_path / "export" / "text_encoder").is_dir()
    model, state = load_best(tmp_path / "export")
    expected, original = load_best(run)
    assert_same(dict(model.state_dict()), dict(expected.state_dict()))
    assert state["config"] == json.loads(json.dumps(original["config"]))
    assert state["epoch"] == original["epoch"] and state["metrics"] == original["metrics"]
    assert load_best(path)[0].state_dict().keys() == expected.state_dict().keys()


def test_broken_safetensors_are_named(run, tmp_path):
    good = export_model(run, tmp_path / "export").read_bytes()
    broken = {
        "half": good[:1000],
        "empty": b"",
        "noise": os.urandom(500),
        "huge": b"\xff" * 8 + good[8:],
    }
    for name, content in broken.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(content)
        with pytest.raises(RVOSError, match=f"{name}.safetensors"):
            load_best(path)
    one = {"a": torch.ones(1)}
    save_file(one, tmp_path / "foreign.safetensors")
    with pytest.raises(RVOSError, match="foreign.safetensors.*export_model"):
        load_best(tmp_path / "foreign.safetensors")
    deep = {"config": "[" * 10**5, "epoch": "1", "metrics": "{}"}
    save_file(one, tmp_path / "mad.safetensors", deep)
    with pytest.raises(RVOSError, match="mad.safetensors"):
        load_best(tmp_path / "mad.safetensors")
