"""Requests that are larger than they say, or do not say."""

import asyncio

import pytest

from mlx_shakegpt.sharing.own_page import OwnPage
from mlx_shakegpt.sharing.request_limits import LARGEST_REQUEST, LimitedRequests

PART = LARGEST_REQUEST // 4


def answered(headers=(), parts=1, app=None):
    """What is sent to a visitor with a body of so many parts, and how many of them were taken."""
    sent, taken = [], []

    async def receive():
        if len(taken) == parts:
            return {"type": "http.disconnect"}
        taken.append(1)
        return {"type": "http.request", "body": b"x" * PART, "more_body": len(taken) < parts}

    async def send(message):
        sent.append(message)

    async def reads_all(scope, receive, send):
        while (message := await receive())["type"] != "http.disconnect":
            if not message["more_body"]:
                break
        else:
            raise RuntimeError("the visitor has left")
        await send({"type": "http.response.start", "status": 200, "headers": []})

    scope = {"type": "http", "headers": list(headers)}
    asyncio.run(LimitedRequests(app or reads_all)(scope, receive, send))
    return [m["status"] for m in sent if "status" in m], len(taken)


def test_a_body_that_fits_is_passed_on():
    assert answered(parts=4) == ([200], 4)
    assert answered([(b"content-length", b"%d" % LARGEST_REQUEST)], 4) == ([200], 4)


@pytest.mark.parametrize("length", [b"%d" % (LARGEST_REQUEST + 1), b"-1", b"many", b""])
def test_a_length_that_is_too_large_or_none_is_refused_unread(length):
    assert answered([(b"content-length", length)]) == ([413], 0)


def test_a_body_in_parts_that_never_ends_breaks_off():
    assert answered(parts=10**9) == ([413], 5)
    assert answered([(b"content-length", b"7")], 10**9) == ([413], 5)


def test_an_error_of_the_page_itself_stays_one():
    async def fails(scope, receive, send):
        await receive()
        raise KeyError("page")

    with pytest.raises(KeyError, match="page"):
        answered(app=fails)


def test_a_websocket_of_another_site_is_closed():
    sent = []

    async def send(message):
        sent.append(message)

    async def app(scope, receive, send):
        sent.append("let in")

    scope = {"type": "websocket", "path": "/", "server": ("127.0.0.1", 7860), "headers": []}
    for host, expected in (
        (b"evil.example:7860", [{"type": "websocket.close", "code": 1008}]),
        (b"127.0.0.1:7860", ["let in"]),
    ):
        sent.clear()
        scope["headers"] = [(b"host", host)]
        asyncio.run(OwnPage(app, "127.0.0.1")(scope, None, send))
        assert sent == expected
