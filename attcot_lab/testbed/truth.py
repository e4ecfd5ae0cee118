"""What is true of a testbed picture: statements of steps held against the scene in words."""

import re

from attcot_analysis.errors import ProblemError
from attcot_analysis.problems.problem import Problem
from attcot_lab.testbed.arrows import cell_name, read_board

_PIECE = re.compile(r"The (\w+) in ([a-c])([1-3]) is (\w+)\.")
_BAR = re.compile(r"The \w+ bar reaches \d+\.")
_COLUMN = re.compile(r"The (\w+) is in column ([a-c])\b")
_ROW = re.compile(r"The (\w+) is in row ([1-3])\b")
_CELL = re.compile(r"The (\w+) is in ([a-c][1-3])\b")
_POINTS = re.compile(r"\b([a-c][1-3]) points (\w+)\b")
_COLOUR = re.compile(r"The (?:piece|(\w+)) in ([a-c][1-3]) is (\w+)\b")


def words_truth(problem: Problem, text: str) -> list[bool | None]:
    """Hold a step against its item's picture in words, as testbed B keeps it in ``metadata``.

    Checked is where a piece is (cell, column or row), its colour, and how far a bar reaches; other
    steps are of one statement that cannot be told.

    Raises:
        ProblemError: If the item does not say what its picture shows.
    """
    told = str(problem.metadata.get("words", ""))
    if not told:
        raise ProblemError(
            f"Item {problem.id} has no words in its metadata; give items of testbed B."
        )
    pieces = {shape: (column, row, colour) for shape, column, row, colour in _PIECE.findall(told)}
    at = {column + row: (shape, colour) for shape, (column, row, colour) in pieces.items()}
    bars = set(_BAR.findall(told))
    found: list[bool | None] = [one in bars for one in _BAR.findall(text)] if bars else []
    for pattern, part in ((_COLUMN, slice(0, 1)), (_ROW, slice(1, 2)), (_CELL, slice(0, 2))):
        for shape, place in pattern.findall(text):
            found.append("".join(pieces.get(shape, ("", "", ""))[part]) == place)
    for shape, cell, colour in _COLOUR.findall(text):
        own = at.get(cell, ("", ""))
        found.append(own[1] == colour and shape in ("", own[0]))
    return found or [None]


def board_truth(problem: Problem, text: str) -> list[bool | None]:
    """Hold a step of testbed A against the board that its item's picture shows.

    Checked is where an arrow points; where the walk ends is no statement about one place.
    """
    told = _POINTS.findall(text)
    if not told:
        return [None]
    board = {cell_name(at): cell for at, cell in read_board(problem.image).items()}
    return [board[name].direction == direction for name, direction in told]
