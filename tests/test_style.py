"The house's style: formatter, rules, size of modules, positional arguments, public names."

import ast
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(p for p in (ROOT / "rvos_nb").glob("*.py") if not p.stem.startswith("_"))
NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))
SCRIPTS = sorted([*(ROOT / "tests").glob("*.py"), *(ROOT / "benchmarks").glob("*.py")])
# code lines; the embedded data is one long story, the page and the widget are one form each
MOST_LINES = {"shapes": 400, "app": 370, "picker": 365}
MOST_PUBLIC_NAMES = 165  # of 45 modules: readers, hub, app and models of others came in


def ruff(*args) -> str:
    "What ruff says; empty where it is content."
    command = [sys.executable, "-m", "ruff", *args, "--config", ROOT / "ruff.toml"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_the_formatter_has_nothing_to_change():
    assert ruff("format", "--check", "nbs", "tests", "benchmarks", ".ci") == ""


def test_the_linter_has_nothing_to_say():
    assert ruff("check", "-q", "nbs", "rvos_nb", "tests", "benchmarks", ".ci") == ""


def test_formatting_the_package_changes_little(tmp_path):
    before = after = 0
    for path in MODULES:
        copy = tmp_path / path.name
        copy.write_text(path.read_text("utf-8"), "utf-8")
        before += len(code_lines(copy))
    assert ruff("format", "-q", str(tmp_path)) == ""
    after = sum(len(code_lines(p)) for p in tmp_path.glob("*.py"))
    assert after <= 1.15 * before


def code_lines(path: Path) -> list[str]:
    "Lines that are neither empty nor a comment."
    lines = path.read_text("utf-8").splitlines()
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_a_module_has_one_job_and_fits_its_room(path):
    assert len(code_lines(path)) <= MOST_LINES.get(path.stem, 350)


def trees(path: Path) -> list[ast.AST]:
    "Syntax trees of a Python file, or of a notebook's code cells."
    if path.suffix == ".py":
        return [ast.parse(path.read_text("utf-8"))]
    cells = [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    return [ast.parse(re.sub(r"^(\s*)[%!].*", r"\1pass", c, flags=re.M)) for c in cells]


def faults(tree: ast.AST) -> list[str]:
    "Calls with more than four positional arguments, and comprehensions within comprehensions."
    found = []
    whole = {
        id(n.value) for n in ast.walk(tree) if isinstance(n, (ast.Assign, ast.Return, ast.Expr))
    }
    loops = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and len(node.args) > 4:
            found.append(f"line {node.lineno}: {len(node.args)} positional arguments")
        if isinstance(node, loops):
            inner = [n for n in ast.walk(node) if isinstance(n, loops) and n is not node]
            if inner and id(node) not in whole:
                found.append(f"line {node.lineno}: a comprehension within a comprehension")
            if (
                len(node.generators) > 1
                and id(node) not in whole
                and node.lineno != node.end_lineno
            ):
                found.append(
                    f"line {node.lineno}: two loops in a comprehension that is no whole line"
                )
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_calls_and_comprehensions_can_be_read(path):
    assert [f for tree in trees(path) for f in faults(tree)] == []


def test_faults_are_found():
    bad = "f(1, 2, 3, 4, 5)\nx = g([a for a in [b for b in c]])\n"
    assert len(faults(ast.parse(bad))) == 2
    assert faults(ast.parse("x = [a for b in c for a in b]\nf(1, 2, 3, 4, e=5)\n")) == []


def public_names(path: Path) -> list[str]:
    "A module's `__all__`."
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return ast.literal_eval(node.value)
    return []


def test_the_public_surface_can_be_learnt():
    assert sum(len(public_names(p)) for p in MODULES) <= MOST_PUBLIC_NAMES


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_every_public_name_is_used_in_its_notebook(path):
    number = re.search(r"nbs/(\w+)\.ipynb", path.read_text("utf-8"))[1]
    cells = nbformat.read(ROOT / "nbs" / f"{number}.ipynb", as_version=4).cells
    code = [c.source for c in cells if c.cell_type == "code"]
    shown = "\n".join(c for c in code if not re.search(r"^#\|\s*export", c, re.M))
    unused = [name for name in public_names(path) if not re.search(rf"\b{name}\b", shown)]
    assert unused == []
