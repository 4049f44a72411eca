"Any video as frames: files of all kinds, rotated, at an uneven pace; folders, lists, arrays."

import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from clips import moving
from PIL import Image
from rvos_nb.config import ConfigError, RVOSError
from rvos_nb.draw import video_writer, write_video
from rvos_nb.video import open_video, shapes_clip


def write(path, frames, codec, pix_fmt, sound=None):
    "A video file of any kind, 12 frames a second, with sound where a codec for it is named."
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=12, pix_fmt=pix_fmt)
        stream.height, stream.width = frames.shape[1:3]
        audio = out.add_stream(sound, rate=48000) if sound else None
        for frame in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode())
        if audio:
            fifo = av.AudioFifo()
            fifo.write(silence(40))
            while (chunk := fifo.read(audio.frame_size or 1024)) is not None:
                out.mux(audio.encode(chunk))
            out.mux(audio.encode())


def silence(n):
    "A sound frame of n * 1024 samples."
    zeros = np.zeros((2, 1024 * n), np.float32)
    wave = av.AudioFrame.from_ndarray(zeros, format="fltp", layout="stereo")
    wave.sample_rate = 48000
    return wave


KINDS = [
    ("a.mp4", "libx264", "yuv420p", None, (48, 80)),
    ("a.mov", "libx264", "yuv420p", "aac", (48, 80)),
    ("a.webm", "libvpx-vp9", "yuv420p", None, (48, 80)),
    ("a.webm", "libvpx", "yuv420p", "libopus", (48, 80)),
    ("a.avi", "mpeg4", "yuv420p", None, (48, 80)),
    ("a.gif", "gif", "rgb8", None, (48, 80)),
    ("a.mp4", "libx264", "yuv444p", None, (47, 81)),
    ("a.avi", "mjpeg", "yuvj444p", None, (45, 79)),
]


@pytest.mark.parametrize("name, codec, pix_fmt, sound, size", KINDS, ids=str)
def test_kinds_of_files(tmp_path, name, codec, pix_fmt, sound, size):
    for c in filter(None, (codec, sound)):
        if c not in av.codecs_available:
            pytest.skip(f"this PyAV has no {c}")
    frames = moving(10, *size)
    write(tmp_path / name, frames, codec, pix_fmt, sound=sound)
    video = open_video(tmp_path / name)
    counted = not name.endswith(".webm")  # says how long it lasts, at most
    assert (video.size, video.name, video.length) == (size, name, 10 if counted else None)
    assert abs(video.fps - 12) < 0.6  # a gif counts in hundredths
    back = list(video.read())
    assert [f.index for f in back] == list(range(10)) and len(list(video)) == 10
    difference = np.abs(np.stack([f.image for f in back]).astype(int) - frames).mean()
    assert difference < (25 if name == "a.gif" else 8)
    times = np.array([float(f.stamp * video.time_base) for f in back])
    assert np.abs(times - np.arange(10) / 12).max() < 0.06 and times[0] == 0


TURNS = [(90, (0, 1, -1, 0)), (180, (-1, 0, 0, -1)), (270, (0, -1, 1, 0))]


@pytest.mark.parametrize("degrees, matrix", TURNS)
def test_a_telephone_held_upright(tmp_path, degrees, matrix):
    write_video(tmp_path / "a.mp4", moving(4))
    data = (tmp_path / "a.mp4").read_bytes()
    a, b, c, d = (v << 16 for v in matrix)
    at = data.index(b"tkhd") + 44  # the display matrix of a version 0 track header
    display = struct.pack(">9i", *(a, b, 0, c, d, 0, 0, 0, 1 << 30))
    (tmp_path / "turned.mp4").write_bytes(data[:at] + display + data[at + 36 :])
    lying = np.stack(list(open_video(tmp_path / "a.mp4")))
    turned = open_video(tmp_path / "turned.mp4")
    assert turned.size == ((48, 80) if degrees == 180 else (80, 48))
    expected = np.rot90(lying, -degrees // 90, (1, 2))  # the matrix turns clockwise
    assert (np.stack(list(turned)) == expected).all()


def test_uneven_pace_is_read(tmp_path):
    stamps = [0, 40, 100, 140, 900, 940]
    with video_writer(tmp_path / "a.mp4", fps=6, time_base=Fraction(1, 1000)) as add:
        for frame, stamp in zip(moving(6), stamps):
            add(frame, stamp)
    video = open_video(tmp_path / "a.mp4")
    assert [round(float(f.stamp * video.time_base) * 1000) for f in video.read()] == stamps


def test_folders_lists_arrays_and_images(tmp_path):
    frames = moving(12)
    files = [tmp_path / f"frame_{t}.png" for t in range(12)]  # as text, frame_10 is before frame_2
    for file, f in zip(files, frames):
        Image.fromarray(f).save(file)
    (tmp_path / "._frame_0.png").write_bytes(b"left by another system")
    (tmp_path / "notes.txt").write_text("not a frame")
    pictures = [Image.fromarray(f) for f in frames]
    for form in (tmp_path, str(tmp_path), files, pictures, list(frames), frames):
        assert (np.stack(list(open_video(form))) == frames).all()
    assert (np.stack(list(open_video(open_video(frames)))) == frames).all()
    for form in (files[0], pictures[0], frames[0]):
        assert (np.stack(list(open_video(form))) == frames[:1]).all()


def test_a_photo_taken_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it upright
    Image.fromarray(moving(1)[0]).save(tmp_path / "a.png", exif=exif)
    assert open_video(tmp_path / "a.png").size == (80, 48)


THINNED = [
    (1, 0, (48, 80), 20),
    (3, 0, (48, 80), 7),
    (1, 40, (24, 40), 20),
    (20, 33, (20, 33), 1),
    (1, 500, (48, 80), 20),
]


@pytest.mark.parametrize("every, max_side, size, length", THINNED)
def test_every_and_max_side(every, max_side, size, length):
    video = open_video(moving(), every, max_side)
    frames = list(video.read())
    assert (video.size, video.length, video.fps) == (size, length, 24 / every)
    assert len(frames) == length and frames[0].image.shape[:2] == size
    assert [f.index for f in frames] == list(range(0, 20, every))


def test_files_that_are_no_video(tmp_path):
    (tmp_path / "notes.txt").write_text("the dog\n" * 100)  # FFmpeg would draw the text
    (tmp_path / "notes.mp4").write_text("the dog\n" * 30)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "nothing").mkdir()
    (tmp_path / "a.png").write_bytes(b"not a picture")
    write_video(tmp_path / "a.mp4", moving(40, 96, 160))
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "a.mp4").read_bytes()[:900])
    with av.open(str(tmp_path / "sound.mp4"), "w") as out:
        audio = out.add_stream("aac", rate=48000)
        out.mux(audio.encode(silence(1)))
        out.mux(audio.encode())
    slips = {
        "notes.txt": "text, not a video",
        "notes.mp4": "not a video that can be read",
        "empty.mp4": "not a video",
        "nothing": "no pictures in this folder",
        "a.png": "not a picture",
        "cut.mp4": "not a video",
        "none.mp4": "no such video",
        "sound.mp4": "only sound",
    }
    for slip, words in slips.items():
        with pytest.raises(RVOSError, match=words) as e:
            open_video(tmp_path / slip)
        assert slip in str(e.value) and "\n" not in str(e.value)


def test_objects_that_are_no_video():
    slips = [
        ([], "without frames"),
        (np.zeros((0, 4, 4, 3), np.uint8), "without frames"),
        (moving() / 255, "float64"),
        (moving()[..., 0], "uint8"),
        (None, "NoneType"),
        ([1], "int"),
    ]
    for slip, words in slips:
        with pytest.raises(RVOSError, match=words):
            open_video(slip)
    with pytest.raises(RVOSError, match="frame 1 is 40x24 pixels, the first 80x48"):
        list(open_video([moving()[0], moving(1, 24, 40)[0]]))
    for knobs in (dict(every=0), dict(max_side=-1)):
        with pytest.raises(ConfigError, match=next(iter(knobs))):
            open_video(moving(), **knobs)


def test_the_clip_of_shapes_is_made_once():
    path = shapes_clip()
    made = path.stat().st_mtime_ns
    video = open_video(shapes_clip())
    assert path.stat().st_mtime_ns == made
    assert (video.size, video.length, video.fps) == ((288, 480), 48, 12)
