"Pictures and videos, read back: what was written is what is there."

import weakref
from fractions import Fraction

import av
import cv2
import nbformat
import numpy as np
import pandas as pd
import pytest
from nbconvert.preprocessors import ExecutePreprocessor

from rvos_nb.config import RVOSError
from rvos_nb.draw import (
    COLOUR_NAMES,
    PALETTE,
    contact_sheet,
    figure_to_image,
    grid,
    mute,
    overlay,
    overlay_ids,
    pick_frames,
    plot_curves,
    save_image,
    to_jpeg,
    video_writer,
    write_overlay,
    write_video,
)

Y, X = np.mgrid[:40, :60]
IMAGE = np.stack([X * 3, Y * 5, np.full_like(X, 90)], -1).astype(np.uint8)
MASK = np.zeros((40, 60), bool)
MASK[10:30, 20:45] = True


# --- overlays


def test_overlay_touches_only_the_mask_and_not_its_input():
    before = IMAGE.copy()
    out = overlay(IMAGE, MASK)
    assert np.array_equal(IMAGE, before) and np.array_equal(out[~MASK], IMAGE[~MASK])
    assert (out[MASK] != IMAGE[MASK]).any(1).all()
    assert np.array_equal(overlay(IMAGE, MASK & False), IMAGE)


def test_alpha_and_colours():
    assert (overlay(IMAGE, MASK, (1, 2, 3), alpha=1)[MASK] == (1, 2, 3)).all()
    assert np.array_equal(overlay(IMAGE, MASK, alpha=0, outline=False), IMAGE)
    assert np.array_equal(overlay(IMAGE, MASK, "red"), overlay(IMAGE, MASK, (255, 0, 0)))
    assert np.array_equal(overlay(IMAGE, MASK), overlay(IMAGE, MASK.astype(np.float32)))
    assert np.array_equal(overlay(IMAGE, MASK), overlay(IMAGE, MASK.astype(np.uint8)))


def test_less_likely_is_more_transparent():
    change = []
    for p in (0, 0.1, 0.3, 0.49):
        shown = overlay(IMAGE, np.full(MASK.shape, p), (255, 255, 255))
        change.append(np.abs(shown.astype(int) - IMAGE).sum())
    assert change[0] == 0 and change == sorted(change) and len(set(change)) == 4


def test_outline_is_where_the_mask_gets_likely():
    probability = np.full((40, 60), 0.3)
    probability[10:30, 20:45] = 0.6
    shown = overlay(IMAGE, probability, "red")
    changed = (shown != overlay(IMAGE, probability, "red", outline=False)).any(2)
    ring = MASK.copy()
    ring[11:29, 21:44] = False
    assert np.array_equal(changed, ring)
    assert (shown[ring] == (255, 0, 0)).all()


@pytest.mark.parametrize(
    "image, mask, color, words",
    [
        (IMAGE, MASK[:9], "cool", "resize"),
        (IMAGE / 255.0, MASK, "cool", "uint8"),
        (IMAGE[..., 0], MASK, "cool", "uint8"),
        (IMAGE, MASK, "nocolour", "nocolour"),
        (IMAGE, MASK, (1, 2), "from 0 to 255"),
    ],
)
def test_overlay_says_what_does_not_fit(image, mask, color, words):
    with pytest.raises(RVOSError, match=words):
        overlay(image, mask, color)


def test_ids_have_their_own_colours_and_void_is_grey():
    ids = np.zeros((40, 60), np.uint8)
    ids[5:15, 5:15] = 1
    ids[20:30, 5:15] = 2
    ids[5:15, 30:40] = 1 + len(PALETTE)
    ids[35:] = 255
    out = overlay_ids(IMAGE, ids, alpha=1)
    assert (out[ids == 1] == PALETTE[0]).all() and (out[ids == 2] == PALETTE[1]).all()
    assert (out[ids == 1 + len(PALETTE)] == PALETTE[0]).all()  # the palette starts again
    assert (out[ids == 255] == 128).all() and np.array_equal(out[ids == 0], IMAGE[ids == 0])
    void = overlay_ids(np.zeros_like(IMAGE), ids)[ids == 255]
    assert len(np.unique(void, axis=0)) == 2  # hatched


def test_every_colour_has_a_name():
    assert len(PALETTE) == len(COLOUR_NAMES) == len(set(COLOUR_NAMES))


def test_a_muted_object_has_its_brightness_and_no_colour():
    before = IMAGE.copy()
    out = mute(IMAGE, MASK, 1)
    assert np.array_equal(IMAGE, before) and np.array_equal(out[~MASK], IMAGE[~MASK])
    grey = IMAGE @ [0.299, 0.587, 0.114]
    assert np.abs(out[MASK].astype(float) - grey[MASK][:, None]).max() <= 1
    assert np.array_equal(mute(IMAGE, MASK, 0), IMAGE)
    assert np.ptp(mute(IMAGE, MASK).astype(int), axis=2)[MASK].max() < np.ptp(IMAGE, axis=2).max()
    with pytest.raises(RVOSError, match="resize"):
        mute(IMAGE, MASK[:9])


# --- files


def test_jpeg_keeps_colours_in_order():
    image = np.tile(np.uint8([200, 30, 60]), (32, 32, 1))
    back = cv2.imdecode(np.frombuffer(to_jpeg(image), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(back.astype(int) - image).max() < 6
    assert len(to_jpeg(IMAGE, 20)) < len(to_jpeg(IMAGE, 95))


def test_save_image(tmp_path):
    save_image(tmp_path / "sub" / "a.png", IMAGE)
    save_image(tmp_path / "a.JPG", IMAGE)
    assert np.array_equal(cv2.imread(str(tmp_path / "sub" / "a.png"))[..., ::-1], IMAGE)
    assert (tmp_path / "a.JPG").read_bytes()[:2] == b"\xff\xd8"
    with pytest.raises(RVOSError, match="a.tiff"):
        save_image(tmp_path / "a.tiff", IMAGE)
    with pytest.raises(RVOSError, match="uint8"):
        save_image(tmp_path / "b.png", IMAGE / 255)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.JPG", "sub"]


# --- video


def read(path):
    "What the codec says of a video, and its frames."
    with av.open(str(path)) as video:
        stream = video.streams.video[0]
        codec = stream.codec_context.name, stream.pix_fmt
        rate = float(stream.average_rate)
        return codec, rate, [f.to_ndarray(format="rgb24") for f in video.decode(stream)]


@pytest.mark.parametrize("h, w", [(40, 60), (41, 60), (40, 61), (41, 61), (1, 1)])
@pytest.mark.parametrize("fps", [24, 12.5, 30000 / 1001])
def test_video_read_back(tmp_path, h, w, fps):
    image = cv2.resize(IMAGE, (w, h))
    assert write_video(tmp_path / "a.mp4", [image] * 7, fps) == 7
    codec, rate, frames = read(tmp_path / "a.mp4")
    assert codec == ("h264", "yuv420p") and len(frames) == 7
    assert frames[0].shape == (h + h % 2, w + w % 2, 3)
    assert rate == pytest.approx(fps, rel=1e-4)
    assert np.abs(frames[3][:h, :w].astype(int) - image).mean() < 6
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_frames_keep_their_time_stamps(tmp_path):
    with video_writer(tmp_path / "a.mp4", fps=25, time_base=Fraction(1, 600)) as add:
        for stamp in (0, 24, 30, 900):
            add(IMAGE, stamp)
    with av.open(str(tmp_path / "a.mp4")) as video:
        times = [frame.time for frame in video.decode(video=0)]
    assert times == pytest.approx([0, 0.04, 0.05, 1.5])


def test_a_browser_can_start_before_the_end(tmp_path):
    write_video(tmp_path / "a.mp4", [IMAGE] * 30)
    data = (tmp_path / "a.mp4").read_bytes()
    assert data[4:8] == b"ftyp" and data.index(b"moov") < data.index(b"mdat")


def test_overlay_video_shows_each_mask_on_its_frame(tmp_path):
    masks = np.stack([np.roll(MASK, s, 1) for s in range(-20, 15, 5)])
    assert write_overlay(tmp_path / "a.mp4", iter([IMAGE] * 7), iter(masks), fps=5) == 7
    for t, frame in enumerate(read(tmp_path / "a.mp4")[2]):
        error = [np.abs(frame.astype(int) - overlay(IMAGE, m)).mean() for m in masks]
        assert np.argmin(error) == t


def test_frames_are_taken_one_by_one(tmp_path):
    alive = []

    def frames():
        for n in range(120):
            f = IMAGE.copy()
            alive.append(weakref.ref(f))
            yield f
            del f
            assert sum(r() is not None for r in alive) <= 3

    assert write_overlay(tmp_path / "a.mp4", frames(), (MASK for _ in range(120))) == 120


def test_a_failed_video_leaves_the_old_one(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old")

    def broken():
        yield IMAGE
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_video(path, broken())
    with pytest.raises(RVOSError, match="masks end after 2"):
        write_overlay(path, [IMAGE] * 3, [MASK] * 2)
    with pytest.raises(RVOSError, match="frames end after 0"):
        write_overlay(path, [], [MASK])
    with pytest.raises(RVOSError, match="frame 2 is"):
        write_video(path, [IMAGE, IMAGE[:20]])
    with pytest.raises(RVOSError, match="resize"):
        write_overlay(path, [IMAGE], [MASK[:20]])
    with pytest.raises(RVOSError, match="no frames"):
        write_video(path, [])
    with pytest.raises(RVOSError, match="uint8"):
        write_video(path, [IMAGE / 255])
    with pytest.raises(RVOSError, match="fps = 0"):
        write_video(path, [IMAGE], fps=0)
    with pytest.raises(RVOSError, match="no encoder 'h266'"):
        write_video(path, [IMAGE], codec="h266")
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


# --- figures


def test_titles_are_text():
    for title in ("costs $5 or $10", r"$\bad{ $", "$", "a_b^c", "écureuil"):
        fig = grid([IMAGE], [title])
        assert fig.axes[0].get_title() == title
        figure_to_image(fig)  # a formula with an error would raise here
    plain, formula = (figure_to_image(grid([IMAGE], [t])) for t in ("x2", "$x_2$"))
    assert plain.shape != formula.shape or not np.array_equal(plain, formula)


def test_grid_shape():
    fig = grid([IMAGE, MASK, IMAGE, IMAGE, IMAGE], columns=3)
    assert len(fig.axes) == 6 and sum(len(a.images) for a in fig.axes) == 5
    assert len(grid([IMAGE] * 2).axes) == 2
    tall = grid([IMAGE] * 4, ["a long expression about the dog on the left " * 3] * 4)
    assert figure_to_image(tall).shape[0] > figure_to_image(grid([IMAGE] * 4)).shape[0]
    with pytest.raises(RVOSError, match="no images"):
        grid([])
    with pytest.raises(RVOSError, match="1 titles for 2 images"):
        grid([IMAGE] * 2, ["a"])


def test_contact_sheet():
    rows = [[IMAGE, IMAGE], [np.full((20, 20, 3), 255, np.uint8)] * 3]
    sheet = contact_sheet(rows, ["“écureuil”, $5", "x" * 500], height=50)
    widest = max(2 * (75 + 4), 3 * (50 + 4))
    assert sheet.dtype == np.uint8 and sheet.shape == (2 * (50 + 20 + 4) + 4, widest + 4, 3)
    assert sheet[4:22].min() < 100  # text above the first row
    assert (sheet[:, -2:] == 255).all()  # nothing runs over the border
    assert contact_sheet(rows, height=50).shape[0] == 2 * 54 + 4
    with pytest.raises(RVOSError, match="1 labels for 2 rows"):
        contact_sheet(rows, ["a"])


def test_a_legend_shows_the_colours_themselves():
    legend = [("a clip", None), ("the dog", PALETTE[1]), ("x" * 500, PALETTE[5])]
    sheet = contact_sheet([[np.zeros((50, 400, 3), np.uint8)]], [legend], height=50)
    for color in (PALETTE[1], PALETTE[5]):
        assert (sheet[:24] == color).all(-1).sum() == 13 * 13
    assert not (sheet == PALETTE[0]).all(-1).any() and (sheet[:, -2:] == 255).all()


def test_frames_are_picked_from_first_to_last():
    assert pick_frames(10, 4).tolist() == [0, 3, 6, 9]
    assert pick_frames(2, 5).tolist() == [0, 1]
    for n in range(1, 40):
        for columns in range(2, 9):
            chosen = pick_frames(n, columns)
            assert (chosen[0], chosen[-1], len(chosen)) == (0, n - 1, min(n, columns))


def history(n=6):
    return pd.DataFrame(
        {
            "epoch": range(1, n + 1),
            "train_loss": 0.5,
            "train_iou": 0.4,
            "val_loss": 0.6,
            "val_iou": [np.nan, 0.2, np.nan, 0.31, np.nan, 0.3][:n],
            "grad_norm": 1.0,
            "lr": 1e-3,
        }
    )


def test_curves_mark_the_best_epoch():
    fig = plot_curves(history())
    assert [a.get_ylabel() for a in fig.axes] == ["loss", "IoU", "gradient norm", "learning rate"]
    assert [a.get_xlabel() for a in fig.axes[2:]] == ["epoch", "epoch"]
    assert "best: 0.310, epoch 4" in [t.get_text() for t in fig.axes[1].get_legend().get_texts()]
    assert list(fig.axes[1].lines[1].get_xdata()) == [2, 4, 6]  # NaN is skipped, not drawn as a gap


def test_curves_before_any_validation():
    for n in (0, 1):
        fig = plot_curves(history(n))
        assert not any("best" in t.get_text() for t in fig.axes[1].get_legend().get_texts())
        figure_to_image(fig)
    plot_curves(history(2).astype(object).assign(val_iou=None, val_loss=None))
    with pytest.raises(RVOSError, match="'grad_norm'"):
        plot_curves(history().drop(columns="grad_norm"))


def test_figure_to_image():
    fig = grid([IMAGE], width=4)
    w, h = fig.get_size_inches()
    image = figure_to_image(fig, dpi=50)
    assert image.dtype == np.uint8 and image.shape == (int(h * 50), int(w * 50), 3)


@pytest.mark.slow
def test_a_figure_is_shown_once_and_without_further_imports(monkeypatch):
    "In a notebook that imports nothing else, a cell's value is a picture; no other cell shows it."
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the notebook's kernel chooses
    sources = ["import numpy as np; from rvos_nb.draw import grid"]
    sources += ["fig = grid([np.zeros((9, 9))])", "fig"]
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    ExecutePreprocessor(timeout=120).preprocess(nb)
    shown = [set().union(*(o.get("data", {}) for o in c.outputs)) for c in nb.cells]
    outputs = [sorted(k for k in kinds if k.startswith("image/")) for kinds in shown]
    assert outputs == [[], [], ["image/png"]]


def test_a_video_says_how_its_colours_are_stored_and_how_long_the_last_frame_is_shown(tmp_path):
    green = np.full((48, 64, 3), (11, 221, 2), np.uint8)
    with video_writer(tmp_path / "a.mp4", 25, time_base=Fraction(1, 1000)) as add:
        for stamp, shown in ((0, 40), (40, 960), (1000, 2000)):
            add(green, stamp, shown)
    with av.open(str(tmp_path / "a.mp4")) as video:
        stream = video.streams.video[0]
        assert stream.duration * stream.time_base == 3
        for frame in video.decode(stream):
            tags = (frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range)
            assert tags == (1, 1, 1, 1)
            assert np.abs(frame.to_ndarray(format="rgb24").astype(int) - green).max() <= 3
