"""The report's preset on real DAVIS video, on the CPU, for 15 minutes: writes report_on_davis/{command.txt,history.csv,scores.csv}.

RVOS_DAVIS names the data (DAVIS/ and davis_text_annotations/), RVOS_BACKBONE_WEIGHTS a state dict of torchvision's mobilenet_v2, RVOS_TEXT_ENCODER a
folder with a BERT-like model (the committed figures: all-MiniLM-L6-v2). A ResNet50 and bert-base would be the report's own choice; they do not finish an epoch here in that time.

    RVOS_DAVIS=... RVOS_BACKBONE_WEIGHTS=... RVOS_TEXT_ENCODER=... python benchmarks/report_on_davis.py [minutes]
"""
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

here = Path(__file__).parent / "report_on_davis"
minutes = sys.argv[1] if len(sys.argv) > 1 else "15"
named = {k: os.environ.get(k) or sys.exit(f"{k} is not set; see the head of {Path(__file__).name}") for k in ("RVOS_DAVIS", "RVOS_BACKBONE_WEIGHTS", "RVOS_TEXT_ENCODER")}
flags = ["--preset", "report", "--data", "$RVOS_DAVIS", "--backbone", "mobilenet_v2", "--backbone-weights", "$RVOS_BACKBONE_WEIGHTS", "--text-encoder", "$RVOS_TEXT_ENCODER",
         "--minutes", minutes, "--device", "cpu"]

with tempfile.TemporaryDirectory() as folder:
    run = Path(folder) / "run"
    args = [named.get(f[1:], f) if f.startswith("$") else f for f in flags] + ["--out", str(run)]
    subprocess.run([sys.executable, "-c", "import sys; from rvos_nb.cli import main; sys.exit(main())", "train", *args], check=True)
    here.mkdir(exist_ok=True)
    for name in ("history.csv", "scores.csv"): shutil.copy(run / name, here / name)
    keep = os.environ.get("RVOS_KEEP_RUN")  # a folder for the whole run, checkpoints and pictures included
    if keep: shutil.copytree(run, keep, dirs_exist_ok=True)
(here / "command.txt").write_text("rvos train " + " ".join(f if f.startswith("$") else shlex.quote(f) for f in flags) + "\n")
