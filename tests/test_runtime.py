"Whole or absent files, folders of results, data that is made once, locks, Ctrl-C, device."

import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from rvos_nb import runtime
from rvos_nb.config import ConfigError, RVOSError
from rvos_nb.runtime import (
    already_made,
    atomic_file,
    backup_path,
    cache_dir,
    defer_sigint,
    describe_machine,
    lock,
    knob,
    lock_run,
    made_once,
    make_folder,
    mount_drive,
    new_outputs,
    on_mounted_drive,
    pick_device,
    pick_precision,
    read_tensors,
    seed_everything,
    write_text,
)


def python(code: str, *args) -> subprocess.Popen:
    "A process of its own that runs `code`."
    command = [sys.executable, "-c", code, *map(str, args)]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen(command, **pipes)


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("RVOS_HOME", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("RVOS_HOME")
    assert cache_dir().name == "rvos_nb"


# --- files


def test_atomic_file_keeps_the_old_on_error(tmp_path):
    write_text(tmp_path / "a", "old")
    with pytest.raises(ZeroDivisionError):
        with atomic_file(tmp_path / "a", keep_backup=True) as tmp:
            tmp.write_text("half")
            1 / 0
    assert (tmp_path / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_atomic_files_keep_one_before(tmp_path):
    path = tmp_path / "a.pth"
    for n in range(3):
        with atomic_file(path, keep_backup=True) as tmp:
            tmp.write_text(str(n))
    assert (path.read_text(), backup_path(path).read_text()) == ("2", "1")
    assert len(list(tmp_path.iterdir())) == 2


def test_a_write_is_synced_before_it_is_renamed(tmp_path, monkeypatch):
    "A kill leaves what was handed to the system; a power cut, only what was synced."
    done = []

    def noted(name):
        real = getattr(os, name)

        def call(*args):
            done.append(name)
            return real(*args)

        return call

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, noted(name))
    with atomic_file(tmp_path / "a") as tmp:
        tmp.write_text("a")
    assert done == ["fsync", "replace", "fsync"]  # the file, its name, the folder
    assert (tmp_path / "a").read_text() == "a"


def test_each_protection_of_a_write_has_a_name(tmp_path, monkeypatch):
    done = []
    for name in ("_sync_file", "_keep_backup", "_sync_folder"):
        monkeypatch.setattr(runtime, name, lambda path, name=name: done.append((name, path)))
    with atomic_file(tmp_path / "a", keep_backup=True) as tmp:
        tmp.write_text("a")
    names = ["_sync_file", "_keep_backup", "_sync_folder"]
    assert done == list(zip(names, [tmp, tmp_path / "a", tmp_path]))


KILLED_WRITE = """
import os, sys
from pathlib import Path
from rvos_nb.runtime import atomic_file
with atomic_file(Path(sys.argv[1])) as tmp:
    tmp.write_text("half")
    os.kill(os.getpid(), 9)
"""


@pytest.mark.slow
def test_a_killed_write_leaves_the_old_file(tmp_path):
    write_text(tmp_path / "a", "old")
    assert python(KILLED_WRITE, tmp_path / "a").wait() == -signal.SIGKILL
    assert (tmp_path / "a").read_text() == "old"


def test_a_full_disk_leaves_the_old_file(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    write_text(tmp_path / "a", "old")
    (tmp_path / f".a.{os.getpid()}.tmp").symlink_to("/dev/full")
    with pytest.raises(RVOSError, match="cannot be written .No space left.*is the disk full"):
        write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


# --- folders of results

NAMES = ("masks", "overlay.mp4", "scores.json")


def write_results(out, text: str, error: Exception | None = None, **options) -> None:
    "A folder and two files that belong together; `error` comes when all but the marker is there."
    with new_outputs(out, NAMES, options.get("overwrite", False), "an earlier prediction") as new:
        write_text(new / "masks" / "0.png", text)
        if options.get("overlay", True):
            write_text(new / "overlay.mp4", text)
        if error:
            raise error
        write_text(new / "scores.json", text)


def content(out: Path) -> dict[str, str]:
    return {p.relative_to(out).as_posix(): p.read_text() for p in out.rglob("*") if p.is_file()}


def whole(text: str) -> dict[str, str]:
    return dict.fromkeys(("masks/0.png", "overlay.mp4", "scores.json"), text)


def test_results_appear_as_a_whole(tmp_path):
    write_results(tmp_path / "deep" / "out", "a")
    assert content(tmp_path / "deep" / "out") == whole("a")


def test_results_are_replaced_only_when_asked(tmp_path):
    write_results(tmp_path, "a")
    write_text(tmp_path / "mine.txt", "mine")
    with pytest.raises(RVOSError, match=r"an earlier prediction \(masks\).*--overwrite"):
        write_results(tmp_path, "b")
    assert content(tmp_path) == whole("a") | {"mine.txt": "mine"}
    write_results(tmp_path, "b", overwrite=True, overlay=False)  # the old overlay goes, too
    assert content(tmp_path) == {"masks/0.png": "b", "scores.json": "b", "mine.txt": "mine"}


def test_results_do_not_go_into_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RVOSError, match="is a file; name a folder"):
        write_results(tmp_path / "file", "a", overwrite=True)


@pytest.mark.parametrize("error", [RVOSError("x"), KeyboardInterrupt(), OSError("full")])
def test_an_error_on_the_way_leaves_what_was_there(tmp_path, error):
    with pytest.raises(type(error)):
        write_results(tmp_path / "out", "a", error)
    assert not (tmp_path / "out").exists()
    write_results(tmp_path / "out", "b")
    with pytest.raises(type(error)):
        write_results(tmp_path / "out", "c", error, overwrite=True)
    assert content(tmp_path / "out") == whole("b")
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.parametrize("step", range(6))
def test_results_without_their_marker_are_not_whole(tmp_path, monkeypatch, step):
    "An end between any two of the six steps leaves the old marker with old results, or no marker."
    write_results(tmp_path, "a")
    steps = iter(range(6))

    def counted(function):
        def call(*args):
            if next(steps) == step:
                raise KeyboardInterrupt
            return function(*args)

        return call

    def swap_in(*args):
        monkeypatch.setattr(runtime, "_remove", counted(runtime._remove))
        monkeypatch.setattr(os, "replace", counted(os.replace))
        swap(*args)

    swap = runtime._swap_in
    monkeypatch.setattr(runtime, "_swap_in", swap_in)
    with pytest.raises(KeyboardInterrupt):
        write_results(tmp_path, "b", overwrite=True)
    found = content(tmp_path)
    assert found == whole("a") if "scores.json" in found else len(found) < 3


def test_what_a_killed_process_left_is_in_nobodys_way(tmp_path):
    write_text(tmp_path / f".new-{os.getpid()}" / "masks" / "9.png", "of a process of this number")
    write_results(tmp_path, "a")
    assert content(tmp_path) == whole("a")


def test_a_link_to_a_folder_is_replaced_and_not_followed(tmp_path):
    write_text(tmp_path / "elsewhere" / "0.png", "mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "masks").symlink_to(tmp_path / "elsewhere")
    write_results(tmp_path / "out", "a", overwrite=True)
    assert content(tmp_path / "out") == whole("a")
    assert (tmp_path / "elsewhere" / "0.png").read_text() == "mine"


# --- weights


class Bomb:
    "What a malicious checkpoint holds: unpickled, it runs a command."

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


def test_a_malicious_pickle_is_refused(tmp_path):
    torch.save({"model": {"a": torch.ones(1)}, "metrics": Bomb(tmp_path / "x")}, tmp_path / "a.pth")
    with pytest.raises(RVOSError, match=r"a\.pth: cannot be read safely"):
        read_tensors(tmp_path / "a.pth")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("data", [b"", b"noise", b"PK\x03\x04", b"\x80\x02}q\x00."])
def test_broken_weights_are_named(tmp_path, data):
    (tmp_path / "a.pth").write_bytes(data)
    with pytest.raises(RVOSError, match=r"a\.pth: cannot be read safely"):
        read_tensors(tmp_path / "a.pth")


def test_weights_come_back(tmp_path):
    torch.save({"a": torch.arange(3), "epoch": 4}, tmp_path / "a.pth")
    state = read_tensors(tmp_path / "a.pth")
    assert state["epoch"] == 4
    assert torch.equal(state["a"], torch.arange(3))
    with pytest.raises(RVOSError, match=r"b\.pth: no such file"):
        read_tensors(tmp_path / "b.pth")
    with pytest.raises(RVOSError, match="cannot be read safely"):
        read_tensors(tmp_path)


# --- locks

HOLDER = """
import sys, time
from rvos_nb.runtime import lock_run
held = lock_run(sys.argv[1])
print("held", flush=True)
time.sleep(60)
"""


@pytest.mark.slow
def test_one_folder_one_run_and_a_lock_dies_with_its_process(tmp_path):
    holder = python(HOLDER, tmp_path)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(RVOSError, match="another run is writing there.*--out"):
        lock_run(tmp_path)
    holder.kill()
    holder.communicate()
    with lock_run(tmp_path):
        pass


def test_a_lock_makes_its_folder_and_can_be_taken_again(tmp_path):
    for _ in range(2):
        with lock(tmp_path / "a" / "data", timeout=0):
            pass
    assert (tmp_path / "a").is_dir()


# --- Ctrl-C

LOOP = """
import signal
import time
from rvos_nb.runtime import defer_sigint
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's & ignores it
steps = 0
with defer_sigint() as asked:
    print("ready", flush=True)
    began = time.monotonic()
    while time.monotonic() - began < SECONDS:
        time.sleep(0.01)
        steps += 1
        if asked.is_set() and STOPS: break
    print("ended", asked.is_set(), flush=True)
time.sleep(AFTER)
print("over", flush=True)
"""


def looping(seconds: float, stops: bool, after: float = 0.0) -> subprocess.Popen:
    "A process in a loop within `defer_sigint`."
    values = {"SECONDS": seconds, "STOPS": stops, "AFTER": after}
    code = LOOP
    for name, value in values.items():
        code = code.replace(name, str(value))
    process = python(code)
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.slow
def test_the_first_ctrl_c_only_sets_the_event():
    process = looping(30, stops=True)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20) == ("ended True\nover\n", "")
    assert process.returncode == 0


@pytest.mark.slow
def test_a_press_that_is_passed_on_twice_counts_once():
    process = looping(1.5, stops=False)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
    assert process.communicate(timeout=20) == ("ended True\nover\n", "")


@pytest.mark.slow
def test_a_second_ctrl_c_a_second_later_interrupts_at_once():
    process = looping(60, stops=False)
    process.send_signal(signal.SIGINT)
    time.sleep(1.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert "ended" not in out and "KeyboardInterrupt" in err
    assert process.returncode == -signal.SIGINT


@pytest.mark.slow
def test_after_the_block_ctrl_c_is_the_usual_one():
    process = looping(0, stops=True, after=30)
    assert process.stdout.readline() == "ended False\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert "over" not in out and "KeyboardInterrupt" in err


def test_without_ctrl_c_nothing_is_asked():
    before = signal.getsignal(signal.SIGINT)
    with defer_sigint() as asked:
        assert signal.getsignal(signal.SIGINT) is not before
    assert not asked.is_set() and signal.getsignal(signal.SIGINT) is before
    with pytest.raises(ZeroDivisionError):
        with defer_sigint():
            1 / 0
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_get_an_event_that_stays_unset():
    before, seen = signal.getsignal(signal.SIGINT), []

    def work():
        with defer_sigint() as asked:
            seen.append((asked.is_set(), signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]


# --- a mounted Drive


def test_which_paths_are_on_a_mounted_drive(tmp_path):
    table = tmp_path / "mounts"
    table.write_text(
        "overlay / overlay rw\ntmpfs /dev tmpfs rw\nx /mnt/a fuse.gcsfuse rw\n"
        "y /mnt/a/b ext4 rw\nz /mnt/c fuse.fuse-overlayfs rw\n"
    )
    for path in ("/content/drive/MyDrive/x", "/mnt/a/run"):
        assert on_mounted_drive(path, table)
    for path in ("/mnt/a/b/run", "/mnt/c", "/mnt/ab", "run"):
        assert not on_mounted_drive(path, table)
    assert not on_mounted_drive("/tmp", tmp_path / "none")


def test_a_path_on_drive_mounts_it_or_says_that_it_is_not_mounted(drive, monkeypatch, tmp_path):
    mount_drive("", "data", drive / "davis")
    drive.rmdir()
    mount_drive("", "data", tmp_path)
    with pytest.raises(RVOSError, match=f"{drive / 'davis'}: Google Drive is not mounted here"):
        mount_drive("data", drive / "davis")
    colab = types.ModuleType("google.colab")  # as Colab's kernel has it
    monkeypatch.setitem(sys.modules, "google", types.ModuleType("google"))
    monkeypatch.setitem(sys.modules, "google.colab", colab)

    def refused(folder):
        raise ValueError("mount failed")

    colab.drive = types.SimpleNamespace(mount=refused)
    with pytest.raises(RVOSError, match="is not mounted here"):
        mount_drive(drive / "davis")
    colab.drive.mount = lambda folder: Path(folder, "MyDrive").mkdir()
    mount_drive(drive / "davis")
    assert drive.is_dir()


# --- data that is made once

SETTINGS = {"seed": 0, "size": [96, 160]}


def made(folder, settings=SETTINGS):
    folder.mkdir()
    (folder / "shapes.json").write_text(json.dumps(settings))
    return folder


def test_taken_folders(tmp_path):
    assert not already_made(tmp_path / "absent", SETTINGS, "shapes")
    (tmp_path / "empty").mkdir()
    assert not already_made(tmp_path / "empty", SETTINGS, "shapes")
    root = made(tmp_path / "made")
    assert already_made(root, SETTINGS, "shapes")
    with pytest.raises(RVOSError, match="seed = 0 instead of 1"):
        already_made(root, SETTINGS | {"seed": 1}, "shapes")
    with pytest.raises(RVOSError, match="new = None instead of 5"):
        already_made(root, SETTINGS | {"new": 5}, "shapes")
    with pytest.raises(RVOSError, match="no copy-paste data"):
        already_made(root, SETTINGS, "copy-paste")
    for damage in ("{", "[]"):
        (root / "shapes.json").write_text(damage)
        with pytest.raises(RVOSError, match="shapes.json is damaged"):
            already_made(root, SETTINGS, "shapes")


def test_what_belongs_to_somebody_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    for root in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(RVOSError, match="no shapes data: name a new or an empty folder"):
            already_made(root, SETTINGS, "shapes")
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_finished_folder_replaces_nothing_but_an_empty_one(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("new", "empty"):
        with made_once(tmp_path / name, SETTINGS, "shapes") as tmp:
            write_text(tmp / "clip.txt", "a clip")
        assert already_made(tmp_path / name, SETTINGS, "shapes")
        assert names(tmp_path / name) == ["clip.txt", "shapes.json"]
    write_text(tmp_path / "other" / "thesis.txt", "mine")
    with pytest.raises(RVOSError, match="no shapes data"):
        with made_once(tmp_path / "other", SETTINGS, "shapes"):
            pass
    assert names(tmp_path / "other") == ["thesis.txt"]
    assert names(tmp_path) == ["empty", "new", "other"]


def test_losing_the_race_leaves_the_winners_data(tmp_path):
    root = tmp_path / "root"
    with made_once(root, SETTINGS, "shapes") as late:
        write_text(late / "who.txt", "late")
        with made_once(root, SETTINGS, "shapes") as early:
            write_text(early / "who.txt", "early")
    assert (root / "who.txt").read_text() == "early" and names(tmp_path) == ["root"]
    with pytest.raises(RVOSError, match="seed = 0 instead of 7"):
        with made_once(root, SETTINGS | {"seed": 7}, "shapes"):
            pass
    assert names(tmp_path) == ["root"]


def test_of_many_at_once_one_wins(tmp_path):
    barrier = threading.Barrier(8)

    def make(number):
        with made_once(tmp_path / "root", SETTINGS, "shapes") as tmp:
            write_text(tmp / str(number), "")
            barrier.wait()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(make, range(8)))
    assert len([name for name in names(tmp_path / "root") if name.isdigit()]) == 1
    assert names(tmp_path) == ["root"]


@pytest.mark.parametrize(
    "error, expected, text",
    [
        (OSError(28, "disk full"), RVOSError, "root: cannot be written"),
        (KeyError("x"), KeyError, "x"),
    ],
)
def test_an_error_leaves_nothing_behind(tmp_path, error, expected, text):
    with pytest.raises(expected, match=text), made_once(tmp_path / "root", {}, "shapes") as tmp:
        write_text(tmp / "clip.txt", "half")
        raise error
    assert names(tmp_path) == []


# --- what can be written, and how a reader is told


def nowhere(tmp_path: Path) -> Path:
    "A folder that nobody can make, not even root."
    (tmp_path / "file").touch()
    return tmp_path / "file" / "folder"


def test_folders_that_cannot_be_written_are_said_in_one_line(tmp_path, monkeypatch):
    bad = nowhere(tmp_path)
    said = "cannot be written .Not a directory.; name another folder"
    with pytest.raises(RVOSError, match=f"^--out {bad}: {said}$"):
        make_folder(bad, "--out")
    with pytest.raises(RVOSError, match=f"^--out {bad}: {said}$"):
        lock_run(bad)
    with pytest.raises(RVOSError, match=f"^--out {bad}: {said}$"):
        write_results(bad, "a")
    with pytest.raises(RVOSError, match="cannot be written"):
        write_text(bad / "a.txt", "a")
    monkeypatch.setenv("RVOS_HOME", str(bad))
    with pytest.raises(RVOSError, match=f"^RVOS_HOME {bad}: {said}$"):
        lock(cache_dir() / "data")
    assert make_folder(tmp_path / "a" / "b", "--out").is_dir()
    assert not list((tmp_path / "a" / "b").iterdir())


def test_knobs_are_named_in_the_words_of_the_place(monkeypatch):
    terminal = knob("out"), knob("init_from", "a/b"), knob("skip_bad", True), knob("root")
    assert terminal == ("--out", "--init-from a/b", "--skip-bad", "--data")
    monkeypatch.setattr(runtime, "in_notebook", lambda: True)
    notebook = knob("out"), knob("init_from", "a/b"), knob("skip_bad", True), knob("root")
    assert notebook == ("`out`", "`init_from='a/b'`", "`skip_bad=True`", "`root`")


# --- device, memory, seed


def test_precision_by_age_of_the_gpu():
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    ages = {(6, 1): "fp16", (7, 5): "fp16", (8, 0): "bf16", (9, 0): "bf16"}
    assert {age: pick_precision("auto", gpu, age) for age in ages} == ages
    assert pick_precision("auto", cpu) == "fp32" and pick_precision("bf16", cpu) == "bf16"
    with pytest.raises(ConfigError, match="fp16"):
        pick_precision("fp16", cpu)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_cuda_without_a_gpu_is_said():
    with pytest.raises(ConfigError, match="GPU"):
        pick_device("cuda")
    assert pick_device() == torch.device("cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_a_gpu_is_taken_and_described():
    assert pick_device().type == "cuda"
    assert "compute capability" in describe_machine(pick_device("cuda"))


def test_seed():
    seed_everything(5)
    a = torch.rand(4)
    seed_everything(5)
    assert torch.equal(a, torch.rand(4))


PAGE_FAULTS = """
import resource, sys, torch
from rvos_nb.runtime import keep_freed_memory
if sys.argv[1] == "keep": assert keep_freed_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def work():
    for _ in range(50): torch.ones(16, 2**20).add_(1)  # 64 MB, more than glibc ever keeps by itself
work(); before = faults(); work()
print(faults() - before)
"""
GLIBC = sys.platform == "linux" and platform.libc_ver()[0].startswith("glibc")


@pytest.mark.slow
@pytest.mark.skipif(not GLIBC, reason="mallopt is glibc's")
def test_freed_memory_is_kept():
    give, keep = (int(python(PAGE_FAULTS, how).communicate()[0]) for how in ("give", "keep"))
    assert keep * 20 < give


@pytest.mark.slow
def test_import_is_silent():
    process = python("import rvos_nb.runtime, rvos_nb.draw, rvos_nb.metrics, rvos_nb.layout")
    assert process.communicate() == ("", "")
    assert process.returncode == 0
