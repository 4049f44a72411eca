"The twin of Google Colab: what it takes for a machine's complaint. Whole notebooks run in .ci/run."

import json
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def twin():
    spec = spec_from_file_location("colab_twin", ROOT / ".ci" / "colab" / "__main__.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cell(source: str, **more) -> dict:
    return {"cell_type": "code", "source": source, "outputs": [], "execution_count": 1} | more


def machine(folder: Path, packages: list[str]) -> Path:
    "A folder in which these packages are installed."
    site = folder / "venv" / "lib" / "python3.13" / "site-packages"
    for name in packages:
        (site / f"{name}.dist-info").mkdir(parents=True)
    return folder


def test_a_form_field_is_filled_in_and_an_unknown_one_is_refused(twin):
    notebook = {"cells": [cell('RUN = ""  # @param {type:"string"}\nx = 1', outputs=[1])]}
    filled = twin.with_form(notebook, ['RUN="runs/a"'])
    assert filled["cells"][0]["source"] == 'RUN = "runs/a"  # @param {type:"string"}\nx = 1'
    assert filled["cells"][0]["outputs"] == []
    with pytest.raises(SystemExit, match="no form field DATA"):
        twin.with_form(notebook, ["DATA=1"])


def test_what_a_student_stumbles_over_is_found(twin, tmp_path):
    base = machine(tmp_path / "base", ["numpy-2.1.3", "pandas-2.2.3"]) / "venv"
    here = machine(tmp_path / "here", ["numpy-2.4.0", "rvos_nb-0.1.0"])
    error = {"output_type": "error", "ename": "URLError", "evalue": "no network", "traceback": []}
    warned = {"output_type": "stream", "name": "stderr", "text": "a.py:1: FutureWarning: soon"}
    picture = {"cell_type": "markdown", "source": "![a](images/a.jpg) ![b](https://x.org/b.jpg)"}
    notebook = {"cells": [cell("1", outputs=[error]), cell("2", outputs=[warned]), picture]}
    found = twin.complaints(notebook, here, base)
    assert len(found) == 4, found
    for words in ("URLError: no network", "FutureWarning", "images/a.jpg", "own numpy"):
        assert [line for line in found if words in line], (words, found)
    quiet = {"cells": [cell("1"), {"cell_type": "markdown", "source": "![b](https://x.org/b.jpg)"}]}
    assert twin.complaints(quiet, machine(tmp_path / "calm", ["av-17.0"]), base) == []


def test_the_checkout_is_served_as_it_is_on_disk(twin, tmp_path):
    env = twin.served_checkout(tmp_path)
    (url,) = [env[f"GIT_CONFIG_KEY_{i}"] for i in range(3) if "url." in env[f"GIT_CONFIG_KEY_{i}"]]
    served = Path(url.removeprefix("url.file://").removesuffix(".insteadOf"))
    for name in ("settings.ini", "nbs/40_training.ipynb", "rvos_nb/fit.py"):
        assert (served / name).read_bytes() == (ROOT / name).read_bytes()


def test_google_colab_is_what_the_notebooks_call(tmp_path):
    "drive.mount links a folder, or refuses; files.upload copies what was chosen."
    (tmp_path / "clip.mp4").write_bytes(b"clip")
    code = (
        "from google.colab import drive, files; import json, os\n"
        "print(json.dumps(sorted(files.upload())))\n"
        f"drive.mount({str(tmp_path / 'mnt')!r})\n"
        f"print(os.listdir({str(tmp_path / 'mnt' / 'MyDrive')!r}))\n"
    )
    (tmp_path / "drive").mkdir()
    (tmp_path / "drive" / "run").mkdir()
    env = {"PYTHONPATH": str(ROOT / ".ci" / "colab"), "COLAB_DRIVE": str(tmp_path / "drive")}
    env |= {"COLAB_UPLOAD": str(tmp_path / "clip.mp4"), "PATH": "/usr/bin:/bin"}
    (tmp_path / "content").mkdir()
    how = dict(capture_output=True, text=True, cwd=tmp_path / "content", env=env)
    done = subprocess.run([sys.executable, "-c", code], **how)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert json.loads(lines[1]) == ["clip.mp4"] and lines[-1] == "['run']"
