"""Manifests: what a run was begun with, compared with what it is resumed with."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

COMPARED = ("seed", "config", "models", "data", "item_digests")
"""What must be the same for a run to be resumed."""
NOTED = ("versions", "processes", "platform")
"""What may differ, and is noted then."""
_MATTER = ("versions", "platform")
FILES = "files"
LOADED = "loaded"
ITEMS = "item_digests"
_ADDED = {
    "models": "the model",
    FILES: "the files beside the weights",
    LOADED: "the model as it was loaded",
    ITEMS: "each problem by itself",
    "format": "the response format",
}
"""What manifests have recorded only since some version, and what it is called."""
_ITEM = {
    "picture": "the picture of item {}",
    "twin": "the twin picture of item {}",
    "control": "the control picture of item {}",
}


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """Digest of what must be the same for a run to be resumed."""
    text = json.dumps({key: manifest.get(key) for key in COMPARED}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def changed_versions(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Packages and hardware that are others now, such as ``"torch 2.4, now 2.5"``."""
    return [
        f"{name} {before[name]}, now {now[name]}"
        for before, now in ((old.get(key) or {}, new.get(key) or {}) for key in _MATTER)
        for name in now
        if name in before and before[name] != now[name]
    ]


def not_recorded(old: Any, new: Any) -> list[str]:
    """What a manifest of an earlier version did not record, so that it cannot be compared."""
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return []
    found = [_ADDED[key] for key in new if key in _ADDED and key not in old]
    for key in new:
        found += not_recorded(old.get(key), new[key])
    return list(dict.fromkeys(found))


def recorded(old: Any, new: Any) -> Any:
    """The new record without what a manifest of an earlier version did not record."""
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return new
    return {
        key: recorded(old.get(key), value)
        for key, value in new.items()
        if key in old or key not in _ADDED
    }


def brief(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest without the digests of single files, parts and items, for people to read."""
    return {
        key: brief(value) if isinstance(value, Mapping) else value
        for key, value in manifest.items()
        if key not in (FILES, LOADED, ITEMS) or not isinstance(value, Mapping)
    }


def first_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """The first thing in which two records of what a run is made of differ, as half a sentence.

    Args:
        old: Of the run.
        new: Of what resumes it, JSON values as well.

    Returns:
        Such as ``"its config.batch_size is 2, now it is 3"``; ``None`` if they are the same.
    """
    found = list(_differences((), old, recorded(old, new)))
    if found and found[0][0][-1] == "sha256":
        # Of all problems; which one it is, is said where each is noted by itself.
        found = [one for one in found if one[0][0] == ITEMS] or found
    return _words(*found[0]) if found else None


def answer_digest(item: str, answer: str) -> str:
    """Digest of an answer to an item, by which a table's answers are held against the right one."""
    return hashlib.sha256(f"{item}\0{answer}".encode(errors="replace")).hexdigest()[:8]


def _differences(path: tuple[str, ...], old: Any, new: Any) -> Iterator[tuple[Any, Any, Any]]:
    if old == new:
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys((*old, *new)):
            yield from _differences((*path, key), old.get(key), new.get(key))
    else:
        yield path, old, new


def _words(path: tuple[str, ...], old: Any, new: Any) -> str:
    part = ITEMS if path[0] == ITEMS and len(path) == 3 else path[-2] if len(path) > 1 else ""
    if part in (FILES, ITEMS) and None in (old, new):
        what = path[-1] if part == FILES else f"item {path[-1]}"
        return f"{what} was not there" if old is None else f"{what} is gone"
    if part == FILES:
        what = path[-1]
    elif part == ITEMS:
        held, now = (dict(pair.split(":", 1) for pair in text.split()) for text in (old, new))
        changed = next((key for key in {**held, **now} if held.get(key) != now.get(key)), "")
        what = _ITEM.get(changed, "the text of item {}").format(path[-1])
    elif part == LOADED:
        what = f"what was loaded as {path[-1].replace('_', ' ')}"
    elif path[-1] == "weights_sha256" and None not in (old, new):
        what = "the content of its weight files"
    elif path[0] == "data" and path[-1] == "n":
        return f"it was begun with {old} items, now there are {new}"
    else:
        return f"its {'.'.join(path)} is {_short(old)}, now it is {_short(new)}"
    return f"{what} differs from the one it was begun with"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
