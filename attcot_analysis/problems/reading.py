"""What a text states: an option's letter or words, or a number, alone or in a sentence.

First the options of a question: their letters, words and numbers, and where a text holds them.
"""

import math
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

from attcot_analysis.problems import phrases
from attcot_analysis.problems.numerals import Number, in_digits, numbers, one_number
from attcot_analysis.problems.response import ParsedResponse
from attcot_analysis.problems.statement import titled

AROUND = " \t\r\n.,;:!?'\"`*_()[]{}$\u3001\u3002\u300c\u300d\u300e\u300f\u3010\u3011"
"""What may stand around an answer."""


class Option(NamedTuple):
    """A candidate with the letter, the words and the number that stand for it."""

    candidate: str
    letter: str | None
    texts: tuple[str, ...]
    number: Number | None


# The same few texts are looked for candidate by candidate.
@lru_cache(maxsize=1024)
def cleaned(text: str) -> str:
    """A `plain_text` without markdown, answer tags and runs of white space."""
    text = phrases.GLM_BOX.sub(r"\\boxed{\1}", text)
    text = re.sub(r"~~[^~\n]*~~", "", re.sub(r"<([A-Za-z_]{2,})>([^<>]*)</\1>", r"\2", text))
    text = re.sub(
        r"(?i)\*\*|__|`|</?(?:answer|think|[biu]|strong|em)>", "", phrases.plain_text(text)
    )
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
    before = "" if re.match(f"[{phrases.WIDE}]", answer) else r"(?<!\w)(?<!\w-)"
    behind = "" if re.search(f"[{phrases.WIDE}]$", answer) else r"(?!-?\w)"
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
        head = phrases.LEAD.match(text)
        letter = (head["a"] or head["b"]).upper() if head else given.get(at)
        forms = (text, text[head.end() :].strip()) if head else (text,)
        found.append(Option(candidate, letter, forms, one_number(text)))
    return found


def _listed(question: str) -> dict[str, tuple[str, ...]]:
    """What stands behind each letter of a question's list of options."""
    marks = list(phrases.MARKED.finditer(question))
    ends = [*(mark.start() for mark in marks), len(question)][1:]
    return {
        mark[1].upper(): (words,)
        for mark, end in zip(marks, ends, strict=True)
        if (words := question[mark.end() : end].split("\n")[0].strip())
    }


def _given(question: str, candidates: Sequence[str]) -> dict[int, str]:
    """The letter that the question gives to each candidate, by the candidate's place."""
    found: dict[int, str] = {}
    for mark in phrases.MARKED.finditer(question):
        at = _begun(question[mark.end() :].split("\n")[0], [(one,) for one in candidates])
        if at is not None:
            found[at] = mark[1].upper()
    # Options that are written otherwise than the candidates take their places.
    in_order = all(letter == chr(65 + at) for at, letter in found.items())
    if found and in_order and len(found) >= len(candidates) / 2:
        written = {mark[1].upper() for mark in phrases.MARKED.finditer(question)}
        places = {at: chr(65 + at) for at in range(len(candidates))}
        found |= {at: one for at, one in places.items() if one in written}
    return {at: one for at, one in found.items() if list(found.values()).count(one) == 1}


def _places(question: str, candidates: Sequence[str]) -> dict[float, str]:
    """The candidate behind each number of a question's list of options, as in ``2) three``."""
    question, forms = cleaned(question), [(cleaned(one),) for one in candidates]
    found = {}
    for mark in phrases.PLACE.finditer(question):
        at = _begun(question[mark.end() :].split("\n")[0], forms)
        if at is not None:
            found[float(mark[1])] = candidates[at]
    return found


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
        at = _begun(text[phrases.JOINED.match(text).end() :], texts)  # type: ignore[union-attr]
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
        if plain and words.endswith(f" {plain}") and not phrases.NOT.search(words[: -len(plain)])
    ]
    if found:
        return options[-max(found)[1]]
    for option in options:
        for one in option.texts:
            rest = text.strip(AROUND)[len(one) :]
            if text.strip(AROUND).casefold().startswith(
                one.casefold()
            ) and phrases.JOINED.fullmatch(rest):
                return option
    return None


_EQUATIONS = re.compile(
    r"(?:\W*\w+\s*=\s*[-\d./]+\s*(?:[,;]|\b(?:or|and)\b|\Z)){2,}", re.IGNORECASE
)
"""Two answers or more: x = 5 or x = -3."""
_NEAR = 120
_MORE = re.compile(r"[)\].]*(?:\s*(?:,|&|and|or|nor)\s*[(\[]?[A-Z]\b[)\].]*)+")
"""Further letters that share what is said behind them."""
_YES_NO = ("yes", "no", "true", "false")
_SAID = {"yeah": "yes", "yep": "yes", "yup": "yes", "nope": "no", "nah": "no"}


class Reading(NamedTuple):
    """What a stated answer was read as.

    Attributes:
        answer: The candidate; ``None`` if it cannot be told.
        flag: Why not, where something was read: ``"contradiction"`` (an option's letter with the
            words of another) or ``"several"`` (more than one candidate). Else empty.
    """

    answer: str | None
    flag: str = ""


_SEVERAL = Reading(None, "several")
_CONTRADICTION = Reading(None, "contradiction")
_UNTOLD = Reading(None)
"""It says that there is no answer."""


def stated_answer(parsed: ParsedResponse, *, finished: bool) -> str | None:
    """What a response gives as its answer.

    That is the text in its answer tags. A finished response without them states its answer in a
    sentence or a last line, else in what stands outside the rationale; one that was cut, in none,
    nor where it was cut inside the tags: what begins with 1 may have been 12.
    """
    if parsed.answer is not None and (parsed.closed or finished):
        return parsed.answer or None
    if not finished:
        return None
    return parsed.text[slice(*parsed.outside)].strip() or None


def choice_text(parsed: ParsedResponse, *, finished: bool) -> str | None:
    """Where the option that a response chooses is read: its tagged answer, else all it shows.

    A sentence before or behind the one that states the answer can say more of it, or the contrary.
    ``None`` if it states nothing.
    """
    stated = stated_answer(parsed, finished=finished)
    if stated is None or parsed.marked:
        return stated
    return parsed.text[slice(*parsed.visible)].strip() or None


def match_answer(stated: str, candidates: Sequence[str], *, question: str = "") -> str | None:
    """The candidate that a stated answer is; ``None`` if it cannot be told: see `read_choice`."""
    return read_choice(stated, candidates, question=question).answer


def read_choice(stated: str, candidates: Sequence[str], *, question: str = "") -> Reading:
    r"""Find which candidate a stated answer is.

    The text is read in one form (full-width letters, minus signs, LaTeX and markdown). What counts
    is the content of the last ``\boxed{}``; else what follows the last "the answer is", "Answer:",
    "I choose" and the like, also in Chinese, Japanese and Korean; else the last line, and where
    that says nothing, the whole text. Of this, the first of these that finds something decides:

    1. it is the candidate, but for letter case and surrounding punctuation, or the same number
       (``1,200``, ``.5``, ``-5``, ``1/5``, ``5 %``, ``5 cm``, ``1.2e3``, ``twenty-one``); what can
       be read in two ways (``0,5``, ``1.200,5``) is no number;
    2. it begins with yes or no, where these are candidates;
    3. it names an option's letter (``B``, ``(b)``, ``B. red``, ``Option B``, ``B is correct``) that
       the question gives to a candidate, as in ``B) red``, or that is a candidate itself. An
       article is no letter;
    4. it contains one candidate as a word or number of its own, and no other except as a part of
       that one. What is negated (``not red``) is not stated.

    Returns:
        The candidate, or none if there is none or more than one, or if a letter stands beside the
        words of another option.
    """
    if stated in candidates:
        return Reading(stated)
    options = read_options(candidates, question)
    text = phrases.END.sub("", cleaned(phrases.asserted(stated))).strip()
    if any(option.number for option in options):
        text = in_digits(text)
    whole = _read(text, options, whole=True)
    if whole is None or whole.answer is None:
        whole = _decided(text, options) or _UNTOLD
    number = one_number(_explicit(text) or text)
    if not (whole.answer and number):
        return whole
    placed = _places(question, candidates).get(number.value)
    return whole if placed in (None, whole.answer) else _SEVERAL


def open_answer(stated: str, known: Sequence[str], *, tolerance: float = 0.0) -> str | None:
    """Read an answer to an open question, so that like answers are equal strings.

    What counts is found as in `match_answer`, but no further than the last line. It is the first
    known answer that it equals but for letter case, surrounding punctuation, a leading article and
    white space; else the nearest that is the same number (``1,200`` is ``1200``; ``%`` and units
    are left out) up to the relative tolerance, with which ``12%`` is ``0.12`` as well; else itself,
    in this plain form.

    Args:
        stated: What a response gives as its answer.
        known: Answers to recognise, such as the right one.
        tolerance: Relative to the known number.

    Returns:
        ``None`` if nothing but punctuation is stated, or a sentence much longer than the known
        answers that equals none of them.
    """
    if stated.strip() in known:
        return stated.strip()
    targets = [one_number(cleaned(answer)) for answer in known]
    piece = stated_piece(stated, in_digits if any(targets) else str)
    if piece is None:
        return None
    plain, value = plain_form(piece), _only_number(piece) if any(targets) else one_number(piece)
    first = phrases.SAID.match(plain)
    if first and first[1] in _YES_NO and any(plain_form(answer) in _YES_NO for answer in known):
        plain = first[1]
    same = [
        answer
        for answer, target in zip(known, targets, strict=True)
        if plain_form(cleaned(answer)) == plain and (value is None or target is None)
    ]
    if same or not plain:
        return same[0] if same else None
    if value is None:
        longest = max((len(answer.split()) for answer in known), default=1)
        return plain if len(plain.split()) <= 2 * longest + 4 else None
    near: list[tuple[float, str]] = []
    for answer, target in zip(known, targets, strict=True):
        if target is not None and same_unit(value, target):
            error = abs(value.value - target.value)
            if tolerance and value.percent != target.percent:
                scale = 100 if target.percent else 0.01
                error = min(error, abs(value.value * scale - target.value))
            if error <= (tolerance + 1e-9) * abs(target.value):
                near.append((error, answer))
    return min(near, key=lambda one: one[0])[1] if near else _written(value)


def stated_piece(
    stated: str, form: Callable[[str], str] = str, *, whole: bool = False, raw: bool = False
) -> str | None:
    """The piece of what a response states that is its answer to an open question.

    That is what follows the last phrase that announces an answer, or stands in the last box; else
    the last line.

    Args:
        stated: What the response gives as its answer.
        form: What to do with the text first.
        whole: Whether all lines count where nothing announces the answer.
        raw: Whether formulas stay as they are written.
    """
    stated = phrases.asserted(stated)
    unsaid = not whole and titled(stated)
    text = form(phrases.END.sub("", stated if raw else cleaned(stated)).strip())
    lines = [line for line in text.splitlines() if line.strip()]
    explicit = _explicit(text)
    if not lines or explicit or whole:
        return (explicit or text) if lines else None
    several = len(lines) > 1 and all(phrases.ITEM.match(line) for line in lines)
    return None if unsaid or several or lines[-1].lstrip()[0] == "|" else lines[-1]


def states(text: str, answer: str) -> bool:
    """Whether a text contains an answer as a word or a number of its own, in any letter case.

    ``"3"`` is not stated by ``"13"``, ``"c3"``, ``"3.5"``, ``"-3"``, ``"1/3"`` or ``"3,000"``.
    """
    return bool(places_of(cleaned(text), cleaned(answer).strip()))


def _only_number(text: str) -> Number | None:
    """The number that a text is, the only one in it, or what it ends in behind an equals sign."""
    found = list(numbers(text))
    whole = one_number(text)
    if whole is None and len({one.value for one in found}) == 1 and not math.isnan(found[0].value):
        told = not phrases.UNKNOWN.search(text) and not _negated(text, found[0][:2])
        return found[0] if told else None
    if _EQUATIONS.fullmatch(text):
        return None
    return one_number(text.rpartition("=")[2]) if whole is None and "=" in text else whole


def _written(number: Number) -> str:
    value = int(number.value) if number.value == int(number.value) else number.value
    return f"{value} {number.unit}".strip()


def _explicit(text: str) -> str | None:
    """What follows the last phrase that announces an answer, or stands in the last box.

    Boxes with nothing but commas and the like between them are one.
    """
    boxes = list(phrases.BOXED.finditer(text))
    if boxes:
        at = len(boxes) - 1
        while at and phrases.BETWEEN_BOXES.fullmatch(text, boxes[at - 1].end(), boxes[at].start()):
            at -= 1
        held = ", ".join(dict.fromkeys(box[1] for box in boxes[at:]))
        return _explicit(held) if phrases.BOXED.search(held) else held
    for found in reversed(list(phrases.PHRASE.finditer(text))):
        rest = text[found.end() :]
        if phrases.ABSTRACT.match(rest):
            continue
        lines = [line.strip() for line in rest.splitlines() if line.strip(" \t*_:-")]
        if lines and lines[0].endswith(":") and len(lines) > 1 and not phrases.LEAD.match(lines[0]):
            return lines[1]
        return lines[0] if lines else None
    return None


def _decided(text: str, options: Sequence[Option]) -> Reading | None:
    """What a text states; ``None`` if nothing."""
    explicit = _explicit(text)
    if explicit is not None:
        first, *rest = re.split(r"(?<=[.!?\u3002])\s", explicit, maxsplit=1)
        taken_back = list(phrases.REVISED.finditer(rest[0])) if rest else []
        if taken_back and (later := _read(rest[0][taken_back[-1].end() :], options)):
            return later
        found = None if phrases.LEAD.match(explicit) else _read(first, options)
        return _read(explicit, options) if found is None else found
    text = without_list(text, options)
    # A row of a table states nothing.
    lines = [line for line in text.splitlines() if line.strip() and line.lstrip()[0] != "|"]
    heads = {head["a"] or head["b"] for line in lines if (head := phrases.LEAD.match(line))}
    alone = {one for line in lines if (one := _alone(line, options))}
    if len({head.upper() for head in heads} & {o.letter for o in options}) > 1 or len(alone) > 1:
        return _SEVERAL
    if alone:
        return alone.pop()
    found = _read(lines[-1], options) if lines else None
    if found and len(lines) > 1 and phrases.REASON.match(lines[-1]):
        # "The chair is nearer. / This is because the table is farther."
        return found if _read(lines[-2], options) in (None, found) else _SEVERAL
    if found is None and len(lines) > 1:
        long = [option for option in options if any(" " in one for one in option.texts)]
        found = _read(text, options, words=long)
    return found


def _alone(line: str, options: Sequence[Option]) -> Reading | None:
    """The option that a line is, by its letter, its words or both."""
    head = phrases.LEAD.match(line)
    words = line[head.end() :] if head else line
    if (head and not words.strip(AROUND)) or re.fullmatch(r"\W*[A-Z]\W*", line):
        found = _by_letter(line, options)
    else:
        found = _read(words, options, whole=True)
        found = _by_letter(line, options) if head and found and found.answer else found
    return found if found and (found.answer or found is _CONTRADICTION) else None


def _read(
    text: str,
    options: Sequence[Option],
    *,
    whole: bool = False,
    words: Sequence[Option] | None = None,
) -> Reading | None:
    """Read one statement; ``None`` if it states nothing.

    Args:
        text: The statement.
        options: What it may state.
        whole: Only see whether the statement is an option as a whole.
        words: Whose words count in a sentence; default all options'.
    """
    value = one_number(text)
    counted = [option for option in options if option.number is not None]
    if value is not None and counted:
        same = [option for option in counted if equal_numbers(value, option.number)]
        exact = [option for option in same if option.number and option.number.unit == value.unit]
        found = exact if len(exact) == 1 else same
        return Reading(found[0].candidate) if len(found) == 1 else _SEVERAL if found else _UNTOLD
    for form in (bare_form, plain_form):
        same = [option for option in options if form(text) in map(form, option.texts)]
        if len(same) == 1:
            return Reading(same[0].candidate)
    if whole:
        return None
    by_yes = [o for o in options if bare_form(o.candidate) in _YES_NO]
    if len(by_yes) > 1:
        first = phrases.SAID.match(text.casefold())
        said = _SAID.get(first[1], first[1]) if first else ""
        if first and said in _YES_NO:
            if first[2] in _YES_NO:
                return _SEVERAL
            own = [o.candidate for o in by_yes if bare_form(o.candidate) == said]
            return Reading(own[0]) if own else _UNTOLD
    labelled = _by_letter(text, options)
    if labelled is not None:
        return labelled
    return _by_words(text, options if words is None else words)


def _by_letter(text: str, options: Sequence[Option]) -> Reading | None:
    known = {option.letter: option for option in options if option.letter}
    if known and phrases.RANKED.search(text):
        return _SEVERAL
    head = phrases.LEAD.match(text)
    if not known:
        return _by_words(text[head.end() :], options) if head else None
    if re.fullmatch(r"[\W_]*[A-Za-z][\W_]*", text):
        letter = re.sub(r"[\W_]", "", text).upper()
        return Reading(known[letter].candidate) if letter in known else None
    found: list[tuple[int, int, str]] = []
    bare = phrases.BARE.match(text)
    if bare and bare[1] in known and beginning(text[bare.end() :], options):
        found.append((*bare.span(1), bare[1]))
    for label in phrases.LABEL.finditer(text):
        letter, (start, stop) = (
            label[label.lastgroup or 0].upper(),
            label.span(label.lastgroup or 0),
        )
        more = _MORE.match(text, label.end())
        if _negated(text, (start, more.end() if more else label.end())):
            continue
        if letter in known or not text[: label.start()].strip():
            found.append((start, stop, letter))
    letters = {letter for _, _, letter in found}
    if found:
        listed = phrases.LISTED.finditer(text, found[0][1])
        letters |= {
            one[1] for one in listed if not phrases.NOT_BEHIND.match(text, one.end())
        } & set(known)
    if not letters:
        return None
    own = known.get(found[0][2])
    if len(letters) > 1:
        return _SEVERAL
    if own is None:
        return _UNTOLD
    for start, stop, _ in found:
        for side in (beginning(text[stop:], options), ending(text[:start], options)):
            if side is not None and side is not own:
                return _CONTRADICTION
    return Reading(own.candidate)


def _by_words(text: str, options: Sequence[Option]) -> Reading | None:
    found: list[tuple[Option, list[tuple[int, int]]]] = []
    for option in options:
        places = [place for one in option.texts for place in places_of(text, one)]
        if bare_form(option.candidate) in _YES_NO:
            places = [at for at in places if re.match(r"\W*(?:$|[.,;!])", text[at[1] :])]
        said = [at for at in places if not _negated(text, at)]
        if said:
            found.append((option, said))
    whole = []
    for option, places in found:
        others = [place for other, more in found if other is not option for place in more]
        if not all(_inside(place, others) for place in places):
            whole.append(option.candidate)
    if phrases.UNKNOWN.search(text) and not any(
        phrases.UNKNOWN.search(option.candidate) for option in options
    ):
        return _UNTOLD
    if not found:
        return None
    return Reading(whole[0]) if len(whole) == 1 else _SEVERAL


def _inside(place: tuple[int, int], others: Sequence[tuple[int, int]]) -> bool:
    start, stop = place
    return any(a <= start and stop <= b and (a, b) != place for a, b in others)


def _negated(text: str, place: tuple[int, int]) -> bool:
    start, stop = place
    # What negates it is a few words before; looking further makes long texts slow.
    return bool(
        phrases.NOT.search(text, max(0, start - _NEAR), start)
        or phrases.NOT_BEHIND.match(text, stop)
    )
