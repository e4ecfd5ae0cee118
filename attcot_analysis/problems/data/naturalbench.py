"""NaturalBench: pairs of photographs on which a question has two different answers.

Rows of the hub dataset ``BaiqiL/NaturalBench`` (arXiv 2410.14669): ``Index``, ``Question_0``,
``Question_1``, ``Image_0``, ``Image_1``, ``Image_0_Question_0`` and the other three answers,
``Question_Type`` (``yes_no`` or ``multiple_choice``, whose options the question lists as ``Option:
A: ...; B: ...;`` in several spellings, the instruction how to answer often behind them) and
``Source``. A row gives four problems; the twin of each is the other
photograph. There is no control edit, and the twin is another photograph, not a small edit.
"""

import re
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
from attcot_analysis.problems.data.source import YES_NO, with_options
from attcot_analysis.problems.problem import Edit, Problem

HUB = "BaiqiL/NaturalBench"
SPLIT = "train"

_OPTIONS = re.compile(
    r"\s*\bOptions?\s*:?\s*\(?A\s*[:.)]\s*(.+?)\s*;?\s*(?<![\w(])\(?B\s*[:.)]\s*(.+?)\s*;?\s*$",
    re.DOTALL | re.IGNORECASE,
)
_INSTRUCTION = re.compile(
    r"\s*Please (?:answer|output|choose|select|respond)\b[^\n]*$", re.IGNORECASE
)


def read(place: Place) -> Iterator[Made]:
    """Rows of the dataset."""
    return each(rows(place, SPLIT), partial(_problems, folders=place.folders))


def _problems(record: Record, folders: Sequence[Path]) -> list[Problem]:
    images = [picture(record.value.get(f"Image_{at}"), record.where, *folders) for at in (0, 1)]
    kind = record.value.get("Question_Type", record.value.get("Question Type"))
    found = []
    for asked in (0, 1):
        question = record.field(f"Question_{asked}")
        answers = [record.field(f"Image_{at}_Question_{asked}").strip() for at in (0, 1)]
        question, candidates, meaning = _closed(question, kind, record.where)
        for at in (0, 1):
            answer, other = (_meant(answers[n], meaning, record.where) for n in (at, 1 - at))
            found.append(
                Problem(
                    id=file_id("naturalbench", record.value.get("Index"), f"q{asked}", f"i{at}"),
                    image=images[at],
                    question=question,
                    candidates=candidates,
                    answer=answer,
                    twin=Edit("twin", images[1 - at], other, (), ()),
                    metadata={"dataset": "naturalbench", "type": str(kind)},
                )
            )
    return found


def _closed(question: str, kind: object, where: str) -> tuple[str, tuple[str, ...], dict[str, str]]:
    """The question, its candidates, and what a stated answer means."""
    question = _INSTRUCTION.sub("", question)
    if kind == "yes_no":
        return question, YES_NO, {answer.casefold(): answer for answer in YES_NO}
    options = _OPTIONS.search(question)
    if options is None or options[1] == options[2]:
        raise ProblemError(f"{where}: its question {question!r:.80} lists no two options A and B.")
    texts = (options[1], options[2])
    return (
        with_options(question[: options.start()], texts),
        texts,
        dict(zip("ab", texts, strict=True)),
    )


def _meant(answer: str, meaning: dict[str, str], where: str) -> str:
    said = answer.strip(" .:;()").casefold()
    if said not in meaning:
        raise ProblemError(f"{where}: answer {answer!r} is none of {', '.join(meaning)}.")
    return meaning[said]
