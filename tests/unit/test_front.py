"""One application before others that take turns."""

import asyncio
from typing import Any

import pytest
from pydantic_core import from_json
from starlette.types import Receive, Scope, Send

from api.front import Front


async def ask(front: Front, path: str = "/", method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    """Send one request; return the answer."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await front({"type": "http", "path": path, "method": method, "state": {}}, receive, send)
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, b"".join(one.get("body", b"") for one in sent[1:])


class Named:
    """An application that says its name; with `endless`, when it is told to stop."""

    def __init__(self, name: str, *, endless: bool = False, deaf: bool = False) -> None:
        self.name = name
        self.endless = endless
        self.deaf = deaf
        self.asked = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.set()
        if self.deaf:
            await asyncio.Event().wait()
        if self.endless:
            await scope["state"]["stopping"].wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": self.name.encode()})


async def test_it_answers_itself_while_nobody_stands_behind_it() -> None:
    """G30 and PR7: alive, and 503 with what it does and when to come back."""
    front = Front()
    front.doing = "this node becomes the writer"

    status, headers, body = await ask(front, "/api/v1/db")

    assert (status, headers["content-type"], headers["retry-after"]) == (503, "application/problem+json", "2")
    assert from_json(body)["detail"] == "this node becomes the writer"
    assert int(headers["content-length"]) == len(body)
    assert (await ask(front, "/healthz"))[0] == 200
    assert (await ask(front, method="HEAD"))[2] == b""


async def test_applications_take_turns_and_endless_answers_end_with_theirs() -> None:
    front = Front()
    first = Named("first", endless=True)
    async with front.showing(first, shutdown_s=5):
        asked = asyncio.create_task(ask(front))
        await first.asked.wait()
    assert (await asked)[2] == b"first"
    assert (await ask(front))[0] == 503
    async with front.showing(Named("second"), shutdown_s=5):
        assert (await ask(front))[2] == b"second"


async def test_what_does_not_end_is_cut() -> None:
    """PR7: a change of roles waits for a bounded time."""
    front, deaf = Front(), Named("deaf", deaf=True)
    async with front.showing(deaf, shutdown_s=0.05):
        asked = asyncio.create_task(ask(front))
        await deaf.asked.wait()
    with pytest.raises(asyncio.CancelledError):
        await asked


async def test_endless_answers_end_when_the_process_stops() -> None:
    front, first = Front(), Named("first", endless=True)
    async with front.showing(first, shutdown_s=5):
        asked = asyncio.create_task(ask(front))
        await first.asked.wait()
        front.end()
        assert (await asked)[2] == b"first"
