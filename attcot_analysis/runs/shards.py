"""`Shards`: the processes that share one measurement, as `accelerate launch` starts them."""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch

from attcot_analysis.errors import AttCoTError, RunError, one_line

MEETING = timedelta(minutes=10)
"""How long a process waits for the others to start."""
PATIENCE = timedelta(hours=24)
"""How long a process waits for another that is alive and still working."""

_WORLD = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")

Gather = Callable[[list[Any]], list[Any]]


class Shards:
    """This process among those that share a measurement.

    Attributes:
        rank: Which process this is, from 0.
        count: How many there are.
        device: Where this one computes; ``None`` leaves it to the model.
    """

    def __init__(
        self,
        rank: int = 0,
        count: int = 1,
        *,
        device: torch.device | None = None,
        gather: Gather | None = None,
    ) -> None:
        """Make one by hand; `here` asks the launcher.

        Args:
            rank: Which process this is.
            count: How many there are.
            device: Where this one computes.
            gather: Joins the lists that all processes call it with, in order of rank.
        """
        self.rank = rank
        self.count = count
        self.device = device
        self._gather = gather or (lambda entries: entries)
        self._failed = False

    @classmethod
    @contextmanager
    def here(cls) -> Iterator["Shards"]:
        """The processes that a launcher started; only this one if none did.

        `accelerate launch`, `torchrun` and MPI are understood. On GPUs every process gets its
        own; without a GPU they share the CPU and talk through gloo.

        Raises:
            RunError: If there are several but accelerate is missing or sees another number, or
                what the launcher has set is no number.
        """
        count = next((_number(name) for name in _WORLD if os.environ.get(name)), 1)
        if count == 1:
            if os.environ.get("ACCELERATE_USE_CPU") == "True" and "MASTER_ADDR" in os.environ:
                warnings.warn(
                    "accelerate launch --cpu starts only one process unless it is given MPI; for "
                    "several on one machine use accelerate launch --multi_gpu (also without a "
                    "GPU) or torchrun.",
                    stacklevel=3,
                )
            yield cls()
            return
        try:
            from accelerate import PartialState
        except ImportError as error:
            raise RunError(
                f"{count} processes share this run, which needs accelerate; install "
                "attcot-analysis[train]."
            ) from error
        cpu = not torch.cuda.is_available() or os.environ.get("ACCELERATE_USE_CPU") == "True"
        try:
            state = PartialState(cpu=cpu, timeout=MEETING)
        except (RuntimeError, ValueError) as error:
            raise RunError(f"The {count} processes of this run do not meet: {error}") from error
        try:
            if state.num_processes != count:
                raise RunError(
                    f"The launcher started {count} processes, but accelerate sees "
                    f"{state.num_processes}; start them with accelerate launch or torchrun."
                )
            # gloo also where NCCL is at hand: it notices when a process is gone.
            group = torch.distributed.new_group(backend="gloo", timeout=PATIENCE)

            def gather(entries: list[Any]) -> list[Any]:
                found: list[list[Any]] = [[] for _ in range(count)]
                torch.distributed.all_gather_object(found, entries, group=group)
                return [entry for entries in found for entry in entries]

            yield cls(state.process_index, count, device=state.device, gather=gather)
        finally:
            state.destroy_process_group()
            PartialState._reset_state()

    @property
    def main(self) -> bool:
        """Whether this is the process that merges, prints and shows progress."""
        return self.rank == 0

    def mine(self, work: Sequence[int]) -> Sequence[int]:
        """This process' share of some work that all know of."""
        return work[self.rank :: self.count]

    @contextmanager
    def together(self) -> Iterator[None]:
        """Leave only when all processes have left; an error in one is an error in all.

        Every process has to come here equally often.

        Raises:
            RunError: If another process failed or is gone.
        """
        try:
            yield
        except Exception as error:
            self._meet(_sentence(error))
            raise
        self._meet(None)

    def from_main(self, make: Callable[[], Any]) -> Any:
        """What `make` returns in the main process, in all of them (it must be picklable).

        Raises:
            RunError: If it failed there, in the others too.
        """
        made = None
        with self.together():
            if self.main:
                made = make()
        return self._all(made)[0]

    def gather(self, entry: Any) -> list[Any]:
        """What every process calls it with, in order of rank (each must be picklable)."""
        return self._all(entry)

    def _meet(self, failure: str | None) -> None:
        if self._failed:
            return
        failures = self._all(failure)
        for rank, found in enumerate(failures):
            if found is not None:
                # All know it now: none waits for another again on the way out.
                self._failed = True
                if failure is None:
                    raise RunError(f"Process {rank + 1} of {self.count} failed: {found}")

    def _all(self, entry: Any) -> list[Any]:
        try:
            return self._gather([entry])
        except RuntimeError as error:
            self._failed = True
            raise RunError(
                f"Another of the {self.count} processes ended without a word (killed, or out of "
                "memory); what is finished is kept, so run the same command again to go on."
            ) from error


def _number(name: str) -> int:
    """What a launcher has set, which must be a number from 1."""
    text = os.environ[name]
    if not (text.isascii() and text.isdecimal()) or int(text) < 1:
        raise RunError(
            f"{name} is {text!r} in the environment, where a launcher says how many processes "
            "share the run; unset it, or start them with accelerate launch or torchrun."
        )
    return int(text)


def _sentence(error: Exception) -> str:
    if isinstance(error, AttCoTError):
        return str(error)
    return f"{type(error).__name__}: {one_line(error)}"
