"The configuration: six groups, checks, presets, JSON."

import dataclasses
import json

import pytest
from IPython.core.interactiveshell import InteractiveShell

from rvos_nb.config import (
    Config,
    ConfigError,
    LossConfig,
    ModelConfig,
    RVOSError,
    config_from_dict,
    config_to_json,
    group_from_dict,
)

GROUPS = {f.name: getattr(Config(), f.name) for f in dataclasses.fields(Config)}
KNOBS = [(g, f.name) for g, group in GROUPS.items() for f in dataclasses.fields(group)]


def test_knob_names_are_unique_over_groups():
    names = [knob for _, knob in KNOBS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("group, knob", KNOBS)
def test_every_knob_refuses_nonsense(group, knob):
    value = ("a", "b") if knob in ("image_size", "fuse_strides") else object()
    with pytest.raises(ConfigError, match=knob):
        type(GROUPS[group])(**{knob: value})


@pytest.mark.parametrize(
    "slip",
    [
        dict(clip_len=0),
        dict(dropout=1.0),
        dict(image_size=(16, 16)),
        dict(lr=0.0),
        dict(lr=float("nan")),
        dict(epochs=1.5),
        dict(augment=1),
        dict(fuse_strides=(5,)),
        dict(fuse_strides=()),
        dict(hidden_dim=30, heads=4),
        dict(word_dropout=1.0),
        dict(copy_paste_prob=1.1),
        dict(negative_text_prob=1.1),
        dict(component_ratio=1.1),
        dict(frame_stride=0),
        dict(copy_paste_clips=-1),
        dict(bce_weight=0, dice_weight=0, focal_weight=0),
        dict(seed=-1),
        dict(feature_cache=True),
        dict(class_prior=True),
        dict(decoder="dynamic"),
    ],
)
def test_values_out_of_range(slip):
    with pytest.raises(ConfigError, match="expected"):
        Config.preset("demo", **slip)


def test_presets_are_configs():
    report = Config.preset("report", seed=3)
    assert report.model.backbone == "resnet50" and report.model.pooling == "cls"
    assert report.model.decoder == "bilinear" and report.run.seed == 3
    assert (report.optim.lr, report.optim.grad_accum_steps, report.optim.epochs) == (5e-4, 4, 30)
    assert (report.optim.max_grad_norm, report.optim.weight_decay) == (1.0, 1e-4)
    weights = (report.loss.bce_weight, report.loss.dice_weight, report.loss.focal_weight)
    assert weights == (0.3, 0.6, 0.1)
    assert Config.preset("demo") == Config()
    assert Config.preset("best").augment.copy_paste_clips == 240
    with pytest.raises(ConfigError, match="'better': expected one of 'demo', 'report', 'best'"):
        Config.preset("better")


def test_replace_changes_a_copy_and_knows_its_knobs():
    cfg = Config()
    other = cfg.replace(epochs=3, image_size=[64, 96])
    assert (cfg.optim.epochs, other.optim.epochs, other.model.image_size) == (7, 3, (64, 96))
    with pytest.raises(ConfigError, match="unknown knob 'epoch'; known: augment, backbone,"):
        cfg.replace(epoch=3)


def test_config_survives_json():
    cfg = Config.preset("best", max_minutes=1.5)
    assert config_from_dict(json.loads(config_to_json(cfg))) == cfg
    model = group_from_dict(ModelConfig, json.loads(config_to_json(cfg.model)), "config.json")
    assert model == cfg.model


@pytest.mark.parametrize("bad", [None, [], {"lr": 1.0}, {"optim": {}}])
def test_foreign_configs_are_refused_by_name(bad):
    with pytest.raises(ConfigError, match="file.json"):
        config_from_dict(bad, "file.json")


@pytest.mark.parametrize("bad", [None, {"bce": 1.0}, {"bce_weight": "x"}, {"bce_weight": [1]}])
def test_foreign_groups_are_refused_by_name(bad):
    with pytest.raises(ConfigError, match="config.json"):
        group_from_dict(LossConfig, bad, "config.json")
    whole = json.loads(config_to_json(Config()))
    with pytest.raises(ConfigError, match="file.json, loss"):
        config_from_dict(whole | {"loss": bad}, "file.json")


@pytest.mark.parametrize("kind", [RVOSError, ConfigError])
def test_a_notebook_shows_our_errors_in_one_line(kind, capsys):
    shell = InteractiveShell()
    shell.push({"kind": kind})
    shell.run_cell("def far(): raise kind('no such folder')\nfar()")
    assert capsys.readouterr().out.strip() == f"{kind.__name__}: no such folder"
    shell.run_cell("1 / 0")  # others keep their traceback
    assert "Traceback" in capsys.readouterr().out
