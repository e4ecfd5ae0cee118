"""`Problem`: one question with its picture, its rationale steps, and the edits that test it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import numpy as np
from PIL import Image

from attcot_analysis.errors import ProblemError
from attcot_analysis.problems.box_forms import fits, other_forms
from attcot_analysis.problems.phrases import one_form
from attcot_analysis.problems.pictures import StoredPicture, beside, open_picture

Box = tuple[float, float, float, float]
"""A pixel rectangle ``(x0, y0, x1, y1)``, half open, in the coordinates of the original image."""


Scoring = Literal["exact", "relaxed", "anls", "vqa", "list", "math"]
"""How an answer to an open question is scored; see `attcot_analysis.problems.scoring`."""

RELAXED = 0.05
"""The relative error that the relaxed rule allows where a problem does not say another."""

_HUMANS = 4
"""With fewer, VQA's rule could give no answer the score 1."""

_FURTHEST = 1e9
"""No picture has so many pixels a side; whole numbers beyond it may be no float."""


@dataclass(frozen=True)
class Step:
    """One rationale step.

    Attributes:
        text: The sentence, without its number.
        boxes: Evidence boxes, the pixel rectangles the step must be read from; may be empty.
        pictures: Where a problem has several pictures: numbers, from 1, of those that the step
            speaks of; one that all boxes lie in, or one per box. Empty: boxes lie in the first.

    Raises:
        ProblemError: If the text could not be found again in a response, or a box is none.
    """

    text: str
    boxes: tuple[Box, ...] = ()
    pictures: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Check the parts; lists become tuples."""
        check_text(self.text, "A step's text")
        object.__setattr__(self, "boxes", check_boxes(self.boxes, "A step's boxes"))
        pictures = _numbers(self.pictures, self.boxes, "A step's pictures")
        object.__setattr__(self, "pictures", pictures)
        if not self.text.strip():
            raise ProblemError("A step has no text; give every rationale step one sentence.")
        if len(self.text.splitlines()) > 1:
            raise ProblemError(
                f"Step {self.text!r} spans several lines; write each step on one line."
            )


class _Picture:
    """The attribute ``image``: a picture, or a `StoredPicture`, which is read at every look."""

    def __get__(self, owner: object, kind: type | None = None) -> Image.Image:
        """The picture itself, wherever it lies."""
        if owner is None:
            raise AttributeError("a class has no picture")  # So the field has no default.
        held: Image.Image | StoredPicture = owner.__dict__["image"]
        return held.read() if isinstance(held, StoredPicture) else held

    def __set__(self, owner: object, picture: Image.Image | StoredPicture) -> None:
        """Keep a picture, turned upright as files are when they are read."""
        owner.__dict__["image"] = _upright(picture, f"{_whose(owner)}: image")


class _MorePictures(_Picture):
    """The attribute ``more_images``: pictures behind the first, each held as that is."""

    def __get__(self, owner: object, kind: type | None = None) -> Any:
        """The pictures themselves; nothing where a class is asked, the field's default."""
        held = () if owner is None else owner.__dict__["more_images"]
        return tuple(one.read() if isinstance(one, StoredPicture) else one for one in held)

    def __set__(self, owner: object, picture: Any) -> None:
        """Keep pictures, turned upright."""
        whose = _whose(owner)
        if not isinstance(picture, list | tuple):
            raise ProblemError(
                f"{whose}: more_images is {shortened(picture)}; expected a list of PIL images."
            )
        pictures = [_upright(one, f"{whose}: image {n}") for n, one in enumerate(picture, 2)]
        owner.__dict__["more_images"] = tuple(pictures)


def _whose(owner: object) -> str:
    name, kind = owner.__dict__.get("id"), owner.__dict__.get("kind", "problem")
    return f"Problem {name}" if isinstance(name, str) else f"A {kind}"


def _upright(picture: Any, name: str) -> Image.Image | StoredPicture:
    """A picture as it is held.

    Raises:
        ProblemError: If it is none.
    """
    if not isinstance(picture, Image.Image | StoredPicture):
        raise ProblemError(
            f"{name} is {shortened(picture)}; expected a PIL image, as "
            "attcot_analysis.models.read_image(path) and PIL.Image.fromarray(array) give."
        )
    if min(picture.size) < 1:
        raise ProblemError(f"{name} has no pixels, its size is {picture.size}.")
    if isinstance(picture, Image.Image) and picture.mode == "RGB":
        return open_picture(picture, name)
    return picture


class _Pictured:
    """What `Problem` and `Edit` share: a picture in memory or on disk, and its size."""

    if not TYPE_CHECKING:  # To readers it is an image, and type checkers see a plain field.
        image = _Picture()

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the picture, in pixels; one on disk is not read for it."""
        return self._held.size

    @property
    def _held(self) -> Image.Image | StoredPicture:
        held: Image.Image | StoredPicture = self.__dict__["image"]
        return held


Pictured = TypeVar("Pictured", bound=_Pictured)


@dataclass(frozen=True)
class Edit(_Pictured):
    """A counterfactual version of a problem's picture.

    Attributes:
        kind: ``"twin"`` (changes the answer) or ``"control"`` (same size, must not change it).
        image: The edited picture, same size as the original; another picture altogether, with
            ``boxes`` empty, may have another size.
        answer: The answer on the edited picture, recomputed by whoever made the edit.
        steps: The rationale that is right for the edited picture.
        boxes: The rectangles in which pixels differ from the original; empty where all may.
        picture: Which of a problem's pictures this replaces, from 1.
    """

    kind: Literal["twin", "control"]
    image: Image.Image
    answer: str
    steps: tuple[Step, ...]
    boxes: tuple[Box, ...]
    picture: int = 1

    def __post_init__(self) -> None:
        """Check the types of the parts; lists become tuples."""
        if self.kind not in ("twin", "control"):
            raise ProblemError(
                f"An edit's kind is {shortened(self.kind)}; expected 'twin' or 'control'."
            )
        check_text(self.answer, f"A {self.kind}'s answer")
        object.__setattr__(self, "steps", _each(self.steps, f"A {self.kind}'s steps", Step))
        object.__setattr__(self, "boxes", check_boxes(self.boxes, f"A {self.kind}'s boxes"))
        _numbers([self.picture], (), f"A {self.kind}'s picture")


@dataclass(frozen=True)
class Problem(_Pictured):
    """One item: a picture, a question about it, and everything needed to test an answer.

    Lists, of boxes and their numbers too, become tuples.

    Attributes:
        id: Any text, unique within a set.
        image: RGB picture; an orientation tag turns it, so that boxes are of it as it is shown.
            A `StoredPicture` stays on disk and is read at every look.
        question: Natural-language question, without any instruction on how to answer.
        candidates: The closed set of possible answers, at least two, all different in more than
            Unicode form, white space and surrounding punctuation (letter case does tell them
            apart); empty for an open question, whose answers can be generated but not forced.
        answer: The right one.
        steps: A right rationale, in order; empty for problems that come without one.
        twin: The smallest edit that changes the answer, if known.
        control: An edit of the same size elsewhere that leaves the answer as it is, if known.
        habitual: The answer that the question's wording suggests (textual prior), if known.
        evidence: Boxes that the answer must be read from where it is not known which step reads
            which; they count for every step without boxes of its own.
        tolerance: Of an open question with a number as its answer: the relative error up to which
            another number is right; makes ``scoring`` ``"relaxed"``.
        scoring: Of an open question: the rule by which its answers are scored.
        references: Of an open question: further answers that are accepted; for ``"vqa"`` those of
            all humans, ``answer`` among them.
        metadata: Anything else worth keeping, JSON values only.
        more_images: Further pictures that the question is about, shown behind ``image`` in order.
        evidence_pictures: In which of several pictures ``evidence`` lies, as `Step.pictures`.
        picture_labels: What the prompt says before each picture (``"Image-1:"``, or a frame's time
            as ``"0.5 s:"``); none, or one per picture.

    Raises:
        ProblemError: If any of these is of another type, or contradicts another.
    """

    id: str
    image: Image.Image
    question: str
    candidates: tuple[str, ...]
    answer: str
    steps: tuple[Step, ...] = ()
    twin: Edit | None = None
    control: Edit | None = None
    habitual: str | None = None
    evidence: tuple[Box, ...] = ()
    tolerance: float = 0.0
    scoring: Scoring = "exact"
    references: tuple[str, ...] = ()
    metadata: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    if TYPE_CHECKING:
        more_images: tuple[Image.Image, ...] = ()
    else:
        more_images: tuple[Image.Image, ...] = _MorePictures()
    evidence_pictures: tuple[int, ...] = ()
    picture_labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the parts, each by itself and against each other; lists become tuples."""
        self._check_types()
        labels = self.picture_labels
        if len(labels) not in (0, self.n_images) or not all(map(str.strip, labels)):
            raise ProblemError(
                f"Problem {self.id}: picture_labels are {shortened(list(labels))} for "
                f"{self.n_images} pictures; give each picture a text, or none."
            )
        for held in self.held:
            if held.mode != "RGB":
                raise ProblemError(
                    f"Problem {self.id}: image mode is {held.mode}; convert it to RGB first, as "
                    "attcot_analysis.models.read_image does."
                )
        if not self.question.strip():
            raise ProblemError(f"Problem {self.id}: the question is empty; give it a question.")
        if len(set(self.candidates)) != len(self.candidates) or len(self.candidates) == 1:
            raise ProblemError(
                f"Problem {self.id}: candidates are {list(self.candidates)}; "
                "give at least two, all different, or none for an open question."
            )
        if not self.answer.strip():
            raise ProblemError(f"Problem {self.id}: the answer is empty; give the right answer.")
        if not all(candidate.strip() for candidate in self.candidates):
            raise ProblemError(
                f"Problem {self.id}: candidates are {list(self.candidates)}; one is empty, so "
                "give it a text or leave it out."
            )
        forms: dict[str, str] = {}
        for candidate in self.candidates:
            other = forms.setdefault(one_form(candidate), candidate)
            if other is not candidate:
                raise ProblemError(
                    f"Problem {self.id}: candidates {other!r} and {candidate!r} differ in nothing "
                    "but Unicode form, white space or surrounding punctuation, so no answer tells "
                    "them apart; drop one or word it otherwise."
                )
        for name, value in (("answer", self.answer), ("habitual answer", self.habitual)):
            if self.candidates and value is not None and value not in self.candidates:
                raise ProblemError(
                    f"Problem {self.id}: {name} {value!r} is not one of the candidates "
                    f"{list(self.candidates)}; add it or correct it."
                )
        if not 0 <= self.tolerance < 1:
            given = shortened(self.tolerance)
            raise ProblemError(
                f"Problem {self.id}: tolerance is {given}; give a share from 0 up to 1."
            )
        self._check_scoring()
        for boxes, pictures in self._located:
            if max(pictures, default=1) > self.n_images:
                raise ProblemError(
                    f"Problem {self.id} has {self.n_images} pictures, and a step or its evidence "
                    f"names picture {max(pictures)}; number them from 1."
                )
            for picture in self.numbers:
                own = _in_picture(boxes, pictures, picture)
                _check_boxes(self.id, self.sizes[picture - 1], own)
        self._check_edit(self.twin, "twin")
        self._check_edit(self.control, "control")

    def step_boxes(self, number: int, picture: int = 1) -> tuple[Box, ...]:
        """Boxes in a picture that a step must be read from: its own, else those of the whole item.

        Args:
            number: Of the step, from 1; a response may have more steps than the problem.
            picture: Which of several pictures, from 1.
        """
        boxes, pictures = self.evidence, self.evidence_pictures
        if 0 < number <= len(self.steps) and self.steps[number - 1].boxes:
            boxes, pictures = self._located[number - 1]
        return _in_picture(boxes, pictures, picture)

    def step_pictures(self, number: int) -> frozenset[int]:
        """Numbers of the pictures that a step says it speaks of; none where it does not say."""
        return frozenset(self.steps[number - 1].pictures if 0 < number <= len(self.steps) else ())

    @property
    def evidence_boxes(self) -> tuple[Box, ...]:
        """All boxes of the steps and of the whole item, each once; of all pictures together."""
        return tuple(dict.fromkeys(box for boxes, _ in self._located for box in boxes))

    def boxes_in(self, picture: int) -> tuple[Box, ...]:
        """All boxes in one of several pictures, counted from 1, each once."""
        every = [_in_picture(*one, picture) for one in self._located]
        return tuple(dict.fromkeys(box for boxes in every for box in boxes))

    @property
    def n_images(self) -> int:
        """Number of pictures."""
        return len(self.held)

    @property
    def numbers(self) -> range:
        """The numbers of its pictures, from 1."""
        return range(1, self.n_images + 1)

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Width and height of every picture; those on disk are not read for it."""
        return tuple(one.size for one in self.held)

    @property
    def images(self) -> tuple[Image.Image, ...]:
        """All pictures, in the order in which they are shown; the first is ``image``."""
        return (self.image, *self.more_images)

    def alone(self, picture: int) -> "Problem":
        """The problem with one of its pictures only, and the boxes and edits of that one.

        A step whose boxes all lie in other pictures is then one without boxes.

        Raises:
            ProblemError: If it has no such picture.
        """
        if not 1 <= picture <= self.n_images:
            raise ProblemError(
                f"Problem {self.id} has {self.n_images} pictures and no picture {picture}; number "
                "them from 1."
            )
        edits = {"twin": self.twin, "control": self.control}
        return replaced(
            self,
            image=self.held[picture - 1],
            more_images=(),
            steps=tuple(
                Step(step.text, _in_picture(step.boxes, step.pictures, picture))
                for step in self.steps
            ),
            evidence=_in_picture(self.evidence, self.evidence_pictures, picture),
            evidence_pictures=(),
            picture_labels=self.picture_labels[picture - 1 : picture],
            **{
                kind: None if edit is None or edit.picture != picture else replaced(edit, picture=1)
                for kind, edit in edits.items()
            },
        )

    @property
    def sheet(self) -> "Problem":
        """The problem with its several pictures side by side on one, as maps are shown on it.

        Boxes are moved along; edits are left out. A problem with one picture is its own sheet.
        """
        if self.n_images == 1:
            return self
        places, size = beside(self.sizes)
        whole = Image.new("RGB", size, "white")
        for place, image in zip(places, self.images, strict=True):
            whole.paste(image, place)

        def moved(boxes: tuple[Box, ...], pictures: tuple[int, ...]) -> tuple[Box, ...]:
            return tuple(
                (x0 + x, y0 + y, x1 + x, y1 + y)
                for number, (x, y) in enumerate(places, start=1)
                for x0, y0, x1, y1 in _in_picture(boxes, pictures, number)
            )

        return replaced(
            self,
            image=whole,
            more_images=(),
            steps=tuple(Step(one.text, moved(one.boxes, one.pictures)) for one in self.steps),
            evidence=moved(self.evidence, self.evidence_pictures),
            evidence_pictures=(),
            picture_labels=(),
            twin=None,
            control=None,
        )

    @property
    def held(self) -> tuple[Image.Image | StoredPicture, ...]:
        """All pictures in order, or where they lie on the disk."""
        return (self._held, *self.__dict__["more_images"])

    @property
    def _located(self) -> list[tuple[tuple[Box, ...], tuple[int, ...]]]:
        """Boxes and the numbers of their pictures: each step's, then the whole item's."""
        steps = [(step.boxes, step.pictures) for step in self.steps]
        return [*steps, (self.evidence, self.evidence_pictures)]

    def _check_types(self) -> None:
        """See that every part is what its annotation says; lists become tuples."""
        whose = f"Problem {self.id}:" if isinstance(self.id, str) else "Problem:"
        for name in ("id", "question", "answer", "scoring"):
            check_text(getattr(self, name), f"{whose} {name}")
        if self.habitual is not None:
            check_text(self.habitual, f"{whose} habitual")
        lists = {
            "candidates": _each(self.candidates, f"{whose} candidates", str),
            "references": _each(self.references, f"{whose} references", str),
            "picture_labels": _each(self.picture_labels, f"{whose} picture_labels", str),
            "steps": _each(self.steps, f"{whose} steps", Step),
            "evidence": check_boxes(self.evidence, f"{whose} evidence"),
        }
        found = _numbers(self.evidence_pictures, lists["evidence"], f"{whose} evidence_pictures")
        lists["evidence_pictures"] = found
        for name, held in lists.items():
            object.__setattr__(self, name, held)
        for kind, edit in (("twin", self.twin), ("control", self.control)):
            if edit is not None and not isinstance(edit, Edit):
                raise ProblemError(f"{whose} {kind} is {shortened(edit)}; expected an Edit.")
        if not _is_number(self.tolerance):
            raise ProblemError(
                f"{whose} tolerance is {shortened(self.tolerance)}; expected a number."
            )
        if not isinstance(self.metadata, Mapping):
            raise ProblemError(
                f"{whose} metadata is {shortened(self.metadata)}; expected a mapping of names to "
                "values."
            )
        for key, value in self.metadata.items():
            check_text(key, f"{whose} the metadata's name")
            if isinstance(value, str):
                check_text(value, f"{whose} metadata {key!r}")
            elif not (isinstance(value, int) or (isinstance(value, float) and isfinite(value))):
                raise ProblemError(
                    f"{whose} metadata {key!r} is {shortened(value)}; expected a string, a finite "
                    "number or true/false."
                )

    def _check_scoring(self) -> None:
        """See that the rule fits the problem; a tolerance and the relaxed rule go together."""
        if self.scoring not in get_args(Scoring):
            raise ProblemError(
                f"Problem {self.id}: scoring is {self.scoring!r}; choose one of "
                f"{', '.join(get_args(Scoring))}."
            )
        if self.candidates and (self.scoring != "exact" or self.references):
            raise ProblemError(
                f"Problem {self.id}: scoring and references are for open questions, and it has "
                "candidates; drop them."
            )
        if not all(text.strip() for text in self.references):
            raise ProblemError(
                f"Problem {self.id}: references are {list(self.references)}; one is empty, so "
                "give it a text or leave it out."
            )
        if self.scoring == "vqa" and (
            len(self.references) < _HUMANS or self.answer not in self.references
        ):
            raise ProblemError(
                f"Problem {self.id}: scoring vqa needs the answers of all humans as references, at "
                f"least {_HUMANS} (published are ten) and {self.answer!r} among them; it has "
                f"{list(self.references)}."
            )
        if self.tolerance and self.scoring not in ("exact", "relaxed"):
            raise ProblemError(
                f"Problem {self.id}: tolerance is for scoring relaxed, and its scoring is "
                f"{self.scoring}; drop one of the two."
            )
        if self.tolerance and not self.candidates:
            object.__setattr__(self, "scoring", "relaxed")
        elif self.scoring == "relaxed":
            object.__setattr__(self, "tolerance", RELAXED)

    def _check_edit(self, edit: Edit | None, kind: str) -> None:
        if edit is None:
            return
        if edit.kind != kind:
            raise ProblemError(f"Problem {self.id}: its {kind} is marked {edit.kind!r}.")
        if edit.picture > self.n_images:
            raise ProblemError(
                f"Problem {self.id}: its {kind} replaces picture {edit.picture} of "
                f"{self.n_images}; number them from 1."
            )
        size = self.sizes[edit.picture - 1]
        resized = edit.size != size
        if (resized and (edit.boxes or kind == "control")) or edit._held.mode != "RGB":
            raise ProblemError(
                f"Problem {self.id}: its {kind} image is {edit.size} {edit._held.mode}; "
                f"expected {size} RGB like the original."
            )
        if self.candidates and edit.answer not in self.candidates:
            raise ProblemError(
                f"Problem {self.id}: {kind} answer {edit.answer!r} is not one of the candidates."
            )
        if (edit.answer == self.answer) == (kind == "twin"):
            must = "differ from" if kind == "twin" else "equal"
            raise ProblemError(
                f"Problem {self.id}: the {kind}'s answer must {must} the original's "
                f"{self.answer!r}, but is {edit.answer!r}."
            )
        _check_boxes(self.id, size, edit.boxes)


def replaced(problem: Pictured, **changes: Any) -> Pictured:
    """`dataclasses.replace`, which would read pictures on disk and hold them from then on."""
    held = {name: problem.__dict__[name] for name in _STORED if name in problem.__dict__}
    return replace(problem, **{**held, **changes})  # type: ignore[type-var]


_STORED = ("image", "more_images")


def _in_picture(boxes: tuple[Box, ...], pictures: tuple[int, ...], picture: int) -> tuple[Box, ...]:
    """The boxes that lie in one picture; no numbers stand for the first."""
    if len(pictures) < 2:
        return boxes if (pictures or (1,))[0] == picture else ()
    return tuple(box for box, at in zip(boxes, pictures, strict=False) if at == picture)


def _numbers(values: Any, boxes: Sequence[Box], what: str) -> tuple[int, ...]:
    """Numbers of pictures, from 1: none, one, or one per box; any where there are no boxes."""
    listed = values if isinstance(values, list | tuple) else [values]
    if not all(type(one) is int and 0 < one < _FURTHEST for one in listed):
        raise ProblemError(
            f"{what} is {shortened(values)}; expected whole numbers from 1, the first picture's."
        )
    if boxes and len(listed) not in (0, 1, len(boxes)):
        raise ProblemError(
            f"{what} is {shortened(values)} for {len(boxes)} boxes; name the one picture of all "
            "boxes, or one per box."
        )
    return tuple(listed)


def check_text(value: object, what: str) -> None:
    """Refuse what is no text, or holds half of a character.

    Raises:
        ProblemError: Begins with `what`.
    """
    if not isinstance(value, str):
        raise ProblemError(f"{what} is {shortened(value)}; expected a string.")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ProblemError(
            f"{what} {shortened(value)} holds half of a surrogate pair, which is no character; "
            "write it in UTF-8."
        ) from None


def _each(values: Any, what: str, kind: type) -> tuple[Any, ...]:
    """A list as a tuple, every entry of it of one kind."""
    names = "strings" if kind is str else f"{kind.__name__} objects"
    if not isinstance(values, list | tuple):
        raise ProblemError(f"{what} is {shortened(values)}; expected a list of {names}.")
    for number, value in enumerate(values, start=1):
        if kind is str:
            check_text(value, f"{what}, number {number},")
        elif not isinstance(value, kind):
            raise ProblemError(
                f"{what}, number {number}, is {shortened(value)}; expected a {kind.__name__} "
                "object."
            )
    return tuple(values)


def check_boxes(values: Any, what: str) -> tuple[Box, ...]:
    """A list of lists of four numbers as a tuple of tuples.

    Raises:
        ProblemError: Begins with `what`, if it is anything else.
    """
    if not isinstance(values, list | tuple):
        raise ProblemError(f"{what} is {shortened(values)}; expected a list of boxes.")
    values = [box.tolist() if isinstance(box, np.ndarray) else box for box in values]
    for number, box in enumerate(values, start=1):
        four = isinstance(box, list | tuple) and len(box) == 4
        if not four or not all(_is_number(side) and abs(side) < _FURTHEST for side in box):
            raise ProblemError(
                f"{what}, number {number}, is {shortened(box)}; expected four numbers (x0, y0, x1, "
                "y1)."
            )
    return tuple(
        tuple(side if type(side) is int else float(side) for side in box)  # type: ignore[misc]
        for box in values
    )


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def shortened(value: object) -> str:
    """What somebody gave, in few words; of arrays and models only what they are."""
    if not isinstance(value, str | bytes | int | float | list | tuple | dict | Path | None):
        return f"of type {type(value).__name__}"
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Whole numbers of thousands of digits; deep lists.
        return f"of type {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _check_boxes(problem_id: str, size: tuple[int, int], boxes: Sequence[Box]) -> None:
    width, height = size
    for box in boxes:
        if not fits(box, size):
            raise ProblemError(
                f"Problem {problem_id}: box {tuple(box)} does not lie in its {width}x{height} "
                "image; boxes are (x0, y0, x1, y1) pixels, half open"
                f"{other_forms(box, size)}."
            )
