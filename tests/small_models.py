"What the tests of encoders, parts and model share: token ids, small models that do something."

import torch
from rvos_nb.config import Config, ModelConfig
from rvos_nb.model import RVOSModel
from torch import nn

IDS = torch.tensor([[2, 9, 8, 3, 0], [2, 7, 3, 0, 0], [2, 5, 6, 7, 3]])
MASK = (IDS > 0).long()
WITH_PRIOR = dict(class_prior=True, backbone="mobilenet_v2")  # needs a backbone with classes


def dynamic(**knobs) -> ModelConfig:
    "The demo's small parts, put together as in `best`."
    small = dict(
        decoder="dynamic",
        fuse_strides=(16, 32),
        bidirectional_attention=True,
        freeze_backbone=True,
        freeze_text=True,
        hidden_dim=16,
        heads=2,
        image_size=(64, 96),
    )
    return Config.preset("demo", **{**small, **knobs}).model


def built(cfg: ModelConfig) -> RVOSModel:
    "In eval mode, the same each time; batch norms do something and class names are not zero."
    torch.manual_seed(0)
    model = RVOSModel(cfg).eval()
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.normal_(m.running_mean, std=0.1)
            nn.init.uniform_(m.running_var, 0.5, 2)
            nn.init.uniform_(m.weight, 0.5, 2)
    if model.prior is not None:
        vectors = torch.randn_like(model.prior.vectors)
        model.prior.vectors.copy_(nn.functional.normalize(vectors, dim=-1))
    return model


def counting(module: nn.Module) -> list:
    "Grows by the first input's shape with each call of `module`."
    calls = []

    def note(m, args, kwargs, out):
        calls.append(tuple(args[0].shape) if args else None)

    module.register_forward_hook(note, with_kwargs=True)
    return calls
