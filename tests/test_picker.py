"The picker without a browser (its methods and widgets) and in one (Voila, Chromium)."

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import cv2
import ipywidgets as widgets
import numpy as np
import pytest
from clips import Bright, untrained
from rvos_nb.answers import describe_answer
from rvos_nb.checkpoints import save_checkpoint
from rvos_nb.config import Config, RVOSError
from rvos_nb.data import IdMasks
from rvos_nb.datasets import load_annotations
from rvos_nb.draw import write_video
from rvos_nb.metrics import region_similarity
from rvos_nb.picker import (
    _MAX_FRAMES,
    _OWN,
    VideoPicker,
    _bar_strip,
    own_picker,
)
from rvos_nb.shapes import make_shapes
from rvos_nb.video import shapes_clip
from rvos_nb.visualization import PREDICTED, TRUE
from tiny_pretrained import tiny_clipseg

EVIL = '<img src=x onerror="window.pwned=1"> & $x^2$'


@pytest.fixture(scope="module")
def annotations(tmp_path_factory):
    folder = tmp_path_factory.mktemp("picker") / "shapes"
    return load_annotations(make_shapes(folder, n_train=1, n_val=3, progress=False), "val")


@pytest.fixture(scope="module")
def segmenter():
    return untrained()


@pytest.fixture
def picker(segmenter, annotations):
    return VideoPicker(segmenter, annotations, width=320)


def pixels(picker):
    image = cv2.imdecode(np.frombuffer(picker.image.value, np.uint8), cv2.IMREAD_COLOR)
    return image[..., ::-1].astype(int)


def every_widget(w):
    yield w
    for child in getattr(w, "children", ()):
        yield from every_widget(child)


def test_starts_with_a_video_and_an_expression(picker, annotations):
    first = next(iter(annotations.values()))
    assert picker.video.value == first.id and picker.expression.value == 0
    assert picker.answers.asked == first.expressions[0].text
    assert picker.frame.max == picker.play.max == len(first.frames) - 1
    assert pixels(picker).shape == (192, 320, 3) and picker.timeline.value[1:4] == b"PNG"
    assert picker.answers.asked in picker.status.value and "J " in picker.status.value


def test_only_core_widgets(picker):
    core = ("@jupyter-widgets/controls", "@jupyter-widgets/base")
    for w in every_widget(picker):
        assert w._model_module in core and w._model_name != "OutputModel", w


def test_choosing(picker, annotations):
    second = list(annotations.values())[1]
    before = pixels(picker)
    picker.video.value = second.id  # as a click does
    assert picker.answers.asked == second.expressions[0].text
    assert np.abs(pixels(picker) - before).mean() > 1
    picker.frame.value = 3
    picker.choose_video(second.id)
    assert picker.frame.value == 0, "a new video begins at its first frame"
    last = len(second.expressions) - 1
    picker.expression.value = last
    assert (picker.answers.asked, picker.answers.number) == (second.expressions[last].text, last)
    picker.choose_expression(0)
    assert picker.expression.value == 0


def test_typing(picker):
    picker.choose_expression(1)
    picker.typed.value = "  a red   thing "
    answers = picker.answers
    assert (answers.asked, answers.number, answers.J) == ("a red thing", None, None)
    assert picker.expression.value == _OWN and "J " not in picker.status.value
    picker.typed.value = "word " * 80
    assert "at most 64" in picker.status.value
    assert answers.asked == "a red thing", "what cannot be asked changes nothing but the status"
    picker.button.click()
    assert "at most 64" in picker.status.value
    picker.choose_expression(0)
    assert picker.typed.value == ""
    picker.type_expression("")
    assert "empty" in picker.status.value


def test_views(picker):
    picker.opacity.value = 1.0
    clip, shown = picker.answers.clip, {}
    plain = clip.frames[0].astype(int)
    for view in ("frame", "prediction", "truth", "both"):
        picker.view.value = view
        shown[view] = pixels(picker)
    assert np.abs(shown["frame"] - plain).mean() < 4
    true = clip.truth(0, picker.answers.object_ids).astype(np.uint8)
    true = cv2.resize(true, (320, 192), interpolation=cv2.INTER_NEAREST)
    inside = cv2.erode(true, np.ones((7, 7), np.uint8)) > 0
    assert inside.any() and np.abs(shown["truth"][inside] - TRUE).mean() < 12
    outside = cv2.dilate(true, np.ones((15, 15), np.uint8)) == 0
    assert np.abs(shown["truth"] - plain)[outside].mean() < 4
    logits = picker.answers.found[picker.answers.asked][0].astype(np.float32)
    pred = np.uint8(cv2.resize(logits, (320, 192)) > 0)
    pred = cv2.erode(pred, np.ones((15, 15), np.uint8)) > 0
    assert pred.any() and np.abs(shown["prediction"][pred] - PREDICTED).mean() < 12
    picker.view.value, picker.opacity.value = "truth", 0.0
    assert np.abs(pixels(picker)[inside] - plain[inside]).mean() < 12


def test_a_typed_expression_shows_the_truth_of_all_objects(picker):
    picker.opacity.value, picker.view.value = 1.0, "truth"
    one = (np.abs(pixels(picker) - TRUE).sum(-1) < 60).sum()
    picker.type_expression("anything")
    assert (np.abs(pixels(picker) - TRUE).sum(-1) < 60).sum() > one


def test_J_of_each_frame(picker, annotations):
    record, answers = next(iter(annotations.values())), picker.answers
    truth = [record.masks.mask(t, answers.object_ids) for t in range(len(record.frames))]
    masks = picker.segmenter.segment(record.frames, answers.asked).masks[0]
    expected = region_similarity(np.stack(truth), masks)
    assert np.allclose(answers.J, expected, atol=0.01)  # the picker keeps half precision
    picker.go_to(2)
    assert f"J {answers.J[2]:.2f}" in picker.status.value and "frame 3 of" in picker.status.value


def test_frames_without_labels(segmenter, annotations):
    record = next(iter(annotations.values()))
    files = record.masks.files()
    few = replace(record, masks=IdMasks([files[0], *[None] * (len(files) - 1)]))
    none = replace(record, masks=None)
    picker = VideoPicker(segmenter, {"few": few, "none": none}, width=160)
    J = picker.answers.J
    assert np.isnan(J[1:]).all() and f"{J[0]:.2f} on average" in picker.status.value
    picker.go_to(1)
    assert "not labelled here" in picker.status.value
    picker.video.value = "none"
    assert picker.answers.J is None and "of the frame" in picker.status.value


def test_playing_moves_the_frame(picker):
    picker.play.value = 2
    assert picker.frame.value == 2 and "frame 3 of" in picker.status.value
    picker.frame.value = 4
    assert picker.play.value == 4


def test_a_look_is_shared(picker, segmenter, monkeypatch):
    looked, encode = [], segmenter.runner.encode_frames

    def counted(frames):
        for x in encode(frames):
            looked.append(1)
            yield x

    monkeypatch.setattr(segmenter.runner, "encode_frames", counted)
    picker.choose_video(list(picker.data)[2])
    n = len(picker.answers.clip.frames)
    for i in range(min(8, len(picker.answers.clip.expressions))):
        picker.choose_expression(i)
    assert len(looked) == n, "one look for all expressions"
    picker.type_expression("something else")
    assert len(looked) >= 2 * n


def test_progress_is_shown(picker):
    seen = []

    def note(change):
        seen.append((change["new"], picker.progress.layout.display, picker.button.disabled))

    picker.progress.observe(note, "value")
    picker.type_expression("a thing that nobody asked for")
    n = len(picker.answers.clip.frames)
    assert [v for v, *_ in seen if v] == list(range(1, n + 1))
    assert all(display == "flex" and disabled for v, display, disabled in seen if v)
    assert picker.progress.layout.display == "none" and not picker.button.disabled


def test_users_text_stays_text(segmenter, tmp_path):
    path = tmp_path / "<b onclick=x>&.mp4"
    write_video(path, [np.full((48, 80, 3), 90, np.uint8)] * 3)
    picker = VideoPicker(segmenter, [path])
    picker.type_expression(EVIL)
    assert picker.answers.asked == EVIL
    can_show_html = (widgets.HTML, widgets.HTMLMath, widgets.Label)
    for problem in (EVIL * 40, ""):
        shown = [w for w in every_widget(picker) if isinstance(w, can_show_html)]
        assert shown == [picker.status] and type(picker.status) is widgets.HTML
        said = picker.status.value
        assert "<img" not in said and "<b" not in said and said.count("<") == 2
        picker.type_expression(problem)
    for w in every_widget(picker):
        assert "<" not in str(getattr(w, "description", ""))


@pytest.mark.slow
def test_what_it_takes(segmenter, annotations, tmp_path):
    clip = shapes_clip()
    for data in (str(clip), clip, [clip], {"clip.mp4": clip}):
        own = VideoPicker(segmenter, data, width=160)
        assert own.video.options == ("clip.mp4",) and own.answers.asked == ""
        assert "Type an expression" in own.status.value and own.answers.clip.record is None
        own.type_expression("the red circle")
        for view in ("truth", "both", "prediction", "frame"):
            own.view.value = view
        assert "% of the frame" in own.status.value
    folder = VideoPicker(segmenter, annotations.root, width=160)
    assert folder.video.options == tuple(annotations)
    with pytest.raises(RVOSError, match="no checkpoint"):
        VideoPicker(tmp_path, clip)
    with pytest.raises(RVOSError, match="no data"):
        VideoPicker(segmenter)
    (tmp_path / "broken.mp4").write_text("no video")
    two = VideoPicker(Bright(), [clip, tmp_path / "broken.mp4"], width=160)
    two.type_expression("the dog")
    two.video.value = "broken.mp4"
    assert "not a video" in two.status.value and "still clip.mp4" in two.status.value
    assert two.video.value == two.answers.clip.video.name == "clip.mp4", "name and picture agree"
    two.type_expression("the dog")
    assert "not a video" not in two.status.value
    first = VideoPicker(Bright(), [tmp_path / "broken.mp4", clip], width=160)
    assert first.video.value == "clip.mp4"
    with pytest.raises(RVOSError, match="not a video"):
        VideoPicker(Bright(), [tmp_path / "broken.mp4"])


def test_a_model_of_others(tmp_path):
    folder = tiny_clipseg(tmp_path / "clipseg")
    picker = VideoPicker(f"clipseg:{folder}", width=120)  # no data of its own: the bundled clip
    assert picker.video.options == ("bundled clip",)
    picker.type_expression("the red circle")
    assert "% of the frame" in picker.status.value and picker.answers.found
    other = VideoPicker(f"clipseg:{folder}", {"mine": np.zeros((2, 48, 80, 3), np.uint8)}, width=80)
    assert other.video.options == ("mine",)


def test_files_of_one_name_stay_apart(tmp_path):
    paths = []
    for n, value in enumerate((40, 120, 200)):
        (tmp_path / str(n)).mkdir()
        paths.append(tmp_path / str(n) / "clip.mp4")
        write_video(paths[-1], [np.full((48, 80, 3), value, np.uint8)] * 2)
    picker = VideoPicker(Bright(), paths, width=80)
    assert picker.video.options == ("clip.mp4", "clip.mp4 (2)", "clip.mp4 (3)")
    seen = []
    for name in picker.video.options:
        picker.choose_video(name)
        seen.append(picker.answers.clip.frames[0].mean())
    assert np.allclose(seen, (40, 120, 200), atol=4)


def test_an_upload_that_is_none_leaves_the_bundled_clip(tmp_path, capsys):
    (tmp_path / "notes.mp4").write_text("no video")
    picker = own_picker(Bright(), [str(tmp_path / "notes.mp4")])
    assert picker.video.value == "bundled clip" and picker.answers.asked
    assert "notes.mp4" in capsys.readouterr().out
    assert own_picker(Bright(), []).video.value == "bundled clip"
    asked = own_picker(Bright(), [shapes_clip()])
    assert asked.answers.asked == "" and "Type an expression" in asked.status.value


def test_what_is_not_understood_is_said(picker):
    picker.segmenter.unread_words = lambda text: [w for w in text.split() if w == "dog"]
    try:
        picker.type_expression("the dog")
        assert "does not know “dog”" in picker.status.value
        assert "probability 0." in picker.status.value
        picker.type_expression("the star")
        assert "does not know" not in picker.status.value
    finally:
        del picker.segmenter.unread_words
    assert describe_answer(0.55, []) == "probability 0.55, low confidence"
    assert describe_answer(0.0, []) == "marked nowhere"


def test_a_run_brings_its_data(segmenter, annotations, tmp_path):
    size = dict(image_size=(48, 80), hidden_dim=16)
    cfg = Config.preset("demo", root=str(annotations.root), **size)
    save_checkpoint(tmp_path / "best_model.pth", segmenter.model, cfg)
    assert VideoPicker(tmp_path, width=160).video.options == tuple(annotations)


def test_long_videos_are_thinned(segmenter):
    long = np.zeros((2 * _MAX_FRAMES + 3, 24, 40, 3), np.uint8)
    picker = VideoPicker(segmenter, {"long": long}, width=80)
    assert len(picker.answers.clip.frames) == 161 <= _MAX_FRAMES and picker.frame.max == 160
    picker.type_expression("the red circle")
    assert len(picker.answers.found["the red circle"]) == 161


def test_bar_strip():
    values = np.array([0.0, 1.0, 0.25, 0.5])
    strip = _bar_strip(values, 1, width=8, color=(10, 20, 30), height=4)
    filled = (strip == (10, 20, 30)).all(-1) | (strip == (5, 10, 15)).all(-1)
    assert filled.sum(0).tolist() == [1, 1, 4, 4, 1, 1, 2, 2]


def test_a_frame_at_480p_takes_less_than_60_ms(segmenter):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (24, 30, 54, 3), dtype=np.uint8)
    frames = [cv2.resize(x, (854, 480)) for x in noise]
    picker = VideoPicker(segmenter, {"noise": frames}, width=854)
    picker.type_expression("the red circle")
    for view in ("prediction", "both"):
        picker.view.value = view
        times = []
        for t in range(1, 24):
            start = time.process_time()  # of this process, whatever else the machine does
            picker.frame.value = t
            times.append(time.process_time() - start)
        assert np.median(times) < 0.06, times
    start = time.process_time()
    for t in range(24):
        picker.frame.value = t
    seconds = (time.process_time() - start) / 24
    assert seconds < 0.02, "a frame that was shown before is not drawn again"


# --- in a browser

NOTEBOOK = """
from rvos_nb.datasets import load_annotations
from rvos_nb.fit import demo_run
from rvos_nb.picker import VideoPicker
from rvos_nb.segmenter import load_segmenter
from rvos_nb.shapes import shapes_data
from rvos_nb.video import shapes_clip
videos = dict(list(load_annotations(shapes_data(), "val").items())[:3])
videos["<img src=x onerror='window.pwned=2'>.mp4"] = shapes_clip()
VideoPicker(load_segmenter(demo_run(), device="cpu"), videos)
"""
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_chromium():
    return os.environ.get("RVOS_CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUM)), None)


def write_notebook(folder):
    import nbformat

    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells = [nbformat.v4.new_code_cell(NOTEBOOK)]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(notebook, folder / "picker.ipynb")


@contextmanager
def voila(folder, name="picker.ipynb"):
    "Serves a notebook and yields its address."
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [sys.executable, "-m", "voila", name, "--no-browser", f"--port={port}"]
    with open(folder / "log", "w") as log:
        server = subprocess.Popen(
            [*command, "--Voila.ip=127.0.0.1"], cwd=folder, stdout=log, stderr=log
        )
    try:
        for _ in range(600):
            if server.poll() is not None:
                pytest.fail((folder / "log").read_text())
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.terminate()
        server.wait(30)


def tools():
    "Chromium's path; skips where something is missing."
    for name in ("voila", "playwright"):
        if not importlib.util.find_spec(name):
            pytest.skip(f"{name} is not installed: it comes with the dev extra")
    chromium = find_chromium()
    if not chromium:
        pytest.skip("no Chromium on this machine (RVOS_CHROMIUM names one)")
    return chromium


@pytest.fixture(scope="module")
def browser():
    "Chromium, once for this file: there may be one driver of it at a time."
    chromium = tools()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory, browser):
    "A Chromium page that shows the picker, and what the page complained of."
    from rvos_nb.fit import demo_run

    demo_run()  # trained now, if at all, and not while the browser waits
    folder = tmp_path_factory.mktemp("voila")
    write_notebook(folder)
    with voila(folder) as url:
        size = {"width": 720, "height": 720}
        page = browser.new_page(viewport=size, device_scale_factor=1)
        page.complaints = []
        page.on("pageerror", lambda e: page.complaints.append(str(e)))
        page.set_default_timeout(120_000)
        page.goto(url, timeout=240_000)
        page.wait_for_selector(".rvos-image", timeout=240_000)
        yield page
        page.close()


def seen(page):
    "The picture on the page, as displayed."
    shot = np.frombuffer(page.locator(".rvos-image").screenshot(), np.uint8)
    return cv2.imdecode(shot, cv2.IMREAD_COLOR)[..., ::-1].astype(int)


def status(page):
    return page.locator(".rvos-status").inner_text()


SAYS = "words => document.querySelector('.rvos-status').innerText.includes(words)"
CHANGED = "old => document.querySelector('.rvos-status').innerText != old"


def wait(page, words):
    page.wait_for_function(SAYS, arg=words)
    page.wait_for_timeout(300)  # the picture is sent before the status, and drawn a moment later


def view(page, name):
    page.locator(".rvos-view button", has_text=name).click()
    page.wait_for_timeout(500)
    return seen(page)


def handle(page, of):
    return page.locator(f".rvos-{of} .noUi-handle, .rvos-{of} .ui-slider-handle").first


def orange(image):
    return np.abs(image - PREDICTED).sum(-1) < 60  # at full opacity


@pytest.mark.slow
def test_in_a_browser(page, tmp_path):
    wait(page, "frame 1 of")
    options = page.locator(".rvos-video select option").all_inner_texts()
    assert options[3].replace("\xa0", " ") == "<img src=x onerror='window.pwned=2'>.mp4"
    choose_a_video(page)
    masks_move_with_the_expression(page)
    type_expressions(page)
    drag_to_another_frame(page)
    look_at_views(page)
    keep_a_picture(page, tmp_path / "picker.jpg")
    assert page.complaints == [], page.complaints


def choose_a_video(page):
    first, said = seen(page), status(page)
    page.locator(".rvos-video select").select_option(index=2)
    page.wait_for_function(CHANGED, arg=said)
    wait(page, "frame 1 of")
    assert np.abs(seen(page) - first).mean() > 3


def masks_move_with_the_expression(page):
    view(page, "prediction")
    handle(page, "opacity").focus()
    page.keyboard.press("End")
    page.wait_for_timeout(500)
    options = page.locator(".rvos-expression select option")
    masks = []
    for i in range(1, options.count()):
        label = options.nth(i).inner_text().replace("\xa0", " ")
        page.locator(".rvos-expression select").select_option(index=i)
        wait(page, f"“{label}”")
        masks.append(orange(seen(page)))
    apart = [(a ^ b).sum() / max(1, (a | b).sum()) for a in masks for b in masks]
    assert max(apart) > 0.8, "other expressions mark other places"


def type_expressions(page):
    box = page.locator(".rvos-typed input")
    text = "the <b>red</b> shape $x^2$ <img src=x onerror='window.pwned=1'>"
    box.fill(text)
    box.press("Enter")
    wait(page, f"“{text}”")
    assert page.evaluate("window.pwned") is None
    markup = [f".rvos-status {tag}" for tag in ("b", "img", ".MathJax", "mjx-container")]
    assert page.locator(", ".join(markup)).count() == 0
    chosen = page.locator(".rvos-expression select").evaluate("s => s.selectedIndex")
    assert chosen == 0, "the list of expressions says that the expression is one's own"
    box.fill("")
    page.locator(".rvos-button").click()
    wait(page, "is empty")


def drag_to_another_frame(page):
    page.locator(".rvos-expression select").select_option(index=1)
    wait(page, "frame 1 of")
    before, said = seen(page), status(page)
    box = handle(page, "frame").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 200, y, steps=8)
    page.mouse.up()
    page.wait_for_function(CHANGED, arg=said)
    page.wait_for_timeout(300)
    assert "frame 1 of" not in status(page)
    assert np.abs(seen(page) - before).mean() > 1, "another frame"


def look_at_views(page):
    plain, truth = view(page, "frame"), view(page, "truth")
    changed = np.abs(truth - plain).sum(-1) > 60
    assert 0.003 < changed.mean() < 0.5
    assert np.abs(truth[changed] - TRUE).mean() < 60, "the truth is blue, nothing else changes"


def keep_a_picture(page, path):
    view(page, "both")
    handle(page, "opacity").focus()
    for _ in range(14):  # the object's own colour shows through
        page.keyboard.press("ArrowLeft")
    page.wait_for_timeout(500)
    page.locator(".rvos-picker").screenshot(path=path, type="jpeg", quality=85)
    if os.environ.get("RVOS_SCREENSHOTS"):
        shutil.copy(path, os.environ["RVOS_SCREENSHOTS"])
    assert path.stat().st_size > 10_000


NBS = Path(__file__).resolve().parent.parent / "nbs"


@pytest.mark.slow
@pytest.mark.parametrize("name, shown", [("54_picker", 2), ("56_corrections", 1)])
def test_after_run_all_each_picker_is_in_a_good_state(tmp_path, browser, name, shown):
    "The notebook itself, executed from first to last cell, and what its reader then clicks."
    from rvos_nb.fit import demo_run

    demo_run()
    shutil.copy(NBS / f"{name}.ipynb", tmp_path)
    with voila(tmp_path, f"{name}.ipynb") as url:
        page = browser.new_page(viewport={"width": 900, "height": 900})
        page.set_default_timeout(240_000)
        page.goto(url)
        page.wait_for_selector(".rvos-image")
        page.wait_for_timeout(1000)
        states = page.locator(".rvos-status")
        assert states.count() == shown
        for i in range(shown):
            assert "frame 1 of" in states.nth(i).inner_text()
            colour = states.nth(i).locator("span").evaluate("s => getComputedStyle(s).color")
            assert colour != "rgb(176, 0, 32)", "no problem on show"
        if name == "56_corrections":
            clicks_correct(page)
        page.close()


def share_marked(said: str) -> float:
    "Percent of the frame, from the status line; 0 where nothing is marked."
    found = re.search(r"([0-9.]+)% of the frame", said)
    return float(found[1]) if found else 0.0


def clicks_correct(page):
    "A click on what is marked, as not that: it is marked no more; undo brings it back."
    from rvos_nb.segmenter import load_segmenter
    from rvos_nb.fit import demo_run

    page.locator(".rvos-picker").scroll_into_view_if_needed()
    found = load_segmenter(demo_run(), device="cpu").segment(shapes_clip(), "the blue star")
    rows, columns = np.nonzero(cv2.erode(found.masks[0, 0].astype(np.uint8), np.ones((5, 5))))
    box = page.locator(".rvos-image").bounding_box()
    middle = len(rows) // 2
    x = box["x"] + box["width"] * (columns[middle] + 0.5) / found.masks.shape[3]
    y = box["y"] + box["height"] * (rows[middle] + 0.5) / found.masks.shape[2]
    said = status(page)
    page.locator(".rvos-meaning button", has_text="not that").click()
    page.mouse.click(x, y)
    page.wait_for_function(CHANGED, arg=said)
    assert share_marked(status(page)) < 0.1 * share_marked(said), (said, status(page))
    page.locator(".rvos-undo").click()
    page.wait_for_function(
        "said => document.querySelector('.rvos-status').innerText == said", arg=said
    )
    page.locator(".rvos-keep").click()
    wait(page, "kept: “the blue star”")
    if os.environ.get("RVOS_SCREENSHOTS_LABELS"):
        path = os.environ["RVOS_SCREENSHOTS_LABELS"]
        page.locator(".rvos-picker").screenshot(path=path, type="jpeg", quality=85)


def test_a_change_of_the_frame_waits_for_nothing_that_concerns_all_frames(picker, monkeypatch):
    monkeypatch.setattr("rvos_nb.picker.confidence", None)  # a call would fail
    monkeypatch.setattr("rvos_nb.picker._clip_J", None)
    before = picker.image.value
    picker.frame.value = 2
    assert picker.image.value != before and "frame 3 of" in picker.status.value
