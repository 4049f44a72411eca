"Videos and pictures as people have them: frames, size, orientation, colours and times of each."

import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from rvos_nb.config import RVOSError
from rvos_nb.pictures import picture_files, picture_size, read_picture
from rvos_nb.video import open_video

FIELD = Path(__file__).resolve().parents[2] / "shared" / "field"
SIZE = (48, 64)
COLOURS = [
    (200, 60, 60),
    (60, 180, 60),
    (60, 60, 200),
    (180, 180, 40),
    (40, 170, 180),
    (90, 90, 90),
]


def pictures(size=SIZE, n=6) -> list[np.ndarray]:
    "Frames of one colour each, with a light corner, top left, and a dark one, top right."
    h, w = size
    found = []
    for t in range(n):
        image = np.full((h, w, 3), COLOURS[t % 6], np.uint8)
        image[: h // 4, : w // 4] = 240
        image[: h // 4, w - w // 4 :] = 15
        found.append(image)
    return found


def encode(path: Path, codec: str, pix_fmt: str = "yuv420p", **how) -> None:
    "Write `pictures()` with PyAV; the keys of `how` are spelt out below."
    frames = pictures(how.get("size", SIZE), how.get("n", 6))
    stamps = how.get("stamps") or range(len(frames))
    base = Fraction(1, how.get("clock", 10))
    matrix = how.get("matrix", 5)  # BT.601, what an untagged small video is taken for
    options = how.get("options", {})
    with av.open(str(path), "w", format=how.get("format")) as out:
        stream = out.add_stream(codec, rate=how.get("rate", 10), pix_fmt=pix_fmt, options=options)
        context = stream.codec_context
        context.width, context.height = frames[0].shape[1], frames[0].shape[0]
        context.time_base = base
        if how.get("tagged"):
            context.colorspace = context.color_primaries = context.color_trc = matrix
        context.color_range = how.get("range", 1)
        if "aspect" in how:
            context.sample_aspect_ratio = how["aspect"]
        sound = out.add_stream("aac", rate=48000, layout="mono") if how.get("sound") else None
        for image, stamp in zip(frames, stamps):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame = frame.reformat(
                format=pix_fmt, dst_colorspace=matrix, dst_color_range=how.get("range", 1)
            )
            frame.pts, frame.time_base = stamp, base
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
        if sound:
            for k in range(how["sound"]):
                quiet = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
                quiet.sample_rate, quiet.pts = 48000, 1024 * k
                out.mux(sound.encode(quiet))
            out.mux(sound.encode())


FINE = {"crf": "8"}
VIDEOS = {
    "h264.mp4": dict(codec="libx264", options=FINE),
    "h264.mov": dict(codec="libx264", options=FINE),
    "h264.mkv": dict(codec="libx264", options=FINE),
    "h264.avi": dict(codec="libx264", options=FINE | {"bf": "0"}),
    "h264.flv": dict(codec="libx264", options=FINE, clock=1000, stamps=range(0, 600, 100)),
    "h264.ts": dict(codec="libx264", options=FINE),
    "raw.h264": dict(codec="libx264", options=FINE, format="h264", untimed=True),
    "fragments.mp4": dict(codec="libx264", options=FINE, fragments=True),
    "b-frames.mp4": dict(codec="libx264", options=FINE | {"bf": "3", "b-adapt": "0"}),
    "gray.mp4": dict(
        codec="libx264", pix_fmt="gray", options=FINE, range=2, tagged=True, grey=True
    ),
    "444.mp4": dict(codec="libx264", pix_fmt="yuv444p", options=FINE),
    "422.mkv": dict(codec="libx264", pix_fmt="yuv422p", options=FINE),
    "ten-bits.mp4": dict(codec="libx264", pix_fmt="yuv420p10le", options=FINE),
    "full-range.mp4": dict(codec="libx264", pix_fmt="yuvj420p", options=FINE, range=2, tagged=True),
    "bt709.mp4": dict(codec="libx264", options=FINE, matrix=1, tagged=True),
    "bt601.mp4": dict(codec="libx264", options=FINE, matrix=5, tagged=True),
    "smpte170m.mp4": dict(codec="libx264", options=FINE, matrix=6, tagged=True),
    "odd-444.mp4": dict(codec="libx264", pix_fmt="yuv444p", options=FINE, size=(45, 61)),
    "tall.mp4": dict(codec="libx264", options=FINE, size=(96, 32)),
    "one-frame.mp4": dict(codec="libx264", options=FINE, n=1),
    "one-frame.mkv": dict(codec="libx264", options=FINE, n=1),
    "offset.mp4": dict(codec="libx264", options=FINE, stamps=range(50, 56)),
    "offset.mkv": dict(codec="libx264", options=FINE, stamps=range(50, 56)),
    "offset.ts": dict(codec="libx264", options=FINE, stamps=range(50, 56)),
    "uneven.mp4": dict(
        codec="libx264", options=FINE, clock=1000, stamps=[0, 40, 80, 500, 520, 900]
    ),
    "uneven.mkv": dict(
        codec="libx264", options=FINE, clock=1000, stamps=[0, 40, 80, 500, 520, 900]
    ),
    "wide-pixels.mp4": dict(codec="libx264", options=FINE, aspect=Fraction(2)),
    "narrow-pixels.mkv": dict(codec="libx264", options=FINE, aspect=Fraction(8, 9)),
    "sound.mp4": dict(codec="libx264", options=FINE, sound=20),
    "long-sound.mkv": dict(codec="libx264", options=FINE, sound=200),
    "10:30.mp4": dict(codec="libx264", options=FINE),
    "h265.mp4": dict(codec="libx265", options={"x265-params": "crf=8:log-level=none"}),
    "h265.mkv": dict(codec="libx265", options={"x265-params": "crf=8:log-level=none"}),
    "av1.mp4": dict(codec="libsvtav1", options={"crf": "10", "preset": "10"}),
    "vp8.webm": dict(codec="libvpx", options={"crf": "4", "b": "4M"}),
    "vp9.webm": dict(codec="libvpx-vp9", options={"crf": "8", "b": "0"}),
    "vp9.mp4": dict(codec="libvpx-vp9", options={"crf": "8", "b": "0"}),
    "mpeg4.avi": dict(codec="mpeg4", options={"qscale": "2", "b": "8M"}),
    "mpeg4.mp4": dict(codec="mpeg4", options={"b": "8M"}),
    "mpeg2.mpg": dict(codec="mpeg2video", options={"b": "8M"}, rate=25, clock=25, untimed=True),
    "mpeg2.ts": dict(codec="mpeg2video", options={"b": "8M"}, rate=25, clock=25),
    "mjpeg.avi": dict(
        codec="mjpeg", pix_fmt="yuvj444p", options={"qmin": "1", "qmax": "2"}, range=2
    ),
    "mjpeg.mov": dict(
        codec="mjpeg", pix_fmt="yuvj444p", options={"qmin": "1", "qmax": "2"}, range=2
    ),
    "ffv1.mkv": dict(codec="ffv1", pix_fmt="yuv444p"),
    "huffyuv.avi": dict(codec="huffyuv", pix_fmt="yuv422p"),
    "prores.mov": dict(codec="prores_ks", pix_fmt="yuv422p10le"),
    "raw.avi": dict(codec="rawvideo", pix_fmt="yuv420p"),
    "png.mov": dict(codec="png", pix_fmt="rgb24"),
    "theora.ogv": dict(codec="libtheora", options={"qscale": "10", "b": "8M"}),
    "wmv2.wmv": dict(codec="wmv2", options={"b": "8M"}, clock=1000, stamps=range(0, 600, 100)),
}


@pytest.mark.parametrize("name", VIDEOS)
def test_a_video_is_read_as_it_was_made(name, tmp_path):
    how = dict(VIDEOS[name])
    if how["codec"] not in av.codecs_available:
        pytest.skip(f"this PyAV has no encoder {how['codec']}")
    path = tmp_path / name
    untimed, grey = how.pop("untimed", False), how.pop("grey", False)
    if how.pop("fragments", False):
        with av.open(str(path), "w", options={"movflags": "frag_keyframe+empty_moov"}) as out:
            stream = out.add_stream("libx264", rate=10, pix_fmt="yuv420p", options=FINE)
            stream.width, stream.height = SIZE[1], SIZE[0]
            for image in pictures():
                out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            out.mux(stream.encode())
    else:
        encode(path, **how)
    video = open_video(path)
    found = list(video.read())
    wanted = pictures(how.get("size", SIZE), how.get("n", 6))
    assert video.faults.lines() == []
    assert [f.index for f in found] == list(range(len(wanted)))
    assert video.size == found[0].image.shape[:2] == wanted[0].shape[:2]
    assert video.length in (None, len(wanted))
    assert video.pixel_aspect == how.get("aspect", 1)
    if not untimed:
        stamps = list(how.get("stamps") or range(len(wanted)))
        times = [float(f.stamp * video.time_base) for f in found]
        clock = how.get("clock", 10)
        assert times == pytest.approx([(s - stamps[0]) / clock for s in stamps], abs=0.0021)
    for frame, image in zip(found, wanted):
        h, w = image.shape[:2]
        inner = slice(h // 2, -4), slice(4, -4)
        mean, told = frame.image[inner].mean((0, 1)), image[inner].mean((0, 1))
        if grey:
            mean, told = mean.mean(), told @ (0.299, 0.587, 0.114)
        assert mean == pytest.approx(told, abs=3), name
        corner = frame.image[2 : h // 4 - 2, 2 : w // 4 - 2].mean()
        assert corner > 220 > 40 > frame.image[2 : h // 4 - 2, w - w // 4 + 2 : -2].mean()


@pytest.mark.parametrize("cut", [0.45, 0.7, 0.9])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_a_file_that_breaks_off_says_so(name, cut, tmp_path):
    path = tmp_path / name
    codec = dict(codec="mjpeg", pix_fmt="yuvj420p", range=2) if name == "a.avi" else {}
    encode(path, **{"codec": "libx264", "options": {"g": "5", "bf": "0"}, "n": 48} | codec)
    if name == "a.mp4":  # the index in front, as downloads have it
        with (
            av.open(str(path)) as a,
            av.open(str(tmp_path / "b.mp4"), "w", options={"movflags": "faststart"}) as b,
        ):
            stream = b.add_stream_from_template(a.streams.video[0])
            for packet in a.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    b.mux(packet)
        path = tmp_path / "b.mp4"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * cut)])
    video = open_video(path)
    found = list(video.read())
    if (name, cut) == ("a.mkv", 0.9):  # only its index is cut off
        assert len(found) == 48 and video.faults.lines() == []
        return
    assert 5 < len(found) < 48
    assert video.faults.lines() == [f"ends after {len(found)} of the 48 frames that it announces"]


@pytest.mark.parametrize("codec", ["mjpeg", "libx264"])
def test_a_damaged_frame_keeps_its_place(codec, tmp_path):
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    encode(tmp_path / "a.avi", codec, pix_fmt, n=24, options={"g": "1", "bf": "0"})
    data = bytearray((tmp_path / "a.avi").read_bytes())
    with av.open(str(tmp_path / "a.avi")) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    for number in (5, 6, 17):
        start, size = packets[number]
        data[start : start + size] = bytes(size)
    (tmp_path / "a.avi").write_bytes(data)
    video = open_video(tmp_path / "a.avi")
    found = list(video.read())
    assert video.faults.lost == [5, 6, 17]
    assert [f.index for f in found] == [t for t in range(24) if t not in (5, 6, 17)]
    times = [float(f.stamp * video.time_base) for f in found]
    assert times == pytest.approx([f.index / 10 for f in found])
    for frame in found:
        mean = frame.image[24:-4, 4:-4].mean((0, 1))
        assert mean == pytest.approx(COLOURS[frame.index % 6], abs=8)
    assert video.faults.lines() == ["frames 5, 6, 17 cannot be decoded"]


def set_matrix(path: Path, matrix: tuple[int, int, int, int]) -> None:
    "Write a display matrix (a, b, c, d) into an mp4's track header."
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version 0: after 40 bytes stand nine 32-bit numbers
    a, b, c, d = (x << 16 for x in matrix)
    w, h = SIZE[1] << 16, SIZE[0] << 16
    shift_x = (w if matrix[0] < 0 else 0) + (h if matrix[2] < 0 else 0)
    shift_y = (w if matrix[1] < 0 else 0) + (h if matrix[3] < 0 else 0)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, shift_x, shift_y, 1 << 30)
    path.write_bytes(data)


TURNS = {  # x' = a x + c y, y' = b x + d y
    (1, 0, 0, 1): lambda x: x,
    (0, 1, -1, 0): lambda x: np.rot90(x, -1),
    (-1, 0, 0, -1): lambda x: np.rot90(x, 2),
    (0, -1, 1, 0): lambda x: np.rot90(x, 1),
    (-1, 0, 0, 1): lambda x: x[:, ::-1],
    (1, 0, 0, -1): lambda x: x[::-1],
    (0, 1, 1, 0): lambda x: x.swapaxes(0, 1),
    (0, -1, -1, 0): lambda x: np.rot90(x, 2).swapaxes(0, 1),
}


@pytest.mark.parametrize("matrix", TURNS)
def test_a_display_matrix_is_followed(matrix, tmp_path):
    encode(tmp_path / "a.mp4", "libx264", options=FINE, aspect=Fraction(2))
    set_matrix(tmp_path / "a.mp4", matrix)
    video = open_video(tmp_path / "a.mp4")
    right = TURNS[matrix](pictures()[0])
    image = next(iter(video))
    assert video.size == image.shape[:2] == right.shape[:2]
    assert np.abs(image.astype(int) - right).mean() < 8
    assert video.pixel_aspect == (2 if matrix[0] else Fraction(1, 2))


def grey_steps(scale) -> np.ndarray:
    return np.repeat(np.linspace(0, scale, 64)[None], 48, 0)


def save(image, name: str) -> Callable:
    return lambda folder: Image.fromarray(image).save(folder / name)


def with_opencv(image: np.ndarray, name: str) -> Callable:
    return lambda folder: cv2.imwrite(str(folder / name), image)


STEPS = np.repeat(grey_steps(255).round().astype(np.uint8)[..., None], 3, 2)
FIRST = pictures()[0]
CLEAR = np.dstack([FIRST, np.full(SIZE, 90, np.uint8)])
PICTURES = {
    "rgb.png": (save(FIRST, "rgb.png"), FIRST),
    "rgb.bmp": (save(FIRST, "rgb.bmp"), FIRST),
    "rgb.tif": (save(FIRST, "rgb.tif"), FIRST),
    "rgb.JPG": (save(FIRST, "rgb.JPG"), FIRST),
    "rgb.jpeg": (save(FIRST, "rgb.jpeg"), FIRST),
    "rgb.webp": (save(FIRST, "rgb.webp"), FIRST),
    "rgb.avif": (save(FIRST, "rgb.avif"), FIRST),
    "rgba.png": (save(CLEAR, "rgba.png"), FIRST),
    "grey.png": (save(STEPS[..., 0], "grey.png"), STEPS),
    "grey16.png": (save(grey_steps(65535).astype(np.uint16), "grey16.png"), STEPS),
    "grey16.tif": (save(grey_steps(65535).astype(np.uint16), "grey16.tif"), STEPS),
    "float.tif": (save(grey_steps(1).astype(np.float32), "float.tif"), STEPS),
    "rgb16.png": (with_opencv(STEPS.astype(np.uint16) * 257, "rgb16.png"), STEPS),
    "rgb16.tif": (with_opencv(FIRST[..., ::-1].astype(np.uint16) * 257, "rgb16.tif"), FIRST),
    "one-bit.png": (
        lambda f: (
            Image.fromarray(STEPS[..., 0]).point(lambda v: v > 127, "1").save(f / "one-bit.png")
        ),
        np.where(STEPS > 127, 255, 0).astype(np.uint8),
    ),
    "la.png": (lambda f: Image.fromarray(STEPS[..., 0]).convert("LA").save(f / "la.png"), STEPS),
    "palette.png": (lambda f: Image.fromarray(FIRST).quantize(8).save(f / "palette.png"), FIRST),
    "clear-palette.png": (
        lambda f: Image.fromarray(FIRST).quantize(8).save(f / "clear-palette.png", transparency=1),
        FIRST,
    ),
    "cmyk.jpg": (lambda f: Image.fromarray(FIRST).convert("CMYK").save(f / "cmyk.jpg"), FIRST),
    "interlaced.gif": (lambda f: Image.fromarray(FIRST).save(f / "interlaced.gif"), FIRST),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_read_as_it_was_made(name, tmp_path):
    make, wanted = PICTURES[name]
    make(tmp_path)
    found = list(open_video(tmp_path / name))
    assert len(found) == 1 and found[0].shape == wanted.shape
    assert np.abs(found[0].astype(int) - wanted).mean() < 3
    if not name.endswith(".gif"):
        assert picture_size(tmp_path / name) == wanted.shape[:2]
        assert np.array_equal(read_picture(tmp_path / name), found[0])
        assert picture_files(tmp_path) == [tmp_path / name]


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("number", range(1, 9))
def test_exif_turns_a_picture(number, ending, tmp_path):
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # PIL.Image.Transpose that stores it so
    image = Image.fromarray(FIRST)
    stored = image if number == 1 else image.transpose(Image.Transpose(undo[number]))
    exif = Image.Exif()
    exif[0x0112] = number
    stored.save(tmp_path / f"a.{ending}", exif=exif)
    assert picture_size(tmp_path / f"a.{ending}") == SIZE
    found = read_picture(tmp_path / f"a.{ending}")
    assert found.shape == FIRST.shape
    assert np.abs(found.astype(int) - FIRST).mean() < 4


@pytest.mark.parametrize("ending", ["webp", "png", "avif", "gif", "tif"])
def test_an_animated_picture_is_a_video(ending, tmp_path):
    frames = [Image.fromarray(x) for x in pictures()]
    more = dict(duration=[80, 80, 200, 80, 80, 80]) if ending not in ("tif",) else {}
    path = tmp_path / f"a.{ending}"
    frames[0].save(path, save_all=True, append_images=frames[1:], **more)
    video = open_video(path)
    found = list(video.read())
    assert len(found) == 6 and video.length in (None, 6)
    for frame, image in zip(found, pictures()):
        assert np.abs(frame.image.astype(int) - image).mean() < 5
    if more:
        times = [float(f.stamp * video.time_base) for f in found]
        assert times == pytest.approx([0, 0.08, 0.16, 0.36, 0.44, 0.52])


def test_sixteen_bits_have_one_scale_for_a_whole_video(tmp_path):
    for t, level in enumerate((1000, 30000, 60000)):
        Image.fromarray(np.full(SIZE, level, np.uint16)).save(tmp_path / f"{t}.png")
    assert [int(x.mean().round()) for x in open_video(tmp_path)] == [4, 117, 233]


def test_what_has_no_scale_is_refused(tmp_path):
    Image.fromarray(grey_steps(900).astype(np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(
        RVOSError, match="a.tif: a picture of floats from 0 to 900; expected 0 to 1"
    ):
        read_picture(tmp_path / "a.tif")
    Image.fromarray(grey_steps(-5).astype(np.int32)).save(tmp_path / "b.tif")
    with pytest.raises(RVOSError, match="b.tif: a picture of whole numbers from -5 to 0"):
        read_picture(tmp_path / "b.tif")


def test_a_damaged_picture_in_a_folder_keeps_its_place(tmp_path):
    for t, image in enumerate(pictures()):
        Image.fromarray(image).save(tmp_path / f"{t}.png")
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:60])
    video = open_video(tmp_path)
    assert [f.index for f in video.read()] == [0, 1, 2, 4, 5]
    assert video.faults.lines() == ["frame 3 cannot be decoded"]


FILES = {  # folder: (file, frames, size, frames a second, what is said)
    "01-cover-art-first": ("clip.mp4", 90, (120, 160), 30, []),
    "08-damaged-in-the-middle": ("clip.mp4", 89, (120, 160), 30, ["frame 48 cannot be decoded"]),
    "14-raw-dv-frame-rate": ("clip.dv", 2, (576, 720), 25, []),
    "16-size-changes-on-the-way": ("clip.ts", 20, (120, 160), 10, []),
    "26-pixels-that-are-not-square": ("clip.mp4", 25, (120, 160), 25, []),
}


@pytest.mark.parametrize("folder", FILES)
def test_field_videos(folder):
    name, n, size, fps, said = FILES[folder]
    path = FIELD / folder / name
    if not path.is_file():
        pytest.skip("no such material beside the checkout")
    video = open_video(path)
    found = list(video.read())
    assert (len(found), video.size, video.fps) == (n, size, fps)
    assert {f.image.shape[:2] for f in found} == {size}
    assert video.faults.lines() == said
    end = found[-1].stamp * video.time_base + 1 / Fraction(fps)
    assert float(end) == pytest.approx((n + len(video.faults.lost)) / fps, abs=0.01)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv"])
def test_field_cut_off(name):
    path = FIELD / "09-cut-off-tail" / name
    if not path.is_file():
        pytest.skip("no such material beside the checkout")
    video = open_video(path)
    n = len(list(video))
    assert n in (59, 61)
    assert video.faults.lines() == [f"ends after {n} of the 90 frames that it announces"]


@pytest.mark.parametrize("name", ["hflip", "vflip", "transpose"])
def test_field_mirrored(name):
    folder = FIELD / "02-mirrored-display-matrix"
    if not folder.is_dir():
        pytest.skip("no such material beside the checkout")
    right = read_picture(folder / f"{name}_right.png")
    assert np.abs(next(iter(open_video(folder / f"{name}.mp4"))).astype(int) - right).mean() < 2


@pytest.mark.parametrize("name", ["clip.webp", "clip.png", "clip.avif", "clip.tif"])
def test_field_animated(name):
    path = FIELD / "10-animated-pictures" / name
    if not path.is_file():
        pytest.skip("no such material beside the checkout")
    assert len(list(open_video(path))) == 5


@pytest.mark.parametrize("name", ["00000.png", "frame.tif"])
def test_field_sixteen_bits(name):
    path = FIELD / "11-sixteen-bit-grey" / name
    if not path.is_file():
        pytest.skip("no such material beside the checkout")
    found = read_picture(path)
    assert found.dtype == np.uint8 and found.std() > 5 and 20 < found.mean() < 235
