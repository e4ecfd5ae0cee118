r"""Visual CoT, GQA with rationales included: questions with the box that answers them.

Of the hub repository ``deepcs233/Visual-CoT`` (arXiv 2403.16999) three kinds of files are read:
``metadata/*.jsonl``, and ``cot_with_detailed_reasoning_steps/gqa_cot_*.jsonl`` which adds a
rationale (``thought``)::

    {"question": "...", "answer": "girl", "full_answer": "...", "image": "2331819.jpg",
     "width": 500, "height": 375, "bboxs": [[214, 0, 433, 374]], "dataset": "gqa",
     "split": "train", "thought": "1. ... 2. ..."}

and ``viscot_363k.json``, a list of conversations::

    {"image": ["cot/v7w/v7w_276.jpg", "cot/v7w/v7w_276.jpg###[446, 246, 502, 345]"],
     "conversations": [{"from": "human", "value": "<image>\nQuestion Please provide the bounding
     box ..."}, {"from": "gpt", "value": "[...]"}, {"from": "human", "value": "<image>"},
     {"from": "gpt", "value": "answer"}], "dataset": "v7w", "split": "train", "question_id": 0}

Answers are free text: all but yes and no are open questions.
"""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from attcot_analysis.errors import ProblemError
from attcot_analysis.problems.data.fields import corner_boxes, joined_id, rationale_steps, yes_or_no
from attcot_analysis.problems.data.place import Folder, Place
from attcot_analysis.problems.data.records import (
    Made,
    Record,
    each,
    json_lines,
    json_list,
    of_split,
)
from attcot_analysis.problems.problem import Problem

_ASKS_FOR_BOX = "Please provide the bounding box"
_MARK = "###"
_ROUNDING = 0.01
_CALLED = (("v7w", "visual7w"), ("textcap", "textvqa"))
"""Parts whose pictures lie in a folder of the other name."""


def read(place: Place) -> Iterator[Made]:
    """Records of one of the files."""
    path = place.folder(
        "Visual CoT",
        "hf download deepcs233/Visual-CoT --repo-type dataset, then give one of its .jsonl files "
        "or viscot_363k.json, and the pictures with --images",
    )
    if path.is_dir():
        raise ProblemError(
            f"{path} is a folder; give one of its .jsonl files, or viscot_363k.json."
        )
    read_file = json_lines if path.suffix == ".jsonl" else json_list
    records = of_split(place, [path], "", read_file)
    roots: list[Folder] = (
        [place.images] if place.images is not None else [path.parent, path.parent.parent]
    )
    return each(records, partial(_problems, roots=roots, place=place))


def _problems(record: Record, roots: list[Folder], place: Place) -> list[Problem]:
    fields = _conversation(record) if "conversations" in record.value else _metadata(record)
    name, given = fields["image"], str(record.value.get("dataset", ""))
    inside = ["", "images", f"{given}/images"]
    names = dict.fromkeys((given, *(one for pair in _CALLED if given in pair for one in pair)))
    inside += [f"{part}{one}" for part in ("", "cot/", "cot_image_data/") for one in names]
    folders = [root / part for root in roots for part in inside]
    # Some files name a folder otherwise than the archive of the pictures does.
    base = Path(name).name
    there = any((folder / name).is_file() for folder in folders)
    moved = any((folder / base).is_file() for folder in folders) and not there
    image = place.show(*folders)(base if moved else name, record.where)
    if fields["boxes"] and fields.get("shares"):
        _check_shares(fields["boxes"][0], fields["shares"], image.size, record.where)
    answer = str(fields["answer"]).strip()
    candidates = yes_or_no(answer)
    boxes = corner_boxes(
        fields["boxes"],
        image.size,
        record.where,
        form=place.boxes or "pixels",
        of=fields.get("of"),
        seen=place.seen if place.boxes is None else None,
    )
    number = record.where.rpartition(" ")[2]
    return [
        Problem(
            id=joined_id("viscot", given, Path(name).stem, number),
            image=image,
            question=fields["question"],
            candidates=candidates,
            answer=answer.capitalize() if candidates else answer,
            steps=rationale_steps(fields.get("thought", "")),
            evidence=boxes,
            metadata={"dataset": f"visual-cot/{given}", "split": str(record.value.get("split"))},
        )
    ]


def _metadata(record: Record) -> dict[str, Any]:
    if "expression" in record.value and "answer" not in record.value:
        raise ProblemError(
            f"{record.where} is of benchmark_det, which has boxes and no answers; give the file "
            "of the same name in benchmark."
        )
    width, height = (record.value.get(name) for name in ("width", "height"))
    return {
        "question": record.field("question"),
        "answer": record.field("answer", (str, int, float)),
        "image": record.field("image").partition(_MARK)[0],
        "boxes": record.field("bboxs", list),
        "of": (float(width), float(height)) if width and height else None,
        "thought": record.value.get("thought") or "",
    }


def _conversation(record: Record) -> dict[str, Any]:
    images, turns = record.field("image", list), record.field("conversations", list)
    try:
        name, _, box = str(images[-1]).partition(_MARK)
        said = [str(turn["value"]) for turn in turns]
        question = said[0].replace("<image>", "").partition(_ASKS_FOR_BOX)[0].strip()
        boxes = [json.loads(box)] if box else []
        answer = said[-1]
        shares = json.loads(said[1]) if box and said[1].lstrip().startswith("[") else None
    except (IndexError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ProblemError(
            f"{record.where} is not a conversation as in viscot_363k.json ({error})."
        ) from error
    return {
        "question": question,
        "answer": answer,
        "image": name,
        "boxes": boxes,
        "shares": shares,
    }


def _check_shares(box: Any, shares: Any, size: tuple[int, int], where: str) -> None:
    """Refuse a picture of another size than that on which a conversation's box was drawn.

    The conversation repeats the box as shares of the picture padded to a square.
    """
    side = max(size)
    try:
        for pads in ([(side - own) / 2 for own in size], (0.0, 0.0)):
            sides = size if pads == (0.0, 0.0) else (side, side)
            expected = [(box[at] + pads[at % 2]) / sides[at % 2] for at in range(4)]
            if max(abs(a - b) for a, b in zip(expected, shares, strict=True)) <= _ROUNDING:
                return
    except (TypeError, ValueError, IndexError):
        return
    raise ProblemError(
        f"{where}: box {box} is {shares} in its conversation, which it is not in a picture of "
        f"{size[0]}x{size[1]}; give the picture that the box was drawn on."
    )
