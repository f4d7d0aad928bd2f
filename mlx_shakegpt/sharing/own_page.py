"""A guard before the server: it answers its own page, and no other site's in the same browser.

A foreign page may send requests here, and one whose name is bound anew to this machine (DNS
rebinding) may also read the answers; the names that a browser sends along give both away.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from ipaddress import ip_address

from .request_limits import Message, Receive, Send

LOOPBACK = frozenset(("127.0.0.1", "localhost", "[::1]"))
UPLOADS = "/gradio_api/upload"


class OwnNames:
    """Who may ask a server that listens on `host`.

    A server on a loopback address has the loopback names, with its port. One on another address
    has every address, as rebinding needs a name, and the machine's own names, with any port, as
    ports may be forwarded.
    """

    def __init__(self, host: str) -> None:
        self.local = host in LOOPBACK or _is_loopback(host)
        machine = socket.gethostname().lower()
        self.names = LOOPBACK | {host.lower()}
        if not self.local:
            self.names |= {machine, f"{machine}.local", socket.getfqdn().lower()}

    def objection(self, scope: Message) -> tuple[int, str] | None:
        """Why a request, an ASGI scope with `headers` and `server`, is not answered, with the
        status that says so: 421 under another name than the server's, 403 of another site."""
        hosts = _values(scope, b"host")
        if len(hosts) != 1 or not self._is_own(hosts[0], scope["server"][1]):
            return 421, "this server does not go by that name and port"
        origins = _values(scope, b"origin")
        if any(origin != f"http://{hosts[0]}" for origin in origins):
            return 403, "another site's page may not ask here"
        sites = set(_values(scope, b"sec-fetch-site"))
        opened = _values(scope, b"sec-fetch-dest") == ["document"]  # as by a link
        if not sites <= {"same-origin", "none"} and not opened:
            return 403, "another site's page may not ask here"
        return None

    def _is_own(self, host: str, port: int | None) -> bool:
        """Whether the server goes by a Host header's name and port."""
        name, colon, its_port = host.rpartition(":")
        if not colon or its_port.endswith("]"):
            name, its_port = host, "80"
        if self.local:
            return name in self.names and its_port == str(port)
        return name in self.names or _is_address(name)


class OwnPage:
    """Refuses requests to which OwnNames objects, and any upload with 404 (an ASGI middleware).

    With `host` None, where a proxy decides who may ask, only uploads are refused.
    """

    def __init__(
        self, app: Callable[[Message, Receive, Send], Awaitable[None]], host: str | None
    ) -> None:
        self.app, self.own = app, OwnNames(host) if host is not None else None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        objection = None if scope["type"] == "lifespan" else self._objection(scope)
        if objection is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            status, why = objection
            headers = [(b"content-type", b"text/plain"), (b"connection", b"close")]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": f"{why}\n".encode()})

    def _objection(self, scope: Message) -> tuple[int, str] | None:
        if UPLOADS in scope["path"]:
            return 404, "nothing can be uploaded here"
        return self.own.objection(scope) if self.own else None


def _values(scope: Message, name: bytes) -> list[str]:
    """The values of a header, in lower case."""
    return [value.decode("latin-1").lower() for key, value in scope["headers"] if key == name]


def _is_address(name: str) -> bool:
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return _is_address(host) and ip_address(host.strip("[]")).is_loopback
