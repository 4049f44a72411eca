"What is written in the native layout, read back."

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from rvos_nb.config import RVOSError
from rvos_nb.layout import (
    ANNOTATORS,
    davis_palette,
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
