"Each part: shapes, what it depends on and what it does not, values worked out by hand."

import pytest
import torch
from rvos_nb.config import ModelConfig
from rvos_nb.parts import (
    DECODERS,
    BilinearDecoder,
    CorrelationModule,
    CrossModalFusion,
    FiLM,
    SegmentationHead,
    SharedPyramid,
    TemporalModule,
    TopDown,
    position_code,
    resize,
)
from small_models import MASK
from torch import Tensor

PLAIN = dict(hidden_dim=16, heads=4, positions=False, film=False)


def fusion(visual_dim: int = 8, text_dim: int = 6, prior_channels: int = 0, **knobs):
    cfg = ModelConfig(**{**PLAIN, **knobs})
    return CrossModalFusion(visual_dim, text_dim, cfg, prior_channels)


# --- resize and positions


def test_resize_takes_any_number_of_dimensions():
    x = torch.randn((2, 3, 4, 5, 6))
    assert resize(x, (5, 6)) is x and resize(x, [5, 6]) is x
    large = resize(x, (10, 9))
    assert large.shape == (2, 3, 4, 10, 9)
    torch.testing.assert_close(large[1, 2], resize(x[1, 2], (10, 9)))
    assert resize(torch.tensor([[0.0, 1.0]]), (1, 4)).tolist() == [[0, 0.25, 0.75, 1]]


def test_position_code_tells_cells_apart_at_any_size():
    small, large = position_code(4, 6), position_code(9, 7)
    assert small.shape == (16, 4, 6) and large.shape == (16, 9, 7)
    assert torch.unique(small.flatten(1).T, dim=0).shape[0] == 24
    same_everywhere, text = torch.ones(1, 8, 4, 6), torch.randn(1, 6)
    with_positions = fusion(positions=True).eval()(same_everywhere, text)
    assert with_positions[0].flatten(1).std(1).max() > 1e-3
    without = fusion().eval()(same_everywhere, text)
    assert without[0].flatten(1).std(1).max() < 1e-5


# --- fusion


def query_and_key_gradient(f: CrossModalFusion, out: Tensor) -> tuple[float, float]:
    "Largest gradient of the matrices for queries and keys, and of all three."
    f.zero_grad()
    (out * torch.randn_like(out)).sum().backward()  # each output asks for a change of its own
    grad = f.attention.in_proj_weight.grad.abs()
    return grad[: 2 * f.attention.embed_dim].max().item(), grad.max().item()


def test_one_token_attention_is_constant_and_words_are_not():
    torch.manual_seed(0)
    f = fusion(32, 24)
    visual = torch.randn(6, 32, 4, 5)  # two clips of three frames
    out, w = f(visual, torch.randn(2, 24), n_frames=3, need_weights=True)
    assert w.shape == (6, 4, 5, 1) and torch.allclose(w, torch.ones_like(w))
    idle, largest = query_and_key_gradient(f, out)
    assert idle < 1e-6 and largest > 1
    text = torch.randn(2, 5, 24)
    out, w = f(visual, text, MASK[:2], n_frames=3, need_weights=True)
    learning, largest = query_and_key_gradient(f, out)
    assert (w[3:, ..., 3:] == 0).all() and w[0, ..., 0].std() > 0
    assert learning > 0.01 * largest


@pytest.mark.parametrize("film, positions", [(False, False), (True, False), (True, True)])
def test_fusion_ignores_padding(film, positions):
    f = fusion(film=film, positions=positions).eval()
    visual, text = torch.randn(2, 8, 3, 3), torch.randn(2, 5, 6)
    alone = f(visual[1:], text[1:, :3], MASK[1:2, :3])
    torch.testing.assert_close(f(visual, text, MASK[:2])[1:], alone, atol=1e-5, rtol=0)


def test_a_clip_is_shared_by_its_expressions():
    f = fusion(film=True, positions=True, bidirectional_attention=True).eval()
    visual, text = torch.randn(3, 8, 4, 5), torch.randn(2, 5, 6)  # one clip of three frames
    shared = f(visual, text, MASK[:2], n_frames=3)
    repeated = f(visual.repeat(2, 1, 1, 1), text, MASK[:2], n_frames=3)
    torch.testing.assert_close(shared, repeated, atol=1e-5, rtol=0)
    assert shared.shape == (6, 16, 4, 5) and (shared[:3] - shared[3:]).abs().max() > 1e-3


def test_words_look_at_their_own_frame():
    torch.manual_seed(0)
    f = fusion(bidirectional_attention=True).eval()
    visual, text = torch.randn(3, 8, 4, 5), torch.randn(2, 5, 6)
    out, weights = f(visual, text, MASK[:2], n_frames=3, need_weights=True)
    assert out.shape == (6, 16, 4, 5) and weights.shape == (6, 4, 5, 5)
    other = visual.clone()
    other[0, :, 3, 4] += 5  # one cell of the first frame
    changed = (f(other, text, MASK[:2], n_frames=3) - out).abs().amax(1) > 1e-6
    changed = changed.unflatten(0, (2, 3)).any(0)  # frame by frame, of either expression
    assert changed[0].all() and not changed[1:].any()  # all its cells hear of it, by the words
    plain = fusion().eval()
    before, after = (plain(x, text, MASK[:2], n_frames=3) for x in (visual, other))
    assert ((after - before).abs().amax(1) > 1e-6).sum() == 2  # that cell, for two expressions


def test_film_by_hand():
    film = FiLM(2)
    torch.nn.init.zeros_(film.scale.bias)
    torch.nn.init.eye_(film.scale.weight)
    words = torch.tensor([[[2.0, 0], [4, 0], [9, 9]]])
    cells = torch.tensor([[[1.0, 5.0]]])
    mask = torch.tensor([[1, 1, 0]])
    assert film(cells, words, mask).tolist() == [[[4, 5]]]
    assert film(cells, words, mask, share=0.0).tolist() == [[[1, 5]]]


def test_further_maps_are_added():
    f = fusion(prior_channels=6).eval()
    visual, text = torch.randn(2, 8, 4, 6), torch.randn(2, 6)
    prior = torch.randn(2, 6, 2, 3)
    more = f(visual, text, prior=prior) - f(visual, text, prior=0 * prior)
    by_hand = f.prior_projection(resize(prior, (4, 6))) - f.prior_projection.bias[:, None, None]
    torch.testing.assert_close(more, by_hand, atol=1e-5, rtol=0)


def test_text_that_is_dropped_leaves_the_cells_alone():
    torch.manual_seed(0)
    f = fusion(film=True, text_dropout=0.5)
    f.visual_projection.eval()  # its batch norm must not see the batch
    visual = torch.randn(1, 8, 3, 3)
    out = f(visual, torch.randn(40, 5, 6))  # training mode, forty expressions
    cells = f.visual_projection(visual).flatten(2).transpose(1, 2)
    silent = f.norm(cells).transpose(1, 2).unflatten(2, (3, 3))
    dropped = ((out - silent).abs().amax((1, 2, 3)) < 1e-5).sum()
    assert 10 <= dropped <= 30
    heard = f.eval()(visual, torch.randn(40, 5, 6))
    assert ((heard - silent).abs().amax((1, 2, 3)) > 1e-3).all()


# --- time


def test_temporal_module_looks_at_neighbouring_frames():
    m = TemporalModule(8).eval()
    widths = [c.out_channels for c in m.modules() if isinstance(c, torch.nn.Conv3d)]
    assert widths == [8, 16, 8, 8]
    x = torch.randn(9, 8, 3, 3)
    y = x.clone()
    y[8] += 1
    changed = (m(x, 9) - m(y, 9)).abs().amax((1, 2, 3)) > 1e-6
    assert changed.tolist() == [False] * 5 + [True] * 4  # three convolutions reach three frames
    assert m(x[:1], 1).shape == (1, 8, 3, 3)
    two_clips = m(torch.cat([x, y]), 9)
    torch.testing.assert_close(two_clips, torch.cat([m(x, 9), m(y, 9)]), atol=1e-5, rtol=0)


@pytest.fixture()
def correlation() -> CorrelationModule:
    torch.manual_seed(0)
    return CorrelationModule({4: 16, 8: 32}, (8,)).eval()


def moving_patch(right: int, down: int, frames: int = 4) -> tuple[Tensor, list]:
    "Noise (T,16,20,32) with a patch of other noise that moves, and the slices within the patch."
    g = torch.Generator().manual_seed(1)
    field, patch = torch.randn(16, 20, 32, generator=g), torch.randn(16, 6, 6, generator=g)
    x, inside = field.repeat(frames, 1, 1, 1), []
    for t in range(frames):
        top, left = 7 + down * t, 13 + right * t
        x[t, :, top : top + 6, left : left + 6] = patch
        inside.append((slice(top + 1, top + 5), slice(left + 1, left + 5)))
    return x, inside


@torch.inference_mode()
@pytest.mark.parametrize("right, down", [(2, 0), (-3, 1), (0, -2), (0, 0)])
def test_a_motion_is_found_by_hand(correlation, right, down):
    x, inside = moving_patch(right, down)
    found = correlation.motion(x, 4)
    for t, (y, z) in enumerate(inside):
        mean = found[t, :2, y, z].mean((1, 2))
        assert torch.allclose(mean, torch.tensor([right, down]).float(), atol=0.3), t
        assert found[t, :2, :5, :5].abs().mean() < 0.2  # the field rests
    backwards = correlation.motion(x.flip(0), 4).flip(0)
    torch.testing.assert_close(backwards[:, :2], -found[:, :2], atol=1e-4, rtol=0)


@torch.inference_mode()
def test_motion_comes_from_the_neighbours_alone(correlation):
    x, _ = moving_patch(2, 0, frames=6)
    maps, later = {4: x, 8: torch.randn(6, 32, 10, 16)}, x.clone()
    later[3] = later[3].flip(-1)
    a, b = correlation(maps, 6), correlation({**maps, 4: later}, 6)
    changed = [t for t in range(6) if not torch.allclose(a[8][t], b[8][t], atol=1e-5)]
    assert a[4] is x and changed == [2, 3, 4]
    alone = correlation({s: m[:1] for s, m in maps.items()}, 1)[8] - maps[8][:1]
    spread = alone[..., 3:-3, 3:-3].std((-2, -1))  # of a single frame it says the same everywhere
    torch.testing.assert_close(spread, torch.zeros(1, 32), atol=1e-5, rtol=0)


def test_single_frames_leave_no_weight_without_a_gradient(correlation):
    "Or a run with several processes would wait for it."
    maps = {4: torch.randn(2, 16, 12, 20), 8: torch.randn(2, 32, 6, 10)}
    correlation(maps, 1)[8].square().mean().backward()
    assert all(p.grad is not None for p in correlation.parameters())


# --- decoders


def test_head_and_top_down_shapes():
    assert SegmentationHead(16)(torch.randn(6, 16, 4, 5)).shape == (6, 1, 4, 5)
    maps = {s: torch.randn(2, 8, -(-33 // s), -(-65 // s)) for s in (4, 8, 16)}
    assert TopDown(8, (4, 8, 16))(maps).shape == maps[4].shape


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("size", [(64, 96), (97, 161)])
def test_decoders_have_one_signature(name, size):
    cfg = ModelConfig(hidden_dim=16, decoder=name, fuse_strides=(16, 32))
    fuse = (32,) if name == "bilinear" else cfg.fuse_strides
    strides = (32,) if name == "bilinear" else (4, 8, 16, 32)
    channels = SharedPyramid.widths(strides, 16) if len(strides) > 1 else {32: 16}
    decoder = DECODERS[name](channels, fuse, cfg).eval()
    cells = {s: (-(-size[0] // s), -(-size[1] // s)) for s in strides}
    maps = {s: torch.randn(3, channels[s], *cells[s]) for s in strides}  # a clip of three frames
    fused = {s: torch.randn(6, 16, *cells[s]) for s in fuse}  # two expressions
    calls = []

    def temporal(x: Tensor) -> Tensor:
        calls.append(tuple(x.shape))
        return x

    with torch.inference_mode():
        logits = decoder(fused, maps, temporal)
        second = decoder({s: x[3:] for s, x in fused.items()}, maps)
    assert logits.shape == (6, 1, *cells[strides[0]])
    assert len(calls) == 1 and calls[0][:2] == (6, 16)
    torch.testing.assert_close(logits[3:], second, atol=1e-5, rtol=0)


def test_the_bilinear_decoder_is_the_head_at_stride_32():
    decoder = BilinearDecoder({32: 8}, (32,), ModelConfig(hidden_dim=16)).eval()
    x = torch.randn(2, 16, 3, 5)
    assert torch.equal(decoder({32: x}, {}), decoder.head(x))


def test_the_pyramid_has_a_cell_for_each_stride_pixels():
    "Whatever sizes the backbone's maps have, as a vision transformer's, which are all alike."
    pyramid = SharedPyramid({4: 6, 8: 6, 16: 6, 32: 6}, hidden_dim=16).eval()
    maps = pyramid({s: torch.randn(2, 6, 7, 11) for s in (4, 8, 16, 32)}, (97, 161))
    sizes = {s: tuple(x.shape[1:]) for s, x in maps.items()}
    assert sizes == {32: (16, 4, 6), 16: (16, 7, 11), 8: (16, 13, 21), 4: (8, 25, 41)}
