"Two processes on the CPU (gloo), started as a user starts them on several GPUs."
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pandas as pd
import pytest
import torch
from rvos_nb.core import Config, config_to_json
from rvos_nb.data import load_annotations, make_loader
from rvos_nb.demo import make_demo_data
from rvos_nb.training import load_checkpoint

STEPS = 20

SCRIPT = """
import json, sys, torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
_BatchNorm.train = lambda self, mode=True: nn.Module.train(self, False)  # statistics of half a batch are others
from rvos_nb.core import config_from_dict
from rvos_nb.training import fit
fit(config_from_dict(json.load(open(sys.argv[1]))))
"""

LAUNCHER = """
import json, socket, sys
from accelerate import notebook_launcher
from rvos_nb.core import config_from_dict
from rvos_nb.training import fit
with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    port = s.getsockname()[1]
notebook_launcher(fit, (config_from_dict(json.load(open(sys.argv[1]))),), num_processes=2, use_port=str(port))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_demo_data(tmp_path_factory.mktemp("data") / "demo", n_train=4, n_val=2, n_frames=(4, 6), progress=False)


@pytest.fixture
def cfg(data, tmp_path) -> Config:
    "An epoch is one step, so the history holds the loss of each; the preset's word attention, and one pass through all parts."
    return Config(data=str(data), choice_weight=0.0, out=str(tmp_path / "run"), image_size=(32, 48), clip_len=2, val_window=4, batch_size=8, epoch_size=8, epochs=STEPS, hidden_dim=16, heads=2,  # no choice: sentences choose within what one process has of a batch
                  val_every=STEPS, temporal="conv3d", minutes=0.0, device="cpu")


def start(cfg, tmp_path, processes=1, script=SCRIPT):
    (tmp_path / "cfg.json").write_text(config_to_json(cfg))
    (tmp_path / "script.py").write_text(script)
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", processes, "--num_machines", 1, "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", 0]
    args = [sys.executable, *(launch if processes > 1 else []), tmp_path / "script.py", tmp_path / "cfg.json"]
    return subprocess.Popen(list(map(str, args)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, start_new_session=True)


def finish(p, seconds=900):
    try: out = p.communicate(timeout=seconds)[0]
    finally:
        if p.poll() is None: os.killpg(p.pid, signal.SIGKILL)
    return p.returncode, out


def children(pid: int) -> list[int]:
    return [int(c) for c in open(f"/proc/{pid}/task/{pid}/children").read().split()] if os.path.exists(f"/proc/{pid}") else []


def test_two_processes_train_as_one_and_survive_a_death(cfg, tmp_path):
    one = replace(cfg, out=str(tmp_path / "one"))
    code, out = finish(start(one, tmp_path))
    assert code == 0, out
    # two processes, of which one dies on the way
    two = replace(cfg, out=str(tmp_path / "two"), batch_size=4)
    p, history = start(two, tmp_path, 2), tmp_path / "two" / "history.csv"
    while p.poll() is None and not (history.exists() and len(history.read_text().splitlines()) > 4): time.sleep(0.01)
    workers = children(p.pid)
    assert len(workers) == 2 and p.poll() is None, p.communicate()[0]
    os.kill(workers[1], signal.SIGKILL)
    died = time.monotonic()
    code, out = finish(p)
    assert code != 0 and time.monotonic() - died < 60 and not any(os.path.exists(f"/proc/{w}") for w in workers), out
    # resumed, to the end
    code, out = finish(start(replace(two, resume=True), tmp_path, 2))
    assert code == 0 and out.count("best val IoU") == 1 and out.count("2 processes") == 1, out
    a, b = (pd.read_csv(tmp_path / n / "history.csv") for n in ("one", "two"))
    assert a.epoch.tolist() == b.epoch.tolist() == list(range(1, STEPS + 1))
    for column in ("train_loss", "train_iou", "grad_norm", "lr", "val_loss", "val_iou"):
        assert (a[column] - b[column]).abs().max() < 1e-4, f"{column}: {(a[column] - b[column]).abs().max()}"
    print("largest difference of a loss:", (a.train_loss - b.train_loss).abs().max())
    states = [load_checkpoint(tmp_path / n / "last.pth") for n in ("one", "two")]
    assert states[0]["model"].keys() == states[1]["model"].keys()  # no trace of the wrapper
    assert sorted(p.name for p in (tmp_path / "one").iterdir() if p.suffix != ".lock") == sorted(p.name for p in (tmp_path / "two").iterdir() if p.suffix != ".lock")


def test_notebook_launcher(cfg, tmp_path):
    code, out = finish(start(replace(cfg, epochs=2, batch_size=4), tmp_path, script=LAUNCHER))
    assert code == 0 and "2 processes" in out and out.count("best val IoU") == 1, out
    assert pd.read_csv(tmp_path / "run" / "history.csv").epoch.tolist() == [1, 2]


def test_shares_are_equal_disjoint_and_together_the_epoch(cfg, data):
    from accelerate.data_loader import BatchSamplerShard
    train = make_loader(load_annotations(data, "train"), replace(cfg, epoch_size=10, batch_size=2), train=True, processes=3)
    train.set_epoch(5, 6)
    shares = [[i for b in BatchSamplerShard(train.loader.batch_sampler, 3, rank) for i in b] for rank in range(3)]
    assert [len(s) for s in shares] == [2, 2, 2]  # 10 items become 12 for 3 x 2; 6 were done
    assert sorted(sum(shares, [])) == sorted(train.sampler)
    val = make_loader(load_annotations(data, "val"), cfg, train=False)
    seen = [(b["video_id"][0], b["frame_ids"][0, 0].item()) for rank in range(3) for b in val.share(rank, 3)]
    assert sorted(seen) == sorted((b["video_id"][0], b["frame_ids"][0, 0].item()) for b in val)


def test_random_numbers_differ_between_processes_batches_and_epochs(cfg, data):
    sampler = make_loader(load_annotations(data, "train"), cfg, train=True).sampler
    seeds = set()
    for epoch in range(3):
        sampler.set_epoch(epoch)
        seeds |= {sampler.step_seed(b, p) for b in range(50) for p in range(4)}
    assert len(seeds) == 600 and torch.manual_seed(max(seeds)) and json.dumps(sorted(seeds))
