"Backbones, tokenizers and text encoders: what they give, and what they say when they cannot."

import re
import shutil
from pathlib import Path

import pytest
import torch
from rvos_nb import encoders
from rvos_nb.config import RVOSError
from rvos_nb.datasets import load_annotations
from rvos_nb.encoders import (
    TextEncoder,
    VisualBackbone,
    build_classifier,
    conv_norm_act,
    load_tokenizer,
    masked_mean,
    packaged_text_encoder,
    write_text_encoder,
)
from rvos_nb.caches import find_feature_nodes
from rvos_nb.shapes import make_shapes, shape_words
from small_models import IDS, MASK, counting
from torch import nn
from transformers import (
    AutoConfig,
    BertConfig,
    BertModel,
    Dinov2Backbone,
    Dinov2Config,
    SwinBackbone,
    SwinConfig,
    SwinModel,
)

ALL = (4, 8, 16, 32)
FAMILIES = """tiny resnet18 mobilenet_v2 mobilenet_v3_small swin_t convnext_tiny densenet121
efficientnet_b0 regnet_y_400mf shufflenet_v2_x0_5""".split()


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> str:
    "A folder as a user would have it: a small BERT with weights."
    folder = tmp_path_factory.mktemp("bert")
    config = BertConfig(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=4, intermediate_size=32
    )
    BertModel(config).save_pretrained(folder)
    return str(folder)


# --- small tools


@pytest.mark.parametrize("dims, shape", [(2, (2, 8, 5, 7)), (3, (2, 8, 3, 5, 7))])
def test_the_block_keeps_the_size_of_a_map(dims, shape):
    for kernel in (1, 3):
        block = conv_norm_act(8, 6, kernel, dims=dims)
        assert block(torch.randn(shape)).shape == (2, 6, *shape[2:])
        assert block[0].bias is None and conv_norm_act(8, 6, bias=True)[0].bias is not None
    assert len(conv_norm_act(8, 6, act=None)) == 2


def test_masked_mean_by_hand():
    x = torch.tensor([[[1.0, 2], [3, 6], [50, 50]], [[7, 7], [8, 8], [9, 9]]])
    mask = torch.tensor([[1, 1, 0], [0, 0, 0]])
    assert masked_mean(x, mask).tolist() == [[2, 4], [0, 0]]


# --- visual backbones


@pytest.mark.parametrize(
    "name, channels",
    [("resnet50", 1024), ("resnet18", 256), ("mobilenet_v2", 640), ("swin_t", 384)],
)
def test_backbone_halves_the_channels_at_stride_32(name, channels):
    backbone = VisualBackbone(name, "none").eval()
    assert backbone(torch.randn(6, 3, 64, 96))[32].shape == (6, channels, 2, 3)
    assert backbone.channels == {32: channels}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_four_strides(name):
    backbone = VisualBackbone(name, "none", strides=ALL, refine=False).eval()
    for s, x in backbone(torch.randn(1, 3, 64, 96)).items():
        assert x.shape == (1, backbone.channels[s], 64 // s, 96 // s)


def test_the_classifier_is_cut_off():
    names = set(VisualBackbone("resnet50", "none").features.state_dict())
    assert {"conv1.weight", "bn1.weight", "layer4.2.conv3.weight"} <= names
    assert not any(name.startswith("fc") for name in names)


@pytest.mark.parametrize("name", ["vit_b_16", "squeezenet1_0"])
def test_models_without_such_a_map_are_refused(name):
    with pytest.raises(RVOSError, match=f"{name}.*stride 32; it has none at all"):
        VisualBackbone(name, "none")


def test_unknown_backbone_and_bad_weights(tmp_path):
    (tmp_path / "junk.pth").write_bytes(b"junk")
    torch.save({"fc.weight": torch.zeros(3)}, tmp_path / "other.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    for name, weights, said in (
        ("resnet5000", "none", "resnet5000.*expected"),
        ("resnet18", "none.pth", "no such file"),
        ("resnet18", "junk.pth", "junk.pth"),
        ("resnet18", "other.pth", "other.pth does not fit resnet18"),
        ("resnet18", "list.pth", "list.pth: holds no state dict"),
    ):
        weights = weights if weights == "none" else str(tmp_path / weights)
        with pytest.raises(RVOSError, match=said):
            VisualBackbone(name, weights)


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "gone off"), "w"))

    torch.save({"x": Bomb()}, tmp_path / "bomb.pth")
    with pytest.raises(RVOSError, match="bomb.pth"):
        VisualBackbone("resnet18", str(tmp_path / "bomb.pth"))
    assert not (tmp_path / "gone off").exists()


def test_weights_from_a_file_arrive(tmp_path):
    model = build_classifier("resnet18", "none")
    torch.save(model.state_dict(), tmp_path / "w.pth")
    backbone = VisualBackbone("resnet18", str(tmp_path / "w.pth"))
    found = backbone.features.get_parameter("layer4.1.conv2.weight")
    assert torch.equal(found, model.layer4[1].conv2.weight)


def test_real_weights_know_their_classes(weights):
    file = str(weights / "mobilenet_v2_imagenet.pth")
    backbone = VisualBackbone("mobilenet_v2", file, refine=False).eval()
    assert backbone(torch.randn(1, 3, 64, 64))[32].std() > 0.05


def test_frozen_backbone_stays_as_it_is():
    backbone = VisualBackbone("resnet18", "none", frozen=True).train()
    before = backbone.features.get_buffer("bn1.running_mean").clone()
    out = backbone(torch.randn(2, 3, 64, 64) + 3)[32]
    assert torch.equal(backbone.features.get_buffer("bn1.running_mean"), before)
    assert out.requires_grad  # feature_refine still learns
    out.sum().backward()
    assert all(p.grad is None for p in backbone.features.parameters())
    assert backbone.feature_refine["32"].weight.grad is not None


@pytest.mark.parametrize("name, channels", [("mobilenet_v2", 1280), ("resnet18", 512)])
def test_the_last_layer_of_a_classifier(name, channels):
    backbone = VisualBackbone(name, "none", refine=False, classify=True)
    assert backbone.classifier.weight.shape == (1000, channels)
    assert not backbone.classifier.weight.requires_grad
    assert find_feature_nodes(build_classifier(name, "none"))[32].channels == channels


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "tiny"])
def test_a_classifier_whose_last_layer_does_not_fit_is_named(name):
    "One with a layer in between, and one without classes."
    said = f"class_prior: backbone '{name}'.*mobilenet_v2 or resnet50, or --no-class-prior"
    with pytest.raises(RVOSError, match=said):
        VisualBackbone(name, "none", ALL, refine=False, classify=True)


# --- backbones of transformers

SWIN = dict(
    image_size=64,
    patch_size=4,
    embed_dim=8,
    depths=[1, 1, 1, 1],
    num_heads=[1, 1, 2, 2],
    window_size=4,
)
DINO = dict(
    hidden_size=16,
    num_hidden_layers=6,
    num_attention_heads=2,
    intermediate_size=32,
    patch_size=14,
    image_size=56,
)
CLASSES = {"swin": SwinBackbone, "dinov2": Dinov2Backbone}


@pytest.fixture(scope="module")
def backbones(tmp_path_factory) -> Path:
    "Folders with weights: a Swin, whose maps shrink, and a plain vision transformer."
    folder = tmp_path_factory.mktemp("backbones")
    SwinBackbone(SwinConfig(**SWIN)).save_pretrained(folder / "swin")
    Dinov2Backbone(Dinov2Config(**DINO)).save_pretrained(folder / "dinov2")
    return folder


def matrices(backbone: VisualBackbone) -> dict[str, torch.Tensor]:
    state = backbone.features.model.state_dict()
    return {name: x for name, x in state.items() if x.dim() > 1}


@pytest.mark.parametrize(
    "name, channels, cells",
    [
        ("swin", (8, 16, 32, 64), [(25, 41), (13, 21), (7, 11), (4, 6)]),
        ("dinov2", (16,) * 4, [(6, 11)] * 4),
    ],
)
def test_maps_of_a_transformers_backbone(backbones, name, channels, cells):
    folder = str(backbones / name)
    backbone = VisualBackbone(folder, "default", ALL, refine=False).eval()
    with torch.inference_mode():
        maps = backbone(torch.randn(2, 3, 97, 161))
    assert [tuple(x.shape) for x in maps.values()] == [
        (2, c, *size) for c, size in zip(channels, cells)
    ]
    assert tuple(backbone.channels.values()) == channels
    if name == "dinov2":  # of six layers, evenly spaced, the last among them
        picks = ["stage2", "stage3", "stage4", "stage6"]
        assert backbone.features.model.config.out_features == picks
    stored = CLASSES[name].from_pretrained(folder).state_dict()
    loaded = matrices(VisualBackbone(folder, "default", (32,), refine=False))
    untrained = matrices(VisualBackbone(folder, "none", (32,), refine=False))
    assert all(torch.equal(x, stored[k]) for k, x in loaded.items())
    assert not all(torch.equal(x, stored[k]) for k, x in untrained.items())


def refused(folder: Path, weights: str = "default", strides=ALL, **more) -> str:
    "What `VisualBackbone` says of a folder."
    with pytest.raises(RVOSError) as e:
        VisualBackbone(str(folder), weights, strides, **more)
    assert "\n" not in str(e.value)
    return str(e.value)


@pytest.fixture
def broken(backbones, tmp_path) -> Path:
    "Folders that are no backbones, each for a reason of its own."

    def copy(name: str) -> Path:
        return Path(shutil.copytree(backbones / "swin", tmp_path / name))

    text = BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    BertModel(text).save_pretrained(tmp_path / "text")
    (tmp_path / "empty").mkdir()
    (copy("without weights") / "model.safetensors").unlink()
    (copy("broken weights") / "model.safetensors").write_bytes(b"junk" * 100)
    (copy("broken config") / "config.json").write_text("{")
    (copy("list as config") / "config.json").write_text("[]")
    SwinBackbone(SwinConfig(**SWIN | dict(embed_dim=16))).save_pretrained(tmp_path / "wide")
    wide = tmp_path / "wide" / "model.safetensors"
    shutil.move(wide, copy("weights of another size") / wide.name)
    shutil.rmtree(tmp_path / "wide")
    return tmp_path


def test_what_is_no_transformers_backbone_is_named(broken):
    for folder in [*broken.iterdir(), broken / "nowhere" / "at all"]:
        said = refused(folder)
        assert folder.name in said and "expected a hub name or a local folder" in said, said


def test_a_transformers_backbone_says_what_it_lacks(tmp_path):
    two = Dinov2Config(**DINO | dict(num_hidden_layers=2))
    Dinov2Backbone(two).save_pretrained(tmp_path / "two")
    said = refused(tmp_path / "two", "none")
    assert "two' has no feature map of stride 4; it has [16, 32]" in said
    said = refused(tmp_path / "two", "some.pth", (32,))
    assert "backbone_weights = 'some.pth': expected 'default' or 'none'" in said
    said = refused(tmp_path / "two", "none", (32,), classify=True)
    assert said.startswith("class_prior: backbone") and "--no-class-prior" in said


def test_missing_weights_are_never_random_in_silence(backbones, tmp_path):
    "transformers only warns of them. Layer norms that a checkpoint lacks start as 1 and 0."
    deeper = Dinov2Backbone(Dinov2Config(**DINO | dict(num_hidden_layers=8)))
    deeper.config.save_pretrained(tmp_path / "deeper")
    shutil.copy(backbones / "dinov2" / "model.safetensors", tmp_path / "deeper")
    with pytest.raises(RVOSError, match="deeper.*has no .*layer.[67]..*--backbone-weights none"):
        VisualBackbone(str(tmp_path / "deeper"), "default", (32,))
    SwinModel(SwinConfig(**SWIN)).save_pretrained(tmp_path / "whole")
    whole = VisualBackbone(str(tmp_path / "whole"), "default", ALL, refine=False)
    assert whole.channels == {4: 8, 8: 16, 16: 32, 32: 64}


# --- tokenizer and packaged text encoder


def test_tokens_are_the_encoder_s_own():
    tokenizer = load_tokenizer("demo-bert")
    ids = tokenizer("the red circle")["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "the red circle"
    with pytest.raises(RVOSError, match="no-such/encoder"):
        load_tokenizer("no-such/encoder")


def test_packaged_text_encoder_is_what_the_function_writes(tmp_path):
    folder = write_text_encoder(tmp_path / "bert", shape_words())
    written = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert written == {p.name: p.read_bytes() for p in packaged_text_encoder().iterdir()}
    config = AutoConfig.from_pretrained(packaged_text_encoder())
    size = len(load_tokenizer("demo-bert"))
    assert (config.hidden_size, config.num_hidden_layers, config.vocab_size) == (64, 2, size)


def test_the_packaged_tokenizer_knows_every_word_of_the_talking_shapes(tmp_path):
    make_shapes(tmp_path / "all", n_train=8, n_val=2, split_kind="all", progress=False)
    tokenizer = load_tokenizer("demo-bert")
    assert tokenizer.is_fast and tokenizer.pad_token_id == 0
    for record in load_annotations(tmp_path / "all", "train").values():
        for e in record.expressions:  # a whole word each, none spelt
            assert tokenizer.tokenize(e.text) == re.findall("[a-z]+", e.text)
    for text in ("xylophone quartz 4711 z9", "The RED circle!", "bike-packing: (a man's bike)?"):
        assert "[UNK]" not in tokenizer.tokenize(text)


def test_a_vocabulary_of_one_s_own(tmp_path):
    tokenizer = load_tokenizer(str(write_text_encoder(tmp_path, ["zebra", "a"])))
    assert tokenizer.tokenize("a zebra runs") == ["a", "zebra", "r", "##u", "##n", "##s"]
    assert TextEncoder(str(tmp_path), "none").encoder.config.vocab_size == len(tokenizer)


# --- text encoder


def test_text_encoder_reads_a_local_folder(bert):
    t = TextEncoder(bert, "default", "cls").eval()
    assert t(IDS, MASK).shape == (3, 24)
    assert TextEncoder(bert, "none", "words").eval()(IDS, MASK).shape == (3, 5, 24)
    name = "embeddings.word_embeddings.weight"
    stored = BertModel.from_pretrained(bert).get_parameter(name)
    assert torch.equal(t.encoder.get_parameter(name), stored)


@pytest.mark.slow
def test_text_encoder_is_768_wide_for_bert_base(tmp_path):
    BertConfig().save_pretrained(tmp_path)
    assert TextEncoder(str(tmp_path), "none", "cls").eval()(IDS, MASK).shape == (3, 768)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_padding_does_not_count(bert, pooling):
    t = TextEncoder(bert, "default", pooling).eval()
    alone = t(IDS[1:2, :3], MASK[1:2, :3])
    torch.testing.assert_close(t(IDS, MASK)[1:2], alone, atol=1e-5, rtol=0)


def test_mean_is_the_mean_of_the_words(bert):
    t = TextEncoder(bert, "default", "mean").eval()
    words = t.encoder(input_ids=IDS, attention_mask=MASK).last_hidden_state
    by_hand = t.projection(words[1, :3].mean(0))
    torch.testing.assert_close(t(IDS, MASK)[1], by_hand, atol=1e-5, rtol=0)


def test_missing_text_encoder_is_named(bert):
    with pytest.raises(RVOSError, match="no-such/encoder"):
        TextEncoder("no-such/encoder")
    with pytest.raises(RVOSError, match="text_weights = 'some.pth'.*'default' or 'none'"):
        TextEncoder(bert, "some.pth")


def test_a_frozen_encoder_reads_each_expression_once(bert):
    t = TextEncoder(bert, "default", "words", frozen=True, project=False)
    calls = counting(t.encoder)
    words = t(IDS, MASK)
    assert len(calls) == 3 and torch.equal(t(IDS, MASK), words) and len(calls) == 3
    wider_ids, wider_mask = (nn.functional.pad(x, (0, 2)) for x in (IDS, MASK))
    new = torch.tensor([[2, 5, 3, 0, 0, 0, 0]])
    t(torch.cat([wider_ids, new]), torch.cat([wider_mask, (new > 0).long()]))
    assert len(calls) == 4  # padding makes no new expression
    direct = t.encoder(input_ids=IDS, attention_mask=MASK).last_hidden_state
    torch.testing.assert_close(words[MASK == 1], direct[MASK == 1], atol=1e-5, rtol=0)
    assert (words[MASK == 0] == 0).all()


def test_an_encoder_that_learns_remembers_nothing(bert):
    t = TextEncoder(bert, "default", "words")
    calls = counting(t.encoder)
    t(IDS, MASK)
    t(IDS, MASK)
    assert len(calls) == 2 and not t.remembered


@pytest.mark.parametrize("pooling", ["cls", "mean", "words"])
def test_what_is_remembered_serves_training_after_inference(bert, pooling):
    t = TextEncoder(bert, "default", pooling, frozen=True)
    keys = set(t.state_dict())
    with torch.inference_mode():
        before = t(IDS, MASK).clone()
    after = t.train()(IDS, MASK)
    after.square().sum().backward()  # a tensor made for inference only would raise here
    assert t.projection[0].weight.grad.abs().max() > 0
    assert all(p.grad is None for p in t.encoder.parameters())
    torch.testing.assert_close(before, after.detach(), atol=1e-6, rtol=0)
    assert set(t.state_dict()) == keys and t.remembered


def test_memory_is_bounded_and_forgets_what_is_no_longer_true(bert, monkeypatch):
    monkeypatch.setattr(encoders, "_MAX_REMEMBERED", 5)
    t = TextEncoder(bert, "default", "words", frozen=True, project=False)
    for i in range(30):
        ids = torch.tensor([[2, 100 + i, 3], [2, 200 + i, 3]])
        assert t(ids, torch.ones_like(ids)).shape == (2, 3, 24)
        assert len(t.remembered) <= 5 + 2
    first = t(IDS, MASK)
    other = TextEncoder(bert, "none", "words", frozen=True, project=False)
    t.load_state_dict(other.state_dict())
    assert not torch.equal(t(IDS, MASK), first)
    assert torch.equal(t(IDS, MASK), other(IDS, MASK))


def test_known_tokens_are_those_of_training():
    text = TextEncoder("demo-bert", "none")
    tokenizer = load_tokenizer("demo-bert")
    dog, cat = tokenizer(["a dog", "the zebra"], padding=True, return_tensors="pt")["input_ids"]
    text.eval()(cat[None], torch.ones_like(cat)[None])
    assert not text.known_tokens.any()  # looking is not learning
    text.train()(dog[None], torch.ones_like(dog)[None])
    assert text.known_tokens[dog].all() and text.known_tokens.sum() == len(set(dog.tolist()))
    again = TextEncoder("demo-bert", "none")
    again.load_state_dict(text.state_dict())
    assert torch.equal(again.known_tokens, text.known_tokens)
