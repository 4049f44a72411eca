"Small data sets in the layouts that others document, with the masks that each expression means."

import base64
import csv
import io
import json
import pickle
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask
from rvos_nb.layout import write_ids
from rvos_nb.predictions import FramePrediction

SIZE, N = (32, 48), 3
VIDEOS = {"train": ("yard",), "val": ("street",)}
Truth = dict[str, dict[str, dict[str, list[np.ndarray]]]]  # split, video, text: a mask a frame


def box(t: int, top: int, left: int, h: int = 10, w: int = 14) -> np.ndarray:
    "A rectangle that moves right by 2 pixels a frame."
    mask = np.zeros(SIZE, bool)
    mask[top : top + h, left + 2 * t : left + 2 * t + w] = True
    return mask


def corners(t: int, top: int, left: int, h: int = 10, w: int = 14) -> list[float]:
    "The same as a polygon x, y, x, y, ..."
    x, y = left + 2 * t, top
    return [x, y, x + w, y, x + w, y + h, x, y + h]


PLACES = {1: (2, 3), 2: (16, 20)}  # object: top, left; the second one leaves before the last frame
OVERLAPPING = {1: (2, 3), 2: (8, 10)}
EMPTY = np.zeros(SIZE, bool)


def track(o: int, places=PLACES) -> list[np.ndarray]:
    return [EMPTY if o == 2 and t == N - 1 else box(t, *places[o]) for t in range(N)]


def shown(t: int) -> list[int]:
    "The objects that frame `t` shows."
    return [1] if t == N - 1 else [1, 2]


def write_frames(folder: Path, names: list[str], seed: int = 0) -> None:
    "Noise with the objects in two colours, so that training has something to learn."
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for t, name in enumerate(names):
        frame = rng.integers(60, 90, (*SIZE, 3), dtype=np.uint8)
        for o, colour in ((1, (220, 40, 40)), (2, (40, 60, 220))):
            frame[track(o)[t % N]] = colour
        Image.fromarray(frame).save(folder / name)


def jpegs() -> list[str]:
    return [f"{t:05d}.jpg" for t in range(N)]


def ids(t: int) -> np.ndarray:
    found = np.zeros(SIZE, np.uint8)
    for o in PLACES:
        found[track(o)[t]] = o
    return found


def rle(mask: np.ndarray, compressed: bool = True) -> dict:
    found = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    if compressed:
        return {"size": list(SIZE), "counts": found["counts"].decode()}
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat.astype(int), [2]])))
    counts = np.diff(np.concatenate([[0], edges])).tolist()
    return {"size": list(SIZE), "counts": counts}


def union(*tracks: list[np.ndarray]) -> list[np.ndarray]:
    return [np.any(masks, axis=0) for masks in zip(*tracks)]


def said(places=PLACES) -> dict[str, list[np.ndarray]]:
    "What each expression of a video means."
    one, two = track(1, places), track(2, places)
    return {"the red box": one, "the blue box": two, "both boxes": union(one, two)} | {
        "a zebra": [EMPTY] * N
    }


OBJECTS = {"the red box": [1], "the blue box": [2], "both boxes": [1, 2], "a zebra": []}


def truth(places=PLACES) -> Truth:
    return {split: {v: said(places) for v in videos} for split, videos in VIDEOS.items()}


def every_video():
    return [(split, v) for split, videos in VIDEOS.items() for v in videos]


class TrueMasks:
    "A source of masks that knows the truth."

    def frames(self, record):
        for t in range(len(record.frames)):
            masks = [record.masks.mask(t, e.object_ids) for e in record.expressions]
            yield FramePrediction(np.stack(masks))


# --- the field's data sets


def ref_youtube_vos(root: Path) -> Truth:
    names = {"train": "train", "val": "valid"}
    for split, v in every_video():
        name = names[split]
        write_frames(root / name / "JPEGImages" / v, jpegs())
        (root / name / "Annotations" / v).mkdir(parents=True)
        for t in range(N):
            write_ids(root / name / "Annotations" / v / f"{t:05d}.png", ids(t))
        texts = ["the red box", "the blue box"]
        expressions = {
            str(i): {"exp": s, "obj_id": str(OBJECTS[s][0])} for i, s in enumerate(texts)
        }
        frames = [f"{t:05d}" for t in range(N)]
        meta = {"videos": {v: {"expressions": expressions, "frames": frames}}}
        path = root / "meta_expressions" / name / "meta_expressions.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(meta))
    (root / "train" / "meta.json").write_text("{}")
    kept = ("the red box", "the blue box")
    return {s: {v: {k: m[k] for k in kept} for v, m in d.items()} for s, d in truth().items()}


def hidden_youtube_vos(root: Path) -> None:
    "A valid set without masks, whose list holds the videos of test, too."
    for v in ("street", "secret"):
        write_frames(root / "valid" / "JPEGImages" / v, jpegs())
    frames = [f"{t:05d}" for t in range(N)]
    entry = {"expressions": {"0": {"exp": "a box"}, "1": {"exp": "the other"}}, "frames": frames}
    for name, videos in (("valid", ("street", "secret")), ("test", ("secret",))):
        path = root / "meta_expressions" / name / "meta_expressions.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"videos": dict.fromkeys(videos, entry)}))


def mevis(root: Path) -> Truth:
    "Run lengths of objects that overlap; objects are counted from 0, annotations over all videos."
    names, key = {"train": "train", "val": "valid_u"}, 0
    for split, v in every_video():
        folder = root / names[split]
        write_frames(folder / "JPEGImages" / v, jpegs())
        keys = {1: key, 2: key + 1}
        key += 2
        masks = {
            str(keys[o]): [rle(m) if m.any() else None for m in track(o, OVERLAPPING)] for o in keys
        }
        expressions = {
            str(i): {"exp": s, "obj_id": [o - 1 for o in os], "anno_id": [keys[o] for o in os]}
            for i, (s, os) in enumerate(OBJECTS.items())
        }
        frames = [f"{t:05d}" for t in range(N)]
        meta = {"videos": {v: {"expressions": expressions, "frames": frames}}}
        (folder / "meta_expressions.json").write_text(json.dumps(meta))
        (folder / "mask_dict.json").write_text(json.dumps(masks))
    return truth(OVERLAPPING)


def _instances(images: dict[int, str], tracks: bool = False) -> dict:
    "COCO's lists for images of frame 0; a polygon, compressed and plain run lengths, a crowd."
    annotations, number = [], 100
    for image in images:
        forms = [[corners(0, *PLACES[1])], rle(track(2)[0])]
        for category, form in zip((3, 7), forms):
            entry = {"id": number, "image_id": image, "category_id": category, "iscrowd": 0}
            annotations.append(entry | {"segmentation": form, "area": 1, "bbox": [0, 0, 1, 1]})
            number += 1
        crowd = {"id": number, "image_id": image, "category_id": 3, "iscrowd": 1}
        annotations.append(crowd | {"segmentation": rle(CROWD, compressed=False)})
        number += 1
    h, w = SIZE
    return {
        "info": {"description": "made by a test"},
        "images": [
            {"id": image, "file_name": name, "height": h, "width": w}
            for image, name in images.items()
        ],
        "annotations": annotations,
        "categories": [{"id": 3, "name": "red box"}, {"id": 7, "name": "blue box"}],
    }


CROWD = box(0, 20, 2, 8, 12)


def coco(root: Path) -> Truth:
    found = {}
    (root / "annotations").mkdir(parents=True)
    for split, first in (("train", 1), ("val", 11)):
        images = {first: f"{first:012d}.jpg", first + 1: f"{first + 1:012d}.jpg"}
        for name in images.values():
            write_frames(root / "images" / split, [name], seed=first)
        path = root / "annotations" / f"instances_{split}.json"
        path.write_text(json.dumps(_instances(images)))
        texts = {"red box": [track(1)[0]], "blue box": [track(2)[0]]}
        found[split] = {Path(name).stem: texts for name in images.values()}
    return found


def refcoco(root: Path, form: str = "p") -> Truth:
    root.mkdir(parents=True, exist_ok=True)
    images = {5: "COCO_train2014_000000000005.jpg", 6: "COCO_train2014_000000000006.jpg"}
    write_frames(root / "images" / "train2014", list(images.values()))
    instances = _instances(images)
    (root / "instances.json").write_text(json.dumps(instances))
    refs, found = [], {"train": {}, "val": {}}
    for split, image in (("train", 5), ("val", 6)):
        things = [a["id"] for a in instances["annotations"] if a["image_id"] == image][:2]
        texts = {"the red box": things[:1], "the blue box": things[1:], "both boxes": things}
        for text, names in (texts | {"a zebra": [-1]}).items():
            sentence = {"sent": text, "raw": text.title(), "tokens": text.split(), "sent_id": 0}
            ref = {"ref_id": len(refs), "image_id": image, "split": split, "category_id": 3}
            one = names[0] if len(names) == 1 else names
            refs.append(ref | {"ann_id": one, "sentences": [sentence], "file_name": "ignored"})
        first = {k: [m[0]] for k, m in said().items()}
        found[split][Path(images[image]).stem] = first
    path = root / f"refs(unc).{form}"
    if form == "p":
        path.write_bytes(pickle.dumps(refs, protocol=0))
    elif form == "json":
        path.write_text(json.dumps(refs))
    else:
        import pandas as pd

        lists = [ref | {"ann_id": np.atleast_1d(ref["ann_id"]).tolist()} for ref in refs]
        pd.DataFrame(lists).to_parquet(path)
    return found


# --- labels of one's own


def write_table(root: Path, names: dict[int, str], column: bool = True) -> None:
    "expressions.csv; objects are called as `names` says."
    rows = [["Video", "Object", "Expression", "Split"][: 3 + column]]
    for split, v in every_video():
        for text, objects in OBJECTS.items():
            called = ";".join(names[o] for o in objects) or "none"
            rows.append([v, called, text, split][: 3 + column])
    with open(root / "expressions.csv", "w", newline="", encoding="utf-8-sig") as f:
        csv.writer(f).writerows(rows)


NUMBERS = {1: "1", 2: "2"}
ODD_NAMES = ["img 1.png", "img 2.png", "img 10.png"]  # natural order is not that of the letters


def own_masks(root: Path) -> Truth:
    for _, v in every_video():
        write_frames(root / "frames" / v, ODD_NAMES)
        (root / "masks" / v).mkdir(parents=True)
        for t, name in enumerate(ODD_NAMES):
            write_ids(root / "masks" / v / f"{Path(name).stem}.png", ids(t))
    write_table(root, NUMBERS)
    return truth()


def own_binary(root: Path) -> Truth:
    "One object, 0 and 255, frames as .JPG and .webp in folders without a top."
    names = {"yard": ["a1.JPG", "a2.JPG", "a3.JPG"], "street": ["b1.webp", "b2.webp", "b3.webp"]}
    rows = ["video;object;expression;split"]
    for split, v in every_video():
        write_frames(root / v, names[v])
        (root / "masks" / v).mkdir(parents=True)
        for t, name in enumerate(names[v]):
            mask = Image.fromarray(track(1)[t].astype(np.uint8) * 255)
            mask.save(root / "masks" / v / f"{Path(name).stem}.png")
        rows.append(f"{v};1;the red box;{split}")
    (root / "expressions.csv").write_text("\n".join(rows))
    return {s: {v: {"the red box": track(1)} for v in videos} for s, videos in VIDEOS.items()}


COLOURS = {1: (250, 50, 83), 2: (51, 221, 255)}


def painted(root: Path) -> Truth:
    for _, v in every_video():
        write_frames(root / "images" / v, jpegs())
        (root / "masks" / v).mkdir(parents=True)
        for t in range(N):
            rgb = np.zeros((*SIZE, 3), np.uint8)
            for o, colour in COLOURS.items():
                rgb[track(o)[t]] = colour
            Image.fromarray(rgb).save(root / "masks" / v / f"{t:05d}.png")
    lines = ["# label:color_rgb:parts:actions", "background:0,0,0::"]
    lines += [f"{name}:{','.join(map(str, COLOURS[o]))}::" for o, name in CALLED.items()]
    (root / "labelmap.txt").write_text("\n".join(lines))
    write_table(root, CALLED)
    return truth()


CALLED = {1: "red", 2: "blue"}


def coco_frames(root: Path) -> Truth:
    "One COCO file for the frames of all videos; what is one thing says `track_id`."
    images, annotations = [], []
    for k, (_, v) in enumerate(every_video()):
        write_frames(root / v, jpegs())
        for t in range(N):
            number = 10 * k + t
            entry = {"id": number, "file_name": f"{v}/{t:05d}.jpg"}
            images.append(entry | {"height": SIZE[0], "width": SIZE[1]})
            for o in shown(t):
                area = [corners(t, *OVERLAPPING[o])] if o == 1 else rle(track(o, OVERLAPPING)[t])
                entry = {"id": len(annotations), "image_id": number, "category_id": o}
                annotations.append(entry | {"segmentation": area, "attributes": {"track_id": o}})
    categories = [{"id": o, "name": name} for o, name in CALLED.items()]
    lists = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_default.json").write_text(json.dumps(lists))
    write_table(root, CALLED)
    return truth(OVERLAPPING)


def _png(mask: np.ndarray) -> str:
    data = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


def labelme(root: Path) -> Truth:
    "A JSON beside each frame; a polygon with a group, and a mask in its box."
    for _, v in every_video():
        write_frames(root / v, jpegs())
        for t in range(N):
            shapes = []
            for o in shown(t):
                points = np.reshape(corners(t, *OVERLAPPING[o]), (-1, 2)).tolist()
                shape = {"label": "box", "group_id": o, "shape_type": "polygon", "points": points}
                if o == 2:
                    ys, xs = np.nonzero(track(o, OVERLAPPING)[t])
                    crop = track(o, OVERLAPPING)[t][
                        ys.min() : ys.max() + 1, xs.min() : xs.max() + 1
                    ]
                    ends = [[xs.min().item(), ys.min().item()], [xs.max().item(), ys.max().item()]]
                    shape |= {"shape_type": "mask", "points": ends, "mask": _png(crop)}
                shapes.append(shape)
            shapes.append({"label": "dot", "shape_type": "point", "points": [[1, 1]]})
            entry = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imageData": None}
            entry |= {"imagePath": f"{t:05d}.jpg", "imageHeight": SIZE[0], "imageWidth": SIZE[1]}
            (root / v / f"{t:05d}.json").write_text(json.dumps(entry))
    write_table(root, {1: "box 1", 2: "box 2"})
    return truth(OVERLAPPING)


def cvat(root: Path) -> Truth:
    "A track that CVAT moves between two keyframes, and a mask with run lengths along the rows."
    for _, v in every_video():
        write_frames(root / v, [f"frame_{t:06d}.PNG" for t in range(N)])
        lines = ["<?xml version='1.0' encoding='utf-8'?>", "<annotations><version>1.1</version>"]
        lines.append('<track id="0" label="red" source="manual">')
        for t in (0, N - 1):
            xy = np.reshape(corners(t, *OVERLAPPING[1]), (-1, 2))
            points = ";".join(f"{x:.2f},{y:.2f}" for x, y in xy)
            lines.append(f'<polygon frame="{t}" keyframe="1" outside="0" points="{points}"/>')
        lines += ["</track>", '<track id="1" label="blue" source="manual">']
        for t in range(N):
            mask = track(2, OVERLAPPING)[t] if t < N - 1 else track(2, OVERLAPPING)[t - 1]
            ys, xs = np.nonzero(mask)
            crop = mask[ys.min() : ys.max() + 1, xs.min() - 1 : xs.max() + 1]
            edges = np.flatnonzero(np.diff(np.concatenate([[0], crop.ravel(), [2]])))
            runs = ", ".join(map(str, np.diff(np.concatenate([[0], edges])).tolist()))
            where = f'left="{xs.min() - 1}" top="{ys.min()}"'
            where += f' width="{crop.shape[1]}" height="{crop.shape[0]}"'
            outside = int(t == N - 1)
            lines.append(f'<mask frame="{t}" outside="{outside}" rle="{runs}" {where}/>')
        lines += ["</track>", "</annotations>"]
        (root / v / "annotations.xml").write_text("\n".join(lines))
    write_table(root, CALLED)
    return truth(OVERLAPPING)


LAYOUTS = {
    "ref-youtube-vos": ref_youtube_vos,
    "mevis": mevis,
    "coco": coco,
    "refcoco": refcoco,
    "masks": own_masks,
    "painted": painted,
    "coco-frames": coco_frames,
    "labelme": labelme,
    "cvat": cvat,
}
