"Breakdowns by hand, several objects and none, and the pictures."

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from boxes import Masks, blurred, scenes, truth, write_data

from rvos_nb import breakdowns as bd
from rvos_nb.config import RVOSError
from rvos_nb.data import Expression, ObjectMasks
from rvos_nb.datasets import load_annotations
from rvos_nb.evaluation import evaluate
from rvos_nb.layout import ANNOTATORS
from rvos_nb.tables import ORDER

NO_BASELINES = {"controls": (), "baselines": ()}


@pytest.fixture(scope="module")
def boxes(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("boxes"), scenes())


def test_breakdown_by_hand():
    rows = {
        "source": "model",
        "video_id": list("aabb"),
        "kind": ["x", "y", "x", "x"],
        "J": [1, 0.5, 0, 0.5],
        "F": [1, 0.5, 0, 0.5],
        "expression": ["a red bright star", "the Left one", "a dog", "a big black dog"],
        "J_frames": [np.array([1, 1, np.nan, 0, 0.0])] * 4,
        "marked_frames": [4, 4, 0, 4],
    }
    scores = pd.DataFrame(rows)
    t = bd.group_by(scores, "kind").set_index("kind")
    assert t.loc["x", "J&F"] == pytest.approx(50) and t.loc["x", "expressions"] == 3
    assert t.loc["y", "videos"] == 1 and np.isnan(t.loc["y", "low"])
    assert t["nothing"].to_dict() == {"x": pytest.approx(100 / 3), "y": 0}
    words = bd.by_words(scores).set_index("expressions with")["expressions"].to_dict()
    want = {"colour words": 2, "place words": 1, "size words": 1, "none of these": 1}
    assert words == want  # "bright" is not "right"
    assert bd.decay(scores).iloc[0, 1:].tolist() == [100, 100, 0, 0, 100]  # unlabelled: left out


def test_object_facts_by_hand(tmp_path):
    ids = np.zeros((4, 40, 30), np.uint8)  # diagonal 50
    for t in range(3):  # 100 pixels, 5 a frame, gone at the end
        ids[t, 5:15, 2 + 5 * t : 12 + 5 * t] = 1
    ids[:, 30:35, 10:20] = 2
    ids[3, 30:32, 10:20] = 0
    said = {}
    for o, text in {1: "a green star", 2: "the big star"}.items():
        said |= {("v", o, a): text for a in ANNOTATORS}
    f = bd.object_facts(write_data(tmp_path, {"v": ids}, said)).set_index("object_id")
    assert f.loc[1, "area_percent"] == pytest.approx(100 / 12)
    assert f.loc[1, "speed"] == pytest.approx(10) and f.loc[1, "shown"] == 0.75
    assert f.loc[2, "least_area"] == pytest.approx(0.6) and f.loc[2, "shown"] == 1
    assert (f["similar"] == 1).all()


def test_several_objects_and_none_have_scores_but_no_facts(boxes):
    record = boxes["v0"]
    masks = {o: [record.masks.mask(t, (o,)) for t in range(4)] for o in (1, 2)}
    more = [Expression("a", "both things", (1, 2)), Expression("b", "a unicorn", ())]
    rich = replace(
        record,
        masks=ObjectMasks(record.masks.size, masks),
        expressions=[*record.expressions, *more],
    )
    data = boxes.subset(["v1"])
    data["v0"] = rich
    scores = evaluate(data, Masks(truth), **NO_BASELINES)
    found = bd.breakdowns(scores, data)
    assert found.loc[("expressions with", "none of these"), "expressions"] == 18
    assert found.loc["objects"]["expressions"].sum() == 4 * 16  # of four kinds of facts
    assert len(bd.time_chart(scores, ["v0"]).axes[0].lines) == 4


def test_refvos_categories_and_label_noise(davis, tmp_path):
    annotations = load_annotations(davis, "val")
    rows = []
    for video, record in annotations.items():
        for e in record.expressions:
            row = {"video_id": video, "object_ids": e.object_ids, "group": e.group}
            row |= {"source": "model", "expression": e.text, "marked_frames": 1}
            rows.append(row | {"J": 0.5, "F": 0.5})
    t = bd.by_categories(pd.DataFrame(rows), davis).set_index("RefVOS category")
    assert t.loc["says: category", "expressions"] == len(annotations) == 9
    hard = [i for i in t.index if "rivial" in i or "Not a" in i]
    assert t.loc[hard, "expressions"].sum() == 9
    noisy = write_data(tmp_path, {"lab-coat": scenes(1)["v0"], "other": scenes(1)["v0"]})
    scores = evaluate(noisy, Masks(truth), **NO_BASELINES)
    assert set(scores[scores["label_noise"]]["video_id"]) == {"lab-coat"}
    notes = bd.video_table(scores).set_index("video_id")["note"].to_dict()
    assert notes == {"lab-coat": "known label noise", "other": ""}


def test_categories_of_another_form_are_refused(boxes, tmp_path):
    scores = evaluate(boxes, Masks(truth), **NO_BASELINES)
    (tmp_path / "DAVIS17_RE_categorization.csv").write_text("video_id,instance_id\na,1\n")
    with pytest.raises(RVOSError, match="DAVIS17_RE_categorization.csv: no column"):
        bd.by_categories(scores, tmp_path)
    assert bd.by_categories(scores, tmp_path / "elsewhere") is None


def test_pictures(boxes):
    scores = evaluate(boxes, Masks(blurred), baselines=("everything", "nothing", "centre blob"))
    mine = scores[scores["source"] == "predictions"]
    labels = [t.get_text() for t in bd.bar_chart(scores, ORDER).axes[0].get_yticklabels()]
    assert labels == ["everything", "nothing", "centre blob", "predictions"]
    assert len(bd.time_chart(mine).axes) == 3 and len(bd.time_chart(mine, ["v1"]).axes) == 1
    with pytest.raises(RVOSError, match="no scores of video 'bear'; there are: v0, v1, v2"):
        bd.time_chart(mine, ["bear"])
    sheet = bd.worst_sheet(boxes, Masks(blurred), mine, n=2)
    assert sheet.dtype == np.uint8 and sheet.ndim == 3
    assert ((sheet.astype(int) @ (1, 0, -1)) > 100).any()  # orange
