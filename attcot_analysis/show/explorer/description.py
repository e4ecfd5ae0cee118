"""What an explorer's record shows, in plain sentences: for the eye that reads before it plays."""

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from attcot_analysis.errors import ShowError
from attcot_analysis.measures.commitment_tables import commitment_items
from attcot_analysis.models import TokenGrid
from attcot_analysis.problems import Box, Problem
from attcot_analysis.show.explorer.record import ExplorerModel, ExplorerRecord

FloatArray = npt.NDArray[np.float64]

SURE = 0.5
"""The probability from which on a forced answer counts as made up."""

_COLUMNS, _ROWS = ("left", "centre", "right"), ("upper", "middle", "lower")
_NUMBERED = re.compile(r"^\s*\d+\.\s*")


def describe_record(record: ExplorerRecord, *, step: int = 2) -> str:
    """Say where the models looked, when they made up their minds, and what they answer.

    Of attention, mean over layers and heads: the step's over its rows, with the token at which
    most of it lay on the evidence; and that of the row which predicts the answer. A place is the
    ninth of the picture in which the image token with most weight lies. An even look would put on
    the boxes the share of the picture that they cover. The mind is made up at the first step from
    which on the final forced answer stays the most probable, with a probability of at least `SURE`.

    One item is an illustration; whether it is typical takes all of them, with intervals.

    Args:
        record: From `explorer_record`, or of an `Explorer`.
        step: Which step to tell of.

    Returns:
        Paragraphs with one line per model, numbers rounded to two digits.

    Raises:
        ShowError: If the text has no such step.
    """
    n_steps = record.models[0].maps[0].n_steps
    if not 1 <= step <= n_steps:
        raise ShowError(f"There is no step {step} to tell of; the text has steps 1 to {n_steps}.")
    at_step = [at for at, number in enumerate(record.steps) if number == step]
    text = _NUMBERED.sub("", "".join(record.tokens[at] for at in at_step)).strip()
    heading = f"Where did it look when it wrote step {step}, {_quoted(text)}?"
    paragraphs = [_looks(record, heading, at_step, record.boxes[at_step[0]])]
    if record.answer is not None:
        heading = "Where did it look when it gave its answer (evidence: the last step's)?"
        last = record.boxes[record.steps.index(n_steps)]
        paragraphs.append(_looks(record, heading, [record.answer], last))
    if all(model.commitment is not None for model in record.models):
        heading = "When did it make up its mind (p of its final answer after 0, 1, ... steps)?"
        paragraphs.append((heading, [_mind(model, record.problem) for model in record.models]))
    if any(model.response is not None for model in record.models):
        heading = "What does it answer when it writes for itself?"
        paragraphs.append((heading, [_answer(model, record.problem) for model in record.models]))
    labels = [model.label for model in record.models]
    width = max(map(len, labels))
    return "\n\n".join(
        "\n".join([asked, *(f"  {a:{width}s}  {b}" for a, b in zip(labels, lines, strict=True))])
        for asked, lines in paragraphs
    )


def _looks(
    record: ExplorerRecord, heading: str, tokens: Sequence[int], boxes: Sequence[Box]
) -> tuple[str, list[str]]:
    cover: FloatArray = record.grid.coverage(boxes)
    seen = bool(cover.any())
    if boxes and not seen:
        heading += "\n(the model is shown nothing of the evidence)"
    elif boxes:
        heading += (
            f"\n(shares of attention; an even look would put {cover.mean():.2f} on the evidence)"
        )
    lines = []
    for model in record.models:
        rows = model.maps[0].weights[:, :, tokens].mean(axis=(0, 1), dtype=np.float64)
        mean = rows.mean(axis=0)
        line = f"strongest {_place(record.grid, int(mean.argmax()))}; "
        line += f"{mean.sum():.2f} on the picture"
        if seen and mean.sum() > 0:
            line += f", of that {mean @ cover / mean.sum():.2f} on the evidence"
            each = rows @ cover / np.maximum(rows.sum(axis=1), np.finfo(float).tiny)
            most = int(each.argmax())
            if len(tokens) > 1:
                token = record.tokens[tokens[most]].strip()
                line += f" ({each[most]:.2f} at {_quoted(token)})"
        lines.append(line)
    return heading, lines


def _place(grid: TokenGrid, token: int) -> str:
    """Which ninth of the picture a token's centre lies in."""
    x0, y0, x1, y1 = grid.boxes[token]
    width, height = grid.image_size
    column = _COLUMNS[min(2, int(3 * (x0 + x1) / 2 / width))]
    row = _ROWS[min(2, int(3 * (y0 + y1) / 2 / height))]
    return "in the centre" if (row, column) == ("middle", "centre") else f"{row} {column}"


def _mind(model: ExplorerModel, problem: Problem) -> str:
    assert model.commitment is not None
    table = model.commitment[model.commitment["control"] == "rationale"]
    item = commitment_items(table, [problem], thresholds=(SURE,)).iloc[0]
    p = table[table["candidate"] == item["final"]].sort_values("step")["p"]
    when = f"never (p stays below {SURE:g})"
    if not np.isnan(item[f"commitment_step_{SURE:g}"]):
        step = int(item[f"commitment_step_{SURE:g}"])
        when = f"after step {step} of {item['n_steps']}" if step else "before it wrote anything"
    return f"{when}: {item['final']} ({' '.join(f'{value:.2f}' for value in p)})"


def _answer(model: ExplorerModel, problem: Problem) -> str:
    if model.answer is None:
        return "none that can be told"
    if model.answer == problem.answer:
        return f"{model.answer}, which is right"
    habitual = ", the habitual answer" if model.answer == problem.habitual else ""
    return f"{model.answer}, which is wrong (right: {problem.answer}){habitual}"


def _quoted(text: str) -> str:
    return f"\N{LEFT DOUBLE QUOTATION MARK}{text}\N{RIGHT DOUBLE QUOTATION MARK}"
