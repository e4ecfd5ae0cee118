"""`Batched`: tables that are made batch by batch, in memory or in a run folder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pandas as pd
from tqdm.auto import tqdm

from attcot_analysis.errors import RunError
from attcot_analysis.runs.batches import Halving, Places, note_halved
from attcot_analysis.runs.records import Part, Records, joined
from attcot_analysis.runs.run import RunFolder
from attcot_analysis.runs.shards import Shards


@dataclass
class Batched:
    """The tables of one model on one set of items.

    With a run folder, a batch is on the disk as soon as it is measured, one that is there is not
    measured again, and a table is merged and kept on the disk without being read.

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

    def make(self, name: str, measure: Callable[[Places], Part], batches: Sequence[Places]) -> None:
        """Make a table: measure what is not there, then merge.

        Args:
            name: Of the table.
            measure: Gives the rows of a batch.
            batches: All batches of the table, the same ones whenever it is gone on with.

        Raises:
            RunError: If what the run folder holds is damaged or of other batches, or another
                process has failed.
        """
        self.names.append(name)

        def part(batch: Places) -> Part:
            return self.halving(name, measure, batch, [self.items[place] for place in batch])

        if self.run is None:
            frames = [part(batches[n]).rows for n in self._shown(name, range(len(batches)))]
            self._made[name] = joined(frames, self.items)
            return
        run, full_name = self.run, self.prefix + name
        records = Records(run, full_name)
        of_batch = [[self.items[place] for place in batch] for batch in batches]

        def to_do() -> list[int]:
            if full_name in run.tables:
                records.clear()
                return []
            held = records.items()
            begun = [n for n, items in enumerate(of_batch) if not held.isdisjoint(items)]
            if not all(held.issuperset(of_batch[n]) for n in begun):
                raise RunError(
                    f"The parts of {full_name} in {run.path} were made with another batch_size; "
                    "go on with that one, or write to another folder."
                )
            return sorted(set(range(len(batches))) - set(begun))

        missing = self.shards.from_main(to_do)
        with self.shards.together():
            for number in self._shown(name, self.shards.mine(missing)):
                records.write(number, of_batch[number], part(batches[number]))
        sizes = self.shards.gather(self.halving.sizes.get(name))
        with self.shards.together():
            if self.shards.main and full_name not in run.tables:
                note_halved(run, full_name, sizes)
                records.keep(self.items)

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
