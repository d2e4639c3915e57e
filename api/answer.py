"""How one answer goes out: whole, as a problem, or in parts that end when they must."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping, MutableMapping, Sequence
from typing import Any

from pydantic_core import to_json
from starlette.types import Receive, Send

from api.problems import ClientGone, encode_plain, encode_problem
from api.routes import HeaderLines, Reply, StreamReply, UpgradeReply
from api.tunnel import Tunnel
from schemas.problems import UNAUTHENTICATED, Problem

_REQUEST_ID = "x-request-id"


class Answer:
    """The answer to one request, and its status once it has begun."""

    def __init__(self, send: Send, request_id: str, headers: Mapping[str, str]) -> None:
        """`headers` go out with whatever is answered; problems as text if it is `plain`."""
        self.request_id = request_id
        self.headers = headers
        self.plain = False
        self.status: int | None = None
        self.principal: str | None = None  # who asked, for the log
        self._send = send

    async def problem(self, problem: Problem, headers: Mapping[str, str] | None = None) -> None:
        """Send a problem."""
        body, own = encode_plain(problem) if self.plain else encode_problem(problem, self.request_id)
        await self._whole(problem.status, body, {**own, **(headers or {})})

    async def reply(self, reply: Reply) -> None:
        """Send a whole reply."""
        complete = False
        try:
            if reply.body is None:
                await self._whole(reply.status, b"", reply.headers)
            else:
                body = reply.body if isinstance(reply.body, bytes) else to_json(reply.body)
                await self._whole(reply.status, body, reply.headers, reply.content_type)
            complete = True
        finally:
            await reply.over(complete=complete)

    async def stream(
        self, reply: StreamReply, receive: Receive, stopping: asyncio.Event, ended: Coroutine[Any, Any, None]
    ) -> None:
        """Send the parts until they end, the client leaves or its token ends, or, if endless, the node stops.

        Parts that were to come to an end and did not are cut off, so that nobody takes them for the whole.
        """
        complete = False
        token_ended = asyncio.ensure_future(ended)
        try:
            complete = await self._send_stream(reply, receive, stopping, token_ended)
            last = b""
            if not complete and reply.farewell is not None and _happened(token_ended):
                last = reply.farewell(
                    UNAUTHENTICATED.problem("the token ended, and the stream with it"), self.request_id
                )
            await self._send({"type": "http.response.body", "body": last, "more_body": False})
        except BaseException:
            complete = False
            raise
        finally:
            token_ended.cancel()
            await reply.over(complete=complete)

    async def upgrade(self, reply: UpgradeReply, tunnel: Tunnel | None, ended: Coroutine[Any, Any, None]) -> None:
        """Switch to another protocol, and speak it until it is over."""
        assert tunnel is not None
        self.status = 101
        token_ended = asyncio.ensure_future(ended)
        try:
            lines = {**self.headers, **reply.headers, _REQUEST_ID: self.request_id}.items()
            tunnel.open([(name.encode("latin-1"), value.encode("latin-1")) for name, value in lines])
            await reply.serve(token_ended)
        finally:
            await cancel_all([token_ended])

    async def _send_stream(
        self, reply: StreamReply, receive: Receive, stopping: asyncio.Event, token_ended: asyncio.Future[None]
    ) -> bool:
        """Send all but the end; return whether that was all there is."""
        await self._start(reply.status, reply.headers, reply.content_type)
        await self._send({"type": "http.response.body", "body": b"", "more_body": True})
        sending = asyncio.ensure_future(self._send_all(reply.chunks))
        leaving = asyncio.ensure_future(_disconnected(receive))
        watching = [sending, leaving, token_ended]
        if reply.endless:
            watching.append(asyncio.ensure_future(_is_set(stopping)))
        try:
            await asyncio.wait(watching, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancel_all(watching)
        if not sending.cancelled() and (error := sending.exception()):
            raise error
        if sending.cancelled() and not (reply.endless or _happened(leaving)):
            raise ClientGone
        return not (sending.cancelled() and reply.endless)  # who left may have had all: sending the end will tell

    async def _send_all(self, chunks: AsyncIterator[bytes]) -> None:
        async for chunk in chunks:
            if chunk:
                await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def _whole(self, status: int, body: bytes, headers: HeaderLines, content_type: str = "") -> None:
        await self._start(status, headers, content_type, (b"content-length", b"%d" % len(body)))
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def _start(
        self, status: int, headers: HeaderLines, content_type: str = "", *more: tuple[bytes, bytes]
    ) -> None:
        ours = {**self.headers, "content-type": content_type} if content_type else self.headers
        lines = {**ours, **headers}.items() if isinstance(headers, Mapping) else _merged(ours, headers)
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in lines]
        raw += (*more, (b"x-request-id", self.request_id.encode()))
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": raw})


def _merged(ours: Mapping[str, str], pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return pairs with those headers of ours that are not among them; the request id is always ours."""
    given = {name.lower() for name, _ in pairs}
    lines = [(name, value) for name, value in ours.items() if name not in given]
    return lines + [line for line in pairs if line[0].lower() != _REQUEST_ID]


async def _disconnected(receive: Receive) -> None:
    message: MutableMapping[str, Any] = {}
    while message.get("type") != "http.disconnect":
        message = await receive()


def _happened(future: asyncio.Future[None]) -> bool:
    return future.done() and not future.cancelled()


async def _is_set(event: asyncio.Event) -> None:
    await event.wait()


async def cancel_all(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Cancel tasks and wait until they have ended, also if this is cancelled meanwhile."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    cancelled = False
    while not all(task.done() for task in tasks):
        try:
            await asyncio.wait(tasks)
        except asyncio.CancelledError:  # what they use is closed next, which must not happen while they run
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError
