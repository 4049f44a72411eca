"Google Drive as a plain folder: COLAB_DRIVE names it, it outlives the machine."

import os
from pathlib import Path


def mount(mountpoint: str, force_remount: bool = False) -> None:
    "Link the folder to `mountpoint`/MyDrive; where COLAB_DRIVE is not set, the person said no."
    if not os.environ.get("COLAB_DRIVE"):
        raise ValueError("mount failed")
    link = Path(mountpoint) / "MyDrive"
    if link.exists():
        print(f"Drive already mounted at {mountpoint}")
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(os.environ["COLAB_DRIVE"])
    print(f"Mounted at {mountpoint}")


def flush_and_unmount() -> None:
    "Nothing is left to write."
