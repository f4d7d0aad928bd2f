"""What a visitor may ask for, and a guard before the server that holds requests to a size."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

LONGEST_PROMPT = 2000  # characters
MOST_TOKENS = 400
WAITING = 16  # visitors in the queue
LARGEST_REQUEST = 64 * 1024  # bytes

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class LimitedRequests:
    """Refuses a request whose body is larger than LARGEST_REQUEST, with status 413 (an ASGI
    middleware)."""

    def __init__(self, app: Callable[[Message, Receive, Send], Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > LARGEST_REQUEST:
            await _refuse(send)
            return
        received, answered = 0, False

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            # A body that is longer than it said, or did not say: for the server it breaks off.
            return message if received <= LARGEST_REQUEST else {"type": "http.disconnect"}

        async def once(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        try:
            await self.app(scope, counted, once)
        except Exception:
            if received <= LARGEST_REQUEST or answered:
                raise
            await _refuse(send)


async def _refuse(send: Send) -> None:
    headers = [(b"content-type", b"text/plain"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": b"the request is too large\n"})
