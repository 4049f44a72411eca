"""The moving picture of README.md: clips of talking shapes with the demo model's own masks.

Trains the demo preset unless it has been trained already (under RVOS_HOME). The clips are of
seeds that the model was not trained on, and were chosen for their looks. Writes
nbs/images/talking_shapes.webp, and nbs/images/clip.mp4, the first clip without masks.

    python benchmarks/moving_picture.py
"""

import tempfile
from pathlib import Path

import cv2
import numpy as np
from _common import HERE
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

from rvos_nb.datasets import load_annotations
from rvos_nb.draw import write_video
from rvos_nb.fit import demo_run
from rvos_nb.segmenter import load_segmenter
from rvos_nb.shapes import make_shapes

IMAGES = HERE.parent / "nbs" / "images"
CLIPS = {  # seed of a clip: what it is asked
    3: ("the blue star", "the orange circle"),
    26: ("the blue cross", "the yellow square"),
    30: ("the red star", "the purple circle"),
}
FRAMES, FPS = 56, 14
DRAWN, SHOWN, BAR = (720, 1200), (360, 600), 104  # sizes; the bar holds the expressions
COLOURS = ((86, 180, 233), (240, 228, 66))
TYPED = (4, 26)  # frames in which each expression begins to be written
FADE = 5  # frames until its mask stands out
GROUND = (24, 26, 30)


def font(size: int) -> ImageFont.FreeTypeFont:
    "The font that comes with matplotlib."
    return ImageFont.truetype(font_manager.findfont("DejaVu Sans"), size)


def clip_of(seed: int, folder: Path) -> np.ndarray:
    "Frames of a clip that nobody has seen, uint8 [T,h,w,3]."
    look = dict(n_frames=(FRAMES, FRAMES), size=DRAWN, progress=False)
    root = make_shapes(folder / str(seed), n_train=1, n_val=1, seed=seed, **look)
    (record,) = load_annotations(root, "val").values()
    frames = [np.asarray(Image.open(path)) for path in record.frames]
    return np.stack([cv2.resize(f, SHOWN[::-1], interpolation=cv2.INTER_AREA) for f in frames])


def stand_out(frame: np.ndarray, masks: np.ndarray, shares: list[float]) -> np.ndarray:
    "The frame dimmed outside the masks, with an outline around each, as far as it has faded in."
    grey = cv2.cvtColor(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    dim = 0.55 * (0.65 * grey + 0.35 * frame)
    light = max(shares)
    out = frame * (1 - light) + dim * light
    for mask, share in zip(masks, shares):
        soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 0.8)[..., None] * share
        out = out * (1 - soft) + frame * soft
    for mask, share, colour in zip(masks, shares, COLOURS):
        edges, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        line = np.zeros(mask.shape, np.uint8)
        cv2.drawContours(line, edges, -1, 255, 3, cv2.LINE_AA)
        weight = line[..., None] / 255 * share
        out = out * (1 - weight) + np.array(colour) * weight
    return out.round().clip(0, 255).astype(np.uint8)


def picture(image: np.ndarray, masks: np.ndarray, texts: tuple[str, ...], t: int) -> Image.Image:
    "One frame of the moving picture: the clip, a small map of the masks, the expressions."
    shares = [
        np.clip((t - start - len(text) / 2) / FADE, 0, 1) for start, text in zip(TYPED, texts)
    ]
    page = Image.new("RGB", (SHOWN[1], SHOWN[0] + BAR), GROUND)
    page.paste(Image.fromarray(stand_out(image, masks, shares)))
    inset = np.zeros((*SHOWN, 3), np.uint8)
    for mask, share, colour in zip(masks, shares, COLOURS):
        inset[mask] = np.uint8(np.array(colour) * share)
    small = cv2.resize(inset, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    page.paste(Image.fromarray(small), (SHOWN[1] - small.shape[1] - 7, SHOWN[0] + 7))
    write_bar(page, texts, t)
    return page


def write_bar(page: Image.Image, texts: tuple[str, ...], t: int) -> None:
    "The expressions, as far as they have been typed, each in the colour of its outline."
    pen, letters = ImageDraw.Draw(page), font(24)
    for k, (start, text, colour) in enumerate(zip(TYPED, texts, COLOURS)):
        count = max(0, min(len(text), 2 * (t - start)))
        middle = SHOWN[0] + 32 + 40 * k
        if count:
            pen.rounded_rectangle((20, middle - 9, 38, middle + 9), 5, fill=colour)
        cursor = "|" if 0 < count < len(text) else ""
        pen.text((50, middle), text[:count] + cursor, font=letters, fill="white", anchor="lm")


def main() -> None:
    "Ask the demo model about each clip, draw, write."
    segmenter = load_segmenter(demo_run() / "last.pth", device="cpu")
    pages = []
    for seed, texts in CLIPS.items():
        with tempfile.TemporaryDirectory() as folder:
            frames = clip_of(seed, Path(folder))
        if not pages:
            write_video(IMAGES / "clip.mp4", frames, FPS)
        masks = segmenter.segment(frames, texts).masks
        pages += [picture(f, masks[:, t], texts, t=t) for t, f in enumerate(frames)]
    path = IMAGES / "talking_shapes.webp"
    how = dict(save_all=True, append_images=pages[1:], duration=1000 // FPS, loop=0)
    pages[0].save(path, quality=55, method=4, **how)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
