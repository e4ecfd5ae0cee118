"""`ask_server` against a server of our own that answers slowly, wrongly, partly, not at all."""

import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pandas as pd
import pytest

from attcot_analysis.cli import main
from attcot_analysis.errors import MeasureError, RunError
from attcot_analysis.measures.statements import perceptions
from attcot_analysis.problems import save_problems
from attcot_analysis.runs.generations import requests
from attcot_analysis.runs.server import ask_server
from attcot_lab.judge import judged
from attcot_lab.testbed.arrows import generate_arrows

KEY = "sk-not-to-be-seen"
PROBLEMS = generate_arrows(4, seed=0)


def answer(text="<think>\n1. a\n</think>\n<answer>red</answer>", n=1):
    choice = {"message": {"content": text}, "finish_reason": "stop", "token_ids": [1, 2]}
    return {"model": "m", "choices": [{**choice, "index": at} for at in range(n)]}


class Server(ThreadingHTTPServer):
    """Answers each request by `reply`, which is told how often the same one has come."""

    daemon_threads = True

    def __init__(self, reply):
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply, self.seen, self.keys = reply, Counter(), set()
        self.at_once = 0  # Bytes of an answer between two pauses, where it is to come slowly.
        self.now = self.most = 0
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server = self.server
        with server.lock:
            server.keys.add(self.headers.get("Authorization"))
            server.seen[body] += 1
            server.now += 1
            server.most = max(server.most, server.now)
            turn = server.seen[body]
        code, content, headers = server.reply(json.loads(body), turn)
        with server.lock:
            server.now -= 1
        if code is None:
            return
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        for name, value in ({"Content-Length": len(data)} | headers).items():
            self.send_header(name, str(value))
        self.end_headers()
        for at in range(0, len(data), server.at_once or len(data)):
            self.wfile.write(data[at : at + (server.at_once or len(data))])
            time.sleep(0.1 if server.at_once else 0.0)

    def log_message(self, *_):
        pass


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setenv("ATTCOT_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    servers = []

    def start(reply):
        servers.append(Server(reply))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def ask(server, path, problems=PROBLEMS, **options):
    given = {"tries": 3, "pause": 0.01, "timeout": 5.0, **options}
    url = server if isinstance(server, str) else server.url
    return ask_server(url, requests(problems, model="m"), path, **given)


def answered(path):
    return sorted(json.loads(line)["custom_id"] for line in path.read_text().splitlines())


def good(body, turn):
    return 200, answer(), {}


def test_an_answer_that_never_ends_is_given_up(serve, tmp_path):
    server, path = serve(good), tmp_path / "out.jsonl"
    server.at_once = 1
    with pytest.raises(RunError, match=r"no whole answer came in 0\.5 s"):
        ask(server, path, PROBLEMS[:1], timeout=0.5, tries=2)
    assert set(server.seen.values()) == {2}


def test_every_item_is_asked_once_with_its_picture_and_the_key(serve, tmp_path):
    def slow(body, turn):
        time.sleep(0.1)
        return good(body, turn)

    server, path = serve(slow), tmp_path / "out.jsonl"
    assert ask(server, path, at_once=2) == len(PROBLEMS)
    assert answered(path) == sorted(one.id for one in PROBLEMS)
    assert server.most == 2 and set(server.seen.values()) == {1}
    assert server.keys == {f"Bearer {KEY}"} and KEY not in path.read_text()
    assert all(b"data:image/png;base64," in body for body in server.seen)
    assert ask(server, path) == 0


@pytest.mark.parametrize(
    "bad",
    [
        (503, {"error": "busy"}, {}),
        (429, {"error": "busy"}, {"Retry-After": "0"}),
        (200, b'{"choices": [{"mess', {}),
        (200, b"short", {"Content-Length": 4000}),
        (200, b"[" * 100_000, {}),
        (200, {"choices": []}, {}),
        (200, {"error": {"message": "overloaded"}}, {}),
        (200, answer(n=2), {}),
        (200, answer("half a sign: \ud83d"), {}),
        (200, {"choices": [{"message": {"content": ["red"]}, "finish_reason": "stop"}]}, {}),
        (None, b"", {}),
    ],
)
def test_what_fails_for_a_moment_is_asked_again(serve, tmp_path, bad):
    server = serve(lambda body, turn: bad if turn == 1 else good(body, turn))
    assert ask(server, tmp_path / "out.jsonl") == len(PROBLEMS)
    assert set(server.seen.values()) == {2}


def test_one_item_that_is_refused_does_not_stop_the_others(serve, tmp_path):
    def refuse(body, turn):
        first = PROBLEMS[0].question in json.dumps(body) and not server.seen.total() > 1
        return (400, {"error": f"picture too large for {KEY}"}, {}) if first else good(body, turn)

    server, path = serve(refuse), tmp_path / "out.jsonl"
    with pytest.raises(RunError, match=r"1 of 4 items got no response.*too large") as error:
        ask(server, path, at_once=1)
    assert KEY not in str(error.value)
    assert answered(path) == sorted(one.id for one in PROBLEMS[1:])
    server.reply = good
    assert ask(server, path) == 1
    assert answered(path) == sorted(one.id for one in PROBLEMS)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ((401, {"error": KEY}, {}), "refuses every request.*401"),
        ((302, b"", {"Location": "http://127.0.0.1:9/"}), "refuses every request.*302"),
    ],
)
def test_a_server_that_refuses_everything_is_left_at_once(serve, tmp_path, reply, message):
    server = serve(lambda body, turn: reply)
    with pytest.raises(RunError, match=message) as error:
        ask(server, tmp_path / "out.jsonl", tries=2, at_once=1)
    assert KEY not in str(error.value)
    assert len(server.seen) <= 2


def test_what_was_under_way_when_another_was_refused_is_kept(serve, tmp_path):
    def reply(body, turn):
        refused = PROBLEMS[0].question in json.dumps(body)
        time.sleep(0.1 if refused else 0.4)
        return (403, {"error": "no"}, {}) if refused else good(body, turn)

    server, path = serve(reply), tmp_path / "out.jsonl"
    with pytest.raises(RunError, match="refuses every request"):
        ask(server, path)
    assert answered(path) == sorted(one.id for one in PROBLEMS[1:])


@pytest.mark.parametrize("key", ["sk-se\rcret", "sk-secret\u2026"])
def test_a_key_that_is_none_is_refused_and_not_shown(serve, tmp_path, monkeypatch, key):
    server = serve(good)
    monkeypatch.setenv("ATTCOT_API_KEY", key)
    with pytest.raises(MeasureError, match=r"The key in ATTCOT_API_KEY .* set it again") as error:
        ask(server, tmp_path / "out.jsonl")
    assert "cret" not in str(error.value) and not server.seen
    # Only a line's end that came with it from a file is no part of it.
    monkeypatch.setenv("ATTCOT_API_KEY", f"{KEY}\n")
    assert ask(server, tmp_path / "out.jsonl") == 4 and server.keys == {f"Bearer {KEY}"}


def test_a_server_that_hangs_up_on_everyone_is_given_up(serve, tmp_path):
    server = serve(lambda body, turn: (None, b"", {}))
    with pytest.raises(RunError, match="4 of 4 items got no response"):
        ask(server, tmp_path / "out.jsonl", tries=2)
    assert set(server.seen.values()) == {2}


def test_nobody_there_and_an_answer_that_takes_too_long_are_said(serve, tmp_path):
    with pytest.raises(RunError, match="does not answer"):
        ask("http://127.0.0.1:9", tmp_path / "out.jsonl", tries=1)
    sleepy = serve(lambda body, turn: time.sleep(0.5) or good(body, turn))
    with pytest.raises(RunError, match="does not answer"):
        ask(sleepy, tmp_path / "out.jsonl", tries=1, timeout=0.1)


def test_a_torn_line_is_asked_for_again_and_other_requests_are_refused(serve, tmp_path):
    server, path = serve(good), tmp_path / "out.jsonl"
    ask(server, path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert ask(server, path) == 1
    assert answered(path) == sorted(one.id for one in PROBLEMS)
    with pytest.raises(MeasureError, match="another request"):
        ask_server(server.url, requests(PROBLEMS, model="other"), path)
    path.write_text("{}\n")
    with pytest.raises(MeasureError, match="Line 1"):
        ask(server, path)


@pytest.mark.parametrize(
    "url",
    [
        *("localhost:8000", "ftp://host", "http://me:secret@host", "http://[::1"),
        *("http://host:99999", "http://h\n:80", "http://a..b"),
    ],
)
def test_an_address_that_is_none_is_refused(tmp_path, url):
    with pytest.raises(MeasureError, match="must begin with http"):
        ask(url, tmp_path / "out.jsonl")


def test_the_command_asks_a_server(serve, tmp_path, capsys):
    server, out = serve(good), tmp_path / "responses.jsonl"
    save_problems(PROBLEMS, tmp_path / "problems")
    command = ["generate", "m", str(tmp_path / "problems"), "--out", str(out)]
    assert main([*command, "--server", f"{server.url}/v1", "--at-once", "2"]) == 0
    assert answered(out) == sorted(one.id for one in PROBLEMS)
    said = capsys.readouterr()
    assert "--generations" in said.out and KEY not in said.out + said.err


def test_a_judge_is_asked_once_for_every_step_and_held_against_people(serve, tmp_path):
    """A stub that judges by a word of the step, mumbles at times, and is told what to say."""

    def judge(body, turn):
        asked = body["messages"][0]["content"][1]["text"]
        step = asked.split("---")[1]
        told = "Hmm." if "mumble" in step else "unclear" if "hidden" in step else None
        return 200, answer(told or str("red" in step)), {}

    server, path = serve(judge), tmp_path / "verdicts.jsonl"
    steps = [["It is red.", "It is blue."], ["It is red."], ["mumble"], ["It is hidden."]]
    found = judged(server.url, "m", PROBLEMS, steps, path, pause=0.01)
    assert found.unread == 1 and server.seen.total() == 5
    assert server.keys == {f"Bearer {KEY}"} and KEY not in path.read_text() + repr(found)
    table = perceptions(PROBLEMS, steps, truth=found).table
    assert table["n_true"].tolist() == [1, 0, 1, 0, 0]
    assert table["n_false"].tolist() == [0, 1, 0, 0, 0]
    assert table["n_unchecked"].tolist() == [0, 0, 0, 1, 1]
    # What is kept is not asked again; another picture or judge would be.
    assert judged(server.url, "m", PROBLEMS, steps, path) == found and server.seen.total() == 5
    with pytest.raises(MeasureError, match="answer to another request"):
        judged(server.url, "other", PROBLEMS, steps, path)
    with pytest.raises(MeasureError, match=f"not asked about a step of item {PROBLEMS[0].id}"):
        found(PROBLEMS[0], "It is green.")
    rows = [(one.id, text) for one, texts in zip(PROBLEMS, steps, strict=True) for text in texts]
    labels = pd.DataFrame(rows, columns=["item", "text"]).assign(
        true=[True, False, True, True, True]
    )
    agreed = found.agreement_with(labels)
    assert agreed.agreement.value == agreed.kappa == 1 and (agreed.n, agreed.unclear) == (3, 2)
    # People who say the opposite: agreement and kappa by hand.
    agreed = found.agreement_with(labels.assign(true=[True, True, False, True, True]))
    assert agreed.agreement.value == pytest.approx((1 / 2 + 0) / 2)
    assert agreed.kappa == pytest.approx((1 / 3 - 5 / 9) / (1 - 5 / 9))
    assert "no verdict on 2 more" in str(agreed)
    with pytest.raises(MeasureError, match="missing columns: true, steps not judged: 0"):
        found.agreement_with(labels.drop(columns="true"))
