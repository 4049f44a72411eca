"The benchmarks' common parts: named data and weights, a run of `rvos train`, scores, tables."

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from rvos_nb.config import Config
from rvos_nb.evaluation import evaluate
from rvos_nb.fit import Trainer
from rvos_nb.runtime import cache_dir, lock
from rvos_nb.segmenter import load_segmenter
from rvos_nb.tables import mean_scores

HERE = Path(__file__).parent
DAVIS = "RVOS_DAVIS"  # a folder with DAVIS/ and davis_text_annotations/
BACKBONE = "RVOS_BACKBONE_WEIGHTS"  # a state dict of torchvision's mobilenet_v2
TEXT = "RVOS_TEXT_ENCODER"  # a folder with a BERT-like model; the committed figures: MiniLM-L6


# memory.py measures what a memory brings; the other tables are about the model frame by frame
NO_MEMORY = dict(target_weight=0.0, memory_frames=0)


def named(variable: str) -> str:
    "What an environment variable names; ends the program with a line where it is not set."
    return os.environ.get(variable) or sys.exit(f"{variable} is not set; see benchmarks/README.md")


def real_parts() -> dict:
    "Knobs that put real video and pretrained encoders into any preset, on the CPU."
    return dict(
        root=named(DAVIS),
        backbone="mobilenet_v2",
        backbone_weights=named(BACKBONE),
        text_encoder=named(TEXT),
        text_weights="default",
        device="cpu",
    )


def train(flags: list[str], run: Path, home: Path) -> float:
    "Run `rvos train` in a process of its own, with nothing made before; seconds that it took."
    values = [os.environ.get(f[1:], f) if f.startswith("$") else f for f in flags]
    code = "import sys; from rvos_nb.cli import main; sys.exit(main())"
    start = time.monotonic()
    subprocess.run(
        [sys.executable, "-c", code, "train", *values, "--out", str(run)],
        check=True,
        env={**os.environ, "RVOS_HOME": str(home)},
    )
    os.environ["RVOS_HOME"] = str(home)
    return time.monotonic() - start


def train_here(cfg: Config) -> None:
    "Train a run in this process, or go on with it; nothing is scored."
    trainer = Trainer(cfg)
    if not trainer.finished:
        trainer.begin_run()
        trainer.train_epochs()
    trainer.close()


def score(run: Path, annotations) -> pd.DataFrame:
    "The rows of `evaluate` for a run's last.pth, with swapped expressions and baselines."
    segmenter = load_segmenter(run / "last.pth", device="cpu")
    return evaluate(annotations, segmenter, controls=("swapped",), protocols=("per_expression",))


def means_row(data: str, scores: pd.DataFrame) -> dict:
    "A row of means.csv: which data, how many expressions, J, J (swapped) and the baselines."
    means = pd.to_numeric(mean_scores(scores), errors="coerce")
    return {"data": data, "expressions": int((scores.source == "model").sum()), **means}


def write_means(folder: Path, rows: list[dict], flags: list[str]) -> None:
    "Write means.csv and the command that produced it."
    table = pd.DataFrame(rows)
    table.to_csv(folder / "means.csv", index=False, float_format="%.4f")
    (folder / "command.txt").write_text(f"rvos train {' '.join(flags)}\n")
    print(table.round(3).to_string(index=False))


def rows_with(path: Path, **key) -> pd.DataFrame:
    "The rows with these values of the table at `path`; none where there is no table."
    if not path.exists():
        return pd.DataFrame()
    table = pd.read_csv(path)
    return table[(table[list(key)] == pd.Series(key)).all(axis=1)]


def is_done(path: Path, **key) -> bool:
    "Has the table at `path` a row with these values?"
    return len(rows_with(path, **key)) > 0


def append(path: Path, row: dict) -> None:
    "Add `row` to the table at `path`; several processes may."
    replace_seed(path, pd.DataFrame([row]))


def replace_seed(path: Path, found: pd.DataFrame, seed: int | None = None) -> pd.DataFrame:
    "The table at `path` with `found` in place of its rows of `seed`; several processes may."
    with lock(cache_dir() / path.parent.name / path.stem / "csv"):
        old = [pd.read_csv(path)] if path.exists() else []
        if seed is not None:
            found = pd.concat({seed: found}, names=["seed"]).reset_index("seed")
            old = [table[table.seed != seed] for table in old]
        table = pd.concat([*old, found])
        if seed is not None:
            table = table.sort_values("seed", kind="stable")
        table.to_csv(path, index=False, float_format="%.4f")
    return table


def train_seeds(folder: Path, flags: list[str], seeds: list[int], sets: dict) -> Iterator[tuple]:
    """(seed, {name: scores}) of `rvos train` with `flags`, seed by seed, on `sets` of annotations.

    Writes history.csv and seeds.csv, and means.csv of all seeds that are there. A run lies in
    RVOS_HOME and goes on where it broke off.
    """
    folder.mkdir(exist_ok=True)
    for seed in seeds:
        run = cache_dir() / folder.name / f"{folder.name}-{seed}"
        train([*flags, "--seed", str(seed)], run, cache_dir())
        scores = {name: score(run, annotations) for name, annotations in sets.items()}
        replace_seed(folder / "history.csv", pd.read_csv(run / "history.csv"), seed)
        rows = pd.DataFrame([means_row(*found) for found in scores.items()])
        rows = replace_seed(folder / "seeds.csv", rows, seed).drop(columns="seed")
        means = rows.groupby("data", sort=False).mean().reset_index()
        write_means(folder, means.astype({"expressions": int}).to_dict("records"), flags)
        yield seed, scores


def backward(trainer, batch: dict) -> None:
    "Forward and backward pass of a training batch, without the optimizer's step."
    with trainer.accelerator.autocast():
        logits = trainer.model(
            batch["frames"],
            batch["text_ids"],
            batch["text_mask"],
            clip_index=batch["clip_index"],
            features=batch.get("features"),
        )
    loss = trainer.loss_fn(logits, batch["masks"], batch["valid"], batch["clip_index"])[0]
    trainer.accelerator.backward(loss)
