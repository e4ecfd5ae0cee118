"""M3CoT: multiple-choice questions with long rationales (arXiv 2405.16473).

Rows of the hub dataset ``LightChen2333/M3CoT``: ``id``, ``category``, ``image_id``, ``question``,
``choices``, ``context``, ``answer`` (a letter), ``rationale``, ``split``, ``image``, ``domain``,
``topic``.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from attcot_analysis.errors import ProblemError
from attcot_analysis.problems.data.source import (
    Made,
    Place,
    Record,
    each,
    file_id,
    picture,
    rows,
)
from attcot_analysis.problems.data.source import rationale_steps, with_options
from attcot_analysis.problems.problem import Problem

HUB = "LightChen2333/M3CoT"
SPLIT = "test"


def read(place: Place) -> Iterator[Made]:
    """Rows of the dataset."""
    return each(rows(place, SPLIT), partial(_problems, folders=place.folders))


def _problems(record: Record, folders: Sequence[Path]) -> list[Problem]:
    choices = tuple(str(choice) for choice in record.field("choices", list))
    letter = record.field("answer").strip().strip("().").upper()
    at = ord(letter) - 65 if len(letter) == 1 else -1
    if not 0 <= at < len(choices):
        raise ProblemError(
            f"{record.where}: its answer {letter!r} is no letter of its {len(choices)} choices."
        )
    context = (record.value.get("context") or "").strip()
    question = "\n".join(part for part in (context, record.field("question")) if part)
    return [
        Problem(
            id=file_id("m3cot", record.field("id")),
            image=picture(record.value.get("image"), record.where, *folders),
            question=with_options(question, choices),
            candidates=choices,
            answer=choices[at],
            steps=rationale_steps(record.value.get("rationale") or ""),
            metadata={
                "dataset": "m3cot",
                **{name: str(record.value.get(name)) for name in ("domain", "topic", "split")},
            },
        )
    ]
