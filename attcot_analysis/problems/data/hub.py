r"""Datasets that are published as tables: mostly an entry that says which column holds what.

========================  ====================  =================================================
hub dataset               paper                 columns that are read
========================  ====================  =================================================
LightChen2333/M3CoT       arXiv 2405.16473      ``id``, ``question``, ``choices``, ``context``,
                                                ``answer`` (a letter), ``rationale``, ``image``,
                                                ``domain``, ``topic``, ``split``
HuggingFaceM4/A-OKVQA     arXiv 2206.01718      ``question_id``, ``question``, ``choices``,
                                                ``correct_choice_idx``, ``rationales``, ``split``,
                                                ``image`` or ``image_id``
nyu-visionx/CV-Bench      arXiv 2406.16860      ``idx``, ``question``, ``choices``, ``answer``
                                                (``(A)``), ``image``, ``type``, ``task``,
                                                ``source``
BLINK-Benchmark/BLINK     arXiv 2404.12390      ``idx``, ``question``, ``choices``, ``answer``
                                                (``(A)``), ``image_1`` to ``image_4``,
                                                ``sub_task``
Lin-Chen/MMStar           arXiv 2403.20330      ``index``, ``question`` (with its options),
                                                ``answer`` (a letter), ``image``, ``category``,
                                                ``l2_category``
derek-thomas/ScienceQA    arXiv 2209.09513      ``question``, ``choices``, ``answer`` (a place),
                                                ``hint``, ``image``, ``solution``, ``subject``,
                                                ``topic``
flaviagiammarino/vqa-rad  10.1038/sdata.2018.251  ``image``, ``question``, ``answer``
BoKelvin/SLAKE            arXiv 2102.09542      ``qid``, ``img_name``, ``question``, ``answer``,
                                                ``q_lang``, ``modality``, ``answer_type``
princeton-nlp/CharXiv     arXiv 2406.18521      ``figure_path``, ``image``, ``reasoning_q``,
                                                ``reasoning_a``, ``category``
hiyouga/geometry3k        arXiv 2105.04165      ``images``, ``problem``, ``answer``
tianyi-lab HallusionBench  arXiv 2310.14566     ``category``, ``subcategory``, ``set_id``,
                                                ``figure_id``, ``question_id``, ``question``,
                                                ``gt_answer`` (0 or 1), ``filename`` or ``image``
lmms-lab/vstar-bench      arXiv 2312.14135      ``text`` (with its options), ``label`` (a letter),
                                                ``image``, ``category``, ``question_id``
craigwu/vstar_bench       the same              files: ``test_questions.jsonl`` (``image``,
                                                ``text``, ``category``, ``label``), and beside
                                                every picture a JSON file (``target_object``,
                                                ``bbox`` as x, y, width, height)
BaiqiL/NaturalBench       arXiv 2410.14669      ``Index``, ``Question_0``, ``Question_1``,
                                                ``Image_0``, ``Image_1``, ``Image_0_Question_0``
                                                and the other three answers, ``Question_Type``
ViLP/ViLP                 arXiv 2501.00569      ``question``, ``image1``, ``answer1``, and so on
                                                to 3
========================  ====================  =================================================

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
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from attcot_analysis.errors import ProblemError
from attcot_analysis.problems.data.source import (
    YES_NO,
    Folder,
    Made,
    Place,
    Record,
    bare_question,
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
    yes_or_no,
)
from attcot_analysis.problems.problem import Edit, Problem, Scoring


class Columns(NamedTuple):
    """Which column of a table holds what; an empty name for none.

    Attributes:
        image: The picture; several names where an item may have several, of which one is read.
        question: May list its options, and is then cut before them.
        answer: A letter, a place among the choices from 0, or a text.
        choices: A column with a list, the choices themselves if they are the same for all, or
            ``IN_QUESTION``.
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

    def problems(self, record: Record, folders: Sequence[Folder], name: str) -> list[Problem]:
        """The problem of a row."""
        question = bare_question(record.field(self.question))
        choices: tuple[str, ...] = ()
        if self.choices == IN_QUESTION:
            question, choices = listed_options(question, record.where)
        elif isinstance(self.choices, tuple):
            choices = self.choices
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
        return [
            Problem(
                id=file_id(name, *(known or [record.number])),
                image=picture(self._image(record), record.where, *folders),
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

    def _image(self, record: Record) -> object:
        held: list[object] = []
        for one in self.image:
            value = record.value.get(one)
            held += value if isinstance(value, list) else [value]
        there = [one for one in held if one is not None and one != ""]
        if not there and isinstance(record.value.get("image_id"), int):
            return f"{record.value['image_id']:012d}.jpg"  # As COCO names its pictures.
        if len(there) > 1:
            raise ProblemError(
                f"{record.where} has {len(there)} pictures; an item has one here, so leave it out."
            )
        return there[0] if there else None

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
        folders = [folder / part for folder in place.folders for part in self.inside]
        return each(rows(place, self.split), partial(self.problems, folders=folders))


def read_hallusionbench(place: Place) -> Iterator[Made]:
    """Rows of HallusionBench; the twin is the same question on the set's next other picture."""
    table = HUB_SETS["hallusionbench"]
    folders = [folder / part for folder in place.folders for part in table.inside]
    records = list(rows(place, table.split))
    groups: dict[tuple[str, ...], list[Record]] = {}
    names = ("category", "subcategory", "set_id", "question_id", "question")

    def group(record: Record) -> list[Record]:
        return groups.setdefault(tuple(str(record.value.get(name)) for name in names), [])

    for record in records:
        if isinstance(record, Record) and str(record.value.get("visual_input")) != "0":
            group(record).append(record)

    def problems(record: Record) -> list[Problem]:
        (problem,) = table.problems(record, folders=folders)
        given = str(record.value["gt_answer"])
        others = [one for one in group(record) if str(one.value.get("gt_answer")) != given]
        if not others:
            return [problem]
        (other,) = table.problems(others[0], folders=folders)
        return [replace(problem, twin=Edit("twin", other.image, other.answer, (), ()))]

    return each(records, problems)


def read_aokvqa(place: Place) -> Iterator[Made]:
    """Entries of A-OKVQA's published file, else rows of the hub dataset."""
    path = place.path
    files = sorted(path.glob("aokvqa_*.json")) if path is not None and path.is_dir() else []
    files = [path] if path is not None and path.suffix == ".json" else files
    table = HUB_SETS["a-okvqa"]
    if not files:
        return table.read(place)
    folders = [folder / part for folder in place.folders for part in table.inside]
    records = of_split(place, files, "val", json_list)
    return each(records, partial(table.problems, folders=folders))


_INSTRUCTION = re.compile(
    r"\s*(?:Please (?:answer|output|choose|select|respond)|\nAnswer with)\b[^\n]*$", re.IGNORECASE
)
_LETTER = re.compile(r"(?<![\w(])\(?([A-Za-z])\s*[:.)]\s*")
_HEAD = re.compile(r"\s*(?:\bOptions?\s*:?)?[\s(]*$", re.IGNORECASE)


def listed_options(question: str, where: str) -> tuple[str, tuple[str, ...]]:
    """A question without its list of options, and the options: ``A: one; B: two`` or the like.

    Raises:
        ProblemError: If it lists no two options A and B, or the same twice.
    """
    text = _INSTRUCTION.sub("", question)
    marks: list[re.Match[str]] = []
    for mark in _LETTER.finditer(text):
        letter = mark[1].upper()
        if letter == chr(65 + len(marks)):
            marks.append(mark)
        elif letter == "A" and len(marks) < 2:
            marks = [mark]
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    options = tuple(
        text[mark.end() : end].strip().rstrip(";,").rstrip()
        for mark, end in zip(marks, ends, strict=False)
    )
    if len(options) < 2 or len(set(options)) < len(options):
        raise ProblemError(f"{where}: its question {question!r:.80} lists no two options A and B.")
    return _HEAD.sub("", text[: marks[0].start()]), options


def _naturalbench(record: Record, folders: Sequence[Folder]) -> list[Problem]:
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


def read_naturalbench(place: Place) -> Iterator[Made]:
    """Rows of the hub dataset, or entries of its file of texts, four to a row."""
    path = place.path
    texts = sorted(path.glob("*.json")) if path is not None and path.is_dir() else []
    path = texts[0] if len(texts) == 1 else path
    if path is None or path.suffix != ".json":
        return HUB_SETS["naturalbench"].read(place)
    choose([path], path, place.split, "train")
    return each(_in_fours(path), partial(_naturalbench, folders=place.folders))


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
        asked = _INSTRUCTION.sub("", question)
        return asked, YES_NO, {answer.casefold(): answer for answer in YES_NO}
    question, texts = listed_options(question, where)
    letters = {chr(97 + at): text for at, text in enumerate(texts)}
    return with_options(question, texts), texts, letters


def _meant(answer: str, meaning: dict[str, str], where: str) -> str:
    stated = answer.strip(" .:;()").casefold()
    if stated not in meaning:
        raise ProblemError(f"{where}: answer {answer!r} is none of {', '.join(meaning)}.")
    return meaning[stated]


def _vilp(record: Record, folders: Sequence[Folder]) -> list[Problem]:
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


def _table(name: str, **columns: Any) -> Callable[..., list[Problem]]:
    return partial(Columns(**columns).problems, name=name)


_COCO = ("", "train2017", "val2017", "test2017")

HUB_SETS: Mapping[str, HubSet] = {
    "m3cot": HubSet(
        "M3CoT",
        "LightChen2333/M3CoT",
        "test",
        _table(
            "m3cot",
            id=("id",),
            choices="choices",
            context="context",
            rationale="rationale",
            keep=("domain", "topic", "split"),
        ),
    ),
    "a-okvqa": HubSet(
        "A-OKVQA",
        "HuggingFaceM4/A-OKVQA",
        "validation",
        _table(
            "aokvqa",
            id=("question_id",),
            choices="choices",
            answer="correct_choice_idx",
            rationale="rationales",
            keep=("split",),
        ),
        _COCO,
    ),
    "naturalbench": HubSet("NaturalBench", "BaiqiL/NaturalBench", "train", _naturalbench),
    "vilp": HubSet("ViLP", "ViLP/ViLP", "train", _vilp),
    "cv-bench": HubSet(
        "CV-Bench",
        "nyu-visionx/CV-Bench",
        "test",
        _table("cv-bench", id=("idx",), choices="choices", keep=("type", "task", "source")),
    ),
    "blink": HubSet(
        "BLINK",
        "",
        "val",
        _table(
            "blink",
            image=tuple(f"image_{at}" for at in range(1, 5)),
            id=("idx",),
            choices="choices",
            keep=("sub_task",),
        ),
    ),
    "mmstar": HubSet(
        "MMStar",
        "Lin-Chen/MMStar",
        "val",
        _table("mmstar", id=("index",), choices=IN_QUESTION, keep=("category", "l2_category")),
    ),
    "scienceqa": HubSet(
        "ScienceQA",
        "derek-thomas/ScienceQA",
        "test",
        _table(
            "scienceqa",
            choices="choices",
            context="hint",
            rationale="solution",
            keep=("subject", "topic"),
        ),
    ),
    "vqa-rad": HubSet("VQA-RAD", "flaviagiammarino/vqa-rad", "test", _table("vqa-rad")),
    "slake": HubSet(
        "SLAKE",
        "",
        "test",
        _table(
            "slake",
            image=("img_name",),
            id=("qid",),
            keep=("q_lang", "modality", "answer_type"),
        ),
        ("imgs", ""),
    ),
    "charxiv": HubSet(
        "CharXiv, its reasoning questions",
        "princeton-nlp/CharXiv",
        "validation",
        _table(
            "charxiv",
            question="reasoning_q",
            answer="reasoning_a",
            id=("figure_path",),
            keep=("category",),
        ),
    ),
    "geometry3k": HubSet(
        "Geometry3K",
        "hiyouga/geometry3k",
        "test",
        _table("geometry3k", image=("images",), question="problem", scoring="math"),
    ),
    "hallusionbench": HubSet(
        "HallusionBench",
        "",
        "",
        _table(
            "hallusionbench",
            image=("image", "filename"),
            answer="gt_answer",
            choices=("No", "Yes"),
            id=("category", "subcategory", "set_id", "figure_id", "question_id"),
            keep=("category", "subcategory", "visual_input"),
        ),
        ("", "hallusion_bench"),
    ),
    "vstar": HubSet(
        "V*Bench",
        "lmms-lab/vstar-bench",
        "test",
        _table(
            "vstar",
            question="text",
            answer="label",
            choices=IN_QUESTION,
            id=("question_id",),
            keep=("category",),
        ),
    ),
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
    return each(json_lines(path), partial(_vstar, root=place.images or path.parent))


def _vstar(record: Record, root: Path) -> list[Problem]:
    name = record.field("image")
    notes = root / Path(name).with_suffix(".json")
    held = Record(str(notes), json_file(notes))
    numbered = record._replace(value={"question_id": Path(name).stem, **record.value})
    (problem,) = HUB_SETS["vstar"].problems(numbered, folders=[root])
    boxes = corner_boxes(held.field("bbox", list), problem.size, held.where, form="xywh")
    targets = ", ".join(map(str, held.value.get("target_object", [])))
    return [
        replace(
            problem,
            id=file_id("vstar", Path(name).parent.name, Path(name).stem),
            evidence=boxes,
            metadata={**problem.metadata, "targets": targets},
        )
    ]
