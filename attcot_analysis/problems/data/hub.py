r"""Datasets that are published as tables: mostly an entry that says which column holds what.

Papers: M3CoT 2405.16473, A-OKVQA 2206.01718, CV-Bench 2406.16860, BLINK 2404.12390, MMStar
2403.20330, ScienceQA 2209.09513, VQA-RAD 10.1038/sdata.2018.251, SLAKE 2102.09542, CharXiv
2406.18521, Geometry3K 2105.04165, HallusionBench 2310.14566, V*Bench 2312.14135, NaturalBench
2410.14669, ViLP 2501.00569, MM-GCoT 2503.12799, TreeBench 2507.07999, We-Math 2407.01284. Which
columns are read is said in ``hub.yaml``.

V*Bench is also read from its published folder: ``test_questions.jsonl`` (``image``, ``text``,
``category``, ``label``), and beside every picture a JSON file (``target_object``, ``bbox`` as x, y,
width, height).

A-OKVQA is also read from the published ``aokvqa_v1p0_{split}.json``, a list of objects, with COCO
pictures in a folder (``--images``); its test split has no answers.

NaturalBench is also read from a list of ``[question, picture, answer, type]``, with the pictures in
a folder. A row of it gives four problems, and the twin of each is the other photograph. A question
of type ``multiple_choice`` lists its options as ``Option: A: ...; B: ...;`` in several spellings,
the instruction how to answer often behind them.

A row of ViLP gives three problems with the same candidates. Its question states the fact that
suggests ``answer1`` (the variant ViLP-F), which is the habitual answer; the twin of each picture is
the next one with another answer. In HallusionBench it is the first other picture of the set on
which the same question has the other answer. None of the three has control edits.

A step of MM-GCoT names its box in its text, as shares of the picture (x, y, width, height).
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from attcot_analysis.errors import ProblemError
from attcot_analysis.problems.data.fields import (
    INSTRUCTION,
    YES_NO,
    bare_question,
    corner_boxes,
    joined_id,
    listed_options,
    rationale_steps,
    with_options,
    yes_or_no,
)
from attcot_analysis.problems.data.place import Place, Show
from attcot_analysis.problems.data.records import (
    Made,
    Record,
    choose,
    each,
    json_file,
    json_lines,
    rows,
)
from attcot_analysis.problems.problem import Box, Edit, Problem, Scoring, Step


class Columns(NamedTuple):
    """Which column of a table holds what; an empty name for none.

    Attributes:
        image: The picture; of several names the first that holds one, or all that end in a number.
        question: May list its options, and is then cut before them.
        answer: A letter, a place among the choices from 0, or a text.
        choices: A column with a list or with a text that lists them by letter, the choices
            themselves if they are the same for all, or ``IN_QUESTION``.
        context: What stands before the question.
        id: What tells items apart; the row's number where there is none.
        rationale: A text, or several, of which the first is taken.
        keep: What goes into the metadata.
        scoring: Of open answers.
    """

    image: tuple[str, ...] = ("image",)
    question: str = "question"
    answer: str = "answer"
    choices: str | tuple[str, ...] = ""
    context: str = ""
    id: tuple[str, ...] = ()
    rationale: str = ""
    keep: tuple[str, ...] = ()
    scoring: Scoring = "exact"

    def problems(self, record: Record, show: Show, name: str) -> list[Problem]:
        """The problem of a row."""
        question = bare_question(record.field(self.question))
        choices: tuple[str, ...] = ()
        if self.choices == IN_QUESTION:
            question, choices = listed_options(question, record.where)
        elif isinstance(self.choices, tuple):
            choices = self.choices
        elif self.choices and isinstance(record.value.get(self.choices), str):
            _, choices = listed_options(record.value[self.choices], record.where)
        elif self.choices:
            choices = tuple(str(choice) for choice in record.field(self.choices, list))
        answer = self._answer(record, choices)
        if not choices and (choices := yes_or_no(answer)):
            answer = answer.capitalize()
        context = str(record.value.get(self.context) or "").strip() if self.context else ""
        asked = "\n".join(part for part in (context, question) if part)
        listed = self.choices and not isinstance(self.choices, tuple)
        known = [record.field(one, (str, int)) for one in self.id]
        kept = {one: str(record.value[one]) for one in self.keep if record.value.get(one)}
        first, *more = [show(one, record.where) for one in self._images(record)]
        return [
            Problem(
                id=joined_id(name, *(known or [record.number])),
                image=first,
                more_images=tuple(more),
                question=with_options(asked, choices) if listed else asked,
                candidates=choices,
                answer=answer,
                steps=rationale_steps(self._rationale(record)),
                scoring="exact" if choices else self.scoring,
                metadata={"dataset": name, **kept},
            )
        ]

    def _answer(self, record: Record, choices: tuple[str, ...]) -> str:
        given = record.value.get(self.answer)
        if given is None:
            raise ProblemError(
                f"{record.where} has no answer in {self.answer}; where the test split has no "
                "answers, use train or validation."
            )
        given = record.field(self.answer, (str, int, float))
        text = str(given).strip()
        if not choices:
            return text
        letter = text.strip("().: ").upper()
        places = {chr(65 + at): at for at in range(len(choices))}
        if isinstance(self.choices, tuple) or isinstance(given, int):
            places = {str(at): at for at in range(len(choices))}
        at = places.get(letter, choices.index(text) if text in choices else None)
        if at is None:
            raise ProblemError(
                f"{record.where}: its answer {text!r:.60} is not a letter of its {len(choices)} "
                f"choices, nor one of them."
            )
        return choices[at]

    def _images(self, record: Record) -> list[object]:
        values = [record.value.get(one) for one in self.image]
        each = [value if isinstance(value, list) else [value] for value in values]
        there = [kept for held in each if (kept := [one for one in held if one not in (None, "")])]
        if not there and isinstance(record.value.get("image_id"), int):
            return [f"{record.value['image_id']:012d}.jpg"]  # As COCO names its pictures.
        numbered = self.image[-1][-1].isdigit()
        return [one for held in there[: None if numbered else 1] for one in held] or [None]

    def _rationale(self, record: Record) -> str:
        held = record.value.get(self.rationale) if self.rationale else None
        texts = [held] if isinstance(held, str) else list(held or ())
        return next((str(text) for text in texts if str(text).strip()), "")


IN_QUESTION = "in the question"
"""Choices that the question lists itself."""


class HubSet(NamedTuple):
    """A dataset that is published as a table.

    Attributes:
        title: What it is called.
        hub: Its id; empty if its pictures are not in its rows.
        split: The one to read if none is asked for.
        problems: Gives the problems of a row, whose pictures may lie in one of some folders.
        inside: Folders of pictures inside of those.
    """

    title: str
    hub: str
    split: str
    problems: Callable[..., list[Problem]]
    inside: tuple[str, ...] = ("",)

    def read(self, place: Place) -> Iterator[Made]:
        """Rows of the dataset."""
        return each(rows(place, self.split), self.made(place))

    def made(self, place: Place) -> Callable[[Record], list[Problem]]:
        """What makes the problems of a record."""
        folders = [folder / part for folder in place.folders for part in self.inside]
        return partial(self.problems, show=place.show(*folders))


def read_hallusionbench(place: Place) -> Iterator[Made]:
    """Rows of HallusionBench; the twin is the same question on the set's next other picture."""
    table = HUB_SETS["hallusionbench"]
    make = table.made(place)
    records = list(rows(place, table.split))
    groups: dict[tuple[str, ...], list[Record]] = {}
    names = ("category", "subcategory", "set_id", "question_id", "question")

    def group(record: Record) -> list[Record]:
        return groups.setdefault(tuple(str(record.value.get(name)) for name in names), [])

    for record in records:
        if isinstance(record, Record) and str(record.value.get("visual_input")) != "0":
            group(record).append(record)

    def problems(record: Record) -> list[Problem]:
        (problem,) = make(record)
        given = str(record.value["gt_answer"])
        others = [one for one in group(record) if str(one.value.get("gt_answer")) != given]
        if not others:
            return [problem]
        (other,) = make(others[0])
        return [replace(problem, twin=Edit("twin", other.image, other.answer, (), ()))]

    return each(records, problems)


def _naturalbench(record: Record, show: Show) -> list[Problem]:
    images = [show(record.value.get(f"Image_{at}"), record.where) for at in (0, 1)]
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
                    id=joined_id("naturalbench", record.value.get("Index"), f"q{asked}", f"i{at}"),
                    image=images[at],
                    question=question,
                    candidates=candidates,
                    answer=answer,
                    twin=Edit("twin", images[1 - at], other, (), ()),
                    metadata={"dataset": "naturalbench", "type": str(kind)},
                )
            )
    return problems


def read_naturalbench(place: Place) -> Iterator[Made]:
    """Rows of the hub dataset, or entries of its file of texts, four to a row."""
    path = place.path
    texts = sorted(path.glob("*.json")) if path is not None and path.is_dir() else []
    path = texts[0] if len(texts) == 1 else path
    if path is None or path.suffix != ".json":
        return HUB_SETS["naturalbench"].read(place)
    choose([path], path, place.split, "train")
    return each(_in_fours(path), partial(_naturalbench, show=place.show()))


def _in_fours(path: Path) -> Iterator[Record | ProblemError]:
    """Rows of a list of ``[question, picture, answer, type]``, two questions on two pictures."""
    held = json_file(path)
    if not isinstance(held, list):
        raise ProblemError(f"{path} holds no list; is it the file as published?")
    for start in range(0, len(held), 4):
        four = held[start : start + 4]
        where = f"{path}, entry {start + 1}"
        whole = len(four) == 4 and all(isinstance(one, list) and len(one) == 4 for one in four)
        asked = [tuple(one[:2]) for one in four] if whole else []
        questions = list(dict.fromkeys(question for question, _ in asked))
        shown = list(dict.fromkeys(image for _, image in asked))
        if {len(questions), len(shown)} != {2} or asked != [
            (question, image) for question in questions for image in shown
        ]:
            yield ProblemError(f"{where} and the next three are no two questions on two pictures.")
            continue
        fields = {"Index": start // 4, "Question_Type": four[0][3]}
        fields |= {f"Question_{at}": question for at, question in enumerate(questions)}
        fields |= {f"Image_{at}": image for at, image in enumerate(shown)}
        answers = {(n, at): four[2 * n + at][2] for n in (0, 1) for at in (0, 1)}
        fields |= {f"Image_{at}_Question_{n}": given for (n, at), given in answers.items()}
        yield Record(where, fields)


def _closed(question: str, kind: object, where: str) -> tuple[str, tuple[str, ...], dict[str, str]]:
    """The question, its candidates, and what a stated answer means."""
    if kind == "yes_no":
        asked = INSTRUCTION.sub("", question)
        return asked, YES_NO, {answer.casefold(): answer for answer in YES_NO}
    question, texts = listed_options(question, where)
    letters = {chr(97 + at): text for at, text in enumerate(texts)}
    return with_options(question, texts), texts, letters


def _meant(answer: str, meaning: dict[str, str], where: str) -> str:
    stated = answer.strip(" .:;()").casefold()
    if stated not in meaning:
        raise ProblemError(f"{where}: answer {answer!r} is none of {', '.join(meaning)}.")
    return meaning[stated]


_SHARES = re.compile(r"\[(\d*\.?\d+(?:,\s*\d*\.?\d+){3})\]")


def _mm_gcot(record: Record, show: Show) -> list[Problem]:
    image = show(record.field("img"), record.where)

    def boxes(text: str) -> tuple[Box, ...]:
        found = [[float(side) for side in one.split(",")] for one in _SHARES.findall(text)]
        return corner_boxes(found, image.size, record.where, form="unit-xywh")

    answer = record.field("answer").strip()
    part = next(
        (one for one in ("attributes", "judge", "objects") if one in Path(record.where).name), ""
    )
    steps = rationale_steps(record.field("cot"))
    return [
        Problem(
            # Theirs are not unique.
            id=joined_id("mm-gcot", part, record.where.rpartition(" ")[2]),
            image=image,
            question=record.field("question"),
            candidates=yes_or_no(answer),
            answer=answer,
            steps=tuple(Step(step.text, boxes(step.text)) for step in steps),
            evidence=boxes(record.field("coordinate")),
            metadata={"dataset": "mm-gcot", "part": part},
        )
    ]


def _vilp(record: Record, show: Show) -> list[Problem]:
    images = [show(record.value.get(f"image{n}"), record.where) for n in (1, 2, 3)]
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
                id=joined_id("vilp", record.number, at + 1),
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


_MADE_BY = {"naturalbench": _naturalbench, "vilp": _vilp, "mm-gcot": _mm_gcot}
"""What gives the problems of a row of sets that are more than columns."""


def _set(
    form: str,
    title: str,
    hub: str = "",
    split: str = "test",
    inside: Sequence[str] = ("",),
    name: str = "",
    **given: Any,
) -> HubSet:
    own: dict[str, Any] = {
        key: tuple(one) if isinstance(one, list) else one for key, one in given.items()
    }
    made = _MADE_BY.get(form) or partial(Columns(**own).problems, name=name or form)
    return HubSet(title, hub, split, made, tuple(inside))


HUB_SETS: Mapping[str, HubSet] = {
    form: _set(form, **row)
    for form, row in yaml.safe_load(
        (files("attcot_analysis.problems.data") / "hub.yaml").read_text(encoding="utf-8")
    ).items()
}
"""Sets of rows, by the name of their format."""


def read_vstar(place: Place) -> Iterator[Made]:
    """Questions of V*Bench's folder, which has boxes, else rows of its mirror, which has none."""
    path = place.path
    path = path / "test_questions.jsonl" if path is not None and path.is_dir() else path
    if path is None or path.suffix != ".jsonl" or not path.is_file():
        return HUB_SETS["vstar"].read(place)
    choose([path], path, place.split, "test")
    if place.images is not None and not isinstance(place.images, Path):
        raise ProblemError(f"{place.images} is a ZIP file; unpack it.")
    root = place.images or path.parent
    return each(json_lines(path), partial(_vstar, root=root, show=place.show(root)))


def _vstar(record: Record, root: Path, show: Show) -> list[Problem]:
    name = record.field("image")
    notes = root / Path(name).with_suffix(".json")
    held = Record(str(notes), json_file(notes))
    numbered = record._replace(value={"question_id": Path(name).stem, **record.value})
    (problem,) = HUB_SETS["vstar"].problems(numbered, show)
    boxes = corner_boxes(held.field("bbox", list), problem.size, held.where, form="xywh")
    targets = ", ".join(map(str, held.value.get("target_object", [])))
    return [
        replace(
            problem,
            id=joined_id("vstar", Path(name).parent.name, Path(name).stem),
            evidence=boxes,
            metadata={**problem.metadata, "targets": targets},
        )
    ]


READERS: Mapping[str, Callable[[Place], Iterator[Made]]] = {
    **{form: one.read for form, one in HUB_SETS.items()},
    "vstar": read_vstar,
    "naturalbench": read_naturalbench,
    "hallusionbench": read_hallusionbench,
}
"""What reads each of the sets."""
