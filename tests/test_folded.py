"A model made ready for answers alone says what it said before."

import copy

import pytest
import torch
from torch import nn

from rvos_nb.config import Config
from rvos_nb.model import RVOSModel, folded

SMALL = dict(backbone_weights="none", text_encoder="demo-bert", text_weights="none")
NORMS = (nn.BatchNorm2d, nn.BatchNorm3d)


def norms(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, NORMS)]


def as_trained(preset: str, **knobs) -> RVOSModel:
    "A model whose norms have seen something, so that folding them wrongly shows."
    torch.manual_seed(0)
    knobs = knobs if preset == "demo" else SMALL | knobs
    model = RVOSModel(Config.preset(preset, **knobs).model).eval()
    for norm in norms(model):
        norm.running_mean.normal_(0, 0.3)
        norm.running_var.uniform_(0.5, 2)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0, 0.3)
    return model


@pytest.mark.parametrize(
    "preset, knobs, left",
    [
        ("demo", {}, 0),
        ("best", {}, 0),
        ("report", dict(backbone="resnet18"), 0),
        ("best", dict(backbone="densenet121", class_prior=False), 62),  # norms before convolutions
        ("best", dict(backbone="swin_t", class_prior=False), 0),
    ],
)
def test_folded_answers_the_same(preset, knobs, left):
    model = as_trained(preset, **knobs)
    assert norms(model)
    ready = folded(copy.deepcopy(model))
    assert len(norms(ready)) == left
    frames, ids = torch.randn(1, 2, 3, 96, 160), torch.randint(5, 99, (1, 4))
    with torch.inference_mode():
        before, after = (m(frames, ids, torch.ones_like(ids)) for m in (model, ready))
    assert torch.allclose(before, after, atol=1e-5 * before.abs().max().item() + 1e-6)
