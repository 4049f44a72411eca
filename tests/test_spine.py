"""The ten notebooks that a student reads in order: forwards, in small steps, with pictures.

A notebook that is not there yet stands in `LEFT` with today's count, which may only fall.
"""

import ast
import functools
import re
from pathlib import Path

import nbformat
import pytest

NBS = Path(__file__).resolve().parent.parent / "nbs"
SPINE = [
    *("10_shapes", "11_data", "18_loaders", "21_parts", "22_model"),
    *("30_loss", "40_training", "51_segmenter", "53_visualization", "61_evaluation"),
]
EVERY = sorted(p.stem for p in NBS.glob("[0-9]*.ipynb"))
each_of_the_spine = pytest.mark.parametrize("name", SPINE)

# how many there may be in a notebook of the spine
MOST = {
    "cells before the first picture": 9,
    "cells": 45,
    "words": 2400,  # twelve minutes
    "exported lines with nothing shown": 25,  # of several definitions
    "lines of one definition": 40,
    "public functions that are not called": 0,
    "words of a paragraph": 90,
    "missing from the opening and the end": 0,
}
LEFT: dict[str, dict[str, int]] = {}
LONG_PARAGRAPHS: dict[str, int] = {  # of notebooks outside of the spine
}


@functools.cache
def cells(name: str) -> list:
    return nbformat.read(NBS / f"{name}.ipynb", as_version=4).cells


def prose(name: str) -> list[str]:
    return [c.source for c in cells(name) if c.cell_type == "markdown"]


def is_exported(cell) -> bool:
    return cell.cell_type == "code" and bool(re.search(r"^#\| *exporti?\s*$", cell.source, re.M))


def has_picture(cell) -> bool:
    kinds = [kind for o in cell.get("outputs", []) for kind in o.get("data", {})]
    html = "".join(str(o.get("data", {}).get("text/html", "")) for o in cell.get("outputs", []))
    return any(k.startswith(("image/", "video/")) for k in kinds) or "<video" in html


def code_of(statement: ast.stmt) -> list[int]:
    "Numbers of a statement's lines without docstrings."
    lines = set(range(statement.lineno, statement.end_lineno + 1))
    for node in ast.walk(statement):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node):
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    if isinstance(statement, (ast.FunctionDef, ast.ClassDef)) and statement.decorator_list:
        lines |= set(range(statement.decorator_list[0].lineno, statement.lineno))
    return sorted(lines)


def definitions(source: str) -> list[int]:
    "Lines of code of each statement that is no import; blank lines and comments do not count."
    lines, found = source.splitlines(), []
    for statement in ast.parse(source).body:
        if not isinstance(statement, (ast.Import, ast.ImportFrom)):
            text = [lines[i - 1].strip() for i in code_of(statement)]
            found.append(sum(bool(t) and not t.startswith("#") for t in text))
    return found


def runs(name: str) -> list[list[int]]:
    "Lengths of the exported definitions that follow each other with nothing shown."
    found = [[]]
    for cell in cells(name):
        if is_exported(cell):
            found[-1] += definitions(cell.source)
        elif cell.get("outputs"):
            found.append([])
    return found


def uncalled(name: str) -> set[str]:
    "Public functions that no cell below their definition calls."
    waiting = set()
    for cell in cells(name):
        if cell.cell_type != "code":
            continue
        tree = ast.parse(cell.source)
        if is_exported(cell):
            if not re.search(r"^#\| *exporti", cell.source, re.M):
                functions = [n.name for n in tree.body if isinstance(n, ast.FunctionDef)]
                waiting |= {n for n in functions if not n.startswith("_")}
        else:
            called = [n.func for n in ast.walk(tree) if isinstance(n, ast.Call)]
            waiting -= {getattr(f, "id", None) or getattr(f, "attr", None) for f in called}
    return waiting


def longest_paragraph(name: str) -> int:
    "Words of the longest paragraph or point of a list; tables and code are not read as one."
    found = [0]
    for text in prose(name):
        text = re.sub(r"```.*?```", "", text, flags=re.S)
        for block in re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) )", text):
            if not block.lstrip().startswith("|"):
                found.append(len(block.split()))
    return max(found)


def missing(name: str) -> list[str]:
    "Of what a reader is told first and gets last."
    opening = next(text for text in prose(name) if re.search(r"^# \S", text, re.M))
    shown = [c for c in cells(name) if c.get("outputs")]
    exercises = prose(name)[-1].partition("## Exercises")[2]
    points = re.findall(r"^\d+\. .*(?:\n(?!\d+\. ).*)*", exercises, re.M)
    found = {
        "'What you will see' in the opening": "What you will see" in opening,
        "'you can' in the opening": bool(re.search(r"\byou can\b", opening)),
        "a picture at the end": has_picture(shown[-1]),
        "three exercises": len(points) == 3,
        "what to expect of each exercise": all("expect" in p.lower() for p in points),
    }
    return [what for what, there in found.items() if not there]


@functools.cache
def counts(name: str) -> dict[str, int]:
    pictures = [i for i, cell in enumerate(cells(name)) if has_picture(cell)]
    # constants and classes of a line or two go with the definition beside them
    several = [sum(run) for run in runs(name) if sum(n > 3 for n in run) > 1]
    return {
        "cells before the first picture": pictures[0],
        "cells": len(cells(name)),
        "words": sum(len(text.split()) for text in prose(name)),
        "exported lines with nothing shown": max(several, default=0),
        "lines of one definition": max(n for run in runs(name) for n in [0, *run]),
        "public functions that are not called": len(uncalled(name)),
        "words of a paragraph": longest_paragraph(name),
        "missing from the opening and the end": len(missing(name)),
    }


@each_of_the_spine
@pytest.mark.parametrize("what", MOST)
def test_a_notebook_of_the_spine_is_told_forwards(name, what):
    most = LEFT.get(name, {}).get(what, MOST[what])
    assert counts(name)[what] <= most, (missing(name), uncalled(name), runs(name))


def test_what_is_left_is_still_left():
    "A notebook that got there leaves the list; nothing can slip back unseen."
    there = [
        (name, what)
        for name, left in LEFT.items()
        for what, most in left.items()
        if counts(name)[what] <= MOST[what]
    ]
    assert there == [], "take these out of LEFT"


@pytest.mark.parametrize("name", [n for n in EVERY if n not in SPINE])
def test_no_paragraph_is_long(name):
    most = LONG_PARAGRAPHS.get(name, MOST["words of a paragraph"])
    assert longest_paragraph(name) <= most
    assert name not in LONG_PARAGRAPHS or longest_paragraph(name) > MOST["words of a paragraph"]


def test_counts_of_a_notebook_that_is_told_backwards(tmp_path, monkeypatch):
    "The counts are not blind."
    code, text = nbformat.v4.new_code_cell, nbformat.v4.new_markdown_cell
    picture = nbformat.v4.new_output("display_data", {"image/jpeg": ""})
    long = "\n".join(["#| export", "import re", "def f(x):", '    "Doc."', *["    x += 1"] * 20])
    said = [text("# Title\n\nWhat you will see."), code(long), code(long.replace("f(", "_g("))]
    shown = code("g(1)", outputs=[picture])
    end = text("word " * 91 + "\n\n- one\n- two\n\n## Exercises\n\n1. Do. Expect a.\n2. Do.")
    book = nbformat.v4.new_notebook(cells=[*said, shown, end])
    nbformat.write(book, tmp_path / "99_backwards.ipynb")
    monkeypatch.setitem(globals(), "NBS", tmp_path)
    found = counts("99_backwards")
    assert list(found.values()) == [3, 5, 109, 42, 21, 1, 91, 3]
    assert uncalled("99_backwards") == {"f"}
