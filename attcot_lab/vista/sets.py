"""VISTA's sets: kept positives, pairs and yields, all from one round's table of responses.

Nothing here asks a model, so a stored round can be filtered again with other settings.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from attcot_analysis.errors import AttCoTError, TrainingError
from attcot_analysis.runs.run import RunFolder
from attcot_analysis.stats.intervals import Interval, bootstrap_mean
from attcot_lab.vista.config import Origin, VistaConfig, vista_config
from attcot_lab.vista.pseudo_positives import vision_scores

YIELDS = ("success", "draw", "value", "low", "high", "n", "responses", "tokens")

"""Columns of the table of yields."""


@dataclass(frozen=True, eq=False)
class VistaRound:
    """What one round has drawn.

    Attributes:
        responses: See `attcot_lab.vista.drawing`, with ``number`` (of the response to
            its item, from 0) and, of positives, ``system``, ``image``, ``instruction`` and
            ``share`` (see `attcot_lab.vista.pseudo_positives`).
        critical: See `attcot_lab.vista.prefix`, with ``item`` and ``number``.
    """

    responses: pd.DataFrame
    critical: pd.DataFrame

    def positives(self, config: VistaConfig) -> pd.DataFrame:
        """See `positives`."""
        return positives(self.responses, config)

    def pairs(self, config: VistaConfig, *, seed: int = 0) -> pd.DataFrame:
        """See `preference_pairs`."""
        return preference_pairs(self.responses, self.positives(config), config, seed=seed)

    def yields(self) -> pd.DataFrame:
        """See `yields`."""
        return yields(self.responses)


def is_positive(responses: pd.DataFrame) -> pd.Series:
    """Which responses give the right answer and come to their end.

    One that was cut off after its right answer is neither positive nor negative: it would teach
    never to end, or not to give the right answer.
    """
    return responses["correct"] & responses["finished"]


def distinct(responses: pd.DataFrame) -> pd.DataFrame:
    """The first of all responses to an item that are the same, token for token."""
    keys = responses["item"].astype(str) + " " + responses["ids"].map(lambda ids: repr(list(ids)))
    return responses[~keys.duplicated()]


def positives(responses: pd.DataFrame, config: VistaConfig) -> pd.DataFrame:
    """Score the distinct positives of every question and say which are trained on.

    Args:
        responses: Of one round.
        config: Which origins count, whether scores do, and the threshold.

    Returns:
        ``item``, ``number``, ``origin``, ``share``, ``vas`` and ``kept``, in the order of the
        responses. Questions without a positive have no rows. A score that is missing drops.

    Source: arXiv 2605.11931; that scores compare positives only, each once, is a reconstruction.
    """
    used = responses[responses["origin"].isin(config.origins)]
    found = distinct(used[is_positive(used)])
    found = found[["item", "number", "origin", "share"]].reset_index(drop=True)
    vas = vision_scores(found["share"].to_numpy(np.float64), found["item"].tolist())
    kept = vas >= config.tau if config.vas else np.ones(len(found), dtype=bool)
    return found.assign(vas=vas, kept=kept)


def preference_pairs(
    responses: pd.DataFrame, selected: pd.DataFrame, config: VistaConfig, *, seed: int
) -> pd.DataFrame:
    """Pair every kept positive with a wrong response to the same question, drawn at random.

    Args:
        responses: Of one round.
        selected: From `positives`.
        config: Which origins count.
        seed: Of the draw.

    Returns:
        ``item``, ``chosen`` and ``rejected``, numbers of responses. Questions without a wrong
        response, which have nothing to be preferred to, have no rows.

    Source: arXiv 2605.11931; that negatives are distinct, and that those of all origins that
    count are drawn from, is a reconstruction.
    """
    used = responses[responses["origin"].isin(config.origins)]
    wrong = distinct(used[~used["correct"] & (used["ids"].map(len) > 0)])
    numbers = {item: own["number"].to_numpy() for item, own in wrong.groupby("item", sort=False)}
    rng = np.random.default_rng([seed, len(selected)])
    kept = selected[selected["kept"]]
    rows = [
        (item, int(number), int(rng.choice(numbers[item])))
        for item, number in zip(kept["item"], kept["number"], strict=True)
        if item in numbers
    ]
    return pd.DataFrame(rows, columns=["item", "chosen", "rejected"])


def yields(responses: pd.DataFrame, *, level: float = 0.95) -> pd.DataFrame:
    """How many hard questions gained a success by further draws, at equally many samples.

    A question is hard if none of its first K samples is a success. With as many candidates as
    the testbed's questions have, some right answers come by chance, hence two kinds of success:
    ``"answer"``, a positive; ``"rationale"``, a positive whose rationale is the problem's own,
    word for word (only on problems that have one).

    Args:
        responses: Of one round.
        level: Of the intervals.

    Returns:
        Per success and draw: ``value``, the share of hard questions with a success among the
        responses of that draw (``"continued"`` or ``"plain"``, as far as they were drawn; with
        both also ``"continued - plain"``, paired by question; ``"sampled"`` is the share of all
        questions that are not hard), ``low``, ``high``, ``n`` (questions), ``responses`` and
        ``tokens`` (drawn for these questions; tokens of prefixes not counted).

    Raises:
        TrainingError: If there are no responses.
    """
    rows = [
        {"success": name, **row}
        for name, table in _successes(responses)
        for row in _yields(table, level)
    ]
    return pd.DataFrame(rows, columns=list(YIELDS))


def gains(responses: pd.DataFrame) -> pd.DataFrame:
    """What `yields` is the mean of: question by question, whether a draw has a success.

    Args:
        responses: Of one round.

    Returns:
        ``success`` and ``draw`` as in `yields`, differences left out; ``item``, for the draw
        ``"sampled"`` every question, for others the hard ones; ``value``, 1 or 0.

    Raises:
        TrainingError: If there are no responses.
    """
    parts = []
    for name, table in _successes(responses):
        solved, gained = _gained(table)
        for draw, found in {"sampled": solved.astype(float), **gained}.items():
            columns = {"success": name, "draw": draw, "item": found.index, "value": found.array}
            parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def _successes(responses: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Per kind of success the responses that can have it, with whether they do."""
    if not len(responses):
        raise TrainingError("There are no responses to count; draw some first.")
    right = is_positive(responses)
    kinds = {"answer": right, "rationale": right & responses["sound"].fillna(False).astype(bool)}
    for name, success in kinds.items():
        table = responses.assign(
            success=success, tokens=responses["ids"].map(len) - responses["kept"]
        )
        yield name, table[responses["sound"].notna()] if name == "rationale" else table


def _gained(table: pd.DataFrame) -> tuple[pd.Series, dict[Origin, pd.Series]]:
    """Which questions the first samples solve, and what each further draw gains of the others."""
    first = table[table["origin"] == "sampled"]
    solved = first.groupby("item", sort=False)["success"].any()
    hard = solved.index[~solved.to_numpy(bool)]
    gained: dict[Origin, pd.Series] = {}
    origins: tuple[Origin, ...] = ("continued", "plain")
    for origin in origins:
        if (table["origin"] == origin).any():
            own = table[(table["origin"] == origin) & table["item"].isin(hard)]
            any_of = own.groupby("item", sort=False)["success"].any()
            gained[origin] = any_of.reindex(hard, fill_value=False).astype(float)
    return solved, gained


def _yields(table: pd.DataFrame, level: float) -> list[dict[str, object]]:
    solved, gained = _gained(table)
    first = table[table["origin"] == "sampled"]
    rows = [_yield("sampled", solved.to_numpy(float), first, level)]
    for origin, found in gained.items():
        own = table[(table["origin"] == origin) & table["item"].isin(found.index)]
        rows.append(_yield(origin, found.to_numpy(), own, level))
    if len(gained) > 1:
        both = gained["continued"] - gained["plain"]
        rows.append(_yield("continued - plain", both.to_numpy(), table.iloc[:0], level))
    return rows


def _yield(
    draw: str, values: Sequence[float] | np.ndarray, own: pd.DataFrame, level: float
) -> dict[str, object]:
    found: Interval = bootstrap_mean(np.asarray(values, dtype=np.float64), level=level)
    return {
        "draw": draw,
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "n": found.n,
        "responses": len(own),
        "tokens": int(own["tokens"].sum()),
    }


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
