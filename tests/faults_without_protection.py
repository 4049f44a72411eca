"""Takes one protection at a time out of a copy of the package and runs the tests that are to notice: each must fail. Prints the table of FAULTS.md; exit code 1 where a test passes.

    python tests/faults_without_protection.py [words that the protection's name contains]

pytest does not collect this file: it would add a quarter of an hour. An edit that does not fit the code exactly once stops everything, and so does a test that ends in another way than by failing
(a broken fixture, nothing collected). At first all the tests run in an unchanged copy, where they must pass.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
KILLS, ROBUST, DOWNLOAD = "test_robust.py::test_killed_twenty_times_and_resumed_is_the_same_run", "test_robust.py::test_", "test_download.py::test_"
OOM, OLDER = ROBUST + "out_of_memory_names_the_knobs_and_saves", ROBUST + "an_unreadable_checkpoint_gives_way_to_the_one_before"
PLAIN_WRITE = '''\
    tmp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield tmp
        with open(tmp, "rb+") as f: os.fsync(f.fileno())
        if keep_previous and path.exists(): os.replace(path, previous(path))
        os.replace(tmp, path)
        _sync_folder(path.parent)
    finally:
        tmp.unlink(missing_ok=True)
'''


class Protection(NamedTuple):
    what: str  # what is taken out
    file: str
    old: str  # stands in the file exactly once
    new: str
    test: str  # what must fail


PROTECTIONS = [
    # kill and resume
    Protection("checkpoints are written beside their place and renamed", "core.py", PLAIN_WRITE, "    yield path\n", KILLS),
    Protection("and a full disk spoils nothing", "core.py", PLAIN_WRITE, "    yield path\n", ROBUST + "a_full_disk_is_said_and_loses_nothing"),
    Protection("a write is synced before it is renamed", "core.py", 'with open(tmp, "rb+") as f: os.fsync(f.fileno())', "pass", ROBUST + "a_write_is_synced_before_it_is_renamed"),
    Protection("the checkpoint before is kept", "training.py", "with atomic_file(path, keep_previous=True) as tmp: torch.save", "with atomic_file(path) as tmp: torch.save",
               ROBUST + "a_kill_between_two_renames_loses_nothing"),
    Protection("an unreadable checkpoint gives way to it", "training.py", "if not previous(path).is_file(): raise", "raise", OLDER + "[half]"),
    Protection("last.pth is also written within an epoch", "training.py", 'if due or interrupted: trainer.save("last.pth")', 'if interrupted: trainer.save("last.pth")',
               ROBUST + "a_crash_costs_minutes_and_not_an_epoch"),
    Protection("resume goes on within the epoch", "training.py", 'if state.get("progress"): trainer.progress', 'if False: trainer.progress', OOM),
    Protection("resume leaves out the items that were seen", "data.py", "self.sampler.start = start", "self.sampler.start = 0", OOM),
    Protection("each step has random numbers of its own", "training.py", "torch.manual_seed(loader.sampler.step_seed(batches, accelerator.process_index))", "pass", OOM),
    Protection("resume restores the optimizer", "training.py", 'trainer.optimizer.load_state_dict(state["optimizer"])', "pass", OOM),
    Protection("resume restores the schedule", "training.py", 'trainer.scheduler.load_state_dict(state["scheduler"])', "pass", OOM),
    Protection("a state saved within a step holds nothing of its forward pass", "training.py", "        p.restore_buffers()\n", "", OOM),
    Protection("what a killed write leaves is removed", "training.py", "litter.unlink()", "pass", KILLS),
    Protection("Ctrl-C waits for the end of the step", "training.py", "with held_interrupt(trainer.interrupted): train_epochs", "with contextlib.nullcontext(): train_epochs",
               ROBUST + "ctrl_c_lets_the_step_end"),
    Protection("Ctrl-C says how to go on", "training.py", 'trainer.say(f"interrupted; {rescue(trainer)}")', 'trainer.say("interrupted")', ROBUST + "ctrl_c_saves_and_says_how_to_go_on"),
    Protection("a run claims its folder", "core.py", "try: held.acquire()", "try: pass", ROBUST + "one_folder_one_run"),
    # numbers, memory, Drive, data
    Protection("steps without a finite gradient are left out", "training.py", "finite = True, math.isfinite(length)", "finite = True, True", ROBUST + "a_bad_batch_is_named_and_left_out[nan]"),
    Protection("several in a row stop the run", "training.py", "if progress.bad >= MAX_BAD:", "if False:", ROBUST + "a_run_without_numbers_stops_with_its_last_good_state"),
    Protection("a bad batch leaves no trace in running statistics", "training.py", "            progress.restore_buffers()\n", "", ROBUST + "a_poisoned_forward_pass_leaves_no_trace_in_running_statistics"),
    Protection("out of memory ends in a message", "training.py", "except torch.OutOfMemoryError: raise", "except ZeroDivisionError: raise", OOM),
    Protection("a failed copy to a Drive does not end the run", "core.py", "        except OSError as e:\n            if not self.failing", "        except ZeroDivisionError as e:\n            if not self.failing",
               ROBUST + "a_run_on_a_drive_that_goes_and_comes_back"),
    Protection("a Drive that has gone is not made anew below its mount point", "core.py", "if not self.target.is_dir(): raise", "if False: raise", ROBUST + "a_failed_copy_is_said_once_and_tried_again[vanished]"),
    Protection("bad data stops a run before its first step", "data.py", "if len(problems) and not cfg.skip_bad:", "if False:", ROBUST + "training_stops_before_its_first_step_where_data_is_bad"),
    Protection("ids and names from JSON and lists are plain names", "data.py", 'if not name or name in (".", "..") or any(c in name for c in "/\\\\:\\0"): return', "if False: return", ROBUST + "names_stay_in_their_folder"),
    # pickles and configs
    Protection("weights_only, wherever a checkpoint comes in", "core.py", "weights_only=True)", "weights_only=False)", ROBUST + "a_malicious_pickle_is_refused_everywhere"),
    Protection("weights_only, for last.pth in a run's own folder", "core.py", "weights_only=True)", "weights_only=False)", OLDER + "[code]"),
    Protection("a checkpoint's model is tensors only", "training.py", 'if not all(isinstance(v, torch.Tensor) for v in state["model"].values()): raise', "if False: raise",
               ROBUST + "a_checkpoint_s_config_is_checked"),
    Protection("unknown knobs are refused", "core.py", "if unknown := sorted(map(str, set(d) - known)):", "d = {k: v for k, v in d.items() if k in known}\n    if unknown := []:", ROBUST + "a_checkpoint_s_config_is_checked"),
    Protection("knobs are of their type", "core.py", "if not _fits(value, hint): raise", "if False: raise", ROBUST + "a_checkpoint_s_config_is_checked"),
    Protection("safetensors without our own entries are refused", "training.py", "except (SafetensorError, OSError, KeyError, ValueError, RecursionError) as e:", "except ZeroDivisionError as e:",
               ROBUST + "broken_safetensors_are_named"),
    # downloads
    Protection("a web page is no zip", "data.py", 'if kind == "text/html": raise', "if False: raise", DOWNLOAD + "what_will_not_pass_ends_in_one_line_that_says_what_to_do[page-a web page instead of a zip]"),
    Protection("nor is one that is called a zip", "data.py", "if not zipfile.is_zipfile(path): raise", "if False: raise", DOWNLOAD + "lies_about_a_file_of_which_nothing_is_known[hidden page-not a zip, but a web page]"),
    Protection("the checksum", "data.py", "if source.sha256 and _sha256(path) != source.sha256: raise", "if False: raise",
               DOWNLOAD + "what_will_not_pass_ends_in_one_line_that_says_what_to_do[garbled-sha256 is not]"),
    Protection("a download that ends early is not whole", "data.py", "if total and have < total: raise", "if False: raise", DOWNLOAD + "lies_about_a_file_of_which_nothing_is_known[longer-ended at|broke at]"),
    Protection("an end to what a server may send", "data.py", "if have > (source.size or source.unpacked): raise", "if False: raise",
               DOWNLOAD + "lies_about_a_file_of_which_nothing_is_known[endless-more than the 10000 bytes]"),
    Protection("tries", "data.py", "for n in range(tries):", "for n in range(1):", DOWNLOAD + "a_file_arrives_whole_whatever_breaks[True-True-faults1]"),
    Protection("only the rest is asked for", "data.py", '({"Range": f"bytes={have}-"} if have else {})', "{}", DOWNLOAD + "a_file_arrives_whole_whatever_breaks[True-True-faults1]"),
    Protection("free space is looked at first", "data.py", "if total and total - have > free: raise", "if False: raise", DOWNLOAD + "no_space"),
    Protection("the data appears as a whole", "data.py", 'work = root.with_name(f"{root.name}.download")', "work = root", DOWNLOAD + "root_is_there_completely_or_not_at_all[404]"),
    # unpacking
    Protection("no entry leads out of the folder", "data.py", 'or ".." in path.parts or any(c in entry.filename for c in "\\\\:\\0")', "", DOWNLOAD + "no_entry_leaves_its_folder_or_is_a_link[entry0]"),
    Protection("nor through a folder on the way", "data.py", 'or ".." in path.parts or', "or", DOWNLOAD + "no_entry_leaves_its_folder_or_is_a_link[entry1]"),
    Protection("nor by a path of Windows", "data.py", 'or any(c in entry.filename for c in "\\\\:\\0")', "", DOWNLOAD + "no_entry_leaves_its_folder_or_is_a_link[entry3]"),
    Protection("no entry is a link", "data.py", "if kind not in (0, stat.S_IFREG, stat.S_IFDIR): return", "if False: return", DOWNLOAD + "links_on_the_way_cannot_be_made_in_two_steps"),
    Protection("or a device", "data.py", "if kind not in (0, stat.S_IFREG, stat.S_IFDIR): return", "if kind == stat.S_IFLNK: return", DOWNLOAD + "no_entry_leaves_its_folder_or_is_a_link[entry7]"),
    Protection("a bound for the size", "data.py", "if size > most_bytes or len(entries) > most_files:", "if len(entries) > most_files:", DOWNLOAD + "bounds"),
    Protection("a bound for the number of files", "data.py", "if size > most_bytes or len(entries) > most_files:", "if size > most_bytes:", DOWNLOAD + "bounds"),
    Protection("no file is written twice", "data.py", 'open(to, "xb") as f: shutil', 'open(to, "wb") as f: shutil', DOWNLOAD + "the_same_name_twice_is_refused"),
    Protection("damage ends in one line", "data.py", "except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, NotImplementedError, RuntimeError, struct.error) as e:", "except ZeroDivisionError as e:",
               DOWNLOAD + "a_damaged_zip_is_named[10]"),
]

# Python runs this at its start in every process that has the copy first on its path, those that tests start included.
WITNESS = """
import os, rvos_nb
from pathlib import Path
here = Path(__file__).parent
if Path(rvos_nb.__file__).parent != here / "rvos_nb": os._exit(99)
with open(here / "witnesses", "a") as f: f.write("x")
"""


def copy(source: Path, folder: Path) -> Path:
    "The package and its tests, from `source` to the new `folder`."
    for name in ("rvos_nb", "tests"): shutil.copytree(source / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "sitecustomize.py").write_text(WITNESS)
    return folder


def without(p: Protection, folder: Path) -> str:
    "The text of `p.file` without the protection."
    text = (folder / "rvos_nb" / p.file).read_text(encoding="utf-8")
    if text.count(p.old) != 1: sys.exit(f"{p.what}: stands {text.count(p.old)} times in {p.file}, not once:\n{p.old}")
    return text.replace(p.old, p.new)


def run(folder: Path, tests: list[str]) -> tuple[int, str, int]:
    "Exit code and output of pytest over `tests` in `folder`, and the number of processes that imported the package from there."
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "RVOS_HOME", "COV"))} | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    r = subprocess.run([sys.executable, "-m", "pytest", "-q", "-x", "-rfE", "--tb=short", "-p", "no:cacheprovider", f"--basetemp={folder / 'tmp'}", *(f"tests/{t}" for t in tests)],
                       cwd=folder, env=env, capture_output=True, text=True, timeout=1800)
    witnesses = folder / "witnesses"
    if not witnesses.exists(): sys.exit(f"the copy in {folder} was not imported:\n{r.stdout}{r.stderr}")
    return r.returncode, r.stdout + r.stderr, len(witnesses.read_text())


def failure(out: str) -> str:
    "What a failed test said, in a few words fit for a table."
    said = re.findall(r"^E +(.*\S)", out, re.M)
    line = next((s for s in said if s.startswith("assert ")), said[0] if said else "")
    if line == "assert False": line = re.search(r"(assert .*)\n(?: *\^+\n)?E  ", out)[1]  # what stands in the test says more
    if "Regex pattern did not match" in line: line = next((s for s in said if s.startswith(("Actual message", "Input"))), line)
    line = re.sub(r"/\S*/(?=[^/\s])", "", line)  # folders of this machine
    return textwrap.shorten(line.replace("|", "\\|").replace("<", "&lt;"), 110)


def main(words: str = "") -> int:
    chosen = [p for p in PROTECTIONS if words in p.what]
    if not chosen: sys.exit(f"no protection is called {words!r}")
    weak, start = [], time.monotonic()
    with tempfile.TemporaryDirectory(prefix="rvos_faults_") as box:
        whole = copy(ROOT, Path(box, "whole"))
        texts = [without(p, whole) for p in chosen]
        code, out, n = run(whole, list(dict.fromkeys(p.test for p in chosen)))
        if code: sys.exit(f"in an unchanged copy these must pass:\n{out[-5000:]}")
        print(f"unchanged: {out.strip().splitlines()[-1]}, {n} processes\n\n| taken out | test | result |\n|---|---|---|", flush=True)
        for i, (p, text) in enumerate(zip(chosen, texts)):
            folder = copy(whole, Path(box, str(i)))
            (folder / "rvos_nb" / p.file).write_text(text, encoding="utf-8")
            code, out, _ = run(folder, [p.test])
            if code not in (0, 1) or (code == 1 and not re.search(r"^FAILED ", out, re.M)): sys.exit(f"{p.what}: no plain failure of {p.test} (exit code {code}):\n{out[-5000:]}")
            if code == 0: weak.append(p)
            file, test = p.test.removesuffix("]").split(".py::test_")
            print(f"| {p.what} | {file}: {test.replace('[', ', ').replace('|', ' or ')} | {'failed: `' + failure(out) + '`' if code else '**passed**'} |", flush=True)
            shutil.rmtree(folder)
    print(f"\n{len(chosen) - len(weak)} of {len(chosen)} noticed, in {(time.monotonic() - start) / 60:.1f} minutes")
    return bool(weak)


if __name__ == "__main__": sys.exit(main(*sys.argv[1:]))
