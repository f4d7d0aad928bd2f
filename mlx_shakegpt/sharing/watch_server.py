"""Serves the page that follows a run, on the standard library's server: a file, and three answers.

Nothing is loaded from outside, which the content security policy says too, and nothing is written.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import re
import socket
import socketserver
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ..run.watched_run import WatchedRun
from .own_page import OwnNames
from .stop_signals import interrupt_on_stop_signals

PAGE = Path(__file__).with_name("watch.html")
PORTS = range(7870, 7970)  # of which the first free one is taken
LARGEST_NUMBER = 10**9  # that a question may hold


class WatchServer(ThreadingHTTPServer):
    """The server of one run. `last_request` is when the page last asked something, by the monotonic
    clock, or 0."""

    daemon_threads = True

    def __init__(self, watched: WatchedRun, host: str, port: int) -> None:
        """Raises ValueError where host and port cannot be had."""
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.watched, self.own, self.last_request, self.timeout = watched, OwnNames(host), 0.0, 0.25
        self.page, self.policy = _page()
        try:
            super().__init__((host, port), _Answers)
        except OSError as error:
            raise ValueError(
                f"cannot listen on {host}, port {port}: {error.strerror or error}; choose another "
                "`port` or `host`"
            ) from error

    def server_bind(self) -> None:
        """Binds without HTTPServer's question for the machine's full name, which may take long."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    @property
    def address(self) -> str:
        """What to open in a browser on this machine."""
        name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.server_name, self.server_name)
        return f"http://{f'[{name}]' if ':' in name else name}:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A visitor that has left is no error, and another one is answered with a status."""

    def serve_while(self, condition: Callable[[], bool]) -> None:
        """Answers while the condition holds, and closes."""
        try:
            while condition():
                self.handle_request()
        finally:
            self.server_close()


def watch_server(watched: WatchedRun, host: str = "127.0.0.1", port: int | None = None) -> Any:
    """A server on a port, or on the first free one of PORTS, a WatchServer. Raises ValueError where
    there is none."""
    if port is not None:
        return WatchServer(watched, host, port)
    for free in PORTS[:-1]:
        try:
            return WatchServer(watched, host, free)
        except ValueError as error:
            if getattr(error.__cause__, "errno", None) != errno.EADDRINUSE:
                raise
    return WatchServer(watched, host, PORTS[-1])


def serve_until_interrupted(server: WatchServer) -> None:
    """Answers until Ctrl-C, SIGTERM or SIGHUP."""
    interrupt_on_stop_signals()
    try:
        server.serve_while(lambda: True)
    except KeyboardInterrupt:
        return


class _Answers(BaseHTTPRequestHandler):
    """One request; `server` is the WatchServer."""

    server: WatchServer
    server_version, sys_version, timeout = "shakegpt", "", 30

    def do_GET(self) -> None:
        headers = [(k.lower().encode(), v.encode("latin-1")) for k, v in self.headers.items()]
        scope = {"headers": headers, "server": self.server.server_address}
        if objection := self.server.own.objection(scope):
            self._send(objection[0], "text/plain", f"{objection[1]}\n".encode())
            return
        address = urlsplit(self.path)
        answer = {"/": self._page, "/progress": self._progress, "/map": self._map}
        answer["/tokens"] = self._tokens
        if address.path not in answer:
            self._send(404, "text/plain", b"there is no such page\n")
            return
        self.server.last_request = time.monotonic()
        try:
            answer[address.path](parse_qs(address.query, max_num_fields=8))
        except ValueError as error:
            self._send(400, "text/plain", f"{error}\n".encode())

    def log_message(self, *_: Any) -> None:
        """Says nothing of requests."""

    def _page(self, _: dict[str, list[str]]) -> None:
        self._send(200, "text/html; charset=utf-8", self.server.page)

    def _progress(self, query: dict[str, list[str]]) -> None:
        places = [_number(query, name) for name in ("steps", "evaluations", "samples")]
        generation = query.get("generation", [""])[0]
        self._send_json(self.server.watched.progress(generation, *places))

    def _map(self, _: dict[str, list[str]]) -> None:
        version, levels = self.server.watched.map()
        self._send(200, "application/octet-stream", levels, version)

    def _tokens(self, query: dict[str, list[str]]) -> None:
        start, stop = _number(query, "start"), _number(query, "stop")
        self._send_json(self.server.watched.tokens(start, stop))

    def _send_json(self, answer: dict[str, Any]) -> None:
        text = json.dumps(answer, allow_nan=False, separators=(",", ":"))
        self._send(200, "application/json", text.encode())

    def _send(self, status: int, kind: str, body: bytes, version: str = "") -> None:
        self.send_response(status)
        for name, value in (
            ("Content-Type", kind),
            ("Content-Length", str(len(body))),
            ("Content-Security-Policy", self.server.policy),
            ("Cache-Control", "no-store"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("Referrer-Policy", "no-referrer"),
            ("X-Content-Type-Options", "nosniff"),
            *((("ETag", f'"{version}"'),) if version else ()),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _number(query: dict[str, list[str]], name: str) -> int:
    """A whole number of a question, 0 without one. Raises ValueError for anything else."""
    text = query.get(name, ["0"])[0]
    if not (text.isascii() and text.isdigit() and int(text[:12]) <= LARGEST_NUMBER):
        raise ValueError(f"{name} must be a whole number up to {LARGEST_NUMBER:,}")
    return int(text)


def _page() -> tuple[bytes, str]:
    """The page, and the policy under which its own script and style run and nothing else does."""
    content = PAGE.read_bytes()
    own = {
        tag: " ".join(
            f"'sha256-{base64.b64encode(hashlib.sha256(part).digest()).decode()}'"
            for part in re.findall(rb"<%b>(.*?)</%b>" % (tag, tag), content, re.DOTALL)
        )
        for tag in (b"script", b"style")
    }
    return content, (
        f"default-src 'none'; script-src {own[b'script']}; style-src {own[b'style']}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
