"""How fast a large data set is indexed and checked, and how much memory that takes.

Writes Ref-YouTube-VOS, MeViS, RefCOCO and a table of one's own with 100,000 expressions each (empty
pictures where only names count), and sets of growing size for the check. Each measurement is a
process of its own. `python benchmarks/indexing.py`, then see benchmarks/indexing.csv.
"""

import argparse
import json
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
from PIL import Image
from pycocotools import mask as coco_mask
from rvos_nb.layout import write_ids

HERE = Path(__file__).resolve().parent
H, W = 480, 854


def frame_files(folder: Path, n: int) -> list[str]:
    "Empty files, whose names are all that indexing needs."
    folder.mkdir(parents=True)
    names = [f"{t:05d}" for t in range(n)]
    for name in names:
        (folder / f"{name}.jpg").touch()
    return names


def texts(n: int) -> list[str]:
    return [
        f"the {c} thing number {i} on the left" for i, c in zip(range(n), "red blue".split() * n)
    ]


def write_youtube(root: Path, videos: int, each: int) -> None:
    meta = {}
    for v in range(videos):
        names = frame_files(root / "train" / "JPEGImages" / f"v{v:05d}", 2)
        (root / "train" / "Annotations" / f"v{v:05d}").mkdir(parents=True)
        said = {str(i): {"exp": s, "obj_id": str(1 + i % 9)} for i, s in enumerate(texts(each))}
        meta[f"v{v:05d}"] = {"expressions": said, "frames": names}
    path = root / "meta_expressions" / "train" / "meta_expressions.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"videos": meta}))


def write_mevis(root: Path, videos: int, each: int) -> None:
    meta, masks = {}, {}
    blob = np.zeros((H, W), np.uint8)
    blob[100:300, 200:500] = 1
    runs = coco_mask.encode(np.asfortranarray(blob))["counts"].decode()
    for v in range(videos):
        names = frame_files(root / "train" / "JPEGImages" / f"v{v:05d}", 2)
        keys = range(9 * v, 9 * v + 9)
        said = {
            str(i): {"exp": s, "obj_id": [i % 9], "anno_id": [keys[i % 9]]}
            for i, s in enumerate(texts(each))
        }
        meta[f"v{v:05d}"] = {"expressions": said, "frames": names}
        masks |= {str(k): [{"size": [H, W], "counts": runs}, None] for k in keys}
    (root / "train" / "meta_expressions.json").write_text(json.dumps({"videos": meta}))
    (root / "train" / "mask_dict.json").write_text(json.dumps(masks))


def write_refcoco(root: Path, images: int, each: int) -> None:
    (root / "images").mkdir(parents=True)
    listed, things, refs = [], [], []
    for v in range(images):
        name = f"COCO_train2014_{v:012d}.jpg"
        (root / "images" / name).touch()
        listed.append({"id": v, "file_name": name, "height": H, "width": W})
        for k in range(each // 3):
            number = len(things)
            area = [[10.0, 10.0, 90.5, 10.0, 90.5, 60.0, 10.0, 60.0]]
            entry = {"id": number, "image_id": v, "category_id": 1, "iscrowd": 0}
            things.append(entry | {"segmentation": area})
            said = [{"sent": s, "raw": s, "sent_id": 0, "tokens": s.split()} for s in texts(3)]
            ref = {"ref_id": number, "image_id": v, "ann_id": number, "split": "train"}
            refs.append(ref | {"sentences": said})
    lists = {"images": listed, "annotations": things, "categories": [{"id": 1, "name": "thing"}]}
    (root / "instances.json").write_text(json.dumps(lists))
    (root / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))


def write_table(root: Path, videos: int, each: int) -> None:
    rows = ["video,object,expression,split"]
    for v in range(videos):
        frame_files(root / "frames" / f"v{v:05d}", 2)
        (root / "masks" / f"v{v:05d}").mkdir(parents=True)
        (root / "masks" / f"v{v:05d}" / "00000.png").touch()
        rows += [f"v{v:05d},{1 + i % 9},{s},train" for i, s in enumerate(texts(each))]
    (root / "expressions.csv").write_text("\n".join(rows))


def write_pictures(root: Path, videos: int, form: str) -> None:
    "Real frames and masks of 480p: ids as DAVIS has them, or run lengths as MeViS has them."
    rng = np.random.default_rng(0)
    meta, masks = {}, {}
    for v in range(videos):
        name, names = f"v{v:05d}", [f"{t:05d}" for t in range(10)]
        frames = root / "train" / "JPEGImages" / name
        frames.mkdir(parents=True)
        small = rng.integers(0, 255, (30, 54, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize((W, H), Image.BICUBIC)
        ids = np.zeros((H, W), np.uint8)
        ids[100:300, 200:500] = 1
        for t in names:
            image.save(frames / f"{t}.jpg", quality=90)
        said = {"0": {"exp": "the thing", "obj_id": "1"}}
        if form == "ids":
            (root / "train" / "Annotations" / name).mkdir(parents=True)
            for t in names:
                write_ids(root / "train" / "Annotations" / name / f"{t}.png", ids)
        else:
            found = coco_mask.encode(np.asfortranarray(ids))
            runs = {"size": [H, W], "counts": found["counts"].decode()}
            masks[str(v)] = [runs] * len(names)
            said["0"] = {"exp": "the thing", "obj_id": [1], "anno_id": [v]}
        meta[name] = {"expressions": said, "frames": names}
    top = root / "meta_expressions" / "train" if form == "ids" else root / "train"
    top.mkdir(parents=True, exist_ok=True)
    (top / "meta_expressions.json").write_text(json.dumps({"videos": meta}))
    if form != "ids":
        (top / "mask_dict.json").write_text(json.dumps(masks))


class Memory:
    "The most that this process has grown since, looked at a hundred times a second."

    def __init__(self):
        self.process = psutil.Process()
        self.before = self.peak = self.process.memory_info().rss
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()

    def watch(self) -> None:
        while not self.over.wait(0.01):
            self.peak = max(self.peak, self.process.memory_info().rss)

    def grown(self) -> int:
        self.over.set()
        self.thread.join()
        return round((self.peak - self.before) / 2**20)


def measure(job: str, root: Path) -> dict:
    "Seconds and peak memory of indexing or checking `root`, in this process."
    from rvos_nb.check import check_data
    from rvos_nb.datasets import load_annotations

    memory = Memory()
    start, cpu = time.perf_counter(), time.process_time()
    found = load_annotations(root, "train") if job == "index" else check_data(root, quiet=True)
    seconds = time.perf_counter() - start
    cpu = time.process_time() - cpu
    row = {"seconds": round(seconds, 2), "cpu_seconds": round(cpu, 2), "grown_mb": memory.grown()}
    if job == "index":
        return row | {
            "format": found.format,
            "expressions": sum(len(r.expressions) for r in found.values()),
        }
    return row | {"problems": len(found)}


def in_process(job: str, root: Path) -> dict:
    command = [sys.executable, __file__, "--job", job, "--root", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def read_seconds(root: Path) -> tuple[float, float]:
    "Megabytes of all files, and the seconds that reading them takes: the speed of the disk."
    start, size = time.perf_counter(), 0
    for path in sorted(root.rglob("*")):
        if path.is_file():
            size += len(path.read_bytes())
    return size / 1e6, time.perf_counter() - start


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        large = {
            "ref-youtube-vos": (write_youtube, 2500, 40),
            "mevis": (write_mevis, 2500, 40),
            "refcoco": (write_refcoco, 11112, 9),
            "masks": (write_table, 2500, 40),
        }
        for name, (write, videos, each) in large.items():
            root = Path(folder) / name
            write(root, videos, each)
            rows.append({"job": "index", "videos": videos} | in_process("index", root))
            print(rows[-1])
        for form in ("ids", "runs"):
            for videos in (20, 80, 320):
                root = Path(folder) / f"{form}-{videos}"
                write_pictures(root, videos, form)
                found = in_process("check", root)
                megabytes, _ = read_seconds(root)
                row = {"job": "check", "format": form, "videos": videos} | found
                row["frames_per_second"] = round(10 * videos / found["seconds"])
                row["megabytes"] = round(megabytes)
                rows.append(row | {"cores": os.cpu_count()})
                print(rows[-1])
    pd.DataFrame(rows).to_csv(HERE / "indexing.csv", index=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", choices=["index", "check"], default="")
    parser.add_argument("--root", type=Path)
    args = parser.parse_args()
    if args.job:
        print(json.dumps(measure(args.job, args.root)))
    else:
        main()
