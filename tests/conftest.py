"""Shared surroundings of the tests: offline, no window, a home of their own.

Real data and weights are used only where the environment names them.
"""

import os
import signal
import tempfile
from pathlib import Path

import pytest

pytest.register_assert_rewrite(
    "runs", "boxes", "records", "rectangles", "clips", "small_models", "layouts"
)


def pytest_configure(config):
    "Before any test module is imported."
    config.addinivalue_line(
        "markers", "slow: takes more than a few seconds; left out while working"
    )
    for kind in ("DeprecationWarning", "FutureWarning"):  # about a call of ours: an error
        config.addinivalue_line("filterwarnings", f"error::{kind}:rvos_nb")
    # a shell's background job ignores Ctrl-C, and hands that on to the processes of the tests
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    os.environ["MPLBACKEND"] = "Agg"
    if "RVOS_HOME" not in os.environ:
        home = tempfile.TemporaryDirectory(prefix="rvos_home_")
        os.environ["RVOS_HOME"] = home.name
        config.add_cleanup(home.cleanup)


def folder_from(variable: str, what: str) -> Path:
    "The folder that the variable names; skips where it is unset, fails where it names none."
    if not os.environ.get(variable):
        pytest.skip(f"{variable} is not set: it names {what}")
    path = Path(os.environ[variable])
    if not path.is_dir():
        pytest.fail(f"{variable} = {path}: no such folder; it should be {what}")
    return path


@pytest.fixture(scope="session")
def davis() -> Path:
    "Folder that holds DAVIS/, davis_text_annotations/ and meta_expressions/."
    return folder_from("RVOS_DAVIS", "the folder that holds DAVIS/ and the expressions")


@pytest.fixture(scope="session")
def weights() -> Path:
    "Folder of pretrained weight files."
    return folder_from("RVOS_WEIGHTS", "a folder of pretrained weights")


@pytest.fixture
def drive(tmp_path, monkeypatch):
    "A folder that counts as a mounted Drive, and a home of this test's own."
    monkeypatch.setattr("rvos_nb.runtime.DRIVE_MOUNT", str(tmp_path / "drive"))
    monkeypatch.setenv("RVOS_HOME", str(tmp_path / "home"))
    (tmp_path / "drive" / "MyDrive").mkdir(parents=True)
    return tmp_path / "drive" / "MyDrive"
