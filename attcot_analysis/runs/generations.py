"""Responses that were written elsewhere, by vLLM or behind an API, made ready to be measured.

A file has one JSON object per line, in either form::

    {"id": "item-1", "ids": [151667, 198, 16], "text": "<think>...", "finish_reason": "stop"}
    {"custom_id": "item-1", "response": {"body": {"choices": [{"message": {"content": "..."},
                                                               "finish_reason": "stop"}]}}}

``ids`` are the response's tokens; with ``text`` as well they are checked to be this model's.
``text`` alone is tokenised, and must come back from its tokens letter for letter. The second form
is a line of the output file of the OpenAI batch interface, which vLLM's ``run-batch`` writes as
well, there with the tokens (see `attcot_analysis.runs.batch_files`).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attcot_analysis.errors import MeasureError
from attcot_analysis.runs.batch_files import lines_of, read_bytes, read_line
from attcot_analysis.models import Generation, Mllm
from attcot_analysis.problems import Problem
from attcot_analysis.problems.response import with_opening, without_opening

_FIELDS = ("id", "ids", "text", "finish_reason", "model")
_SHOWN = 5


@dataclass(frozen=True)
class Generations:
    """Responses to items.

    Attributes:
        of: By item.
        foreign: Whether another model than the one that is measured wrote them.
        sha256: Of what they are made of, for the manifest.
    """

    of: Mapping[str, Generation]
    foreign: bool = False
    sha256: str = ""

    def record(self) -> dict[str, Any]:
        """What a run's manifest says of them; JSON values."""
        return {"n": len(self.of), "sha256": self.sha256, "foreign": self.foreign}

    def check(self, problems: Sequence[Problem]) -> None:
        """See that there is one for every problem.

        Raises:
            MeasureError: If there is not.
        """
        missing = [problem.id for problem in problems if problem.id not in self.of]
        if missing:
            raise MeasureError(
                f"{len(missing)} of {len(problems)} items have no response ({_few(missing)}); add "
                "them to the file of generations, or measure fewer items."
            )


def read_generations(path: str | Path, mllm: Mllm, *, foreign: bool = False) -> Generations:
    """Read responses from a file, as tokens of the model that is to be measured on them.

    Args:
        path: The file.
        mllm: The model.
        foreign: Whether another model wrote them. They are then forced on this one word for word,
            and what would hold its own answers against theirs is not measured.

    Returns:
        The responses, cut at the first token that ends one. They count as finished unless
        ``finish_reason`` is ``"length"``.

    Raises:
        MeasureError: One sentence per line that cannot be used, the first few of them.
    """
    file = Path(path)
    content = read_bytes(file)
    found: dict[str, Generation] = {}
    faults: list[str] = []
    for where, line in lines_of(file, content):
        try:
            item, made = _generation(mllm, line, where)
            if item in found:
                raise MeasureError(f"{where}: item {item!r} occurs twice; keep one response each.")
        except MeasureError as error:
            faults.append(str(error))
        else:
            found[item] = made
    if faults:
        more = f"\n... and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise MeasureError("\n".join(faults[:_SHOWN]) + more)
    if not found:
        raise MeasureError(f"Generations {file} holds no response; it needs one object per line.")
    return Generations(found, foreign, hashlib.sha256(content).hexdigest())


def _generation(mllm: Mllm, line: bytes, where: str) -> tuple[str, Generation]:
    record = read_line(line, where)
    unknown = [key for key in record if key not in _FIELDS]
    if unknown:
        raise MeasureError(
            f"{where} has the unknown field {unknown[0]!r}; known are {', '.join(_FIELDS)}."
        )
    item, ids, text = (record.get(key) for key in ("id", "ids", "text"))
    if not isinstance(item, str) or not item:
        raise MeasureError(f"{where}: id is {item!r}; give the id of the item as a string.")
    if text is not None and not isinstance(text, str):
        raise MeasureError(f"{where}: text is {text!r:.60}; expected a string.")
    if ids is None and text is None:
        raise MeasureError(f"{where} has neither ids nor text; give the response's token ids.")
    if text is not None and mllm.opens_rationale:
        text = without_opening(text)
    tokens = _from_text(mllm, text or "", where) if ids is None else _checked(mllm, ids, where)
    end = next((at for at, token in enumerate(tokens) if token in mllm.stop_ids), len(tokens))
    kept = tuple(tokens[:end])
    if mllm.image_token_id in kept:
        raise MeasureError(
            f"{where}: the response holds the model's image token, which stands for a picture; "
            "leave it out."
        )
    decoded = mllm.decode(kept)
    if ids is not None and text is not None and not _same_text(mllm, kept, text):
        raise MeasureError(
            f"{where}: its ids say {decoded[:40]!r} and its text {text[:40]!r}; they are not of "
            f"{mllm.name}'s tokenizer, so give the text alone."
        )
    if mllm.opens_rationale:
        decoded = with_opening(decoded)
    return item, Generation(kept, decoded, record.get("finish_reason") != "length")


def _checked(mllm: Mllm, ids: object, where: str) -> list[int]:
    n_tokens = len(mllm.tokenizer)
    if not isinstance(ids, list) or not all(
        isinstance(token, int) and not isinstance(token, bool) for token in ids
    ):
        raise MeasureError(f"{where}: ids is {ids!r:.60}; expected a list of whole numbers.")
    outside = [token for token in ids if not 0 <= token < n_tokens]
    if outside:
        raise MeasureError(
            f"{where}: token {outside[0]} is none of the {n_tokens} of {mllm.name}; the response "
            "is another tokenizer's, so give its text instead."
        )
    return ids


def _from_text(mllm: Mllm, text: str, where: str) -> list[int]:
    ids = list(mllm.tokenizer(text, add_special_tokens=False)["input_ids"])
    back = mllm.decode(ids)
    if back != text:
        at = next((n for n, (a, b) in enumerate(zip(back, text, strict=False)) if a != b), -1)
        shown = text[max(at - 10, 0) : at + 20] if at >= 0 else text[-30:]
        raise MeasureError(
            f"{where}: its text does not come back from {mllm.name}'s tokens (near {shown!r}); "
            "give token ids."
        )
    return ids


def _same_text(mllm: Mllm, kept: Sequence[int], text: str) -> bool:
    """Whether a server may have written these tokens so: with or without special tokens.

    It holds back the bytes of a letter that was cut at the length limit.
    """
    plain = mllm.tokenizer.decode(
        list(kept), skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    said = [mllm.decode(kept), str(plain)]
    return _without_end(mllm, text) in {*said, *(one.rstrip("\ufffd") for one in said)}


def _without_end(mllm: Mllm, text: str) -> str:
    """The text up to what ends a response."""
    ends = [mllm.tokenizer.convert_ids_to_tokens(token) for token in mllm.stop_ids]
    places = [text.find(end) for end in ends if end and end in text]
    return text[: min(places)] if places else text


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
