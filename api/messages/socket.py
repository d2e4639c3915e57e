"""The messages of a document over a WebSocket, for browsers behind what breaks server-sent events."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic_core import to_json

from api.answer import cancel_all
from api.messages.frames import lagged_json, message_json
from api.messages.start import ACTION, WHERE, LastValues, Start, start
from api.origins import Origins
from api.positions import MIN_POSITION_HEADER, await_position
from api.routes import Request, Route, UpgradeReply
from api.websocket import WebSocket, text_frame, websocket
from projectors.control.registry import Registry
from projectors.document.domain import document_partition
from projectors.document.messages.group import Batch
from projectors.document.messages.live import DELIVERED, LAGGED, Messages
from projectors.document.messages.message import Message
from projectors.document.messages.subscription import Subscription
from projectors.partitions import Partitions
from schemas.problems import Refusal

HEARTBEAT_S = 10.0


@dataclass(frozen=True, slots=True)
class SocketApi:
    """The handler, with what it needs."""

    registry: Registry
    partitions: Partitions
    messages: Messages
    origins: Origins
    heartbeat_s: float = HEARTBEAT_S

    def routes(self) -> Sequence[Route]:
        """Return the route table of the socket."""
        return (
            Route(
                "GET",
                "/api/v1/db/{db_id}/events/ws",
                ACTION,
                self.socket,
                below=True,
                url_token=True,
                inputs=WHERE,
                replies={
                    101: "a WebSocket of texts in JSON: `open`, `message`, `retained`, `lagged`, `heartbeat`, `error`",
                    426: "the request is none for a WebSocket",
                },
                summary="Follow messages over a WebSocket, as events/stream does",
            ),
        )

    async def socket(self, request: Request[None]) -> UpgradeReply:
        """Answer the handshake; what is published once `open` has come will come too."""
        db_id = request.db_id
        self.registry.require(db_id)
        begin = start(request)
        if MIN_POSITION_HEADER in request.headers:
            await await_position(request, self.partitions[document_partition(db_id)])

        async def talk(socket: WebSocket) -> None:
            ignoring = asyncio.ensure_future(_ignore(socket))
            try:
                await self._talk(socket, db_id, begin)
            except Refusal as refusal:
                await socket.send_frame(_event(b"error", to_json(refusal.problem.body())))
                raise
            finally:
                await cancel_all([ignoring])

        return websocket(request, talk, self.origins)

    async def _talk(self, socket: WebSocket, db_id: str, begin: Start) -> None:
        subscription = await self.messages.subscribe(db_id, begin.filters, since=begin.since, tail=begin.tail)
        try:
            self.registry.require(db_id)  # it may have been deleted before there was somebody to tell
            await socket.send_frame(_standing(b"open", subscription.begins_after))
            if begin.retained:
                last_values = LastValues(self.messages, db_id, begin.filters)
                while values := await last_values.next():
                    await socket.send_frame(b"".join([_event(b"retained", message_json(one)) for one in values]))
            while True:
                await socket.send_frame(await self._next(subscription))
        finally:
            subscription.close()

    async def _next(self, subscription: Subscription) -> bytes:
        found = await subscription.next(self.heartbeat_s)
        if isinstance(found, Batch):
            DELIVERED.inc(len(found.messages))
            return found.encoded(_message)
        if found is not None:
            LAGGED.labels(found.reason).inc()
            return _event(b"lagged", lagged_json(found))
        return _standing(b"heartbeat", subscription.seen)


def _message(message: Message) -> bytes:
    return _event(b"message", message_json(message))


def _standing(name: bytes, seen: int | None) -> bytes:
    return _event(name, to_json({} if seen is None else {"since_id": seen}))


def _event(name: bytes, data: bytes) -> bytes:
    """Return a JSON object with its name before its other members."""
    return text_frame(b'{"event":"%b"%b%b' % (name, b"" if data == b"{}" else b",", data[1:]))


async def _ignore(socket: WebSocket) -> None:
    """Read what clients say: they have nothing to say here, but what is not read would keep their pongs away."""
    while True:
        await socket.receive()
