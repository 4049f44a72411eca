"What is written in the native layout, read back; and folders that are taken."

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from rvos_nb.config import RVOSError
from rvos_nb.layout import (
    ANNOTATORS,
    already_made,
    davis_palette,
    move_into_place,
    write_clip,
    write_ids,
    write_texts,
)

IDS = np.zeros((20, 30), np.uint8)
IDS[5:10, 5:10] = 1
IDS[12:, 8:] = 200
IDS[:2] = 255


def test_the_palette_is_pascal_vocs():
    palette = davis_palette()
    assert len(palette) == 768
    assert palette[:15] == (0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, 0, 0, 128)
    assert palette[-3:] == (224, 224, 192)  # void
    assert len(set(zip(palette[::3], palette[1::3], palette[2::3]))) == 256


def test_ids_come_back_as_they_were(tmp_path):
    write_ids(tmp_path / "a.png", IDS)
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "P"
        assert image.getpalette()[:15] == list(davis_palette()[:15])
        assert np.array_equal(np.array(image), IDS)


@pytest.mark.parametrize("ids", [IDS.astype(int), IDS / 255, IDS[None], np.zeros((2, 2, 3), "u1")])
def test_what_is_no_id_map_is_refused(tmp_path, ids):
    with pytest.raises(RVOSError, match=r"a\.png: ids are .*expected uint8 \[H, W\]"):
        write_ids(tmp_path / "a.png", ids)
    assert not (tmp_path / "a.png").exists()


def test_a_clip_is_two_folders_of_numbered_files(tmp_path):
    frames = np.full((3, 20, 30, 3), 90, np.uint8)
    write_clip(tmp_path, "v", frames, np.stack([IDS] * 3))
    images = sorted((tmp_path / "JPEGImages" / "480p" / "v").iterdir())
    masks = sorted((tmp_path / "Annotations" / "480p" / "v").iterdir())
    assert [p.name for p in images] == ["00000.jpg", "00001.jpg", "00002.jpg"]
    assert [p.name for p in masks] == ["00000.png", "00001.png", "00002.png"]
    with Image.open(images[1]) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (30, 20))
    assert np.array_equal(np.array(Image.open(masks[2])), IDS)


def test_a_clip_has_a_mask_for_each_frame(tmp_path):
    with pytest.raises(ValueError):
        write_clip(tmp_path, "v", np.zeros((3, 20, 30, 3), np.uint8), np.stack([IDS] * 2))


def test_a_clip_is_never_written_over_another(tmp_path):
    frames = np.zeros((1, 20, 30, 3), np.uint8)
    write_clip(tmp_path, "v", frames, IDS[None])
    with pytest.raises(FileExistsError):
        write_clip(tmp_path, "v", frames, IDS[None])


def test_texts_and_their_table(tmp_path):
    rows = [("v", i, who, "size", f'{who} of "{i}", a') for i in (1, 2) for who in ANNOTATORS]
    write_texts(tmp_path, iter(rows))
    table = pd.read_csv(tmp_path / "expression_kinds.csv")
    assert list(table.columns) == ["video_id", "object_id", "annotator", "kind", "expression"]
    assert list(table.itertuples(index=False, name=None)) == rows
    for who in ANNOTATORS:
        text = (tmp_path / "davis_text_annotations" / f"Davis17_{who}.txt").read_text()
        assert text == "".join(f'v {i} "{who} of "{i}", a"\n' for i in (1, 2))


def test_latin1_is_really_used(tmp_path):
    write_texts(tmp_path, [("v", 1, who, "", "caf\u00e9") for who in ("annot1", "annot2")])
    folder = tmp_path / "davis_text_annotations"
    assert (folder / "Davis17_annot1.txt").read_bytes() == b'v 1 "caf\xc3\xa9"\n'
    assert (folder / "Davis17_annot2.txt").read_bytes() == b'v 1 "caf\xe9"\n'


# --- taken folders

SETTINGS = {"seed": 0, "size": [96, 160]}


def made(folder, settings=SETTINGS):
    folder.mkdir()
    (folder / "shapes.json").write_text(json.dumps(settings))
    return folder


def test_taken_folders(tmp_path):
    assert not already_made(tmp_path / "absent", SETTINGS, "shapes")
    (tmp_path / "empty").mkdir()
    assert not already_made(tmp_path / "empty", SETTINGS, "shapes")
    root = made(tmp_path / "made")
    assert already_made(root, SETTINGS, "shapes")
    with pytest.raises(RVOSError, match="seed = 0 instead of 1"):
        already_made(root, SETTINGS | {"seed": 1}, "shapes")
    with pytest.raises(RVOSError, match="new = None instead of 5"):
        already_made(root, SETTINGS | {"new": 5}, "shapes")
    with pytest.raises(RVOSError, match="no copy-paste data"):
        already_made(root, SETTINGS, "copy-paste")
    for damage in ("{", "[]"):
        (root / "shapes.json").write_text(damage)
        with pytest.raises(RVOSError, match="shapes.json is damaged"):
            already_made(root, SETTINGS, "shapes")


def test_what_belongs_to_somebody_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    for root in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(RVOSError, match="no shapes data: name a new or an empty folder"):
            already_made(root, SETTINGS, "shapes")
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_a_finished_folder_replaces_nothing_but_an_empty_one(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("new", "empty"):
        move_into_place(made(tmp_path / "tmp"), tmp_path / name, SETTINGS, "shapes")
        assert already_made(tmp_path / name, SETTINGS, "shapes")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(RVOSError, match="no shapes data"):
        move_into_place(made(tmp_path / "tmp"), tmp_path / "other", SETTINGS, "shapes")
    assert [p.name for p in (tmp_path / "other").iterdir()] == ["thesis.txt"]


def test_losing_the_race_leaves_the_winners_data(tmp_path):
    root = made(tmp_path / "root")
    (root / "winner").touch()
    move_into_place(made(tmp_path / "tmp"), root, SETTINGS, "shapes")
    assert (root / "winner").exists() and (tmp_path / "tmp").exists()
    with pytest.raises(RVOSError, match="seed = 0 instead of 7"):
        move_into_place(tmp_path / "tmp", root, SETTINGS | {"seed": 7}, "shapes")


def test_of_many_at_once_one_wins(tmp_path):
    barrier = threading.Barrier(8)

    def make(number):
        tmp = made(tmp_path / f"tmp{number}")
        (tmp / str(number)).touch()
        barrier.wait()
        move_into_place(tmp, tmp_path / "root", SETTINGS, "shapes")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(make, range(8)))
    assert len([p for p in (tmp_path / "root").iterdir() if p.name.isdigit()]) == 1
    assert len(list(tmp_path.glob("tmp*"))) == 7
