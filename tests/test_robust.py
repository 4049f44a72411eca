"""Things are broken on purpose: processes are killed, disks fill up, numbers stop being numbers.

tests/FAULTS.md has the table.
"""

import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch
from faults_without_protection import PROTECTIONS, without
from rvos_nb import fit as fit_module
from rvos_nb import runtime
from rvos_nb.checkpoints import export_model, load_best, load_checkpoint
from rvos_nb.config import Config, RVOSError
from rvos_nb.datasets import load_annotations, read_meta_expressions
from rvos_nb.fit import Trainer, fit
from rvos_nb.loaders import ClipLoader
from rvos_nb.loss import RVOSLoss
from rvos_nb.runtime import lock_run
from rvos_nb.shapes import make_shapes
from runs import assert_same_run, flags, make_data, tiny

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    "The folder of a run that nothing happened to."
    return fit(tiny(data, tmp_path_factory.mktemp("whole") / "run")).folder


def rvos(*args, **kwargs) -> subprocess.Popen:
    code = "import sys; from rvos_nb.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, *map(str, args)]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return subprocess.Popen(command, **pipes, text=True, **kwargs)


# --- killed


@pytest.fixture(scope="module")
def fork():
    """Starts `fit` in a process of its own, in a fraction of a second: a server that has imported
    everything forks it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rvos_nb.fit"])

    def start(cfg: Config):
        p = context.Process(target=fit, args=(cfg,), daemon=True)
        p.start()
        return p

    return start


def wait_for(condition, process, seconds=120):
    began = time.monotonic()
    while not condition() and process.is_alive() and time.monotonic() - began < seconds:
        time.sleep(0.0005)


def is_writing(last: Path) -> bool:
    "Is last.pth being written? (The second half: in place, which must not be.)"
    if any(last.parent.glob(".last.pth.*.tmp")):
        return True
    return last.exists() and not zipfile.is_zipfile(last)


def wait_for_a_moment(kills: int, rng: random.Random, p, last: Path) -> None:
    "Until the moment for the next kill: anywhere, within a write, or a while after one."
    if kills % 3 == 0:
        p.join(rng.uniform(0.2, 3.0))  # preparations included
        return
    for _ in range(rng.randint(1, 3)):
        wait_for(lambda: not is_writing(last), p)
        wait_for(lambda: is_writing(last), p)
    p.join(rng.uniform(0, 0.005) if kills % 3 == 1 else rng.uniform(0, 0.5))


@pytest.mark.slow
def test_killed_twenty_times_and_resumed_is_the_same_run(data, fork, tmp_path):
    reference = fit(tiny(data, tmp_path / "whole", epochs=10)).folder
    rng = random.Random(0)
    runs = kills = inside = 0
    ended = True
    while kills < 20 or not ended:
        if ended:
            runs += 1
            folder = tmp_path / f"run{runs}"
        last = folder / "last.pth"
        p = fork(tiny(data, folder, epochs=10))
        if kills == 20:
            p.join()  # let it live
        else:
            wait_for_a_moment(kills, rng, p, last)
        ended = not p.is_alive()
        if ended:
            assert p.exitcode == 0
            assert_same_run(reference, folder)
        else:
            os.kill(p.pid, signal.SIGKILL)
            p.join()
            kills += 1
            inside += is_writing(last)
    print(f"{kills} kills in {runs} runs, {inside} of them inside a checkpoint write")
    assert inside >= 3


@pytest.mark.slow
def test_killed_and_resumed_from_the_command_line(data, whole, tmp_path):
    cfg = tiny(data, tmp_path / "run")
    p = rvos("train", *flags(cfg))
    while not (tmp_path / "run" / "history.csv").exists() and p.poll() is None:
        time.sleep(0.005)
    p.kill()
    p.communicate()
    p = rvos("train", *flags(cfg))
    out, err = p.communicate(timeout=900)
    assert p.returncode == 0, out + err
    assert_same_run(whole, tmp_path / "run")


@pytest.mark.slow
def test_the_same_call_goes_on_whatever_it_finds(data, whole, fork, tmp_path):
    "No folder is named. Killed before the first checkpoint, inside a save, and after an epoch."
    runs = tmp_path / "runs"
    cfg = tiny(data, "", runs=str(runs))
    rare = cfg.replace(checkpoint_minutes=0.0, epochs=4)

    def killed_when(cfg, condition) -> Path:
        p = fork(cfg)
        wait_for(lambda: any(runs.glob("*")) and condition(next(runs.glob("*"))), p)
        os.kill(p.pid, signal.SIGKILL)
        p.join()
        (folder,) = runs.iterdir()
        return folder

    folder = killed_when(rare, lambda f: (f / "config.json").exists())
    assert not (folder / "last.pth").exists()
    killed_when(cfg, lambda f: is_writing(f / "last.pth"))
    killed_when(cfg, lambda f: (f / "history.csv").exists() and is_writing(f / "last.pth"))
    killed_when(cfg, lambda f: (f / "best_model.pth").exists())
    for _ in range(2):  # the second one finds it finished
        p = fork(cfg)
        p.join()
        assert p.exitcode == 0 and list(runs.iterdir()) == [folder]
        assert_same_run(whole, folder)


@pytest.mark.slow
def test_a_crash_costs_minutes_and_not_an_epoch(data, fork, tmp_path):
    "last.pth is there long before the first epoch ends."
    last = tmp_path / "run" / "last.pth"
    p = fork(tiny(data, tmp_path / "run", epoch_size=400, epochs=1))
    wait_for(last.exists, p)
    p.kill()
    p.join()
    state = load_checkpoint(last)
    assert state["epoch"] == 0 and state["epoch_state"]["batches"] > 0


@pytest.mark.slow
def test_a_kill_between_two_renames_loses_nothing(data, whole, tmp_path, capsys):
    "The moment at which last.pth has been moved aside and the new one not yet moved in."
    folder = shutil.copytree(whole, tmp_path / "run")
    (folder / "last.pth").unlink()
    (folder / "history.csv").unlink()
    fit(tiny(data, folder))
    out = capsys.readouterr().out
    assert re.search(r"going on with .*: [1-9] of 4 epochs are done", out), out  # not begun anew
    assert_same_run(whole, folder)


@pytest.mark.slow
def test_ctrl_c_saves_and_says_how_to_go_on(data, whole, tmp_path):
    folder = tmp_path / "run"
    cfg = tiny(data, folder, checkpoint_minutes=0.0)
    p = rvos("train", *flags(cfg))
    while not (folder / "history.csv").exists() and p.poll() is None:
        time.sleep(0.005)
    time.sleep(0.05)
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=900)
    assert p.returncode == 130 and f"{folder} holds the state" in out, out + err
    assert "the same command goes on there" in out
    assert "rvos: interrupted" in err and "Traceback" not in err, out + err
    assert load_checkpoint(folder / "last.pth")["epoch"] < 4
    fit(cfg)
    assert_same_run(whole, folder)


@pytest.mark.slow
def test_one_folder_one_run(data, fork, tmp_path):
    cfg = tiny(data, tmp_path / "run", epochs=50)
    p = fork(cfg)
    wait_for((tmp_path / "run" / "last.pth").exists, p)
    with pytest.raises(RVOSError, match="another run is writing there"):
        fit(cfg)
    os.kill(p.pid, signal.SIGKILL)
    p.join()
    with lock_run(tmp_path / "run"):  # a lock does not outlive its process
        pass


# --- checkpoints that cannot be read


class Bomb:
    "What a malicious checkpoint holds: unpickled, it runs a command."

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


SLOW = pytest.mark.slow
DAMAGES = ["half", *(pytest.param(d, marks=SLOW) for d in ("empty", "foreign", "code"))]


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_unreadable_checkpoint_gives_way_to_the_one_before(
    data, whole, tmp_path, capsys, damage
):
    folder = shutil.copytree(whole, tmp_path / "run")
    last = folder / "last.pth"
    if damage == "half":
        last.write_bytes(last.read_bytes()[:5000])
    if damage == "empty":
        last.write_bytes(b"")
    if damage == "foreign":
        torch.save({"state_dict": {}}, last)
    if damage == "code":
        torch.save(Bomb(tmp_path / "gone off"), last)
    fit(tiny(data, folder))
    said = capsys.readouterr().out
    assert re.search(r"last.pth: .*\ncontinuing with last.previous.pth", said)
    assert_same_run(whole, folder)
    assert not (tmp_path / "gone off").exists()


def test_a_malicious_pickle_is_refused_everywhere(data, whole, tmp_path):
    trace, bad = tmp_path / "gone off", tmp_path / "bad.pth"
    state = torch.load(whole / "last.pth", weights_only=True)
    torch.save(state | {"metrics": Bomb(trace)}, bad)  # in what is otherwise a good checkpoint
    (tmp_path / "run").mkdir()
    shutil.copy(bad, tmp_path / "run" / "last.pth")
    backbone = dict(backbone="resnet18", backbone_weights=str(bad))
    uses = (
        lambda: load_best(bad),
        lambda: export_model(bad, tmp_path / "export"),
        lambda: fit(tiny(data, tmp_path / "new", init_from=str(bad))),
        lambda: fit(tiny(data, tmp_path / "run")),
        lambda: fit(tiny(data, tmp_path / "other", **backbone)),
    )
    for use in uses:
        with pytest.raises(RVOSError, match=r"\.pth: cannot be read safely"):
            use()
    assert not trace.exists()


def test_nothing_of_ours_runs_code_from_outside():
    words = "trust_remote_code", "shell=True", "os.system", "os.popen", "pickle.load"
    words += "weights_only=False", "eval(compile", "extractall"
    for f in (ROOT / "rvos_nb").glob("*.py"):
        text = f.read_text(encoding="utf-8")
        for word in words:
            assert word not in text, f"{f.name}: {word}"


# --- numbers that are none, memory that is not there


class Faulty(RVOSLoss):
    "A loss that does something else at its n-th training calls."

    at, calls, what = set(), 0, None

    def forward(self, logits, masks, valid=None, clip_index=None):
        total, parts = super().forward(logits, masks, valid, clip_index)
        if not logits.requires_grad:
            return total, parts
        Faulty.calls += 1
        return (Faulty.what(total) if Faulty.calls in Faulty.at else total), parts


@pytest.fixture
def faulty(monkeypatch):
    def set_up(at, what):
        Faulty.at = set(at)
        Faulty.calls = 0
        Faulty.what = staticmethod(what)
        monkeypatch.setattr(fit_module, "RVOSLoss", Faulty)

    return set_up


def optimizer_steps(state: dict) -> set[float]:
    return {s["step"].item() for s in state["optimizer"]["state"].values()}


def all_finite(state: dict) -> bool:
    return all(v.isfinite().all() for v in state["model"].values())


@pytest.mark.slow
def test_ctrl_c_lets_the_step_end(data, whole, tmp_path, faulty):
    "Pressed in the first half of a step of two batches: the state after the second is saved."

    def press(loss):
        os.kill(os.getpid(), signal.SIGINT)
        return loss

    cfg = tiny(data, tmp_path / "run", checkpoint_minutes=0.0)
    faulty({5}, press)
    with pytest.raises(KeyboardInterrupt):
        fit(cfg)
    state = load_checkpoint(tmp_path / "run" / "last.pth")
    assert (state["epoch"], (state["epoch_state"] or {}).get("batches")) == (1, 2)
    faulty((), press)
    fit(cfg)
    assert_same_run(whole, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("value", [float("nan"), pytest.param(float("inf"), marks=SLOW)])
def test_a_bad_batch_is_named_and_left_out(data, tmp_path, capsys, faulty, value):
    faulty({3}, lambda loss: loss * value)
    result = fit(tiny(data, tmp_path / "run", epochs=2))
    out = capsys.readouterr().out
    said = r"step after batch 4 left out, .*: loss (nan|inf) on \S+ \('.*'\), "
    assert out.count("left out") == 1 and re.search(said, out), out
    assert result.history.drop(columns="peak_gpu_mb").notna().all().all()
    state = load_checkpoint(tmp_path / "run" / "last.pth")
    assert all_finite(state) and optimizer_steps(state) == {3.0}  # of four


def test_a_poisoned_forward_pass_leaves_no_trace_in_running_statistics(data, tmp_path, monkeypatch):
    seen = []

    class Poison(ClipLoader):
        def __iter__(self):
            for batch in super().__iter__():
                seen.append(1)
                if len(seen) == 2:
                    batch["frames"] = batch["frames"] * float("nan")
                yield batch

    make_loader = fit_module.make_loader

    def poisoned(*args, **how):
        loader = make_loader(*args, **how)
        if how["train"]:
            loader.__class__ = Poison
        return loader

    monkeypatch.setattr(fit_module, "make_loader", poisoned)
    result = fit(tiny(data, tmp_path / "run", epochs=1))
    assert len(seen) == 4 and result.history.val_loss.notna().all()
    assert all_finite(load_checkpoint(tmp_path / "run" / "last.pth"))


@pytest.mark.slow
def test_a_run_without_numbers_stops_with_its_last_good_state(data, tmp_path, faulty):
    folder = tmp_path / "run"
    faulty(range(7, 10**6), lambda loss: loss * float("nan"))
    said = rf"5 steps in a row.*lower lr.*{folder} holds the state"
    with pytest.raises(RVOSError, match=said):
        fit(tiny(data, folder))
    state = load_checkpoint(folder / "last.pth")
    assert all_finite(state) and optimizer_steps(state) == {3.0}


@pytest.mark.slow
def test_out_of_memory_names_the_knobs_and_saves(data, whole, tmp_path, faulty):
    folder = tmp_path / "run"

    def oom(loss):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    faulty({8}, oom)
    cfg = tiny(data, folder, checkpoint_minutes=0.0)
    knobs = r"batch_size = 2, clip_len = 2, image_size = \(32, 48\)"
    where = rf"--init-from {folder}.*epoch 2, after batch 2; the same command goes on"
    with pytest.raises(RVOSError, match=rf"out of memory.*{knobs}.*{where}"):
        fit(cfg)
    faulty((), oom)
    fit(cfg)
    assert_same_run(whole, folder)


@pytest.mark.slow
def test_a_full_disk_is_said_and_loses_nothing(data, whole, tmp_path, monkeypatch):
    folder, writes = tmp_path / "run", []
    save = fit_module.save_checkpoint

    def on_a_full_disk(path, *args, **kwargs):
        writes.append(path)
        if len(writes) == 4:
            (folder / f".{path.name}.{os.getpid()}.tmp").symlink_to("/dev/full")
        save(path, *args, **kwargs)

    monkeypatch.setattr(fit_module, "save_checkpoint", on_a_full_disk)
    with pytest.raises(RVOSError, match="cannot be written.*is the disk full.*make room"):
        fit(tiny(data, folder))
    fit(tiny(data, folder))
    assert_same_run(whole, folder)


# --- a mounted Drive


@pytest.mark.slow
def test_a_run_on_a_drive_that_goes_and_comes_back(
    data, whole, drive, tmp_path, monkeypatch, capsys
):
    close_epoch = Trainer.close_epoch

    def unreliable(self, row):
        if row["epoch"] == 2:
            drive.rename(tmp_path / "gone")
        if row["epoch"] == 4:
            (tmp_path / "gone").rename(drive)
        close_epoch(self, row)
        assert (drive / "run" / "last.pth").exists() == (row["epoch"] not in (2, 3))

    monkeypatch.setattr(Trainer, "close_epoch", unreliable)
    result = fit(tiny(data, drive / "run"))
    out = capsys.readouterr().out
    assert out.count("cannot copy to") == 1 and out.count("again\n") == 1
    assert result.folder == drive / "run"
    assert_same_run(whole, drive / "run")


@pytest.mark.slow
def test_a_fresh_machine_resumes_from_the_drive(data, whole, drive, tmp_path):
    cfg = tiny(data, drive / "run", checkpoint_minutes=0.0)
    trainer = Trainer(cfg)
    trainer.run_epoch()
    trainer.close()
    shutil.rmtree(tmp_path / "home")  # Colab's disk
    fit(cfg)
    assert_same_run(whole, drive / "run")


@pytest.mark.slow
def test_a_save_within_an_epoch_reaches_the_drive(data, whole, drive, tmp_path, monkeypatch):
    "The machine is lost in the first epoch, after its third batch of eight; then in the second."
    cfg = tiny(data, "", runs=str(drive / "checkpoints"), grad_accum_steps=2)

    class Lost(BaseException):
        "Nothing is written any more."

    for steps, epoch, batches in ((1, 0, 2), (2, 1, 2)):
        after_step = Trainer.after_step

        def lost(self, state):
            after_step(self, state)
            if self.steps == steps:
                raise Lost

        with monkeypatch.context() as m:
            m.setattr(Trainer, "after_step", lost)
            with pytest.raises(Lost):
                fit(cfg)
        shutil.rmtree(tmp_path / "home")  # Colab's disk
        (run,) = (drive / "checkpoints").iterdir()
        state = load_checkpoint(run / "last.pth")
        assert (state["epoch"], state["epoch_state"]["batches"]) == (epoch, batches)
    assert run.name.startswith("demo-shapes-2")
    result = fit(cfg)
    assert result.folder == run
    assert_same_run(whole, run)


def test_another_run_on_a_drive_is_refused_before_any_work(data, drive, tmp_path, monkeypatch):
    one = tiny(data, drive / "run", epochs=1)
    fit(one)
    before = {p: p.stat().st_mtime_ns for p in (drive / "run").rglob("*")}
    shutil.rmtree(tmp_path / "home")
    monkeypatch.setattr(fit_module, "RVOSModel", None)
    monkeypatch.setattr(fit_module, "load_splits", None)
    monkeypatch.setattr(runtime, "in_notebook", lambda: True)
    other = data.parent / "other"
    if not other.exists():
        make_shapes(other, n_train=3, n_val=2, progress=False)
    with pytest.raises(RVOSError) as e:
        fit(one.replace(root=str(other)))
    said = str(e.value)
    assert "had other files or expressions" in said and "`init_from='" in said and "--" not in said
    assert {p: p.stat().st_mtime_ns for p in (drive / "run").rglob("*")} == before


def test_data_on_a_drive_that_is_not_mounted_are_said_to_be_there(drive, tmp_path):
    drive.rmdir()
    for cfg in (tiny(drive / "davis", tmp_path / "run"), tiny("", drive / "run")):
        with pytest.raises(RVOSError, match="Google Drive is not mounted here"):
            fit(cfg)
    assert not (tmp_path / "run").exists() and not drive.exists()


def test_a_drive_that_is_not_there_is_said_before_the_first_step(data, drive):
    drive.rmdir()
    drive.write_text("no folder")
    with pytest.raises(RVOSError, match="Google Drive is not mounted here"):
        fit(tiny(data, drive / "run"))


# --- names and data


BAD_NAMES = "../../outside", "/etc", "..", "a/b", "a\\b", "c:x", "", "a\0b", "x" * 300, "\ud800"


def test_names_stay_in_their_folder(data, tmp_path):
    path = tmp_path / "m.json"
    one = {"exp": "x", "obj_id": 1}
    for name in BAD_NAMES:
        as_video = {name: {"expressions": {"0": one}}}
        as_expression = {"v": {"expressions": {name: one}}}
        for videos in (as_video, as_expression):
            path.write_text(json.dumps({"videos": videos}))
            with pytest.raises(RVOSError, match="m.json"):
                read_meta_expressions(path)
    root = shutil.copytree(data, tmp_path / "copy")
    with open(root / "DAVIS" / "ImageSets" / "2017" / "val.txt", "a") as f:
        f.write("../../../outside\n")
    with pytest.raises(RVOSError, match="val.txt.*plain name"):
        load_annotations(root, "val")


def spoil(root: Path) -> tuple[str, str]:
    "Break a frame of one training video and remove a mask of another; their names."
    bad, other = list(load_annotations(root, "train"))[:2]
    next(root.rglob(f"{bad}/00001.jpg")).write_bytes(b"no picture")
    next(root.rglob(f"{other}/00000.png")).unlink()
    return bad, other


def test_training_stops_before_its_first_step_where_data_is_bad(data, tmp_path, capsys):
    root = shutil.copytree(data, tmp_path / "copy")
    bad, other = spoil(root)
    cfg = tiny(root, tmp_path / "run", epochs=1)
    with pytest.raises(RVOSError, match=r"2 problems.*--skip-bad") as e:
        fit(cfg)
    assert f"{bad}/00001.jpg" in str(e.value) and f"{other}/00000.png" in str(e.value)
    assert not (tmp_path / "run" / "last.pth").exists()
    capsys.readouterr()
    fit(cfg.replace(skip_bad=True))
    out = capsys.readouterr().out
    left_out = ", ".join(sorted([bad, other]))
    assert f"left out 2 videos: {left_out}" in out and "train: 2 videos" in out


# --- the tests themselves


def test_each_protection_can_still_be_taken_out():
    """Edits of faults_without_protection.py fit today's code, and FAULTS.md lists them.

    It takes a quarter of an hour and is run by hand.
    """
    faults = (ROOT / "tests" / "FAULTS.md").read_text(encoding="utf-8")
    for p in PROTECTIONS:
        assert without(p, ROOT) and f"| {p.what} |" in faults, p.what
        file, test = p.test.split("::")
        text = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert f"def {test.split('[')[0]}(" in text, p.test
