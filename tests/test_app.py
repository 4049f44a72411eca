"The app: its parts, and the page that `rvos app` serves, in Chromium."

import dataclasses
import importlib.util
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from clips import Bright, moving
from rvos_nb.app import (
    _MAX_FRAMES,
    _OWN,
    _asked,
    _Desk,
    _J_curves,
    _Watched,
    run_app,
    write_space,
)
from rvos_nb.cli import main
from rvos_nb.config import ConfigError, RVOSError
from rvos_nb.draw import write_video
from rvos_nb.segmenter import FrameMasks, load_segmenter
from rvos_nb.video import open_video
from test_picker import find_chromium
from tiny_pretrained import tiny_clipseg

EVIL = "<img src=x onerror='window.pwned=1'> ${alert(1)} {{7*7}} & <b>red</b> star"


class Slow(Bright):
    "Bright, and tells how many frames were asked of it."

    def __init__(self):
        self.frames, self.job = 0, None

    def stream(self, video, expressions):
        for found in super().stream(video, expressions):
            self.frames += 1
            if self.job and self.frames == 3:
                self.job.cancelled.set()
            yield found


def nothing(done, of):
    "A progress that nobody looks at."


@pytest.fixture
def desk(tmp_path):
    return _Desk(Slow(), tmp_path)


def clip_file(folder, frames=moving(8), name="clip.mp4"):
    write_video(folder / name, list(frames))
    return str(folder / name)


def ask(desk, clip, text, name=_OWN, visitor="a"):
    desk.begin(visitor)
    return desk.work(visitor, name, clip, text=text, progress=nothing)


def test_an_example_has_J_masks_and_a_video(desk):
    path, text = desk.show("example 1")
    assert Path(path).is_file() and len(text.splitlines()) >= 2
    legend, overlay, masks, curves = ask(desk, None, text, "example 1")
    for line in text.splitlines():
        assert line in legend
    assert legend.count("; J ") == curves.count("<polyline") == len(text.splitlines())
    with zipfile.ZipFile(masks) as z:
        scores = json.loads(z.read("scores.json"))
        assert len([n for n in z.namelist() if n.endswith(".png")]) == len(scores["frames"])
    assert Path(overlay).stat().st_size > 1000


def test_J_is_that_of_the_expressions_object(desk):
    record = desk.examples["example 1"]

    class Truth:
        name = "truth"

        def stream(self, video, expressions):
            for t, frame in enumerate(video.read()):
                mask = record.masks.mask(t, record.expressions[0].object_ids)
                yield FrameMasks(frame, np.float32([mask * 2.0 - 1] * len(expressions)))

    desk.segmenter = Truth()
    other = next(e for e in record.expressions if e.object_ids != record.expressions[0].object_ids)
    texts = [record.expressions[0].text, other.text]
    legend = ask(desk, None, "\n".join(texts), "example 1")[0]
    assert "J 1.00" in legend.split("rvos-answer")[1] and "J 0.0" in legend.split("rvos-answer")[2]


def test_an_own_clip_has_no_truth(desk, tmp_path):
    legend, _, masks, curves = ask(desk, clip_file(tmp_path), "the square\nthe ground")
    assert "J " not in legend and curves == "" and Path(masks).is_file()
    assert legend.count("rvos-answer") == 2


def test_a_model_of_others_answers(tmp_path):
    model = load_segmenter(f"clipseg:{tiny_clipseg(tmp_path / 'clipseg')}", "cpu")
    legend, _, masks, _ = ask(_Desk(model, tmp_path), clip_file(tmp_path), "the square")
    assert legend.count("rvos-answer") == 1 and Path(masks).is_file()


def test_text_stays_text(desk, tmp_path):
    legend = ask(desk, clip_file(tmp_path), EVIL)[0]
    assert "<img" not in legend and "<b>red" not in legend and "&lt;img" in legend
    (tmp_path / "<b>.mp4").write_text("no video")
    said = ask(desk, str(tmp_path / "<b>.mp4"), "the dog")[0]
    assert "&lt;b&gt;.mp4" in said and str(tmp_path) not in said


@pytest.mark.parametrize(
    "text, said", [("", "no expression"), ("a\n" * 9, "9 expr"), ("?", "no l")]
)
def test_a_slip_is_said(desk, tmp_path, text, said):
    answer = ask(desk, clip_file(tmp_path), text)
    assert said in answer[0] and answer[1:] == (None, None, "")
    with pytest.raises(ConfigError, match="200"):
        _asked("a" * 201)


def test_nothing_to_look_at(desk, tmp_path):
    assert "no clip" in ask(desk, None, "the dog")[0]
    assert "ask again" in desk.work("b", _OWN, None, "the dog", progress=nothing)[0]


def test_long_videos_are_refused(desk, tmp_path, monkeypatch):
    monkeypatch.setattr("rvos_nb.app._MAX_FRAMES", 5)
    assert "8 frames: expected up to 5" in ask(desk, clip_file(tmp_path), "the dog")[0]
    video = dataclasses.replace(open_video(moving(7)), length=None)
    watched = _Watched(desk.segmenter, desk.jobs["a"], None, progress=nothing)
    with pytest.raises(RVOSError, match="more than 5"):  # a length that nobody announced
        list(watched.stream(video, ["the dog"]))
    assert _MAX_FRAMES >= 1000


def test_cancelling_frees_the_worker_and_leaves_nothing(desk, tmp_path):
    clip = clip_file(tmp_path)
    desk.begin("a")
    desk.segmenter.job = desk.jobs["a"]
    answer = desk.work("a", _OWN, clip, "the dog", progress=nothing)
    assert "cancelled" in answer[0] and desk.segmenter.frames <= 4
    assert not list(desk.jobs["a"].folder.rglob("*.*")), "nothing half-written"
    folder = desk.jobs["a"].folder
    desk.leave("a")
    assert not folder.exists() and not desk.lock.locked()
    desk.segmenter.job = None
    assert "rvos-answer" in ask(desk, clip, "the dog")[0]


def test_a_look_at_all_frames_is_stopped_too(desk, tmp_path):
    class Looks(Slow):
        "Reads the whole video before its first answer, as a memory does."

        def stream(self, video, expressions):
            for _ in video.read():
                self.frames += 1
                if self.frames == 3:
                    self.job.cancelled.set()
            yield from super().stream(video, expressions)

    desk.segmenter = Looks()
    desk.begin("a")
    desk.segmenter.job = desk.jobs["a"]
    answer = desk.work("a", _OWN, clip_file(tmp_path), "the dog", progress=nothing)
    assert "cancelled" in answer[0] and desk.segmenter.frames == 3


def test_one_job_at_a_time(desk, tmp_path):
    clip, answers = clip_file(tmp_path), []
    desk.begin("a")
    waiting = threading.Thread(
        target=lambda: answers.append(desk.work("a", _OWN, clip, text="a b", progress=nothing))
    )
    with desk.lock:  # another job at work
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive() and not desk.segmenter.frames
        desk.cancel("a")
    waiting.join(10)
    assert "cancelled" in answers[0][0] and not desk.segmenter.frames


def test_curves():
    nan = float("nan")
    assert _J_curves({"a": [nan, nan]}) == "" == _J_curves({})
    curves = _J_curves({"a": [1.0, nan, 0.0], "b": [nan] * 3}, width=10, height=10)
    assert 'points="0.0,0.0 10.0,10.0"' in curves and curves.count("<polyline") == 1


# --- without gradio


def test_without_gradio_one_line_says_what_to_install(monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "gradio" else find(n))
    with pytest.raises(RVOSError, match=r'pip install "rvos_nb\[app\]"'):
        run_app()
    assert main(["app"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_importing_does_not_import_gradio():
    code = "import sys, rvos_nb.app; sys.exit('gradio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# --- a Space


def needs_gradio():
    if not importlib.util.find_spec("gradio"):
        pytest.skip("gradio is not installed: it comes with the extras app and dev")


def test_a_space_of_a_name_and_of_a_run(tmp_path):
    needs_gradio()
    from huggingface_hub import metadata_load
    from rvos_nb.fit import demo_run
    from rvos_nb.segmenter import load_segmenter

    for n, name in enumerate(("user/name", "clipseg", "grounded-sam2:owlv2,sam2.1-tiny")):
        named = write_space(tmp_path / f"named{n}", name)
        assert not (named / "model").exists() and f"'{name}'" in (named / "app.py").read_text()
    assert main(["app", "--space", str(tmp_path / "own"), "--model", str(demo_run())]) == 0
    own = tmp_path / "own"
    assert load_segmenter(own / "model", device="cpu").name == "model"
    compile((own / "app.py").read_text(), "app.py", "exec")
    assert (own / "requirements.txt").read_text().startswith("rvos_nb[app] @ git+https://")
    head = metadata_load(own / "README.md")
    assert head["sdk"] == "gradio" and head["app_file"] == "app.py"
    assert head["sdk_version"] == importlib.import_module("gradio").__version__
    assert len(head["short_description"]) <= 60 and head["license"] == "apache-2.0"
    assert {head["colorFrom"], head["colorTo"]} <= {"red", "yellow", "green", "blue", "purple"}
    with pytest.raises(RVOSError, match="not empty"):
        write_space(own, "user/name")
    with pytest.raises(RVOSError):
        write_space(tmp_path / "none", tmp_path / "no-run")
    assert not (tmp_path / "none").exists()


# --- the program, and the page in a browser

SPY = """
import os, socket
def note(what, host):
    if str(host) not in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "None", ""):
        open(os.environ["RVOS_SPY"], "a").write(f"{what} {host}\\n")
connect, look_up = socket.socket.connect, socket.getaddrinfo
def spy(self, address):
    note("connect", address[0] if isinstance(address, tuple) else "")
    return connect(self, address)
def spy_name(host, *args, **how):
    note("look up", host)
    return look_up(host, *args, **how)
socket.socket.connect, socket.getaddrinfo = spy, spy_name
"""


@contextmanager
def program(folder):
    "`rvos app` in a process of its own; yields it and the page's address."
    (folder / "sitecustomize.py").write_text(SPY)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    env = {**os.environ, "PYTHONPATH": str(folder), "RVOS_SPY": str(folder / "outside")}
    env |= {"GRADIO_SERVER_NAME": "0.0.0.0", "GRADIO_SHARE": "1"}  # only flags open the page
    code = "import sys; from rvos_nb.cli import main; sys.exit(main())"
    with open(folder / "log", "w") as log:
        server = subprocess.Popen(
            [sys.executable, "-c", code, "app", "--port", str(port)],
            cwd=folder,
            env=env,
            stdout=log,
            stderr=log,
        )
    try:
        for _ in range(600):
            if "app: http" in (folder / "log").read_text():
                break
            assert server.poll() is None, (folder / "log").read_text()
            time.sleep(0.1)
        yield server, f"http://127.0.0.1:{port}/"
    finally:
        if server.poll() is None:
            server.kill()
            server.wait(30)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    needs_gradio()
    from rvos_nb.fit import demo_run

    demo_run()
    folder = tmp_path_factory.mktemp("app")
    with program(folder) as (server, url):
        yield folder, server, url


@pytest.fixture(scope="module")
def page(served):
    if not importlib.util.find_spec("playwright"):
        pytest.skip("playwright is not installed: it comes with the dev extra")
    if not find_chromium():
        pytest.skip("no Chromium on this machine (RVOS_CHROMIUM names one)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.outside, page.complaints = [], []

        def cut(route):
            here = route.request.url.startswith((served[2], "data:", "blob:"))
            if not here:
                page.outside.append(route.request.url)
            route.continue_() if here else route.abort()

        page.route("**/*", cut)
        page.on("pageerror", lambda e: page.complaints.append(str(e)))
        page.set_default_timeout(60_000)
        page.goto(served[2])
        page.wait_for_selector("#find")
        yield page
        browser.close()


def find(page, text=None, wait=True):
    "Press the button; the legend."
    if text is not None:
        page.fill("#expressions textarea", text)
    page.evaluate("document.querySelectorAll('#legend p').forEach(p => p.classList.add('old'))")
    page.click("#find")
    return legend(page) if wait else ""


def legend(page):
    page.wait_for_selector("#legend p:not(.old)")
    return page.locator("#legend").inner_text()


def upload(page, path):
    clear = page.locator("#upload button[aria-label*='emove'], #upload button[aria-label*='lear']")
    if clear.count():
        clear.first.click()
    page.set_input_files("#upload input[type=file]", path)
    page.wait_for_function("document.querySelector('#clip input').value == 'my own clip'")
    page.wait_for_function(
        "name => document.querySelector('#upload').innerText.includes(name)",
        arg=Path(path).stem[:6],
    )


@pytest.mark.slow
def test_in_a_browser(served, page, tmp_path):
    an_example_with_two_expressions(page)
    keep_pictures(page, tmp_path)
    an_upload(page, tmp_path)
    injected_text(page)
    a_broken_file(page, tmp_path)
    cancel(page, tmp_path)
    a_visitor_who_leaves(page, served[2], tmp_path)
    assert page.outside == [] and page.complaints == []
    assert "Traceback" not in (served[0] / "log").read_text()
    assert not (served[0] / "outside").exists(), (served[0] / "outside").read_text()


def an_example_with_two_expressions(page):
    said = find(page)
    assert said.count("probability") == 2 and said.count("J 0.") == 2
    page.wait_for_function("document.querySelector('#overlay video')?.readyState >= 2")
    assert page.locator("#curves polyline").count() == 2
    with page.expect_download() as got:
        page.locator("#masks a[download], #masks a").first.click()
    names = zipfile.ZipFile(io.BytesIO(Path(got.value.path()).read_bytes())).namelist()
    assert "scores.json" in names and "masks/00000.png" in names
    swatches = page.locator("#legend span").evaluate_all(
        "all => all.map(s => getComputedStyle(s).color)"
    )
    assert len(set(swatches)) == 2


def keep_pictures(page, folder):
    for name, size in {"desktop": (1280, 800), "phone": (390, 844)}.items():
        page.set_viewport_size({"width": size[0], "height": size[1]})
        page.wait_for_timeout(500)
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= size[0], "nothing sticks out"
        path = Path(os.environ.get("RVOS_SCREENSHOTS_APP", folder)) / f"{name}.jpg"
        page.screenshot(path=path, type="jpeg", quality=80, full_page=True)
        assert path.stat().st_size > 10_000
    page.set_viewport_size({"width": 1280, "height": 800})


def an_upload(page, folder):
    upload(page, clip_file(folder, moving(12, 96, 160), "square <b>.mp4"))
    said = find(page, "the red square\nthe blue circle")
    assert said.count("probability") + said.count("nowhere") == 2 and "J " not in said
    assert page.locator("#curves polyline").count() == 0


def injected_text(page):
    said = find(page, EVIL)
    assert EVIL in said and page.evaluate("window.pwned") is None
    assert page.locator("#legend img, #legend b b").count() == 0


def a_broken_file(page, folder):
    (folder / "broken.mp4").write_bytes(b"no video at all" * 100)
    upload(page, folder / "broken.mp4")
    said = find(page, "the dog")
    assert "broken.mp4" in said and "probability" not in said
    assert page.locator("#overlay video").count() == 0, "no old answer under a new name"


def cancel(page, folder):
    frames = (moving(1, 288, 480)[0] for _ in range(1500))
    upload(page, clip_file(folder, frames, "longer.mp4"))
    find(page, "the red square", wait=False)
    page.wait_for_timeout(1500)
    assert page.locator("#legend p:not(.old)").count() == 0, "still at work"
    page.click("#cancel")
    start = time.monotonic()
    assert "cancelled" in legend(page) and time.monotonic() - start < 5
    page.locator("#clip input").click()
    page.get_by_role("option", name="example 2").click()
    page.wait_for_function("document.querySelector('#clip input').value == 'example 2'")
    start = time.monotonic()
    assert "■" in find(page, "the red star") and time.monotonic() - start < 10


def a_visitor_who_leaves(page, url, folder):
    other = page.context.browser.new_page()
    other.goto(url)
    other.wait_for_selector("#find")
    upload(other, folder / "longer.mp4")
    find(other, "the red square", wait=False)
    other.wait_for_timeout(1500)
    other.close()
    start = time.monotonic()
    assert "■" in find(page, "a circle") and time.monotonic() - start < 4, "the worker is free"


@pytest.mark.slow
def test_files_of_the_server_cannot_be_reached(served):
    folder, _, url = served
    (folder / "secret.txt").write_text("secret")
    for path in ("/etc/passwd", folder / "secret.txt", folder / "log", "sitecustomize.py"):
        with pytest.raises(urllib.error.HTTPError) as e:
            urllib.request.urlopen(f"{url}gradio_api/file={path}")
        assert e.value.code in (403, 404)
    assert not job(url, str(folder / "secret.txt"))["success"], "named as if it was uploaded"
    assert not job(url, "/etc/passwd")["success"]


def job(url, path):
    "What the server answers to a made-up upload."
    config = json.load(urllib.request.urlopen(f"{url}config"))
    number = next(d["id"] for d in config["dependencies"] if len(d["inputs"]) == 3)
    file = path and {"path": path, "meta": {"_type": "gradio.FileData"}}
    body = {"data": [_OWN, file, "the dog"], "fn_index": number, "session_hash": "me"}
    request = urllib.request.Request(
        f"{url}gradio_api/queue/join",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    urllib.request.urlopen(request)
    with urllib.request.urlopen(f"{url}gradio_api/queue/data?session_hash=me") as events:
        for line in events:
            event = json.loads(line[5:]) if line.startswith(b"data:") else {}
            if event.get("msg") == "process_completed":
                return event
    return pytest.fail("no answer")


@pytest.mark.slow
def test_the_page_is_on_this_machine_only_and_ctrl_c_ends_it(served):
    folder, server, url = served
    assert job(url, None)["success"], "an honest question is answered"
    port = int(url.rstrip("/").rpartition(":")[2])
    listening = Path("/proc/net/tcp")
    if listening.exists():
        rows = [line.split()[1:4] for line in listening.read_text().splitlines()[1:]]
        mine = [a for a, _, state in rows if state == "0A" and a.endswith(f":{port:04X}")]
        assert mine == [f"0100007F:{port:04X}"], "loopback alone"
    before = (folder / "log").read_text()
    server.send_signal(signal.SIGINT)
    assert server.wait(20) in (0, 130)
    log = (folder / "log").read_text().removeprefix(before)
    assert "Traceback" not in log and "public" not in log.lower(), log
