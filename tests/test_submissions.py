"Zips for evaluation servers: written whole and checked, and anybody's zip checked."

import io
import zipfile
from pathlib import Path

import layouts
import numpy as np
import pytest
from layouts import N, SIZE
from PIL import Image
from rvos_nb.cli import main
from rvos_nb.config import RVOSError
from rvos_nb.data import Annotations
from rvos_nb.datasets import load_annotations
from rvos_nb.predictions import FramePrediction, save_masks
from rvos_nb.submissions import check_submission, write_submission


class Everything:
    "Says that each object is everywhere, except where `missing`."

    def __init__(self, missing: bool = False):
        self.missing = missing

    def frames(self, record):
        n = len(record.expressions)
        for t in range(len(record.frames)):
            lost = np.full(n, self.missing and t == 1)
            yield FramePrediction(np.ones((n, *record.masks.size), bool), missing=lost)


@pytest.fixture
def hidden(tmp_path) -> Annotations:
    layouts.hidden_youtube_vos(tmp_path / "data")
    return load_annotations(tmp_path / "data", "val")


def names(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def test_ref_youtube_vos(hidden, tmp_path):
    path = write_submission(tmp_path / "a.zip", hidden, Everything())
    assert len(names(path)) == 2 * N and names(path)[0] == "Annotations/street/0/00000.png"
    with zipfile.ZipFile(path) as archive, Image.open(archive.open(names(path)[0])) as im:
        assert (
            im.mode == "L" and im.size == SIZE[::-1] and np.unique(np.array(im)).tolist() == [255]
        )
    assert check_submission(path).empty and check_submission(path, hidden.root).empty
    with pytest.raises(RVOSError, match="the name of a new .zip"):
        write_submission(path, hidden, Everything())
    with pytest.raises(RVOSError, match="the name of a new .zip"):
        write_submission(tmp_path / "folder", hidden, Everything())


def test_mevis_has_no_folder_at_the_top(tmp_path):
    layouts.mevis(tmp_path / "data")
    path = write_submission(
        tmp_path / "a.zip", load_annotations(tmp_path / "data", "val"), Everything()
    )
    assert names(path)[0] == "street/3/00000.png"
    assert check_submission(path).empty and check_submission(path, tmp_path / "data").empty
    wrong = zip_of(tmp_path, {f"Annotations/{name}": png() for name in names(path)})
    problems = check_submission(wrong, tmp_path / "data")["problem"]
    assert problems.str.contains("expected only <video>/<expression>").any()


def test_a_submission_is_complete_or_not_there(hidden, tmp_path):
    with pytest.raises(RVOSError, match="no prediction for Annotations/street/0/00001.png"):
        write_submission(tmp_path / "a.zip", hidden, Everything(missing=True))
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def png(size=SIZE, values=(0, 255), mode="L") -> bytes:
    mask = np.full(size, values[0], np.uint8)
    mask[:, 1:] = values[-1]
    data = io.BytesIO()
    im = Image.fromarray(mask)
    if mode == "P":
        im.putpalette([0, 0, 0, 200, 0, 0])
    im.convert(mode).save(data, "PNG")
    return data.getvalue()


def zip_of(folder: Path, files: dict[str, bytes]) -> Path:
    path = folder / "other.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def whole() -> dict[str, bytes]:
    return {f"Annotations/street/{e}/{t:05d}.png": png() for e in "01" for t in range(N)}


FIRST = "Annotations/street/0/00000.png"
FAULTS = {  # what is done, what is said, whether it shows without the data
    "a frame too few": (lambda z: z.pop(FIRST), "missing", True),
    "an expression too few": (
        lambda z: [z.pop(k) for k in [*z] if "/1/" in k],
        "missing, and 2 more frames",
        False,
    ),
    "a video too many": (
        lambda z: z.update({FIRST.replace("street", "lane"): png()}),
        "no such video",
        False,
    ),
    "a video of test": (
        lambda z: z.update({FIRST.replace("street", "secret"): png()}),
        "no such video",
        False,
    ),
    "another size": (
        lambda z: z.update({FIRST: png((4, 4))}),
        "height and width",
        True,
    ),
    "all of another size": (
        lambda z: z.update(dict.fromkeys(z, png((4, 4)))),
        "expected \\(32, 48\\)",
        False,
    ),
    "0 and 1": (lambda z: z.update({FIRST: png(values=(0, 1))}), "holds the values 0, 1", True),
    "ids": (lambda z: z.update({FIRST: png(values=(0, 3))}), "holds the values 0, 3", True),
    "colours": (lambda z: z.update({FIRST: png(mode="RGB")}), "mode RGB", True),
    "no picture": (lambda z: z.update({FIRST: b"no picture"}), "not a PNG", True),
    "a folder too many": (
        lambda z: z.update({"my/" + FIRST: png()}),
        "expected only Annotations/",
        True,
    ),
    "a Mac's files": (
        lambda z: z.update({"__MACOSX/Annotations/._street": b""}),
        "expected only Annotations/",
        True,
    ),
    "a JPEG": (
        lambda z: z.update({FIRST.replace("png", "jpg"): png()}),
        "expected only Annotations/",
        True,
    ),
    "a way out": (lambda z: z.update({"../../up.png": png()}), "leads out of its folder", True),
    "nothing": (lambda z: z.clear(), "no masks in it", True),
}


def test_palettes_and_bits_are_masks_too(hidden, tmp_path):
    files = whole() | {FIRST: png(values=(0, 1), mode="P")}
    files[FIRST.replace("00000", "00001")] = png(mode="1")
    assert check_submission(zip_of(tmp_path, files), hidden.root).empty


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_found(hidden, tmp_path, fault):
    do, words, alone = FAULTS[fault]
    files = whole()
    assert check_submission(zip_of(tmp_path, files), hidden.root).empty
    do(files)
    found = check_submission(zip_of(tmp_path, files), hidden.root)
    assert found["problem"].str.contains(words).any(), found.to_string()
    if alone:
        assert not check_submission(tmp_path / "other.zip").empty


def test_a_name_that_stands_there_twice(tmp_path):
    path = zip_of(tmp_path, whole())
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning):
        archive.writestr(FIRST, png())
    assert check_submission(path)["problem"].str.contains("twice").any()


def test_what_is_no_zip(tmp_path):
    for content in (b"", b"PK\3\4 no zip"):
        (tmp_path / "a.zip").write_bytes(content)
        with pytest.raises(RVOSError, match="not a zip that can be read"):
            check_submission(tmp_path / "a.zip")
    with pytest.raises(RVOSError, match="not a zip that can be read"):
        check_submission(tmp_path / "none.zip")


# --- from a terminal


def test_from_a_folder_of_predictions(hidden, tmp_path, capsys):
    record = hidden["street"]
    n, path = len(record.expressions), tmp_path / "a.zip"
    for t in range(N):
        found = FramePrediction(np.ones((n, *SIZE), bool), np.zeros((0, *SIZE), np.uint8))
        save_masks(tmp_path / "masks", record, t, found)
    args = ["evaluate", "--predictions", str(tmp_path / "masks"), "--data", str(hidden.root)]
    assert main([*args, "--submission", str(path)]) == 0
    assert "submission: " in capsys.readouterr().out
    assert main(["data", "check-submission", str(path), "--data", str(hidden.root)]) == 0
    assert "no problems found" in capsys.readouterr().out
    assert main(args) == 2 and "--submission ZIP" in capsys.readouterr().err
    assert main([*args, "--out", str(tmp_path / "out")]) == 1
    assert "hidden" in capsys.readouterr().err
    zip_of(tmp_path, {FIRST: b""})
    assert main(["data", "check-submission", str(tmp_path / "other.zip")]) == 1


def test_convert_and_check_from_a_terminal(tmp_path, capsys):
    layouts.cvat(tmp_path / "data")
    args = ["data", "convert", str(tmp_path / "data"), str(tmp_path / "out"), "--format", "cvat"]
    assert main(args) == 0
    assert main(["data", "check", str(tmp_path / "out")]) == 0
    assert "format meta_expressions" in capsys.readouterr().out
    assert main(args) == 1 and "is not empty" in capsys.readouterr().err
    assert main(["data", "check", str(tmp_path / "data"), "--format", "labelme"]) == 1


def test_image_sets_and_overlapping_objects_are_scored_from_a_terminal(tmp_path, capsys):
    for name in ("coco", "mevis"):
        root, out = tmp_path / name, tmp_path / f"{name}-scores"
        layouts.LAYOUTS[name](root)
        for record in load_annotations(root, "val").values():
            for t, found in enumerate(layouts.TrueMasks().frames(record)):
                save_masks(tmp_path / f"{name}-masks", record, t, found)
        args = ["evaluate", "--predictions", str(tmp_path / f"{name}-masks"), "--data", str(root)]
        assert main([*args, "--out", str(out), "--format", name]) == 0
        assert "predictions        100.0" in capsys.readouterr().out
        assert (out / "summary.json").exists()
