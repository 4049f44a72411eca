"""Draw the ladder of modules from their imports: writes nbs/images/ladder.svg, or with --check
says whether it is current.

usage: python .ci/ladder.py [--check]

An arrow leads from a module to one that it imports. Arrows that follow from others (a imports b
and c, b imports c) are left out, so that the picture shows who really rests on whom.
"""

import ast
import re
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "nbs" / "images" / "ladder.svg"
CHAPTERS = {
    0: "ground",
    1: "data",
    2: "model",
    3: "loss, runs",
    4: "training",
    5: "use and look",
    6: "evaluation",
    7: "terminal",
}
BOX_W, BOX_H, GAP_X, GAP_Y, LEFT, TOP = 118, 34, 22, 46, 118, 16


def numbered_modules() -> dict[str, int]:
    "Each module's notebook number, in order."
    found = {}
    for path in sorted((ROOT / "nbs").glob("[0-9]*.ipynb")):
        source = "\n".join(c.source for c in nbformat.read(path, as_version=4).cells)
        if name := re.search(r"^#\|\s*default_exp (\w+)", source, re.M):
            found[name[1]] = int(path.name[:2])
    return found


def imports_of(module: str) -> set[str]:
    "Modules of the package that a module imports."
    tree = ast.parse((ROOT / "rvos_nb" / f"{module}.py").read_text("utf-8"))
    nodes = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    relative = {n.module for n in nodes if n.level and n.module}
    absolute = {n.module.split(".")[1] for n in nodes if (n.module or "").startswith("rvos_nb.")}
    return relative | absolute


def without_shortcuts(edges: dict[str, set[str]]) -> dict[str, set[str]]:
    "The same reachability with as few arrows as possible."

    def reach(module: str) -> set[str]:
        return {module}.union(*(reach(below) for below in edges[module]))

    thinned = {}
    for module, below in edges.items():
        others = {b: set().union(*(reach(c) for c in below if c != b)) for b in below}
        thinned[module] = {b for b in below if b not in others[b]}
    return thinned


def draw(modules: dict[str, int], edges: dict[str, set[str]]) -> str:
    "The picture as SVG text; the ground is at the bottom."
    rows = {c: [m for m, n in modules.items() if n // 10 == c] for c in CHAPTERS}
    rows = {c: row for c, row in rows.items() if row}
    columns = max(len(row) for row in rows.values())
    width = LEFT + columns * (BOX_W + GAP_X)
    height = TOP + len(rows) * (BOX_H + GAP_Y)
    place = {}
    for level, (chapter, row) in enumerate(rows.items()):
        y = height - (level + 1) * (BOX_H + GAP_Y) + GAP_Y // 2
        for k, module in enumerate(row):
            place[module] = (LEFT + k * (BOX_W + GAP_X), y)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        '<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" '
        'markerHeight="6" orient="auto"><path d="M0 0L8 4L0 8z" fill="#0072B2"/></marker></defs>',
    ]
    for module, below in edges.items():
        x, y = place[module]
        for other in sorted(below):
            u, v = place[other]
            start, end = ((x + BOX_W / 2, y + BOX_H), (u + BOX_W / 2, v))
            if v == y:  # the same chapter: sideways
                start, end = ((x, y + BOX_H / 2), (u + BOX_W, v + BOX_H / 2))
                if x - u > BOX_W + GAP_X:  # not the neighbour: around it
                    bend = (
                        f"M{x + BOX_W / 2} {y} Q{(x + u + BOX_W) / 2} {y - 34} {u + BOX_W / 2} {v}"
                    )
                    parts.append(arrow(bend))
                    continue
            parts.append(arrow(f"M{start[0]} {start[1]}L{end[0]} {end[1]}"))
    for chapter, row in rows.items():
        y = place[row[0]][1]
        parts.append(f'<text x="8" y="{y + 22}" fill="#555">{chapter} {CHAPTERS[chapter]}</text>')
    for module, (x, y) in place.items():
        parts.append(
            f'<rect x="{x}" y="{y}" width="{BOX_W}" height="{BOX_H}" rx="6" fill="#EAF3FA" '
            f'stroke="#0072B2"/><text x="{x + BOX_W / 2}" y="{y + 22}" text-anchor="middle">'
            f"{modules[module]:02d} {module}</text>"
        )
    return "\n".join([*parts, "</svg>", ""])


def arrow(path: str) -> str:
    "A thin blue arrow along an SVG path."
    return (
        f'<path d="{path}" fill="none" stroke="#0072B2" stroke-opacity="0.45" '
        'marker-end="url(#a)"/>'
    )


def main(check: bool) -> int:
    "Write the picture, or compare it; exit code 1 where it is stale."
    modules = numbered_modules()
    edges = {m: imports_of(m) & set(modules) for m in modules}
    upward = [f"{m} imports {b}" for m in edges for b in edges[m] if modules[b] >= modules[m]]
    if upward:
        sys.exit(f"not a ladder: {'; '.join(upward)}")
    text = draw(modules, without_shortcuts(edges))
    if not check:
        PICTURE.write_text(text, "utf-8")
    elif not PICTURE.exists() or PICTURE.read_text("utf-8") != text:
        print("nbs/images/ladder.svg is stale: run `python .ci/ladder.py`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["--check"]):
        sys.exit(__doc__)
    sys.exit(main(check=bool(sys.argv[1:])))
