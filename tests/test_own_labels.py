"Variants of labels that people have: where files lie, how they are called, what is missing."

import json
from pathlib import Path

import layouts
import numpy as np
import pytest
from layouts import COLOURS, N, SIZE, box, corners, ids, jpegs, track, union, write_frames
from PIL import Image
from rvos_nb.check import check_data, known_problems
from rvos_nb.config import Config, ConfigError, RVOSError
from rvos_nb.convert import convert_data
from rvos_nb.datasets import DATASETS, Reader, load_annotations
from rvos_nb.layout import write_ids
from rvos_nb.sources import load_splits


def table(root: Path, *rows: str) -> None:
    (root / "expressions.csv").write_text("\n".join(["video,object,expression", *rows]))


def write_masks(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for t, name in enumerate(names):
        write_ids(folder / name, ids(t))


def only(root: Path, split: str = "val"):
    "The one record."
    (record,) = load_annotations(root, split).values()
    return record


def test_one_video_without_a_folder_of_its_own(tmp_path):
    write_frames(tmp_path / "frames", jpegs())
    write_masks(tmp_path / "masks", [f"{t:05d}.png" for t in range(N)])
    table(tmp_path, "my clip,1,the box")
    found = load_annotations(tmp_path, "val")
    assert (found.split, found.format, list(found)) == ("all", "masks", ["my clip"])
    assert np.array_equal(found["my clip"].masks.mask(1, (1,)), track(1)[1])
    (tmp_path / "expressions.csv").write_text("object,expression\n1,the box\n")
    assert list(load_annotations(tmp_path, "val")) == [tmp_path.name]


def test_labelme_beside_frames_in_the_root(tmp_path):
    write_frames(tmp_path, jpegs())
    for t in (0, 2):  # the middle frame was not labelled
        points = np.reshape(corners(t, 2, 3), (-1, 2)).tolist()
        shape = {"label": "dog", "points": points, "shape_type": "polygon"}
        entry = {"shapes": [shape], "imageHeight": SIZE[0], "imageWidth": SIZE[1]}
        (tmp_path / f"{t:05d}.json").write_text(json.dumps(entry))
    table(tmp_path, ",dog,the dog")
    record = only(tmp_path)
    assert [record.masks.labelled(t) for t in range(N)] == [True, False, True]
    assert np.array_equal(record.masks.mask(2, (1,)), track(1)[2])
    assert check_data(tmp_path, quiet=True).empty


@pytest.mark.parametrize(
    "frames, masks",
    [
        (["frame_7.jpg", "frame_8.jpg", "frame_10.jpg"], ["m07.png", "m08.png", "m10.png"]),
        (["a.webp", "b.webp", "c.webp"], ["a.PNG", "b.PNG", "c.PNG"]),
        (["2.bmp", "10.bmp", "100.bmp"], ["2.png", "10.png", "100.png"]),
    ],
)
def test_masks_are_found_by_name_or_number(tmp_path, frames, masks):
    write_frames(tmp_path / "yard", frames)
    write_masks(tmp_path / "masks" / "yard", masks)
    table(tmp_path, "yard,1,the box")
    record = only(tmp_path)
    assert [f.name for f in record.frames] == frames
    for t in range(N):
        assert np.array_equal(record.masks.mask(t, (1,)), track(1)[t])


def test_masks_beside_their_frames(tmp_path):
    write_frames(tmp_path / "yard", jpegs())
    write_masks(tmp_path / "yard", [f"{t:05d}.png" for t in range(N)])
    table(tmp_path, "yard,2,the box")
    record = only(tmp_path)
    assert len(record.frames) == N and np.array_equal(record.masks.mask(0, (2,)), track(2)[0])


def test_masks_of_0_and_255_are_one_object(tmp_path):
    wanted = layouts.own_binary(tmp_path)
    for split, videos in wanted.items():
        for video, texts in videos.items():
            record = load_annotations(tmp_path, split)[video]
            for t, mask in enumerate(texts["the red box"]):
                assert np.array_equal(record.masks.mask(t, (1,)), mask)
                assert not record.masks.void(t).any() and record.masks.objects(t) == (1,)
    assert check_data(tmp_path, quiet=True).empty


def test_255_is_void_where_there_are_other_ids_or_a_palette(tmp_path):
    write_frames(tmp_path / "yard", jpegs())
    (tmp_path / "masks" / "yard").mkdir(parents=True)
    for t in range(N):
        grey = ids(t)
        grey[0] = 255
        Image.fromarray(grey).save(tmp_path / "masks" / "yard" / f"{t:05d}.png")
    table(tmp_path, "yard,1,the box")
    masks = only(tmp_path).masks
    assert masks.void(0)[0].all() and np.array_equal(masks.mask(0, (1,)), track(1)[0])
    for t in range(N):
        write_ids(tmp_path / "masks" / "yard" / f"{t:05d}.png", np.uint8(track(1)[t] * 255))
    masks = only(tmp_path).masks
    assert np.array_equal(masks.void(0), track(1)[0]) and masks.objects(0) == ()


def test_a_legend_numbers_names_that_no_expression_uses_last(tmp_path):
    layouts.painted(tmp_path)
    (tmp_path / "expressions.csv").write_text("video,object,expression\nyard,red,it\n")
    record = load_annotations(tmp_path, "train")["yard"]
    assert np.array_equal(record.masks.mask(0, (1,)), track(1)[0])  # red is 1, though blue < red
    assert record.masks.objects(0) == (1, 2)


@pytest.mark.parametrize(
    "name, text",
    [
        ("legend.json", json.dumps({"red": COLOURS[1], "blue": "#33ddff"})),
        ("legend.json", json.dumps({"#fa3253": "red", "#33ddff": "blue"})),
        ("legend.csv", "object,colour\nred,#fa3253\nblue,51 221 255\n"),
        ("legend.csv", "red,250,50,83\nblue,51,221,255\n"),
    ],
)
def test_legends(tmp_path, name, text):
    layouts.painted(tmp_path)
    (tmp_path / "labelmap.txt").unlink()
    (tmp_path / name).write_text(text)
    record = load_annotations(tmp_path, "val")["street"]
    said = {e.text: e.object_ids for e in record.expressions}
    assert np.array_equal(record.masks.mask(0, said["the red box"]), track(1)[0])


def test_a_colour_that_no_legend_has_is_named(tmp_path):
    layouts.painted(tmp_path)
    path = tmp_path / "masks" / "yard" / "00001.png"
    rgb = np.array(Image.open(path))
    rgb[5, 6] = (1, 2, 3)
    Image.fromarray(rgb).save(path)
    table = check_data(tmp_path, quiet=True)
    assert len(table) == 1 and "colour (1, 2, 3) at x 6, y 5" in table["problem"][0]


def test_coco_without_tracks_takes_categories(tmp_path):
    layouts.coco_frames(tmp_path)
    path = tmp_path / "annotations" / "instances_default.json"
    lists = json.loads(path.read_text())
    for entry in lists["annotations"]:
        del entry["attributes"]
    path.write_text(json.dumps(lists))
    record = load_annotations(tmp_path, "val")["street"]
    said = {e.text: e.object_ids for e in record.expressions}
    wanted = layouts.said(layouts.OVERLAPPING)
    assert np.array_equal(record.masks.mask(1, said["both boxes"]), wanted["both boxes"][1])


def test_cvat_for_images(tmp_path):
    write_frames(tmp_path / "images", jpegs())
    shapes = []
    for t in range(N):
        xtl, ytl, *_ = corners(t, 2, 3)
        area = f'xtl="{xtl}" ytl="{ytl}" xbr="{xtl + 14}" ybr="{ytl + 10}"'
        size = f'width="{SIZE[1]}" height="{SIZE[0]}"'
        frame = f'<image id="{t}" name="images/{t:05d}.jpg" {size}>'
        shapes.append(f'{frame}<box label="dog" {area}/><tag label="x"/></image>')
    (tmp_path / "annotations.xml").write_text(f"<annotations>{''.join(shapes)}</annotations>")
    table(tmp_path, "yard,dog,the dog")
    record = only(tmp_path)
    assert all(np.array_equal(record.masks.mask(t, (1,)), track(1)[t]) for t in range(N))


def test_cvat_polygons_of_unlike_points_are_not_guessed(tmp_path):
    layouts.cvat(tmp_path)
    path = tmp_path / "yard" / "annotations.xml"
    path.write_text(path.read_text().replace('points="', 'points="0,0;', 1))
    table = check_data(tmp_path, quiet=True)
    assert table["problem"].str.contains("polygons of unlike points").any()


def test_expressions_as_json(tmp_path):
    layouts.own_masks(tmp_path)
    (tmp_path / "expressions.csv").unlink()
    rows = [{"video": "yard", "object": [1, 2], "expression": "both", "kind": "count"}]
    rows += [{"video": "yard", "object": [], "expression": "a zebra", "id": "z"}]
    rows += [{"video": "street", "object": 2, "expression": "the blue one"}]
    (tmp_path / "expressions.json").write_text(json.dumps(rows))
    found = load_annotations(tmp_path, "val")
    said = {e.text: e for record in found.values() for e in record.expressions}
    assert said["both"].object_ids == (1, 2) and said["both"].kind == "count"
    assert said["a zebra"].object_ids == () and said["a zebra"].id == "z"
    both = union(track(1), track(2))[0]
    assert np.array_equal(found["yard"].masks.mask(0, (1, 2)), both)


SLIPS = {
    "a video that is not there": ("yart,1,the box", "no frames of a video 'yart'; is 'yard' meant"),
    "no object": ("yard,,the box", "write none where no object fits"),
    "no text": ("yard,1,", "an empty expression"),
    "a name that no label has": ("yard,7,the box", "object 7 .*is in no mask"),
    "a video without labels": ("lane,1,the box", "no labels of this video"),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_slips_in_the_table_are_told(tmp_path, slip):
    layouts.own_masks(tmp_path)
    write_frames(tmp_path / "frames" / "lane", jpegs())
    row, words = SLIPS[slip]
    table(tmp_path, "yard,1,the box", row)
    found = check_data(tmp_path, quiet=True)
    assert found["problem"].str.contains(words).any(), found.to_string()


def test_a_name_that_no_label_has_is_told_by_its_name(tmp_path):
    layouts.coco_frames(tmp_path)
    table(tmp_path, "yard,dgo,the dog")
    assert "(dgo) has expressions" in check_data(tmp_path, quiet=True)["problem"][0]


def test_two_kinds_of_labels_and_the_one_that_is_asked_for(tmp_path):
    layouts.coco_frames(tmp_path)
    layouts.cvat(tmp_path)
    assert load_annotations(tmp_path, "val").format == "coco-frames"
    assert load_annotations(tmp_path, "val", format="cvat").format == "cvat"
    with pytest.raises(ConfigError, match="expected one of .*labelme"):
        load_annotations(tmp_path, "val", format="label-me")
    with pytest.raises(RVOSError, match="no split"):
        load_annotations(tmp_path, "test", format="cvat")


# --- splits


def test_where_nothing_says_the_split_the_data_is_checked_once(tmp_path, capsys):
    layouts.own_masks(tmp_path / "data")
    layouts.write_table(tmp_path / "data", layouts.NUMBERS, column=False)
    assert check_data(tmp_path / "data").empty
    assert capsys.readouterr().out.count("videos") == 1
    with pytest.raises(RVOSError, match="nothing says which of its 2 videos .*--val-fraction"):
        load_splits(Config.preset("demo", root=str(tmp_path / "data")))
    out = convert_data(tmp_path / "data", tmp_path / "out", val_fraction=0.5)
    splits = load_splits(Config.preset("demo", root=str(out)))
    assert [len(splits[s]) for s in ("train", "val")] == [1, 1]


@pytest.mark.parametrize("form", ["lists", "folders", "column"])
def test_splits_of_ones_own(tmp_path, form):
    layouts.own_masks(tmp_path)
    if form == "lists":
        layouts.write_table(tmp_path, layouts.NUMBERS, column=False)
        (tmp_path / "train.txt").write_text("yard\n")
        (tmp_path / "val.txt").write_text("street\n")
    if form == "folders":
        layouts.write_table(tmp_path, layouts.NUMBERS, column=False)
        text = (tmp_path / "expressions.csv").read_text("utf-8-sig").splitlines()
        (tmp_path / "expressions.csv").unlink()
        for split, v in layouts.every_video():
            rows = [line for line in text[1:] if line.startswith(v)]
            for part in ("frames", "masks"):
                (tmp_path / split / part).mkdir(parents=True, exist_ok=True)
                (tmp_path / part / v).rename(tmp_path / split / part / v)
            (tmp_path / split / "expressions.csv").write_text("\n".join([text[0], *rows]))
    for split, v in layouts.every_video():
        found = load_annotations(tmp_path, split)
        assert (found.split, list(found)) == (split, [v])


@pytest.mark.parametrize("split", ["train", "val"])
def test_one_split_is_fine_to_check_and_not_enough_to_train(tmp_path, split):
    layouts.mevis(tmp_path)
    other = {"train": "valid_u", "val": "train"}[split]
    for path in (tmp_path / other).glob("*.json"):
        path.unlink()
    assert check_data(tmp_path, quiet=True).empty
    with pytest.raises(RVOSError, match=f"no split but '{split}'; training needs"):
        load_splits(Config.preset("demo", root=str(tmp_path)))


def test_known_problems_are_found_anew_when_a_reader_changes(tmp_path, monkeypatch):
    layouts.own_masks(tmp_path)
    assert known_problems(tmp_path).empty

    def read(root, split, problems):
        problems.add("yard", root, "a new rule")
        return DATASETS["masks"].read(root, split, problems)

    monkeypatch.setitem(DATASETS, "mine", Reader("mine", DATASETS["masks"].detect, read))
    assert set(known_problems(tmp_path)["problem"]) == {"a new rule"}


def test_box_is_what_the_tests_think():
    assert box(0, 2, 3).sum() == 140
