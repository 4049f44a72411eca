"Two processes on the CPU (gloo), started as a user starts them on several GPUs."

import json
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from rvos_nb.checkpoints import load_checkpoint
from rvos_nb.config import Config, RVOSError, config_to_json
from rvos_nb.datasets import load_annotations
from rvos_nb.encoders import load_tokenizer
from rvos_nb.fit import fit
from rvos_nb.loaders import make_loader
from runs import assert_same, make_data, tiny

STEPS = 20

SCRIPT = """
import json, sys, torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
# statistics of half a batch are others
_BatchNorm.train = lambda self, mode=True: nn.Module.train(self, False)
from rvos_nb.config import config_from_dict
from rvos_nb.fit import fit
fit(config_from_dict(json.load(open(sys.argv[1]))))
"""

LAUNCHER = """
import json, socket, sys
from accelerate import notebook_launcher
from rvos_nb.config import config_from_dict
from rvos_nb.fit import fit
with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    port = s.getsockname()[1]
cfg = config_from_dict(json.load(open(sys.argv[1])))
notebook_launcher(fit, (cfg,), num_processes=2, use_port=str(port))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def cfg(data, tmp_path) -> Config:
    "An epoch is one step, so the history holds the loss of each."
    return tiny(
        data,
        tmp_path / "run",
        contrastive_weight=0.0,  # it compares what one process has of a batch
        batch_size=8,
        grad_accum_steps=1,
        epochs=STEPS,
        val_every=STEPS,
        temporal="conv3d",
        augment=False,
        dropout=0.0,
        head_dropout=0.0,
        checkpoint_minutes=10.0,
    )


def start(cfg, tmp_path, processes=1, script=SCRIPT):
    (tmp_path / "cfg.json").write_text(config_to_json(cfg))
    (tmp_path / "script.py").write_text(script)
    options = "--multi_gpu --num_machines 1 --mixed_precision no --dynamo_backend no"
    options = f"{options} --main_process_port 0 --num_processes {processes}".split()
    launch = ["-m", "accelerate.commands.launch", *options] if processes > 1 else []
    command = [sys.executable, *launch, tmp_path / "script.py", tmp_path / "cfg.json"]
    return subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def finish(p, seconds=900):
    try:
        out = p.communicate(timeout=seconds)[0]
    finally:
        if p.poll() is None:
            os.killpg(p.pid, signal.SIGKILL)
    return p.returncode, out


def children(pid: int) -> list[int]:
    if not os.path.exists(f"/proc/{pid}"):
        return []
    return [int(c) for c in open(f"/proc/{pid}/task/{pid}/children").read().split()]


def kill_a_worker(p, history) -> None:
    "Kill one of two processes after a few epochs; the other one must not outlive it for long."
    while p.poll() is None and not (history.exists() and history.read_text().count("\n") > 4):
        time.sleep(0.01)
    workers = children(p.pid)
    assert len(workers) == 2 and p.poll() is None, p.communicate()[0]
    os.kill(workers[1], signal.SIGKILL)
    died = time.monotonic()
    code, out = finish(p)
    assert code != 0 and time.monotonic() - died < 60, out
    assert not any(os.path.exists(f"/proc/{w}") for w in workers), out


@pytest.mark.slow
def test_two_processes_train_as_one_survive_a_death_and_stay_two(cfg, tmp_path):
    code, out = finish(start(cfg.replace(out=str(tmp_path / "one")), tmp_path))
    assert code == 0, out
    two = cfg.replace(out=str(tmp_path / "two"), batch_size=4)
    kill_a_worker(start(two, tmp_path, 2), tmp_path / "two" / "history.csv")
    code, out = finish(start(two, tmp_path, 2))
    assert code == 0 and out.count("best val IoU") == 1 and out.count("2 processes") == 1, out
    a, b = (pd.read_csv(tmp_path / n / "history.csv") for n in ("one", "two"))
    assert a.epoch.tolist() == b.epoch.tolist() == list(range(1, STEPS + 1))
    for column in ("train_loss", "train_iou", "grad_norm", "lr", "val_loss", "val_iou"):
        difference = (a[column] - b[column]).abs().max()
        assert difference < 1e-4, f"{column}: {difference}"
    states = [load_checkpoint(tmp_path / n / "last.pth") for n in ("one", "two")]
    assert states[0]["model"].keys() == states[1]["model"].keys()  # no trace of the wrapper
    files = [sorted(p.name for p in (tmp_path / n).iterdir()) for n in ("one", "two")]
    assert [f for f in files[0] if "lock" not in f] == [f for f in files[1] if "lock" not in f]
    more = dict(epochs=2 * STEPS)
    code, out = finish(start(cfg.replace(out=str(tmp_path / "one"), **more), tmp_path, 2))
    assert code != 0 and "processes was 1 and is 2 now" in out, out
    with pytest.raises(RVOSError, match="processes was 2 and is 1 now. Go on with it as it was"):
        fit(two.replace(**more))
    for folder, state in zip(("one", "two"), states):
        assert_same(load_checkpoint(tmp_path / folder / "last.pth"), state)


@pytest.mark.slow
def test_notebook_launcher(cfg, tmp_path):
    code, out = finish(start(cfg.replace(epochs=2, batch_size=4), tmp_path, script=LAUNCHER))
    assert code == 0 and "2 processes" in out and out.count("best val IoU") == 1, out
    assert pd.read_csv(tmp_path / "run" / "history.csv").epoch.tolist() == [1, 2]


def loader_for(cfg, split, **how):
    annotations = load_annotations(cfg.data.root, split)
    tokenizer = load_tokenizer(cfg.model.text_encoder)
    return make_loader(annotations, cfg, tokenizer, train=split == "train", **how)


def test_shares_are_equal_disjoint_and_together_the_epoch(cfg):
    train = loader_for(cfg.replace(epoch_size=10, batch_size=2), "train", processes=3)
    train.set_epoch(5, 6)
    shares = []
    for rank in range(3):
        shard = BatchSamplerShard(train.loader.batch_sampler, 3, rank)
        shares.append([str(draw) for batch in shard for draw in batch])
    assert [len(s) for s in shares] == [2, 2, 2]  # 10 items become 12 for 3 x 2; 6 were done
    assert sorted(sum(shares, [])) == sorted(str(draw) for draw in train.sampler)
    val = loader_for(cfg, "val")

    def windows(batches):
        return [(b["video_id"][0], b["frame_ids"][0, 0].item()) for b in batches]

    seen = [w for rank in range(3) for w in windows(val.share(rank, 3))]
    assert sorted(seen) == sorted(windows(val))


def test_random_numbers_differ_between_processes_batches_and_epochs(cfg):
    sampler = loader_for(cfg, "train").sampler
    seeds = set()
    for epoch in range(3):
        sampler.set_epoch(epoch)
        seeds |= {sampler.step_seed(b, p) for b in range(50) for p in range(4)}
    assert len(seeds) == 600 and torch.manual_seed(max(seeds)) and json.dumps(sorted(seeds))
