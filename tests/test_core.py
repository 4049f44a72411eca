"The configuration, atomic files, and what a run folder may hold."
import dataclasses
import json
import os
import platform
import subprocess
import sys

import pytest
import torch
from rvos_nb.core import (Config, ConfigError, RVOSError, atomic_file, config_from_dict, config_to_json, home, pick_device, pick_precision, seed_everything,
                          setup_run, write_text)


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Config)])
def test_every_knob_refuses_nonsense(field):
    with pytest.raises(ConfigError, match=field): Config(**{field: object() if field not in ("image_size", "fuse_strides") else ("a", "b")})


@pytest.mark.parametrize("slip", [dict(clip_len=0), dict(dropout=1.0), dict(image_size=(16, 16)), dict(lr=0.0), dict(lr=float("nan")), dict(epochs=1.5), dict(augment=1),
                                  dict(fuse_strides=(5,)), dict(fuse_strides=()), dict(hidden_dim=30, heads=4), dict(drop_words=1.0), dict(compose_share=1.1), dict(stray=1.1), dict(ema=1.0), dict(every=0), dict(compose=-1),
                                  dict(bce_weight=0, dice_weight=0, focal_weight=0), dict(seed=-1)])
def test_values_out_of_range(slip):
    with pytest.raises(ConfigError, match="expected"): Config(**slip)


def test_presets_are_configs():
    report = Config.preset("report", seed=3)
    assert (report.backbone, report.pooling, report.decoder, report.lr, report.accumulate, report.epochs, report.seed) == ("resnet50", "cls", "x32", 5e-4, 4, 30, 3)
    assert (report.bce_weight, report.dice_weight, report.focal_weight, report.clip_norm, report.weight_decay) == (0.3, 0.6, 0.1, 1.0, 1e-4)
    assert Config.preset("demo") == Config()
    with pytest.raises(ConfigError, match="'better': expected one of 'demo', 'report', 'best'"): Config.preset("better")


def test_config_survives_json():
    cfg = Config.preset("report", minutes=1.5, fuse_strides=(16, 32))
    assert config_from_dict(json.loads(config_to_json(cfg))) == cfg


@pytest.mark.parametrize("bad", [None, [], {"lr": "x"}, {"unknown": 1}, {"image_size": 5}, {"fuse_strides": "ab"}])
def test_foreign_configs_are_refused_by_name(bad):
    with pytest.raises(ConfigError, match="file.json"): config_from_dict(bad, "file.json")


def test_atomic_file_keeps_the_old_on_error(tmp_path):
    write_text(tmp_path / "a", "old")
    with pytest.raises(ZeroDivisionError):
        with atomic_file(tmp_path / "a") as tmp:
            tmp.write_text("half")
            1 / 0
    assert (tmp_path / "a").read_text() == "old" and os.listdir(tmp_path) == ["a"]


def test_home_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("RVOS_HOME", str(tmp_path))
    assert home() == tmp_path
    monkeypatch.delenv("RVOS_HOME")
    assert home().name == "rvos_nb"


def test_precision_by_age_of_the_gpu():
    gpu = torch.device("cuda")
    assert [pick_precision("auto", gpu, c) for c in ((6, 1), (7, 5), (8, 0), (9, 0))] == ["fp16", "fp16", "bf16", "bf16"]
    assert pick_precision("auto", torch.device("cpu")) == "fp32" and pick_precision("bf16", torch.device("cpu")) == "bf16"
    with pytest.raises(ConfigError, match="fp16"): pick_precision("fp16", torch.device("cpu"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_cuda_without_a_gpu_is_said():
    with pytest.raises(ConfigError, match="GPU"): pick_device("cuda")


def test_setup_run_never_mixes_runs(tmp_path, monkeypatch):
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)
    run = setup_run(Config(out=str(tmp_path / "r"), device="cpu"))
    assert run.folder.is_dir() and run.precision == "fp32" and os.environ["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
    with pytest.raises(RVOSError, match="last.pth"): setup_run(Config(out=str(tmp_path / "r"), resume=True))
    (tmp_path / "r" / "last.pth").touch()
    with pytest.raises(RVOSError, match="--resume"): setup_run(Config(out=str(tmp_path / "r")))
    setup_run(Config(out=str(tmp_path / "r"), resume=True))


def test_setup_run_leaves_a_chosen_allocator_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:64")
    setup_run(Config(out=str(tmp_path / "r")))
    assert os.environ["PYTORCH_CUDA_ALLOC_CONF"] == "max_split_size_mb:64"


def test_seed():
    seed_everything(5)
    a = torch.rand(4)
    seed_everything(5)
    assert torch.equal(a, torch.rand(4))


FAULTS = """
import resource, sys, torch
from rvos_nb.core import keep_freed_memory
if sys.argv[1] == "keep": assert keep_freed_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def work():
    for _ in range(50): torch.ones(16, 2**20).add_(1)  # 64 MB each, more than glibc ever keeps by itself
work(); before = faults(); work()
print(faults() - before)
"""

@pytest.mark.skipif(sys.platform != "linux" or not platform.libc_ver()[0].startswith("glibc"), reason="mallopt is glibc's")
def test_freed_memory_is_kept():
    give, keep = (int(subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True).stdout) for how in ("give", "keep"))
    assert keep * 20 < give
