"""How well the backbone's own classifier points at objects, before anything is trained: writes names.csv. On the training videos alone (six frames of each), and on 60 clips composed of them.

For each map of a frame that needs no training: AUC, the chance that a cell of the named object has a higher value than one that is not of it (cells of stride 16, more than half covered), and on composed clips how often the named object's
mean is above the other object's (`right object`). `mean of names` says what a cell shows in the words of its likely classes, and takes the cosine with the sentence; the other two are those of `Names` (06_model): the sentence as a mixture of
classes, and the logit of the likeliest class whatever the sentence.

    RVOS_DAVIS=... RVOS_BACKBONE_WEIGHTS=... RVOS_TEXT_ENCODER=... python benchmarks/names.py
"""
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from ablation import REAL_PARTS
from rvos_nb.core import Config
from rvos_nb.data import compose_data, load_annotations, load_tokenizer, read_pair
from rvos_nb.draw import normalise
from rvos_nb.model import RVOSModel, mean_vector
from tqdm.auto import tqdm


def auc(values: np.ndarray, inside: np.ndarray) -> float:
    "The chance that a value inside is above one outside: the rank-sum statistic."
    ranks = pd.Series(values).rank().to_numpy()
    n, m = inside.sum(), (~inside).sum()
    return (ranks[inside].sum() - n * (n + 1) / 2) / (n * m)


@torch.inference_mode()
def maps_of(model: RVOSModel, frame: np.ndarray, text: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
    "{map: [N,h,w] of stride 32}."
    seen = model.look(normalise(torch.from_numpy(frame).permute(2, 0, 1))[None, None])
    likely = model.names.classifier(seen[32].movedim(2, -1)).softmax(-1)[0, 0]  # (h, w, 1000)
    shown, hints = F.normalize(likely @ model.names.vectors, dim=-1), model.names.compare(seen[32], seen["surest"], text, mask)[:, 0]
    return {"mean of names": torch.einsum("hwd,nd->nhw", shown, mean_vector(text, mask)), "mixture of classes": hints[:, 1], "likeliest class": hints[:, 4]}


def main() -> None:
    torch.set_num_threads(1)
    parts = REAL_PARTS()
    model = RVOSModel(Config.preset("best", **parts)).eval()
    (H, W), tokens, rows = model.cfg.image_size, load_tokenizer(parts["text_encoder"]), []
    with tempfile.TemporaryDirectory() as tmp:
        plain = load_annotations(parts["data"], "train")
        composed = load_annotations(compose_data(plain, Path(tmp) / "composed", n=60, frames=2, size=(H, W)), "train")
        for name, annotations, frames in (("videos", plain, 6), ("composed", composed, 1)):
            for video, a in tqdm(annotations.items(), desc=name):
                sentences = tokens([e["expression"] for e in a["expressions"]], padding=True, return_tensors="pt")
                with torch.inference_mode(): text = model.text(sentences["input_ids"], sentences["attention_mask"])
                for t in np.linspace(0, len(a["frames"]) - 1, frames).astype(int):
                    frame, ids = read_pair(a["frames"][t], a["masks"][t], (H, W))
                    covered = {o: cv2.resize((ids == o).astype(np.float32), (W // 16, H // 16), interpolation=cv2.INTER_AREA).ravel() > 0.5 for o in np.unique(ids) if 0 < o < 255}
                    for kind, values in maps_of(model, frame, text, sentences["attention_mask"]).items():
                        fine = F.interpolate(values[None], size=(H // 16, W // 16), mode="bilinear")[0].flatten(1).numpy()
                        for e, v in zip(a["expressions"], fine):
                            inside, others = covered.get(e["object_id"]), [c for o, c in covered.items() if o != e["object_id"] and c.any()]
                            if inside is None or not inside.any(): continue
                            rows.append({"clips": name, "map": kind, "AUC": auc(v, inside), "right object": float(v[inside].mean() > max(v[c].mean() for c in others)) if others else np.nan})
    table = pd.DataFrame(rows).groupby(["clips", "map"], sort=False).agg(AUC=("AUC", "mean"), right_object=("right object", "mean"), sentences=("AUC", "size")).reset_index()
    table.to_csv(Path(__file__).with_suffix(".csv"), index=False, float_format="%.3f")
    print(table.round(3).to_string(index=False))


if __name__ == "__main__": main()
