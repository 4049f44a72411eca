"""How well the backbone's own classifier points at objects, before anything is trained: writes
class_prior.csv. On the training videos alone (six frames of each), and on 60 copy-paste clips.

For each map of a frame that needs no training: AUC, the chance that a cell of the named object has
a higher value than one that is not of it (cells of stride 16, more than half covered), and on
copy-paste clips how often the named object's mean is above the other object's (`right_object`).
`mixture of classes` is the expression as a mixture of ImageNet's classes, `objectness` the logit of
the likeliest class whatever the expression: the two maps of ClassPrior. `mean of class names` says
what a cell shows in the words of its likely classes, and takes the cosine with the expression.

    RVOS_DAVIS=... RVOS_BACKBONE_WEIGHTS=... RVOS_TEXT_ENCODER=... python benchmarks/class_prior.py
"""

import tempfile
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from _common import real_parts
from tqdm.auto import tqdm

from rvos_nb.caches import normalise
from rvos_nb.config import Config
from rvos_nb.copy_paste import copy_paste_data
from rvos_nb.data import VideoRecord
from rvos_nb.pictures import read_picture
from rvos_nb.datasets import load_annotations
from rvos_nb.encoders import masked_mean
from rvos_nb.model import RVOSModel
from rvos_nb.parts import resize


def auc(values: np.ndarray, inside: np.ndarray) -> float:
    "The chance that a value inside is above one outside: the rank-sum statistic."
    ranks = pd.Series(values).rank().to_numpy()
    n, m = inside.sum(), (~inside).sum()
    return (ranks[inside].sum() - n * (n + 1) / 2) / (n * m)


@torch.inference_mode()
def maps_of(model: RVOSModel, frame: np.ndarray, texts: list[str]) -> dict[str, torch.Tensor]:
    "{map: [N,h,w] of stride 32}."
    tokens = model.tokenizer(texts, padding=True, return_tensors="pt")
    mask = tokens["attention_mask"]
    text = model.text(tokens["input_ids"], mask)
    features = model.encode_frames(normalise(torch.from_numpy(frame).permute(2, 0, 1))[None, None])
    cells = features["32"].movedim(2, -1)[0, 0]  # (h, w, C)
    likely = model.prior.classifier(cells).softmax(-1)  # (h, w, 1000)
    shown = F.normalize(likely @ model.prior.vectors, dim=-1)
    words = F.normalize(masked_mean(text, mask), dim=-1)
    last, objectness = features["32"][0], features["objectness"][0]  # (1, C, h, w)
    prior = model.prior.prior_maps(last, objectness, text, mask)  # (N, 6, h, w)
    return {
        "mean of class names": torch.einsum("hwd,nd->nhw", shown, words),
        "mixture of classes": prior[:, 1],
        "objectness": prior[:, 4],
    }


def frame_rows(model: RVOSModel, record: VideoRecord, t: int) -> list[dict]:
    "A row a map and expression of frame `t`."
    height, width = model.cfg.image_size
    cells = (width // 16, height // 16)
    image = cv2.resize(
        read_picture(record.frames[t]), (width, height), interpolation=cv2.INTER_AREA
    )
    covered = {}
    for o in record.object_ids():
        mask = record.masks.mask(t, (o,)).astype(np.float32)
        covered[(o,)] = cv2.resize(mask, cells, interpolation=cv2.INTER_AREA).ravel() > 0.5
    rows = []
    for name, maps in maps_of(model, image, [e.text for e in record.expressions]).items():
        fine = resize(maps[None], cells[::-1])[0].flatten(1).numpy()
        for e, values in zip(record.expressions, fine):
            inside = covered.get(e.object_ids)
            if inside is None or not inside.any():
                continue
            others = [c for o, c in covered.items() if o != e.object_ids and c.any()]
            best_other = max((values[c].mean() for c in others), default=np.nan)
            right = float(values[inside].mean() > best_other) if others else np.nan
            rows.append({"map": name, "AUC": auc(values, inside), "right_object": right})
    return rows


def main() -> None:
    "Measure, write the table."
    torch.set_num_threads(1)
    parts = real_parts()
    cfg = Config.preset("best", **parts)
    model = RVOSModel(cfg.model).eval()
    rows = []
    with tempfile.TemporaryDirectory() as tmp:
        plain = load_annotations(parts["root"], "train")
        size = cfg.model.image_size
        pasted = copy_paste_data(plain, Path(tmp) / "pasted", n=60, frames=2, size=size)
        sets = {"videos": (plain, 6), "copy-paste": (load_annotations(pasted, "train"), 1)}
        for name, (annotations, n) in sets.items():
            for record in tqdm(annotations.values(), desc=name):
                for t in np.linspace(0, len(record.frames) - 1, n).astype(int):
                    rows += [{"clips": name, **row} for row in frame_rows(model, record, int(t))]
    groups = pd.DataFrame(rows).groupby(["clips", "map"], sort=False)
    table = groups.agg(
        AUC=("AUC", "mean"), right_object=("right_object", "mean"), expressions=("AUC", "size")
    ).reset_index()
    table.to_csv(Path(__file__).with_suffix(".csv"), index=False, float_format="%.3f")
    print(table.round(3).to_string(index=False))


if __name__ == "__main__":
    main()
