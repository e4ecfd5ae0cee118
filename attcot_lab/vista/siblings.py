"""The first round of VISTA, taken over from a run that has drawn it alike."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from attcot_analysis.errors import AttCoTError
from attcot_analysis.runs.run import RunFolder
from attcot_lab.vista.config import VistaConfig, vista_config

PARTS = ("responses", "critical")
"""Tables of what a round has drawn."""
_DRAWING = (
    "samples",
    "continuations",
    "top",
    "temperature",
    "max_new_tokens",
    "layer",
    "batch_size",
    "block",
)
"""Settings that what is drawn depends on, beside which origins there are."""
_SAME = ("seed", "models", "data", "versions", "platform")


def take_over_first_round(
    run: RunFolder, siblings: Iterable[str | Path], config: VistaConfig
) -> Path | None:
    """Copy the first round's responses from a run that has drawn the same, and at least as much.

    The first round is written by the base, so runs that differ in objective, filter or in what
    they train on draw the same. Each origin has its own seed and is scored by itself, so that what
    is taken over is what would have been drawn.

    Args:
        run: The run that is to draw.
        siblings: Folders of other runs, as `vista_folder` names them; those that are damaged,
            unfinished, or of another base, seed, problems, versions or settings are passed over.
        config: Settings of `run`.

    Returns:
        The folder that was taken from, also noted in the run's manifest as ``first_round_from``;
        ``None`` if nothing was, or the round was begun already.
    """
    names = [f"round1.{part}" for part in PARTS]
    # A round that was begun has blocks of its own, which draw_round goes on with.
    if any(table.startswith("round1.") for table in run.tables):
        return None
    for folder in map(Path, siblings):
        if folder.resolve() == run.path.resolve():
            continue
        try:
            found = _drawn_alike(run, RunFolder.open(folder), config, names)
        except AttCoTError:
            continue
        if found is not None:
            for name, table in zip(names, found, strict=True):
                run.write_table(name, table)
            run.note("first_round_from", folder.name)
            return folder
    return None


def _drawn_alike(
    run: RunFolder, other: RunFolder, config: VistaConfig, names: list[str]
) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    own, theirs = run.manifest, other.manifest
    settings = theirs.get("config", {})
    if "vista" not in settings or not all(other.has(name) for name in names):
        return None
    # A base that is no local folder is among the settings.
    if own["config"].get("base") != settings.get("base"):
        return None
    if any(own.get(key) != theirs.get(key) for key in _SAME):
        return None
    drawn_by = vista_config(settings["vista"])
    if any(getattr(config, name) != getattr(drawn_by, name) for name in _DRAWING):
        return None
    if not set(config.drawn) <= set(drawn_by.drawn):
        return None
    # Without extra samples no critical token is looked for.
    if (config.extra == "none") != (drawn_by.extra == "none"):
        return None
    responses, critical = (other.read_table(name) for name in names)
    kept = responses[responses["origin"].isin(config.drawn)].reset_index(drop=True)
    kept["number"] = kept.groupby("item", sort=False).cumcount()
    return kept, critical
