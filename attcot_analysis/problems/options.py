"""The options of a question: their letters, words and numbers, and where a text holds them."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from attcot_analysis.problems.numerals import Number, numbers, one_number
from attcot_analysis.problems.phrases import GLM_BOX, JOINED, LEAD, MARKED, NOT, WIDE, plain_text

AROUND = " \t\r\n.,;:!?'\"`*_()[]{}$\u3001\u3002\u300c\u300d\u300e\u300f\u3010\u3011"
"""What may stand around an answer."""


class Option(NamedTuple):
    """A candidate with the letter, the words and the number that stand for it."""

    candidate: str
    letter: str | None
    texts: tuple[str, ...]
    number: Number | None


def cleaned(text: str) -> str:
    """A `plain_text` without markdown, answer tags and runs of white space."""
    text = GLM_BOX.sub(r"\\boxed{\1}", text)
    text = re.sub(r"~~[^~\n]*~~", "", re.sub(r"<([A-Za-z_]{2,})>([^<>]*)</\1>", r"\2", text))
    text = re.sub(r"(?i)\*\*|__|`|</?(?:answer|think|[biu]|strong|em)>", "", plain_text(text))
    return re.sub(r"([^\S\n])[^\S\n]+", r"\1", re.sub(r"\n\s*\n", "\n\n", text))


def bare_form(text: str) -> str:
    """A text in small letters without what may stand around it."""
    return " ".join(text.strip(AROUND).casefold().split())


def plain_form(text: str) -> str:
    """A `bare_form` without "it is" and article."""
    words = re.sub(r"^(?:(?:it|this|that) is|it's|they are) (?=\S)", "", bare_form(text))
    return re.sub(r"^(a|an|the) (?=\S)", "", words)


def same_unit(first: Number, second: Number) -> bool:
    """Whether two numbers may be of one unit; one that is not written may be any."""
    one, other = (number.unit for number in (first, second))
    words = zip(one.split(), other.split(), strict=False)
    return all(a.removesuffix("s") == b.removesuffix("s") for a, b in words)


def equal_numbers(one: Number, other: Number | None) -> bool:
    """Whether two numbers are the same, up to rounding; one that is none equals nothing."""
    if other is None:
        return False
    near = abs(one.value - other.value) <= 1e-9 * max(abs(one.value), abs(other.value))
    return near and same_unit(one, other)


def places_of(text: str, answer: str) -> list[tuple[int, int]]:
    """Where a text contains an answer as a word or a number of its own."""
    target = one_number(answer)
    if not answer:
        return []
    found = []
    if target is not None and answer[:1] not in "([":
        found = [(one.start, one.stop) for one in numbers(text) if equal_numbers(one, target)]
        if any(sign.isdigit() for sign in answer):
            return found
    before = "" if re.match(f"[{WIDE}]", answer) else r"(?<!\w)(?<!\w-)"
    behind = "" if re.search(f"[{WIDE}]$", answer) else r"(?!-?\w)"
    pattern = f"{before}(?<!\\d[.,]){re.escape(answer)}{behind}(?![.,]\\d)"
    return found + [one.span() for one in re.finditer(pattern, text, re.IGNORECASE)]


def read_options(candidates: Sequence[str], question: str) -> list[Option]:
    """Candidates with the letters and words that the question gives them."""
    texts = [cleaned(candidate).strip() for candidate in candidates]
    single = [one for text in texts if (one := re.fullmatch(r"\W*([A-Za-z])\W*", text))]
    letters = list(dict.fromkeys(one[1].upper() for one in single))
    if len(letters) == len(candidates):
        words = _listed(cleaned(question))
        return [
            Option(candidate, letter, words.get(letter, ()), None)
            for candidate, letter in zip(candidates, letters, strict=True)
        ]
    given = _given(cleaned(question), texts)
    found = []
    for at, (candidate, text) in enumerate(zip(candidates, texts, strict=True)):
        head = LEAD.match(text)
        letter = (head["a"] or head["b"]).upper() if head else given.get(at)
        forms = (text, text[head.end() :].strip()) if head else (text,)
        found.append(Option(candidate, letter, forms, one_number(text)))
    return found


def _listed(question: str) -> dict[str, tuple[str, ...]]:
    """What stands behind each letter of a question's list of options."""
    marks = list(MARKED.finditer(question))
    ends = [*(mark.start() for mark in marks), len(question)][1:]
    return {
        mark[1].upper(): (words,)
        for mark, end in zip(marks, ends, strict=True)
        if (words := question[mark.end() : end].split("\n")[0].strip())
    }


def _given(question: str, candidates: Sequence[str]) -> dict[int, str]:
    """The letter that the question gives to each candidate, by the candidate's place."""
    found: dict[int, str] = {}
    for mark in MARKED.finditer(question):
        at = _begun(question[mark.end() :].split("\n")[0], [(one,) for one in candidates])
        if at is not None:
            found[at] = mark[1].upper()
    # Options that are written otherwise than the candidates take their places.
    in_order = all(letter == chr(65 + at) for at, letter in found.items())
    if found and in_order and len(found) >= len(candidates) / 2:
        written = {mark[1].upper() for mark in MARKED.finditer(question)}
        places = {at: chr(65 + at) for at in range(len(candidates))}
        found |= {at: one for at, one in places.items() if one in written}
    return {at: one for at, one in found.items() if list(found.values()).count(one) == 1}


def _begun(text: str, texts: Sequence[Sequence[str]]) -> int | None:
    """Which of some texts a text begins with: the longest, in the same letter case if it can be."""
    words, bare = plain_form(text), text.lstrip(AROUND)
    found = [
        (len(plain), bare.startswith(one), -at)
        for at, forms in enumerate(texts)
        for one in forms
        if (plain := plain_form(one))
        and words.startswith(plain)
        and not words[len(plain) : len(plain) + 1].isalnum()
    ]
    return -max(found)[2] if found else None


def without_list(text: str, options: Sequence[Option]) -> str:
    """A text without the question's list of options, where it repeats it."""
    parts = [
        rf"[(\[]?{option.letter}\s*[)\].:]\s*{re.escape(option.texts[-1])}\s*"
        for option in options
        if option.letter and option.texts
    ]
    return re.sub("".join(parts), "\n", text) if len(parts) == len(options) else text


def beginning(text: str, options: Sequence[Option]) -> Option | None:
    """The option whose words a text begins with, the longest; else ``None``."""
    texts = [option.texts for option in options]
    at = _begun(text, texts)
    if at is None:
        at = _begun(text[JOINED.match(text).end() :], texts)  # type: ignore[union-attr]
    return None if at is None else options[at]


def ending(text: str, options: Sequence[Option]) -> Option | None:
    """The option whose words a text ends with, the longest; else ``None``.

    Words before a "so" or the like count where they are the whole text.
    """
    words = f" {bare_form(text)}"
    found = [
        (len(plain), -at)
        for at, option in enumerate(options)
        for plain in map(plain_form, option.texts)
        if plain and words.endswith(f" {plain}") and not NOT.search(words[: -len(plain)])
    ]
    if found:
        return options[-max(found)[1]]
    for option in options:
        for one in option.texts:
            rest = text.strip(AROUND)[len(one) :]
            if text.strip(AROUND).casefold().startswith(one.casefold()) and JOINED.fullmatch(rest):
                return option
    return None
