"No frame of DAVIS (CC BY-NC) is stored in the repository: not in an output, not as a picture."

import base64
import re
from pathlib import Path

import cv2
import nbformat
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))
PICTURES = [p for p in (ROOT / "nbs").rglob("*") if p.suffix in (".jpg", ".jpeg", ".png", ".gif")]
ALIKE = 35  # points of a frame that are found again, in the same places; chance gives at most 26


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_no_notebook_reads_davis_by_itself(path):
    code = "\n".join(
        c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"
    )
    assert not re.search(r"RVOS_DAVIS|RVOS_WEIGHTS|RVOS_COCO", code)


def stored_pictures() -> list[tuple[str, np.ndarray]]:
    "All pictures in notebook outputs and beside the notebooks, as grey arrays with their place."
    found = [(p.name, cv2.imread(str(p), cv2.IMREAD_GRAYSCALE)) for p in PICTURES]
    for path in NOTEBOOKS:
        for n, cell in enumerate(nbformat.read(path, as_version=4).cells):
            for output in cell.get("outputs", []):
                data = output.get("data", {})
                for kind in ("image/jpeg", "image/png"):
                    if kind in data:
                        raw = np.frombuffer(base64.b64decode(data[kind]), np.uint8)
                        image = cv2.imdecode(raw, cv2.IMREAD_GRAYSCALE)
                        found.append((f"{path.name}[{n}]", image))
    return found


def points(image: np.ndarray, n: int):
    "Keypoints and descriptors that survive scaling and JPEG."
    return cv2.ORB_create(nfeatures=n, fastThreshold=10).detectAndCompute(image, None)


def same_places(frame, picture) -> int:
    "How many points of a frame are found in a picture, moved and scaled alike."
    (a, da), (b, db) = frame, picture
    if da is None or db is None or len(db) < 2:
        return 0
    pairs = cv2.BFMatcher(cv2.NORM_HAMMING).knnMatch(da, db, k=2)
    good = [p[0] for p in pairs if len(p) == 2 and p[0].distance < 0.75 * p[1].distance]
    if len(good) < ALIKE:
        return 0
    source = np.float32([a[m.queryIdx].pt for m in good])
    target = np.float32([b[m.trainIdx].pt for m in good])
    inliers = cv2.estimateAffinePartial2D(source, target, ransacReprojThreshold=4)[1]
    return 0 if inliers is None else int(inliers.sum())


@pytest.mark.slow
def test_no_stored_picture_shows_a_frame_of_davis(davis):
    frames = []
    for folder in sorted((davis / "DAVIS/JPEGImages/480p").iterdir()):
        files = sorted(folder.glob("*.jpg"))
        frames += [cv2.imread(str(f), cv2.IMREAD_GRAYSCALE) for f in files[::12]]
    small = [
        points(cv2.resize(f, None, fx=0.3, fy=0.3, interpolation=cv2.INTER_AREA), 500)
        for f in frames
    ]
    sheet = np.zeros((400, 900), np.uint8)  # the test sees one where there is one
    sheet[60 : 60 + 168, 300 : 300 + 299] = cv2.resize(
        frames[5], (299, 168), interpolation=cv2.INTER_AREA
    )
    found = [
        place
        for place, x in [("planted", sheet), *stored_pictures()]
        if (p := points(x, 6000)) and any(same_places(f, p) >= ALIKE for f in small)
    ]
    assert found == ["planted"]
