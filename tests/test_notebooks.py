"""What a reader of a notebook gets, on GitHub and in Colab, where nothing is but the notebook:
finished figures, no reads from the net, the project's errors in one line, a run named in one way.
"""

import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
FIGURES = ROOT / "rvos_nb" / "assets" / "benchmarks"
RUN_FIELD = 'RUN = ""  # @param {type:"string"}'
RUN_WORDS = "put its folder into `RUN`, also one on Google Drive"


@functools.cache
def cells(path: Path, kind: str) -> list:
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == kind]


def outputs(path: Path) -> list:
    return [o for c in cells(path, "code") for o in c.outputs]


def shown_texts(path: Path) -> list[str]:
    "What stored outputs say."
    found = []
    for o in outputs(path):
        texts = [
            o.get("text", ""),
            *(o.get("data", {}).get(f"text/{k}", "") for k in ("plain", "html")),
        ]
        found += ["".join(text) for text in texts]
    return found


def code(path: Path) -> str:
    return "\n".join(c.source for c in cells(path, "code"))


# --- the net


@each_notebook
def test_nothing_is_read_from_the_net(path):
    "Addresses stand in prose, and in code only where a person asks for a download."
    addresses = re.findall(r"""["'](https?://[^"'{]+)["']""", code(path))
    if path.name.startswith("14_"):
        assert all("127.0.0.1" not in a for a in addresses)
        return  # the table of archives; what its notebook fetches comes from a server of its own
    allowed = ("https://github.com/rvos-nb/rvos_nb", "https://example.org")
    assert [a for a in addresses if not a.startswith(allowed)] == []
    assert not re.search(r"\b(urlopen|urlretrieve|requests\.get|wget|curl)\b", code(path))


@each_notebook
def test_figures_are_packaged(path):
    "A notebook that is alone in Colab has no benchmarks/ beside it, as README's source has."
    assert "../benchmarks" not in code(path) or path.name == "index.ipynb"


@pytest.mark.parametrize("figure", sorted(FIGURES.rglob("*.csv")), ids=lambda p: p.name)
def test_packaged_figures_are_those_of_the_benchmarks(figure):
    source = ROOT / "benchmarks" / figure.relative_to(FIGURES)
    assert figure.read_bytes() == source.read_bytes(), f"copy {source} to {figure}"


def test_every_figure_that_is_read_is_packaged():
    reads = re.compile(r"""figures((?: / "[\w.-]+")+)""")
    asked = {
        FIGURES.joinpath(*re.findall(r'"([\w.-]+)"', found))
        for path in NOTEBOOKS
        for found in reads.findall(code(path))
    }
    assert len(asked) > 5 and asked == set(FIGURES.rglob("*.csv"))


BLOCKED = """
import json, socket, sys
def no_network(*args): raise AssertionError(f"connects to {args[-1]}")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = no_network
import matplotlib; matplotlib.use("Agg")
cells = json.loads(sys.stdin.read())
import IPython
shell = IPython.core.interactiveshell.InteractiveShell.instance()
for source in cells:
    result = shell.run_cell(source)
    result.raise_error()
print("ran", len(cells))
"""


def run_blocked(path: Path, folder: Path, *options: str) -> subprocess.CompletedProcess:
    "The notebook's code in an empty folder, without a network."
    sources = [c.source for c in cells(path, "code")]
    command = [sys.executable, *options, "-c", BLOCKED]
    how = dict(capture_output=True, text=True, cwd=folder, env=environment(folder))
    return subprocess.run(command, input=json.dumps(sources), **how)


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "IPYTHONDIR": str(folder / "ipython"), "PYTHONPATH": str(ROOT)}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["90_report", "91_ablation"])
def test_runs_alone_without_network_and_without_a_warning(name, tmp_path):
    "In an empty folder; pandas, numpy and torch have nothing to say about our calls."
    options = ("-W", "error::FutureWarning", "-W", "error::DeprecationWarning:__main__")
    done = run_blocked(ROOT / f"nbs/{name}.ipynb", tmp_path, *options)
    assert done.returncode == 0 and "\nran " in done.stdout, done.stdout[-800:] + done.stderr[-800:]
    assert "Warning" not in done.stdout + done.stderr


# --- what is stored


@each_notebook
def test_no_picture_is_a_file_beside_the_notebook(path):
    "Colab has the notebook alone. index.ipynb becomes README.md, which has its files beside it."
    if path.name == "index.ipynb":
        return
    for c in cells(path, "markdown"):
        targets = re.findall(r"!\[[^\]]*\]\(([^)\s]+)", c.source)
        targets += re.findall(r"<img[^>]*src=[\"']([^\"']+)", c.source)
        assert [t for t in targets if not re.match(r"https://|data:image/|attachment:", t)] == []


@each_notebook
def test_stored_progress_bars_are_finished(path):
    bars = [b for text in shown_texts(path) for b in re.findall(r"(\d+)%\|", text)]
    assert [b for b in bars if b != "100"] == []


@each_notebook
def test_stored_outputs_hold_no_warning(path):
    assert not [o for o in outputs(path) if o.get("name") == "stderr"]
    assert not [t for t in shown_texts(path) if re.search(r"\w+Warning:", t)]


# --- a run, and errors


def shown(path: Path) -> str:
    "The code that a notebook runs itself, without what it exports."
    source = [c.source for c in cells(path, "code")]
    return "\n".join(c for c in source if not c.startswith("#| export"))


def needs_a_run(path: Path) -> bool:
    return "demo_run(" in shown(path) and not path.name.startswith("42_")


@pytest.mark.parametrize("path", [p for p in NOTEBOOKS if needs_a_run(p)], ids=lambda p: p.name)
def test_a_run_is_named_in_one_way(path):
    source = shown(path)
    assert source.count(RUN_FIELD) == 1 and source.count("demo_run(RUN)") == 1
    assert source.count("demo_run(") == 1, "ask once, and keep the folder"
    prose = "\n".join(c.source for c in cells(path, "markdown"))
    assert prose.count(RUN_WORDS) == 1


def test_errors_of_the_project_are_one_line_in_a_notebook(tmp_path):
    "Also in IPython 7, which Colab has: it asks the error itself for its traceback."
    source = (
        "from rvos_nb.config import ConfigError\n"
        "def deep(): raise ConfigError('fps = 0: expected more')\n"
        "deep()"
    )
    program = (
        "from IPython.core.interactiveshell import InteractiveShell\n"
        f"InteractiveShell.instance().run_cell({source!r})"
    )
    how = dict(capture_output=True, text=True, env=environment(tmp_path))
    done = subprocess.run([sys.executable, "-c", program], **how)
    said = (done.stdout + done.stderr).strip().splitlines()
    assert said == ["ConfigError: fps = 0: expected more"]
