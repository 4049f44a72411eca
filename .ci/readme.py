"""Run nbs/index.ipynb, store its outputs, and write README.md from it and nbs/notebooks.md, the
list of all notebooks.

With --check: write nothing, exit 1 where one of them is stale.

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
LIST = ROOT / "nbs" / "notebooks.md"
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


LIST_HEAD = """# All notebooks

The first digit is the chapter: 0 ground, 1 data, 2 model, 3 loss and runs, 4 training, 5 use,
6 evaluation, 7 terminal, 9 experiments. One notebook, one module, one job; each imports only from
lower numbers. **Bold** titles are the spine, to be read in order; the others are reference. All are
stored with their results.

|  | notebook | what it does |  |
| --- | --- | --- | --- |
"""


def list_of_notebooks() -> str:
    "A table of all notebooks: number, title, subtitle and badge, from their first Markdown cells."
    rows, source = [], INDEX.read_text("utf-8")
    spine = re.findall(r"\d+", re.search(r"SPINE = \(([\d, ]+)\)", source)[1])
    for path in sorted(INDEX.parent.glob("[0-9]*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        badge, head = [c.source for c in cells if c.cell_type == "markdown"][:2]
        title, subtitle = (re.search(rf"^{mark} (.+)$", head, re.M)[1] for mark in "#>")
        link = f"[{title}]({path.name})"
        link = f"**{link}**" if path.name[:2] in spine else link
        rows.append(f"| {path.name[:2]} | {link} | {subtitle} | {badge} |\n")
    return LIST_HEAD + "".join(rows)


def main(check: bool) -> int:
    os.chdir(ROOT)  # where nbdev looks for settings.ini
    stored = nbformat.read(INDEX, as_version=4)
    fresh = run(stored)
    pages = {README: to_markdown(fresh), LIST: list_of_notebooks()}
    if not check:
        nbformat.write(fresh, INDEX)
        nbdev_clean(fname=str(INDEX))
        for path, text in pages.items():
            path.write_text(text, encoding="utf-8")
        return 0
    stale = []
    if to_markdown(stored) != pages[README]:
        stale.append("nbs/index.ipynb (its stored outputs)")
    for path, text in pages.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(str(path.relative_to(ROOT)))
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
