"""Your own data, in the forms in which people have it.

Records are lines of JSON, a JSON list, rows of CSV, TSV (also VLMEvalKit's, with pictures in
base64 and options in columns ``A``, ``B``, ...), parquet or what ``save_to_disk`` wrote, or a
problem folder. Only ``image``, ``question`` and ``answer`` must be there::

    {"id": "kitchen-7", "image": "photos/7.jpg", "question": "What colour is the kettle?",
     "answer": "red", "candidates": ["red", "blue", "green"], "habitual": "blue",
     "steps": ["The kettle stands by the window.",
               {"text": "It is red.", "boxes": [[210, 80, 290, 170]]}],
     "twin": {"image": "photos/7-blue.png", "answer": "blue", "boxes": [[210, 80, 290, 170]]},
     "control": {"image": "photos/7-cup.png", "boxes": [[20, 80, 100, 170]]}}

``rationale`` may stand for ``steps`` as one text, ``boxes`` for evidence of which it is not known
what step reads it. Usual other names of the fields are understood (`ALIASES`), further ones are
said with ``--map``. A question and its answer may be a conversation: LLaVA's ``conversations`` or
chat ``messages``. Pictures are named relative to the file. Boxes are pixels ``[x0, y0, x1, y1]`` of
the picture as it is shown, upright.

``image`` may be a list of pictures, which are shown in order; ``pictures`` of a step then says in
which its boxes lie, and ``picture`` of an edit which one it replaces. ``<image>`` in the question,
or a picture among a message's parts, stands for one of them: what is written before it is its
label, as in ``picture_labels``. ``video`` names a video, or a folder of its frames, instead of
pictures: ``n_frames`` of them are shown, each after its time.
"""

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from functools import partial
from math import isfinite
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from PIL import Image

from attcot_analysis.errors import ProblemError
from attcot_analysis.problems.box_forms import to_pixels
from attcot_analysis.problems.data.fields import (
    YES_NO,
    listed_options,
    rationale_steps,
    with_options,
)
from attcot_analysis.problems.data.film import FRAMES, film_frames
from attcot_analysis.problems.data.place import Folder, Place, Show
from attcot_analysis.problems.data.records import (
    Made,
    Record,
    choose,
    each,
    json_lines,
    kind_of,
    of_split,
    read_table,
    tables,
)
from attcot_analysis.problems.folder import LINES, folder_problem, problem_from_record
from attcot_analysis.problems.problem import Problem
from attcot_analysis.problems.statement import boxed

FIELDS = (
    *("id", "image", "question", "answer", "candidates", "habitual", "rationale", "steps", "boxes"),
    *("tolerance", "scoring", "references", "twin", "control", "metadata", "evidence_pictures"),
    *("picture_labels", "frame_times", "video", "n_frames"),
)
"""Fields of a record."""

ALIASES: Mapping[str, tuple[str, ...]] = {
    "id": ("question_id", "qid", "index", "idx", "uid"),
    "image": ("images", "image_path", "img", "img_path", "img_name", "file_name", "filename"),
    "question": ("query", "prompt", "problem", "text"),
    "answer": ("answers", "label", "gt_answer", "ground_truth", "target"),
    "candidates": ("options", "choices"),
    "rationale": ("reasoning", "thought", "cot"),
    "boxes": ("bbox", "bboxes", "bboxs", "evidence"),
}
"""What a field may be called where it has not its own name."""

_NEEDED = ("image", "question", "answer")
_EDITS = ("twin", "control")
_EDIT_FIELDS = ("image", "answer", "rationale", "steps", "boxes", "picture")
_UNREAD = (".xlsx", ".xls", ".ods", ".zip", ".tar", ".pkl", ".pickle", ".npz", ".pt")
"""What people have, too, and JSON lines are never called."""
_NEAR = 0.85
"""How alike a name must be to be taken for a slip of the pen."""


def read(place: Place) -> Iterator[Made]:
    """Records of a file, or of the one file of a folder that holds records."""
    path = place.folder("your own data", "give a file of records, or the folder that holds one")
    if path.is_dir() and (path / LINES).is_file():
        return each(json_lines(path / LINES), partial(_of_folder, root=path))
    if path.name == LINES and (path.parent / "images").is_dir():
        return each(json_lines(path), partial(_of_folder, root=path.parent))
    files = [path]
    if path.is_dir():
        files = tables(path)
        shards = bool(files) and kind_of(files[0]) in (".parquet", ".arrow")
        if place.split is not None and files and not shards:
            files = choose(files, path, place.split)
        here = [file for file in files if file.parent == path]
        files = files if shards or len(here) != 1 else here
        if len(files) != 1 and not (shards and files):
            kind = kind_of(files[0]) if files else ".jsonl"
            raise ProblemError(
                f"{path} holds {len(files)} {kind} files; name the one that is meant."
            )
    elif kind_of(path) in _UNREAD:
        raise ProblemError(
            f"{path} is not read; save it as JSON lines, CSV or parquet, and give a ZIP file of "
            "pictures with --images."
        )
    folders: list[Folder] = [] if place.images is None else [place.images]
    folders += dict.fromkeys(file.parent for file in files)
    records = of_split(place, files, "", _table)
    find = partial(place.find, folders=folders)
    return each(records, partial(_problems, show=place.show(*folders), find=find, place=place))


def _table(file: Path) -> Iterator[Record | ProblemError]:
    try:
        return read_table(file)
    except KeyError:
        return json_lines(file)  # JSON lines may be called anything.


def _of_folder(record: Record, root: Path) -> list[Problem]:
    return [folder_problem(root, record.value, record.where, set(), keep=True)]


def _problems(record: Record, show: Show, find: Callable[..., Path], place: Place) -> list[Problem]:
    where = record.where
    fields = _renamed(_spoken(record, place), where, place.names)
    _sort_out(fields, where, place)
    for name in _NEEDED:
        if fields.get(name) is None and not (name == "image" and "video" in fields):
            raise ProblemError(
                f"{where} lacks {name}; it has {', '.join(map(str, record.value)) or 'nothing'}: "
                f"if it is called otherwise, say --map {name}=NAME."
            )
    edits: dict[str | None, object] = {}
    own = _pictures(fields, where, find, show)
    shard = where.rpartition(", ")[2].startswith("row ")  # Rows of all files are counted together.
    at = record.number if shard else where.rpartition(" ")[2]
    fields["id"] = str(fields.get("id", f"item-{at}"))
    _settle_answer(fields, where)
    if "boxes" in fields:
        fields["evidence"] = _boxes(fields.pop("boxes"))
    fields["steps"] = _steps(fields, where)
    for kind in _EDITS:
        if fields.get(kind) is None:
            fields.pop(kind, None)
            continue
        edit = Record(f"{where}, {kind}", fields[kind])
        if not isinstance(fields[kind], dict):
            raise ProblemError(f"{edit.where} holds {fields[kind]!r:.60}; expected a JSON object.")
        unknown = [key for key in edit.value if key not in _EDIT_FIELDS]
        if unknown:
            raise ProblemError(
                f"{edit.where} has the unknown field {unknown[0]!r:.60}; known are "
                f"{', '.join(_EDIT_FIELDS)}."
            )
        edits[kind] = edit.field("image", object)
        if kind == "twin":
            edit.field("answer", (str, int, float))
        inner = dict(edit.value)
        fields[kind] = {
            "answer": _written(inner.get("answer", fields["answer"])),
            "steps": _steps(inner, edit.where),
            "boxes": _boxes(inner.get("boxes", [])),
            **({"picture": inner["picture"]} if "picture" in inner else {}),
        }
    _in_pixels(fields, [one.size for one in own], place)
    fields["n_images"] = len(own)

    def shown(kind: str | None) -> Image.Image:
        if kind in edits:
            return show(edits[kind], f"{where}, {kind}")
        return own[int(kind or 1) - 1]

    return [problem_from_record(fields, shown, where)]


def _renamed(given: Mapping[str, Any], where: str, names: Mapping[str, str]) -> dict[str, Any]:
    """The fields by the names that they have here; those that are empty are left out."""
    fields = {key: value for key, value in given.items() if value is not None}
    for ours, theirs in names.items():
        if theirs not in given:
            near = get_close_matches(theirs, [str(key) for key in given], n=1)
            raise ProblemError(
                f"{where} has no field {theirs!r} for --map {ours}={theirs}; it has "
                f"{', '.join(map(str, given))}" + (f": is it {near[0]}?" if near else ".")
            )
        if theirs in fields:
            fields[ours] = fields.pop(theirs)
    lower = {str(key).lower(): key for key in fields}
    for ours in (*FIELDS, *(name for some in ALIASES.values() for name in some)):
        if ours not in fields and ours in lower:
            fields[ours] = fields.pop(lower[ours])
    for ours, others in ALIASES.items():
        there = [name for name in others if name in fields]
        if ours not in fields and len(there) > 1 and ours in _NEEDED:
            raise ProblemError(
                f"{where} has no {ours} but {' and '.join(there)}; say which it is with --map "
                f"{ours}={there[0]}."
            )
        if ours not in fields and there:
            fields[ours] = fields.pop(there[0])
    if "answers" in fields and "references" not in fields:
        fields["references"] = fields.pop("answers")
    columns = [(one[2] or one[3], one[0]) for key in fields if (one := _COLUMN.fullmatch(str(key)))]
    if "candidates" not in fields and len(columns) > 1:
        by_letter = {letter: fields.pop(key) for letter, key in columns}
        fields["candidates"] = [_written(one) for one in _in_order(by_letter, where)]
        if isinstance(fields.get("hint"), str) and isinstance(fields.get("question"), str):
            fields["question"] = f"{fields.pop('hint')}\n{fields['question']}"
    return fields


def _sort_out(fields: dict[str, Any], where: str, place: Place) -> None:
    """Put what is not known into the metadata, or leave it out and say so."""
    unknown = [key for key in fields if key not in FIELDS]
    kept: dict[str, Any] = {}
    for key in unknown:
        near = get_close_matches(str(key), FIELDS, n=1, cutoff=_NEAR)
        if near:
            raise ProblemError(
                f"{where} has the unknown field {key!r:.60}; is it {near[0]}? Known are "
                f"{', '.join(FIELDS)} (anything else goes into metadata)."
            )
        value = fields.pop(key)
        plain = isinstance(value, str | int | bool) and len(str(value)) < 1000
        if plain or (isinstance(value, float) and isfinite(value)):
            kept[str(key)] = value
            place.kept.add(str(key))
        else:
            place.unread.add(str(key))
    held = fields.get("metadata", {})
    if isinstance(held, str):
        held = _parsed(held)
    fields["metadata"] = {**kept, **held} if isinstance(held, dict) else held


_COLUMN = re.compile(r"((?i:choice|option)[_ ]?)?(?(1)([A-Za-z])|([A-Z]))")
"""What the column of an option is called: A, choice_a, option A."""
_ASKING, _ANSWERING = ("human", "user"), ("gpt", "assistant", "model")


def _spoken(record: Record, place: Place) -> dict[str, Any]:
    """The fields of a record, those of a conversation taken out of it."""
    fields = dict(record.value)
    name = next((one for one in ("conversations", "messages") if one in fields), None)
    if name is None:
        return fields
    turns = fields.pop(name)
    turns = _parsed(turns) if isinstance(turns, str) else turns
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
        raise ProblemError(f"{record.where}: {name} is {turns!r:.60}; expected a list of objects.")
    said: dict[str, list[Mapping[str, Any]]] = {"question": [], "answer": []}
    for turn in turns:
        who = turn.get("from", turn.get("role"))
        if who in _ASKING:
            said["question"].append(turn)
        elif who in _ANSWERING:
            said["answer"].append(turn)
        else:
            place.unread.add(f"what {who} says in {name}")
    if len(said["question"]) != 1 or len(said["answer"]) > 1:
        raise ProblemError(
            f"{record.where}: {name} holds {len(said['question'])} questions and "
            f"{len(said['answer'])} answers; an item has one of each, so cut it into records."
        )
    for field, (*_, turn) in ((field, turns) for field, turns in said.items() if turns):
        content = turn.get("value", turn.get("content"))
        parts = content if isinstance(content, list) else [{"text": content}]
        fields.setdefault(field, _said(parts))
        shown = [_part_picture(part) for part in parts]
        if "image" not in fields and any(one is not None for one in shown):
            fields["image"] = [one for one in shown if one is not None]
        if isinstance(turn.get("reasoning_content"), str):
            fields.setdefault("rationale", turn["reasoning_content"])
    return fields


def _part_picture(part: Mapping[str, Any]) -> object:
    for key in ("image", "image_url", "url", "path"):
        held = part.get(key)
        if held is not None:
            return held.get("url") if isinstance(held, Mapping) and "url" in held else held
    return None


def _said(parts: Sequence[Mapping[str, Any]]) -> str:
    """The text of a message's parts; each picture is a placeholder, unless the texts hold some."""
    texts = [part["text"] for part in parts if isinstance(part.get("text"), str)]
    if PLACE in "".join(texts):
        return "\n".join(texts)
    said = [
        part["text"] if isinstance(part.get("text"), str) else PLACE
        for part in parts
        if isinstance(part.get("text"), str)
        or str(part.get("type")).startswith("image")
        or _part_picture(part) is not None
    ]
    return "\n".join(said)


def _pictures(
    fields: dict[str, Any], where: str, find: Callable[..., Path], show: Show
) -> Sequence[Image.Image]:
    """All pictures of a record, or frames of its video; question and labels are put in order."""
    film = {name: fields.pop(name, None) for name in ("video", "frame_times", "n_frames")}
    times = film["frame_times"]
    fields["question"] = _text(fields["question"], "question", where)
    if film["video"] is not None:
        if "image" in fields:
            raise ProblemError(f"{where} has both image and video; keep one of them.")
        n_frames = film["n_frames"] or FRAMES
        shown, times = film_frames(find(film["video"], where), where, n_frames, times)
        # A video has one placeholder for all frames, or one each.
        fields["question"] = fields["question"].replace("<video>", PLACE * len(shown), 1)
    else:
        held = fields.pop("image")
        if isinstance(held, str) and held.startswith("["):
            held = _parsed(held)
        held = held if isinstance(held, list) else [held]
        wrong = [one for one in held if not isinstance(one, str | bytes | Mapping | Image.Image)]
        if wrong or not held:
            given = wrong[0] if wrong else held
            raise ProblemError(f"{where}: image is {given!r:.60}; it must be a string.")
        shown = [show(one, where) for one in held]
    if times is not None:
        if not isinstance(times, list) or not all(isinstance(one, int | float) for one in times):
            raise ProblemError(
                f"{where}: frame_times is {times!r:.60}; expected seconds in a list."
            )
        if "picture_labels" in fields:
            raise ProblemError(f"{where} has picture_labels and frame_times; keep one of them.")
        fields["picture_labels"] = [f"{one:g} s:" for one in times]
    question, labels = _labelled(fields["question"], len(shown), where)
    fields["question"] = question
    if labels and fields.setdefault("picture_labels", labels) is not labels:
        raise ProblemError(f"{where} has labels in its question, too; keep one of them.")
    return shown


PLACE = "<image>"
_NUMBERED = re.compile(r"\A\s*<image \d+>|<image \d+>\s*\Z")
"""A place as MMMU writes it; amid a sentence it names a picture."""
_LABEL = re.compile(r"(?:[^.?!\n]|\.(?=\d)){0,60}(?:[:=\d]|\b[A-Z]|\([a-z]\))\s*")
"""What may stand before a placeholder: "Image-1:", "Figure 2", "(a)", and no part of a sentence."""


def _labelled(text: str, n_images: int, where: str) -> tuple[str, list[str]]:
    """A question without placeholders, and the label that stands before each, if there are any."""
    if _NUMBERED.search(text):
        numbers = re.findall(r"<image (\d+)>", text)
        if [int(one) for one in numbers] != [*range(1, n_images + 1)]:
            raise ProblemError(
                f"{where}: its question holds <image {numbers[0]}> and it has {n_images} pictures; "
                "write <image 1>, <image 2> and so on once each, in order, or none."
            )
        text = re.sub(r"<image \d+>", PLACE, text)
    *before, question = text.split(PLACE)
    if before and len(before) != n_images and (n_images > 1 or "".join(before).strip()):
        raise ProblemError(
            f"{where}: its question holds {PLACE} {len(before)} times and it has {n_images} "
            "pictures; write one for each, or none."
        )
    labels = [one.strip() for one in before]
    if not any(labels):
        return question.strip(), []
    if not question.strip() and not any(labels[1:]):
        return labels[0], []
    if not question.strip() or not all(_LABEL.fullmatch(one) for one in labels):
        raise ProblemError(
            f"{where}: its question {text!r:.60} says more between its pictures than their labels; "
            f'put them before the question, as in "Image-1: {PLACE} Image-2: {PLACE} What ...?".'
        )
    return question.strip(), labels


_THOUGHT = re.compile(
    r"\s*(?:<think>(.*?)</think>\s*(?:<answer>)?|<answer>|(?=\\boxed))"
    r"(?:\s*\\boxed\{([^{}]*)\}\s*|(.*?))(?:</answer>)?\s*",
    re.DOTALL,
)
_ELSEWHERE = re.compile(r"</?CONCLUSION>|\u25c1/?think\u25b7|<\|begin_of_box\|>|<channel\|>")
"""Tags of a response that is not taken apart here."""
_MARKED = re.compile(r"\(?([A-Z])[).:]\s*(\S.*)", re.DOTALL)


def _in_order(given: Mapping[str, Any], where: str) -> list[Any]:
    """Options in the order of their letters; as they are if those are no letters."""
    lettered = {_letter(str(key)): value for key, value in given.items()}
    if "" in lettered or len(lettered) < len(given):
        return list(given.values())
    if "".join(sorted(lettered)) != ascii_uppercase[: len(lettered)]:
        raise ProblemError(
            f"{where}: its options have the letters {', '.join(sorted(lettered))}; expected A, B, "
            "C and so on."
        )
    return [lettered[letter] for letter in sorted(lettered)]


def _options(given: Any, where: str) -> Any:
    """Candidates as a list of texts: of a list, an object by letter, or a text."""
    if isinstance(given, str) and given.strip():
        marks = ("\n", "|", ";") if re.search(r"\d,\d", given) else ("\n", "|", ";", ",")
        mark = next((one for one in marks if one in given), None)
        held = _parsed(given) if given.lstrip()[0] in "[{" else given
        given = given.split(mark) if held is given and mark else held
    if isinstance(given, Mapping) and isinstance(given.get("label"), list) and "text" in given:
        given = dict(zip(map(str, given["label"]), given["text"], strict=False))
    if isinstance(given, Mapping):
        given = given["text"] if "text" in given else _in_order(given, where)
    if not isinstance(given, list):
        return given
    if given and all(isinstance(one, Mapping) and {"label", "text"} <= set(one) for one in given):
        given = _in_order({str(one["label"]): one["text"] for one in given}, where)
    bare = [one["text"] if isinstance(one, Mapping) and "text" in one else one for one in given]
    texts = [_text(_written(one), "candidate", where).strip() for one in bare]
    marked = [_MARKED.fullmatch(text) for text in texts]
    if all(one and one[1] == chr(65 + at) for at, one in enumerate(marked)):
        return [one[2].strip() for one in marked if one]
    return texts


def _letter(text: str) -> str:
    """The letter that a text is; empty if it is none."""
    letter = text.strip("().: ").upper()
    return letter if len(letter) == 1 and letter.isalpha() else ""


def _option(text: str, listed: Sequence[str]) -> str | None:
    """The candidate that a text is, by its words or its letter."""
    marked = _MARKED.fullmatch(text)
    words = marked[2].strip() if marked else text
    at = ord(_letter(text) or "?") - 65
    return words if words in listed else listed[at] if 0 <= at < len(listed) else None


def _settle_answer(fields: dict[str, Any], where: str) -> None:
    """Make the answer a text, and of a letter the option that it stands for."""
    answer, listed = fields["answer"], fields.get("candidates", [])
    letters = isinstance(listed, Mapping) and "text" not in listed
    listed = _options(listed, where)
    if isinstance(answer, bool) and not listed:
        listed = list(YES_NO)
    references = fields.get("references", [])
    if isinstance(references, str):
        references = _parsed(references)
    if isinstance(answer, list) and answer:
        said = [one.get("answer", one) if isinstance(one, Mapping) else one for one in answer]
        references = [*said, *references] if isinstance(references, list) else references
        # The same more than once are what several people said, as in VQA.
        if not listed and len({*map(str, said)}) < len(said) > 3:
            fields.setdefault("scoring", "vqa")
        answer = max(said, key=said.count)
    if isinstance(answer, str) and (tag := _ELSEWHERE.search(answer)):
        raise ProblemError(
            f"{where}: its answer holds {tag[0]}; give the answer alone, and what is before it as "
            "rationale."
        )
    thought = _THOUGHT.fullmatch(answer) if isinstance(answer, str) else None
    if thought is not None:
        answer = thought[2] if thought[2] is not None else thought[3]
        if not fields.get("steps") and fields.get("rationale") is None:
            fields["rationale"] = thought[1]
    if isinstance(answer, str) and (box := boxed(answer, 0, len(answer))):
        answer = answer[slice(*box)]
    answer = _text(_written(answer), "answer", where).strip()
    if not listed and _letter(answer):
        with suppress(ProblemError):  # It lists none itself.
            fields["question"], listed = listed_options(fields["question"], where)
        listed = list(listed)
        letters = bool(listed)
    if isinstance(listed, list) and listed and answer not in listed:
        option = _option(answer, listed)
        if option is None:
            near = get_close_matches(answer, listed, n=1)
            raise ProblemError(
                f"{where}: answer {answer!r:.60} is not one of the candidates {listed}, nor a "
                f"letter of one" + (f"; is it {near[0]!r}?" if near else ".")
            )
        answer, letters = option, True
    if letters and not all(one in fields["question"] for one in listed):
        fields["question"] = with_options(fields["question"], listed)
    fields["answer"], fields["candidates"] = answer, listed
    if isinstance(references, list) and references:
        texts = [_text(_written(one), "reference", where).strip() for one in references]
        right = {_option(one, listed) for one in texts} if listed else set()
        if right - {answer, None}:
            raise ProblemError(
                f"{where} has several right candidates, expected one; leave it out, or leave its "
                "candidates out."
            )
        if fields.get("scoring") != "vqa":
            texts = [one for one in dict.fromkeys(texts) if one != answer]
        fields["references"] = [] if listed else texts
    elif "references" in fields:
        fields["references"] = references
    if isinstance(fields.get("tolerance"), str):
        fields["tolerance"] = _parsed(fields["tolerance"])


def _written(value: Any) -> Any:
    """A number or a truth value as a text."""
    if isinstance(value, bool):
        return YES_NO[not value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value) if isinstance(value, int | float) else value


def _text(value: object, name: str, where: str) -> str:
    if not isinstance(value, str):
        raise ProblemError(f"{where}: {name} is {value!r:.60}; it must be a string.")
    return value


def _parsed(text: str) -> Any:
    """What a cell of a table holds: JSON, or a list as Python writes it; else the text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _boxes(value: Any) -> Any:
    """Boxes as a list of lists; a single one may stand alone, and in a cell as text."""
    if isinstance(value, str):
        value = _parsed(value if value.lstrip().startswith("[") else f"[{value}]")
    single = isinstance(value, list | tuple) and len(value) == 4 and not isinstance(value[0], list)
    if single or not isinstance(value, list | tuple | None):
        value = [value]
    return [
        [_parsed(side) if isinstance(side, str) else side for side in one]
        if isinstance(one, list | tuple)
        else one
        for one in value or []
    ]


def _in_pixels(fields: Any, sizes: Sequence[tuple[int, int]], place: Place) -> None:
    """Turn boxes that are said to be of another form into pixels, and count the others."""
    if not isinstance(fields, dict):
        return
    for name, which in (("evidence", "evidence_pictures"), ("boxes", "pictures")):
        held, named = fields.get(name), fields.get(which, fields.get("picture", 1))
        numbers = named if isinstance(named, list) and named else [named or 1]
        for at, box in enumerate(held if isinstance(held, list) else []):
            number = numbers[min(at, len(numbers) - 1)]
            known = type(number) is int and 0 < number <= len(sizes)  # Others are refused later.
            size = sizes[number - 1 if known else 0]
            if not _is_box(box):
                continue
            if place.boxes is None:
                place.seen.add(box, size)
            else:
                box[:] = to_pixels(box, size, place.boxes)
    steps = fields.get("steps")
    for inner in (*(steps if isinstance(steps, list) else ()), *map(fields.get, _EDITS)):
        _in_pixels(inner, sizes, place)


def _is_box(value: object) -> bool:
    """Whether it is four numbers of any size that a picture has; others are refused later."""
    return (
        isinstance(value, list)
        and len(value) == 4
        and all(isinstance(n, int | float) and abs(n) < 1e9 for n in value)
    )


def _steps(fields: dict[str, Any], where: str) -> object:
    """The steps of a record or an edit, each as an object."""
    text = fields.pop("rationale", None)
    steps = fields.get("steps")
    if isinstance(steps, str):
        steps = _parsed(steps) if steps.startswith("[") else steps
        steps, text = (None, steps) if isinstance(steps, str) and text is None else (steps, text)
    if text is None:
        if not isinstance(steps, list):
            return [] if steps is None else steps
        return [{"text": step} if isinstance(step, str) else step for step in steps]
    if steps:
        raise ProblemError(f"{where} has both rationale and steps; keep one of them.")
    if not isinstance(text, str):
        raise ProblemError(f"{where}: rationale is {text!r:.60}; expected a string.")
    return [{"text": step.text} for step in rationale_steps(text)]
