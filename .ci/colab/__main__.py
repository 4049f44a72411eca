"""Run notebooks as Google Colab does: its Python, its versions, a fresh machine for each.

usage: python .ci/colab [--set NAME=VALUE] [NOTEBOOK ...]        (all notebooks without a name)

A virtual environment with the versions in constraints.txt is built once, in RVOS_COLAB (default:
~/.cache/rvos_nb/colab). Each notebook gets an empty layer above it, an empty home, and the
package through its own install cell, served from this checkout as it is on disk. Fails where a
cell fails, where a package of Colab's own is up- or downgraded, where a warning of ours is shown,
and where a picture is missing because only the notebook is in Colab.

Needs Python 3.13 (PYTHON313 names it) and the package index; about 8 GB of disk.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
URL = "https://github.com/rvos-nb/rvos_nb"
EXECUTE = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
client = NotebookClient(
    notebook, timeout=1500, kernel_name="colab", allow_errors=False, store_widget_state=True
)
try:
    client.execute()
finally:
    nbformat.write(notebook, sys.argv[2])
"""


def run(*command, **how) -> str:
    "The output of a command; one that fails ends the program with what it said."
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **how)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))[:200]}\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout


def base_environment(cache: Path) -> Path:
    "The virtual environment with Colab's versions, built where it is missing or out of date."
    pins = HERE / "constraints.txt"
    wanted = hashlib.sha256(pins.read_bytes()).hexdigest()
    venv, mark = cache / "venv", cache / "venv" / "constraints.sha256"
    if not mark.is_file() or mark.read_text() != wanted:
        python = os.environ.get("PYTHON313") or shutil.which("python3.13")
        if not python:
            sys.exit("Python 3.13 is needed, as Colab has it: name it with PYTHON313=...")
        print(f"building {venv} with Colab's versions; this takes some minutes", flush=True)
        shutil.rmtree(venv, ignore_errors=True)
        run(python, "-m", "venv", venv)
        run(venv / "bin" / "pip", "install", "-q", "-r", pins)
        mark.write_text(wanted)
    return venv


def served_checkout(folder: Path) -> dict[str, str]:
    "Environment in which git finds this checkout, as it is on disk, behind the project's address."
    copy = folder / "served"
    names = run("git", "ls-files", "-co", "--exclude-standard", "-z", cwd=ROOT).split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    git = ["git", "-c", "user.name=colab", "-c", "user.email=colab@localhost"]
    run(*git, "init", "-q", "-b", "main", cwd=copy)
    run(*git, "add", "-A", cwd=copy)
    run(*git, "commit", "-q", "-m", "as on disk", cwd=copy)
    settings = {f"url.file://{copy}.insteadOf": URL, "safe.directory": "*"}
    settings["uploadpack.allowFilter"] = "true"
    env = {"GIT_CONFIG_COUNT": str(len(settings))}
    for i, (key, value) in enumerate(settings.items()):
        env |= {f"GIT_CONFIG_KEY_{i}": key, f"GIT_CONFIG_VALUE_{i}": value}
    return env


def site_packages(venv: Path) -> Path:
    return next((venv / "lib").glob("python3*/site-packages"))


def fresh_machine(folder: Path, base: Path, served: dict[str, str]) -> dict[str, str]:
    "Environment variables of a machine with nothing but Colab's own, below `folder`."
    layer = folder / "venv"
    run(base / "bin" / "python", "-m", "venv", "--without-pip", layer)
    paths = f"{HERE}\n{site_packages(base)}\n"
    (site_packages(layer) / "colab.pth").write_text(paths)
    kernel = folder / "jupyter" / "kernels" / "colab" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    argv = [str(layer / "bin" / "python"), str(HERE / "kernel.py"), "-f", "{connection_file}"]
    about = {"display_name": "Colab", "language": "python", "argv": argv}
    kernel.write_text(json.dumps(about))
    (folder / "home").mkdir()
    (folder / "content").mkdir()
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RVOS", "PYTHON", "HF_"))}
    return (
        kept
        | served
        | {
            "HOME": str(folder / "home"),
            "VIRTUAL_ENV": str(layer),
            "PATH": f"{layer / 'bin'}:{os.environ['PATH']}",
            "JUPYTER_PATH": str(folder / "jupyter"),
            "PIP_CACHE_DIR": str(base.parent / "pip"),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        }
    )


def with_form(notebook: dict, fields: list[str]) -> dict:
    "The notebook with other values in its form fields, and without stored outputs."
    missing = dict(field.split("=", 1) for field in fields)
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        cell["outputs"], cell["execution_count"] = [], None
        source = "".join(cell["source"])
        for name, value in list(missing.items()):
            form = re.compile(rf"^{name} = .*?(\s+# ?@param)", re.M)
            if form.search(source):
                source = form.sub(lambda m, v=value, n=name: f"{n} = {v}{m[1]}", source)
                missing.pop(name)
        cell["source"] = source
    if missing:
        sys.exit(f"no form field {', '.join(missing)}")
    return notebook


def distributions(folder: Path) -> set[str]:
    "Names of the packages installed in a folder."
    names = (p.name.split("-")[0] for p in folder.glob("*.dist-info"))
    return {re.sub(r"[-_.]+", "-", name).lower() for name in names}


def complaints(notebook: dict, machine: Path, base: Path) -> list[str]:
    "What a student would stumble over in an executed notebook."
    found = []
    for i, cell in enumerate(notebook["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            links = re.findall(r"!\[[^]]*\]\((?!https?:|data:|attachment:)([^)]+)\)", source)
            found += [f"cell {i}: a picture that is not there: {link}" for link in links]
        for output in cell.get("outputs", []):
            text = "".join(output.get("text", ""))
            if output["output_type"] == "error":
                found.append(f"cell {i}: {output['ename']}: {output['evalue'][:400]}")
            elif re.search(r"\w+Warning:", text):
                found.append(f"cell {i}: {text.strip()[:400]}")
    changed = distributions(site_packages(machine / "venv")) & distributions(site_packages(base))
    found += [f"another version of Colab's own {name} was installed" for name in sorted(changed)]
    return found


def try_notebook(path: Path, base: Path, fields: list[str]) -> bool:
    "Run one notebook on a fresh machine and say how it went."
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        machine = Path(temporary)
        env = fresh_machine(machine, base, served_checkout(machine))
        before, after = machine / "in.ipynb", machine / "out.ipynb"
        before.write_text(json.dumps(with_form(json.loads(path.read_text("utf-8")), fields)))
        command = [machine / "venv" / "bin" / "python", "-c", EXECUTE, before, after]
        done = subprocess.run(
            list(map(str, command)),
            env=env,
            cwd=machine / "content",
            capture_output=True,
            text=True,
        )
        if not after.is_file():
            sys.exit(done.stderr[-3000:])
        found = complaints(json.loads(after.read_text("utf-8")), machine, base)
    if done.returncode and not found:
        found = [done.stderr.strip()[-600:]]
    print(f"{path.stem}: {'ok' if not found else 'FAILED'}, {time.monotonic() - started:.0f} s")
    for line in found:
        print(f"  {line}")
    sys.stdout.flush()
    return not found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("notebooks", nargs="*", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    asked = parser.parse_args()
    cache = Path(os.environ.get("RVOS_COLAB") or Path.home() / ".cache" / "rvos_nb" / "colab")
    base = base_environment(cache.expanduser().resolve())
    paths = asked.notebooks or sorted((ROOT / "nbs").glob("*.ipynb"))
    fine = [try_notebook(path, base, asked.set) for path in paths]
    print(f"{sum(fine)} of {len(fine)} notebooks run in Colab")
    return int(not all(fine))


if __name__ == "__main__":
    sys.exit(main())
