"""Where a run's model and problems lay, for whoever goes on from the run on the same disk.

Kept apart from the manifest, which names no path so that it can be published: the file
``sources.json`` may be deleted.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from attcot_analysis.runs.run import RunFolder

SOURCES = "sources"


@dataclass(frozen=True)
class Sources:
    """Places that were noted; they may be gone.

    Attributes:
        model: A checkpoint folder, or a hub id.
        problems: A problem folder.
    """

    model: str | Path | None = None
    problems: Path | None = None


def note_sources(run: RunFolder, *, model: str | Path, problems: str | Path) -> None:
    """Note where the model and the problems lie, folders relative to the run's.

    Args:
        run: The run.
        model: A checkpoint folder or a hub id.
        problems: A problem folder.
    """
    noted = {"model": _noted(run, model), "problems": _noted(run, problems)}
    run.write_json(SOURCES, noted, overwrite=True)


def noted_sources(run: RunFolder) -> Sources:
    """Read what `note_sources` wrote; nothing if it was not called.

    Raises:
        RunError: If the file is damaged.
    """
    if not (run.path / f"{SOURCES}.json").is_file():
        return Sources()
    held = run.read_json(SOURCES)
    found: dict[str, str | Path | None] = {}
    for name in ("model", "problems"):
        entry = held.get(name) if isinstance(held, dict) else None
        entry = entry if isinstance(entry, dict) else {}
        folder = entry.get("folder")
        found[name] = run.path / folder if isinstance(folder, str) else entry.get("hub")
    problems = found["problems"]
    return Sources(found["model"], problems if isinstance(problems, Path) else None)


def _noted(run: RunFolder, place: str | Path) -> dict[str, str]:
    folder = Path(place)
    if not folder.is_dir():
        return {"hub": str(place)}
    try:
        return {"folder": Path(os.path.relpath(folder, run.path)).as_posix()}
    except ValueError:  # on another drive
        return {"folder": folder.resolve().as_posix()}
