"""`TokenLayout`: what each token of an input is: image, prompt, rationale step or answer."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from attcot_analysis.errors import LayoutError
from attcot_analysis.models.grid import IntArray, TokenGrid
from attcot_analysis.problems import ParsedResponse, parse_response
from attcot_analysis.problems.formats import TAGS, ResponseFormat


class Span(NamedTuple):
    """Tokens ``start`` to ``stop - 1`` of an item's sequence."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        """Number of tokens."""
        return self.stop - self.start


class Cut(NamedTuple):
    """Where a rationale is cut.

    Attributes:
        stop: How many tokens of the sequence lie wholly before the cut.
        rest: Text between the last of them and the cue: the part before the cut of a token that
            runs across it (``.`` of ``.</``), and what the format must write to close what the cut
            leaves open; mostly empty.
    """

    stop: int
    rest: str


@dataclass(frozen=True, eq=False)
class TokenLayout:
    """Where everything lies in one item's sequence (prompt, then response, no padding).

    Attributes:
        n_tokens: Length of the sequence, T.
        image: Positions of the image tokens that stand for pixels, all images in order; see
            ``pictures`` for each image's own.
        grids: One grid per image; together as many tokens as ``image``.
        system: Positions of the prompt's other tokens before the first image token (template and
            system prompt); empty for a text-only prompt.
        question: Positions of the prompt's other tokens, ``newlines`` and what stands between
            several images among them.
        response: The response.
        think: The tokens that overlap the rationale; ``None`` if the response has none.
        steps: The rationale's steps, number and line end included. They tile the rationale from
            the first one on: a token that two of them share belongs to the later one.
        answer: The tokens that overlap the stated answer, white space around it left out; ``None``
            if the response states none. Tokenizers join tags and answers (``>A``, ``)</``), so
            the first and last of these tokens may hold a part of a tag.
        cuts: For k = 0..K, where the rationale is cut to force an answer after step k; see `Cut`.
        newlines: Positions of image placeholders that stand for no pixels. LLaVA-NeXT and
            LLaVA-OneVision put the same learned vector behind every row of image tokens. It shows
            nothing of the image, so it is a separator like the tags around an image: in no visual
            mass, in no grid.

    Raises:
        LayoutError: If the number of image tokens differs from the grids.
    """

    n_tokens: int
    image: IntArray
    grids: tuple[TokenGrid, ...]
    system: IntArray
    question: IntArray
    response: Span
    think: Span | None
    steps: tuple[Span, ...]
    answer: Span | None
    newlines: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    cuts: tuple[Cut, ...] = ()

    def __post_init__(self) -> None:
        """Check image tokens against the grids."""
        _check_number(len(self.image), sum(len(grid) for grid in self.grids))

    @property
    def pictures(self) -> tuple[IntArray, ...]:
        """Per image the positions of its tokens in ``image``."""
        ends = np.cumsum([len(grid) for grid in self.grids])
        return tuple(np.split(self.image, ends[:-1])) if len(ends) else ()

    @property
    def n_steps(self) -> int:
        """Number of rationale steps, K."""
        return len(self.steps)

    def rows(self, span: Span) -> IntArray:
        """Rows of a span's tokens: the positions t - 1 whose queries PREDICT the tokens t."""
        return np.arange(span.start - 1, span.stop - 1)

    @property
    def step_ends(self) -> tuple[int, ...]:
        r"""For k = 0..K, how many tokens precede the forced answer after step k.

        k = 0 is right after ``<think>\n``, k >= 1 right after step k. Length K + 1. Where a token
        runs across the cut, `cuts` says what of it precedes the forced answer, too.

        Raises:
            LayoutError: If the response has no rationale.
        """
        if self.think is None:
            raise LayoutError(
                "The response has no rationale; write one in the model's format "
                "(mllm.format.render does)."
            )
        return tuple(cut.stop for cut in self.cuts)


def token_starts(tokenizer: Any, ids: Sequence[int]) -> tuple[str, IntArray]:
    """Decode ids and say where in the text each token starts.

    Decodes incrementally, so the result is right for the ids actually present, whatever text they
    would be re-tokenised to. A token that holds only some bytes of a character starts at that
    character.

    Returns:
        The text, and per token the index of its first character, ``(len(ids),)``, non-decreasing.
    """
    text = ""
    starts = np.zeros(len(ids), dtype=np.int64)
    known = complete = 0
    for index in range(len(ids)):
        starts[index] = len(text)
        before = _decode(tokenizer, ids[known:complete])
        after = _decode(tokenizer, ids[known : index + 1])
        # No character has more than four bytes: a longer wait means a lone replacement character.
        unfinished = after.endswith("\ufffd") and index - complete < 3
        if len(after) > len(before) and (not unfinished or index == len(ids) - 1):
            text += after[len(before) :]
            known, complete = complete, index + 1
    return text, starts


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def find_layout(
    tokenizer: Any,
    prompt_ids: Sequence[int],
    response_ids: Sequence[int],
    *,
    image_token_id: int,
    grids: tuple[TokenGrid, ...],
    stop_ids: Collection[int] = (),
    form: ResponseFormat = TAGS,
    opened: bool = False,
) -> TokenLayout:
    """Find the layout of a prompt and a response from their token ids.

    A span is the tokens that overlap its text. Tokens from the first of ``stop_ids`` in the
    response on belong to no step and no answer. ``form`` says how the response is taken apart,
    ``opened`` that the prompt ends inside the rationale, as with chat templates that write
    ``<think>`` themselves.

    Raises:
        LayoutError: If image tokens and grids disagree, or the response holds image tokens.
    """
    check_response(response_ids, image_token_id)
    written = read_response(tokenizer, response_ids, stop_ids=stop_ids, form=form, opened=opened)
    return with_response(find_prompt(prompt_ids, image_token_id, grids), written, len(response_ids))


def find_prompt(
    prompt_ids: Sequence[int], image_token_id: int, grids: tuple[TokenGrid, ...]
) -> TokenLayout:
    """The layout of a prompt alone.

    Raises:
        LayoutError: If image tokens and grids disagree.
    """
    prompt = np.asarray(prompt_ids, dtype=np.int64)
    placeholders = np.flatnonzero(prompt == image_token_id)
    n_slots = [grid.n_placeholders for grid in grids]
    _check_number(len(placeholders), sum(n_slots))
    starts_of = np.cumsum([0, *n_slots])
    chosen = [start + grid.placeholders for start, grid in zip(starts_of, grids, strict=False)]
    image = placeholders[np.concatenate(chosen)] if chosen else placeholders
    is_text = np.ones(len(prompt), dtype=bool)
    is_text[image] = False
    text = np.flatnonzero(is_text)
    first = image[0] if len(image) else 0
    return TokenLayout(
        n_tokens=len(prompt),
        image=image,
        grids=grids,
        system=text[text < first],
        question=text[text >= first],
        response=Span(len(prompt), len(prompt)),
        think=None,
        steps=(),
        answer=None,
        newlines=np.setdiff1d(placeholders, image),
    )


class ReadResponse(NamedTuple):
    """A response's text up to its end, where its tokens start in it, and what it says."""

    text: str
    starts: IntArray
    parsed: ParsedResponse
    form: ResponseFormat


def read_response(
    tokenizer: Any,
    response_ids: Sequence[int],
    *,
    stop_ids: Collection[int] = (),
    form: ResponseFormat = TAGS,
    opened: bool = False,
) -> ReadResponse:
    """Decode a response and take it apart; the arguments are those of `find_layout`."""
    end = next((i for i, token in enumerate(response_ids) if token in stop_ids), len(response_ids))
    text, starts = token_starts(tokenizer, response_ids[:end])
    return ReadResponse(text, starts, parse_response(text, form, opened=opened), form)


def with_response(prompt: TokenLayout, written: ReadResponse, n_tokens: int) -> TokenLayout:
    """The layout of a prompt with a response behind it.

    Args:
        prompt: The layout of the prompt alone.
        written: The response.
        n_tokens: How many tokens it has, those behind its end included.
    """
    n, text, parsed = prompt.n_tokens, written.text, written.parsed
    spans = _TextSpans(text, written.starts, first=n)
    think = None if parsed.think is None else spans.overlapping(*parsed.think)
    answer = None
    if parsed.answer_range is not None:
        answer = spans.overlapping(*_stripped(text, *parsed.answer_range))
    return replace(
        prompt,
        n_tokens=n + n_tokens,
        response=Span(n, n + n_tokens),
        think=think,
        steps=spans.tiling(parsed.steps),
        answer=answer,
        cuts=()
        if parsed.think is None
        else spans.cuts(parsed.think[0], parsed.steps, written.form),
    )


def check_response(response_ids: Sequence[int], image_token_id: int) -> None:
    """Refuse a response that holds image tokens.

    Raises:
        LayoutError: If it does.
    """
    if image_token_id in response_ids:
        raise LayoutError(
            "The response itself holds image placeholder tokens; remove them, "
            "images belong to the prompt."
        )


@dataclass(frozen=True, eq=False)
class _TextSpans:
    """Tokens by the characters of their text.

    Attributes:
        text: The response.
        starts: Per token its first character.
        first: Position of the response's first token in the sequence.
    """

    text: str
    starts: IntArray
    first: int

    @cached_property
    def _ends(self) -> IntArray:
        """Per token where it ends; tokens that share a character all end behind it."""
        later = np.searchsorted(self.starts, self.starts, side="right")
        return np.append(self.starts, len(self.text))[later]

    def overlapping(self, start: int, stop: int) -> Span:
        """The tokens that overlap the characters ``start`` to ``stop - 1``."""
        begin = int(np.searchsorted(self._ends, start, side="right"))
        end = int(np.searchsorted(self.starts, stop)) if stop > start else begin
        return Span(self.first + begin, self.first + max(begin, end))

    def tiling(self, parts: Sequence[tuple[int, int]]) -> tuple[Span, ...]:
        """Adjacent parts of the text; each begins with the first token of its first word."""
        if not parts:
            return ()
        begins = [
            self.overlapping(*_stripped(self.text, start, stop)).start for start, stop in parts
        ]
        end = self.overlapping(*parts[-1]).stop
        return tuple(
            Span(begin, max(begin, stop))
            for begin, stop in zip(begins, [*begins[1:], end], strict=True)
        )

    def cuts(
        self, start: int, steps: Sequence[tuple[int, int]], form: ResponseFormat
    ) -> tuple[Cut, ...]:
        """Cuts at the rationale's start and behind each step."""
        cuts = []
        for place in (start, *(stop for _, stop in steps)):
            whole = int(np.searchsorted(self._ends, place, side="right"))
            begin = int(self.starts[whole]) if whole < len(self.starts) else place
            closing = form.closing(self.text[start:place])
            cuts.append(Cut(self.first + whole, self.text[begin:place] + closing))
        return tuple(cuts)


def _stripped(text: str, start: int, stop: int) -> tuple[int, int]:
    """The range without the white space at its ends; as it is if there is nothing else."""
    part = text[start:stop]
    if not part.strip():
        return start, stop
    return start + len(part) - len(part.lstrip()), stop - len(part) + len(part.rstrip())


def _check_number(found: int, expected: int) -> None:
    if found != expected:
        raise LayoutError(
            f"The input holds {found} image tokens but its images make {expected}; "
            "do not truncate prompts and keep image placeholders out of questions."
        )
