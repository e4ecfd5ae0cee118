"""ChartQA, with the boxes of the chart's elements (arXiv 2203.10244).

Either the published folder ``ChartQA Dataset/<split>`` (``<split>_human.json``,
``<split>_augmented.json``: lists of ``{"imgname": ..., "query": ..., "label": ...}``; ``png/``;
and, in the full version, ``annotations/``), one of those two files, or rows of the hub dataset
``HuggingFaceM4/ChartQA`` (``image``, ``query``, ``label``, ``human_or_machine``), which have no
boxes, or of ``ahmed-masry/ChartQA`` (``type``) and ``lmms-lab/ChartQA`` (``question``, ``answer``).

Annotations list the elements of a chart; which of them a question is about is not annotated.
Evidence here are the elements that question or answer name: points whose x value they name (of the
named series where series are named), else all points of a named series, else points whose value is
the answer; of a pie the named slices. Where nothing is named there are no boxes. This choice is
ours.

Yes and no are closed, all other questions open; numbers are right up to 5 %, as in the paper, and
years only as they are (see `attcot_analysis.problems.scoring`). An answer ``[2015, 2016]`` is a
list, of which every entry must be given, in any order.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from attcot_analysis.errors import ProblemError
from attcot_analysis.problems.data.fields import corner_boxes, joined_id, yes_or_no
from attcot_analysis.problems.data.place import Folder, Place
from attcot_analysis.problems.data.records import (
    Made,
    Record,
    choose,
    each,
    json_file,
    json_list,
    rows,
)
from attcot_analysis.problems.problem import Box, Problem

HUB = "HuggingFaceM4/ChartQA"
SPLIT = "test"
TOLERANCE = 0.05
"""Relative error up to which a number is right, as in the paper's relaxed accuracy."""

_SOURCES = ("human", "augmented")


def read(place: Place) -> Iterator[Made]:
    """Entries of the published files, or rows of the dataset."""
    path = place.path
    if path is not None and path.is_dir():
        files = sorted(file for kind in _SOURCES for file in path.rglob(f"*_{kind}.json"))
        tables = not files and any(path.rglob("*.parquet"))
    else:
        files = [] if path is None else [path]
        tables = path is None or path.suffix != ".json"
    if tables:
        make = partial(_problems, folder=None, kind="", place=place)
        yield from each(rows(place, SPLIT), make)
        return
    if not files:
        raise ProblemError(f"{path} holds no *_human.json, *_augmented.json or parquet file.")
    for file in choose(files, Path(place.source), place.split, SPLIT):
        kind = next((name for name in _SOURCES if file.stem.endswith(name)), file.stem)
        folder = place.images or file.parent
        yield from each(json_list(file), partial(_problems, folder=folder, kind=kind, place=place))


def _problems(record: Record, folder: Folder | None, kind: str, place: Place) -> list[Problem]:
    old = "query" in record.value or "label" in record.value
    label = record.field("label" if old else "answer", (str, int, float, list))
    label = label[0] if isinstance(label, list) and len(label) == 1 else label
    answer = str(label).strip()
    several = answer.startswith("[") and answer.endswith("]")
    question = record.field("query" if old else "question")
    candidates = yes_or_no(answer)
    number = record.number or record.where.rpartition(" ")[2]
    boxes: tuple[Box, ...] = ()
    if folder is None:
        image = place.show()(record.value.get("image"), record.where)
        kind = str(record.value.get("type") or "").partition("_")[0]
        kind = kind or _SOURCES[bool(record.value.get("human_or_machine"))]
        name = joined_id("chartqa", number)
    else:
        file = record.field("imgname")
        image = place.show(folder / "png", folder)(file, record.where)
        name = joined_id("chartqa", kind, number)
        notes = folder / "annotations" / f"{Path(file).stem}.json"
        if isinstance(notes, Path) and notes.is_file():
            named = element_boxes(json_file(notes), question, answer)
            boxes = corner_boxes(named, image.size, str(notes), form="xywh", cut=True)
    return [
        Problem(
            id=name,
            image=image,
            question=question,
            candidates=candidates,
            answer=answer.capitalize() if candidates else answer,
            evidence=boxes,
            tolerance=0.0 if candidates or several else TOLERANCE,
            scoring="list" if several else "exact",
            metadata={"dataset": "chartqa", "source": kind},
        )
    ]


def element_boxes(chart: Any, question: str, answer: str) -> list[list[float]]:
    """Boxes ``[x, y, width, height]`` of the elements that a question or its answer name.

    Args:
        chart: An annotation of ChartQA: ``models``, ``type``, ``general_figure_info``.
        question: The question.
        answer: Its answer.
    """
    held = chart if isinstance(chart, Mapping) else {}
    models = [one for one in held.get("models") or [] if isinstance(one, Mapping)]
    text = f"{question}\n{answer}"
    if held.get("type") == "pie":
        slices = [one for one in models if _named(one.get("text_label") or one.get("name"), text)]
        slices = slices or [one for one in models if _same(one.get("value"), answer)]
        return _numbers([one.get(key) for one in slices for key in ("bbox", "text_bbox")])
    points = [
        (series, x, y, box)
        for series in models
        for x, y, box in zip(
            *(_list(series.get(key)) for key in ("x", "y", "bboxes")), strict=False
        )
    ]
    several = len(models) > 1
    chosen = {id(one) for one in models if several and _named(one.get("name"), text)}
    at_x = [p for p in points if _named(p[1], text) and (not chosen or id(p[0]) in chosen)]
    of_series = [p for p in points if id(p[0]) in chosen]
    of_value = [p for p in points if _same(p[2], answer)]
    return _numbers([box for _, _, _, box in at_x or of_series or of_value])


def _list(values: Any) -> Sequence[Any]:
    return values if isinstance(values, list) else []


def _numbers(boxes: Sequence[Any]) -> list[list[float]]:
    """Boxes with an area; points of a line may have none, or none at all."""
    numbers = []
    for box in boxes:
        if isinstance(box, Mapping):
            given = [box.get(key) for key in ("x", "y", "w", "h")]
            sides = [float(side) for side in given if isinstance(side, int | float)]
            if len(sides) == len(given) and min(sides[2:]) > 0:
                numbers.append(sides)
    return numbers


def _named(name: object, text: str) -> bool:
    word = str(name).strip() if isinstance(name, str | int | float) else ""
    pattern = rf"(?<![\w.]){re.escape(word)}(?![\w]|\.\d)"
    return bool(word) and re.search(pattern, text, re.IGNORECASE) is not None


def _same(value: object, answer: str) -> bool:
    try:
        return float(str(value).strip("%$ ")) == float(answer.strip("%$ ").replace(",", ""))
    except ValueError:
        return False
