"""The studio's server: this machine and its token only; events arrive as they are told."""

import http.client
import json
import struct
import threading
from html import unescape

import pytest

from attcot_analysis import cli
from attcot_analysis.errors import ShowError
from attcot_analysis.show import html
from attcot_analysis.show.studio.parts import studio_script
from attcot_analysis.show.studio.server import LARGEST, StudioServer
from attcot_analysis.show.studio.session import StudioSession


class Session:
    """One without a model."""

    def __init__(self):
        self.heard, self.ended = [], threading.Event()

    def about(self):
        return {"model": "</script><b>x", "formats": [""], "fills": [], "question": ""}

    def handle(self, message, data, tell):
        self.heard.append((message, data))
        for at in range(message.get("n", 0)):
            tell({"kind": "token", "at": at}, bytes(at))
            if self.ended.is_set():
                return

    def stop(self):
        self.ended.set()


@pytest.fixture
def server():
    made = StudioServer(Session())
    thread = threading.Thread(target=made.serve, daemon=True)
    thread.start()
    yield made
    made.close()
    thread.join(5)
    assert not thread.is_alive()


def ask(server, method="POST", path="message", body=b"{}\n", token=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    name = server.token if token is None else token
    connection.request(method, f"/{name}/{path}", body, headers)
    answer = connection.getresponse()
    read = answer.read()
    connection.close()
    return answer, read


def events(data):
    found = []
    while data:
        text, own = struct.unpack("<II", data[:8])
        found.append((json.loads(data[8 : 8 + text]), data[8 + text : 8 + text + own]))
        data = data[8 + text + own :]
    return found


def test_the_page_allows_its_own_script_and_this_server_only(server):
    answer, page = ask(server, "GET", "", None)
    text = unescape(page.decode())
    assert answer.status == 200 and answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Cache-Control"] == "no-store"
    script = studio_script("studioPage();")
    assert html.script_source(script) in text and script in text
    policy = text.split('http-equiv="Content-Security-Policy" content="')[1].split('"')[0]
    assert policy.startswith("default-src 'none'; img-src data: blob:;")
    assert "connect-src 'self'" in policy and "unsafe-eval" not in policy
    assert b"<b>x" not in page and "export default" not in script


def test_messages_and_events_with_their_bytes_go_through(server):
    body = b'{"kind": "ask", "n": 3}\n\x00\n\xff'
    answer, read = ask(server, body=body)
    assert answer.status == 200
    assert server.session.heard == [({"kind": "ask", "n": 3}, b"\x00\n\xff")]
    assert events(read) == [({"kind": "token", "at": at}, bytes(at)) for at in range(3)]


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"token": "wrong"}, 404),
        ({"token": ""}, 404),
        ({"path": "other"}, 404),
        ({"Host": "evil.example"}, 404),
        ({"Host": "evil.example:80"}, 404),
        ({"Origin": "https://evil.example"}, 404),
        ({"Origin": "null"}, 404),
        ({"method": "PUT"}, 501),
        ({"body": b"no json\n"}, 400),
        ({"body": b"[]\n"}, 400),
        ({"body": b"\xff\xfe"}, 400),
    ],
)
def test_nobody_else_is_answered(server, change, status):
    answer, _ = ask(server, **change)
    assert answer.status == status and server.session.heard == []


def test_too_much_is_refused_before_it_is_read(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.putrequest("POST", f"/{server.token}/message")
    connection.putheader("Content-Length", str(LARGEST + 1))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


def test_its_own_page_may_ask_under_both_names(server):
    for host in (f"127.0.0.1:{server.port}", f"localhost:{server.port}"):
        answer, _ = ask(server, Host=host, Origin=f"http://{host}")
        assert answer.status == 200
    assert len(server.token) >= 32 and server.address.endswith(f"/{server.token}/")
    assert StudioServer(Session()).token != server.token


def test_who_leaves_stops_the_model(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("POST", f"/{server.token}/message", b'{"n": 100000}\n')
    connection.getresponse().read(8)
    connection.close()
    assert server.session.ended.wait(10)


def test_a_port_that_is_taken_or_none_is_told(server):
    for port in (server.port, -1, 99_999):
        with pytest.raises(ShowError, match=f"Port {port} cannot be listened on"):
            StudioServer(Session(), port)


def test_the_command_says_where_it_is_and_ends_with_a_sentence(random_mllm, monkeypatch, capsys):
    monkeypatch.setattr("attcot_analysis.models.load_mllm", lambda *_, **__: random_mllm)
    # Ctrl-C.
    monkeypatch.setattr(
        "http.server.ThreadingHTTPServer.serve_forever",
        lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt),
    )
    assert cli.main(["studio", "tiny"]) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("Studio: http://127.0.0.1:") and first.endswith("/ (Ctrl-C ends it)")
    assert last == "The studio is closed."
    assert cli.main(["studio", "tiny", "--picture", "nowhere.png"]) == 1
    assert "nowhere.png" in capsys.readouterr().err


def test_what_is_offered_can_be_asked_for(random_mllm):
    from attcot_analysis.problems import FORMATS
    from attcot_analysis.problems.fills import FILLS

    about = StudioSession(random_mllm).about()
    assert set(about["formats"]) == {"", *FORMATS}
    assert {name for name, _ in about["fills"]} == set(FILLS)
