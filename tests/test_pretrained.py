"Models of others on tiny random weights: every family by name, from folders and from a hub."

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from clips import moving, untrained
from hub_server import hub_env, serve_hub
from rvos_nb import tracking
from rvos_nb.cli import main
from rvos_nb.checkpoints import save_checkpoint
from rvos_nb.config import Config, ConfigError, RVOSError
from rvos_nb.detectors import SegmenterDetector, TextDetector
from rvos_nb.draw import write_video
from rvos_nb.pretrained import CLIPSeg, load_pretrained, model_table, running
from rvos_nb.sam3 import Sam3
from rvos_nb.segmenter import SEGMENTERS, RVOSSegmenter, load_segmenter, predict
from rvos_nb.shapes import make_shapes
from rvos_nb.tracking import Sam2Tracker
from rvos_nb.video import open_video
from tiny_pretrained import tiny_clipseg, tiny_dino, tiny_edgetam, tiny_owl, tiny_sam2, tiny_sam3

ROOT = Path(__file__).resolve().parent.parent
TEXTS = ["the red circle", "a star", "the blue dog on the left"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("tiny")
    made = {"clipseg": tiny_clipseg(root / "clipseg"), "sam2": tiny_sam2(root / "sam2")}
    made |= {"dino": tiny_dino(root / "dino"), "mm": tiny_dino(root / "mm", mm=True)}
    made |= {"owl": tiny_owl(root / "owl"), "sam3": tiny_sam3(root / "sam3")}
    ours = Config.preset("demo", image_size=(48, 80), hidden_dim=16)
    save_checkpoint(root / "run" / "best_model.pth", untrained().model, ours)
    return made | {"run": str(root / "run")}


@pytest.mark.parametrize("size", [(48, 80), (81, 47), (33, 33)])
@pytest.mark.parametrize("n", [1, 5])
def test_clipseg_equals_the_public_call(folders, size, n):
    frames = moving(n, *size)
    model = load_segmenter(f"clipseg:{folders['clipseg']}", "cpu")
    found = model.segment(frames, TEXTS)
    assert found.masks.shape == (3, n, *size)
    how = dict(text=TEXTS, images=[frames[-1]] * 3, padding=True, return_tensors="pt")
    naive = model.model(**model.processor(**how)).logits.detach().numpy()
    assert np.abs(found.logits[:, -1] - naive).max() < 1e-3


def test_clipseg_refuses_what_it_would_cut(folders):
    with pytest.raises(ConfigError, match="reads 77"):
        CLIPSeg("cpu", folders["clipseg"]).stream(open_video(moving(1)), ["the dog " * 60])


@pytest.mark.parametrize("detector", ["dino", "mm", "owl", "clipseg"])
@pytest.mark.parametrize("chooser", ["", ",chooser"])
@pytest.mark.parametrize("n", [1, 6])
def test_grounded_sam2_runs(folders, detector, n, chooser, tmp_path):
    name = f"grounded-sam2:{folders[detector]},{folders['sam2']}{chooser}"
    if detector == "clipseg":
        SEGMENTERS["tiny clipseg"] = lambda device: CLIPSeg(device, folders["clipseg"])
        name = name.replace(folders["clipseg"], "tiny clipseg")
    model = load_segmenter(name, "cpu")
    model.detector.threshold = 0.0
    found = predict(model, moving(n, 61, 47), TEXTS, tmp_path / "out", progress=False)
    assert found["complete"] and len(found["frames"]) == n
    if detector != "clipseg":
        model.detector.threshold = 1.0  # nothing is found: nothing is marked
        assert not model.segment(moving(n, 61, 47), TEXTS).masks.any()


@pytest.mark.parametrize("ask", ["whole", "noun", "both"])
@pytest.mark.parametrize("n,size", [(1, (61, 47)), (7, (48, 80))])
def test_sam3_runs(folders, ask, n, size, tmp_path):
    model = load_segmenter(f"sam3:{ask},{folders['sam3']}", "cpu")
    model.model.max_num_objects = 3
    found = predict(model, moving(n, *size), [*TEXTS, "the dogs"], tmp_path / "out", progress=False)
    assert found["complete"] and len(found["frames"]) == n
    model.model.score_threshold_detection = 1.0  # nothing is found: nothing is marked
    assert not model.segment(moving(n, *size), TEXTS).masks.any()


def test_sam3_says_what_it_cannot_do(folders):
    with pytest.raises(ConfigError, match="expected sam3:whole, sam3:noun, sam3:both"):
        load_segmenter("sam3:word", "cpu")
    model = Sam3("cpu", "whole", folders["sam3"])
    with pytest.raises(ConfigError, match="reads 32"):
        model.stream(open_video(moving(1)), ["the dog " * 30])


@pytest.mark.slow
def test_forgetting_changes_nothing_in_sam3(folders, monkeypatch):
    answers = []
    for forget in (True, False):
        if not forget:
            monkeypatch.setattr("rvos_nb.sam3._forget", lambda *a: None)
        model = Sam3("cpu", "whole", folders["sam3"])
        model.model.max_num_objects = 3
        model.model.high_conf_thresh = model.model.high_iou_thresh = 0.0  # confirm every 4 frames
        model.model.recondition_every_nth_frame = 4
        answers.append(model.segment(moving(40), ["a star", "a dog"]).logits)
    assert (answers[0] == answers[1]).all()


def test_a_session_of_sam3_forgets(folders):
    model = Sam3("cpu", "whole", folders["sam3"])
    model.model.max_num_objects, model.model.recondition_every_nth_frame = 2, 4
    model.model.high_conf_thresh = model.model.high_iou_thresh = -100.0  # confirms whatever it sees
    model.model.assoc_iou_thresh = 0.0
    state = model.processor.init_video_session()
    model.processor.add_text_prompt(state, ["a star"])
    state.processed_frames = dict.fromkeys(range(48))
    for t, image in enumerate(moving(48)):
        model._look(state, t, image)
    assert not any(frame is not None for frame in state.processed_frames.values())
    assert len(state.suppressed_obj_ids) <= 1
    for kept in state.output_dict_per_obj.values():
        assert len(kept["non_cond_frame_outputs"]) <= 16
        heavy = [out for out in kept["cond_frame_outputs"].values() if "maskmem_features" in out]
        assert len(heavy) <= 6
    confirmed = [len(kept["cond_frame_outputs"]) for kept in state.output_dict_per_obj.values()]
    assert max(confirmed) > 6, confirmed  # else there was nothing to forget


def test_edgetam_runs(folders, tmp_path):
    model = load_segmenter(f"grounded-sam2:{folders['dino']},{tiny_edgetam(tmp_path / 'e')}", "cpu")
    model.detector.threshold = 0.0
    assert model.segment(moving(3), TEXTS).masks.shape == (3, 3, 48, 80)


@pytest.mark.parametrize("kind", ["tracker", "backbone"])
def test_without_timm_the_way_to_it_is_said(folders, tmp_path, kind):
    "In a process of its own, for which timm is not there."
    folder = tiny_edgetam(tmp_path / "edgetam")
    if kind == "backbone":
        config = {"model_type": "timm_backbone", "backbone": "resnet18"}
        (Path(folder) / "config.json").write_text(json.dumps(config))
    code = f"""
import sys
sys.modules["timm"] = None
from rvos_nb.config import RVOSError
from rvos_nb.encoders import VisualBackbone
from rvos_nb.tracking import Sam2Tracker
try:
    {"Sam2Tracker" if kind == "tracker" else "VisualBackbone"}({folder!r})
except RVOSError as e:
    print(e)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert folder in run.stdout and "pip install timm" in run.stdout, run
    assert run.stdout.count("\n") == 1


def test_owl_scores_each_expression_by_itself(folders):
    model, image = TextDetector(folders["owl"], "cpu", threshold=0), moving(1)[0]
    together = model.detect(image, TEXTS)
    for text, found in zip(TEXTS, together):
        alone = model.detect(image, [text])[0]
        assert np.allclose([f.box for f in found], [f.box for f in alone], atol=1e-3)
        assert np.allclose([f.score for f in found], [f.score for f in alone], atol=1e-5)


@pytest.mark.parametrize("detector", ["dino", "mm", "owl"])
def test_a_detector_refuses_what_it_would_cut(folders, detector):
    model = TextDetector(folders[detector], "cpu")
    with pytest.raises(ConfigError, match="tokens: .* reads"):
        model.detect(moving(1)[0], ["the dog " * 60])


def test_expressions_in_several_batches_are_those_of_one(folders):
    model, image = TextDetector(folders["dino"], "cpu", threshold=0), moving(1)[0]
    many = model.detect(image, TEXTS * 2)
    assert len(many) == 6
    for a, b in zip(many, [f for text in TEXTS * 2 for f in model.detect(image, [text])]):
        assert np.allclose([f.score for f in a], [f.score for f in b], atol=1e-4)


def test_a_session_forgets(folders):
    found = SegmenterDetector(load_segmenter(f"clipseg:{folders['clipseg']}", "cpu"))
    found = [f[0]._replace(box=(1, 2, 30, 20)) for f in found.detect(moving(1)[0], TEXTS)[:2]]
    session = Sam2Tracker(folders["sam2"], "cpu").start(found)
    for image in moving(40):
        assert session.step(image).shape[0] == 2
    assert len(session.state.processed_frames) <= 2
    for kept in session.state.output_dict_per_obj.values():
        assert len(kept["non_cond_frame_outputs"]) <= session.reach
        assert not any("high_res_masks" in out for out in kept["non_cond_frame_outputs"].values())


NAMES = {
    "clipseg": "clipseg:{clipseg}",
    "grounded": "grounded-sam2:{dino},{sam2}",
    "sam3": "sam3:both,{sam3}",
    "our detector": "grounded-sam2:{run},{sam2}",
    "our judge": "grounded-sam2:{dino},{sam2},{run}",
}


@pytest.mark.parametrize("model", NAMES)
def test_in_a_terminal(folders, model, tmp_path):
    clip, name = tmp_path / "clip.mp4", NAMES[model].format(**folders)
    write_video(clip, moving(3), fps=5)
    out, data = str(tmp_path / "out"), str(tmp_path / "shapes")
    assert main(["predict", "--model", name, str(clip), "the red circle", "--out", out]) == 0
    if model == "sam3":  # its tiny model takes a hundred things in
        return
    make_shapes(data, n_train=1, n_val=2, n_frames=(4, 4), split_kind="all")
    scored = str(tmp_path / "scored")
    assert main(["evaluate", "--model", name, "--data", data, "--out", scored]) == 0
    sources = set(pd.read_csv(scored + "/scores.csv")["source"])
    assert {"model", "swapped", "empty", "other video"} <= sources


def test_our_run_detects_and_judges(folders):
    detects, judges = (
        load_segmenter(NAMES[f"our {job}"].format(**folders), "cpu")
        for job in ("detector", "judge")
    )
    assert isinstance(detects.detector.segmenter, RVOSSegmenter) and not detects.choose
    assert isinstance(judges.model, RVOSSegmenter) and judges.choose
    judges.detector.threshold = 0.0  # so that there is something to judge
    frames, asked = moving(6, 61, 47), []
    stream = judges.model.stream
    judges.model.stream = lambda video, texts: asked.extend(texts) or stream(video, texts)
    for model in (detects, judges):
        assert model.segment(frames, TEXTS[:2]).masks.shape == (2, 6, 61, 47)
    assert "the object" in asked and len(asked) == 3  # two nouns beside it
    assert detects.segment(frames, TEXTS[:2]).masks.any()


STAGES = {  # of the bar below that of the whole, which is called segment
    "clipseg": ["segment"],
    "grounded": ["segment", "count", "detect", "track back"],
    "chosen": ["segment", "count", "detect", "track back", "track", "choose"],
    "sam3": ["segment", "count", "detect and track"],
}


@pytest.mark.parametrize("model", STAGES)
def test_the_progress_bar_names_the_stage(folders, model, tmp_path, capsys):
    name = {**NAMES, "chosen": NAMES["grounded"] + ",chooser", "sam3": "sam3:whole,{sam3}"}[model]
    segmenter = load_segmenter(name.format(**folders), "cpu")
    if hasattr(segmenter, "detector"):
        segmenter.detector.threshold = 0.0
    predict(segmenter, moving(12), TEXTS[:1], tmp_path / "out")
    said = [re.split(r":\s+\d+%", bar)[0].strip() for bar in capsys.readouterr().err.split("\r")]
    assert [x for x in dict.fromkeys(said) if x in STAGES[model]] == STAGES[model], said


def _passes(name: str, folders, texts: list[str]) -> int:
    "How often the pictures of a clip go through the models when `texts` are asked for."
    model = load_segmenter(name.format(**folders), "cpu")
    owners = [model, *(getattr(model, part, None) for part in ("detector", "tracker"))]
    looks = [m for m in map(lambda x: getattr(x, "model", None), owners) if m is not None]
    calls = []
    for look in looks:
        for part in look.modules():
            if type(part).__name__.endswith(("VisionModel", "VisionTransformer", "ConvEncoder")):
                part.register_forward_hook(lambda *a: calls.append(1))
    if hasattr(model, "detector"):
        model.detector.threshold, model.key_frames = 0.0, 1  # one key frame is the best for all
    model.segment(moving(6), texts)
    return len(calls)


@pytest.mark.parametrize("model", ["clipseg", "grounded", "owl", "sam3"])
def test_expressions_share_the_visual_passes(folders, model):
    name = {**NAMES, "owl": "grounded-sam2:{owl},{sam2}", "sam3": "sam3:whole,{sam3}"}[model]
    alone, three = (_passes(name, folders, texts) for texts in (TEXTS[:1], TEXTS))
    assert alone == three > 0


def test_what_names_a_question_is_made_once_and_only_where_it_is_used(folders, monkeypatch):
    summed, read, crc = [], [], tracking.zlib.crc32
    old = tracking.checksum
    monkeypatch.setattr(tracking, "checksum", lambda part: summed.append(part) or old(part))
    monkeypatch.setattr(tracking.zlib, "crc32", lambda *a: read.append(1) or crc(*a))
    model = load_segmenter(NAMES["grounded"].format(**folders), "cpu")
    for frames in (moving(3), moving(4)):
        model.segment(frames, TEXTS[:1])
    assert len(summed) == 3 and len(read) == 7  # detector, tracker, no judge; each frame
    free = tracking.DetectAndTrack(model.detector, model.tracker)
    free.segment(moving(3), TEXTS[:1])
    assert len(summed) == 3 and len(read) == 7  # nothing is kept: nothing is named


def test_names_need_no_further_import():
    code = "from rvos_nb.segmenter import load_segmenter\n"
    code += (
        "for name in ('clipseg', 'grounded-sam2', 'sam3'):\n    try: load_segmenter(name, 'cpu')\n"
    )
    code += "    except Exception as e: print(type(e).__name__, e)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done
    assert all("RVOSError" in line and "not on this machine yet" in line for line in lines)


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_help_lists_the_names(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    said = capsys.readouterr().out
    for row in model_table().itertuples():
        assert row.name in said
    assert "apache-2.0" in said and "3440 MB" in said and "gated" in said and "Memory" in said


def test_the_page_about_models_has_the_same_facts():
    page = (ROOT / "nbs" / "models.md").read_text("utf-8")
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| `")]
    listed = {r[0].strip("`"): r[1:6] for r in rows if len(r) == 7}
    assert len(listed) == len(model_table())
    for row in model_table().itertuples():
        facts = [row.job, row.model, row.licence, f"{row.MB} MB", row.gated]
        assert listed[row.name] == facts


@pytest.mark.parametrize("name", ["clipseg:sam9", "grounded-sam2:sam9", "sam3:whole,sam9"])
def test_an_unknown_name_is_one_line(name):
    with pytest.raises(RVOSError, match="sam9: no such folder, and no known model") as e:
        load_segmenter(name, "cpu")
    assert "\n" not in str(e.value)


def test_a_model_of_another_family_is_refused(folders):
    with pytest.raises(ConfigError, match="type clipseg is no detector"):
        load_segmenter(f"grounded-sam2:{folders['clipseg']}", "cpu")


def _damaged(folder: str, to: Path, damage: str) -> str:
    shutil.copytree(folder, to)
    weights = to / "model.safetensors"
    if damage == "no weights":
        weights.unlink()
    elif damage == "cut off":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "larger than any memory":
        os.truncate(weights, 1 << 42)  # sparse: takes no room
    elif damage == "other sizes":
        config = json.loads((to / "config.json").read_text())
        config["reduce_dim"] = 64
        (to / "config.json").write_text(json.dumps(config))
    elif damage == "no settings":
        (to / "config.json").unlink()
    elif damage == "some weights":
        from safetensors.torch import load_file, save_file

        kept = {k: v for k, v in load_file(weights).items() if "decoder" not in k}
        save_file(kept, weights, metadata={"format": "pt"})
    return str(to)


DAMAGE = {
    "no weights": "has no model.safetensors: the weights are missing",
    "cut off": "cannot be read",
    "larger than any memory": "GB of memory are free on cpu: take a smaller model",
    "other sizes": "cannot be read",
    "no settings": "a model of type unknown is no clipseg",
    "some weights": "lacks [0-9]+ of the weights, such as decoder",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_folder_is_one_line(folders, damage, tmp_path):
    folder = _damaged(folders["clipseg"], tmp_path / "model", damage)
    with pytest.raises(RVOSError, match=DAMAGE[damage]) as e:
        load_pretrained("clipseg", folder, CPU)
    assert "\n" not in str(e.value) and len(str(e.value)) < 400


def test_too_little_memory_at_work_is_one_line():
    with pytest.raises(RVOSError, match="sam3: too little memory on cpu"):
        with running("sam3", CPU):
            torch.empty(1 << 50)
    with pytest.raises(RuntimeError, match="size"):  # any other error stays
        with running("sam3", CPU):
            torch.ones(2) + torch.ones(3)


# from a hub


def _predict(model: str, clip: Path, out: Path, hub, home: Path, token: str = ""):
    env = os.environ | hub_env(hub, home, token)
    command = [sys.executable, "-m", "rvos_nb.cli_main", str(clip), "the red circle"]
    command[1:3] = ["-c", "import sys; from rvos_nb.cli import main; sys.exit(main())", "predict"]
    command += ["--model", model, "--out", str(out)]
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_video(path, moving(3), fps=5)
    return path


def test_a_model_comes_from_a_hub_once(folders, clip, tmp_path):
    with serve_hub() as hub:
        hub.add_folder("other/clipseg", Path(folders["clipseg"]))
        home, name = tmp_path / "home", "clipseg:other/clipseg"
        done = _predict(name, clip, tmp_path / "a", hub, home)
        assert done.returncode == 0, done.stderr
        size = Path(folders["clipseg"], "model.safetensors").stat().st_size / 1e6
        assert f"other/clipseg: licence see its card, {size:.1f} MB, once" in done.stderr
        assert done.stderr.index("licence") < done.stderr.index("100%")
        asked = len(hub.asked)
        done = _predict(name, clip, tmp_path / "b", hub, home)  # what is here is not asked for
        assert (done.returncode, len(hub.asked)) == (0, asked), done.stderr
        assert "licence" not in done.stderr


TROUBLES = ["gated", "no login", "private", "unknown", "cut", "offline", "no weights"]


@pytest.mark.parametrize("trouble", TROUBLES)
def test_trouble_with_a_hub_is_one_line(folders, clip, trouble, tmp_path):
    how = {"gated": dict(gated=403), "no login": dict(gated=401), "private": dict(private=True)}
    how = how.get(trouble, {})
    with serve_hub(token="secret", cut_at=2000 if trouble == "cut" else 0) as hub:
        if trouble == "no weights":
            hub.repos.clear()
            folder = _damaged(folders["clipseg"], tmp_path / "m", "no weights")
            hub.add_folder("other/clipseg", Path(folder))
        elif trouble != "unknown":
            hub.add_folder("other/clipseg", Path(folders["clipseg"]), **how)
        if trouble == "offline":
            hub.url = "http://127.0.0.1:9"
        done = _predict("clipseg:other/clipseg", clip, tmp_path / "out", hub, tmp_path / "home")
    said = {
        "gated": "gated: ask for access on the model's page",
        "no login": "gated: ask for access on the model's page",
        "private": "no such model, or a private one",
        "unknown": "no such model, or a private one",
        "cut": "try again",
        "offline": "check the network",
        "no weights": "the weights are missing",
    }
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and said[trouble] in last, done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "out").exists()


def test_a_full_disk_is_said_before_the_download(folders, clip, tmp_path):
    with serve_hub() as hub:
        folder = _damaged(folders["clipseg"], tmp_path / "m", "")
        hub.add_folder("other/clipseg", Path(folder))
        hub.sizes["model.safetensors"] = 1 << 60
        done = _predict("clipseg:other/clipseg", clip, tmp_path / "out", hub, tmp_path / "home")
        assert not any("/resolve/" in line and "safetensors" in line for line in hub.asked)
    assert done.returncode == 1
    assert "make room, or set HF_HOME to a folder on another disk" in done.stderr


# interrupted, and long


SLOW = """
import sys, time
from rvos_nb import sam3, segmenter, tracking
from rvos_nb.cli import main
parts = {
    "back": (tracking._Path, "_track_back"),
    "track": (tracking._Path, "track"),
    "step": (tracking._Sam2Session, "step"),
    "see": (sam3.Sam3, "_track"),
    "answer": (tracking, "union"),
    "write": (segmenter, "write_ids"),
}
def tell(name, owner, part):
    old = getattr(owner, part)
    def told(*a):
        print(name, flush=True)
        time.sleep(0.2 if name in ("step", "answer", "write") else 0)
        found = old(*a)
        print(name, "done", flush=True)
        return found
    setattr(owner, part, told)
for name, (owner, part) in parts.items():
    tell(name, owner, part)
sys.exit(main(sys.argv[1:]))
"""


def _interrupt(args: list[str], lines: list[str], how: int, env: dict) -> str:
    "Run `rvos` until it has printed `lines`, then send it the signal `how`; what it said."
    command, pipe = [sys.executable, "-c", SLOW, *args], subprocess.PIPE
    env = os.environ | env
    with subprocess.Popen(
        command, stdout=pipe, stderr=pipe, text=True, env=env, cwd=ROOT
    ) as process:
        for line in process.stdout:
            lines = lines[line.strip() == lines[0] :]
            if not lines:
                break
        process.send_signal(how)
        said = process.communicate(timeout=60)[1]
    assert not lines and process.returncode == (130 if how == signal.SIGINT else -how), said
    return said


CALLS = {
    "detect": (TextDetector, "detect"),
    "back": (tracking._Path, "_track_back"),
    "track": (tracking._Path, "track"),
    "see": (Sam3, "_track"),
}
BOTH_WAYS = "back done, back done, step done"  # two expressions, each with its key frame
INTERRUPTED = {  # model, where, signal; what is done again, and what is not
    "on the way back": ("grounded", "back, step done", signal.SIGINT, {"back"}, {"detect"}),
    "forwards": ("grounded", BOTH_WAYS, signal.SIGINT, set(), {"detect", "back"}),
    "killed": ("chosen", "back done, step done", signal.SIGKILL, {"track"}, {"detect"}),
    "while sam3 answers": ("sam3", "see done, answer", signal.SIGINT, set(), {"see"}),
    "clipseg, which keeps nothing": ("clipseg", "write done, write", signal.SIGINT, set(), set()),
}


def _calls(monkeypatch) -> dict[str, int]:
    "How often each part is called from now on."
    calls = dict.fromkeys(CALLS, 0)
    for name, (owner, part) in CALLS.items():

        def count(*a, name=name, old=getattr(owner, part)):
            calls[name] += 1
            return old(*a)

        monkeypatch.setattr(owner, part, count)
    return calls


@pytest.mark.parametrize("case", INTERRUPTED)
def test_interrupted_and_asked_again(folders, case, tmp_path, monkeypatch):
    model, where, how, again, kept = INTERRUPTED[case]
    clip, out, home, temporary = (tmp_path / x for x in ("clip.mp4", "out", "home", "tmp"))
    write_video(clip, moving(12), fps=5)
    temporary.mkdir()
    names = {"grounded": f"grounded-sam2:{folders['dino']},{folders['sam2']}"}
    names |= {"chosen": names["grounded"] + ",chooser", "sam3": f"sam3:whole,{folders['sam3']}"}
    names |= {"clipseg": f"clipseg:{folders['clipseg']}"}
    args = ["predict", "--model", names[model], str(clip), *TEXTS[:2], "--out"]
    env = {"TMPDIR": str(temporary), "RVOS_HOME": str(home), "PYTHONUNBUFFERED": "1"}
    said = _interrupt([*args, str(out)], where.split(", "), how=how, env=env)
    assert "Traceback" not in said, said
    if (out / "scores.json").exists():  # frames that were answered: said to be not all
        assert not json.loads((out / "scores.json").read_text())["complete"]
    elif how == signal.SIGINT:
        assert not out.exists() and not any(temporary.iterdir())
    monkeypatch.setenv("RVOS_HOME", str(home))
    calls = _calls(monkeypatch)
    assert main([*args, str(out), "--overwrite"]) == 0
    assert all(calls[name] for name in again) and not any(calls[name] for name in kept), calls
    assert not any((home / "tracks").glob("*"))  # answered to the end
    assert main([*args, str(tmp_path / "fresh")]) == 0
    assert all(calls[name] for name in kept), "asked anew, done anew"
    for mask in sorted((tmp_path / "fresh" / "masks").iterdir()):
        assert mask.read_bytes() == (out / "masks" / mask.name).read_bytes()


MEMORY = """
import resource, sys
sys.path.insert(0, {tests!r})
from clips import moving
from rvos_nb.segmenter import load_segmenter
import numpy as np
model = load_segmenter(sys.argv[1], "cpu")
if hasattr(model, "detector"): model.detector.threshold = 0.0
if hasattr(model, "ask"): model.model.max_num_objects = 2
frames = moving(8, 60, 44)
from rvos_nb.video import Frame, open_video
from dataclasses import replace
short = open_video(frames)
def read(n):
    return lambda: (Frame(t, t, frames[t % 8], 1) for t in range(n))
peaks = []
for n in (40, int(sys.argv[2])):
    for found in model.stream(replace(short, length=n, read=read(n)), ["a star", "the dog"]):
        pass
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
print(*peaks)
"""


@pytest.mark.slow
@pytest.mark.parametrize("model", ["clipseg", "grounded", "chosen", "sam3"])
def test_memory_does_not_grow_with_the_video(folders, model):
    names = {"clipseg": f"clipseg:{folders['clipseg']}", "sam3": f"sam3:whole,{folders['sam3']}"}
    names["grounded"] = f"grounded-sam2:{folders['dino']},{folders['sam2']}"
    names["chosen"] = names["grounded"] + ",chooser"
    code = MEMORY.format(tests=str(ROOT / "tests"))
    command = [sys.executable, "-c", code, names[model], "300"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    short, long = map(float, done.stdout.split())
    assert long - short < 30, f"{short} MB after 40 frames, {long} after 300"
