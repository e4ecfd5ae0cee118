"""Check every family on a small model of random weights and keep what was found.

usage: PYTHONPATH=tests python scripts/check_families.py [NAME ...]

Names are those of `tests/families.py` and, where published configurations, processors and
tokenizers are at hand, of `tests/real.py` with ``_published`` behind them; all by default. Files
are written to docs/checkpoints; then run ``python scripts/write_docs.py``.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

from families import _BUILDERS, _randomise, tiny_family
from real import CHECKPOINTS, real_files, real_mllm

from attcot_analysis.measures.check import check_model

FOLDER = Path(__file__).parents[1] / "docs" / "checkpoints"


def main(names: list[str]) -> None:
    """Write one file per model."""
    published = [f"{name}_published" for name in CHECKPOINTS if real_files()]
    for name in names or ["qwen2_5_vl", *_BUILDERS, *published]:
        _write(name)


def _write(name: str) -> None:
    real = name.endswith("_published")
    mllm = real_mllm(name.removesuffix("_published")) if real else tiny_family(name)
    if real:
        _randomise(mllm.model)
    found = check_model(replace(mllm, name=name.removesuffix("_published")))
    parts = "published" if real else "built here"
    record = {"weights": "random", "parts": parts, **found.record()}
    (FOLDER / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(found.verdict, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
