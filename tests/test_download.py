"Downloading from a server that misbehaves: every fault a real one has, on localhost."

import hashlib
import http.server
import io
import json
import re
import shutil
import stat
import threading
import zipfile

import pytest
from rvos_nb import download as download_module
from rvos_nb.check import check_data
from rvos_nb.cli import main
from rvos_nb.config import RVOSError
from rvos_nb.download import (
    DAVIS_ARCHIVES,
    Archive,
    archive_table,
    download_davis,
    extract_zip,
    fetch,
)
from rvos_nb.layout import DAVIS_2017
from rvos_nb.shapes import make_shapes


@pytest.fixture(scope="module")
def zips(tmp_path_factory) -> dict[str, bytes]:
    "Talking shapes, packed as the two official files are."
    root = make_shapes(
        tmp_path_factory.mktemp("data") / "demo",
        n_train=2,
        n_val=2,
        n_frames=(4, 5),
        progress=False,
    )
    out = {}
    for name, top in (("frames.zip", "DAVIS"), ("texts.zip", "davis_text_annotations")):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as z:
            for f in sorted((root / top).rglob("*")):
                if f.is_file():
                    z.write(f, f.relative_to(root))
        out[name] = buffer.getvalue()
    return out


class Server(http.server.ThreadingHTTPServer):
    "Serves `files`; `faults` go wrong with each request in turn; `asked` holds the Range headers."

    def handle_error(self, request, address):
        pass  # the client hung up: that is the point


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        s, fault = self.server, self.server.faults.pop(0) if self.server.faults else None
        s.asked.append(self.headers.get("Range"))
        body = s.files.get(self.path[1:])
        if body is None or fault == "404":
            return self.send_error(404)
        if fault == "503":
            return self.send_error(503)
        if fault == "page":
            return self.reply(
                200,
                b"<!DOCTYPE html><html><body>Please log in</body></html>",
                kind="text/html; charset=utf-8",
            )
        if fault == "hidden page":
            return self.reply(200, b"<html>" + b" " * 5000 + b"</html>", kind="application/zip")
        if fault == "stall":
            return self.reply(200, body[:100], length=len(body), stay=3)
        start = (
            int(m[1])
            if (m := re.match(r"bytes=(\d+)-", self.headers.get("Range") or "")) and s.ranges
            else 0
        )
        if start >= len(body):
            return self.send_error(416)
        rest = body[start:]
        extra = {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"} if start else {}
        if fault == "cut":
            return self.reply(
                206 if start else 200, rest[: len(rest) // 2], length=len(rest), **extra
            )
        if fault == "longer":
            return self.reply(200, rest, length=len(rest) + 1000)  # promises more than it has
        if fault == "shorter":
            return self.reply(200, rest, length=len(rest) - 1000)  # promises less
        if fault == "endless":
            return self.reply(200, rest * 200, length=None)
        if fault == "garbled":
            return self.reply(200, rest[:50] + b"XXXX" + rest[54:])
        if fault == "no length":
            return self.reply(206 if start else 200, rest, length=None, **extra)
        return self.reply(206 if start else 200, rest, **extra)

    def reply(self, status, body, kind="application/zip", length=-1, stay=0, **headers):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        for k, v in headers.items():
            self.send_header(k, v)
        if length is not None:
            self.send_header("Content-Length", len(body) if length == -1 else length)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()
        if stay:
            threading.Event().wait(stay)
        self.close_connection = True


@pytest.fixture
def server(zips):
    s = Server(("127.0.0.1", 0), Handler)
    s.files, s.faults, s.asked, s.ranges = dict(zips), [], [], True
    looks = dict(args=(0.01,), daemon=True)  # it looks that often whether it is to end
    threading.Thread(target=s.serve_forever, **looks).start()
    yield s
    s.shutdown()
    s.server_close()


def archive(server, name, known=True, **changes) -> Archive:
    body = server.files.get(name, b"")
    return Archive(
        **dict(
            name=name,
            url=f"http://127.0.0.1:{server.server_port}/{name}",
            page="https://example.org",
            size=len(body) if known else None,
            sha256=hashlib.sha256(body).hexdigest() if known else None,
            unpacked=10**7,
        )
        | changes
    )


def quick(server, tmp_path, name="frames.zip", tries=4, **changes):
    return fetch(archive(server, name, **changes), tmp_path / "work", tries=tries, wait=0.01)


# --- one file


@pytest.mark.parametrize(
    "faults",
    [[], ["cut"], ["cut", "cut", "cut"], ["503", "cut"], ["no length"], ["cut", "no length"]],
)
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_file_arrives_whole_whatever_breaks(server, zips, tmp_path, faults, known, ranges):
    if not ranges and len(faults) > 2:
        faults = faults[:2]
    server.faults, server.ranges = list(faults), ranges
    path = quick(server, tmp_path, known=known)
    assert path.read_bytes() == zips["frames.zip"]
    assert [p.name for p in path.parent.iterdir()] == ["frames.zip"]
    if faults == ["cut"] and ranges:  # only the rest is asked for
        assert server.asked == [None, f"bytes={len(zips['frames.zip']) // 2}-"]


def test_the_same_command_goes_on_where_it_stopped(server, zips, tmp_path):
    server.faults = ["cut"] * 2
    with pytest.raises(RVOSError, match="in each of 2 tries; what has arrived is kept.*by hand"):
        quick(server, tmp_path, tries=2)
    have = (tmp_path / "work" / "frames.zip.part").stat().st_size
    assert quick(server, tmp_path).read_bytes() == zips["frames.zip"]
    assert server.asked[-1] == f"bytes={have}-"


def test_waits_grow(server, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(download_module.time, "sleep", waits.append)
    server.faults = ["503"] * 9
    with pytest.raises(RVOSError, match="answers 503.*in each of 5 tries"):
        fetch(archive(server, "frames.zip"), tmp_path, tries=5, wait=2.0)
    assert waits == [2, 4, 8, 16]


@pytest.mark.parametrize(
    "fault, words",
    [
        ("404", "answers 404"),
        ("page", "a web page instead of a zip"),
        ("longer", "offers [0-9]+ bytes, not the [0-9]+"),
        ("shorter", "offers [0-9]+ bytes"),
        ("endless", "sends more than"),
        ("garbled", "sha256 is not"),
    ],
)
def test_what_will_not_pass_ends_in_one_line_that_says_what_to_do(server, tmp_path, fault, words):
    server.faults = [fault] * 9
    by_hand = "by hand: get it in a browser from http.*put it into .*work"
    with pytest.raises(RVOSError, match=f"frames.zip: .*{words}.*{by_hand}") as e:
        quick(server, tmp_path)
    assert "\n" not in str(e.value) and len(server.asked) <= 2
    assert not (tmp_path / "work" / "frames.zip").exists()


@pytest.mark.parametrize(
    "fault, words",
    [
        ("longer", "ended at|broke at"),
        ("shorter", "not a zip"),
        ("hidden page", "not a zip, but a web page"),
        ("endless", "more than the 10000 bytes"),
    ],
)
def test_lies_about_a_file_of_which_nothing_is_known(server, tmp_path, fault, words):
    server.faults = [fault] * 9
    if fault == "longer":
        server.ranges = False
    with pytest.raises(RVOSError, match=words):
        quick(server, tmp_path, known=False, unpacked=10_000 if fault == "endless" else 10**7)


def test_a_stalled_connection_is_given_up(server, zips, tmp_path, monkeypatch):
    real = download_module._open_url
    monkeypatch.setattr(download_module, "_open_url", lambda url, have: real(url, have, 0.3))
    server.faults = ["stall"]
    assert quick(server, tmp_path).read_bytes() == zips["frames.zip"]


def test_a_damaged_part_is_thrown_away_once(server, zips, tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "frames.zip.part").write_bytes(b"X" * 500)
    assert quick(server, tmp_path).read_bytes() == zips["frames.zip"]
    assert server.asked == ["bytes=500-", None]
    (tmp_path / "work" / "frames.zip").unlink()
    (tmp_path / "work" / "frames.zip.part").write_bytes(zips["frames.zip"] + b"more")
    assert quick(server, tmp_path).read_bytes() == zips["frames.zip"]


def test_a_complete_part_needs_nothing_more(server, zips, tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "frames.zip.part").write_bytes(zips["frames.zip"])
    assert quick(server, tmp_path).read_bytes() == zips["frames.zip"]


def test_a_file_put_there_by_hand_is_taken_and_checked(server, zips, tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "frames.zip").write_bytes(zips["frames.zip"])
    quick(server, tmp_path)
    assert server.asked == []
    (tmp_path / "work" / "frames.zip").write_bytes(zips["texts.zip"])
    with pytest.raises(RVOSError, match="bytes, expected"):
        quick(server, tmp_path)


def test_nobody_there(tmp_path):
    where = dict(url="http://127.0.0.1:9/a.zip", page="https://example.org")
    dead = Archive("a.zip", **where, size=None, sha256=None, unpacked=1000)
    with pytest.raises(RVOSError, match="no connection.*by hand"):
        fetch(dead, tmp_path, tries=2, wait=0.01)


def test_no_space(server, tmp_path, monkeypatch):
    monkeypatch.setattr(
        shutil, "disk_usage", lambda p: shutil._ntuple_diskusage(10**9, 10**9, 1000)
    )
    with pytest.raises(RVOSError, match="GB are missing.*GB free.*larger disk"):
        quick(server, tmp_path)


def test_a_disk_that_fills_up_on_the_way(server, tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "frames.zip.part").symlink_to("/dev/full")
    with pytest.raises(RVOSError, match="cannot be written.*No space left"):
        quick(server, tmp_path)


def test_a_folder_that_cannot_be_made(server, tmp_path):
    (tmp_path / "work").write_text("a file")
    with pytest.raises(RVOSError, match="cannot be written to .*work"):
        quick(server, tmp_path)


# --- zips


def pack(path, *entries):
    "Entries are (name, content) or (name, content, mode)."
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        for name, content, *mode in entries:
            info = zipfile.ZipInfo("placeholder")
            info.filename = name
            info.compress_type = zipfile.ZIP_DEFLATED
            if mode:
                info.external_attr = mode[0] << 16
            z.writestr(info, content)
    return path


@pytest.mark.parametrize(
    "entry",
    [
        ("../outside", "x"),
        ("a/../../outside", "x"),
        ("/tmp/outside-rvos", "x"),
        ("..\\outside", "x"),
        ("C:outside", "x"),
        ("link", "/etc", stat.S_IFLNK | 0o777),
        ("fifo", "", stat.S_IFIFO),
        ("device", "", stat.S_IFCHR),
    ],
)
def test_no_entry_leaves_its_folder_or_is_a_link(tmp_path, entry):
    path = pack(tmp_path / "z.zip", ("good.txt", "good"), entry)
    (tmp_path / "in").mkdir()
    with pytest.raises(RVOSError, match="(leads out|is a link).*nothing was unpacked"):
        extract_zip(path, tmp_path / "in" / "data", 10**6)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["in", "z.zip"]


def test_links_on_the_way_cannot_be_made_in_two_steps(tmp_path):
    "A link first and a file through it: the link alone is refused."
    path = pack(tmp_path / "z.zip", ("d", "..", stat.S_IFLNK | 0o777), ("d/outside", "x"))
    with pytest.raises(RVOSError, match="'d' is a link"):
        extract_zip(path, tmp_path / "data", 10**6)
    assert not (tmp_path / "outside").exists() and not (tmp_path / "data").exists()


def test_bounds(tmp_path):
    bomb = pack(tmp_path / "bomb.zip", ("zeros", b"\0" * 10**7))
    assert bomb.stat().st_size < 20_000
    with pytest.raises(RVOSError, match="more than the .* plausible"):
        extract_zip(bomb, tmp_path / "data", 10**6)
    many = pack(tmp_path / "many.zip", ("0", ""), ("1", ""), ("2", ""))
    with pytest.raises(RVOSError, match="3 files"):
        extract_zip(many, tmp_path / "data", 10**6, most_files=2)
    assert not (tmp_path / "data").exists()


def test_an_entry_that_lies_about_its_size_is_refused(tmp_path):
    path = pack(tmp_path / "z.zip", ("zeros", b"\0" * 10**6))
    raw = bytearray(path.read_bytes())
    for magic, at in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):  # both headers state 10 bytes
        i = raw.index(magic) + at
        raw[i : i + 4] = (10).to_bytes(4, "little")
    path.write_bytes(raw)
    with pytest.raises(RVOSError, match="cannot be unpacked"):
        extract_zip(path, tmp_path / "data", 1000)
    assert sum(f.stat().st_size for f in tmp_path.rglob("zeros")) <= 10


@pytest.mark.parametrize("cut", [10, 200, -30])
def test_a_damaged_zip_is_named(zips, tmp_path, cut):
    (tmp_path / "z.zip").write_bytes(zips["texts.zip"][:cut])
    with pytest.raises(RVOSError, match="z.zip: cannot be unpacked.*delete it"):
        extract_zip(tmp_path / "z.zip", tmp_path / "data", 10**7)


def test_the_same_name_twice_is_refused(tmp_path):
    with pytest.warns(UserWarning):
        path = pack(tmp_path / "z.zip", ("a", "1"), ("a", "2"))
    with pytest.raises(RVOSError, match="cannot be unpacked"):
        extract_zip(path, tmp_path / "data", 1000)


# --- the whole


def both(server, **changes):
    return archive(server, "frames.zip"), archive(server, "texts.zip", known=False, **changes)


def test_the_data_is_there_whole_and_clean(server, tmp_path, capsys):
    server.faults = ["cut", None, "cut", "503"]
    root = download_davis(tmp_path / "davis", both(server), wait=0.01)
    assert check_data(root).empty
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == ["davis"]
    record = json.loads((root / "SOURCES.json").read_text())
    assert [r["sha256 was known"] for r in record] == [True, False]
    texts = server.files["texts.zip"]
    assert record[1]["sha256"] == hashlib.sha256(texts).hexdigest()
    assert record[1]["size"] == len(texts)


@pytest.mark.parametrize("fault", ["404", "page", "cut"])
def test_root_is_there_completely_or_not_at_all(server, tmp_path, fault):
    server.faults = [None] + [fault] * 9
    with pytest.raises(RVOSError, match="texts.zip"):
        download_davis(tmp_path / "davis", both(server), tries=2, wait=0.01)
    assert not (tmp_path / "davis").exists()
    server.faults = []
    n = len(server.asked)
    assert check_data(download_davis(tmp_path / "davis", both(server), wait=0.01)).empty
    assert len(server.asked) == n + 1  # the frames were there already


def test_other_contents_than_expected(server, tmp_path):
    server.files["texts.zip"] = pack(tmp_path / "t.zip", ("something/else.txt", "x")).read_bytes()
    with pytest.raises(RVOSError, match="not laid out as expected.*no expressions"):
        download_davis(tmp_path / "davis", both(server), wait=0.01)
    assert not (tmp_path / "davis").exists()


def test_an_existing_folder_is_left_alone(tmp_path):
    (tmp_path / "davis").mkdir()
    (tmp_path / "davis" / "mine").touch()
    with pytest.raises(RVOSError, match="exists already"):
        download_davis(tmp_path / "davis")


def test_what_another_process_has_made_meanwhile_is_left_alone(server, tmp_path, monkeypatch):
    real = download_module.lock

    def late(path):
        (tmp_path / "davis").mkdir()
        (tmp_path / "davis" / "theirs").touch()
        return real(path)

    monkeypatch.setattr(download_module, "lock", late)
    with pytest.raises(RVOSError, match="exists already"):
        download_davis(tmp_path / "davis", both(server))
    assert server.asked == [] and (tmp_path / "davis" / "theirs").exists()


def test_from_the_command_line(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        download_module.download_davis, "__defaults__", (both(server), 3, 0.01, False)
    )
    assert main(["data", "download", "davis", str(tmp_path / "davis")]) == 0
    assert "davis_text_annotations.zip" in (out := capsys.readouterr().out) and "2 videos" in out
    server.faults = ["page"] * 9
    assert main(["data", "download", "davis", str(tmp_path / "other")]) == 1
    err = capsys.readouterr().err.strip().splitlines()[-1]
    assert err.startswith("rvos: frames.zip: the server sends a web page") and "by hand" in err


def test_the_official_archives_are_plain_https():
    assert (
        all(s.url.startswith("https://") and s.page.startswith("https://") for s in DAVIS_ARCHIVES)
        and len(DAVIS_2017) == 90
    )
    assert "not known" in archive_table().to_string()
