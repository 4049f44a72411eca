"""How long is a frame change in the picker, on one core? Writes picker_frames.csv: milliseconds
from the change of the frame slider to the new picture, strip and status line; the browser is not
counted. `cpu_ms` is the process's own time, which other programs on the machine do not lengthen;
`wall_ms` is what the clock said.

A made-up video of 60 frames, as JPEG files with palette masks of five objects, and an expression
that means all five; each frame is drawn for the first time, as prediction and truth together.

    python benchmarks/picker_frames.py
"""

import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch

from rvos_nb.data import Expression, IdMasks, VideoRecord
from rvos_nb.draw import save_image
from rvos_nb.layout import write_ids
from rvos_nb.picker import VideoPicker
from rvos_nb.segmenter import FrameMasks

PATH = Path(__file__).with_suffix(".csv")
FRAMES, OBJECTS = 60, 5
CASES = (  # height and width of the video, width of the picker's picture
    ((480, 854), 640),
    ((480, 854), 854),
    ((720, 1280), 640),
    ((720, 1280), 1280),
)


def ids_at(t: int, size: tuple[int, int]) -> np.ndarray:
    "Five discs that move: uint8 [H,W]."
    ids, (h, w) = np.zeros(size, np.uint8), size
    for o in range(OBJECTS):
        centre = (w * (2 * o + 1) // 10 + 2 * t, h // 3 + o * h // 12)
        cv2.circle(ids, centre, h // 8, o + 1, -1)
    return ids


def made_up(folder: Path, size: tuple[int, int]) -> VideoRecord:
    "The video in files: blurred noise, so that a JPEG of it is as large as a photo's."
    rng, frames, masks = np.random.default_rng(0), [], []
    ground = rng.integers(0, 256, (size[0] // 4, size[1] // 4 + FRAMES, 3), np.uint8)
    for t in range(FRAMES):
        part = ground[:, t : t + size[1] // 4]
        image = cv2.resize(part, size[::-1], interpolation=cv2.INTER_CUBIC)
        frames.append(folder / f"{t:05d}.jpg")
        masks.append(folder / f"{t:05d}.png")
        save_image(frames[-1], image)
        write_ids(masks[-1], ids_at(t, size))
    asked = [Expression("0", "the discs", tuple(range(1, OBJECTS + 1)), "made up")]
    return VideoRecord("made up", frames, IdMasks(masks), asked)


class Known:
    "Answers with the truth, moved a little, at a quarter of the frame's size."

    name = "known"

    def stream(self, video, expressions):
        for frame in video.read():
            h, w = frame.image.shape[:2]
            mask = ids_at(frame.index, (h // 4, w // 4)) > 0
            yield FrameMasks(frame, np.where(mask, 4.0, -4.0)[None].astype(np.float32))


def measure(size: tuple[int, int], width: int) -> dict:
    "Medians over the frames of a video, and the 95th percentile of the process's own time."
    with tempfile.TemporaryDirectory() as folder:
        picker = VideoPicker(Known(), {"made up": made_up(Path(folder), size)}, width=width)
        times, shown = [], {picker.image.value}
        for t in range(1, FRAMES):
            start = np.array([time.process_time(), time.perf_counter()])
            picker.frame.value = t
            times.append(1000 * (np.array([time.process_time(), time.perf_counter()]) - start))
            shown.add(picker.image.value)
    assert len(shown) == FRAMES, "each frame has its own picture"
    row = {"video": f"{size[1]}x{size[0]}", "picture_width": width, "objects": OBJECTS}
    cpu, wall = np.transpose(times)
    row |= {"cpu_ms": np.median(cpu), "cpu_p95_ms": np.percentile(cpu, 95)}
    row |= {"wall_ms": np.median(wall)}
    return row | {"picture_kB": len(picker.image.value) / 1000}


def main() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    table = pd.DataFrame([measure(*case) for case in CASES])
    table.to_csv(PATH, index=False, float_format="%.1f")
    print(table.round(1).to_string(index=False))


if __name__ == "__main__":
    main()
