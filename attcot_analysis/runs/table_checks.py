"""Tables of anybody: what they unpack to, and what a run's must hold: shares, items, answers."""

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import types

from attcot_analysis.errors import RunError, total_memory
from attcot_analysis.measures.unread import GIVEN
from attcot_analysis.runs.manifests import ITEMS, answer_digest

UNREADABLE = (
    pa.ArrowException,
    OSError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    MemoryError,
)
"""What reading a damaged table may raise."""
MOST = 10**7
"""Of what is counted in a table: steps, layers, tokens, items."""
_NUMBER = 8  # bytes


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
    "patching": (
        ("item", "source", "method", "site", "head", "first_layer", "last_layer", "group", "k"),
        "",
    ),
    "behaviour": (("item", "probe", "null", "step"), ""),
    "perceptions": (("item", "k"), _STEPS),
    "maps": (("item",), _STEPS),
}
"""Columns that no two rows share, and of which items there must be a row: all, those with a
rationale step, or those of them that have candidates."""


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_COUNTS = _names(
    "step n_steps layer head sample token n_probed n_tokens n_closed cols k n_items n_seeds "
    "n_true n_false n_unchecked n_unread_boxes"
)
_FILLED = _names("item sample text n_steps control edit step layer head metric seed")
_HOLD: Mapping[str, str] = {
    "item mode text match flag control candidate edit rationale metric model stated answer cut "
    "kind keys final read answer_before answer_after expected forced probe target source method "
    "site group": "text",
    " ".join([*_COUNTS, "first_layer last_layer seed"]): "a whole number",
    "finished correct text_only habitual leaked correct_before correct_after followed flipped "
    "same null": "true or false",
    "mass share density evidence_mass evidence_share log_p p score kl value low high area can_lose "
    "hit said iou entropy log_p_before log_p_after delta_log_p delta_accuracy "
    "log_odds_before log_odds_source recovered": "a number",
    "steps": "a list of texts",
    "ids": "a list of whole numbers",
}
_KINDS = {name: kind for names, kind in _HOLD.items() for name in _names(names)}
"""What columns of the tables of `_TABLES` hold."""
_NEEDED = {
    **dict.fromkeys(
        ("answers_cot", "answers_direct", "answers_text_only", "answers", "responses"),
        _names("item text answer correct finished n_steps"),
    ),
    "commitment": _names("item control step n_steps candidate log_p p leaked"),
    "access": _names("item step n_steps layer head mass share density"),
    "dependence": _names("item edit answer_before answer_after flipped delta_log_p"),
    "values": _names("item metric value"),
    "summary": _names("metric value low high n_items"),
}
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


def check_columns(path: Path, name: str, content: pa.Table) -> None:
    """See that a table that `measure` writes has its columns, and in each what belongs there.

    Raises:
        RunError: Names the first column that is wrong.
    """
    own = name.rpartition(".")[2]
    known = own in _TABLES or own in _NEEDED
    # A patch of all heads says -1.
    counts = [name for name in _COUNTS if (own, name) != ("patching", "head")]
    wrong = wrong_column(content, _KINDS, filled=_FILLED, counts=counts) if known else None
    if wrong is not None:
        raise RunError(f"{path} is damaged: {wrong}; delete it to have it computed again.")


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
        of_edits = config.get("edited_samples") if isinstance(config, Mapping) else None
        first = {"maps": 1, "dependence": of_edits}.get(self._name)
        self._first = first if isinstance(first, int) else None
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
        needed = _NEEDED.get(self._name, ()) if self._items and len(table) else ()
        lacking = sorted(set(needed) - set(table))
        if lacking:
            raise RunError(
                f"{self._path} is damaged: it has no column {lacking[0]}; delete it to have it "
                "computed again."
            )
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
            if self._first is not None:
                numbers = pd.to_numeric(table[SAMPLE], errors="coerce")
                later = (numbers >= self._first).to_numpy()
                if later.any():
                    what = f"its run has this table of the first {self._first} samples only"
                    self._refuse(table, int(later.argmax()), what)
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
        # Of several samples, some tables hold the first ones only.
        return [unit for unit in units if self._first is None or (unit[1] or 0) < self._first]

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


def read_parquet(path: Path, content: bytes | None = None) -> pa.Table:
    """A parquet file as a table.

    Args:
        path: Of the file.
        content: Its bytes, where they have been read already.

    Raises:
        RunError: If it unpacks to more than half of the memory that there is.
        pyarrow.ArrowException, OSError: If it is damaged; see `UNREADABLE`.
    """
    source = path if content is None else pa.BufferReader(content)
    with closing(pq.ParquetFile(source)) as file:
        check_unpacked(file, source, path)
        table = file.read()
    table.validate(full=True)
    return table


def check_unpacked(file: pq.ParquetFile, source: Any, path: Path) -> None:
    """Refuse a table that would fill the memory.

    A text that a file holds once may stand in all of its rows. Where that matters the texts are
    read as places in a list of them, and each is counted as often as it is named.

    Raises:
        RunError: If it unpacks to more than half of the memory that there is.
    """
    about = file.metadata
    chunks = [
        about.row_group(group).column(at)
        for group in range(about.num_row_groups)
        for at in range(about.num_columns)
    ]
    most = (total_memory() or 2**34) // 2
    size = sum(max(one.total_uncompressed_size, one.num_values * _NUMBER) for one in chunks)
    texts = [one for one in chunks if one.physical_type == "BYTE_ARRAY"]
    if size <= most < sum(one.num_values * one.total_uncompressed_size for one in texts):
        names = sorted({one.path_in_schema for one in texts})
        again = pq.ParquetFile(source, read_dictionary=names)
        size += sum(sum(map(_bytes, part.columns)) for part in again.iter_batches(columns=names))
    if size > most:
        raise RunError(
            f"{path} unpacks to {size / 2**30:.1f} GiB, more than half of the memory here; get it "
            "again from a source you trust, or read it where there is more."
        )


def _bytes(column: pa.Array) -> int:
    """Of the texts in a column, each as often as it is there."""
    if types.is_dictionary(column.type):
        lengths = pc.take(pc.binary_length(column.dictionary), column.indices)
        return int(pc.sum(lengths.cast(pa.int64())).as_py() or 0)
    if types.is_nested(column.type):
        inner = column.flatten()
        return sum(map(_bytes, inner if isinstance(inner, list) else [inner]))
    return 0


def _listed(of: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda kind: (
        (types.is_list(kind) or types.is_large_list(kind))
        and (types.is_null(kind.value_type) or of(kind.value_type))
    )


def _text(kind: Any) -> bool:
    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(types.is_string(kind) or types.is_large_string(kind))


_IS: Mapping[str, Callable[[Any], bool]] = {
    "text": _text,
    "a whole number": types.is_integer,
    "a number": lambda kind: types.is_floating(kind) or types.is_integer(kind),
    "true or false": types.is_boolean,
    "a list of texts": _listed(_text),
    "a list of whole numbers": _listed(types.is_integer),
}


def wrong_column(
    table: pa.Table,
    kinds: Mapping[str, str],
    *,
    needed: Collection[str] = (),
    filled: Collection[str] = (),
    counts: Collection[str] = (),
) -> str | None:
    """What is wrong with a table's columns, as half a sentence; ``None`` if nothing is.

    Args:
        table: The table.
        kinds: Column → what it must hold, where it is there: a key of `_IS`.
        needed: Those that must be there.
        filled: Those that hold something in every row.
        counts: Those of which every value is from 0 to `MOST`.
    """
    for name in dict.fromkeys((*needed, *kinds)):
        at = table.schema.get_all_field_indices(name)
        if len(at) != 1:
            if at or name in needed:
                return f"it has {len(at)} columns {name}" if at else f"it has no column {name}"
            continue
        column = table.column(at[0])
        held = column.type
        if types.is_null(held) and not (len(column) and name in filled):
            continue
        if name in kinds and not _IS[kinds[name]](held):
            return f"its column {name} holds {held!s:.60}, expected {kinds[name]}"
        if name in filled and column.null_count:
            return f"its column {name} has {column.null_count} empty cells"
        if name in counts and len(column):
            least, most = pc.min_max(column).values()
            if (least.as_py() or 0) < 0 or (most.as_py() or 0) > MOST:
                return f"its column {name} goes from {least} to {most}, expected 0 to {MOST}"
    return None
