"Each part against the report's figures, and the composition for any size."
import pytest
import torch
from rvos_nb.core import Config, RVOSError
from rvos_nb.model import (CrossModalFusion, RVOSModel, SegmentationHead, TemporalModule, TextEncoder, TopDownDecoder, VisualBackbone, build_classifier,
                           find_feature_nodes, position_code)
from transformers import BertConfig, BertModel

IDS, MASK = torch.tensor([[2, 9, 8, 3, 0], [2, 7, 3, 0, 0]]), torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]])


@pytest.fixture(scope="module")
def small_bert(tmp_path_factory):
    "A folder as a user would have it: a small BERT with weights."
    folder = tmp_path_factory.mktemp("bert")
    BertModel(BertConfig(hidden_size=48, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name, channels", [("resnet50", 1024), ("resnet18", 256), ("mobilenet_v2", 640), ("swin_t", 384)])
def test_backbone_halves_the_channels_at_stride_32(name, channels):
    b = VisualBackbone(name, "none").eval()
    assert b(torch.randn(2, 3, 3, 64, 96))[32].shape == (2, 3, channels, 2, 3)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "mobilenet_v3_small", "swin_t", "convnext_tiny", "densenet121", "efficientnet_b0", "regnet_y_400mf", "shufflenet_v2_x0_5", "tiny"])
def test_every_family_has_four_strides(name):
    b = VisualBackbone(name, "none", strides=(4, 8, 16, 32), refine=False).eval()
    for s, x in b(torch.randn(1, 1, 3, 64, 96)).items(): assert x.shape == (1, 1, b.channels[s], 64 // s, 96 // s)


def test_resnet_keeps_the_report_s_layers():
    nodes = find_feature_nodes(build_classifier("resnet50", "none"))
    assert [(n.split(".")[0], c) for n, c, _ in nodes.values()] == [("layer1", 256), ("layer2", 512), ("layer3", 1024), ("layer4", 2048)]
    names = set(VisualBackbone("resnet50", "none").features.state_dict())
    assert {"conv1.weight", "bn1.weight", "layer4.2.conv3.weight"} <= names and not any(n.startswith("fc") for n in names)


@pytest.mark.parametrize("name", ["vit_b_16", "squeezenet1_0"])
def test_models_without_such_a_map_are_refused(name):
    with pytest.raises(RVOSError, match=f"{name}.*stride 32"): VisualBackbone(name, "none")


def test_unknown_backbone_and_bad_weights(tmp_path):
    with pytest.raises(RVOSError, match="resnet5000.*expected"): VisualBackbone("resnet5000", "none")
    with pytest.raises(RVOSError, match="no such file"): VisualBackbone("resnet18", str(tmp_path / "none.pth"))
    (tmp_path / "junk.pth").write_bytes(b"junk")
    with pytest.raises(RVOSError, match="junk.pth"): VisualBackbone("resnet18", str(tmp_path / "junk.pth"))
    torch.save({"fc.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(RVOSError, match="other.pth does not fit resnet18"): VisualBackbone("resnet18", str(tmp_path / "other.pth"))


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    class Bomb:
        def __reduce__(self): return (open, (str(tmp_path / "gone off"), "w"))
    torch.save({"x": Bomb()}, tmp_path / "bomb.pth")
    with pytest.raises(RVOSError, match="bomb.pth"): VisualBackbone("resnet18", str(tmp_path / "bomb.pth"))
    assert not (tmp_path / "gone off").exists()


def test_weights_from_a_file_arrive(tmp_path):
    model = build_classifier("resnet18", "none")
    torch.save(model.state_dict(), tmp_path / "w.pth")
    b = VisualBackbone("resnet18", str(tmp_path / "w.pth"))
    assert torch.equal(b.features.get_parameter("layer4.1.conv2.weight"), model.layer4[1].conv2.weight)


def test_real_weights_know_their_classes(weights):
    b = VisualBackbone("mobilenet_v2", str(weights / "mobilenet_v2_imagenet.pth"), refine=False).eval()
    assert b(torch.randn(1, 1, 3, 64, 64))[32].std() > 0.05


def test_frozen_backbone_stays_as_it_is():
    b = VisualBackbone("resnet18", "none", frozen=True).train()
    before = b.features.get_buffer("bn1.running_mean").clone()
    out = b(torch.randn(2, 1, 3, 64, 64) + 3)[32]
    assert torch.equal(b.features.get_buffer("bn1.running_mean"), before) and out.requires_grad  # feature_refine still learns
    out.sum().backward()
    assert all(p.grad is None for p in b.features.parameters()) and b.feature_refine["32"].weight.grad is not None


def test_text_encoder_reads_a_local_folder(small_bert):
    t = TextEncoder(str(small_bert), "default", "cls").eval()
    assert t(IDS, MASK).shape == (2, 48) and TextEncoder(str(small_bert), "none", "words").eval()(IDS, MASK).shape == (2, 5, 48)
    assert torch.equal(t.encoder.get_parameter("embeddings.word_embeddings.weight"), BertModel.from_pretrained(small_bert).embeddings.word_embeddings.weight)


def test_text_encoder_is_768_wide_for_bert_base(tmp_path):
    BertConfig().save_pretrained(tmp_path)
    assert TextEncoder(str(tmp_path), "none", "cls").eval()(IDS, MASK).shape == (2, 768)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_padding_does_not_count(small_bert, pooling):
    t = TextEncoder(str(small_bert), "default", pooling).eval()
    assert torch.allclose(t(IDS, MASK)[1:], t(IDS[1:, :3], MASK[1:, :3]), atol=1e-5)


def test_mean_is_the_mean_of_the_words(small_bert):
    t = TextEncoder(str(small_bert), "default", "mean").eval()
    words = t.encoder(input_ids=IDS, attention_mask=MASK).last_hidden_state
    assert torch.allclose(t(IDS, MASK)[1], t.projection(words[1, :3].mean(0)), atol=1e-5)


def test_missing_text_encoder_is_named():
    with pytest.raises(RVOSError, match="no-such/encoder"): TextEncoder("no-such/encoder")


def test_one_token_attention_is_constant_and_words_are_not():
    torch.manual_seed(0)
    f = CrossModalFusion(32, 24, 16, 4, dropout=0.0)
    visual = torch.randn(2, 3, 32, 4, 5)
    _, w = f(visual, torch.randn(2, 24), need_weights=True)
    assert w.shape == (2, 3, 4, 5, 1) and torch.allclose(w, torch.ones_like(w))
    f(visual, torch.randn(2, 24)).square().sum().backward()
    assert f.attention.in_proj_weight.grad[:32].abs().max() < 1e-6 < f.attention.in_proj_weight.grad[32:].abs().max()
    f.zero_grad()
    out, w = f(visual, torch.randn(2, 5, 24), MASK, need_weights=True)
    out.square().sum().backward()
    assert (w[1, ..., 3:] == 0).all() and w[0, ..., 0].std() > 0 and f.attention.in_proj_weight.grad[:32].abs().max() > 1e-6


@pytest.mark.parametrize("gate, positions", [(False, False), (True, False), (True, True)])
def test_fusion_ignores_padding(gate, positions):
    f = CrossModalFusion(8, 6, 16, 4, positions=positions, gate=gate).eval()
    visual, text = torch.randn(2, 1, 8, 3, 3), torch.randn(2, 5, 6)
    assert torch.allclose(f(visual, text, MASK)[1:], f(visual[1:], text[1:, :3], MASK[1:, :3]), atol=1e-5)


def test_position_code_tells_cells_apart_at_any_size():
    small, large = position_code(4, 6), position_code(9, 7)
    assert small.shape == (16, 4, 6) and large.shape == (16, 9, 7)
    assert torch.unique(small.flatten(1).T, dim=0).shape[0] == 24
    f = CrossModalFusion(8, 6, 16, 4, positions=True).eval()
    same_everywhere = torch.ones(1, 1, 8, 4, 6)
    assert f(same_everywhere, torch.randn(1, 6))[0, 0].flatten(1).std(1).max() > 1e-3
    assert CrossModalFusion(8, 6, 16, 4).eval()(same_everywhere, torch.randn(1, 6))[0, 0].flatten(1).std(1).max() < 1e-5


def test_temporal_module_looks_at_neighbouring_frames():
    m = TemporalModule(8).eval()
    assert [c.out_channels for c in m.modules() if isinstance(c, torch.nn.Conv3d)] == [8, 16, 8, 8]
    x = torch.randn(1, 9, 8, 3, 3)
    y = x.clone()
    y[:, 8] += 1
    changed = (m(x) - m(y)).abs().amax((0, 2, 3, 4)) > 1e-6
    assert changed.tolist() == [False] * 5 + [True] * 4  # three convolutions reach three frames
    assert m(x[:, :1]).shape == (1, 1, 8, 3, 3)


def test_head_and_decoder_shapes():
    assert SegmentationHead(16)(torch.randn(2, 3, 16, 4, 5)).shape == (2, 3, 1, 4, 5)
    maps = {s: torch.randn(2, 8, -(-33 // s), -(-65 // s)) for s in (4, 8, 16)}
    assert TopDownDecoder(8, (4, 8, 16))(maps).shape == maps[4].shape


@pytest.fixture(scope="module")
def report(small_bert): return RVOSModel(Config.preset("report", backbone="resnet18", backbone_weights="none", text_encoder=str(small_bert), text_weights="none")).eval()


@pytest.mark.parametrize("preset", ["report", "demo"])
@pytest.mark.parametrize("t, h, w", [(1, 64, 64), (2, 97, 131), (5, 64, 96)])
def test_logits_for_any_size(report, preset, t, h, w):
    model = report if preset == "report" else RVOSModel(Config()).eval()
    with torch.inference_mode(): assert model(torch.randn(2, t, 3, h, w), IDS, MASK).shape == (2, t, 1, h, w)


@pytest.mark.parametrize("preset", ["report", "demo"])
def test_one_clip_with_many_sentences_is_the_same_as_one_by_one(report, preset):
    model = report if preset == "report" else RVOSModel(Config()).eval()
    frames = torch.randn(1, 2, 3, 64, 96)
    with torch.inference_mode():
        together, each = model(frames, IDS, MASK), torch.cat([model(frames, IDS[i:i + 1], MASK[i:i + 1]) for i in range(2)])
        repeated = model(frames.expand(2, -1, -1, -1, -1), IDS, MASK)
    assert torch.allclose(together, each, atol=1e-4) and torch.allclose(together, repeated, atol=1e-4)
    assert (together[0] - together[1]).abs().max() > 1e-5  # the sentence matters, even untrained


def test_report_upsamples_bilinearly_from_stride_32(report):
    frames = torch.randn(1, 1, 3, 64, 96)
    with torch.inference_mode(): logits = report(frames, IDS[:1], MASK[:1])[0, 0, 0]
    cells = logits[16::32, 16::32]  # between two cell centres everything is linear
    assert cells.shape == (2, 3) and torch.allclose(logits[20, 40] - logits[20, 39], logits[20, 30] - logits[20, 29], atol=1e-4)


def test_every_trainable_part_gets_a_gradient():
    model = RVOSModel(Config()).train()
    model(torch.randn(2, 2, 3, 64, 96), IDS, MASK).square().mean().backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or p.grad.abs().max() == 0)]
    assert without == [], without
