"""Where the files that ship with the project lie: problems, tiny checkpoints, configurations."""

import os
from pathlib import Path

from attcot_analysis.errors import RunError

TESTBED_MODEL = "models/qwen2_5_vl-tiny"
TESTBED_COT_SFT = "models/qwen2_5_vl-tiny-cot_sft"
TESTBED_ATT_COT = "models/qwen2_5_vl-tiny-att_cot"
TESTBED_PROBLEMS = "problems/arrows"
REFERENCE_RESULTS = "results/reproduce"
VALIDITY_RESULTS = "results/validity"
CLAIMS_RESULTS = "results/claims"


def data_folder() -> Path:
    """The ``data`` folder: ``$ATTCOT_DATA`` if set, else the one beside the package.

    Raises:
        RunError: If there is none.
    """
    chosen = os.environ.get("ATTCOT_DATA")
    folder = Path(chosen) if chosen else Path(__file__).resolve().parent.parent / "data"
    if not folder.is_dir():
        raise RunError(
            f"There is no data folder at {folder}; run from a checkout of the project or set "
            "ATTCOT_DATA to its data folder."
        )
    return folder


def shipped(name: str) -> Path:
    """A part of the data folder, such as `TESTBED_MODEL`.

    Raises:
        RunError: If it is not there.
    """
    path = data_folder() / name
    if not path.exists():
        raise RunError(
            f"{path} is missing; restore it from the repository or make it with `attcot testbed`."
        )
    return path


def config_file(name: str) -> Path:
    """A file or folder below ``configs``: ``$ATTCOT_CONFIGS`` if set, else beside the package.

    Raises:
        RunError: If there is no folder of configurations.
    """
    chosen = os.environ.get("ATTCOT_CONFIGS")
    folder = Path(chosen) if chosen else Path(__file__).resolve().parent.parent / "configs"
    if not folder.is_dir():
        raise RunError(
            f"There is no folder of configurations at {folder}; run from a checkout of the "
            "project or set ATTCOT_CONFIGS to its configs folder."
        )
    return folder / name
