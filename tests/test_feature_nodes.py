"Which maps of a torchvision model stand for strides 4, 8, 16 and 32."

import pytest
import torch
import torchvision
from rvos_nb.caches import find_feature_nodes
from torchvision.models.feature_extraction import create_feature_extractor


def untrained(name: str):
    return torchvision.models.get_model(name, weights=None).eval()


def test_a_resnet_s_stages_are_found_by_name():
    nodes = find_feature_nodes(untrained("resnet50"))
    stages = [(node.name.split(".")[0], node.channels) for node in nodes.values()]
    assert stages == [("layer1", 256), ("layer2", 512), ("layer3", 1024), ("layer4", 2048)]


def test_a_mobilenet_s_maps_are_those_before_the_widening():
    nodes = find_feature_nodes(untrained("mobilenet_v2"))
    assert {s: n.channels for s, n in nodes.items()} == {4: 24, 8: 32, 16: 96, 32: 1280}


def test_channels_that_come_last_are_said_to():
    nodes = find_feature_nodes(untrained("swin_t"))
    assert all(n.channels_last for s, n in nodes.items() if s < 32)
    assert {s: n.channels for s, n in nodes.items()} == {4: 96, 8: 192, 16: 384, 32: 768}


def test_the_names_are_what_the_extractor_takes():
    model = untrained("resnet18")
    nodes = find_feature_nodes(model)
    extractor = create_feature_extractor(model, {n.name: str(s) for s, n in nodes.items()})
    with torch.no_grad():
        maps = extractor(torch.zeros(1, 3, 64, 96))
    for stride, node in nodes.items():
        assert maps[str(stride)].shape == (1, node.channels, 64 // stride, 96 // stride)


def test_a_model_whose_maps_fit_no_stride_has_none():
    assert find_feature_nodes(untrained("squeezenet1_0")) == {}


def test_a_model_of_one_input_size_cannot_be_traced():
    with pytest.raises(AssertionError, match="image height"):
        find_feature_nodes(untrained("vit_b_16"))
