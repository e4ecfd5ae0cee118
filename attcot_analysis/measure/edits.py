"""Edited pictures: what is shown instead of an item's own to see whether its answer follows."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from attcot_analysis.errors import MeasureError
from attcot_analysis.problems import Problem

EditKind = Literal["twin", "control", "blank", "swap"]

GREY = (128, 128, 128)
"""Colour of a blank picture."""


@dataclass(frozen=True)
class EditedImage:
    """One item with one edit of its picture.

    Attributes:
        at: The item's place among the problems.
        kind: The edit.
        image: The edited picture.
        expected: The right answer on it; ``None`` where there is none.
    """

    at: int
    kind: EditKind
    image: Image.Image
    expected: str | None


def edited_images(
    problems: Sequence[Problem], kind: EditKind, *, only: Collection[int] | None = None
) -> list[EditedImage]:
    """Edit the picture of every item that allows it.

    ``"twin"`` and ``"control"`` are the items' own edits; ``"blank"`` is a mid-grey picture of
    the same size; ``"swap"`` the picture of the next item (cyclic) with a different answer.

    Args:
        problems: The items.
        kind: The edit.
        only: Places of the items to edit, where the others are there to lend their pictures;
            then it is no error if none of these allows the edit.

    Raises:
        MeasureError: If no item allows the edit.
    """
    found = []
    for at in range(len(problems)) if only is None else sorted(only):
        problem = problems[at]
        if kind == "blank":
            grey = Image.new("RGB", problem.image.size, GREY)
            found.append(EditedImage(at, kind, grey, None))
        elif kind == "swap":
            n = len(problems)
            others = (problems[place % n] for place in range(at + 1, at + n))
            other = next((one for one in others if one.answer != problem.answer), None)
            if other is not None:
                found.append(EditedImage(at, kind, other.image, None))
        else:
            edit = problem.twin if kind == "twin" else problem.control
            if edit is not None:
                found.append(EditedImage(at, kind, edit.image, edit.answer))
    if not found and only is None:
        raise MeasureError(
            f"No item allows the edit {kind!r}; leave it out of edits or give problems that do."
        )
    return found
