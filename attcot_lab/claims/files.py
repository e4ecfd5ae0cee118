"""Values read from a grid's folder, and the claims table written beside them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from attcot_analysis.errors import RunError, passing
from attcot_lab.claims.catalogue import CLAIMS
from attcot_lab.claims.table import BASE, headline_rows

VALUES_FILE = "tables/values.parquet"
TABLE_FILE = "claims.parquet"
JSON_FILE = "claims.json"


def read_values(folder: str | Path) -> pd.DataFrame:
    """The values of a grid's run folder, or of the shipped results.

    Raises:
        RunError: If there are none, or they cannot be read.
    """
    path = Path(folder) / VALUES_FILE
    if not path.is_file():
        raise RunError(
            f"{folder} has no {VALUES_FILE}; run `attcot grid FILE --out {folder}` first."
        )
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise passing(error, path) or RunError(
            f"{path} is damaged ({str(error).splitlines()[0]})."
        ) from error


def read_claims(folder: str | Path) -> pd.DataFrame:
    """The claims table of a folder, as `write_claims` left it.

    Raises:
        RunError: If there is none.
    """
    path = Path(folder) / TABLE_FILE
    if not path.is_file():
        raise RunError(
            f"{folder} has no {TABLE_FILE}; run `attcot testbed claims --results {folder}` first."
        )
    return pd.read_parquet(path)


def write_claims(folder: str | Path, table: pd.DataFrame) -> None:
    """Write ``claims.parquet``, all rows, and ``claims.json``, every claim with its pooled row."""
    folder = Path(folder)
    table.to_parquet(folder / TABLE_FILE, index=False)
    rows = headline_rows(table)
    entries = [
        {
            "id": claim.id,
            "title": claim.title,
            "topic": claim.topic,
            "paper": claim.paper,
            "sentence": claim.sentence,
            "metric": claim.metric,
            "unit": claim.unit,
            "direction": claim.direction,
            "margin": claim.margin,
            **_plain(rows.get(claim.id, {"verdict": "not measured"})),
        }
        for claim in CLAIMS
    ]
    text = json.dumps({"claims": entries}, indent=1, ensure_ascii=False)
    (folder / JSON_FILE).write_text(text + "\n", encoding="utf-8")


def run_facts(folder: str | Path) -> dict[str, str]:
    """What the page should say about a grid's run, from its records and the seeds of its values."""
    manifest, parts = (_read_json(Path(folder) / name) for name in ("manifest.json", "grid.json"))
    values = read_values(folder)
    facts = {}
    for name, kind in parts.get("kinds", {}).items():
        knobs = ", ".join(f"{key} {value}" for key, value in kind.get("knobs", {}).items())
        training = kind.get("finetune", {})
        facts[f"`{name}`"] = (
            f"{knobs or 'as they come'}; trained on {kind.get('train_items')} problems whose "
            f"answer is the habitual one in {kind.get('train_prior', 0):.0%}, "
            f"{training.get('steps')} steps of {training.get('batch_size')} at "
            f"{training.get('learning_rate')}; tested on {_tested_on(kind.get('test_prior'))}"
        )
    seeds = sorted({int(one) for one in values.loc[values["arm"] != BASE, "seed"]})
    if seeds:
        gaps = [str(one) for one in range(seeds[0], seeds[-1]) if one not in seeds]
        missing = f"; {' and '.join(gaps)} of this range missing" if gaps else ""
        facts["Training seeds"] = f"{', '.join(map(str, seeds))}{missing}"
    if parts.get("arms"):
        facts["Arms"] = ", ".join(f"`{name}`" for name in parts["arms"])
    config = manifest.get("config", {})
    if config.get("measures"):
        facts["Measured"] = f"CoT answers, {', '.join(config['measures'])}"
    if config.get("test_seed") is not None:
        facts["Test problems"] = f"drawn with seed {config['test_seed']}"
    if manifest.get("created"):
        facts["Begun"] = str(manifest["created"])[:10]
    return facts


def _tested_on(prior: float | None) -> str:
    return (
        "balanced ones"
        if prior is None
        else f"ones whose answer is the habitual one in {prior:.0%}"
    )


def _read_json(path: Path) -> dict[str, Any]:
    """The file's entries; none if it is not there."""
    if not path.is_file():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    return found if isinstance(found, dict) else {}


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """A pooled row as JSON can hold it, without what the entry says already."""
    left_out = ("claim", "paper", "level", "family", "scale", "kind", "verdict_corrected")
    found = {}
    for key, value in row.items():
        if key not in left_out:
            value = value.item() if isinstance(value, np.generic) else value
            found[key] = None if pd.isna(value) else value
    return found
