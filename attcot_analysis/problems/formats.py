"""`ResponseFormat`: how a model is asked, and how what it writes is taken apart.

The named formats stand in ``formats.yaml``; one's own is a YAML file with the same fields.
"""

import re
import string
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)

from attcot_analysis.errors import ProblemError, one_line
from attcot_analysis.files import path_of
from attcot_analysis.plain_yaml import read_plain_yaml

if TYPE_CHECKING:
    from attcot_analysis.problems.problem import Problem, Step

Mode = Literal["cot", "direct"]
"""With a rationale before the answer, or without one."""

Tags = tuple[str, str]

Rule = Literal["auto", "numbers", "headings", "paragraphs", "lines", "sentences", "whole"]
"""How a rationale is cut into steps; see `attcot_analysis.problems.steps.cut_steps`."""

Cutter = Callable[[str], Sequence[int]]
"""A function from the text of a rationale to the places in it where steps start."""


class ResponseFormat(BaseModel):
    r"""How prompts are written, how a rationale is cut, forced to end and how answers are read.

    Attributes:
        name: What it is called.
        source: Where it is known from.
        system: System prompt; ``None`` leaves it to the chat template.
        cot: Instruction behind the question that asks for a rationale; may be empty.
        direct: Instruction that asks for the answer alone.
        picture: Whether pictures stand before or behind the text of the question.
        options: ``"as given"`` leaves the question alone. ``"letters"`` puts the candidates behind
            it, one per line (``A. red``), and forces and reads letters.
        thinking: What chat templates get as ``enable_thinking``; ``None`` leaves it to them.
        prefill: Text that the response is made to start with.
        rationale: Tags around the rationale; ``None`` where it is not marked.
        stages: Names of tags inside the rationale, each of which is a step; the last one is cut
            further.
        answer: Tags around the answer; ``None`` where it is read from the text behind the
            rationale: the last ``\boxed{}``, what follows the last "the answer is", or a short
            last line.
        begin: What a response with a rationale begins with; an answer forced at k = 0 stands
            right behind it.
        cue: What is written where a rationale is cut, to force the answer.
        cues: Other words for the cue, to see what hangs on its wording; no part of `record`, since
            nothing is written or read with them unless it is asked for.
        direct_cue: What an answer without a rationale begins with.
        close: What ends a forced answer.
        strip: Pieces of text that are no part of an answer, such as special tokens.
        sign: Pattern that responses in this format match, where tags do not tell it from others;
            only `attcot_analysis.problems.fit.detect_format` looks for it.
        cut: How the rationale is cut into steps: a rule, a number of words per step, or a
            function (in Python only: what a file names is not run).

    Raises:
        ProblemError: If the parts contradict each other.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "own"
    source: str = ""
    system: str | None = None
    cot: str = ""
    direct: str = ""
    picture: Literal["before", "after"] = "before"
    options: Literal["as given", "letters"] = "as given"
    thinking: bool | None = None
    prefill: str = ""
    rationale: Tags | None = None
    stages: tuple[str, ...] = ()
    answer: Tags | None = None
    begin: str = ""
    cue: str = Field(min_length=1)
    cues: tuple[str, ...] = Field(default=(), exclude=True)
    direct_cue: str = ""
    close: str = Field(min_length=1)
    strip: tuple[str, ...] = ()
    sign: str | None = None
    cut: Rule | int | Cutter = "auto"

    @field_validator("cut", mode="before")
    @classmethod
    def _known_cut(cls, value: Any) -> Any:
        if isinstance(value, str) and ":" in value:
            raise ValueError(f"{value!r} names a function; give the function itself, in Python")
        if isinstance(value, str) and value not in get_args(Rule):
            raise ValueError(
                f"{value!r} is no rule; choose from {', '.join(get_args(Rule))}, or give a number "
                "of words"
            )
        if isinstance(value, int) and value < 1:
            raise ValueError(f"{value} words per step; give at least 1")
        return value

    @field_serializer("cut")
    def _named_cut(self, value: Any) -> Any:
        if callable(value):
            return f"{value.__module__}:{value.__qualname__}"
        return value

    @model_validator(mode="after")
    def _fits(self) -> "ResponseFormat":
        for pair in (self.rationale, self.answer):
            if pair is not None and (not all(pair) or pair[0] == pair[1]):
                raise ValueError(f"tags {list(pair)} must be two different texts")
        return self

    def instruction(self, mode: Mode) -> str:
        """The instruction behind the question."""
        return self.cot if mode == "cot" else self.direct

    def question(self, question: str, candidates: Sequence[str] = ()) -> str:
        """A question as it is shown, without instruction."""
        if self.options == "as given" or not candidates:
            return question
        listed = [f"{string.ascii_uppercase[at]}. {text}" for at, text in enumerate(candidates)]
        return "\n".join([question, *listed])

    def forced(self, candidates: Sequence[str]) -> tuple[str, ...]:
        """The candidates as a response in this format names them."""
        if self.options == "as given":
            return tuple(candidates)
        return tuple(string.ascii_uppercase[: len(candidates)])

    def named(self, answer: str, candidates: Sequence[str]) -> str:
        """An answer as a response in this format names it."""
        return dict(zip(candidates, self.forced(candidates), strict=True)).get(answer, answer)

    def render(self, steps: "Sequence[Step | str]", answer: str) -> str:
        """Write a response: steps numbered from 1, one per line, then the answer.

        Without steps the result is the direct form.

        Args:
            steps: The rationale's.
            answer: The answer, as it is to be named.
        """
        if not steps:
            return f"{self.direct_cue}{answer}{self.close}"
        texts = [step if isinstance(step, str) else step.text for step in steps]
        lines = "".join(f"{number}. {text}\n" for number, text in enumerate(texts, start=1))
        return f"{self.begin}{lines}{self.closing(lines)}{self.cue}{answer}{self.close}"

    def right_response(self, problem: "Problem", mode: Mode = "cot") -> str:
        """A problem's right rationale and answer, or its answer alone."""
        answer = self.named(problem.answer, problem.candidates)
        return self.render(problem.steps if mode == "cot" else (), answer)

    def closing(self, written: str) -> str:
        """What must stand between a rationale cut at some place and the cue.

        Args:
            written: The rationale up to the cut, without its opening tag.
        """
        text = "" if not self.stages else f"<{self.stages[0]}>{written}"
        opened = [
            name for name in self.stages if text.count(f"<{name}>") > text.count(f"</{name}>")
        ]
        if opened:
            return f"</{opened[-1]}>\n\n"
        glued = written[-1:].strip() and self.cue[:1].isalnum()
        return " " if glued else ""

    def is_open(self, prompt: str) -> bool:
        """Whether a rendered prompt ends in an open rationale, as those of thinking models do."""
        return self.rationale is not None and prompt.rstrip().endswith(self.rationale[0])

    def with_opening(self, text: str) -> str:
        """A response with the opening tag that its prompt has written, unless it repeats it."""
        if self.rationale is None or text.lstrip().startswith(self.rationale[0]):
            return text
        return f"{self.begin}{text}"

    def without_opening(self, text: str) -> str:
        """A response as it stands behind a prompt that has opened the rationale."""
        if self.rationale is None:
            return text
        return re.sub(rf"\A\s*{re.escape(self.rationale[0])}\n?", "", text)

    def record(self) -> dict[str, Any]:
        """The fields that are set, as JSON values, for a manifest; see `format_of`.

        Other cues are noted where they are one's own.
        """
        own = {} if self.cues == _known_cues(self.cue) else {"cues": list(self.cues)}
        return self.model_dump(mode="json", exclude_defaults=True) | own


def _named() -> dict[str, ResponseFormat]:
    text = (files("attcot_analysis.problems") / "formats.yaml").read_text(encoding="utf-8")
    return {name: ResponseFormat(name=name, **row) for name, row in yaml.safe_load(text).items()}


FORMATS: Mapping[str, ResponseFormat] = _named()
"""The formats that come with the library, by name."""

TAGS = FORMATS["tags"]
"""The default: numbered steps inside ``<think>``, then ``<answer>``."""


def _known_cues(cue: str) -> tuple[str, ...]:
    """The other cues of the library's format with this cue."""
    return next((one.cues for one in FORMATS.values() if one.cue == cue), ())


def response_format(name_or_path: "str | Path | ResponseFormat") -> ResponseFormat:
    """A named format, or one's own from a YAML file.

    A file may name one of the library's in ``base``, whose fields it then changes.

    Raises:
        ProblemError: If there is none of that name, or the file is not one.
    """
    if isinstance(name_or_path, ResponseFormat):
        return name_or_path
    if str(name_or_path) in FORMATS:
        return FORMATS[str(name_or_path)]
    path = path_of(name_or_path, ProblemError)
    if path.suffix not in (".yaml", ".yml"):
        raise ProblemError(
            f"There is no format {str(name_or_path)!r}; choose from {', '.join(FORMATS)}, or give "
            "a YAML file."
        )
    try:
        fields = read_plain_yaml(path)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ProblemError(f"The format {path} cannot be read: {one_line(error)}.") from error
    return format_of(fields, str(path))


def template_format(template: object) -> ResponseFormat | None:
    """The format that a tokenizer's own ``response_template`` of `transformers` describes.

    Args:
        template: The template: where the reasoning and the content of a message open and close.

    Returns:
        A format like ``thinking`` with its tags; ``None`` if it does not name tags around the
        reasoning as texts.
    """
    fields = template.get("fields") if isinstance(template, Mapping) else None
    if not isinstance(fields, Mapping):
        return None
    names = ("reasoning_content", "reasoning", "thinking")
    region: Mapping[str, Any] = next(
        (fields[name] for name in names if isinstance(fields.get(name), Mapping)), {}
    )
    opening, closing = _first(region.get("open")), _first(region.get("close"))
    if not opening or not closing or opening == closing:
        return None
    ends = (fields.get("content") or {}).get("close") or ()
    base = FORMATS["thinking"]
    assert base.rationale is not None
    return base.model_copy(
        update={
            "name": "template",
            "source": "The tokenizer's own response template.",
            "rationale": (opening.strip(), closing.strip()),
            "begin": opening if opening.endswith("\n") else f"{opening}\n",
            "cue": base.cue.replace(base.rationale[1], closing.strip()),
            "cues": tuple(cue.replace(base.rationale[1], closing.strip()) for cue in base.cues),
            "strip": (ends,) if isinstance(ends, str) else tuple(ends),
        }
    )


def _first(texts: object) -> str | None:
    """A text, or the first of several."""
    if isinstance(texts, Sequence) and not isinstance(texts, str):
        texts = next(iter(texts), None)
    return texts if isinstance(texts, str) else None


def changed(
    form: ResponseFormat,
    *,
    mode: Mode = "cot",
    system: str | None = None,
    prompt: str | None = None,
    thinking: bool | None = None,
    prefill: str | None = None,
) -> ResponseFormat:
    """A format with another prompt; ``None`` leaves a part as it is.

    Args:
        form: The format.
        mode: Whose instruction `prompt` is.
        system: System prompt.
        prompt: Instruction behind the question.
        thinking: What the chat template gets as ``enable_thinking``.
        prefill: Text that the response is made to start with.
    """
    given = {"system": system, mode: prompt, "thinking": thinking, "prefill": prefill}
    return form.model_copy(
        update={name: value for name, value in given.items() if value is not None}
    )


def format_of(fields: object, name: str = "own") -> ResponseFormat:
    """A format from its fields, as a YAML file or a manifest holds them.

    Raises:
        ProblemError: If they are not a format's.
    """
    if not isinstance(fields, Mapping):
        raise ProblemError(f"The format {name} holds no fields; write cue: and close: at least.")
    own = dict(fields)
    base = own.pop("base", None)
    if base is not None:
        if base not in FORMATS:
            raise ProblemError(
                f"The format {name} is based on {base!r}; choose from {', '.join(FORMATS)}."
            )
        own = {**FORMATS[base].model_dump(exclude={"name"}), **own}
    own.setdefault("cues", _known_cues(str(own.get("cue"))))
    try:
        return ResponseFormat(**{"name": Path(name).stem, **own})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "fields"
        raise ProblemError(f"The format {name}: {where}: {first['msg']}.") from error
