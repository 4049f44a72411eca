"An upload from a file chooser: COLAB_UPLOAD names the files that a person chose, none if unset."

import os
import shutil
from pathlib import Path


def upload() -> dict[str, bytes]:
    "Copy the chosen files to the working directory, under a free name, and return their bytes."
    chosen = filter(None, os.environ.get("COLAB_UPLOAD", "").split(os.pathsep))
    found = {}
    for path in map(Path, chosen):
        to, n = Path(path.name), 0
        while to.exists():
            n += 1
            to = Path(f"{path.stem} ({n}){path.suffix}")
        shutil.copy(path, to)
        print(f"Saving {path.name} to {to.name}")
        found[to.name] = path.read_bytes()
    return found


def download(filename: str) -> None:
    "What a browser would save."
    print(f"download: {filename}")
