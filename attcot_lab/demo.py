"""The demo: a folder with all that ships, to try everything in without a checkout."""

import shutil
from pathlib import Path

from attcot_analysis.errors import RunError
from attcot_analysis.files import write_folder
from attcot_analysis.problems.folder import save_problems
from attcot_analysis.shipped import config_file, data_folder, notebook_folder
from attcot_lab.testbed.kinds import generate_problems

TRAINING = "data/problems/arrows-train"
"""Where the demo's training problems go; the shipped ones are for tests."""
TRAINING_ITEMS = 96
RUN_FILE = "demo.yaml"

_KNOBS = {"noise": 240.0, "prior": 0.95}
_README = """# Att-CoT Analysis, demo

Everything here is yours to change; nothing outside this folder is touched.

    cd {folder}
    attcot doctor                 # versions, devices, memory: what would fail?
    attcot measure data/models/qwen2_5_vl-tiny data/problems/arrows --items 20 --out runs/tiny
    attcot report runs/tiny       # one page about that run
    attcot run demo.yaml          # check, measure, fine-tune with and without Att-CoT, compare
    jupyter lab notebooks/00_start_here.ipynb

- `data/` has tiny models of three families, two folders of problems, and result files;
- `notebooks/` is the course (install `attcot-analysis[notebooks]`); it reads what came with
  the package, or the folder that `ATTCOT_DATA` names;
- `configs/` has arms, plans and presets of known models to copy from;
- `demo.yaml` is a plan: put your own model and problems there.

Fine-tuning needs `attcot-analysis[train]`.
"""


def write_demo(folder: str | Path) -> Path:
    """Copy what ships into a folder, with a plan and problems to train on.

    Args:
        folder: New or empty; it appears only when it is complete.

    Returns:
        The folder.

    Raises:
        RunError: If it holds something, or the installation lacks what ships.
    """
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise RunError(f"{target} exists already; give the demo a new folder.")
    parts = {"data": data_folder(), "configs": config_file(""), "notebooks": notebook_folder()}

    def write(part: Path) -> None:
        for name, source in parts.items():
            shutil.copytree(source, part / name, ignore=shutil.ignore_patterns(".*", "_*"))
        train = generate_problems("arrows", TRAINING_ITEMS, seed=0, split="train", **_KNOBS)
        save_problems(train, part / TRAINING)
        shutil.copyfile(parts["configs"] / "plans" / RUN_FILE, part / RUN_FILE)
        (part / "README.md").write_text(_README.format(folder=target.name), encoding="utf-8")

    write_folder(target, write)
    return target
