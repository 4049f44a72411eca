"A run's folder, also on a Drive that comes and goes, and what `setup_run` settles."

import os
import shutil
from pathlib import Path

import pytest

from rvos_nb.config import RunConfig, RVOSError
from rvos_nb.runs import DriveSync, setup_run
from rvos_nb.runtime import backup_path, lock_run, resumable, write_text


def content(out: Path) -> dict[str, str]:
    return {p.relative_to(out).as_posix(): p.read_text() for p in out.rglob("*") if p.is_file()}


def break_drive(fault: str, target: Path, aside: Path) -> None:
    if fault == "full":
        (target / f".last.pth.{os.getpid()}.tmp").symlink_to("/dev/full")
    elif fault == "vanished":
        target.parent.rename(aside)
    elif os.geteuid():
        target.chmod(0o555)
    else:  # root may write anywhere
        shutil.move(target, aside)
        target.write_text("no folder")


def mend_drive(fault: str, target: Path, aside: Path) -> None:
    if fault == "vanished":
        aside.rename(target.parent)
    elif fault == "read-only" and os.geteuid():
        target.chmod(0o755)
    elif fault == "read-only":
        target.unlink()
        shutil.move(aside, target)


@pytest.mark.parametrize("fault", ["full", "vanished", "read-only"])
def test_a_failed_copy_is_said_once_and_tried_again(drive, tmp_path, capsys, fault):
    sync = DriveSync(drive / "run")
    sync.fetch()
    target, aside = sync.target, tmp_path / "aside"
    for n in range(4):
        (sync.folder / "last.pth").write_bytes(bytes([n]) * 10_000)
        if n == 1 or (fault == "full" and n == 2):
            break_drive(fault, target, aside)
        if n == 3:
            mend_drive(fault, target, aside)
        assert sync.copy() == (n in (0, 3))
    out = capsys.readouterr().out
    assert out.count("cannot copy") == 1 and str(sync.folder) in out
    assert out.count("again") == 2  # "is tried again", "copied again"
    assert (target / "last.pth").read_bytes() == bytes([3]) * 10_000
    assert backup_path(target / "last.pth").read_bytes() == bytes([0]) * 10_000


def test_only_what_has_changed_is_copied_and_no_litter(drive, monkeypatch):
    sync = DriveSync(drive / "run")
    sync.fetch()
    for name in ("last.pth", "last.previous.pth", "run.lock", ".a.1.tmp", "deep/history.csv"):
        (sync.folder / name).parent.mkdir(exist_ok=True)
        (sync.folder / name).write_text(name)
    assert sync.copy()
    assert sorted(content(drive / "run")) == ["deep/history.csv", "last.pth"]
    copies = []
    monkeypatch.setattr(shutil, "copy2", lambda a, b: copies.append(Path(a).name))
    (sync.folder / "deep" / "history.csv").write_text("a longer one")
    sync.copy()
    assert copies == ["history.csv"]


def test_a_fresh_machine_takes_the_drives_run(drive, tmp_path):
    first = DriveSync(drive / "run")
    first.fetch()
    write_text(first.folder / "last.pth", "trained")
    assert first.copy()
    shutil.rmtree(tmp_path / "home")  # Colab's disk
    second = DriveSync(drive / "run")
    second.fetch()
    assert second.folder == first.folder
    assert (second.folder / "last.pth").read_text() == "trained"


def test_the_newer_run_here_is_not_overwritten(drive):
    sync = DriveSync(drive / "run")
    sync.fetch()
    write_text(drive / "run" / "last.pth", "older")
    os.utime(drive / "run" / "last.pth", (1, 1))
    write_text(sync.folder / "last.pth", "newer")
    sync.fetch()
    assert (sync.folder / "last.pth").read_text() == "newer"


def test_a_fetch_that_was_killed_is_done_again(drive, tmp_path, monkeypatch):
    "Whatever file it had come to, nothing half is taken for the run."
    first = DriveSync(drive / "run")
    first.fetch()
    for name in ("best_model.pth", "history.csv", "last.previous.pth", "last.pth"):
        write_text(first.target / name, name)
    os.utime(first.target / "last.previous.pth", (1, 1))
    copy = shutil.copy2
    for kill_at in range(1, 5):
        shutil.rmtree(tmp_path / "home")
        copies = []

        def killed(a, b):
            copies.append(a)
            if len(copies) == kill_at:
                Path(b).write_text("half")
                raise KeyboardInterrupt
            return copy(a, b)

        monkeypatch.setattr(shutil, "copy2", killed)
        with pytest.raises(KeyboardInterrupt):
            DriveSync(drive / "run").fetch()
        monkeypatch.setattr(shutil, "copy2", copy)
        second = DriveSync(drive / "run")
        second.fetch()
        assert content(second.folder) == content(first.target)


def test_a_run_on_a_drive_writes_here_and_is_named_there(drive):
    run = setup_run(RunConfig(out=str(drive / "run"), device="cpu"))
    assert run.out == drive / "run" and run.folder == run.mirror.folder != run.out
    with run.take():
        assert run.out.is_dir() and run.folder.is_dir()


def test_a_drive_that_cannot_be_written_is_said_before_the_first_step(drive):
    (drive / "run").write_text("no folder")
    run = setup_run(RunConfig(out=str(drive / "run"), device="cpu"))
    with pytest.raises(RVOSError, match=f"--out {drive / 'run'}: cannot be written"):
        run.take()
    with lock_run(run.folder):  # it was let go of
        pass


def test_setup_run_makes_nothing_and_take_makes_the_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)
    run = setup_run(RunConfig(out=str(tmp_path / "r"), device="cpu"))
    assert not run.folder.exists() and run.precision == "fp32" and run.out == run.folder
    assert os.environ["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
    with run.take(), pytest.raises(RVOSError, match="another run is writing there"):
        run.take()
    (tmp_path / "r" / "last.previous.pth").touch()
    assert resumable(run.folder) == [tmp_path / "r" / "last.previous.pth"]


def test_setup_run_leaves_a_chosen_allocator_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:64")
    setup_run(RunConfig(out=str(tmp_path / "r")))
    assert os.environ["PYTORCH_CUDA_ALLOC_CONF"] == "max_split_size_mb:64"
