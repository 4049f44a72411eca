"Notebooks, generated files, packaging and the README keep what they promise."

import ast
import os
import re
import shutil
import subprocess
import sys
import warnings
import zipfile
from configparser import ConfigParser
from email import message_from_bytes
from pathlib import Path

import nbformat
import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
INI = ConfigParser(delimiters=["="], interpolation=None)
INI.read(ROOT / "settings.ini", encoding="utf-8")
CFG = INI["DEFAULT"]
GIT_URL, BRANCH = CFG["git_url"], CFG["branch"]

NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))
NUMBERED = [p for p in NOTEBOOKS if p.name[0].isdigit()]
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
each_numbered = pytest.mark.parametrize("path", NUMBERED, ids=lambda p: p.name)

RUN = "pip install -e . && rvos train"
TEST = 'pip install -e ".[dev]" && nbdev_test && pytest'

# Versions on Google Colab in August 2026: a floor above one would replace that package there.
COLAB = {
    "python": "3.13",
    "torch": "2.11",
    "torchvision": "0.26",
    "transformers": "5.15",
    "numpy": "2.1",
    "pandas": "2.2.2",
    "ipywidgets": "7.7.1",
    "albumentations": "2.0.8",
}

# Cells that nbdev_test leaves out: {(notebook, directive, first line of code): reason}
NOT_RUN = {}


def cells(path: Path, kind: str = "code") -> list[str]:
    "Sources of the cells of one kind."
    return [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == kind]


def run(*args, **kwargs) -> subprocess.CompletedProcess:
    "Run a command, its output as text."
    return subprocess.run([str(a) for a in args], capture_output=True, text=True, **kwargs)


def module_of(path: Path) -> str | None:
    "Name of the module that a notebook exports to, if it does."
    names = re.findall(r"^#\|\s*default_exp (\w+)", "\n".join(cells(path)), re.M)
    assert len(names) <= 1, f"{path.name} exports to {names}"
    return names[0] if names else None


def modules() -> dict[str, int]:
    "Number of the notebook that each module comes from."
    return {name: int(p.name[:2]) for p in NUMBERED if (name := module_of(p))}


# --- notebooks


def test_there_are_notebooks_in_order():
    numbers = [p.name[:2] for p in NUMBERED]
    assert numbers and len(set(numbers)) == len(numbers)
    assert {p.name for p in NOTEBOOKS} - {p.name for p in NUMBERED} == {"index.ipynb"}
    assert [int(n) for n in numbers] == sorted(int(n) for n in numbers)


@each_numbered
def test_first_cell_is_the_badge_of_this_notebook(path):
    colab = GIT_URL.replace("https://github.com/", "https://colab.research.google.com/github/")
    assert cells(path, "markdown")[0] == (
        f'<a href="{colab}/blob/{BRANCH}/nbs/{path.name}" target="_blank">'
        '<img src="https://colab.research.google.com/assets/colab-badge.svg" '
        'alt="Open In Colab"/></a>'
    )
    assert nbformat.read(path, as_version=4).cells[0].cell_type == "markdown"


@each_numbered
def test_colab_installs_this_repository(path):
    setup = (
        "#| hide\n"
        "import subprocess, sys\n\n"
        'if "google.colab" in sys.modules:  '
        "# a fresh Colab machine has no rvos_nb; elsewhere: nothing\n"
        f'    source = "git+{GIT_URL}"\n'
        '    subprocess.check_call([sys.executable, "-m", "pip", "install", "-q", source])'
    )
    assert cells(path).count(setup) == 1
    others = [c for c in cells(path) if c != setup and not c.startswith("#| export")]
    assert not [c for c in others if "pip install" in c.replace('", "', " ")]


@each_notebook
def test_stored_notebook_can_be_read_on_github(path):
    assert path.stat().st_size < 1_000_000
    nb = nbformat.read(path, as_version=4)
    assert "widgets" not in nb.metadata
    outputs = [o for c in nb.cells if c.cell_type == "code" for o in c.outputs]
    assert outputs, "not executed"
    assert not [o.evalue for o in outputs if o.output_type == "error"]
    texts = [
        str(o.get("text", ""))
        + str({k: v for k, v in o.get("data", {}).items() if k.startswith("text/")})
        for o in outputs
    ]
    assert not [t for t in texts if re.search(r"(?<![\w.])/(work|root|home|tmp|Users)/", t)], (
        "a path of somebody's machine"
    )


@each_notebook
def test_every_cell_is_run_by_nbdev_test(path):
    found = {}
    for source in cells(path):
        for directive in re.findall(r"^#\|\s*(eval:\s*false|slow|cuda)\s*$", source, re.M):
            code = [
                line for line in source.splitlines() if line.strip() and not line.startswith("#|")
            ]
            found[path.name, " ".join(directive.split()), code[0] if code else ""] = None
    assert set(found) == {k for k in NOT_RUN if k[0] == path.name}, (
        "NOT_RUN lists the cells that are not tested, and why"
    )
    raw = cells(path, "raw")
    assert not [s for s in raw if "skip_exec" in s], (
        "skip_exec: this notebook would never be tested"
    )


# --- modules


def test_modules_and_notebooks_match():
    files = {p.stem for p in (ROOT / "rvos_nb").glob("*.py")} - {"__init__", "_modidx"}
    assert files == set(modules())


def imported_modules(source: str) -> set[str]:
    "Modules of rvos_nb that Python code imports, anywhere in it."
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            full = ("rvos_nb." * bool(node.level) + (node.module or "")).strip(".")
            if full == "rvos_nb":
                found |= {a.name for a in node.names}
            elif full.startswith("rvos_nb."):
                found.add(full.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("rvos_nb.")}
    return found - {"__version__"}


def test_imported_modules_sees_every_form():
    source = (
        "from .config import a\nfrom . import shapes\nimport rvos_nb.loss as l\n"
        "def f():\n    from rvos_nb.data import x\nimport os"
    )
    assert imported_modules(source) == {"config", "shapes", "loss", "data"}


# {notebook: modules that a cell which is only shown imports}: the data's notebook ends in the batch
# that the model sees, the segmenter's begins with a video and its masks. What is exported imports
# from lower numbers alone, without exception.
LOOKS_AHEAD = {
    "11_data.ipynb": {"caches", "encoders", "sources"},
    "51_segmenter.ipynb": {"segmenter"},
}


@each_numbered
def test_imports_only_from_lower_numbers(path):
    number, order = int(path.name[:2]), modules()
    code = "\n".join(
        re.sub(r"^(\s*)[%!].*", r"\1pass", c, flags=re.M) for c in cells(path)
    )  # no magics: this is plain Python
    above = {name for name in imported_modules(code) if order[name] >= number}
    assert above == LOOKS_AHEAD.get(path.name, set())
    if module := module_of(path):
        source = (ROOT / f"rvos_nb/{module}.py").read_text("utf-8")
        assert not {name for name in imported_modules(source) if order[name] >= number}


IMPORT_ALL = """
import random, socket, sys
import numpy, torch
def no_network(*args): raise AssertionError(f"connects to {args[-1]}")
socket.socket.connect = no_network
def state():
    arrays = numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    return random.getstate(), *arrays
before = state()
for name in sys.argv[1:]:
    __import__("rvos_nb." + name)
    assert state() == before, f"importing rvos_nb.{name} seeds or draws"
"""


@pytest.mark.slow
def test_imports_are_silent(tmp_path):
    env = {**os.environ, "RVOS_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    (tmp_path / "here").mkdir()
    done = run(
        sys.executable,
        "-c",
        IMPORT_ALL,
        *sorted(modules(), key=modules().get),
        env=env,
        cwd=tmp_path / "here",
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list(tmp_path.rglob("*.*")), "importing writes files"
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("kind", [DeprecationWarning, FutureWarning])
def test_warnings_about_our_calls_are_errors_here(kind):
    "What a library says of a call in the package; of the tests' own calls it stays a warning."
    for module in ("rvos_nb.data", "rvos_nb"):
        with pytest.raises(kind):
            warnings.warn_explicit("this will go", kind, "data.py", 1, module)
    with pytest.warns(kind):
        warnings.warn_explicit("this will go", kind, "test.py", 1, "test_data")


# --- generated files


@pytest.mark.slow
def test_exports_and_notebooks_are_current(tmp_path):
    for name in ("nbs", "rvos_nb"):
        shutil.copytree(
            ROOT / name,
            tmp_path / name,
            ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"),
        )
    shutil.copy(ROOT / "settings.ini", tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    for command in ("nbdev_export", "nbdev_clean"):
        done = run(Path(sys.executable).parent / command, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    after = {
        p: p.read_bytes()
        for p in tmp_path.rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }
    changed = sorted(
        str(p.relative_to(tmp_path))
        for p in before.keys() | after.keys()
        if before.get(p) != after.get(p)
    )
    assert changed == [], "run nbdev_export and nbdev_clean, and commit what they change"


@pytest.mark.slow
@pytest.mark.parametrize("script", ["readme.py", "ladder.py"])
def test_readme_and_ladder_are_current(script):
    done = run(sys.executable, ROOT / ".ci" / script, "--check")
    assert done.returncode == 0, done.stderr


# --- README


def test_readme_opens_with_both_commands():
    text = (ROOT / "README.md").read_text("utf-8")
    opening = text.split("\n## ")[0].splitlines()
    assert RUN in opening and TEST in opening
    assert text.splitlines().count(TEST) == 1, (
        ".ci/run reads the command from README.md: it must stand there once"
    )


def test_readme_links_lead_somewhere():
    text = (ROOT / "README.md").read_text("utf-8")
    targets = re.findall(r"\]\((?![a-z]+:|#)([^)\s]+)", text)
    targets += re.findall(
        rf"{GIT_URL.split('//')[1].split('/', 1)[1]}/(?:blob|raw)/{BRANCH}/([^)\"\s]+)", text
    )
    assert len(targets) > 20
    assert [t for t in targets if not (ROOT / t).exists()] == []


def test_ci_takes_its_command_from_the_readme():
    text = (ROOT / ".ci/run").read_text("utf-8")
    for script in ("run", "floors"):
        assert os.access(ROOT / ".ci" / script, os.X_OK)
        assert run("bash", "-n", ROOT / ".ci" / script).returncode == 0
        assert f"- run: bash .ci/{script}\n" in (ROOT / ".github/workflows/weekly.yml").read_text()
    assert "pip install -e" not in text, "the install command stands in README.md only"


# --- packaging


def test_requirement_floors_and_caps():
    requirements = {r.name: r for r in map(Requirement, CFG["requirements"].split())}
    assert COLAB.keys() - {"python"} <= requirements.keys()
    assert Version(CFG["min_python"]) <= Version(COLAB["python"])
    for name, r in requirements.items():
        assert [s.operator for s in r.specifier] == [">="] or name == "albumentations", (
            f"{name}: one floor and no cap"
        )
        if name in COLAB:
            assert r.specifier.contains(COLAB[name]), f"{r} leaves out Colab's {COLAB[name]}"
    assert not requirements["albumentations"].specifier.contains("2.1")


def test_licence_is_apache_2():
    text = (ROOT / "LICENSE").read_text("utf-8")
    for sentence in (
        "Apache License",
        "Version 2.0, January 2004",
        "TERMS AND CONDITIONS FOR USE, REPRODUCTION, AND DISTRIBUTION",
        "END OF TERMS AND CONDITIONS",
        "APPENDIX: How to apply the Apache License to your work.",
        "limitations under the License.",
    ):
        assert sentence in text


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    "The wheel of the sdist of this checkout, with one file more in a folder of assets."
    pytest.importorskip(
        "build", reason="the package `build` is not installed: it comes with the dev extra"
    )
    top = tmp_path_factory.mktemp("package")
    files = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    if files.returncode:
        pytest.skip("not a git checkout, so which files belong to it is unknown")
    for name in files.stdout.splitlines():
        if not (ROOT / name).is_file():
            continue  # deleted, not yet committed
        (top / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, top / "src" / name)
    probe = top / "src/rvos_nb/assets/probe/deep/file.txt"
    probe.parent.mkdir(parents=True)
    probe.touch()
    done = run(
        sys.executable, "-m", "build", "--no-isolation", "--outdir", top / "dist", top / "src"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((top / "dist").glob("*.tar.gz"))) == 1
    return zipfile.ZipFile(next((top / "dist").glob("*.whl")))


@pytest.mark.slow
def test_wheel_holds_code_assets_and_licence(wheel):
    names = set(wheel.namelist())
    assets = {
        p.relative_to(ROOT).as_posix()
        for p in (ROOT / "rvos_nb").glob("assets/**/*")
        if p.is_file() and "__pycache__" not in p.parts
    }
    assert (
        assets | {"rvos_nb/assets/probe/deep/file.txt"} | {f"rvos_nb/{m}.py" for m in modules()}
        <= names
    )
    assert [n for n in names if n.endswith("LICENSE")]
    assert not [n for n in names if not n.startswith("rvos_nb")], "nothing but the package"
    assert b"rvos = rvos_nb.cli:main" in wheel.read(
        next(n for n in names if n.endswith("entry_points.txt"))
    )


@pytest.mark.slow
def test_wheel_shows_the_readme_with_absolute_links(wheel):
    meta = message_from_bytes(
        wheel.read(next(n for n in wheel.namelist() if n.endswith("METADATA")))
    )
    text = meta.get_payload()
    assert re.findall(r"\]\((?![a-z]+:|#)([^)\s]+)", text) == []
    assert f"]({GIT_URL}/blob/{BRANCH}/nbs/00_config.ipynb)" in text
    assert meta["Version"] == CFG["version"] and meta["Requires-Python"] == f">={CFG['min_python']}"
