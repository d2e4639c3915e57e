"""The messages of a document: publishing, and following them for ever."""

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, TypeVar

from ulid import ULID

from forge.client.documents import path_of
from forge.client.errors import UnexpectedAnswer
from forge.client.fences import Fenced, fence_headers
from forge.client.message_replies import Lag, Message, Published, Retention, new_message
from forge.client.sse import resumed
from forge.client.transport import Transport

SILENCE_S = 45.0
"""A stream that says nothing for so long is taken for dead: there is a heartbeat every ten seconds."""
PAGE = 500
T = TypeVar("T")
_log = logging.getLogger(__name__)


class DocumentMessages:
    """The part of a `Document` that is about messages."""

    def __init__(self, transport: Transport, db_id: str) -> None:
        self.db_id = db_id
        self._transport = transport

    async def publish(
        self,
        topic: str,
        payload: Any = None,
        *,
        text: str | None = None,
        content_type: str | None = None,
        producer: str | None = None,
        key: str | None = None,
        retain: bool = False,
        fences: Sequence[Fenced] = (),
    ) -> Published:
        """Publish a message: bytes as they are, `text` as text, anything else as JSON. It is durable then.

        While a message of the topic with the same `key` is kept, that is the one that is returned.
        """
        more: dict[str, Any] = {"content_type": content_type, "producer": producer, "key": key, "retain": retain}
        body = new_message(topic, payload, text=text, **more)
        headers = {"Idempotency-Key": str(ULID())} | fence_headers(fences)
        response = await self._transport.send("POST", path_of(self.db_id, "messages"), json=body, headers=headers)
        answer, position = self._transport.object(response), self._transport.position(response)
        duplicate = response.status_code == 200
        return self._parsed(lambda: Published.read(answer, position, duplicate=duplicate))

    async def publish_batch(
        self, messages: Sequence[Mapping[str, Any]], *, fences: Sequence[Fenced] = ()
    ) -> list[Published]:
        """Publish up to 1,000 messages, all or none; each has the arguments of `publish`, by name."""
        body = {"messages": [new_message(**message) for message in messages]}
        headers = {"Idempotency-Key": str(ULID())} | fence_headers(fences)
        path = path_of(self.db_id, "messages", "batch")
        response = await self._transport.send("POST", path, json=body, headers=headers)
        answer, position = self._transport.object(response), self._transport.position(response)
        return self._parsed(lambda: [Published.read(one, position) for one in answer["messages"]])

    async def subscribe(
        self,
        *filters: str,
        since: int | None = None,
        tail: int | None = None,
        retained: bool = False,
        lagged: Callable[[Lag], None] | None = None,
    ) -> AsyncGenerator[Message]:
        """Yield messages that a filter picks (none: all), for ever: after the id `since`, the `tail` newest, or new.

        A node that goes away is waited for, and no message is missed or given twice. Close it (`aclosing`) if the
        program goes on without it. `lagged` is called where some
        are gone by the document's policy; without it that is logged. With `retained` the last values come first.
        """

        def params(seen: str) -> dict[str, Any]:
            asked: dict[str, Any] = {"topic": list(filters)} if filters else {}
            if seen:
                return asked
            asked |= {} if since is None else {"since_id": since}
            asked |= {} if tail is None else {"tail": tail}
            return asked | ({"retained": "true"} if retained else {})

        path = path_of(self.db_id, "events", "stream")
        async with aclosing(resumed(self._transport, "GET", path, params=params, silence_s=SILENCE_S)) as events:
            async for event in events:
                if event.name == "message":
                    yield self._parsed(partial(Message.read, event.data))
                elif event.name == "lagged":
                    lag = self._parsed(partial(Lag.read, event.data))
                    (lagged or self._log_lag)(lag)

    async def retained(self, *filters: str) -> AsyncIterator[Message]:
        """Yield the last values of topics that were published to be retained, by topic."""
        asked: dict[str, Any] = {"limit": PAGE} | ({"topic": list(filters)} if filters else {})
        while True:
            response = await self._transport.send("GET", path_of(self.db_id, "messages", "retained"), params=asked)
            page = self._transport.object(response)
            for message in self._parsed(partial(_messages, page)):
                yield message
            if not page.get("next"):
                return
            asked["after"] = page["next"]

    async def retention(self) -> Retention:
        """Return which messages the document keeps: all, unless somebody has said otherwise."""
        return self._retention(await self._transport.send("GET", path_of(self.db_id, "messages", "retention")))

    async def set_retention(
        self, *, max_age_s: int | None = None, max_count: int | None = None, max_bytes: int | None = None
    ) -> Retention:
        """Let the document keep only the newest messages that keep these bounds; without any it keeps all."""
        bounds = {"max_age_s": max_age_s, "max_count": max_count, "max_bytes": max_bytes}
        path = path_of(self.db_id, "messages", "retention")
        body = {name: value for name, value in bounds.items() if value is not None}
        return self._retention(await self._transport.send("PUT", path, json=body))

    def _retention(self, response: Any) -> Retention:
        body = self._transport.object(response)
        return self._parsed(lambda: Retention(**{name: body[name] for name in Retention.__slots__}))

    def _log_lag(self, lag: Lag) -> None:
        if lag.reason != "slow":
            _log.warning("messages of %s between %d and %d are gone (%s)", self.db_id, lag.after, lag.next, lag.reason)

    def _parsed(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except (KeyError, TypeError, ValueError) as error:
            raise UnexpectedAnswer(self._transport.url, f"{self.db_id}: {error!r}") from error


def _messages(page: Mapping[str, Any]) -> list[Message]:
    return [Message.read(one) for one in page["messages"]]
