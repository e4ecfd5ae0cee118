"""Problems as the input of an OpenAI-compatible batch runner, and its output as generations.

A line of the input is one request, whose ``custom_id`` is the item's; a line of the output is what
was answered to one. The fields beyond OpenAI's are those of vLLM from version 0.10.2 on:
``return_token_ids`` in the request, ``token_ids`` in the choice that answers it.
"""

import base64
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from attcot_analysis.errors import MeasureError
from attcot_analysis.files import write_whole
from attcot_analysis.models import Mode
from attcot_analysis.models.inputs import build_messages
from attcot_analysis.problems import Problem
from attcot_analysis.problems.folder import IMAGES
from attcot_analysis.problems.pictures import is_plain

URL = "/v1/chat/completions"
_TOKEN = re.compile(r"token_id:(\d+)")


def write_requests(
    path: str | Path,
    problems: Sequence[Problem],
    *,
    model: str,
    mode: Mode = "cot",
    text_only: bool = False,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    seed: int = 0,
    folder: str | Path | None = None,
) -> Path:
    """Write problems as requests of a batch, with the prompts that are used here.

    The checkpoint's own sampling settings, which vLLM takes over by itself, are switched off as
    they are in `generate`, and special tokens stay in the text, so that it can be held against
    the tokens.

    Args:
        path: New file, JSON lines.
        problems: The items.
        model: The name that the server serves the model by; for vLLM what it was started with.
        mode: ``"cot"`` or ``"direct"``.
        text_only: Leave the pictures out.
        max_new_tokens: Length limit of a response.
        temperature: 0 for greedy.
        seed: Of sampling.
        folder: The problem folder, to name its pictures instead of holding them: vLLM must then
            be started with ``--allowed-local-media-path`` on the same disk. Those that are not
            plain RGB or grey are held all the same.

    Returns:
        The file.

    Raises:
        MeasureError: If the file is there already, there are no problems, or a number is out of
            range.
        RunError: If it cannot be written.
    """
    target = _new_file(path)
    if not problems:
        raise MeasureError("There are no problems to ask about; give at least one.")
    if max_new_tokens < 1 or temperature < 0:
        raise MeasureError(
            f"max_new_tokens={max_new_tokens} and temperature={temperature} must be at least 1 "
            "and 0."
        )
    settings = {
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

    def write(part: Path) -> None:
        with part.open("w", encoding="utf-8") as file:
            for problem in problems:
                body = {"model": model, "messages": _messages(problem, mode, text_only, folder)}
                line = {"custom_id": problem.id, "method": "POST", "url": URL}
                file.write(json.dumps({**line, "body": body | settings}, ensure_ascii=False) + "\n")

    write_whole(target, write)
    return target


def _new_file(path: str | Path) -> Path:
    target = Path(path)
    if target.exists():
        raise MeasureError(f"{target} exists already; remove it or choose another file.")
    return target


def _messages(
    problem: Problem, mode: Mode, text_only: bool, folder: str | Path | None
) -> list[dict[str, Any]]:
    messages = build_messages(problem.question, mode, n_images=0 if text_only else 1)
    for message in messages:
        message["content"] = [
            {"type": "image_url", "image_url": {"url": _picture(problem, folder)}}
            if part["type"] == "image"
            else part
            for part in message["content"]
        ]
    return messages


def _picture(problem: Problem, folder: str | Path | None) -> str:
    """Where a problem's picture is to be found: a file's address, or the picture itself."""
    if folder is not None:
        file = (Path(folder) / IMAGES / f"{problem.id}.png").resolve()
        with Image.open(file) as image:
            if is_plain(image):
                return file.as_uri()
    held = io.BytesIO()
    problem.image.save(held, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(held.getvalue()).decode('ascii')}"


def batch_record(record: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A line of a batch's output as a line of generations: see `read_generations`.

    Args:
        record: The line.
        where: What to call it.

    Returns:
        ``id``, ``finish_reason``, ``model`` and, as far as the line has them, ``ids`` and ``text``.

    Raises:
        MeasureError: If the request has failed, or only a part of what was answered is there.
    """
    try:
        body = record["response"]["body"]
        choice = body["choices"][0]
        message = choice["message"]
        text, reason = message["content"], choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError):
        failed = record.get("error") or _refusal(record)
        raise MeasureError(
            f"{where} holds no response (error: {failed!r:.80}); ask for it again or leave the "
            "line out."
        ) from None
    found = {"id": record["custom_id"], "finish_reason": reason, "model": body.get("model")}
    ids = choice.get("token_ids")
    ids = _named_tokens(choice.get("logprobs")) if ids is None else ids
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
    file = Path(path)
    found: dict[str, Mapping[str, Any]] = {}
    faults: list[str] = []
    for where, line in lines_of(file, read_bytes(file)):
        try:
            record = read_line(line, where)
            item = record.get("id")
            if not isinstance(item, str) or not item:
                raise MeasureError(f"{where} does not say which item it answers; give custom_id.")
            if item in found:
                raise MeasureError(f"{where}: item {item!r} occurs twice; keep one response each.")
            found[item] = {"finish_reason": None, **record}
        except MeasureError as error:
            faults.append(str(error))
    missing = tuple(item for item in items if item not in found)
    return BatchOutput(tuple(found.values()), tuple(faults), missing)


def write_generations(path: str | Path, found: BatchOutput) -> Path:
    """Write a batch's responses as the JSON lines that `read_generations` reads.

    Raises:
        MeasureError: If the file is there already.
        RunError: If it cannot be written.
    """
    target = _new_file(path)
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in found.lines)
    write_whole(target, lambda part: part.write_text(text, encoding="utf-8"))
    return target


def read_bytes(file: Path) -> bytes:
    """The contents of a file of responses.

    Raises:
        MeasureError: If it cannot be read.
    """
    try:
        return file.read_bytes()
    except OSError as error:
        raise MeasureError(f"Generations {file} cannot be read ({error.strerror}).") from error


def lines_of(file: Path, content: bytes) -> Iterator[tuple[str, bytes]]:
    """Every line that is not empty, with what to call it."""
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            yield f"{file}, line {number}", line


def read_line(line: bytes, where: str) -> dict[str, Any]:
    """A line of either form as one of generations.

    Raises:
        MeasureError: If it is no JSON object, or of a batch and without response.
    """
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise MeasureError(f"{where} is not valid JSON: {error}.") from error
    if not isinstance(record, dict):
        raise MeasureError(f"{where} holds no JSON object; write one per response.")
    return batch_record(record, where) if "custom_id" in record else record
