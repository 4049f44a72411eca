"""Run nbs/index.ipynb, store its outputs and write README.md from it.

With --check: write nothing, exit 1 where one of the two is stale.

usage: python .ci/readme.py [--check]
"""

import copy
import os
import posixpath
import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter
from nbconvert.preprocessors import ExecutePreprocessor
from nbdev.clean import nbdev_clean

ROOT = Path(__file__).resolve().parent.parent
INDEX, README = ROOT / "nbs" / "index.ipynb", ROOT / "README.md"
# target of a Markdown link or picture that names a file
RELATIVE_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)[^)\s]+")


def run(nb):
    "A copy of notebook `nb`, executed in its folder."
    nb = copy.deepcopy(nb)
    ExecutePreprocessor(timeout=120, extra_arguments=["--log-level=40"]).preprocess(
        nb, {"metadata": {"path": INDEX.parent}}
    )
    return nb


def to_markdown(nb) -> str:
    "The README that `nb` makes: code stays out, links start at the top folder instead of nbs/."
    exporter = MarkdownExporter(
        exclude_input=True, exclude_input_prompt=True, exclude_output_prompt=True
    )
    text, _ = exporter.from_notebook_node(nb)
    text = RELATIVE_LINK.sub(lambda m: posixpath.normpath(f"nbs/{m.group()}"), text)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def main(check: bool) -> int:
    os.chdir(ROOT)  # where nbdev looks for settings.ini
    stored = nbformat.read(INDEX, as_version=4)
    fresh = run(stored)
    text = to_markdown(fresh)
    if not check:
        nbformat.write(fresh, INDEX)
        nbdev_clean(fname=str(INDEX))
        README.write_text(text, encoding="utf-8")
        return 0
    stale = []
    if to_markdown(stored) != text:
        stale.append("nbs/index.ipynb (its stored outputs)")
    if not README.exists() or README.read_text(encoding="utf-8") != text:
        stale.append("README.md")
    for name in stale:
        print(
            f"{name} is stale: run `python .ci/readme.py` and commit what it changes",
            file=sys.stderr,
        )
    return 1 if stale else 0


if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["--check"]):
        sys.exit(__doc__)
    sys.exit(main(check=bool(sys.argv[1:])))
