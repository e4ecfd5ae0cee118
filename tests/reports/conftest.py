"""Two measured runs on the same items, made once: what a person gets from ``attcot measure``."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from attcot_analysis.models import load_mllm
from attcot_analysis.problems import Problem, save_problems
from attcot_analysis.runs.measure import measure_run
from attcot_analysis.runs.provenance import note_sources
from attcot_analysis.runs.run import RunFolder
from attcot_analysis.runs.values import DEFAULT
from attcot_analysis.shipped import TESTBED_ATT_COT, TESTBED_COT_SFT, shipped
from attcot_lab.testbed.arrows import ArrowsConfig, generate_arrows

MODELS = {"cot_sft": TESTBED_COT_SFT, "att_cot": TESTBED_ATT_COT}


@dataclass(frozen=True)
class Pair:
    """The runs' folder, with their problems beside them."""

    folder: Path
    problems: list[Problem]

    def path(self, name: str) -> Path:
        return self.folder / name

    def run(self, name: str) -> RunFolder:
        return RunFolder.open(self.folder / name)

    def copy(self, name: str, to: Path, **changes) -> Path:
        """A run like another one, with other settings, data, model or versions in its manifest."""
        shutil.copytree(self.folder / name, to)
        run = RunFolder.open(to)
        manifest = run.manifest
        for part, change in changes.items():
            where = {"settings": manifest["config"], "data": manifest["data"]["test"]}.get(part)
            where = manifest["models"]["model"] if part == "model" else where
            (manifest["versions"] if where is None else where).update(change)
        run.write_json("manifest", manifest, overwrite=True)
        sources = self.folder / name / "sources.json"
        note_sources(run, model=shipped(MODELS[name]), problems=sources.parent.parent / "problems")
        return to


@pytest.fixture(scope="session")
def pair(tmp_path_factory) -> Pair:
    folder = tmp_path_factory.mktemp("pair")
    problems = generate_arrows(6, ArrowsConfig(noise=240.0), seed=11, split="test")
    save_problems(problems, folder / "problems")
    for name, model in MODELS.items():
        mllm = load_mllm(shipped(model), dtype=torch.float32)
        what = (*DEFAULT, "maps")
        run = measure_run(folder / name, mllm, problems, what, batch_size=6, max_new_tokens=40)
        note_sources(run, model=shipped(model), problems=folder / "problems")
    return Pair(folder, problems)
