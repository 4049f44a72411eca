"J and F against an independent definition, the official figures, and at the borders of input."

import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from rvos_nb.config import RVOSError
from rvos_nb import metrics
from rvos_nb.metrics import (
    _compiled,
    _jf_frame,
    _tolerance,
    boundary,
    boundary_f,
    iou,
    jf,
    region_similarity,
)


@pytest.fixture(scope="module", params=["numba", "numpy"], autouse=True)
def path(request):
    "Everything here is asked of both ways: machine code, and numpy where numba cannot be had."
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "numpy":
            patch.setitem(sys.modules, "numba", None)  # importing it fails from now on
        else:
            pytest.importorskip("numba")
        _compiled.cache_clear()
        assert (_compiled() is None) == (request.param == "numpy")
        yield request.param
    _compiled.cache_clear()


def by_definition(gt, pred):
    "J and F pixel by pixel in plain Python: no OpenCV, no words."
    h, w = gt.shape

    def on_edge(m, y, x):
        below, right = min(y + 1, h - 1), min(x + 1, w - 1)
        return any(m[n] != m[y, x] for n in ((y, right), (below, x), (below, right)))

    def is_near(y, x, edge):
        return any((y - v) ** 2 + (x - u) ** 2 <= r * r for v, u in edge)

    def met(a, b):
        return sum(is_near(y, x, b) for y, x in a)

    pixels = list(itertools.product(range(h), range(w)))
    edges = [[at for at in pixels if on_edge(m, *at)] for m in (gt, pred)]
    union = int((gt | pred).sum())
    j = int((gt & pred).sum()) / union if union else 1.0
    r = math.ceil(0.008 * math.sqrt(h * h + w * w))
    if not edges[0] or not edges[1]:
        return j, float(len(edges[0]) == len(edges[1]))
    recall = met(*edges) / len(edges[0])
    precision = met(*edges[::-1]) / len(edges[1])
    return j, 2 * precision * recall / (precision + recall) if precision + recall else 0.0


sizes = st.tuples(st.integers(1, 12), st.sampled_from([1, 2, 7, 63, 64, 65, 96, 97, 130]))


@st.composite
def pairs(draw, shape=sizes):
    shape = draw(shape)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))

    def mask():
        kind = draw(st.sampled_from(["noise", "sparse", "box", "empty", "full", "pixel"]))
        m = np.zeros(shape, bool)
        if kind == "noise":
            m = rng.random(shape) < 0.5
        elif kind == "sparse":
            m = rng.random(shape) < 0.02
        elif kind == "full":
            m[:] = True
        elif kind == "pixel":
            m[rng.integers(shape[0]), rng.integers(shape[1])] = True
        elif kind == "box":
            y, x = (np.sort(rng.integers(0, n + 1, 2)) for n in shape)
            m[y[0] : y[1], x[0] : x[1]] = True
        return m

    return mask(), mask()


@settings(max_examples=150, deadline=None)
@given(pairs())
def test_jf_is_the_definition(pair):
    assert tuple(map(float, jf(*pair))) == by_definition(*pair) == _jf_frame(*pair)


@settings(max_examples=40, deadline=None)
@given(pairs(st.tuples(st.integers(1, 700), st.integers(1, 2200))))
def test_words_equal_dilation_on_large_images(pair):
    assert tuple(map(float, jf(*pair))) == _jf_frame(*pair)


def test_images_beyond_what_words_see():
    gt = np.zeros((2160, 3840), bool)
    gt[500:900, 700:1500] = True
    assert _tolerance(gt.shape) == 36
    j, f = jf(gt, np.roll(gt, 30, 1))
    assert j == 770 / 830 and f == 1.0
    assert boundary_f(gt, np.roll(gt, 40, 1)) < 1


def test_every_edge_of_the_tolerance():
    "One pixel against one pixel in 480x854: met within exactly 8 pixels, in every direction."
    for dy, dx in itertools.product(range(-9, 10), repeat=2):
        gt, pred = np.zeros((2, 480, 854), bool)
        gt[240, 400], pred[240 + dy, 400 + dx] = True, True
        f = boundary_f(gt, pred)
        assert (f == 1) == (dy * dy + dx * dx <= 64), (dy, dx)
        if abs(dy) == 9 and abs(dx) == 9:
            assert f == 0


def test_objects_that_start_or_end_at_any_column():
    "Words begin every 64 pixels; nothing else in the image hides a slip there."
    for x in range(131):
        gt, pred = np.zeros((2, 12, 131), bool)
        gt[2:9, x : x + 5] = pred[7:9, x : x + 5] = True
        assert tuple(map(float, jf(gt, pred))) == _jf_frame(gt, pred), x


def test_tolerance_is_the_official_one():
    for h, w in itertools.product(range(1, 400, 7), range(1, 1200, 13)):
        assert _tolerance((h, w)) == int(np.ceil(0.008 * np.linalg.norm((h, w))))
    # diagonals of exactly 125 and 1000
    assert _tolerance((75, 100)) == 1 and _tolerance((600, 800)) == 8


def test_boundary_at_last_row_and_column():
    m = np.ones((3, 3), bool)
    m[2, 2] = False
    assert boundary(m).astype(int).tolist() == [[0, 0, 0], [0, 1, 1], [0, 1, 0]]


def test_void_belongs_to_neither():
    rng = np.random.default_rng(0)
    gt, pred, void = rng.random((3, 4, 40, 70)) < 0.5
    with_void, without = jf(gt, pred, void), jf(gt & ~void, pred & ~void)
    assert all(np.array_equal(a, b) for a, b in zip(with_void, without))
    assert (region_similarity(gt, pred, np.ones_like(void)) == 1).all()


def test_shapes_types_and_single_functions():
    rng = np.random.default_rng(1)
    gt, pred = rng.random((2, 2, 3, 20, 33)) < 0.5
    j, f = jf(gt, pred)
    assert j.shape == f.shape == (2, 3) and j.dtype == f.dtype == np.float64
    assert np.array_equal(region_similarity(gt, pred), j)
    assert np.array_equal(boundary_f(gt, pred), f)
    assert np.array_equal(jf(gt.astype(np.uint8), pred.astype(np.float32)), (j, f))
    assert np.array_equal(jf(torch.tensor(gt), torch.tensor(pred)), (j, f))
    turned = jf(gt[:, :, ::-1, ::-1], pred[:, :, ::-1, ::-1])  # views with negative strides
    assert np.array_equal(turned[0], j)
    assert isinstance(float(region_similarity(gt[0, 0], pred[0, 0])), float)
    assert jf(gt[0, :0], pred[0, :0])[0].shape == (0,)


def test_inputs_are_left_alone():
    gt, pred, void = np.random.default_rng(2).random((3, 2, 30, 30)) < 0.5
    before = gt.copy(), pred.copy(), void.copy()
    jf(gt, pred, void)
    assert all(np.array_equal(a, b) for a, b in zip(before, (gt, pred, void)))


@pytest.mark.parametrize("score", [jf, region_similarity, boundary_f])
def test_bad_input_is_named(score):
    m = np.zeros((2, 5, 6), bool)
    with pytest.raises(RVOSError, match="pred has shape"):
        score(m, m[:1])
    with pytest.raises(RVOSError, match="void has shape"):
        score(m, m, m[0])
    with pytest.raises(RVOSError, match="gt holds values other than 0 and 1"):
        score(m + np.uint8(2), m)
    with pytest.raises(RVOSError, match="pred holds values other than 0 and 1"):
        score(m, np.full(m.shape, 0.5))
    with pytest.raises(RVOSError, match="pred holds values other than 0 and 1"):
        score(m, np.full(m.shape, np.nan))
    with pytest.raises(RVOSError, match="expected masks"):
        score(m[0, 0], m[0, 0])


def test_a_size_of_zero_writes_nowhere():
    for shape in ((3, 0, 5), (3, 5, 0), (0, 5, 5)):
        j, f = jf(np.zeros(shape, bool), np.zeros(shape, bool))
        assert j.tolist() == f.tolist() == [1.0] * shape[0]


def test_tolerances_up_to_the_neighbouring_word(path):
    "A diagonal of over 3000 pixels: more than numpy's windows see, not more than the next word."
    if path == "numpy":
        pytest.skip("the definition itself is used")
    gt = np.zeros((1, 200, 5000), bool)
    gt[0, 90:110, 900:1500] = np.random.default_rng(5).random((20, 600)) < 0.01
    pred = np.roll(gt, 40, 2)
    assert _tolerance(gt.shape[1:]) == 41
    assert np.transpose(jf(gt, pred)).tolist() == [list(_jf_frame(gt[0], pred[0]))]


def run_python(code: str, **environment) -> str:
    "What a fresh process prints."
    command = [sys.executable, "-c", code]
    inherited = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}
    how = dict(env=inherited | environment, capture_output=True, text=True, check=True)
    return subprocess.run(command, **how).stdout


SCORE = """
import numpy as np
from rvos_nb.metrics import _compiled, jf
masks = np.random.default_rng(0).random((2, 1, 48, 85)) < 0.5
jf(*masks)
print([sum(part.stats.cache_hits.values()) for part in _compiled()])
"""


def test_machine_code_is_kept_for_the_next_process(path, tmp_path):
    if path == "numpy":
        pytest.skip("nothing is compiled")
    assert run_python(SCORE, NUMBA_CACHE_DIR=str(tmp_path)) == "[0, 0, 0]\n"
    assert run_python(SCORE, NUMBA_CACHE_DIR=str(tmp_path)) == "[1, 1, 1]\n"


def test_scores_where_machine_code_cannot_be_kept(path):
    "Source without a file of its own, as in a frozen program."
    if path == "numpy":
        pytest.skip("nothing is compiled")
    source = (
        Path(metrics.__file__).read_text("utf-8").replace("from .config", "from rvos_nb.config")
    )
    code = f"exec(compile({source!r}, '<nowhere>', 'exec'), globals())\n"
    code += "m = np.eye(9, dtype=bool)[None]\nprint(jf(m, m), _compiled() is not None)"
    assert run_python(code) == "(array([1.]), array([1.])) True\n"


def test_numba_is_not_imported_before_it_is_needed():
    assert run_python("import sys, rvos_nb.metrics; print('numba' in sys.modules)") == "False\n"


# --- iou

few = st.integers(1, 3)
clips = arrays(bool, st.tuples(few, few, st.integers(1, 5), st.integers(1, 5)))


@settings(max_examples=50, deadline=None)
@given(clips, st.integers(0, 2**32))
def test_iou_is_the_ratio_of_pooled_counts(target, seed):
    rng = np.random.default_rng(seed)
    pred, valid = rng.random((2, *target.shape)) < 0.6
    got = iou(torch.tensor(pred), torch.tensor(target).float(), torch.tensor(valid))
    for b in range(len(target)):
        union = int(((pred[b] | target[b]) & valid[b]).sum())
        want = int((pred[b] & target[b] & valid[b]).sum()) / union if union else 1.0
        assert got[b].item() == pytest.approx(want, abs=1e-7)
    assert got.dtype == torch.float32


def test_iou_never_waits_for_the_device():
    "A meta tensor has no values: anything that would copy one to the host fails."
    m = torch.empty(2, 3, 4, 5, dtype=torch.bool, device="meta")
    assert iou(m, m, m).shape == (2,)


def test_iou_refuses_logits_and_other_shapes():
    m = torch.zeros(2, 3, 4, 5, dtype=torch.bool)
    with pytest.raises(RVOSError, match="torch.float32"):
        iou(m.float(), m)
    with pytest.raises(RVOSError, match="target"):
        iou(m, m[:, :, None])
    with pytest.raises(RVOSError, match="valid"):
        iou(m, m, m[:1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_iou_on_the_gpu_without_a_sync():
    m = torch.rand(2, 3, 40, 50) > 0.5
    g = m.cuda()
    other = g.roll(1, -1)
    torch.cuda.set_sync_debug_mode("error")
    try:
        got = iou(g, other, g | other)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.allclose(got.cpu(), iou(m, m.roll(1, -1)))


# --- the official figures


@pytest.fixture(scope="module")
def ids_of(davis):
    "Sequence name -> its id maps, uint8 [T, H, W]."

    def read(name):
        files = sorted((davis / "DAVIS/Annotations/480p" / name).glob("*.png"))
        return np.stack([np.array(Image.open(f)) for f in files])

    return read


@pytest.fixture(scope="module")
def golden(davis):
    "Figures of the official evaluation on these sequences."
    if not (davis / "golden_jf.json").exists():
        pytest.skip("RVOS_DAVIS holds no golden_jf.json")
    return json.loads((davis / "golden_jf.json").read_text())


def lag(m):
    return m[np.maximum(np.arange(len(m)) - 5, 0)]


def test_golden_single(golden, ids_of):
    for sequence, want in golden["single"].items():
        m = ids_of(sequence) == 1
        j, f = jf(m, lag(m))
        assert len(j) == want["frames"]
        assert j.mean() == pytest.approx(want["J"], abs=1e-9), sequence
        assert f.mean() == pytest.approx(want["F"], abs=1e-9), sequence


def test_golden_pairs_by_identity_and_matched(golden, ids_of):
    for name, want in golden["pairs"].items():
        a, b = map(ids_of, name.split("+"))
        n = want["frames"]
        g = np.where(a[:n] == 1, 1, np.where(b[:n] == 1, 2, 0)).astype(np.uint8)
        g[:, :20, :40] = 255
        void = g == 255
        p = np.uint8([0, 2, 1])[lag(np.where(void, 0, g))]
        table = np.empty((2, 2, 2))  # [pred, gt, J and F]
        for k, i in itertools.product(range(2), repeat=2):
            table[k, i] = [scores.mean() for scores in jf(g == i + 1, p == k + 1, void)]
        by_order = {order: table[range(2), order] for order in itertools.permutations(range(2))}
        best = max(by_order, key=lambda order: by_order[order].mean())
        for kind, order in (("identity", (0, 1)), ("matched", best)):
            expected = [want[kind]["J"], want[kind]["F"]]
            assert np.allclose(by_order[order].T, expected, rtol=0, atol=1e-9), (name, kind)


def test_real_masks_bit_for_bit(ids_of):
    for sequence in ("dog", "dance-twirl", "soccerball"):
        m = ids_of(sequence)[:8] == 1
        expected = [_jf_frame(g, p) for g, p in zip(m, lag(m))]
        assert np.array_equal(np.transpose(jf(m, lag(m))), expected), sequence
