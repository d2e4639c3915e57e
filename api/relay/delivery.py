"""Handing a message over: to its receiver, in an answer that tells when it is complete, and telling its sender."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Protocol

from api.answer import cancel_all
from api.relay import metrics
from api.relay.body import Reader
from api.relay.headers import Lines
from api.relay.offer import Message, Offer
from api.routes import Reply, StreamReply
from schemas.problems import Refusal

BODILESS = frozenset({204, 205, 304})
"""The statuses of answers without a body, in which bytes of one would be taken for the next answer."""
AT_ONCE_BYTES = 16 << 10
"""What is no larger fits into the buffers of any connection, so it is handed over in one piece."""


class Handed(Protocol):
    """What a receiver was given."""

    message: Message

    def reader(self) -> Reader: ...
    def settle(self, complete: bool) -> None: ...


def relayed(
    handed: Handed, headers: Lines, kind: str, *, status: int = 200, answered: Callable[[bool], None] | None = None
) -> Reply | StreamReply:
    """Return the answer that carries a message; `answered` (default: its own) hears once whether all of it went out."""
    answered = answered or handed.settle
    try:
        return _carrying(handed, headers, kind, status, answered)
    except BaseException:
        answered(False)
        raise


def _carrying(
    handed: Handed, headers: Lines, kind: str, status: int, answered: Callable[[bool], None]
) -> Reply | StreamReply:
    body, content_type = handed.message.body, handed.message.metadata.content_type
    if status in BODILESS:
        body.discard()
        return Reply(status, b"", headers, content_type, answered)
    size_bytes = body.size_bytes
    if body.complete and body.rereadable and (size_bytes or 0) <= AT_ONCE_BYTES:
        metrics.BYTES.labels(kind).inc(size_bytes or 0)
        return Reply(status, body.whole(), headers, content_type, answered)
    if size_bytes is not None:
        headers = [*headers, ("Content-Length", str(size_bytes))]
    return StreamReply(status, Counted(handed.reader(), kind), headers, content_type, answered=answered)


class Counted:
    """A reader whose bytes are counted."""

    __slots__ = ("_kind", "_reader")

    def __init__(self, reader: Reader, kind: str) -> None:
        self._reader = reader
        self._kind = metrics.BYTES.labels(kind)

    def __aiter__(self) -> "Counted":
        return self

    async def __anext__(self) -> bytes:
        chunk = await self._reader.__anext__()
        self._kind.inc(len(chunk))
        return chunk

    async def aclose(self) -> None:
        """Stop reading."""
        await self._reader.aclose()


async def ended(offer: Offer, rest: AsyncIterator[bytes]) -> None:
    """Return once the message was delivered, feeding the rest of its body meanwhile; `Refusal` if it was not."""
    await fed(offer.ended, None if offer.message.body.complete else offer.feed(rest))
    problem = offer.ended.result()
    if problem is not None:
        raise Refusal(problem)


async def fed(
    until: asyncio.Future[Any], feeding: Coroutine[Any, Any, None] | None, needed: Callable[[], bool] = lambda: False
) -> None:
    """Wait for `until` without cancelling it; `ClientGone` if what feeds it breaks off before.

    The feeding is then stopped, unless it is still `needed`.
    """
    if feeding is None:
        await asyncio.wait([until])
        return
    feeder = asyncio.ensure_future(feeding)
    try:
        await asyncio.wait([until, feeder], return_when=asyncio.FIRST_COMPLETED)
        if not until.done():
            feeder.result()
            await asyncio.wait([until])
        if needed():
            await asyncio.wait([feeder])
            feeder.result()
    finally:
        await cancel_all([feeder])
        if not feeder.cancelled():
            feeder.exception()  # somebody has looked at it
