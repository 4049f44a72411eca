"""Takes one protection at a time out of a copy of the package and runs the test that is to notice.

    python tests/faults_without_protection.py [words that the protection's name contains]

Each test must fail. Prints the table of FAULTS.md; exit code 1 where a test passes. At first all
the tests run in an unchanged copy, where they must pass. pytest does not collect this file: it
would add a quarter of an hour.

A protection is an edit of the syntax tree: a module, a function in it, a pattern of code that
occurs there exactly once, and the code that takes its place. Format, comments and place do not
matter, so code can move. In a pattern `...` stands for anything (at the end of a list: for any
number of things, as a body: for any statements), and `_1`, `_2` for any expression that the new
code uses again. An edit that does not fit stops everything, and so does a test that ends in
another way than by failing.
"""

import ast
import copy
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


# --- edits of a syntax tree


class Edit(NamedTuple):
    module: str
    function: str  # its name, or Class.name
    old: str  # a pattern: one expression or one statement
    new: str  # an expression, or statements


def _is_any(pattern) -> bool:
    "Is this `...`?"
    if isinstance(pattern, ast.Expr):
        pattern = pattern.value
    return isinstance(pattern, ast.Constant) and pattern.value is Ellipsis


def matches(pattern, node, found: dict) -> bool:
    "Does `node` look like `pattern`? What `_1`, `_2` stand for is put into `found`."
    if _is_any(pattern):
        return True
    if isinstance(pattern, ast.Name) and re.fullmatch(r"_\d", pattern.id):
        found[pattern.id] = node
        return isinstance(node, ast.expr)
    if isinstance(pattern, list):
        return isinstance(node, list) and _lists_match(pattern, node, found)
    if not isinstance(pattern, ast.AST):
        return pattern == node
    if type(pattern) is not type(node):
        return False
    open_end = isinstance(pattern, ast.Call) and pattern.args and _is_any(pattern.args[-1])
    for name in pattern._fields:
        if name in ("ctx", "type_comment", "kind"):
            continue
        theirs = getattr(node, name)
        if name == "keywords" and open_end:  # of f(..., key=value) the other keywords do not matter
            wanted = {k.arg for k in pattern.keywords}
            theirs = [k for k in theirs if k.arg in wanted]
        if not matches(getattr(pattern, name), theirs, found):
            return False
    return True


def _lists_match(patterns: list, nodes: list, found: dict) -> bool:
    if patterns and _is_any(patterns[-1]):
        patterns = patterns[:-1]
        nodes = nodes[: len(patterns)]
    return len(patterns) == len(nodes) and all(
        matches(p, n, found) for p, n in zip(patterns, nodes)
    )


class _FillIn(ast.NodeTransformer):
    "Puts what `_1`, `_2` stand for into new code."

    def __init__(self, found: dict):
        self.found = found

    def visit_Name(self, node):
        return copy.deepcopy(self.found.get(node.id, node))


class _Replace(ast.NodeTransformer):
    "Replaces whatever matches `old`, and counts it."

    def __init__(self, old: str, new: str):
        (self.old,) = ast.parse(old).body
        self.new = ast.parse(new).body
        if isinstance(self.old, ast.Expr):
            self.old = self.old.value
            self.new = self.new[0].value
        self.count = 0

    def visit(self, node):
        found = {}
        if not matches(self.old, node, found):
            return self.generic_visit(node)
        self.count += 1
        new = copy.deepcopy(self.new)
        if isinstance(new, list):
            return [_FillIn(found).visit(n) for n in new]
        return _FillIn(found).visit(new)


def find_function(tree: ast.Module, name: str) -> ast.AST | None:
    "The function (or, by Class.name, the method) called `name`."
    node = tree
    for part in name.split("."):
        kinds = (ast.FunctionDef, ast.ClassDef)
        inside = [n for n in node.body if isinstance(n, kinds) and n.name == part]
        if not inside:
            return None
        node = inside[0]
    return node


def edited(source: str, edit: Edit) -> str:
    "`source` with `edit`; `LookupError` where it does not fit exactly once."
    tree = ast.parse(source)
    function = find_function(tree, edit.function)
    if function is None:
        raise LookupError(f"{edit.module}.py has no function {edit.function}")
    replace = _Replace(edit.old, edit.new)
    replace.generic_visit(function)
    if replace.count != 1:
        where = f"{edit.module}.{edit.function}"
        raise LookupError(f"{where} has {replace.count} places, not one, like\n{edit.old}")
    return ast.unparse(ast.fix_missing_locations(tree))


# --- the protections


class Protection(NamedTuple):
    what: str  # what is taken out
    edit: Edit
    test: str  # what must fail


ROBUST = "test_robust.py::test_"
FIT = "test_fit.py::test_"
RUNTIME = "test_runtime.py::test_"
RUNS = "test_runs.py::test_"
CHECKPOINTS = "test_checkpoints.py::test_"
DOWNLOAD = "test_download.py::test_"
KILLS = ROBUST + "killed_twenty_times_and_resumed_is_the_same_run"
OOM = ROBUST + "out_of_memory_names_the_knobs_and_saves"
OLDER = ROBUST + "an_unreadable_checkpoint_gives_way_to_the_one_before"
CONFIG = CHECKPOINTS + "a_checkpoint_s_config_is_checked"
PAGES = DOWNLOAD + "what_will_not_pass_ends_in_one_line_that_says_what_to_do"
LIES = DOWNLOAD + "lies_about_a_file_of_which_nothing_is_known"
WHOLE = DOWNLOAD + "a_file_arrives_whole_whatever_breaks[True-True-faults1]"
ENTRIES = DOWNLOAD + "no_entry_leaves_its_folder_or_is_a_link"
IN_PLACE = Edit("runtime", "atomic_file", "try: ...\nfinally: ...", "yield path")
NO_GUARD = "__import__('contextlib').nullcontext(trainer.interrupted)"
ANY_PICKLE = Edit(
    "runtime",
    "read_tensors",
    "torch.load(_1, map_location=_2, weights_only=True)",
    "torch.load(_1, map_location=_2, weights_only=False)",
)

KILL_AND_RESUME = [
    Protection("checkpoints are written beside their place and renamed", IN_PLACE, KILLS),
    Protection(
        "and a full disk spoils nothing", IN_PLACE, ROBUST + "a_full_disk_is_said_and_loses_nothing"
    ),
    Protection(
        "a write is synced before it is renamed",
        Edit("runtime", "_sync_file", "os.fsync(...)", "None"),
        RUNTIME + "a_write_is_synced_before_it_is_renamed",
    ),
    Protection(
        "the checkpoint before is kept",
        Edit(
            "checkpoints", "save_checkpoint", "atomic_file(_1, keep_backup=True)", "atomic_file(_1)"
        ),
        ROBUST + "a_kill_between_two_renames_loses_nothing",
    ),
    Protection(
        "an unreadable checkpoint gives way to it",
        Edit("checkpoints", "load_or_backup", "if ...: raise", "raise"),
        OLDER + "[half]",
    ),
    Protection(
        "last.pth is also written within an epoch",
        Edit("fit", "_Watched.after_step", "save or interrupted", "interrupted"),
        ROBUST + "a_crash_costs_minutes_and_not_an_epoch",
    ),
    Protection(
        "a run goes on within the epoch",
        Edit("fit", "_Checkpointed._take_over", "state['epoch_state']", "None"),
        OOM,
    ),
    Protection(
        "it leaves out the items that were seen",
        Edit(
            "loaders", "ClipLoader.set_epoch", "self.sampler.start = ...", "self.sampler.start = 0"
        ),
        OOM,
    ),
    Protection(
        "each step has random numbers of its own",
        Edit("training", "train_one_epoch", "torch.manual_seed(...)", "None"),
        OOM,
    ),
    Protection(
        "it has its optimizer again",
        Edit("fit", "_Checkpointed._take_over", "self.optimizer.load_state_dict(...)", "None"),
        OOM,
    ),
    Protection(
        "it has its schedule again",
        Edit("fit", "_Checkpointed._take_over", "self.scheduler.load_state_dict(...)", "None"),
        OOM,
    ),
    Protection(
        "a state saved within a step holds nothing of its forward pass",
        Edit("fit", "_Resumable.save_on_exit", "state.restore_buffers()", "None"),
        OOM,
    ),
    Protection(
        "what a killed write leaves is removed",
        Edit("checkpoints", "take_run", "litter.unlink()", "None"),
        KILLS,
    ),
    Protection(
        "Ctrl-C waits for the end of the step",
        Edit("fit", "fit", "defer_sigint()", NO_GUARD),
        ROBUST + "ctrl_c_lets_the_step_end",
    ),
    Protection(
        "Ctrl-C says how to go on",
        Edit(
            "fit",
            "fit",
            "trainer.log(f'interrupted; {trainer.save_on_exit()}')",
            "trainer.log('interrupted')",
        ),
        ROBUST + "ctrl_c_saves_and_says_how_to_go_on",
    ),
    Protection(
        "a run locks its folder",
        Edit("runtime", "lock_run", "held.acquire()", "None"),
        ROBUST + "one_folder_one_run",
    ),
]

THE_SAME_RUN = [
    Protection(
        "another run in the folder is refused",
        Edit("checkpoints", "take_run", "check_same_run(...)", "None"),
        FIT + "another_run_is_refused_before_any_work",
    ),
    Protection(
        "data are known by what they are",
        Edit("checkpoints", "check_same_run", "state.get('data') != data", "False"),
        FIT + "data_are_known_by_what_they_are",
    ),
    Protection(
        "a run without a folder is looked for",
        Edit("checkpoints", "run_folder", "_is_run_of(...)", "False"),
        FIT + "a_run_without_a_folder_is_found_again",
    ),
    Protection(
        "time that is up does not close an epoch",
        Edit("fit", "_Epochs.run_epoch", "self.state.batches < self.batches", "False"),
        FIT + "minutes_lose_no_step_of_the_epoch_that_they_end",
    ),
    Protection(
        "what cannot be downloaded is said before data are made",
        Edit("encoders", "load_tokenizer", "if ...: raise ...", "pass"),
        FIT + "what_cannot_be_downloaded_is_said_before_pasting_and_decoding",
    ),
    Protection(
        "each save reaches the Drive",
        Edit("fit", "_Resumable.save_last", "self.copy_to_drive()", "None"),
        ROBUST + "a_save_within_an_epoch_reaches_the_drive",
    ),
    Protection(
        "files arrive whole from the Drive",
        IN_PLACE,
        RUNS + "a_fetch_that_was_killed_is_done_again",
    ),
]

NUMBERS_MEMORY_DRIVE_DATA = [
    Protection(
        "steps without a finite gradient are left out",
        Edit("training", "FiniteGuard.may_step", "math.isfinite(...)", "True"),
        ROBUST + "a_bad_batch_is_named_and_left_out[nan]",
    ),
    Protection(
        "several in a row stop the run",
        Edit("training", "FiniteGuard.may_step", "if ...: raise ...", "pass"),
        ROBUST + "a_run_without_numbers_stops_with_its_last_good_state",
    ),
    Protection(
        "a bad batch leaves no trace in running statistics",
        Edit("training", "FiniteGuard.may_step", "self.state.restore_buffers()", "None"),
        ROBUST + "a_poisoned_forward_pass_leaves_no_trace_in_running_statistics",
    ),
    Protection(
        "out of memory ends in a message",
        Edit("fit", "fit", "torch.OutOfMemoryError", "ZeroDivisionError"),
        OOM,
    ),
    Protection(
        "a failed copy to a Drive does not end the run",
        Edit("runs", "DriveSync.copy", "OSError", "ZeroDivisionError"),
        ROBUST + "a_run_on_a_drive_that_goes_and_comes_back",
    ),
    Protection(
        "a Drive that has gone is not made anew below its mount point",
        Edit("runs", "_expect_folder", "if not target.is_dir(): ...", "pass"),
        RUNS + "a_failed_copy_is_said_once_and_tried_again[vanished]",
    ),
    Protection(
        "bad data stops a run before its first step",
        Edit("sources", "_bad_videos", "not skip_bad", "False"),
        ROBUST + "training_stops_before_its_first_step_where_data_is_bad",
    ),
    Protection(
        "ids and names from JSON and lists are plain names",
        Edit("layout", "bad_name", "if not name or ...: ...", "pass"),
        ROBUST + "names_stay_in_their_folder",
    ),
]

PICKLES_AND_CONFIGS = [
    Protection(
        "weights_only, wherever a checkpoint comes in",
        ANY_PICKLE,
        ROBUST + "a_malicious_pickle_is_refused_everywhere",
    ),
    Protection("weights_only, for last.pth in a run's own folder", ANY_PICKLE, OLDER + "[code]"),
    Protection(
        "a checkpoint's model is tensors only",
        Edit("checkpoints", "load_checkpoint", "isinstance(weight, torch.Tensor)", "True"),
        CONFIG,
    ),
    Protection(
        "unknown knobs are refused",
        Edit(
            "config",
            "group_from_dict",
            "if (unknown := ...): ...",
            "d = {k: v for k, v in d.items() if k in known}",
        ),
        CONFIG,
    ),
    Protection(
        "knobs are of their type",
        Edit("config", "_Group.__post_init__", "_is_a(value, hint)", "True"),
        CONFIG,
    ),
    Protection(
        "safetensors without our own entries are refused",
        Edit("checkpoints", "_read_safetensors", "(SafetensorError, ...)", "ZeroDivisionError"),
        CHECKPOINTS + "broken_safetensors_are_named",
    ),
]

DOWNLOADS = [
    Protection(
        "a web page is no zip",
        Edit(
            "download", "_check_offer", "answer.headers.get_content_type() == 'text/html'", "False"
        ),
        PAGES + "[page-a web page instead of a zip]",
    ),
    Protection(
        "nor is one that is called a zip",
        Edit("download", "_verify", "zipfile.is_zipfile(...)", "True"),
        LIES + "[hidden page-not a zip, but a web page]",
    ),
    Protection(
        "the checksum",
        Edit("download", "_verify", "archive.sha256 and ...", "False"),
        PAGES + "[garbled-sha256 is not]",
    ),
    Protection(
        "a download that ends early is not whole",
        Edit("download", "_append", "total and have < total", "False"),
        LIES + "[longer-ended at|broke at]",
    ),
    Protection(
        "an end to what a server may send",
        Edit("download", "_append", "have > most", "False"),
        LIES + "[endless-more than the 10000 bytes]",
    ),
    Protection("tries", Edit("download", "fetch", "range(tries)", "range(1)"), WHOLE),
    Protection(
        "only the rest is asked for",
        Edit("download", "_open_url", "if have: ...", "pass"),
        WHOLE,
    ),
    Protection(
        "free space is looked at first",
        Edit("download", "_check_offer", "missing > free", "False"),
        DOWNLOAD + "no_space",
    ),
    Protection(
        "the data appears as a whole",
        Edit("download", "download_davis", "root.with_name(...)", "root"),
        DOWNLOAD + "root_is_there_completely_or_not_at_all[404]",
    ),
]

UNPACKING = [
    Protection(
        "no entry leads out of the folder",
        Edit("download", "_bad_entry", "'..' in path.parts", "False"),
        ENTRIES + "[entry0]",
    ),
    Protection(
        "nor through a folder on the way",
        Edit("download", "_bad_entry", "'..' in path.parts", "path.parts[0] == '..'"),
        ENTRIES + "[entry1]",
    ),
    Protection(
        "nor by a path of Windows",
        Edit("download", "_bad_entry", "any(...)", "False"),
        ENTRIES + "[entry3]",
    ),
    Protection(
        "no entry is a link",
        Edit("download", "_bad_entry", "kind not in ...", "False"),
        DOWNLOAD + "links_on_the_way_cannot_be_made_in_two_steps",
    ),
    Protection(
        "or a device",
        Edit("download", "_bad_entry", "kind not in ...", "kind == stat.S_IFLNK"),
        ENTRIES + "[entry7]",
    ),
    Protection(
        "a bound for the size",
        Edit("download", "_check_entries", "size > most_bytes", "False"),
        DOWNLOAD + "bounds",
    ),
    Protection(
        "a bound for the number of files",
        Edit("download", "_check_entries", "len(entries) > most_files", "False"),
        DOWNLOAD + "bounds",
    ),
    Protection(
        "no file is written twice",
        Edit("download", "_unpack_entry", "open(_1, 'xb')", "open(_1, 'wb')"),
        DOWNLOAD + "the_same_name_twice_is_refused",
    ),
    Protection(
        "damage ends in one line",
        Edit("download", "extract_zip", "_BROKEN_ZIP", "ZeroDivisionError"),
        DOWNLOAD + "a_damaged_zip_is_named[10]",
    ),
]

PROTECTIONS = [
    *KILL_AND_RESUME,
    *THE_SAME_RUN,
    *NUMBERS_MEMORY_DRIVE_DATA,
    *PICKLES_AND_CONFIGS,
    *DOWNLOADS,
    *UNPACKING,
]


# --- copies of the package, and tests in them

# Python runs this at its start in every process that has the copy first on its path, those that
# tests start included.
WITNESS = """
import os, rvos_nb
from pathlib import Path
here = Path(__file__).parent
if Path(rvos_nb.__file__).parent != here / "rvos_nb":
    os._exit(99)
with open(here / "witnesses", "a") as f:
    f.write("x")
"""


def copy_package(source: Path, folder: Path) -> Path:
    "The package and its tests, from `source` to the new `folder`."
    for name in ("rvos_nb", "tests"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source / name, folder / name, ignore=ignored)
    (folder / "sitecustomize.py").write_text(WITNESS)
    return folder


def without(p: Protection, folder: Path) -> str:
    "The text of the protection's module without it."
    source = (folder / "rvos_nb" / f"{p.edit.module}.py").read_text(encoding="utf-8")
    return edited(source, p.edit)


def run(folder: Path, tests: list[str]) -> tuple[int, str]:
    "Exit code and output of pytest over `tests` in `folder`."
    ours = ("PYTEST", "RVOS_HOME", "COV")
    env = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    env |= {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    options = ["-q", "-x", "-rfE", "--tb=short", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, f"--basetemp={folder / 'tmp'}"]
    r = subprocess.run(
        [*command, *(f"tests/{t}" for t in tests)],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    out = r.stdout + r.stderr
    if not (folder / "witnesses").exists():
        sys.exit(f"the copy in {folder} was not imported:\n{out}")
    return r.returncode, out


def failure(out: str) -> str:
    "What a failed test said, in a few words fit for a table."
    said = re.findall(r"^E +(.*\S)", out, re.M)
    line = next((s for s in said if s.startswith("assert ")), said[0] if said else "")
    if line == "assert False":  # what stands in the test says more
        line = re.search(r"(assert .*)\n(?: *\^+\n)?E  ", out)[1]
    if "Regex pattern did not match" in line:
        line = next((s for s in said if s.startswith(("Actual message", "Input"))), line)
    line = re.sub(r"/\S*/(?=[^/\s])", "", line)  # folders of this machine
    return textwrap.shorten(line.replace("|", "\\|").replace("<", "&lt;"), 110)


def try_without(p: Protection, whole: Path, folder: Path) -> str:
    "Run the protection's test in a copy without it; its row of the table."
    copy_package(whole, folder)
    module = folder / "rvos_nb" / f"{p.edit.module}.py"
    module.write_text(without(p, whole), encoding="utf-8")
    code, out = run(folder, [p.test])
    plain_failure = code == 1 and re.search(r"^FAILED ", out, re.M)
    if code and not plain_failure:
        sys.exit(f"{p.what}: {p.test} did not fail but ended with {code}:\n{out[-5000:]}")
    shutil.rmtree(folder)
    file, test = p.test.removesuffix("]").split(".py::test_")
    test = test.replace("[", ", ").replace("|", " or ")
    result = f"failed: `{failure(out)}`" if code else PASSED
    return f"| {p.what} | {file}: {test} | {result} |"


PASSED = "**passed**"


def main(words: str = "") -> int:
    chosen = [p for p in PROTECTIONS if words in p.what]
    if not chosen:
        sys.exit(f"no protection is called {words!r}")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="rvos_faults_") as box:
        whole = copy_package(ROOT, Path(box, "whole"))
        for p in chosen:
            without(p, whole)  # fits, before anything slow begins
        code, out = run(whole, list(dict.fromkeys(p.test for p in chosen)))
        if code:
            sys.exit(f"in an unchanged copy these must pass:\n{out[-5000:]}")
        print(f"unchanged: {out.strip().splitlines()[-1]}\n")
        print("| taken out | test | result |\n|---|---|---|", flush=True)
        rows = []
        for i, p in enumerate(chosen):
            rows.append(try_without(p, whole, Path(box, str(i))))
            print(rows[-1], flush=True)
    weak = sum(PASSED in row for row in rows)
    minutes = (time.monotonic() - began) / 60
    print(f"\n{len(rows) - weak} of {len(rows)} noticed, in {minutes:.1f} minutes")
    return int(weak > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
