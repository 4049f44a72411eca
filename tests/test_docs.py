"What a visitor reads: README, its picture and its four lines; pages; the documentation site."

import contextlib
import functools
import http.server
import importlib.util
import io
import os
import re
import shutil
import subprocess
import sys
import threading
from configparser import ConfigParser
from datetime import date
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")
OPENING = README.split("\n## ")[0]
PAGES = [ROOT / p for p in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/README.md")]
PAGES += sorted((ROOT / "nbs").glob("*.md"))
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
SETTINGS = ConfigParser(delimiters=["="], interpolation=None)
SETTINGS.read(ROOT / "settings.ini", encoding="utf-8")
NAMES = sorted(p.stem for p in (ROOT / "nbs").glob("[0-9]*.ipynb"))


# --- README


def test_readme_is_short():
    words = [w for w in README.split() if re.search(r"\w", w)]
    assert 600 < len(words) <= 1300


def test_first_screen_has_what_a_visitor_wants():
    assert re.search(r"!\[[^\]]+\]\(nbs/images/\w+\.webp\)", OPENING), "a moving picture"
    assert OPENING.count("```sh") == 2 and OPENING.count("```python") == 1
    badges = re.findall(r'href="https://colab[^"]+/(\w+)\.ipynb"', OPENING)
    assert badges == ["51_segmenter", "40_training"]
    assert len(OPENING.splitlines()) < 45


def test_moving_picture_moves_and_is_small():
    path = ROOT / re.search(r"\((nbs/images/\w+\.webp)\)", OPENING)[1]
    assert 100_000 < path.stat().st_size < 1_500_000
    with Image.open(path) as picture:
        assert picture.n_frames > 50 and picture.width >= 480
        first = picture.convert("RGB").tobytes()
        picture.seek(picture.n_frames // 2)
        assert picture.convert("RGB").tobytes() != first


def test_every_heading_that_was_promised_is_there():
    headings = re.findall(r"^## (.+)$", README, re.M)
    wanted = "learn|notebooks|comparable|own video|own data|something else|Limits|Licence".split(
        "|"
    )
    assert [w for w in wanted if not any(w in h for h in headings)] == []
    learn = README.split("## What you will learn\n")[1].split("\n## ")[0]
    assert len(re.findall(r"^- ", learn, re.M)) == 5
    spine = README.split("## The notebooks\n")[1].split("\n## ")[0]
    assert len(re.findall(r"^\| \d\d \|", spine, re.M)) == 10


@pytest.mark.slow
def test_the_four_lines_print_what_readme_says(monkeypatch):
    code, said = re.search(r"```python\n(.*?)```\n+```text\n(.*?)```", OPENING, re.S).groups()
    assert len(code.strip().splitlines()) == 4
    monkeypatch.chdir(ROOT)
    printed = io.StringIO()
    from rvos_nb.fit import demo_run

    demo_run()  # trained now, if at all: it prints much
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {})
    assert printed.getvalue() == said


# --- pages


def slug(heading: str) -> str:
    "The anchor that GitHub gives a heading."
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(path: Path) -> set[str]:
    return {slug(h) for h in re.findall(r"^#+ (.+)$", path.read_text("utf-8"), re.M)}


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_of_pages_lead_to_files(path):
    lost = []
    for link in re.findall(r"\]\((?![a-z]+:)([^)\s]+)\)", path.read_text("utf-8")):
        name, _, part = link.partition("#")
        there = path.parent / name if name else path
        if not there.exists() or (part and part not in anchors(there)):
            lost.append(link)
    assert lost == []


def test_every_notebook_is_listed():
    listed = (ROOT / "nbs/notebooks.md").read_text("utf-8")
    assert [n for n in NAMES if f"({n}.ipynb)" not in listed] == []
    assert len(re.findall(r"^\| \d\d \|", listed, re.M)) == len(NAMES)


def test_every_benchmark_has_a_row():
    "And every row a script; what a script writes is there."
    text = (ROOT / "benchmarks/README.md").read_text("utf-8")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    assert all(len(row) == 6 and all(row) for row in rows)
    scripts = {p.name for p in (ROOT / "benchmarks").glob("[!_]*.py")}
    assert sorted(row[0].strip("`") for row in rows) == sorted(scripts)
    written = [name for row in rows for name in re.findall(r"`([^`]+)`", row[4])]
    assert [n for n in written if not (ROOT / "benchmarks" / n).exists()] == []


def test_glossary_is_in_order_and_says_each_word_once():
    text = (ROOT / "nbs/glossary.md").read_text("utf-8")
    words = [line.split(" | ")[0].strip("| ") for line in text.splitlines()[4:] if "|" in line][2:]
    assert len(words) > 40 and len(set(words)) == len(words)
    assert words == sorted(words, key=lambda w: re.sub(r"\W", "", w.lower()))


def test_changelog_keeps_its_form():
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    versions = re.findall(r"^## (.+)$", text, re.M)
    assert versions[0] == "[Unreleased]"
    for version in versions[1:]:
        number, day = re.fullmatch(r"\[([\d.]+)\] - (\d{4}-\d\d-\d\d)", version).groups()
        assert date.fromisoformat(day)
    assert SETTINGS["DEFAULT"]["version"] == number, "the newest that is dated"
    kinds = re.findall(r"^### (.+)$", text, re.M)
    assert set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    body = [line for line in text.splitlines() if line.strip() and line[0] not in "#["]
    assert all(line.startswith(("- ", "  ")) for line in body[2:])


def validate(schema: str, *paths: Path) -> None:
    "Against a schema that check-jsonschema brings along."
    if not importlib.util.find_spec("check_jsonschema"):
        pytest.skip("check-jsonschema is not installed: it comes with the dev extra")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema]
    done = subprocess.run([*command, *map(str, paths)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_citation_is_valid_and_of_this_version():
    path = ROOT / "CITATION.cff"
    validate("vendor.citation-file-format", path)
    text = path.read_text("utf-8")
    assert f"\nversion: {SETTINGS['DEFAULT']['version']}\n" in text
    assert f"\nrepository-code: {SETTINGS['DEFAULT']['git_url']}\n" in text


def test_workflows_are_valid_and_run_what_is_there():
    assert {p.stem for p in WORKFLOWS} >= {"test", "docs", "weekly"}
    validate("vendor.github-workflows", *WORKFLOWS)
    validate("custom.github-workflows-require-timeout", *WORKFLOWS)
    for path in WORKFLOWS:
        scripts = re.findall(r"run: (?:bash|python) (\S+)", path.read_text("utf-8"))
        assert [s for s in scripts if not (ROOT / s).exists()] == []


def test_contributing_names_what_is_there():
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    files = re.findall(r"`((?:tests|nbs|\.ci)/[\w./]+)`", text)
    assert len(files) > 5 and [f for f in files if not (ROOT / f).exists()] == []
    assert "tests/test_toy_segmenter.py" in files and "tests/test_toy_format.py" in files


# --- the site


class Page(HTMLParser):
    "What a page loads, where it links, and its anchors."

    def __init__(self, path: Path):
        super().__init__()
        self.loads, self.links, self.anchors = [], [], set()
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if "id" in found:
            self.anchors.add(found["id"])
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        elif tag == "link" and found.get("rel") not in ("canonical", "edit"):
            self.loads.append(found["href"])
        elif "src" in found:
            self.loads.append(found["src"])


@pytest.fixture(scope="module")
def site() -> Path:
    "The site, built from this checkout into the ignored folder _docs."
    if not importlib.util.find_spec("sphinx"):
        pytest.skip("Sphinx is not installed: it comes with the dev extra")
    command = [sys.executable, str(ROOT / ".ci/docs")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return ROOT / "_docs/html"


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(site.rglob("*.html"))}


@pytest.mark.slow
def test_site_has_a_page_for_everything(site, pages):
    names = {path.relative_to(site).as_posix() for path in pages}
    assert {f"{n}.html" for n in NAMES} <= names
    assert {"index.html", "search.html", "genindex.html", "api/evaluation.html"} <= names
    sidebar = [link.removesuffix(".html") for link in pages[site / "index.html"].links]
    spine = [n for n in sidebar if n in NAMES][:10]
    assert spine == sorted(spine) and spine[0] == "10_shapes" and spine[-1] == "61_evaluation"
    api = (site / "api/draw.html").read_text("utf-8")
    assert "colour map, colour name, or RGB" in api, "comments beside parameters"


@pytest.mark.slow
def test_site_loads_nothing_from_elsewhere_and_its_links_hold(site, pages):
    for path, page in pages.items():
        outside = [u for u in page.loads if re.match(r"https?:|//", u)]
        assert outside == [], f"{path.name} loads {outside[0]}"
        for link in page.loads + page.links:
            if re.match(r"[a-z]+:", link):
                continue
            name, _, part = unquote(link).partition("#")
            there = (path.parent / name.split("?")[0]).resolve() if name else path
            assert there.exists(), f"{path.name}: {link}"
            if part and there in pages:
                assert part in pages[there].anchors, f"{path.name}: {link}"


@contextlib.contextmanager
def served(folder: Path):
    "The address of a folder on this machine."
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        "Nothing."


@pytest.mark.slow
def test_site_in_a_browser_searches_and_fits_a_phone(site):
    chromium = os.environ.get("RVOS_CHROMIUM") or shutil.which("chromium")
    if not importlib.util.find_spec("playwright") or not chromium:
        pytest.skip("no playwright, or no Chromium (RVOS_CHROMIUM names one)")
    from playwright.sync_api import sync_playwright

    with served(site) as at, sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 844})
        asked, errors = [], []
        page.on("request", lambda r: asked.append(r.url))
        page.on("pageerror", lambda e: errors.append(str(e)))
        for name in ("index", "11_data", "61_evaluation", "api/config", "models"):
            page.goto(f"{at}/{name}.html")
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide == 390, f"{name} is {wide} pixels wide"
        page.goto(f"{at}/search.html?q=bootstrap")
        page.wait_for_selector("ul.search li p.context")
        found = page.locator("ul.search li").all_inner_texts()
        assert any("61 Evaluation" in text for text in found)
        assert any("bootstrap" in text for text in found)
        browser.close()
    assert errors == []
    assert [u for u in asked if not u.startswith((at, "data:"))] == []
