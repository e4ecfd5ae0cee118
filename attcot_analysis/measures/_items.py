"""What every measurement does with its items and its table, once."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Literal, TypeVar

import pandas as pd
from numpy.typing import ArrayLike
from tqdm.auto import tqdm

from attcot_analysis.errors import (
    MeasureError,
    NothingMeasuredError,
    check_known,
    check_numbers,
    check_table,
)
from attcot_analysis.models import Encoded, Mllm, encode_problem
from attcot_analysis.models.inputs import Shown
from attcot_analysis.problems import ParsedResponse, Problem
from attcot_analysis.problems.edits import EditedImage
from attcot_analysis.stats.intervals import bootstrap_mean

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Response = Sequence[int] | str
"""Token ids, as a model wrote them, or text."""

Empty = Literal["error", "skip"]
"""What to do with items that cannot be measured: raise an error, or leave them out and say so."""

Need = Literal["rationale", "answer", "nothing"]
"""What a response must have."""

Skipped = Mapping[str, tuple[str, ...]]
"""Why items were left out → their ids."""

Work = TypeVar("Work")

FIGURES = "attcot_analysis.show.results"
"""The module that draws results, by the names of `Result.name`. It is looked up when a figure is
asked for, since measurements know nothing of figures."""

_LACKS = {
    "rationale": (
        "has no rationale steps",
        "give it steps in the model's format",
        "no rationale step",
    ),
    "answer": ("states no answer", "give it one in the model's format", "no stated answer"),
}

_OPEN = "an open question"

_NONE = {
    "rationale": "No response has a rationale step, so there is nothing to measure.",
    "answer": "No response states an answer, so there is nothing to measure.",
    "nothing": "No items were given, so there is nothing to measure.",
    "open": "All items are open questions, so no answer can be forced; give items with candidates.",
}


def seen_edits(
    mllm: Mllm, problems: Sequence[Problem], edited: Sequence[EditedImage]
) -> list[EditedImage]:
    """The edits of which the model sees something: a processor that crops may hide all of one.

    Where the model's input stays the same, that its answer does is no finding.
    """
    grids = {
        at: encode_problem(mllm, problems[at]).layout.grids
        for at in {one.at for one in edited if one.boxes}
    }
    return [
        one for one in edited if not one.boxes or grids[one.at][one.picture - 1].sees(one.boxes)
    ]


def batches(work: Sequence[Work], size: int, name: str, progress: bool) -> Iterator[Sequence[Work]]:
    """Cut work into batches, with a progress bar of that name if asked for."""
    check_numbers(batch_size=size)
    for start in tqdm(range(0, len(work), size), desc=name, disable=not progress):
        yield work[start : start + size]


@dataclass(frozen=True, eq=False)
class Items:
    """Problems with their responses, and which of them can be measured.

    Attributes:
        mllm: The model.
        problems: All items.
        responses: One per item.
        images: Other pictures to show instead of the items' own, one per item.
        parsed: By place among the problems, the responses that can be measured.
        skipped: Why items were left out → their ids.
    """

    mllm: Mllm
    problems: Sequence[Problem]
    responses: Sequence[Response]
    images: Sequence[Shown] | None
    parsed: Mapping[int, ParsedResponse]
    skipped: Skipped

    @property
    def places(self) -> list[int]:
        """The places of the items that can be measured."""
        return list(self.parsed)

    @property
    def measured(self) -> list[Problem]:
        """The problems that can be measured."""
        return [self.problems[at] for at in self.parsed]

    def encode(
        self, at: int, response: Response | None = None, problem: Problem | None = None
    ) -> Encoded:
        """An item, or it put otherwise, with its response or another, on the picture it shows."""
        return encode_problem(
            self.mllm,
            self.problems[at] if problem is None else problem,
            mode="cot",
            response=self.responses[at] if response is None else response,
            image=None if self.images is None else self.images[at],
        )


def refuse_several(problems: Sequence[Problem], what: str = "this measurement") -> None:
    """Refuse items of whose pictures a measurement would know the first only.

    Raises:
        MeasureError: Names the item.
    """
    more = next((one for one in problems if one.n_images > 1), None)
    if more is not None:
        raise MeasureError(
            f"Item {more.id} has {more.n_images} pictures, and {what} is defined for one; "
            "measure its pictures one by one, as problem.alone(number)."
        )


def paired(
    mllm: Mllm,
    problems: Sequence[Problem],
    responses: Sequence[Response],
    *,
    images: Sequence[Shown] | None = None,
    need: Need = "rationale",
    forced: bool = False,
    empty: Empty = "error",
    several: bool = False,
) -> Items:
    """Pair problems with responses and see which of them can be measured.

    Args:
        mllm: The model.
        problems: The items.
        responses: One per item.
        images: Other pictures to show instead of the items' own, one per item.
        need: What a response must have.
        forced: Whether answers are to be forced, for which an item must have candidates.
        empty: What to do with items that cannot be measured.
        several: Whether the measurement knows items with several pictures.

    Raises:
        MeasureError: If the inputs differ in number, an item cannot be measured
            (``empty="error"``), none can, or one has several pictures that would not be told apart.
    """
    if not several:
        refuse_several(problems)
    check_known(empty, Empty, f"empty is {empty!r}")
    if len(responses) != len(problems) or (images is not None and len(images) != len(problems)):
        raise MeasureError(
            f"Got {len(problems)} problems, {len(responses)} responses and "
            f"{'no' if images is None else len(images)} images; give one of each per problem."
        )
    kept: dict[int, ParsedResponse] = {}
    skipped: dict[str, list[str]] = {}
    for at, parsed in enumerate(map(mllm.parse, responses)):
        there = {"rationale": parsed.steps, "answer": parsed.answer_range, "nothing": True}[need]
        if not there:
            lack, remedy, why = _LACKS[need]
            fault = f"its response {lack}; {remedy}"
        elif forced and not problems[at].candidates:
            why = _OPEN
            fault = "it is an open question, so no answer can be forced on it; give it candidates"
        else:
            kept[at] = parsed
            continue
        if empty == "error":
            raise MeasureError(
                f"Item {problems[at].id}: {fault}, or pass empty='skip' to leave such items out."
            )
        skipped.setdefault(why, []).append(problems[at].id)
    if not kept:
        raise MeasureError(_NONE["open" if set(skipped) == {_OPEN} else need])
    left = {why: tuple(ids) for why, ids in skipped.items()}
    return Items(mllm, problems, responses, images, kept, left)


class Result:
    """A measurement's table, checked once, and what can be read off it.

    Attributes:
        table: The tidy table, one run's.
        problems: The items by id; empty where none were given.
        skipped: Why items were left out → their ids.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        table: pd.DataFrame,
        problems: Iterable[Problem] = (),
        *,
        skipped: Skipped = MappingProxyType({}),
    ) -> None:
        """Check a table, as measured or as read back from a run folder.

        Args:
            table: The measurement's table, of one run.
            problems: The items, where their answers or boxes are to be looked up.
            skipped: Why items were left out → their ids.

        Raises:
            MeasureError: If the table lacks columns or rows, or holds several runs.
        """
        check_table(table, self.name, self.columns)
        if table.empty:
            raise NothingMeasuredError(
                f"The table {self.name} has no rows; measure at least one item."
            )
        several = "sample" in table and "sample" not in self.columns
        if several and table["sample"].nunique() > 1:
            raise MeasureError(
                f"The table {self.name} holds {table['sample'].nunique()} samples of each item; "
                "give the rows of one, or read each of them with by_sample."
            )
        self.table = table
        self.problems = {problem.id: problem for problem in problems}
        self.skipped = dict(skipped)
        self._check()

    def __repr__(self) -> str:
        """What it is and of how many items."""
        return f"{type(self).__name__}({self.n} items, {len(self.table)} rows)"

    @property
    def n(self) -> int:
        """Number of items measured."""
        return int(self.table["item"].nunique())

    def figure(self, **options: object) -> "Figure":
        """Draw the result; the options are those of its function in `attcot_analysis.show`."""
        figure: Figure = getattr(import_module(FIGURES), self.name)(self, **options)
        return figure

    def values(self) -> Mapping[str, pd.Series]:
        """What `item_values` takes from it: names of `METRICS` → values by item."""
        return {}

    def describe(self) -> str:
        """Say in a paragraph what was left out, of how many items this is, and what came out."""
        sentences = [
            f"{len(ids)} {'item' if len(ids) == 1 else 'items'} left out ({why}): "
            f"{', '.join(ids[:5])}{', ...' if len(ids) > 5 else ''}."
            for why, ids in self.skipped.items()
        ]
        sentences += self._warnings()
        sentences.append(f"{self.title} of {self.n} {'item' if self.n == 1 else 'items'}:")
        return " ".join([*sentences, f"{'; '.join(self._numbers())}. 95 % bootstrap intervals."])

    def _check(self) -> None:
        """See that the table is whole."""

    def _warnings(self) -> list[str]:
        """Sentences on what the numbers do not hold for."""
        return []

    def _headline(self) -> dict[str, ArrayLike]:
        """What is said first: name → values of the items."""
        raise NotImplementedError

    def _numbers(self) -> list[str]:
        """The headline's means with their intervals."""
        means = {
            name: bootstrap_mean(pd.Series(values).astype(float))
            for name, values in self._headline().items()
        }
        return [f"{name} {mean}" for name, mean in means.items() if mean.n]

    def _problem(self, item: str) -> Problem:
        if item not in self.problems:
            raise MeasureError(
                f"Item {item} of the table {self.name} is not among the {len(self.problems)} "
                "problems given; give the problems the table was made from."
            )
        return self.problems[item]
