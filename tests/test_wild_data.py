"Folders as people have them: the right J for the truth as prediction, or the right line of check."

import json
import shutil
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from layouts import TrueMasks
from PIL import Image

from rvos_nb.check import check_data
from rvos_nb.config import RVOSError
from rvos_nb.pictures import read_picture
from rvos_nb.datasets import load_annotations
from rvos_nb.evaluation import evaluate
from rvos_nb.layout import ANNOTATORS, davis_palette, write_ids
from rvos_nb.predictions import open_predictions
from rvos_nb.results import report

FIELD = Path(__file__).resolve().parent.parent.parent / "shared" / "field"
SIZE, N, VIDEO = (40, 60), 4, "yard"


def ids(t: int, first: int = 1, second: int = 2) -> np.ndarray:
    "Two boxes; the second one leaves before the last frame."
    found = np.zeros(SIZE, np.uint8)
    found[4:18, 5 + 2 * t : 22 + 2 * t] = first
    if t < N - 1:
        found[22:36, 30 : 48 - t] = second
    return found


def one(t: int) -> np.ndarray:
    return ids(t, 1, 0)


class Folder:
    "DAVIS's layout, written with functions that a test changes."

    def __init__(self, root: Path, video: str = VIDEO):
        self.root, self.video = root, video
        self.frames = root / "DAVIS/JPEGImages/480p" / video
        self.masks = root / "DAVIS/Annotations/480p" / video
        self.list = root / "DAVIS/ImageSets/2017/val.txt"
        for folder in (self.frames, self.masks, self.list.parent, root / "davis_text_annotations"):
            folder.mkdir(parents=True)

    def write(self, mask=ids, objects=(1, 2), name="{:05d}.jpg", save=None, turn=None) -> None:
        for t in range(N):
            frame = np.full((*SIZE, 3), 90, np.uint8)
            frame[ids(t) == 1], frame[ids(t) == 2] = (220, 40, 40), (40, 60, 220)
            image, exif = Image.fromarray(frame), Image.Exif()
            if turn:
                image, exif[0x0112] = image.transpose(turn[1]), turn[0]
            image.save(self.frames / name.format(t), exif=exif)
            path = self.masks / f"{Path(name.format(t)).stem}.png"
            (save or save_palette)(path, mask(t))
        self.list.write_text(self.video)
        self.say(objects)

    def say(self, objects) -> None:
        for who in ANNOTATORS:
            lines = [f'{self.video} {o} "the thing {o}"\n' for o in objects]
            path = self.root / f"davis_text_annotations/Davis17_{who}.txt"
            path.write_text("".join(lines))


# --- ways to store masks: (path, ids)


def save_palette(path, x):
    write_ids(path, x)


def save_mode(mode):
    return lambda path, x: painted(x).convert(mode).save(path)


def painted(x) -> Image.Image:
    image = Image.fromarray(x)
    image.putpalette(davis_palette())
    return image.convert("RGB")


def save_grey(path, x):
    Image.fromarray(x).save(path)


def save_16(path, x):
    Image.fromarray(x.astype(np.uint16)).save(path)


def save_32(path, x):
    Image.fromarray(x.astype(np.int32)).save(path, "TIFF")


def save_float(path, x):
    Image.fromarray(x.astype(np.float32)).save(path, "TIFF")


def save_grey_rgb(path, x):
    Image.fromarray(np.stack([x] * 3, -1)).save(path)


def save_clear(path, x):
    "Transparent where there is no object."
    rgba = np.dstack([np.array(painted(x)), np.where(x, 255, 0).astype(np.uint8)])
    rgba[x == 0, :3] = 255
    Image.fromarray(rgba).save(path)


def save_grey_alpha(path, x):
    Image.fromarray(x).convert("LA").save(path)


def save_1_bit(path, x):
    Image.fromarray(x > 0).save(path)


def save_255(path, x):
    Image.fromarray(255 * (x > 0).astype(np.uint8)).save(path)


def save_65535(path, x):
    Image.fromarray(65535 * (x > 0).astype(np.uint16)).save(path)


def save_255_rgb(path, x):
    save_grey_rgb(path, 255 * (x > 0).astype(np.uint8))


def save_turned(path, x):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(x).transpose(Image.ROTATE_90)
    image.putpalette(davis_palette())
    image.save(path, exif=exif)


def save_own_palette(path, x):
    image = Image.fromarray(x)
    image.putpalette([0, 0, 0, 236, 95, 103, 249, 145, 87])
    image.save(path)


def save_opencv(path, x):
    cv2.imwrite(str(path), x)


def save_optimised(path, x):
    image = Image.fromarray(x)
    image.putpalette(davis_palette())
    image.save(path, optimize=True, compress_level=9, bits=2)


def save_far_ids(path, x):
    write_ids(path, np.where(x == 2, 250, np.where(x == 1, 21, 0)).astype(np.uint8))


def save_void(path, x):
    x = x.copy()
    x[0] = 255
    write_ids(path, x)


WAYS = {
    "palette": (save_palette, {}),
    "grey": (save_grey, {}),
    "16 bits": (save_16, {}),
    "32 bits": (save_32, {}),
    "float": (save_float, {}),
    "grey in RGB": (save_grey_rgb, {}),
    "grey and alpha": (save_grey_alpha, {}),
    "DAVIS's colours in RGB": (save_mode("RGB"), {}),
    "DAVIS's colours in RGBA": (save_mode("RGBA"), {}),
    "transparent background": (save_clear, {}),
    "a palette of one's own": (save_own_palette, {}),
    "by OpenCV": (save_opencv, {}),
    "optimised, 2 bits": (save_optimised, {}),
    "turned by EXIF": (save_turned, {}),
    "a void row": (save_void, {}),
    "1 bit": (save_1_bit, {"mask": one, "objects": (1,)}),
    "0 and 255": (save_255, {"mask": one, "objects": (1,)}),
    "0 and 255 in RGB": (save_255_rgb, {"mask": one, "objects": (1,)}),
    "0 and 65535": (save_65535, {"mask": one, "objects": (1,)}),
    "ids 21 and 250": (save_far_ids, {"objects": (21, 250)}),
}


def is_right(root: Path) -> None:
    "No problems, and the boxes are where they are."
    assert check_data(root, quiet=True).empty, check_data(root, quiet=True).to_string()
    (record,) = load_annotations(root, "val").values()
    for e in record.expressions:
        wanted = 2 if e.object_ids[0] in (2, 250) else 1
        for t in range(len(record.frames)):
            if record.masks.labelled(t):
                truth = (ids(min(t, 2) if t >= N else t) == wanted) & ~record.masks.void(t)
                assert np.array_equal(record.masks.mask(t, e.object_ids), truth)


@pytest.mark.parametrize("way", WAYS)
def test_masks_are_read_however_they_are_stored(tmp_path, way):
    save, how = WAYS[way]
    Folder(tmp_path).write(save=save, **how)
    is_right(tmp_path)


# --- ways to store frames


@pytest.mark.parametrize(
    "name",
    [
        *("{:05d}.png", "{:05d}.JPG", "{:05d}.jpeg", "{:05d}.webp", "{:05d}.bmp", "{:05d}.tif"),
        *("frame_{}.png", "{}.jpg", "img {}.jpg", "clip.{}.jpg", "IMG_{:04d}.JPEG"),
    ],
)
def test_frames_are_read_whatever_they_are_called(tmp_path, name):
    Folder(tmp_path).write(name=name)
    is_right(tmp_path)


@pytest.mark.parametrize("turn", [(3, Image.ROTATE_180), (6, Image.ROTATE_90), (2, 0), (5, 5)])
def test_turned_frames_are_upright_everywhere(tmp_path, turn):
    Folder(tmp_path).write(turn=turn)
    is_right(tmp_path)
    (record,) = load_annotations(tmp_path, "val").values()
    frame = read_picture(record.frames[0])
    assert frame.shape == (*SIZE, 3) and frame[10, 10, 0] > 180 > 90 > frame[10, 10, 2]


def _unpadded(folder):
    for t in reversed(range(N)):
        for place, suffix in ((folder.frames, "jpg"), (folder.masks, "png")):
            (place / f"{t:05d}.{suffix}").rename(place / f"{t + 8}.{suffix}")


def _mac(folder):
    for place in (folder.frames, folder.masks):
        for name in ("._00000.jpg", "._00000.png", ".DS_Store", "Thumbs.db"):
            (place / name).write_bytes(b"x")


def _mark(folder):
    folder.list.write_bytes(b"\xef\xbb\xbf" + folder.list.read_bytes())
    for path in folder.root.glob("davis_text_annotations/Davis17_annot1*.txt"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())


def _windows(folder):
    folder.list.write_bytes(folder.list.read_bytes() + b"\r\n\r\n")


def _unlabelled(folder):
    for t in (1, 2, 3):
        (folder.masks / f"{t:05d}.png").unlink()
    texts = folder.root / "davis_text_annotations"
    shutil.rmtree(texts)
    said = {str(o): {"exp": f"thing {o}", "obj_id": str(o)} for o in (1, 2)}
    entry = {"expressions": said, "frames": ["00000"]}
    path = folder.root / "meta_expressions/valid/meta_expressions.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"videos": {VIDEO: entry}}))


def _each_third(folder):
    for t in range(N, 9):
        for place, suffix in ((folder.frames, "jpg"), (folder.masks, "png")):
            shutil.copy(place / f"{2:05d}.{suffix}", place / f"{t:05d}.{suffix}")
    for t in (1, 2, 4, 5, 7, 8):
        (folder.masks / f"{t:05d}.png").unlink()


GOOD = {
    "frames 8 to 11": _unpadded,
    "a Mac's and Windows's files": _mac,
    "byte order marks": _mark,
    "empty lines": _windows,
    "one frame of four is listed": _unlabelled,
    "masks of each third frame": _each_third,
}


@pytest.mark.parametrize("change", GOOD)
def test_what_is_beside_the_data_does_not_matter(tmp_path, change):
    folder = Folder(tmp_path)
    folder.write()
    GOOD[change](folder)
    is_right(tmp_path)


def test_spaces_in_a_name(tmp_path):
    Folder(tmp_path, "my yard 1").root.joinpath("davis_text_annotations").rmdir()
    folder = Folder(tmp_path / "data", "my yard 1")
    folder.write()
    (tmp_path / "DAVIS").rename(tmp_path / "unused")
    for path in (tmp_path / "data/davis_text_annotations").iterdir():
        path.unlink()
    (tmp_path / "data/davis_text_annotations").rmdir()
    said = {"0": {"exp": "the thing", "obj_id": "1"}}
    path = tmp_path / "data/meta_expressions/valid/meta_expressions.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"videos": {"my yard 1": {"expressions": said}}}))
    is_right(tmp_path / "data")


# --- what is said


def soften(path, x):
    Image.fromarray(cv2.GaussianBlur(255 * (x > 0).astype(np.uint8), (5, 5), 0)).save(path)


def soften_by_jpeg(path, x):
    data = cv2.imencode(".jpg", 255 * (x > 0).astype(np.uint8))[1]
    Image.fromarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)).save(path)


def resize(path, x):
    small = Image.fromarray(255 * (x > 0).astype(np.uint8)).resize((33, 21), Image.BILINEAR)
    small.resize(SIZE[::-1], Image.BILINEAR).save(path)


def soften_in_rgb(path, x):
    blurred = cv2.GaussianBlur(255 * (x > 0).astype(np.uint8), (5, 5), 0)
    Image.fromarray(np.stack([blurred] * 3, -1)).save(path)


def quantise(path, x):
    painted(x).quantize().save(path)


def quantise_own(path, x):
    "Colours of one's own, whose indices go by how often they occur, so they change."
    order = [0, 1, 2] if int(path.stem) % 2 else [0, 2, 1]
    colours = np.uint8([(0, 0, 0), (255, 0, 0), (0, 255, 0)])
    image = Image.fromarray(np.uint8(np.argsort(order))[x])
    image.putpalette(colours[order].ravel().tolist())
    image.save(path)


def as_jpeg(path, x):
    Image.fromarray(x).save(path, "JPEG")


def half_clear(path, x):
    Image.fromarray(np.dstack([np.array(painted(x)), 100 + x])).save(path)


def other_colours(path, x):
    Image.fromarray(np.uint8([(0, 0, 0), (255, 0, 0), (0, 255, 0)])[x]).save(path)


def sixteen_wide(path, x):
    Image.fromarray(x.astype(np.uint16) * 1000).save(path)


def bright(path, x):
    write_ids(path, np.where(x, 255, 0).astype(np.uint8))


def other_ids(path, x):
    write_ids(path, np.where(x == 1, 1, 99).astype(np.uint8))


def smaller(path, x):
    write_ids(path, x[::2, ::2].copy())


BAD = {
    "blurred": (soften, "look like one object's soft mask"),
    "through JPEG": (soften_by_jpeg, "look like one object's soft mask"),
    "resized": (resize, "look like one object's soft mask"),
    "blurred in RGB": (soften_in_rgb, "look like one object's soft mask"),
    "quantised": (quantise, "palette index .* is the colour"),
    "quantised, own colours": (quantise_own, r"id [12] is \(.*, but \("),
    "JPEG called PNG": (as_jpeg, "a JPEG of mode L"),
    "half transparent": (half_clear, "half transparent"),
    "unknown colours": (other_colours, r"RGB picture with the colour \(0, 255, 0\)|\(255, 0, 0\)"),
    "16 bits, far away": (sixteen_wide, "holds the value 1000"),
    "255 in a palette": (bright, "255, which is void: write ids"),
    "an id that nobody names": (other_ids, "id 99, which no expression names"),
    "smaller": (smaller, "height and width"),
}


@pytest.mark.parametrize("way", BAD)
def test_masks_that_are_no_ids_are_said(tmp_path, way):
    save, words = BAD[way]
    Folder(tmp_path).write(save=save)
    table = check_data(tmp_path, quiet=True)
    assert table["problem"].str.contains(words).any(), table.to_string()
    assert len(table) <= 4


@pytest.mark.parametrize("way", ["blurred", "quantised", "quantised, own colours"])
def test_nobody_scores_against_masks_that_are_no_ids(tmp_path, way):
    Folder(tmp_path).write(save=BAD[way][0])
    with pytest.raises(RVOSError, match=f"{VIDEO}/0000"):
        evaluate(load_annotations(tmp_path, "val"), TrueMasks(), baselines=())


def test_ids_with_thin_and_many_objects_are_no_soft_mask(tmp_path):
    x = np.zeros(SIZE, np.uint8)
    for k in range(60):  # tiny objects with ids far apart
        y, x0 = 2 + 4 * (k // 12), 2 + 4 * (k % 12)
        x[y : y + 2, x0 : x0 + 2] = 4 * k + 3
    save_grey(tmp_path / "m.png", x)
    from rvos_nb.data import read_mask

    assert np.array_equal(read_mask(tmp_path / "m.png"), x)


# --- predictions


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    Folder(root).write()
    return load_annotations(root, "val")


def _both(folder):
    return folder


def _zip(folder, top="", more=()):
    path = folder.parent / "masks.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.write(file, top + file.relative_to(folder).as_posix())
        for name in more:
            archive.writestr(name, b"no picture")
    return path


def _foreign(folder):
    for place in (folder, *folder.rglob("*")):
        for name in ("Thumbs.db", ".DS_Store", "._00000.png", "notes.txt", "desktop.ini"):
            if place.is_dir():
                (place / name).write_bytes(b"x")
    return folder


def _mac_zip(folder):
    more = ("__MACOSX/mine/anno_0/yard/._00000.png", "mine/.DS_Store", "../../anno_9/x/00000.png")
    return _zip(folder, "mine/", more)


def _backslashes(folder):
    path = folder.parent / "masks.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.writestr(str(file.relative_to(folder)).replace("/", "\\"), file.read_bytes())
    return path


def _bare(folder):
    return _zip(folder / "Annotations")


def _ids_only(folder):
    shutil.rmtree(folder / "Annotations")
    return _zip(folder)


def _rgb(folder):
    for file in folder.rglob("*.png"):
        Image.open(file).convert("RGB").save(file)
    return folder


PLACES = [_both, _zip, _foreign, _mac_zip, _backslashes, _bare, _ids_only, _rgb]


@pytest.mark.parametrize("place", PLACES)
def test_predictions_are_read_as_they_are(data, tmp_path, place):
    folder = tmp_path / "masks"
    evaluate(data, TrueMasks(), baselines=(), save=folder)
    found = open_predictions(place(folder), data)
    scores = evaluate(data, found, baselines=())
    assert (scores["J"] == 1).all() and (scores["missing_frames"] == 0).all()
    if found.merged:
        assert (scores["identity_J"] == 1).all()


def test_zips_that_do_not_fit_are_named(data, tmp_path):
    path = tmp_path / "masks.zip"
    path.write_bytes(b"PK no zip")
    with pytest.raises(RVOSError, match=r"masks.zip: neither a folder nor a zip"):
        open_predictions(path, data)
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        for top in ("a", "b"):
            archive.writestr(f"{top}/anno_0/{VIDEO}/00000.png", b"")
    with pytest.raises(RVOSError, match="predictions in a and b"):
        open_predictions(tmp_path / "two.zip", data)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"Annotations/{VIDEO}/0/00000.png", b"no picture")
    with pytest.raises(RVOSError, match=r"masks.zip/Annotations/yard/0/00000.png: not a mask"):
        evaluate(data, open_predictions(path, data), baselines=())


@pytest.mark.slow
def test_ids_up_to_254_are_scored_to_the_end(tmp_path):
    Folder(tmp_path / "data").write(save=save_far_ids, objects=(21, 250))
    found = load_annotations(tmp_path / "data", "val")
    evaluate(found, TrueMasks(), baselines=(), save=tmp_path / "masks")
    how = dict(predictions=str(tmp_path / "masks"), data=str(tmp_path / "data"), workers=1)
    scores = report(tmp_path / "out", **how).query("source == 'predictions'")
    assert (scores[["J", "merged_J", "identity_J"]] == 1).all(axis=None)
    assert (tmp_path / "out" / "worst.jpg").exists()


# --- the field

SAID = {
    "05": "look like one object's soft mask",
    "06": "palette index 0 is the colour",
    "18": "no expression says which object it names",
}


@pytest.mark.parametrize("number", ["03", "04", "05", "06", "18", "19", "20", "21", "22", "25"])
def test_inputs_that_people_have(number):
    root = next(FIELD.glob(f"{number}-*"), None)
    if root is None:
        pytest.skip("no such inputs beside the checkout")
    table = check_data(root, quiet=True)
    if number in SAID:
        assert table["problem"].str.contains(SAID[number]).any() and len(table) <= 4
        return
    assert table.empty, table.to_string()
    val = load_annotations(root, "val")
    scores = evaluate(val, TrueMasks(), baselines=())
    assert (scores["J"] == 1).all()
    if number == "03":  # the shapes are where the masks say: a colour stands out there
        record = next(iter(val.values()))
        frame = read_picture(record.frames[0]).astype(int)
        colourful = frame.max(2) - frame.min(2)
        mask = record.masks.mask(0, record.object_ids())
        assert colourful[mask].mean() > 2 * colourful[~mask].mean()
