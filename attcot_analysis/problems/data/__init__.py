"""Adapters: datasets as they are published, read as problems, checked and converted."""

import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TypedDict, Unpack

from attcot_analysis.errors import ProblemError, check_numbers
from attcot_analysis.files import name_of, path_of
from attcot_analysis.problems.box_forms import FORMS
from attcot_analysis.problems.coverage import CoverageCount, DataCoverage
from attcot_analysis.problems.data import chartqa, clevr, own, visual_cot
from attcot_analysis.problems.data.fields import check_reserved
from attcot_analysis.problems.data.hub import HUB_SETS, READERS
from attcot_analysis.problems.data.place import Folder, Place
from attcot_analysis.problems.data.records import Made, sampled
from attcot_analysis.problems.folder import check_id, problem_line, save_problems
from attcot_analysis.problems.problem import Problem

__all__ = ["ADAPTERS", "Adapter", "DataCheck", "check_data", "convert_data", "read_data"]


@dataclass(frozen=True)
class Adapter:
    """A format that can be read.

    Attributes:
        title: The dataset.
        read: Gives what makes the problems of each of its records.
        hub: Hub id that can be given instead of files; empty if it is read from files only.
    """

    title: str
    read: Callable[[Place], Iterator[Made]]
    hub: str = ""


ADAPTERS = {
    "jsonl": Adapter("your own data, in many forms", own.read),
    "clevr": Adapter("CLEVR", clevr.read),
    "chartqa": Adapter("ChartQA", chartqa.read, chartqa.HUB),
    "visual-cot": Adapter("Visual CoT, with the rationales of its GQA part", visual_cot.read),
    **{name: Adapter(one.title, READERS[name], one.hub) for name, one in HUB_SETS.items()},
}
"""Formats by name."""

_OWN_BOXES = ("jsonl", "visual-cot")
"""Formats of which people write files of their own."""


@dataclass(frozen=True)
class DataCheck:
    """What a check of a dataset found.

    Attributes:
        coverage: What can be measured on the problems that could be read.
        faults: One sentence for every record that could not.
    """

    coverage: DataCoverage
    faults: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether every record could be read, and there is at least one."""
        return not self.faults and self.coverage.n > 0


class ReadOptions(TypedDict, total=False):
    """How a source is read, all optional.

    Attributes:
        images: Folder or ZIP file of the pictures, where they do not lie beside the records.
        split: Of the dataset; default the format's own.
        boxes: Form of your own boxes, a name in `FORMS`; default pixels, refused where they show
            another form.
        names: Of your own data: what fields are called in it, as ``{"question": "query"}``.
        outside: Read pictures outside of the data set's folder and of ``images``, too, which the
            records of a stranger should not name.
    """

    images: str | Path | None
    split: str | None
    boxes: str | None
    names: Mapping[str, str] | None
    outside: bool


def read_data(
    source: str | Path,
    format: str = "jsonl",
    *,
    faults: list[str] | None = None,
    **options: Unpack[ReadOptions],
) -> Iterator[Problem]:
    """Read a dataset as it is published, or your own, problem by problem.

    Args:
        source: File, folder or hub id.
        format: A name in `ADAPTERS`.
        faults: Where to put a sentence for every record that cannot be read; default is to stop
            at the first.
        **options: See `ReadOptions`.

    Raises:
        ProblemError: If the format is unknown or nothing can be read from the source, and, without
            ``faults``, at the first record that is wrong.
    """
    return _Reading(_place(source, format, **options), format, faults, None, 0).problems()


def check_data(
    source: str | Path,
    format: str = "jsonl",
    *,
    limit: int | None = None,
    seed: int = 0,
    **options: Unpack[ReadOptions],
) -> DataCheck:
    """Read a dataset and say what is wrong with it and what can be measured on it.

    Args:
        source: File, folder or hub id.
        format: A name in `ADAPTERS`.
        limit: Only so many problems, drawn at random and of every type in proportion.
        seed: Of the draw.
        **options: See `ReadOptions`.

    Raises:
        ProblemError: If the format is unknown or nothing can be read from the source.
    """
    read = _Reading(_place(source, format, **options), format, [], limit, seed)
    for _ in read.problems():
        pass
    return read.check()


def convert_data(
    source: str | Path,
    folder: str | Path,
    format: str = "jsonl",
    *,
    limit: int | None = None,
    seed: int = 0,
    skip_faulty: bool = False,
    overwrite: bool = False,
    **options: Unpack[ReadOptions],
) -> DataCheck:
    """Write a dataset as a problem folder, which `load_problems` and ``attcot measure`` read.

    Args:
        source: File, folder or hub id.
        folder: Where to; see `save_problems`.
        format: A name in `ADAPTERS`.
        limit: See `check_data`.
        seed: See there.
        skip_faulty: Leave out records that are wrong, instead of refusing the dataset.
        overwrite: Replace a problem folder that is already there.
        **options: See `ReadOptions`.

    Raises:
        ProblemError: As `read_data` and `save_problems`, and if the boxes show another form than
            pixels, of which some would pass.
    """
    place = _place(source, format, **options)
    read = _Reading(place, format, [] if skip_faulty else None, limit, seed)

    def kept() -> Iterator[Problem]:
        yield from read.problems()
        if read.faults and not read.count.coverage.n:
            raise ProblemError(
                f"{source} has no item that can be read; the first fault: {read.faults[0]}"
            )
        if place.seen.fault is not None:
            raise ProblemError(f"{source}: {place.seen.fault}")

    save_problems(kept(), folder, overwrite=overwrite)
    return read.check()


def _place(
    source: str | Path,
    format: str,
    images: str | Path | None = None,
    split: str | None = None,
    boxes: str | None = None,
    names: Mapping[str, str] | None = None,
    outside: bool = False,
) -> Place:
    if format not in ADAPTERS:
        near = get_close_matches(format, ADAPTERS, n=1)
        raise ProblemError(
            f"There is no data format {format!r}; choose from {', '.join(ADAPTERS)}."
            + (f" Is it {near[0]}?" if near else "")
        )
    if boxes is not None and boxes not in FORMS:
        raise ProblemError(f"There is no form of boxes {boxes!r}; choose from {', '.join(FORMS)}.")
    if boxes is not None and format not in _OWN_BOXES:
        raise ProblemError(
            f"The boxes of {format} are of the form that it is published in; leave --boxes out."
        )
    if names and format != "jsonl":
        raise ProblemError(f"The fields of {format} are those published; leave --map out.")
    wrong = [name for name in names or {} if name not in own.FIELDS]
    if wrong:
        raise ProblemError(
            f"--map says {wrong[0]}={(names or {})[wrong[0]]}, and there is no field {wrong[0]!r} "
            f"here; choose from {', '.join(own.FIELDS)}."
        )
    return Place(
        name_of(source, ProblemError), _folder(images), split, boxes, dict(names or {}), outside
    )


def _folder(images: str | Path | None) -> Folder | None:
    if images is None:
        return None
    path = path_of(images, ProblemError)
    if not path.is_file():
        return path
    try:
        return zipfile.Path(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise ProblemError(
            f"{images} is no folder, nor a ZIP file that can be read ({error})."
        ) from error


class _Reading:
    """One pass over a source: the same for a check and a conversion, so that both say the same."""

    def __init__(
        self, place: Place, format: str, faults: list[str] | None, limit: int | None, seed: int
    ) -> None:
        self.place, self.faults = place, faults
        self.count = CoverageCount()
        records = ADAPTERS[format].read(place)
        self._form = place.boxes or ("pixels" if format in _OWN_BOXES else None)
        check_numbers(seed=seed, **({} if limit is None else {"limit": limit}))
        self._records = records if limit is None else sampled(records, limit, seed)
        self._left = limit

    def problems(self) -> Iterator[Problem]:
        seen: set[str] = set()
        for made in self._records:
            if self._left == 0:
                return
            own: set[str] = set()
            try:
                problems = made()
                for problem in problems:
                    _check(problem, seen, own, made.where)
            except ProblemError as error:
                if self.faults is None:
                    raise
                self.faults.append(str(error))
                continue
            seen |= own
            if self._left is not None:
                problems = problems[: self._left]
                self._left -= len(problems)
            for problem in problems:
                self.count.add(problem)
                self.place.look.add(problem)
                yield problem

    def check(self) -> DataCheck:
        place, faults = self.place, self.faults or []
        said = (
            place.seen.fault,
            place.seen.doubt,
            *place.look.sentences(self._form),
            f"Kept as metadata: {', '.join(sorted(place.kept))}." if place.kept else None,
            f"Not read: {', '.join(sorted(place.unread))}." if place.unread else None,
        )
        coverage = self.count.coverage
        warnings = (*coverage.warnings, *(one for one in said if one is not None))
        return DataCheck(replace(coverage, warnings=warnings), tuple(faults))


def _check(problem: Problem, seen: set[str], own: set[str], where: str) -> None:
    """Refuse what `save_problems` would refuse, so that a check says what a conversion does."""
    if problem.id in seen or problem.id in own:
        raise ProblemError(f"{where}: Problem {problem.id} is there twice; ids must be unique.")
    check_id(problem.id, own, where)
    check_reserved(problem)
    problem_line(problem)
