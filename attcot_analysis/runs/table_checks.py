"""What a run's tables must hold wherever they are read: shares, whole items, answers, their run."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from attcot_analysis.errors import RunError
from attcot_analysis.measures.unread import GIVEN
from attcot_analysis.runs.manifests import ITEMS, answer_digest

MARK = b"attcot_run"
"""Key of what a table says about the run it belongs to."""

SAMPLE = "sample"
"""Column that tells several responses to one item apart."""
_ALL = "answer to"
_STEPS = "step of"
_FORCED = "forced answer of"
_TABLES: Mapping[str, tuple[tuple[str, ...], str]] = {
    "answers_cot": (("item",), _ALL),
    "answers_direct": (("item",), _ALL),
    "answers_text_only": (("item",), _ALL),
    "answers": (("item",), _ALL),
    "responses": (("item", "sample"), _ALL),
    "commitment": (("item", "control", "step", "candidate"), _FORCED),
    "access": (("item", "step", "layer", "head"), _STEPS),
    "dependence": (("item", "edit", "rationale"), ""),
    "answer_access": (("item", "layer", "head"), _STEPS),
    "causal": (
        ("item", "kind", "keys", "rows", "first_layer", "last_layer", "k", "rationale"),
        _FORCED,
    ),
    "lens": (("item", "step", "layer", "candidate"), _FORCED),
    "divergence": (("item", "token"), _STEPS),
    "open_commitment": (("item", "step"), ""),
    "maps": (("item",), _STEPS),
}
"""Columns that no two rows share, and of which items there must be a row: all, those with a
rationale step, or those of them that have candidates."""
_VALUES = ("model", "kind", "arm", "seed", "item", "metric")
_SHARES = {"p": 1e-5, "p_closed": 1e-5, "score": 1e-9} | dict.fromkeys(
    (
        *("mass", "sink_free_mass", "sink_share", "evidence_mass", "evidence_share"),
        *("last_evidence_mass", "last_evidence_share"),
    ),
    0.02,
)
"""Columns of shares, and by how much rounding may carry them out of 0 to 1: attention is summed in
the model's own precision."""
_OVER_CANDIDATES = ("item", SAMPLE, "control", "step", "layer")
_ANSWERS = (
    ("correct", "answer"),
    ("correct_before", "answer_before"),
    ("correct_after", "answer_after"),
)


_Unit = tuple[str, int | None]
"""An item, or one sample of it."""


def _units(table: pd.DataFrame) -> list[_Unit]:
    """The items of a table, or their samples, each once."""
    if SAMPLE not in table:
        return [(item, None) for item in table["item"].unique()]
    units = table[["item", SAMPLE]].drop_duplicates()
    return list(zip(units["item"], units[SAMPLE], strict=True))


class TableCheck:
    """Checks one table, at once or block by block."""

    def __init__(
        self, path: Path, name: str, manifest: Mapping[str, Any], answers: pd.DataFrame | None
    ) -> None:
        """Take what the table is compared with.

        Args:
            path: Of the table.
            name: Of the table.
            manifest: Of its run.
            answers: ``item``, ``n_steps`` and, of several samples, ``sample`` of the responses that
                it was measured on, if known.
        """
        self._path = path
        self._name = name.rpartition(".")[2]
        data = manifest.get("data")
        test = data.get("test") if isinstance(data, Mapping) else None
        count = test.get("n") if isinstance(test, Mapping) else None
        self._count = count if isinstance(count, int) else None
        digests = manifest.get(ITEMS)
        held = digests.get("test") if isinstance(digests, Mapping) else None
        self._items = {
            str(item): dict(part.partition(":")[::2] for part in str(text).split())
            for item, text in (held if isinstance(held, Mapping) else {}).items()
        }
        self._answers = answers
        config = manifest.get("config")
        samples = config.get("samples") if isinstance(config, Mapping) else None
        self._samples = set(range(samples)) if isinstance(samples, int) else set()
        self._sampled = False
        self._seen: set[_Unit] = set()
        self._edited: dict[str, set[_Unit]] = {}
        # A processor that crops may hide all of an edit, which then has no rows.
        self._crops = '"do_center_crop": true' in json.dumps(manifest.get("models"))
        self._regenerated = False
        self._before = 0

    def rows(self, table: pd.DataFrame) -> None:
        """Check rows of whole items.

        Raises:
            RunError: At the first thing that cannot be.
        """
        if "item" not in table:
            return
        for name, slack in _SHARES.items():
            if name in table and pd.api.types.is_numeric_dtype(table[name]):
                values = table[name].to_numpy(dtype=float, na_value=np.nan)
                out = (values < -slack) | (values > 1 + slack)
                if out.any():
                    at = int(out.argmax())
                    self._refuse(table, at, f"{name} is {values[at]:g}, expected 0 to 1")
        for correct, answer in _ANSWERS:
            if correct in table and answer in table:
                self._check_answers(table, correct, answer)
        keys = _TABLES[self._name][0] if self._name in _TABLES else ()
        if self._name == "values":
            keys = tuple(name for name in _VALUES if name in table)
        elif keys and SAMPLE in table:
            self._sampled = True
            self._samples |= set(table[SAMPLE])
            keys = tuple(dict.fromkeys((keys[0], SAMPLE, *keys[1:])))
        if keys and set(keys) <= set(table):
            again = table.duplicated(list(keys)).to_numpy()
            if again.any():
                what = f"a row of the same {', '.join(keys)} is there already"
                self._refuse(table, int(again.argmax()), what)
        if "p" in table and self._name in ("commitment", "lens"):
            self._check_sums(table)
            self._check_steps(table)
        if self._name == "dependence" and "edit" in table:
            for edit, rows in table.groupby("edit"):
                self._edited.setdefault(str(edit), set()).update(_units(rows))
            how = set(table["rationale"]) if "rationale" in table else {"regenerated"}
            self._regenerated |= "regenerated" in how
        self._before += len(table)
        self._seen.update(_units(table))
        if self._items and not self._items.keys() >= set(table["item"]):
            stranger = next(item for item in table["item"] if item not in self._items)
            raise RunError(
                f"{self._path} holds item {stranger}, which its run has not; it was measured on "
                "other items, so delete it to have it computed again."
            )

    def whole(self) -> None:
        """Check, when all rows were seen, that no item is missing.

        Raises:
            RunError: If one is.
        """
        _, of = _TABLES.get(self._name, ((), ""))
        wanted: Iterable[_Unit] = []
        if of == _ALL:
            samples = sorted(self._samples) if self._sampled else [None]
            wanted = [(item, sample) for item in self._items for sample in samples]
            there = {item for item, _ in self._seen}
            if not self._items and self._count not in (None, len(there)):
                self._lacks(f"{of} some items: it holds {len(there)} of {self._count}")
        elif of:
            wanted = self._stepped()
        if of == _FORCED:
            # Where the manifest does not say, an item may be an open question.
            wanted = [unit for unit in wanted if self._n_candidates(unit[0])]
        self._see_that_all(wanted, self._seen, of)
        drawn = set() if self._crops else {"twin", "control"}
        for edit in self._edited.keys() & (drawn | {"blank"}):
            own = (unit for unit in self._stepped() if edit in self._items.get(unit[0], ()))
            has = self._stepped() if edit == "blank" else own
            if not self._regenerated:  # Open questions are answered anew, or not at all.
                has = (unit for unit in has if self._n_candidates(unit[0]))
            self._see_that_all(has, self._edited[edit], f"{edit} picture of")

    def _stepped(self) -> list[_Unit]:
        if self._answers is None:
            return []
        units = _units(self._answers[self._answers["n_steps"] > 0])
        return [unit for unit in units if not unit[1]] if self._name == "maps" else units

    def _see_that_all(self, wanted: Iterable[_Unit], there: set[_Unit], of: str) -> None:
        for item, sample in wanted:
            if (item, sample) not in there:
                self._lacks(f"{of} item {item}" + ("" if sample is None else f", sample {sample}"))

    def _n_candidates(self, item: str) -> int:
        count = self._items.get(item, {}).get("candidates", "")
        return int(count) if count.isdigit() else 0

    def _check_answers(self, table: pd.DataFrame, correct: str, answer: str) -> None:
        said = zip(table["item"], table[correct], table[answer], strict=True)
        flags = table["flag"].fillna("") if "flag" in table else [""] * len(table)
        for at, ((item, right, given), flag) in enumerate(zip(said, flags, strict=True)):
            # A score that came with the response need not agree with what is read.
            if pd.isna(right) or GIVEN in flag.split(", "):
                continue
            known = self._items.get(item, {}).get("right")
            if not isinstance(given, str):
                holds = not right
            else:
                holds = known is None or bool(right) == (answer_digest(item, given) == known)
            if not holds:
                self._refuse(table, at, f"{correct} is {bool(right)} with {answer} {given!r}")

    def _check_sums(self, table: pd.DataFrame) -> None:
        groups = [name for name in _OVER_CANDIDATES if name in table]
        sums = table.groupby(groups, sort=False, dropna=False)["p"].transform("sum", min_count=1)
        off = ((sums - 1).abs() > 1e-3).to_numpy()
        if off.any():
            at = int(off.argmax())
            self._refuse(table, at, f"p over all candidates adds up to {sums.iloc[at]:.4g}, not 1")

    def _check_steps(self, table: pd.DataFrame) -> None:
        if not {"step", "n_steps"} <= set(table):
            return
        groups = [name for name in _OVER_CANDIDATES if name in table and name != "step"]
        there = table.groupby(groups, sort=False, dropna=False)["step"].transform("nunique")
        every = "n_probed" not in table
        wanted = table["n_steps"] + 1 if every else table["n_probed"]
        short = (there != wanted).to_numpy()
        if short.any():
            at = int(short.argmax())
            of = "" if every else f", {wanted.iloc[at]} of them"
            what = f"{there.iloc[at]} steps, expected 0 to {table['n_steps'].iloc[at]}{of}"
            self._refuse(table, at, what)

    def _refuse(self, table: pd.DataFrame, at: int, what: str) -> None:
        raise RunError(
            f"{self._path}, row {self._before + at}, item {table['item'].iloc[at]}: {what}; the "
            "table was changed or measured wrongly, so delete it to have it computed again."
        )

    def _lacks(self, what: str) -> None:
        raise RunError(
            f"{self._path} is not whole, it lacks the {what}; delete it to have it computed again."
        )


def check_mark(path: Path, mark: bytes | None, own: bytes) -> str | None:
    """See that a table is its run's own.

    Args:
        path: Of the table.
        mark: What it says.
        own: What its run writes into it: the run's digest, and the table's name.

    Returns:
        A warning if the table says nothing.

    Raises:
        RunError: If it is another run's or another table.
    """
    if mark == own:
        return None
    if mark is None:
        return (
            f"{path} does not say what run it is of, since something else has written it; whether "
            "it is of this run's model and items cannot be checked."
        )
    (run, _, name), (own_run, _, _) = (one.partition(b" ") for one in (mark, own))
    what = "a table of another run, which had another model, other items or settings"
    if run == own_run:
        what = f"a copy of the run's table {name.decode(errors='replace')}"
    raise RunError(f"{path} is {what}; delete it to have it computed again.")
