"""`StudioServer`: the studio as a page of its own, on this machine and for one who knows its path.

It listens on 127.0.0.1. Its path holds a random token, without which nothing is answered; requests
under another host's name, or from another page, are refused; and the page's policy lets it load
nothing and talk to nobody but this server.
"""

import json
import secrets
import struct
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from markupsafe import Markup

from attcot_analysis.errors import ShowError
from attcot_analysis.show import html
from attcot_analysis.show.explorer.page import json_text
from attcot_analysis.show.studio.parts import studio_script, studio_style
from attcot_analysis.show.studio.session import StudioSession

LARGEST = 64_000_000
"""Bytes of a message, most of them a picture's."""


class StudioServer:
    """A local page over a session.

    Attributes:
        session: What is served.
        address: Where to open it, token included.
    """

    def __init__(self, session: StudioSession, port: int = 0) -> None:
        """Listen; nothing is answered before `serve`.

        Args:
            session: What is served.
            port: 0 for any that is free.

        Raises:
            ShowError: If the port is taken.
        """
        self.session = session
        self.token = secrets.token_urlsafe(24)
        server = self

        class Handler(_Handler):
            studio = server

        try:
            self._http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", "it must be 0 to 65535")
            raise ShowError(
                f"Port {port} cannot be listened on ({reason}); give another, or 0 for any."
            ) from error
        self._http.daemon_threads = True
        self.port = self._http.server_address[1]
        self.address = f"http://127.0.0.1:{self.port}/{self.token}/"

    def serve(self) -> None:
        """Answer until `close` or Ctrl-C."""
        try:
            self._http.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            pass
        finally:
            self._http.server_close()

    def close(self) -> None:
        """End `serve`, from another thread."""
        self._http.shutdown()

    def page(self) -> str:
        """The page, with a policy that allows its own script and this server only."""
        script = studio_script("studioPage();")
        policy = (
            "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
            f"script-src {html.script_source(script)}; connect-src 'self'; base-uri 'none'; "
            "form-action 'none'"
        )
        about = self.session.about()
        values = {
            "title": f"Studio: {about['model']}",
            "policy": policy,
            "style": Markup(studio_style()),
            "about": Markup(json_text(about)),
            "script": Markup(script),
        }
        return str(html.render("studio/templates/studio.html.j2", values))


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    studio: StudioServer

    def do_GET(self) -> None:
        """Answer with the page."""
        if self._may("/"):
            self._head("text/html; charset=utf-8")
            self.wfile.write(self.studio.page().encode())

    def do_POST(self) -> None:
        """Pass a message on, and answer with its events as they come."""
        if not self._may("/message"):
            return
        size = self.headers.get("Content-Length", "")
        if not size.isdecimal() or int(size) > LARGEST:
            self.send_error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            return
        head, _, data = self.rfile.read(int(size)).partition(b"\n")
        try:
            message = json.loads(head)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            self.send_error(HTTPStatus.BAD_REQUEST)
            return
        self._head("application/octet-stream")
        gone = False

        def tell(event: Mapping[str, Any], own: bytes) -> None:
            nonlocal gone
            if gone:
                return
            text = json.dumps(event, allow_nan=False).encode()
            try:
                self.wfile.write(struct.pack("<II", len(text), len(own)) + text + own)
                self.wfile.flush()
            except OSError:
                # Nobody waits for the rest: the page was closed or loaded again.
                gone = True
                self.studio.session.stop()

        self.studio.session.handle(message, data, tell)

    def _may(self, path: str) -> bool:
        """Whether a request comes from our own page; else it is answered."""
        studio = self.studio
        hosts = [f"{name}:{studio.port}" for name in ("127.0.0.1", "localhost")]
        origin = self.headers.get("Origin")
        own = self.headers.get("Host") in hosts
        own &= origin is None or origin.removeprefix("http://") in hosts
        wanted = f"/{studio.token}{path}"
        if not own or not secrets.compare_digest(self.path.encode(), wanted.encode()):
            self.send_error(HTTPStatus.NOT_FOUND)
            return False
        return True

    def _head(self, kind: str) -> None:
        self.send_response(HTTPStatus.OK)
        for name, value in (
            ("Content-Type", kind),
            ("Cache-Control", "no-store"),
            ("Referrer-Policy", "no-referrer"),
            ("X-Content-Type-Options", "nosniff"),
            ("X-Frame-Options", "DENY"),
            ("Connection", "close"),
        ):
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing for each request."""
