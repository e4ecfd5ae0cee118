"""Decisions on edits: which of an item's edited pictures somebody looked at and rejected."""

import json
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from attcot_analysis.errors import ProblemError
from attcot_analysis.files import path_of, regular, write_bytes

DECISIONS = "edits.json"
"""In a problem folder: ``{item: {edit: "accept" or "reject"}}``, as the contact sheet saves it."""

REJECTED = "rejected_edits"
"""Metadata of a problem: the names of rejected edits, with blanks between them."""

_WORDS = ("accept", "reject")

Decisions = Mapping[str, Mapping[str, str]]


def read_decisions(source: str | Path, known: Collection[str] | None = None) -> Decisions:
    """Read what the contact sheet saved.

    Args:
        source: A problem folder (nothing was decided where it has no `DECISIONS`), or a file.
        known: Ids of all items; a decision on another one is an error.

    Raises:
        ProblemError: If the file cannot be read, or says something else than accept or reject.
    """
    path = path_of(source, ProblemError)
    if path.is_dir():
        path /= DECISIONS
        if not path.exists():
            return {}
    try:
        found = json.loads(regular(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ProblemError(
            f"{path} cannot be read as decisions on edits ({error}); save it from the page that "
            "attcot edits preview writes."
        ) from error
    whole = isinstance(found, dict) and all(
        isinstance(own, dict) and all(word in tuple(_WORDS) for word in own.values())
        for own in found.values()
    )
    if not whole:
        raise ProblemError(
            f"{path} does not hold decisions on edits; expected "
            '{"item": {"edit": "accept" or "reject"}}, as saved from the contact sheet.'
        )
    for item in found:
        if known is not None and item not in known:
            raise ProblemError(
                f"{path} decides on item {item!r}, which is not among the {len(known)} problems; "
                "give the decisions on these problems."
            )
    return dict(found)


def keep_decisions(folder: str | Path, source: str | Path, known: Collection[str]) -> Decisions:
    """Put saved decisions into a problem folder, over earlier ones on the same edits.

    Raises:
        ProblemError: If they cannot be read, or decide on an item that is not there.
        RunError: If they cannot be written.
    """
    kept = {item: dict(own) for item, own in read_decisions(folder).items()}
    for item, own in read_decisions(source, known).items():
        kept.setdefault(item, {}).update(own)
    path = path_of(folder) / DECISIONS
    write_bytes(path, (json.dumps(kept, indent=1, ensure_ascii=False) + "\n").encode())
    return kept


def without_rejected(record: dict[str, Any], decisions: Decisions) -> dict[str, Any]:
    """A problem's record without a rejected twin or control; all that was rejected is named."""
    own = decisions.get(str(record.get("id")), {})
    rejected = sorted(kind for kind, word in own.items() if word == "reject")
    if not rejected:
        return record
    metadata = record.get("metadata") or {}
    kept = {key: value for key, value in record.items() if key not in rejected}
    return {**kept, "metadata": {**metadata, REJECTED: " ".join(rejected)}}


def warn_of_rejected(path: Path, decisions: Decisions) -> None:
    """Say how many edits are left out because they were rejected."""
    count = sum(word == "reject" for own in decisions.values() for word in own.values())
    if count:
        warnings.warn(
            f"{path}: {count} {'edit is' if count == 1 else 'edits are'} left out, rejected in "
            f"{DECISIONS}.",
            stacklevel=3,
        )
