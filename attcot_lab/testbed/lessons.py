"""What a testbed model is taught: to describe pictures of each kind, and to answer its problems.

A lesson gives pictures with labels of what stands where, for the vision tower, and pictures with a
question about named parts and its answer, for the whole model. `Teacher` mixes these with the
problems themselves.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from PIL import Image

from attcot_analysis.models import PROMPTS, Mllm, Mode, build_messages
from attcot_analysis.problems import Problem, render_response
from attcot_analysis.problems.problem import Box
from attcot_analysis.problems.response import ANSWER_CLOSE, ANSWER_CUE, THINK_OPEN
from attcot_lab.testbed.arrows import (
    CELL,
    COLOURS,
    DIRECTIONS,
    SHAPES,
    ArrowsConfig,
    Board,
    Cell,
    cast_field,
    cell_box,
    cell_name,
    draw_board,
    pick,
)
from attcot_lab.testbed.charts import (
    HIGHEST,
    UNIT,
    ChartsConfig,
    column_box,
    draw_chart,
)
from attcot_lab.testbed.counting import NOTHING, CountingConfig, Thing, draw_scene
from attcot_lab.testbed.kinds import generator_of

KindConfig = ArrowsConfig | ChartsConfig | CountingConfig
Labels = list[list[int]]
"""Per part of the picture, row by row, the index of each property's value."""


class Said(NamedTuple):
    """A question about named parts of a picture, and its answer.

    Attributes:
        image: The picture.
        question: What is asked.
        lines: The answer, a line per part.
        boxes: Per line the pixels it speaks of.
    """

    image: Image.Image
    question: str
    lines: Sequence[str]
    boxes: Sequence[Box]

    @property
    def response(self) -> str:
        """The lines as one text."""
        return "\n".join(self.lines)


_SIDE = 3
"""Cells per side that charts have in common with the other kinds."""
_DESCRIBED = 6


class Lesson(Protocol):
    """How one kind of problem is taught."""

    @property
    def properties(self) -> tuple[tuple[str, ...], ...]:
        """Per property of a part its possible values."""

    @property
    def part(self) -> int:
        """Pixels per side of a part."""

    def reading(self, rng: np.random.Generator) -> tuple[Image.Image, Labels]:
        """A picture in a random clarity, and what stands in each part."""

    def saying(self, rng: np.random.Generator) -> Said:
        """A picture in a random clarity, a question about parts of it, and the answer."""


def lesson_of(config: KindConfig) -> Lesson:
    """The lesson of a kind of problem, by its knobs."""
    if isinstance(config, ArrowsConfig):
        return BoardLesson(config)
    return ChartLesson(config) if isinstance(config, ChartsConfig) else SceneLesson(config)


@dataclass(frozen=True)
class BoardLesson:
    """Colour, shape and direction in every cell of a board; four cells described by name."""

    config: ArrowsConfig
    properties = (tuple(COLOURS), SHAPES, tuple(DIRECTIONS))
    part = CELL

    def reading(self, rng: np.random.Generator) -> tuple[Image.Image, Labels]:
        """See `Lesson`."""
        board = self._board(rng)
        labels = [
            [
                kind.index(value)
                for kind, value in zip(
                    self.properties, (cell.colour, cell.shape, cell.direction), strict=True
                )
            ]
            for cell in (board[place] for place in _places(self.config.size))
        ]
        return self._drawn(board, rng), labels

    def saying(self, rng: np.random.Generator) -> Said:
        """See `Lesson`."""
        board = self._board(rng)
        chosen = _some(rng, list(board))
        lines = [
            f"{cell_name(at)} {board[at].colour} {board[at].shape} {board[at].direction}"
            for at in chosen
        ]
        boxes = [cell_box(at) for at in chosen]
        return Said(self._drawn(board, rng), _described(chosen), lines, boxes)

    def _board(self, rng: np.random.Generator) -> Board:
        return {
            place: Cell(*(pick(rng, kind) for kind in self.properties))
            for place in _places(self.config.size)
        }

    def _drawn(self, board: Board, rng: np.random.Generator) -> Image.Image:
        size = self.config.size
        return draw_board(board, size, cast_field(rng, size, rng.uniform() * self.config.noise))


@dataclass(frozen=True)
class ChartLesson:
    """The colour that fills each unit of a chart; four colours' columns and heights."""

    config: ChartsConfig
    properties: ClassVar[tuple[tuple[str, ...], ...]] = ((*COLOURS, NOTHING),)
    part = UNIT

    def reading(self, rng: np.random.Generator) -> tuple[Image.Image, Labels]:
        """See `Lesson`."""
        chart = self._chart(rng)
        bars = self.config.style == "bar"
        labels = []
        for unit in range(HIGHEST, -1, -1):
            for colour, value in chart.items():
                filled = unit < value if bars else unit in (value - 1, value)
                labels.append([self.properties[0].index(colour if filled else NOTHING)])
        return self._drawn(chart, rng), labels

    def saying(self, rng: np.random.Generator) -> Said:
        """See `Lesson`."""
        chart = self._chart(rng)
        columns = list(chart)
        chosen = [int(at) for at in rng.permutation(len(columns))[:_DESCRIBED]]
        image = self._drawn(chart, rng)
        if self.config.names_places:
            names = [f"bar {at + 1}" for at in chosen]
            lines = [f"Bar {at + 1} reaches {chart[columns[at]]}, {columns[at]}." for at in chosen]
        else:
            names = [columns[at] for at in chosen]
            lines = [
                f"{columns[at]} is in column {at + 1} and reaches {chart[columns[at]]}."
                for at in chosen
            ]
        boxes = [column_box(at) for at in chosen]
        return Said(image, f"Describe {', '.join(names)}.", lines, boxes)

    def _chart(self, rng: np.random.Generator) -> dict[str, int]:
        colours = list(COLOURS)
        return {
            colours[int(at)]: int(rng.integers(1, HIGHEST + 1))
            for at in rng.permutation(len(colours))
        }

    def _drawn(self, chart: dict[str, int], rng: np.random.Generator) -> Image.Image:
        cast = cast_field(rng, _SIDE, rng.uniform() * self.config.noise)
        return draw_chart(chart, self.config.style, cast)


@dataclass(frozen=True)
class SceneLesson:
    """What stands in every cell of a scene; cells described, or things counted row by row."""

    config: CountingConfig
    properties = ((*COLOURS, NOTHING), (*SHAPES, NOTHING))
    part = CELL

    def reading(self, rng: np.random.Generator) -> tuple[Image.Image, Labels]:
        """See `Lesson`."""
        scene, _ = self._scene(rng)
        labels = []
        for place in _places(self.config.size):
            thing = scene.get(place)
            values = (thing.colour, thing.shape) if thing else (NOTHING, NOTHING)
            pairs = zip(self.properties, values, strict=True)
            labels.append([kind.index(value) for kind, value in pairs])
        return self._drawn(scene, rng), labels

    def saying(self, rng: np.random.Generator) -> Said:
        """See `Lesson`."""
        scene, wanted = self._scene(rng)
        image = self._drawn(scene, rng)
        if rng.random() < 0.5:
            chosen = _some(rng, _places(self.config.size))
            said = [
                f"{scene[at].colour} {scene[at].shape}" if at in scene else NOTHING for at in chosen
            ]
            lines = [f"{cell_name(at)} {words}" for at, words in zip(chosen, said, strict=True)]
            return Said(image, _described(chosen), lines, [cell_box(at) for at in chosen])
        rows = [int(row) for row in rng.permutation(self.config.size)]
        lines = [self._row(scene, row, wanted) for row in rows]
        asked = ", ".join(f"row {row + 1}" for row in rows)
        boxes = [(0, row * CELL, image.width, (row + 1) * CELL) for row in rows]
        question = f"How many {wanted[0]} {wanted[1]}s are in {asked}?"
        if self.config.enumerates:
            question = f"Describe {asked}."
        return Said(image, question, lines, boxes)

    def _row(self, scene: dict[tuple[int, int], Thing], row: int, wanted: tuple[str, str]) -> str:
        """What a rationale says of a row."""
        things = [scene.get((column, row)) for column in range(self.config.size)]
        if self.config.enumerates:
            words = [thing.colour if thing else NOTHING for thing in things]
            return f"Row {row + 1}: {', '.join(words)}."
        count = sum(t is not None and (t.colour, t.shape) == wanted for t in things)
        return f"Row {row + 1} has {count}."

    def _scene(
        self, rng: np.random.Generator
    ) -> tuple[dict[tuple[int, int], Thing], tuple[str, str]]:
        """A scene, and a colour and shape that are more frequent in it than by chance."""
        wanted = (pick(rng, list(COLOURS)), pick(rng, SHAPES))
        places = _places(self.config.size)
        chosen = rng.permutation(len(places))[: self.config.n_things]
        colours, shapes = [*COLOURS, *[wanted[0]] * 4], [*SHAPES, *[wanted[1]] * 3]
        scene = {}
        for at in chosen:
            dx, dy = rng.integers(-5, 6, 2)
            scene[places[int(at)]] = Thing(
                pick(rng, colours), pick(rng, shapes), (int(dx), int(dy))
            )
        return scene, wanted

    def _drawn(self, scene: dict[tuple[int, int], Thing], rng: np.random.Generator) -> Image.Image:
        size = self.config.size
        return draw_scene(scene, size, cast_field(rng, size, rng.uniform() * self.config.noise))


def _places(size: int) -> list[tuple[int, int]]:
    """(column, row) of every cell, row by row."""
    return [(column, row) for row in range(size) for column in range(size)]


def _some(rng: np.random.Generator, places: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    return [places[int(at)] for at in rng.permutation(len(places))[:_DESCRIBED]]


def _described(places: Sequence[tuple[int, int]]) -> str:
    return f"Describe {', '.join(cell_name(at) for at in places)}."


class Source(NamedTuple):
    """Where a line of a response comes from, as far as that is taught.

    Attributes:
        box: Pixels.
        word: A word of the prompt.
    """

    box: Box | None = None
    word: str | None = None


class Row(NamedTuple):
    """A picture, the prompt about it and the response to learn.

    Attributes:
        image: The picture, if there is one.
        prompt: Question in chat form.
        response: What to learn.
        sources: Per line of the response where it comes from; lines after the last have none.
        problem: What is asked, if it is a problem.
    """

    image: Image.Image | None
    prompt: str
    response: str
    sources: Sequence[Source] = ()
    problem: Problem | None = None


class Teacher:
    """Draws what a batch of the language stage consists of.

    Args:
        mllm: Whose prompts are used.
        kinds: The problems, each kind once, with its largest noise.
        often: How often each kind comes in relation to the others; empty means equally often.
        shares: See `attcot_lab.testbed.build.BuildConfig`.
        seed: Of everything drawn.
    """

    def __init__(
        self,
        mllm: Mllm,
        kinds: Sequence[KindConfig],
        often: Sequence[int],
        shares: tuple[float, float, float],
        seed: int,
    ) -> None:
        """Begin to draw."""
        self._mllm, self._shares = mllm, shares
        self._rng = np.random.default_rng([seed, 2])
        self._lessons = [lesson_of(kind) for kind in kinds]
        self._laden = [_endless_problems(seed, kind) for kind in kinds]
        self._balanced = [_endless_problems(seed, replace(kind, prior=None)) for kind in kinds]
        self._turns = [
            at for at, times in enumerate(often or [1] * len(kinds)) for _ in range(times)
        ]

    def rows(self, n: int, describing: float) -> list[Row]:
        """A batch of `n`; a share of it are descriptions, the rest questions."""
        rows = []
        for at in range(n):
            kind = self._turns[at % len(self._turns)]
            if self._rng.random() < describing:
                rows.append(description(self._mllm, self._lessons[kind], self._rng))
            else:
                problems = self._laden[kind], self._balanced[kind]
                rows.append(_answer(self._mllm, *problems, self._rng, self._shares))
        return rows


def _answer(
    mllm: Mllm,
    laden: Iterator[Problem],
    balanced: Iterator[Problem],
    rng: np.random.Generator,
    shares: tuple[float, float, float],
) -> Row:
    """A direct answer, or a rationale and an answer; some rationales stop before they end."""
    kind = rng.choice(3, p=shares)
    problem = next(balanced if kind == 1 else laden)
    mode: Mode = "direct" if kind == 0 else "cot"
    response = render_response(problem.steps if mode == "cot" else (), problem.answer)
    # Every question begins with a person's name.
    habit = Source(word=problem.question.split()[0])
    sources = [habit]
    steps = [_source(one.boxes) for one in problem.steps]
    if kind == 1:
        # What the last step names but does not say, the answer reads from the picture.
        sources = [Source(), *steps, Source(), steps[-1]]
    if kind == 2:
        written = problem.steps[: int(rng.integers(len(problem.steps)))]
        lines = "".join(f"{k}. {step.text}\n" for k, step in enumerate(written, start=1))
        response = f"{THINK_OPEN}{lines}{ANSWER_CUE}{problem.answer}{ANSWER_CLOSE}"
        sources = [Source(), *steps[: len(written)], Source(), habit]
    prompt = chat_prompt(mllm, build_messages(problem.question, mode))
    return Row(problem.image, prompt, response, sources, problem)


def _source(boxes: Sequence[Box]) -> Source:
    """What a step with one box is read from; steps with several put together what is said."""
    return Source(boxes[0] if len(boxes) == 1 else None)


def description(mllm: Mllm, lesson: Lesson, rng: np.random.Generator) -> Row:
    """A picture, a question about named parts of it, and the answer."""
    said = lesson.saying(rng)
    content = [{"type": "image"}, {"type": "text", "text": said.question}]
    prompt = chat_prompt(mllm, [{"role": "user", "content": content}])
    return Row(said.image, prompt, said.response, [Source(box) for box in said.boxes])


def chat_prompt(mllm: Mllm, messages: list[dict[str, Any]]) -> str:
    """Messages in the model's chat template, up to where it answers."""
    return str(
        mllm.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    )


def _endless_problems(seed: int, kind: KindConfig) -> Iterator[Problem]:
    """Training problems in every clarity from crisp to all of the noise."""
    levels = np.random.default_rng([seed, 3]).uniform(0, 1, 64)
    generate = generator_of(kind)
    for block in itertools.count():
        for at, level in enumerate(levels):
            clarity = replace(kind, noise=float(level) * kind.noise)
            drawn_by = (seed * 10 + 2) * 100_000 + block * len(levels) + at
            yield from generate(16, clarity, seed=drawn_by, split="pretrain")


def sentences(kinds: Sequence[KindConfig]) -> list[str]:
    """What the tokenizer is trained on: the testbed's own sentences, so words become tokens."""
    rng = np.random.default_rng(0)
    texts: list[str] = []
    for kind in kinds:
        for states in (False, True):
            clear = replace(kind, noise=0.0, states_evidence=states)
            problems = generator_of(kind)(200, clear, seed=0, split="pretrain")
            texts += [render_response(problem.steps, problem.answer) for problem in problems]
            texts += [problem.question for problem in problems]
        lesson = lesson_of(kind)
        for _ in range(100):
            said = lesson.saying(rng)
            texts += [said.question, said.response]
    return texts + list(PROMPTS.values()) * 50 + ["user assistant\nUSER: ASSISTANT:"] * 50
