"""ViLP: questions whose first picture agrees with the textual prior and two others do not.

Rows of the hub dataset ``ViLP/ViLP`` (arXiv 2501.00569): ``question`` (with the fact that suggests
the first answer, the variant ViLP-F), ``image1``, ``answer1``, ``image2``, ``answer2``,
``image3``, ``answer3``. A row gives three problems with the same candidates; ``answer1`` is the
habitual answer, the twin of each picture the next one with another answer. There is no control
edit.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from attcot_analysis.problems.data.source import (
    Made,
    Place,
    Record,
    each,
    file_id,
    picture,
    rows,
)
from attcot_analysis.problems.problem import Edit, Problem

HUB = "ViLP/ViLP"
SPLIT = "train"


def read(place: Place) -> Iterator[Made]:
    """Rows of the dataset."""
    return each(rows(place, SPLIT), partial(_problems, folders=place.folders))


def _problems(record: Record, folders: Sequence[Path]) -> list[Problem]:
    images = [picture(record.value.get(f"image{n}"), record.where, *folders) for n in (1, 2, 3)]
    answers = [record.field(f"answer{at}").strip() for at in (1, 2, 3)]
    # Spelt otherwise it is the same answer, as the photographs of one object show.
    first = {answer.casefold(): answer for answer in reversed(answers)}
    answers = [first[answer.casefold()] for answer in answers]
    candidates = tuple(dict.fromkeys(answers))
    found = []
    for at in range(3):
        others = [(at + step) % 3 for step in (1, 2)]
        other = next((n for n in others if answers[n] != answers[at]), None)
        twin = None if other is None else Edit("twin", images[other], answers[other], (), ())
        found.append(
            Problem(
                id=file_id("vilp", record.number, at + 1),
                image=images[at],
                question=record.field("question"),
                candidates=candidates,
                answer=answers[at],
                twin=twin,
                habitual=answers[0],
                metadata={"dataset": "vilp", "agrees_with_prior": answers[at] == answers[0]},
            )
        )
    return found
