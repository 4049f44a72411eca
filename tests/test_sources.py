"Several data sets in one training: the words of --mix, shares, what resumes and what does not."

import itertools
import math
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from rvos_nb.checkpoints import load_checkpoint
from rvos_nb.cli import main, parse, preset_in
from rvos_nb.config import Config, ConfigError, DataConfig, RVOSError
from rvos_nb.encoders import load_tokenizer
from rvos_nb.fit import Trainer, fit
from rvos_nb.loaders import MixedAnnotations, make_loader
from rvos_nb.shapes import make_shapes
from rvos_nb.sources import data_root, load_splits, mixed_roots, parse_mix
from runs import assert_same, make_data, tiny


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_data(tmp_path_factory.mktemp("first"))


@pytest.fixture(scope="module")
def more(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("second") / "more"
    how = dict(n_train=5, n_val=1, n_frames=(4, 6), seed=9, progress=False)
    return make_shapes(folder, split_kind="all", **how)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("davis", "mix, 'davis': expected FOLDER:SHARE"),
        ("davis:", "mix, 'davis:': expected FOLDER:SHARE"),
        (":1", "mix, ':1': expected FOLDER:SHARE"),
        ("davis:1,", "mix, '': expected FOLDER:SHARE"),
        ("davis:much", "mix, 'davis:much': expected FOLDER:SHARE"),
        ("davis:0", "mix, 'davis:0': expected a share above 0"),
        ("davis:-1", "expected a share above 0"),
        ("davis:nan", "expected a share above 0"),
        ("davis:inf", "expected a share above 0"),
        ("davis:1,davis:2", "mix: davis stands there twice"),
    ],
)
def test_a_mix_that_cannot_be_is_one_clear_line(text, said, capsys, tmp_path):
    with pytest.raises(ConfigError, match=said):
        parse_mix(text)
    assert main(["train", "--mix", text, "--out", str(tmp_path / "run")]) == 2
    shown = capsys.readouterr().err
    assert said in shown and shown.count("\n") == 1 and not (tmp_path / "run").exists()


def test_the_words_of_a_mix():
    assert parse_mix("") == {} and parse_mix("a:1, C:\\b:0.5") == {"a": 1.0, "C:\\b": 0.5}
    one = DataConfig(mix="a:1,b:2")
    assert data_root(one) == Path("a") and list(mixed_roots(one).items())[0] == (Path("a"), 1)
    other = DataConfig(root="b", mix="a:1,b:2")  # the folder of the data comes first
    assert list(mixed_roots(other).items()) == [(Path("b"), 2), (Path("a"), 1)]
    with pytest.raises(ConfigError, match="expected the folder of the data, c, among them"):
        mixed_roots(DataConfig(root="c", mix="a:1,b:2"))
    assert preset_in(["train", "--mix", "a:1"]) == "best"
    assert parse(["train", "--mix", "a:1,b:2"]).config.data.mix == "a:1,b:2"


def mixed(data: Path, *others: tuple[Path, float], share: float = 1, **knobs) -> Config:
    mix = ",".join(f"{root}:{n}" for root, n in ((data, share), *others))
    return tiny(data, data.parent / "run", **{"mix": mix, **knobs})


def sources_of(cfg: Config, epochs: int = 2) -> list[str]:
    "The source of each training clip: the folder's name, or '' for the first."
    train = load_splits(cfg)["train"]
    loader = make_loader(train, cfg, load_tokenizer("demo-bert"), train=True)
    names = [loader.dataset.items[d.item][0].rpartition("/")[0] for d in _draws(loader, epochs)]
    assert len(names) == epochs * cfg.data.epoch_size
    return names


def _draws(loader, epochs: int) -> list:
    draws = []
    for epoch in range(epochs):
        loader.set_epoch(epoch)
        draws += list(loader.sampler)
    return draws


@pytest.mark.parametrize(("first", "second"), [(1, 1), (3, 1), (1, 4), (0.9, 0.1)])
def test_shares_hold_at_each_moment_of_an_epoch(data, more, first, second):
    cfg = mixed(data, (more, second), share=first, epoch_size=120, expressions_per_clip=3)
    names, wanted = sources_of(cfg), second / (first + second)
    for n in (30, 60, 90, 120):
        assert abs(names[:n].count("more") - wanted * n) <= 3  # the clips of one group
    assert set(names) == {"", "more"}
    draws = [list(_draws(loader_of(cfg), 1)) for _ in range(2)]
    assert draws[0] == draws[1]


def loader_of(cfg: Config):
    tokenizer = load_tokenizer("demo-bert")
    return make_loader(load_splits(cfg)["train"], cfg, tokenizer, train=True)


def test_one_source_is_drawn_as_without_a_mix(data):
    draws = [_draws(loader_of(cfg), 2) for cfg in (mixed(data), tiny(data, data.parent / "run"))]
    assert draws[0] == draws[1]


def test_three_sources_two_of_them_of_one_name(data, more, tmp_path):
    twin = make_shapes(tmp_path / "more", n_train=2, n_val=1, seed=3, progress=False)
    cfg = mixed(data, (more, 1), (twin, 1), frame_stride=2, max_videos=2, copy_paste_clips=2)
    splits = load_splits(cfg)
    train = splits["train"]
    assert isinstance(train, MixedAnnotations) and len(train) == 2 + 2 + 2 + 2  # two pasted
    assert Counter(train.source_of.values()) == {0: 4, 1: 2, 2: 2}
    assert all(v == record.id for v, record in train.items())
    names = [v.rpartition("/")[0] for v in train]
    assert names.count("more") == 4 and len(set(train)) == 8
    assert list(splits["val"]) == list(load_splits(tiny(data, tmp_path / "x"))["val"])
    assert train.describe().count("share 1:") == 3
    item = next(iter(loader_of(cfg)))
    assert item["frames"].shape[0] == cfg.data.batch_size


def test_a_source_with_problems_or_without_training_videos(data, more, tmp_path):
    with pytest.raises(RVOSError, match="no such folder"):
        load_splits(mixed(data, (tmp_path / "no", 1)))
    bad = Path(shutil.copytree(more, tmp_path / "bad"))
    frame = next(iter(sorted((bad / "DAVIS/JPEGImages/480p").glob("*train*/00001.jpg"))))
    frame.write_bytes(b"no picture")
    with pytest.raises(RVOSError, match="bad: 1 problems"):
        load_splits(mixed(data, (bad, 1)))
    train = load_splits(mixed(data, (bad, 1), skip_bad=True))["train"]
    assert f"bad/{frame.parent.name}" not in train and len(train) == 4 + 4
    empty = Path(shutil.copytree(more, tmp_path / "empty"))
    (empty / "DAVIS/ImageSets/2017/train.txt").unlink()
    with pytest.raises(RVOSError, match="no split 'train' there"):
        load_splits(mixed(data, (empty, 1)))


def test_a_run_goes_on_with_its_mix_and_knows_its_sources_by_content(data, more, tmp_path):
    whole = mixed(data, (more, 1), epochs=2).replace(out=str(tmp_path / "whole"), root="")
    fit(whole)
    broken = whole.replace(out=str(tmp_path / "broken"))
    trainer = Trainer(broken)
    trainer.begin_run()
    trainer.run_epoch()  # and the machine goes away
    trainer.close()
    moved = Path(shutil.copytree(more, tmp_path / "elsewhere" / "more"))
    fit(broken.replace(mix=f"{data}:1,{moved}:1"))  # the same data in another place
    states = [load_checkpoint(tmp_path / name / "last.pth") for name in ("whole", "broken")]
    assert states[0]["config"]["data"]["root"] == str(data)  # the first of the mix is named
    assert_same(states[0]["model"], states[1]["model"])
    assert states[0]["data"] == states[1]["data"] and len(states[0]["data"].split()) == 3
    with pytest.raises(RVOSError, match=r"mix was \[1.0, 1.0\] and is \[1.0, 2.0\] now"):
        fit(broken.replace(mix=f"{data}:1,{more}:2", epochs=3))
    with pytest.raises(RVOSError, match="had other files or expressions"):
        other = make_shapes(tmp_path / "other", n_train=5, n_val=1, seed=4, progress=False)
        fit(broken.replace(mix=f"{data}:1,{other}:1", epochs=3))
    assert all(torch.isfinite(w).all() for w in states[0]["model"].values())
    assert not math.isnan(states[0]["history"][-1]["train_iou"])


def test_the_furthest_behind_is_next(data, more):
    loader = loader_of(mixed(data, (more, 2), epoch_size=12, expressions_per_clip=1))
    names = [loader.dataset.items[d.item][0].startswith("more/") for d in _draws(loader, 1)]
    assert all(sum(names[k : k + 3]) == 2 for k in range(0, 12, 3))
    assert list(itertools.accumulate(names))[-1] == 8
