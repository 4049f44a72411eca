"""Build the documentation site from the notebooks and docstrings, offline.

usage: python .ci/docs

Reads nbs/, README.md, CHANGELOG.md, CONTRIBUTING.md, benchmarks/README.md and the package, and
writes _docs/html, whose index.html a browser opens from the disk too. Notebooks are shown as they
are stored, none is run. Any warning of Sphinx is an error.
"""

import importlib
import json
import posixpath
import re
import shutil
import sys
from configparser import ConfigParser
from pathlib import Path

from sphinx.cmd.build import main as sphinx

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
OUT = ROOT / "_docs"
SOURCE = OUT / "source"
CHAPTERS = {
    0: "Ground",
    1: "Data",
    2: "Model",
    3: "Loss and runs",
    4: "Training",
    5: "Use and look",
    6: "Evaluation",
    7: "Terminal",
    9: "Experiments",
}
# files outside nbs/ that are pages of the site
PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "benchmarks.md",
}
PICTURES = (".jpg", ".webp", ".svg")
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)[^)\s]+")  # target that names a file
BADGE = re.compile(r'<a href="([^"]+)"[^>]*><img [^>]*colab[^>]*></a>')
settings = ConfigParser(delimiters=["="], interpolation=None)
settings.read(ROOT / "settings.ini", encoding="utf-8")
GIT = settings["DEFAULT"]["git_url"]
BLOB = f"{GIT}/blob/{settings['DEFAULT']['branch']}"


def target(link: str, folder: str) -> str:
    "Where a link of a file in `folder` leads: a page of the site, which lies flat, or GitHub."
    path, _, part = link.partition("#")
    path = posixpath.normpath(posixpath.join(folder, path))
    if path in ("README.md", "nbs/index.ipynb"):
        path = "index.md"
    elif path.startswith("nbs/"):
        path = path.removeprefix("nbs/")
    elif Path(path).suffix in PICTURES:
        path = f"images/{Path(path).name}"
    else:
        path = PAGES.get(path) or f"{BLOB}/{path}"
    return path + (f"#{part}" if part else "")


def relink(text: str, folder: str) -> str:
    "Markdown with its links led to pages of the site, and links in words instead of badges."
    text = BADGE.sub(r"[Open in Colab](\1)", text)
    return LINK.sub(lambda m: target(m.group(), folder), text)


def write(name: str, text: str) -> None:
    "Write a source file."
    (SOURCE / name).parent.mkdir(parents=True, exist_ok=True)
    (SOURCE / name).write_text(text, "utf-8")


def title_of(path: Path) -> str:
    "Title of a notebook."
    cells = json.loads(path.read_text("utf-8"))["cells"]
    text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    return re.search(r"^# (.+)$", text, re.M)[1]


def write_notebook(path: Path) -> None:
    "A notebook as a reader wants it: no setup cell, no directives, links instead of a badge."
    nb = json.loads(path.read_text("utf-8"))
    cells, links = [], ""
    for cell in nb["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            hidden = source.startswith("#| hide")
            source = re.sub(r"^#\|.*\n?", "", source, flags=re.M).strip("\n")
            source = "" if hidden else re.sub(r"  # @param \{.*\}$", "", source, flags=re.M)
        elif badge := BADGE.fullmatch(source):
            links = f"\n\n[Open in Colab]({badge[1]}), [on GitHub]({BLOB}/nbs/{path.name})\n"
            source = ""
        elif source.startswith("# "):  # the number stands before the title, as everywhere
            title, subtitle, *rest = source.split("\n\n")
            title = title.replace("# ", f"# {path.name[:2]} ", 1)
            source = relink("\n\n".join([title, subtitle + links, *rest]), "nbs")
        else:
            source = relink(source, "nbs")
        if source:
            cells.append({**cell, "source": source})
    write(path.name, json.dumps({**nb, "cells": cells}))


API_PAGE = """# {module}

Built and explained in [{number:02d} {title}](../{notebook}).

```{{eval-rst}}
.. automodule:: rvos_nb.{module}
   :members:
   :inherited-members:
```
"""


def write_api(notebooks: list[Path]) -> list[str]:
    "A page for each module with public names; the names of the pages."
    names = []
    for path in notebooks:
        module = re.search(r"#\|\s*default_exp (\w+)", path.read_text("utf-8"))
        if module and importlib.import_module(f"rvos_nb.{module[1]}").__all__:
            where = dict(notebook=path.name, number=int(path.name[:2]), title=title_of(path))
            write(f"api/{module[1]}.md", API_PAGE.format(module=module[1], **where))
            names.append(f"api/{module[1]}")
    return names


def toctree(caption: str, pages: list[str]) -> str:
    "A part of the sidebar."
    lines = "\n".join(pages)
    return f"```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{lines}\n```\n"


def write_index(notebooks: list[Path], api: list[str]) -> None:
    "The first page: README, and the order of everything."
    text = relink((ROOT / "README.md").read_text("utf-8"), "")
    listed = (ROOT / "nbs" / "notebooks.md").read_text("utf-8")
    spine = re.findall(r"\*\*\[[^\]]+\]\((\w+)\.ipynb\)", listed)
    pages = [p.stem for p in (ROOT / "nbs").glob("*.md")]
    pages += [Path(page).stem for page in PAGES.values()]
    trees = [toctree("The spine, in order", spine), toctree("Pages", sorted(pages))]
    for chapter, name in CHAPTERS.items():
        rest = [p.stem for p in notebooks if int(p.name[0]) == chapter and p.stem not in spine]
        if rest:
            trees.append(toctree(f"Reference {chapter}: {name}", rest))
    trees.append(toctree("API", api))
    write("index.md", "\n".join([text, *trees]))


def write_source() -> None:
    "Everything that Sphinx reads."
    notebooks = sorted((ROOT / "nbs").glob("[0-9]*.ipynb"))
    for path in notebooks:
        write_notebook(path)
    for path in (ROOT / "nbs").glob("*.md"):
        write(path.name, relink(path.read_text("utf-8"), "nbs"))
    for path, name in PAGES.items():
        write(name, relink((ROOT / path).read_text("utf-8"), str(Path(path).parent)))
    (SOURCE / "images").mkdir()
    for path in [*(ROOT / "nbs/images").glob("*.*"), *(ROOT / "rvos_nb/assets").glob("*.jpg")]:
        if path.suffix in PICTURES:
            shutil.copy2(path, SOURCE / "images")
    write_index(notebooks, write_api(notebooks))


def main() -> int:
    shutil.rmtree(OUT, ignore_errors=True)  # a page that is kept would keep its warnings to itself
    sys.path.insert(0, str(ROOT))
    write_source()
    options = ["-q", "-W", "--keep-going", "-c", str(HERE), "-d", str(OUT / "doctrees")]
    code = sphinx([*options, "-b", "html", str(SOURCE), str(OUT / "html")])
    if not code:
        print(f"the site: {OUT / 'html' / 'index.html'}")
    return code


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit(__doc__)
    sys.exit(main())
