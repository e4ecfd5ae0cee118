r"""Datasets whose rows are questions as they stand: one function each, and a table of them.

========================  ====================  =================================================
hub dataset               paper                 columns that are read
========================  ====================  =================================================
LightChen2333/M3CoT       arXiv 2405.16473      ``id``, ``question``, ``choices``, ``context``,
                                                ``answer`` (a letter), ``rationale``, ``image``,
                                                ``domain``, ``topic``, ``split``
HuggingFaceM4/A-OKVQA     arXiv 2206.01718      ``question_id``, ``question``, ``choices``,
                                                ``correct_choice_idx``, ``rationales``, ``split``,
                                                ``image`` or ``image_id``
BaiqiL/NaturalBench       arXiv 2410.14669      ``Index``, ``Question_0``, ``Question_1``,
                                                ``Image_0``, ``Image_1``, ``Image_0_Question_0``
                                                and the other three answers, ``Question_Type``
ViLP/ViLP                 arXiv 2501.00569      ``question``, ``image1``, ``answer1``, and so on
                                                to 3
craigwu/vstar_bench       arXiv 2312.14135      files: ``test_questions.jsonl`` (``image``,
                                                ``text``, ``category``, ``label``), and beside
                                                every picture a JSON file (``target_object``,
                                                ``bbox`` as x, y, width, height)
========================  ====================  =================================================

A-OKVQA is also read from the published ``aokvqa_v1p0_{split}.json``, a list of objects, with COCO
pictures in a folder (``--images``); its test split has no answers.

A row of NaturalBench gives four problems, and the twin of each is the other photograph. A question
of type ``multiple_choice`` lists its options as ``Option: A: ...; B: ...;`` in several spellings,
the instruction how to answer often behind them.

A row of ViLP gives three problems with the same candidates. Its question states the fact that
suggests ``answer1`` (the variant ViLP-F), which is the habitual answer; the twin of each picture is
the next one with another answer. Neither of the two has control edits.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from attcot_analysis.errors import ProblemError
from attcot_analysis.problems.data.source import (
    YES_NO,
    Made,
    Place,
    Record,
    choose,
    corner_boxes,
    each,
    file_id,
    json_file,
    json_lines,
    json_list,
    of_split,
    picture,
    rationale_steps,
    rows,
    with_options,
)
from attcot_analysis.problems.problem import Edit, Problem


class HubSet(NamedTuple):
    """A dataset that is published as a table.

    Attributes:
        title: What it is called.
        hub: Its id.
        split: The one to read if none is asked for.
        problems: Gives the problems of a row, whose pictures may lie in one of some folders.
    """

    title: str
    hub: str
    split: str
    problems: Callable[..., list[Problem]]

    def read(self, place: Place) -> Iterator[Made]:
        """Rows of the dataset."""
        return each(rows(place, self.split), partial(self.problems, folders=place.folders))


def _choices(record: Record) -> tuple[str, ...]:
    return tuple(str(choice) for choice in record.field("choices", list))


def _m3cot(record: Record, folders: Sequence[Path]) -> list[Problem]:
    choices = _choices(record)
    letter = record.field("answer").strip().strip("().").upper()
    at = ord(letter) - 65 if len(letter) == 1 else -1
    if not 0 <= at < len(choices):
        raise ProblemError(
            f"{record.where}: its answer {letter!r} is not a letter of its {len(choices)} choices."
        )
    context = (record.value.get("context") or "").strip()
    question = "\n".join(part for part in (context, record.field("question")) if part)
    kept = {name: str(record.value.get(name)) for name in ("domain", "topic", "split")}
    return [
        Problem(
            id=file_id("m3cot", record.field("id")),
            image=picture(record.value.get("image"), record.where, *folders),
            question=with_options(question, choices),
            candidates=choices,
            answer=choices[at],
            steps=rationale_steps(record.value.get("rationale") or ""),
            metadata={"dataset": "m3cot", **kept},
        )
    ]


def _aokvqa(record: Record, folders: Sequence[Path]) -> list[Problem]:
    choices = _choices(record)
    right = record.value.get("correct_choice_idx")
    if not isinstance(right, int) or not 0 <= right < len(choices):
        raise ProblemError(
            f"{record.where}: correct_choice_idx is {right!r}; the test split has no answers, so "
            "use train or validation."
        )
    held = record.value.get("image")
    if held is None:
        held = f"{record.field('image_id', int):012d}.jpg"
    written = [str(text) for text in record.value.get("rationales") or [] if str(text).strip()]
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


def read_aokvqa(place: Place) -> Iterator[Made]:
    """Entries of A-OKVQA's published file, else rows of the hub dataset."""
    path = place.path
    files = sorted(path.glob("aokvqa_*.json")) if path is not None and path.is_dir() else []
    files = [path] if path is not None and path.suffix == ".json" else files
    if not files:
        return HUB_SETS["a-okvqa"].read(place)
    parts = ("", "train2017", "val2017", "test2017")
    folders = [folder / part for folder in place.folders for part in parts]
    return each(of_split(place, files, "val", json_list), partial(_aokvqa, folders=folders))


_NATURAL_OPTIONS = re.compile(
    r"\s*\bOptions?\s*:?\s*\(?A\s*[:.)]\s*(.+?)\s*;?\s*(?<![\w(])\(?B\s*[:.)]\s*(.+?)\s*;?\s*$",
    re.DOTALL | re.IGNORECASE,
)
_NATURAL_INSTRUCTION = re.compile(
    r"\s*Please (?:answer|output|choose|select|respond)\b[^\n]*$", re.IGNORECASE
)


def _naturalbench(record: Record, folders: Sequence[Path]) -> list[Problem]:
    images = [picture(record.value.get(f"Image_{at}"), record.where, *folders) for at in (0, 1)]
    kind = record.value.get("Question_Type", record.value.get("Question Type"))
    problems = []
    for asked in (0, 1):
        question, candidates, meaning = _closed(
            record.field(f"Question_{asked}"), kind, record.where
        )
        answers = [record.field(f"Image_{at}_Question_{asked}").strip() for at in (0, 1)]
        for at in (0, 1):
            answer, other = (_meant(answers[n], meaning, record.where) for n in (at, 1 - at))
            problems.append(
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
    return problems


def _closed(question: str, kind: object, where: str) -> tuple[str, tuple[str, ...], dict[str, str]]:
    """The question, its candidates, and what a stated answer means."""
    question = _NATURAL_INSTRUCTION.sub("", question)
    if kind == "yes_no":
        return question, YES_NO, {answer.casefold(): answer for answer in YES_NO}
    options = _NATURAL_OPTIONS.search(question)
    if options is None or options[1] == options[2]:
        raise ProblemError(f"{where}: its question {question!r:.80} lists no two options A and B.")
    texts = (options[1], options[2])
    asked = with_options(question[: options.start()], texts)
    return asked, texts, dict(zip("ab", texts, strict=True))


def _meant(answer: str, meaning: dict[str, str], where: str) -> str:
    stated = answer.strip(" .:;()").casefold()
    if stated not in meaning:
        raise ProblemError(f"{where}: answer {answer!r} is none of {', '.join(meaning)}.")
    return meaning[stated]


def _vilp(record: Record, folders: Sequence[Path]) -> list[Problem]:
    images = [picture(record.value.get(f"image{n}"), record.where, *folders) for n in (1, 2, 3)]
    answers = [record.field(f"answer{n}").strip() for n in (1, 2, 3)]
    # Spelt otherwise it is the same answer, as the photographs of one object show.
    first = {answer.casefold(): answer for answer in reversed(answers)}
    answers = [first[answer.casefold()] for answer in answers]
    problems = []
    for at, answer in enumerate(answers):
        others = [(at + step) % 3 for step in (1, 2)]
        other = next((n for n in others if answers[n] != answer), None)
        problems.append(
            Problem(
                id=file_id("vilp", record.number, at + 1),
                image=images[at],
                question=record.field("question"),
                candidates=tuple(dict.fromkeys(answers)),
                answer=answer,
                twin=None if other is None else Edit("twin", images[other], answers[other], (), ()),
                habitual=answers[0],
                metadata={"dataset": "vilp", "agrees_with_prior": answer == answers[0]},
            )
        )
    return problems


HUB_SETS: Mapping[str, HubSet] = {
    "m3cot": HubSet("M3CoT", "LightChen2333/M3CoT", "test", _m3cot),
    "a-okvqa": HubSet("A-OKVQA", "HuggingFaceM4/A-OKVQA", "validation", _aokvqa),
    "naturalbench": HubSet("NaturalBench", "BaiqiL/NaturalBench", "train", _naturalbench),
    "vilp": HubSet("ViLP", "ViLP/ViLP", "train", _vilp),
}
"""Sets of rows, by the name of their format."""


_VSTAR_OPTION = re.compile(r"^\s*\(([A-Za-z])\)\s*(.+?)\s*$", re.MULTILINE)


def read_vstar(place: Place) -> Iterator[Made]:
    """Questions of V*Bench's folder."""
    folder = place.folder(
        "V*Bench",
        "hf download craigwu/vstar_bench --repo-type dataset --local-dir FOLDER",
    )
    path = folder / "test_questions.jsonl" if folder.is_dir() else folder
    choose([path], path, place.split, "test")
    return each(json_lines(path), partial(_vstar, root=place.images or path.parent))


def _vstar(record: Record, root: Path) -> list[Problem]:
    text, label, name = (record.field(key) for key in ("text", "label", "image"))
    listed = list(_VSTAR_OPTION.finditer(text))
    options = {option[1].upper(): option[2] for option in listed}
    label = label.strip(" .()").upper()
    if label not in options:
        raise ProblemError(f"{record.where}: its label {label!r} is none of its options.")
    image = picture(name, record.where, root)
    notes = root / Path(name).with_suffix(".json")
    held = Record(str(notes), json_file(notes))
    choices = tuple(options.values())
    return [
        Problem(
            id=file_id("vstar", Path(name).parent.name, Path(name).stem),
            image=image,
            question=with_options(text[: listed[0].start()], choices),
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
