"""Responses of a server that speaks OpenAI's protocol: vLLM, SGLang, llama.cpp and others.

Requests are those of `attcot_analysis.runs.generations.requests`; what comes back is written line
by line in the form of a batch's output, which `read_generations` reads. Asked again, only what is
missing is asked for.
"""

import hashlib
import http.client
import json
import os
import random
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from attcot_analysis.errors import MeasureError, RunError, writing
from attcot_analysis.files import open_to_append
from attcot_analysis.runs.generations import URL, batch_records
from attcot_analysis.runs.parts import few

KEYS = ("ATTCOT_API_KEY", "OPENAI_API_KEY")
"""Environment variables that may hold the server's key; the first that is set is sent."""

_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
"""Answers of a server that may be another one later."""
_STOP = frozenset({401, 403, 404, 405})
"""Answers that every request would get."""
_LONGEST_WAIT = 60.0
_LARGEST = 64 << 20


class _Unreachable(RunError):
    """The server does not answer, or refuses whatever it is asked."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A key must not be sent on to wherever a server points."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def ask_server(
    server: str,
    requests: Iterable[Mapping[str, Any]],
    path: str | Path,
    *,
    at_once: int = 8,
    tries: int = 6,
    pause: float = 1.0,
    timeout: float = 600.0,
) -> int:
    """Ask a server for responses and write them to a file; called again it asks for the rest.

    What fails for a moment (no connection, a full queue, half an answer) is tried again, after
    pauses that double. The key is taken from the environment (`KEYS`) and is written nowhere.

    Args:
        server: Its address, such as ``http://localhost:8000``, with or without ``/v1``.
        requests: From `attcot_analysis.runs.generations.requests`; made as they are sent.
        path: JSON lines, in the form that `read_generations` reads.
        at_once: How many requests are under way at most.
        tries: How often each is sent at most.
        pause: Seconds before the second try.
        timeout: Seconds in which an answer must come.

    Returns:
        How many responses were asked for in this call.

    Raises:
        MeasureError: If the address or a number makes no sense, or the file holds answers to other
            requests.
        RunError: If the server is not there, refuses everything, or some items got no response;
            what was answered is kept.
    """
    if at_once < 1 or tries < 1:
        raise MeasureError(f"at_once={at_once} and tries={tries} must be at least 1.")
    post = _Post(_address(server), tries, pause, timeout)
    target = Path(path)
    if target.is_dir():
        raise RunError(f"{target} is a folder; name a file (.jsonl) for the responses.")
    with writing(target):
        lines = open_to_append(target)
    failed: dict[str, str] = {}
    asked = 0
    under_way: set[Future[tuple[Mapping[str, Any], str]]] = set()
    with lines as file, ThreadPoolExecutor(at_once) as threads:
        done = _answered(target)
        try:
            for request in requests:
                name, digest = str(request["custom_id"]), _digest(request)
                if name in done:
                    if done[name] != digest:
                        raise MeasureError(
                            f"{target} holds an answer to another request for item {name} (another "
                            "model, prompt, picture or setting); write to another file."
                        )
                    continue
                if len(under_way) >= at_once:
                    _collect(under_way, file, failed)
                under_way.add(threads.submit(post, request, digest))
                asked += 1
            while under_way:
                _collect(under_way, file, failed)
        except BaseException:
            post.stopped.set()
            for one in under_way:
                one.cancel()
            # Those that were sent are waited for in any case, and may be paid for.
            for one in wait(under_way).done:
                if not (one.cancelled() or one.exception()):
                    _keep(one, file, failed)
            raise
    if failed:
        name, why = next(iter(failed.items()))
        raise RunError(
            f"{len(failed)} of {asked} items got no response ({few(list(failed))}; {name}: {why}); "
            f"the others are in {target}, and the same command asks for these again."
        )
    return asked


def _collect(
    under_way: set[Future[tuple[Mapping[str, Any], str]]], file: IO[str], failed: dict[str, str]
) -> None:
    """Write what has been answered, which then is no longer under way."""
    finished, rest = wait(under_way, return_when=FIRST_COMPLETED)
    under_way.clear()
    under_way |= rest
    # What was answered is written before another's failure ends all.
    for one in sorted(finished, key=lambda one: one.exception() is not None):
        _keep(one, file, failed)


def _keep(
    one: Future[tuple[Mapping[str, Any], str]], file: IO[str], failed: dict[str, str]
) -> None:
    line, why = one.result()
    if why:
        failed[line["custom_id"]] = why
    else:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")
        file.flush()


class _Post:
    """Sends requests, each as often as it takes."""

    def __init__(self, address: str, tries: int, pause: float, timeout: float) -> None:
        self.address, self.tries, self.pause, self.timeout = address, tries, pause, timeout
        self.stopped = threading.Event()
        given = ((name, os.environ.get(name, "").strip()) for name in KEYS)
        name, self._key = next((one for one in given if one[1]), ("", ""))
        if not re.fullmatch("[ -~]*", self._key):
            raise MeasureError(
                f"The key in {name} holds a sign that no key can, such as a line's end or a "
                "typographic dash; set it again."
            )
        self._opener = urllib.request.build_opener(_NoRedirect)

    def __call__(self, request: Mapping[str, Any], digest: str) -> tuple[Mapping[str, Any], str]:
        """The line to write, and why there is no response; empty if there is one."""
        why, reached = "", False
        for turn in range(self.tries):
            wait_for = self.pause * 2**turn * random.uniform(0.8, 1.2)
            try:
                body = self._send(request["body"])
                line = {
                    "custom_id": request["custom_id"],
                    "response": {"status_code": 200, "body": body},
                    "request": digest,
                }
                json.dumps(line, ensure_ascii=False).encode("utf-8")
                records = batch_records(line, "the answer")
                n, came = request["body"].get("n", 1), len(records)
                if came == n and {one.get("sample", 0) for one in records} == {*range(n)}:
                    return line, ""
                reached, why = True, f"{came} of {n} responses came"
                why += ", not numbered from 0" * (came == n)
            except urllib.error.HTTPError as error:
                reached, why = True, self._said(error)
                if error.code in _STOP or 300 <= error.code < 400:
                    raise _Unreachable(
                        f"The server refuses every request ({why}); check its address, the name "
                        f"of the model and the key ({' or '.join(KEYS)})."
                    ) from None
                if error.code not in _AGAIN:
                    break
                wait_for = max(wait_for, _retry_after(error))
            except MeasureError as error:
                reached, why = True, self._hidden(str(error))
            except UnicodeError:
                reached, why = True, "what came is no text in Unicode"
            except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
                cause = getattr(error, "reason", error)
                why = self._hidden(f"{type(cause).__name__}: {cause}")
                hung_up = isinstance(error, http.client.HTTPException)
                reached |= hung_up or not isinstance(error, OSError)
            if turn + 1 == self.tries or self.stopped.wait(min(wait_for, _LONGEST_WAIT)):
                break
        if not reached:
            raise _Unreachable(
                f"The server does not answer ({why}); start it, or check its address. What was "
                "answered is kept, and the same command asks for the rest."
            )
        return {"custom_id": request["custom_id"]}, why

    def _send(self, body: Mapping[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        data = json.dumps(body).encode("utf-8")
        sent = urllib.request.Request(self.address, data, headers, method="POST")
        with self._opener.open(sent, timeout=self.timeout) as answer:
            content = self._read(answer)
        return json.loads(content)

    def _read(self, answer: http.client.HTTPResponse) -> bytes:
        """The whole answer, however slowly it comes: `timeout` holds for every read as well."""
        content, until = bytearray(), time.monotonic() + self.timeout
        while block := answer.read1(2**16):
            content += block
            if len(content) > _LARGEST:
                raise MeasureError(f"more than {_LARGEST >> 20} MiB came")
            if time.monotonic() > until:
                raise MeasureError(f"no whole answer came in {self.timeout:g} s")
        return bytes(content)

    def _said(self, error: urllib.error.HTTPError) -> str:
        try:
            text = error.read(2000).decode("utf-8", "replace")
        except (OSError, http.client.HTTPException):
            text = ""
        return self._hidden(f"{error.code} {' '.join(text.split())[:160]}".strip())

    def _hidden(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


def _retry_after(error: urllib.error.HTTPError) -> float:
    try:
        return float(error.headers.get("Retry-After", 0))
    except ValueError:
        return 0.0


def _address(server: str) -> str:
    try:
        parts = urlsplit(server)
        named = (parts.hostname or "").encode("idna")
        whole = named and parts.port != 0 and not re.search(r"\s", server)
    except ValueError:  # Half an IPv6 address, a port that is none, a name that is none.
        whole = False
    if not whole or parts.scheme not in ("http", "https") or "@" in parts.netloc:
        raise MeasureError(
            "The server's address must begin with http:// or https:// and hold no key or password, "
            f"such as http://localhost:8000; a key belongs into {KEYS[0]}."
        )
    return server.rstrip("/").removesuffix("/v1") + URL


def _digest(request: Mapping[str, Any]) -> str:
    body = json.dumps(request["body"], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(body.encode("utf-8")).hexdigest()


def _answered(path: Path) -> dict[str, str]:
    """Items that a file holds → the digest of their request; a line torn by a kill is removed."""
    done, whole = {}, 0
    content = path.read_bytes()
    for number, line in enumerate(content.splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            break
        if not line.strip():
            whole += len(line)
            continue
        try:
            record = json.loads(line)
            done[str(record["custom_id"])] = str(record["request"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise MeasureError(
                f"Line {number} of {path} is no answer that was asked for here; write to another "
                "file."
            ) from None
        whole += len(line)
    if whole < len(content):
        os.truncate(path, whole)
    return done
