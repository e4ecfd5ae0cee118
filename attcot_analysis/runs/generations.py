"""Responses that were written elsewhere, by vLLM or behind an API, made ready to be measured.

A file has one JSON object per line, in either form::

    {"id": "item-1", "ids": [151667, 198, 16], "text": "<think>...", "finish_reason": "stop"}
    {"custom_id": "item-1", "response": {"body": {"choices": [{"message": {"content": "..."},
                                                               "finish_reason": "stop"}]}}}

A line of the first form may hold ``correct``, true, false or a score from 0 to 1: it is then taken
instead of what is read, of all lines or none.

``ids`` are the response's tokens; with ``text`` as well they are checked to be this model's.
``text`` alone is tokenised, and must come back from its tokens letter for letter. Several responses
to one item are told apart by ``"sample"``, 0, 1, ..., or are the choices of one line of the second
form (requests with ``n``). The second form
is a line of the output file of the OpenAI batch interface, which vLLM's ``run-batch`` writes as
well, there with the tokens (see `attcot_analysis.runs.generations`).
"""

import base64
import contextlib
import errno
import hashlib
import io
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attcot_analysis.errors import MeasureError
from attcot_analysis.files import path_of, write_whole
from attcot_analysis.models import Generation, Mllm, Mode
from attcot_analysis.models.inputs import build_messages
from attcot_analysis.problems import Problem
from attcot_analysis.problems.folder import picture_file
from attcot_analysis.problems.formats import TAGS, ResponseFormat
from attcot_analysis.problems.pictures import is_plain
from attcot_analysis.runs.parts import few

URL = "/v1/chat/completions"

_TOKEN = re.compile(r"token_id:(\d+)")


def requests(
    problems: Sequence[Problem],
    *,
    model: str,
    mode: Mode = "cot",
    text_only: bool = False,
    max_new_tokens: int = 256,
    samples: int = 1,
    temperature: float = 0.0,
    seed: int = 0,
    folder: str | Path | None = None,
    form: ResponseFormat = TAGS,
) -> Iterator[dict[str, Any]]:
    """Problems as requests of a batch, with the prompts that are used here, one after the other.

    The checkpoint's own sampling settings, which vLLM takes over by itself, are switched off as
    they are in `generate`, and special tokens stay in the text, so that it can be held against
    the tokens.

    Args:
        problems: The items.
        model: The name that the server serves the model by; for vLLM what it was started with.
        mode: ``"cot"`` or ``"direct"``.
        text_only: Leave the pictures out.
        max_new_tokens: Length limit of a response.
        samples: Responses per item; more than one need a temperature.
        temperature: 0 for greedy.
        seed: Of sampling.
        folder: The problem folder, to name its pictures instead of holding them: vLLM must then
            be started with ``--allowed-local-media-path`` on the same disk. Those that are not
            plain RGB or grey are held all the same.
        form: The format to ask for.

    Raises:
        MeasureError: If there are no problems, a number is out of range, or the format starts
            responses itself.
    """
    if not problems:
        raise MeasureError("There are no problems to ask about; give at least one.")
    if samples < 1 or (samples > 1 and temperature == 0):
        raise MeasureError(
            f"samples={samples} with temperature={temperature}: ask for at least 1, and give "
            "several a temperature above 0, since they would all be the same."
        )
    if max_new_tokens < 1 or temperature < 0:
        raise MeasureError(
            f"max_new_tokens={max_new_tokens} and temperature={temperature} must be at least 1 "
            "and 0."
        )
    settings: dict[str, Any] = {
        "max_tokens": max_new_tokens,
        "temperature": temperature,
        "top_p": 1.0,
        "top_k": 0,
        "repetition_penalty": 1.0,
        "seed": seed,
        "skip_special_tokens": False,
        "spaces_between_special_tokens": False,
        "return_token_ids": True,
    }
    if samples > 1:
        settings["n"] = samples
    if form.prefill:
        raise MeasureError(
            f"A server cannot be asked to start a response with {form.prefill!r}; leave the "
            "prefill out, or generate here."
        )
    if form.thinking is not None:
        settings["chat_template_kwargs"] = {"enable_thinking": form.thinking}

    def ask(problem: Problem) -> dict[str, Any]:
        messages = _messages(problem, mode, text_only, folder, form)
        body = {"model": model, "messages": messages} | settings
        return {"custom_id": problem.id, "method": "POST", "url": URL, "body": body}

    return map(ask, problems)


def write_requests(path: str | Path, problems: Sequence[Problem], **options: Any) -> Path:
    """Write the `requests` of problems to a new file, JSON lines; options as there.

    Returns:
        The file.

    Raises:
        MeasureError: As `requests`, or if the file is there already.
        RunError: If it cannot be written.
    """
    return _write_new(path_of(path), requests(problems, **options))


def _write_new(target: Path, records: Iterable[Mapping[str, Any]]) -> Path:
    """Write JSON lines to a file that is not there yet."""
    if target.exists():
        raise MeasureError(f"{target} exists already; remove it or choose another file.")

    def write(part: Path) -> None:
        with part.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(one, ensure_ascii=False) + "\n" for one in records)

    write_whole(target, write)
    return target


def _messages(
    problem: Problem,
    mode: Mode,
    text_only: bool,
    folder: str | Path | None,
    form: ResponseFormat,
) -> list[dict[str, Any]]:
    messages = build_messages(
        problem.question,
        mode,
        n_images=0 if text_only else problem.n_images,
        form=form,
        candidates=problem.candidates,
        labels=() if text_only else problem.picture_labels,
    )
    numbers = itertools.count(1)
    for message in messages:
        message["content"] = [
            {
                "type": "image_url",
                "image_url": {"url": picture_address(problem, folder, next(numbers))},
            }
            if part["type"] == "image"
            else part
            for part in message["content"]
        ]
    return messages


def picture_address(problem: Problem, folder: str | Path | None = None, number: int = 1) -> str:
    """Where a problem's picture is to be found: a file's address, or the picture itself."""
    if folder is not None:
        kind = None if number == 1 else str(number)
        file = picture_file(Path(folder), problem.id, kind).resolve()
        if is_plain(file):
            return file.as_uri()
    held = io.BytesIO()
    problem.images[number - 1].save(held, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(held.getvalue()).decode('ascii')}"


def batch_records(record: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """A line of a batch's output as lines of generations, one per choice: see `read_generations`.

    Args:
        record: The line.
        where: What to call it.

    Returns:
        ``id``, ``finish_reason``, ``model`` and, as far as the line has them, ``ids`` and ``text``;
        ``sample`` where there are several choices.

    Raises:
        MeasureError: If the request has failed, or only a part of what was answered is there.
    """
    try:
        choices = record["response"]["body"]["choices"]
        several = len(choices) > 1
        if not several:
            return [_choice(record, choices[0], where)]
        return [
            _choice(record, choice, where) | {"sample": choice.get("index", at)}
            for at, choice in enumerate(choices)
        ]
    except (KeyError, IndexError, TypeError, AttributeError):
        failed = record.get("error") or _refusal(record)
        raise MeasureError(
            f"{where} holds no response (error: {failed!r:.80}); ask for it again or leave the "
            "line out."
        ) from None


def _choice(record: Mapping[str, Any], choice: Any, where: str) -> dict[str, Any]:
    body, message = record["response"]["body"], choice["message"]
    text, reason = message["content"], choice.get("finish_reason")
    found = {"id": record["custom_id"], "finish_reason": reason, "model": body.get("model")}
    ids = choice.get("token_ids")
    ids = _named_tokens(choice.get("logprobs")) if ids is None else ids
    if not isinstance(text, str | None) or not isinstance(ids, list | None):
        raise MeasureError(
            f"{where} holds {(text if ids is None else ids)!r:.60} for a response; expected text, "
            "or a list of token ids."
        )
    thought = message.get("reasoning") or message.get("reasoning_content")
    if thought and ids is None:
        raise MeasureError(
            f"{where}: the server has taken the rationale out of the text (a reasoning parser); "
            "ask for token ids, or start it without the parser."
        )
    if ids is not None:
        found["ids"] = ids
    if ids is None or not (thought or text is None):
        found["text"] = text or ""
    return found


def _refusal(record: Mapping[str, Any]) -> object:
    """What the server itself said in place of a response."""
    answer = record.get("response")
    body = answer.get("body") if isinstance(answer, Mapping) else None
    return body.get("error", body) if isinstance(body, Mapping) else None


def _named_tokens(logprobs: object) -> list[int] | None:
    """Token ids from log-probabilities asked for with ``return_tokens_as_token_ids``."""
    content = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    if not isinstance(content, list) or not content:
        return None
    named = [
        _TOKEN.fullmatch(str(one.get("token"))) if isinstance(one, Mapping) else None
        for one in content
    ]
    return [int(one[1]) for one in named if one] if all(named) else None


@dataclass(frozen=True)
class BatchOutput:
    """What was found in a batch's output.

    Attributes:
        lines: Generations, one per response, as `read_generations` takes them.
        faults: One sentence for every line that holds none.
        missing: Items that were to be answered and are not there.
    """

    lines: tuple[Mapping[str, Any], ...]
    faults: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    def __str__(self) -> str:
        """How many, and what of."""
        ids = sum("ids" in line for line in self.lines)
        cut = sum(line["finish_reason"] == "length" for line in self.lines)
        told = f"{len(self.lines)} responses, {ids} with token ids, {cut} cut at the length limit"
        return f"{told}; {len(self.missing)} items have none" if self.missing else told


def read_batch(path: str | Path, items: Sequence[str] = ()) -> BatchOutput:
    """Read the output file of a batch, without a model: nothing is tokenised or checked yet.

    Args:
        path: The file; of the line of generations that it may hold as well, nothing is changed.
        items: Ids that were asked about; default: not known.

    Raises:
        MeasureError: If it cannot be read.
    """
    file = path_of(path, MeasureError)
    found: dict[tuple[str, int], Mapping[str, Any]] = {}
    faults: list[str] = []
    for where, line in lines_of(file, read_bytes(file)):
        try:
            for record in read_line(line, where):
                item = record.get("id")
                if not isinstance(item, str) or not item:
                    raise MeasureError(f"{where} does not say which item it answers; give its id.")
                _keep(found, item, record, {"finish_reason": None, **record}, where)
        except MeasureError as error:
            faults.append(str(error))
    answered = {item for item, _ in found}
    missing = tuple(item for item in items if item not in answered)
    return BatchOutput(tuple(found.values()), tuple(faults), missing)


def write_generations(path: str | Path, found: BatchOutput) -> Path:
    """Write a batch's responses as the JSON lines that `read_generations` reads.

    Raises:
        MeasureError: If the file is there already.
        RunError: If it cannot be written.
    """
    return _write_new(path_of(path), found.lines)


def read_bytes(file: Path) -> bytes:
    """The contents of a file of responses.

    Raises:
        MeasureError: If it cannot be read.
    """
    try:
        if file.is_char_device():  # Such as /dev/zero, which has no end; pipes have one.
            raise OSError(errno.EINVAL, "it is no file")
        return file.read_bytes()
    except OSError as error:
        raise MeasureError(f"Generations {file} cannot be read ({error.strerror}).") from error


def lines_of(file: Path, content: bytes) -> Iterator[tuple[str, bytes]]:
    """Every line that is not empty, or every sample of an Inspect log, with what to call it."""
    if content[:2] == b"PK":
        raise MeasureError(
            f"{file} is an archive; write an Inspect log as JSON first "
            f"(inspect log dump {file.name} > {file.stem}.json)."
        )
    for at, sample in enumerate(_inspect_samples(content), start=1):
        yield f"{file}, sample {at}", json.dumps(sample).encode()
        content = b""
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            yield f"{file}, line {number}", line


def _inspect_samples(content: bytes) -> list[Any]:
    """The samples of a log of Inspect; none of a file of lines."""
    with contextlib.suppress(ValueError, RecursionError):
        log = json.loads(content)  # Of several lines, the first alone is read.
        samples = log.get("samples") if isinstance(log, dict) else None
        return samples if isinstance(samples, list) else []
    return []


def _inspect_record(sample: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A sample of an Inspect log as a line of generations.

    Source: the logs in the tests of inspect_ai and its classes EvalSample and ModelOutput.
    """
    try:
        output = sample["output"]
        choice = output["choices"][0]
        parts = choice["message"]["content"]
        parts = [{"type": "text", "text": parts}] if isinstance(parts, str) else parts
        texts = [part["text"] for part in parts if part["type"] == "text"]
        whole = len(texts) == len(parts) and not choice["message"].get("reasoning")
        item, epoch = str(sample["id"]), int(sample["epoch"])
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        raise MeasureError(
            f"{where} holds no response (error: {sample.get('error')!r:.80}); run it again or "
            "leave it out."
        ) from None
    if not whole:
        raise MeasureError(
            f"{where}: the rationale was taken out of the text (a reasoning parser); run the model "
            "without the parser, so that the response is what was written."
        )
    cut = choice.get("stop_reason") in ("length", "max_tokens", "model_length")
    found = {"id": item, "text": "".join(texts), "finish_reason": "length" if cut else "stop"}
    return found | {"model": output.get("model"), "sample": epoch - 1}


def _keep(
    found: dict[tuple[str, int], Any], item: str, record: Mapping[str, Any], made: Any, where: str
) -> None:
    """Put a response to those found, by its item and sample."""
    sample = record.get("sample", 0)
    if not isinstance(sample, int) or isinstance(sample, bool) or sample < 0:
        raise MeasureError(f"{where}: sample is {sample!r:.60}; expected a number from 0.")
    if (item, sample) in found:
        raise MeasureError(
            f"{where}: item {item!r} occurs twice; keep one response each, or tell several apart "
            'by "sample".'
        )
    found[item, sample] = made


def read_line(line: bytes, where: str) -> list[dict[str, Any]]:
    """A line of either form as lines of generations: one, or one for every choice of a batch's.

    Raises:
        MeasureError: If it is no JSON object, or of a batch and without response.
    """
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise MeasureError(f"{where} is not valid JSON: {error}.") from error
    if not isinstance(record, dict):
        raise MeasureError(f"{where} holds no JSON object; write one per response.")
    if "custom_id" in record:
        return batch_records(record, where)
    if {"epoch", "output"} <= set(record):
        return [_inspect_record(record, where)]
    for ours, theirs in _ALIASES.items():
        other = next((name for name in theirs if name in record), None)
        if other is not None and record.get(ours) is None:
            record[ours] = record.pop(other)
    return [record]


_ALIASES = {
    "id": ("item", "index", "question_id", "doc_id"),
    "text": ("prediction", "response", "output", "answer_text"),
}
"""Our fields, and what others call them."""


_FIELDS = ("id", "ids", "text", "finish_reason", "model", "sample", "correct")

_SHOWN = 5


@dataclass(frozen=True)
class Generations:
    """Responses to items.

    Attributes:
        of: By item; of several to one item the first.
        foreign: Whether another model than the one that is measured wrote them.
        sha256: Of what they are made of, for the manifest.
        more: By item, the further ones in the order of their samples.
        scores: By item, those that came with them, in the order of their samples; else empty.
    """

    of: Mapping[str, Generation]
    foreign: bool = False
    sha256: str = ""
    more: Mapping[str, tuple[Generation, ...]] = field(default_factory=dict)
    scores: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def n_samples(self) -> int:
        """The most that any item has."""
        return 1 + max(map(len, self.more.values()), default=0)

    def samples(self, item: str) -> tuple[Generation, ...]:
        """All of an item, in the order of their samples."""
        return (self.of[item], *self.more.get(item, ()))

    def record(self) -> dict[str, Any]:
        """What a run's manifest says of them; JSON values."""
        record = {"n": len(self.of), "sha256": self.sha256, "foreign": self.foreign}
        return record | ({"scores": "given"} if self.scores else {})

    def check(self, problems: Sequence[Problem], samples: int = 1) -> None:
        """See that there are as many for every problem.

        Args:
            problems: The items.
            samples: How many of each.

        Raises:
            MeasureError: If there are not.
        """
        missing = [problem.id for problem in problems if problem.id not in self.of]
        if missing:
            raise MeasureError(
                f"{len(missing)} of {len(problems)} items have no response ({few(missing)}); add "
                "them to the file of generations, or measure fewer items."
            )
        counts = {problem.id: len(self.samples(problem.id)) for problem in problems}
        short = [item for item, count in counts.items() if count < samples]
        if short:
            raise MeasureError(
                f"{len(short)} of {len(problems)} items have fewer than {samples} responses "
                f"({few(short)}); add the missing ones, or measure fewer of each: samples="
                f"{min(counts.values())}."
            )


def read_generations(path: str | Path, mllm: Mllm, *, foreign: bool = False) -> Generations:
    """Read responses from a file, as tokens of the model that is to be measured on them.

    Args:
        path: The file.
        mllm: The model.
        foreign: Whether another model wrote them. They are then forced on this one word for word,
            and what would hold its own answers against theirs is not measured.

    Returns:
        The responses, cut at the first token that ends one; several to one item are told apart by
        ``sample`` and put in its order. They count as finished unless
        ``finish_reason`` is ``"length"``.

    Raises:
        MeasureError: One sentence per line that cannot be used, the first few of them.
    """
    file = path_of(path, MeasureError)
    content = read_bytes(file)
    found: dict[tuple[str, int], Generation] = {}
    scores: dict[tuple[str, int], float] = {}
    faults: list[str] = []
    for where, line in lines_of(file, content):
        try:
            for record in read_line(line, where):
                item, made = _generation(mllm, record, where)
                score = _score(record, where)
                _keep(found, item, record, made, where)
                if score is not None:
                    scores[next(reversed(found))] = score
        except MeasureError as error:
            faults.append(str(error))
    if faults:
        more = f"\n... and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise MeasureError("\n".join(faults[:_SHOWN]) + more)
    if not found:
        raise MeasureError(f"Generations {file} holds no response; it needs one object per line.")
    if scores and len(scores) < len(found):
        without = [item for item, sample in found if (item, sample) not in scores]
        raise MeasureError(
            f"{len(without)} of {len(found)} responses of {file} have no correct ({few(without)}) "
            "and the others do; give it for all, or for none."
        )
    by_item: dict[str, list[Generation]] = {item: [] for item, _ in found}
    given: dict[str, list[float]] = {item: [] for item, _ in scores}
    for item, sample in sorted(found, key=lambda key: key[1]):
        by_item[item].append(found[item, sample])
        if scores:
            given[item].append(scores[item, sample])
    return Generations(
        {item: made[0] for item, made in by_item.items()},
        foreign,
        hashlib.sha256(content).hexdigest(),
        {item: tuple(made[1:]) for item, made in by_item.items() if len(made) > 1},
        {item: tuple(own) for item, own in given.items()},
    )


def _score(record: Mapping[str, Any], where: str) -> float | None:
    """The score that came with a response."""
    given = record.get("correct")
    if given is None:
        return None
    if not isinstance(given, bool | int | float) or not 0 <= given <= 1:
        raise MeasureError(
            f"{where}: correct is {given!r:.60}; expected true, false or a score from 0 to 1."
        )
    return float(given)


def _generation(mllm: Mllm, record: Mapping[str, Any], where: str) -> tuple[str, Generation]:
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
        text = mllm.format.without_opening(text)
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
        decoded = mllm.format.with_opening(decoded)
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
