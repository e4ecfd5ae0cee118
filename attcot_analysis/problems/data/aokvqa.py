"""A-OKVQA: multiple-choice questions that need knowledge, with rationales (arXiv 2206.01718).

Either the published ``aokvqa_v1p0_{split}.json``, a list of objects, with COCO pictures in a
folder (``--images``), or rows of the hub dataset ``HuggingFaceM4/A-OKVQA``, which hold the
picture: ``split``, ``image_id`` or ``image``, ``question_id``, ``question``, ``choices``,
``correct_choice_idx``, ``direct_answers``, ``difficult_direct_answer``, ``rationales``. The test
split has no answers.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from attcot_analysis.errors import ProblemError
from attcot_analysis.problems.data.source import (
    Made,
    Place,
    Record,
    each,
    file_id,
    json_list,
    of_split,
    picture,
    rows,
)
from attcot_analysis.problems.data.source import rationale_steps, with_options
from attcot_analysis.problems.problem import Problem

HUB = "HuggingFaceM4/A-OKVQA"
SPLIT = "validation"


def read(place: Place) -> Iterator[Made]:
    """Entries of the file, or rows of the dataset."""
    path = place.path
    files = sorted(path.glob("aokvqa_*.json")) if path is not None and path.is_dir() else []
    files = [path] if path is not None and path.suffix == ".json" else files
    if path is None or not files:
        return each(rows(place, SPLIT), partial(_problems, folders=place.folders))
    beside = place.folders
    parts = ("", "train2017", "val2017", "test2017")
    folders = [folder / part for folder in beside for part in parts]
    return each(of_split(place, files, "val", json_list), partial(_problems, folders=folders))


def _problems(record: Record, folders: list[Path]) -> list[Problem]:
    choices = tuple(str(choice) for choice in record.field("choices", list))
    right = record.value.get("correct_choice_idx")
    if not isinstance(right, int) or not 0 <= right < len(choices):
        raise ProblemError(
            f"{record.where}: correct_choice_idx is {right!r}; the test split has no answers, so "
            "use train or validation."
        )
    held = record.value.get("image")
    if held is None:
        held = f"{record.field('image_id', int):012d}.jpg"
    written = [str(one) for one in record.value.get("rationales") or [] if str(one).strip()]
    return [
        Problem(
            id=file_id("aokvqa", record.field("question_id")),
            image=picture(held, record.where, *folders),
            question=with_options(record.field("question"), choices),
            candidates=choices,
            answer=choices[right],
            steps=rationale_steps(written[0]) if written else (),
            metadata={"dataset": "aokvqa", "split": str(record.value.get("split", ""))},
        )
    ]
