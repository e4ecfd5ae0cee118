"""What every notebook starts and ends with: repeatable numbers, its mode, its provenance."""

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from attcot_analysis.errors import RunError
from attcot_analysis.models import Mllm
from attcot_analysis.problems import Problem
from attcot_analysis.runs.manifests import brief
from attcot_analysis.runs.provenance import build_manifest
from attcot_analysis.shipped import (
    CLAIMS_RESULTS,
    COMMITMENT_RESULTS,
    IN_DISTRIBUTION_RESULTS,
    REFERENCE_RESULTS,
    TESTBED_ATT_COT,
    TESTBED_B_COT_SFT,
    TESTBED_B_EVIDENCE,
    TESTBED_B_MODEL,
    TESTBED_B_PROBLEMS,
    TESTBED_B_RESULTS,
    TESTBED_COT_SFT,
    TESTBED_MODEL,
    TESTBED_PROBLEMS,
    VALIDITY_RESULTS,
    data_folder,
    shipped,
)

__all__ = [
    "CLAIMS_RESULTS",
    "COMMITMENT_RESULTS",
    "IN_DISTRIBUTION_RESULTS",
    "REFERENCE_RESULTS",
    "TESTBED_ATT_COT",
    "TESTBED_B_COT_SFT",
    "TESTBED_B_EVIDENCE",
    "TESTBED_B_MODEL",
    "TESTBED_B_PROBLEMS",
    "TESTBED_B_RESULTS",
    "TESTBED_COT_SFT",
    "TESTBED_MODEL",
    "TESTBED_PROBLEMS",
    "VALIDITY_RESULTS",
    "banner",
    "provenance",
    "set_up",
    "shipped",
]


def set_up(seed: int, *, threads: int | None = 1) -> None:
    """Make a notebook's numbers repeatable and its outputs free of bars and of libraries' notes.

    Args:
        seed: For torch's global generator.
        threads: Threads of torch on the CPU; sums depend on their number. ``None`` leaves it.
    """
    torch.manual_seed(seed)
    if threads is not None:
        torch.set_num_threads(threads)
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    # That a library will rename its arguments is for us to know, and says where it is installed.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\.")


def banner(model: str | Path, problems: str | Path, n_items: int, seed: int) -> str:
    """Say in one line what a notebook runs on.

    Returns:
        ``fast mode`` for what ships with the project, else ``full mode``; folders are named by
        their last part, so that no path of a machine gets into an output.
    """
    own = _is_shipped(model) and _is_shipped(problems)
    mode = "fast mode (shipped testbed)" if own else "full mode (your own)"
    return (
        f"{mode}: model {_short(model)}, the first {n_items} problems of {_short(problems)}, "
        f"seed {seed}"
    )


def provenance(
    *,
    seed: int,
    models: Mapping[str, Mllm],
    problems: Sequence[Problem],
    **config: Any,
) -> str:
    """Write what a notebook's numbers were made with, as JSON for people.

    Args:
        seed: The notebook's seed.
        models: Models by role.
        problems: The items.
        **config: Whatever else was chosen.
    """
    manifest = build_manifest(seed=seed, config=config, models=models, data={"test": problems})
    return json.dumps(brief(manifest), indent=1, ensure_ascii=False)


def _is_shipped(name: str | Path) -> bool:
    try:
        folder = data_folder().resolve()
    except RunError:
        return False
    return os.path.exists(name) and Path(name).resolve().is_relative_to(folder)


def _short(name: str | Path) -> str:
    return Path(name).resolve().name if os.path.exists(name) else str(name)
