r"""V*Bench: small objects in large photographs, with their boxes (arXiv 2312.14135).

Files of the hub repository ``craigwu/vstar_bench``: ``test_questions.jsonl`` with one object per
question, and beside every picture a JSON file with the boxes::

    {"image": "direct_attributes/sa_4690.jpg", "text": "What is ...?\n(A) rubber\n(B) cotton ...",
     "category": "direct_attributes", "label": "A", "question_id": 0}
    {"target_object": ["glove"], "bbox": [[x, y, width, height]], "question": "...",
     "options": ["right first", "..."]}
"""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from attcot_analysis.errors import ProblemError
from attcot_analysis.problems.data.source import corner_boxes
from attcot_analysis.problems.data.source import (
    Made,
    Place,
    Record,
    each,
    file_id,
    json_file,
    json_lines,
    picture,
)
from attcot_analysis.problems.data.source import choose
from attcot_analysis.problems.data.source import with_options
from attcot_analysis.problems.problem import Problem

_OPTION = re.compile(r"^\s*\(([A-Za-z])\)\s*(.+?)\s*$", re.MULTILINE)


def read(place: Place) -> Iterator[Made]:
    """Questions of the benchmark's folder."""
    folder = place.folder(
        "V*Bench",
        "hf download craigwu/vstar_bench --repo-type dataset --local-dir FOLDER",
    )
    path = folder / "test_questions.jsonl" if folder.is_dir() else folder
    choose([path], path, place.split, "test")
    return each(json_lines(path), partial(_problems, root=place.images or path.parent))


def _problems(record: Record, root: Path) -> list[Problem]:
    text, label, name = (record.field(key) for key in ("text", "label", "image"))
    options = {letter.upper(): option for letter, option in _OPTION.findall(text)}
    label = label.strip(" .()").upper()
    if label not in options:
        raise ProblemError(f"{record.where}: its label {label!r} is none of its options.")
    image = picture(name, record.where, root)
    notes = root / Path(name).with_suffix(".json")
    held = Record(str(notes), json_file(notes))
    question = text[: _OPTION.search(text).start()].strip()  # type: ignore[union-attr]
    choices = tuple(options.values())
    return [
        Problem(
            id=file_id("vstar", Path(name).parent.name, Path(name).stem),
            image=image,
            question=with_options(question, choices),
            candidates=choices,
            answer=options[label],
            evidence=corner_boxes(held.field("bbox", list), image.size, held.where, form="xywh"),
            metadata={
                "dataset": "vstar",
                "category": str(record.value.get("category", "")),
                "targets": ", ".join(map(str, held.value.get("target_object", []))),
            },
        )
    ]
