"""Batches: which items are measured together, in halves where memory runs out."""

import gc
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import pandas as pd
import torch
from tqdm.auto import tqdm

from attcot_analysis.errors import MeasureError
from attcot_analysis.models.load import out_of_memory
from attcot_analysis.problems import Problem
from attcot_analysis.runs.parts import Part, Places, joined
from attcot_analysis.runs.run import RunFolder
from attcot_analysis.runs.shards import Shards

Made = TypeVar("Made")

WINDOW = 8
"""Batches among whose items those of like length are put together."""

_PIXELS_PER_TOKEN = 28 * 28

_CHARACTERS_PER_TOKEN = 4

_LIKE = 16


def in_order(n_items: int, batch_size: int) -> list[list[int]]:
    """Items 0 to ``batch_size`` − 1, and so on."""
    starts = range(0, n_items, batch_size)
    return [list(range(start, min(start + batch_size, n_items))) for start in starts]


def by_length(lengths: Sequence[float], batch_size: int) -> list[list[int]]:
    """Batches of items of like length, the longest first, so that little is padded.

    Sorted are `WINDOW` batches' items at a time. The longest of them come first: what does not
    fit into memory shows at once. Lengths that differ by less than 16 tokens count as like, and
    like items stay in their order.

    Args:
        lengths: Of every item, in tokens; estimates do, since they decide nothing but the batches.
        batch_size: Items per batch.
    """
    batches = []
    for window in in_order(len(lengths), WINDOW * batch_size):
        window.sort(key=lambda place: -(lengths[place] // _LIKE))
        batches += [[window[at] for at in batch] for batch in in_order(len(window), batch_size)]
    return batches


def estimated_lengths(
    problems: Sequence[Problem], responses: Sequence[Sequence[int]] | None = None
) -> list[float]:
    """About how many tokens each item has, without asking a processor.

    A token stands for 28 × 28 pixels or four characters of the question. Processors that shrink
    pictures, or cut them into tiles, make other numbers of tokens, mostly in the same order.
    """
    return [
        sum(width * height for width, height in problem.sizes) / _PIXELS_PER_TOKEN
        + len(problem.question) / _CHARACTERS_PER_TOKEN
        + (0 if responses is None else len(responses[at]))
        for at, problem in enumerate(problems)
    ]


def note_halved(run: RunFolder, name: str, sizes: Sequence[int | None]) -> None:
    """Say in a run's manifest that a table was measured in smaller batches.

    Args:
        run: The run; what it says already is kept.
        name: Of the table.
        sizes: Of every process how many items it could take at once, ``None`` for any number.
    """
    before = dict(run.manifest.get("halved") or {})
    found = [size for size in (*sizes, before.get(name)) if size is not None]
    if found and min(found) != before.get(name):
        run.note("halved", {**before, name: min(found)})


@dataclass
class Halving:
    """Measures batches, and halves those that do not fit into memory.

    Every item is measured on its own numbers whatever else is in its batch, so that halves give
    what the whole would have given, up to the last digits of floating point.

    Attributes:
        sizes: By table, how many items at once have turned out to fit, where a batch did not.
    """

    sizes: dict[str, int] = field(default_factory=dict)

    def __call__(
        self,
        name: str,
        make: Callable[[Places], Part],
        places: Places,
        items: Sequence[str],
        clear: Callable[[], object] = lambda: None,
    ) -> Part:
        """Measure a batch.

        Args:
            name: Of the table.
            make: Measures some items.
            places: Those of the batch.
            items: Their names.
            clear: Lets go of what is kept for the batch, called where memory did not do.

        Raises:
            MeasureError: If one item alone does not fit.
        """
        parts: list[Part] = []
        waiting = [list(range(len(places)))]
        while waiting:
            some = waiting.pop(0)
            if len(some) <= self.sizes.get(name, len(some)):
                made = attempt(partial(make, [places[at] for at in some]))
                if made is not None:
                    parts.append(made)
                    continue
                clear()
                if len(some) == 1:
                    raise MeasureError(
                        f"Item {items[some[0]]} alone does not fit into memory ({name}); give it a "
                        "smaller picture, read fewer layers, take a smaller dtype, or raise "
                        "--max-memory."
                    )
                self._shrink(name, (len(some) + 1) // 2)
            half = (len(some) + 1) // 2
            waiting[:0] = [some[:half], some[half:]]
        return parts[0] if len(parts) == 1 else _joined(parts)

    def _shrink(self, name: str, size: int) -> None:
        warnings.warn(
            f"Out of memory: {name.replace('_', ' ')} goes on with {size} items at a time.",
            stacklevel=4,
        )
        self.sizes[name] = size
        # What the failed attempt has left in cycles is young; a whole collection takes long.
        gc.collect(1)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def attempt(make: Callable[[], Made]) -> Made | None:
    """What `make` gives, ``None`` if memory did not do; all that it held is let go then."""
    try:
        return make()
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        return None


def _joined(parts: Sequence[Part]) -> Part:
    rows = [part.rows for part in parts]
    table = pd.concat([one for one in rows if len(one)] or rows[:1], ignore_index=True)
    # Notes on one half say nothing about both.
    table.attrs = {}
    return Part(table, {k: v for part in parts for k, v in (part.arrays or {}).items()})


@dataclass
class Batched:
    """The tables of one model on one set of items.

    With a run folder, a batch is on the disk as soon as it is measured, and one that is there is
    not measured again.

    Attributes:
        items: Names of all items.
        run: Where to keep the tables; ``None``: in memory.
        prefix: Put before the tables' names there.
        shards: The processes that share the work.
        progress: Show progress bars.
        halving: Measures the batches.
        names: Tables made so far, in their order.
    """

    items: Sequence[str]
    run: RunFolder | None
    prefix: str
    shards: Shards
    progress: bool
    halving: Halving = field(default_factory=Halving)
    names: list[str] = field(default_factory=list)
    _made: dict[str, pd.DataFrame] = field(default_factory=dict)

    def make(
        self,
        tables: Mapping[str, Callable[[Places], Part]],
        batches: Sequence[Places],
        begin: Callable[[], object] = lambda: None,
    ) -> None:
        """Make tables batch by batch, all of a batch one after the other: what is not there.

        Args:
            tables: Names of tables, and what gives their rows of a batch.
            batches: All batches of the tables, the same ones whenever they are resumed.
            begin: Called before every batch, and again where memory did not do for a table.

        Raises:
            RunError: If what the run folder holds is damaged or of other batches, or another
                process has failed.
        """
        self.names += tables

        def part(name: str, batch: Places) -> Part:
            items = [self.items[place] for place in batch]
            return self.halving(name, tables[name], batch, items, begin)

        shown = ", ".join(tables)
        run = self.run
        if run is None:
            frames: dict[str, list[pd.DataFrame]] = {name: [] for name in tables}
            for n in self._shown(shown, range(len(batches))):
                begin()
                for name in tables:
                    frames[name].append(part(name, batches[n]).rows)
            self._made |= {name: joined(frames[name], self.items) for name in tables}
            return
        parts = {name: run.parts(self.prefix + name) for name in tables}

        def to_do() -> dict[str, list[int]]:
            return {
                name: []
                if self.prefix + name in run.tables
                else parts[name].missing(batches, self.items)
                for name in tables
            }

        missing = self.shards.from_main(to_do)
        wanted = sorted({number for numbers in missing.values() for number in numbers})
        with self.shards.together():
            for number in self._shown(shown, self.shards.mine(wanted)):
                begin()
                for name in tables:
                    if number in missing[name]:
                        made = part(name, batches[number])
                        parts[name].write(number, batches, self.items, made)
        for name in tables:
            sizes = self.shards.gather(self.halving.sizes.get(name))
            with self.shards.together():
                if self.shards.main:
                    note_halved(run, self.prefix + name, sizes)
                    parts[name].tidy()

    def read(self, name: str) -> pd.DataFrame:
        """A table that was made.

        Raises:
            RunError: If it is damaged on the disk, for all processes.
        """
        if self.run is None:
            return self._made[name]
        with self.shards.together():
            return self.run.read_table(self.prefix + name)

    def _shown(self, name: str, numbers: Sequence[int]) -> "tqdm[int]":
        return tqdm(numbers, desc=name.replace("_", " "), disable=not self.progress)
