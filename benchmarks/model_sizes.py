"""How large are the models of others? Writes model_sizes.csv: parameters and megabytes of each,
built without memory (torch's device "meta") from the dimensions that transformers' documentation
and conversion scripts give; nothing is downloaded.

`--run NAME FRAMES` gives one model random weights of that size on the CPU, tracks a box through
made-up frames of 480x854 with the session of 58_tracking, and adds peak memory and seconds a frame.

    python benchmarks/model_sizes.py [--run sam2.1-tiny 24]
"""

import argparse
import resource
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import transformers as tr

from rvos_nb.detectors import Found
from rvos_nb.pretrained import WEIGHTS
from rvos_nb.tracking import Sam2Tracker

PATH = Path(__file__).with_suffix(".csv")
WIDE = dict(num_attention_heads_per_stage=[2, 4, 8, 16])
HIERA = {  # SAM 2.1's picture encoders: first width, what else differs from the smallest
    "tiny": (96, {}),
    "small": (96, dict(blocks_per_stage=[1, 2, 11, 2], global_attention_blocks=[7, 10, 13])),
    "base-plus": (
        112,
        WIDE
        | dict(blocks_per_stage=[2, 3, 16, 3], global_attention_blocks=[12, 16, 20])
        | dict(window_positional_embedding_background_size=[14, 14]),
    ),
    "large": (
        144,
        WIDE
        | dict(blocks_per_stage=[2, 6, 36, 4], global_attention_blocks=[23, 33, 43])
        | dict(window_size_per_stage=[8, 4, 16, 8]),
    ),
}


def sam2(size: str) -> tr.Sam2VideoModel:
    width, how = HIERA[size]
    widths = [width * 2**i for i in range(4)]
    encoder = tr.Sam2HieraDetConfig(hidden_size=width, embed_dim_per_stage=widths, **how)
    vision = tr.Sam2VisionConfig(backbone_config=encoder, backbone_channel_list=widths[::-1])
    more = dict(enable_temporal_pos_encoding_for_object_pointers=True)
    more |= dict(enable_occlusion_spatial_embedding=True)
    return tr.Sam2VideoModel(tr.Sam2VideoConfig(vision_config=vision, **more))


def clipseg() -> tr.CLIPSegForImageSegmentation:
    how = dict(vision_config=dict(patch_size=16), use_complex_transposed_convolution=True)
    return tr.CLIPSegForImageSegmentation(tr.CLIPSegConfig(**how))


def owlv2() -> tr.Owlv2ForObjectDetection:
    return tr.Owlv2ForObjectDetection(tr.Owlv2Config(vision_config=dict(image_size=960)))


MODELS = {
    "clipseg": clipseg,
    "sam3": lambda: tr.Sam3VideoModel(tr.Sam3VideoConfig()),
    "grounding-dino": lambda: tr.GroundingDinoForObjectDetection(tr.GroundingDinoConfig()),
    "mm-grounding-dino": lambda: tr.MMGroundingDinoForObjectDetection(tr.MMGroundingDinoConfig()),
    "owlv2": owlv2,
    **{f"sam2.1-{size}": lambda size=size: sam2(size) for size in HIERA},
}


def measured() -> pd.DataFrame:
    "A row a model; `listed`: the megabytes in the table of 52_pretrained."
    rows = []
    for name, make in MODELS.items():
        with torch.device("meta"):
            n = sum(p.numel() for p in make().parameters())
        megabytes = {"MB": 4 * n / 1e6, "listed": WEIGHTS[name].megabytes}
        rows.append({"model": name, "parameters": n, **megabytes})
    return pd.DataFrame(rows)


def run(name: str, frames: int) -> dict:
    "Peak memory of the process in MB, before and after, and seconds a frame; random weights."
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tracker = Sam2Tracker.__new__(Sam2Tracker)  # as `Sam2Tracker(name)`, without the hub
    tracker.name, tracker.device, tracker.model = name, torch.device("cpu"), MODELS[name]().eval()
    size = {"height": 1024, "width": 1024}
    pixels = tr.Sam2ImageProcessor(size=size), tr.Sam2VideoVideoProcessor(size=size)
    tracker.processor = tr.Sam2VideoProcessor(*pixels)
    session = tracker.start([Found(0.9, (100, 100, 300, 300))])
    rng, peaks, start = np.random.default_rng(0), [], time.monotonic()
    for t in range(frames):
        session.step(rng.integers(0, 256, (480, 854, 3), np.uint8))
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        print(f"frame {t}: {peaks[-1]:.0f} MB", flush=True)
    seconds = (time.monotonic() - start) / frames
    half = peaks[frames // 2 - 1]
    return {"frames": frames, "peak_half": half, "peak": peaks[-1], "seconds_a_frame": seconds}


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("--run", nargs=2, metavar=("NAME", "FRAMES"))
    args = p.parse_args()
    table = measured()
    if PATH.exists():
        kept = pd.read_csv(PATH).reindex(
            columns=["model", "frames", "peak_half", "peak", "seconds_a_frame"]
        )
        table = table.merge(kept, how="left", on="model")
    if args.run:
        name, frames = args.run[0], int(args.run[1])
        for key, value in run(name, frames).items():
            table.loc[table.model == name, key] = value
    table.to_csv(PATH, index=False, float_format="%.1f")
    print(table.round(1).to_string(index=False))


if __name__ == "__main__":
    main()
