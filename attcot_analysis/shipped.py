"""Where the files that ship with the project lie: problems, tiny checkpoints, configurations."""

import os
from pathlib import Path

from attcot_analysis.errors import RunError

TESTBED_MODEL = "models/qwen2_5_vl-tiny"
TESTBED_COT_SFT = "models/qwen2_5_vl-tiny-cot_sft"
TESTBED_ATT_COT = "models/qwen2_5_vl-tiny-att_cot"
TESTBED_PROBLEMS = "problems/arrows"
TESTBED_B_MODEL = "models/qwen2_5_vl-b0"
TESTBED_B_COT_SFT = "models/qwen2_5_vl-b0-cot_sft"
TESTBED_B_EVIDENCE = "models/qwen2_5_vl-b0-evidence_access"
TESTBED_B_PROBLEMS = "problems/relation"
TESTBED_B_RESULTS = "results/testbed_b"
REFERENCE_RESULTS = "results/reproduce"
VALIDITY_RESULTS = "results/validity"
CLAIMS_RESULTS = "results/claims"
COMMITMENT_RESULTS = "results/commitment"
IN_DISTRIBUTION_RESULTS = "results/in_distribution"


def data_folder() -> Path:
    """The ``data`` folder: ``$ATTCOT_DATA`` if set, else that of the installation or checkout.

    Raises:
        RunError: If there is none.
    """
    return _folder("data", "ATTCOT_DATA")


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
    """A file or folder below ``configs``: ``$ATTCOT_CONFIGS`` if set, else as `data_folder`.

    Raises:
        RunError: If there is no folder of configurations.
    """
    return _folder("configs", "ATTCOT_CONFIGS") / name


def notebook_folder() -> Path:
    """The ``notebooks`` folder of the installation or checkout.

    Raises:
        RunError: If there is none.
    """
    return _folder("notebooks", None)


def _folder(name: str, variable: str | None) -> Path:
    chosen = os.environ.get(variable) if variable else None
    here = Path(__file__).resolve().parent
    # A wheel has them inside the package (setup.py puts them there), a checkout beside it.
    beside = here.parent if (here.parent / "pyproject.toml").is_file() else here / "_shipped"
    folder = Path(chosen) if chosen else beside / name
    if not folder.is_dir():
        remedy = f" or set {variable} to one" if variable else ""
        raise RunError(
            f"There is no {name} folder at {folder}; install the wheel again, run from a checkout "
            f"of the project{remedy}."
        )
    return folder
