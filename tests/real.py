"""Where real checkpoints' files and real datasets' samples lie, for the tests that need them.

They are not part of this repository. Without them the tests that are marked say what did not run;
each of them has a small stand-in beside it that runs everywhere.
"""

import os
from pathlib import Path

import pytest

_SHARED = Path(__file__).parents[2] / "shared"


def _folder(variable: str, default: str) -> Path | None:
    folder = Path(os.environ.get(variable) or _SHARED / default)
    return folder if folder.is_dir() else None


def real_files() -> Path | None:
    """The folder with one folder per checkpoint: config, template, tokenizer, no weights."""
    return _folder("ATTCOT_REAL_FILES", "real-files")


def real_data() -> Path | None:
    """The folder with one folder per dataset, a few published rows each."""
    return _folder("ATTCOT_REAL_DATA", "real-data")


needs_real_files = pytest.mark.skipif(
    real_files() is None,
    reason="not run on real tokenizers and templates: set ATTCOT_REAL_FILES to their folder",
)
needs_real_data = pytest.mark.skipif(
    real_data() is None,
    reason="not run on published data: set ATTCOT_REAL_DATA to its folder",
)
