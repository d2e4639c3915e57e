"""One subscription of a contestant: it counts what it is given, and some note which messages came, and how late."""

import asyncio
import base64
import os
import time
from typing import cast
from urllib.parse import urlencode

import httptools

from benchmarks.peers import mqtt
from benchmarks.peers.caller import CallFailed
from benchmarks.peers.load import encode_request
from benchmarks.peers.messages import MARK, STAMP
from benchmarks.peers.publishing import DOCUMENT, Target

TAIL_BYTES = 64
FIRST = bytes((mqtt.PUBLISH | mqtt.QOS << 1,))
LAGGED = b"lagged"


class Listening(asyncio.Protocol):
    """A subscription to one topic. `sampled`: it parses everything."""

    def __init__(self, target: Target, topic: str, *, sampled: bool) -> None:
        self.topic = topic
        self.sampled = sampled
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended: str | None = None
        self._target = target
        self._transport: asyncio.WriteTransport | None = None
        self._text = b""
        self.reset()

    def reset(self) -> None:
        """Forget what came."""
        self.count = self.lagged = self.received_bytes = 0
        self.last_at = 0.0
        self.numbers: list[int] = []
        self.late: list[float] = []

    def hello(self) -> bytes:
        """Return what is sent first."""
        raise NotImplementedError

    def take(self, data: bytes) -> None:
        """Take bytes of messages."""
        if not self.sampled:
            self.count += data.count(MARK)
            return
        now = time.perf_counter()
        text, end = self._text + data, 0
        self.lagged += LAGGED in data
        for found in STAMP.finditer(text):
            self.numbers.append(int(found[2]))
            self.late.append(now - int(found[1]) / 1e9)
            end = found.end()
        self._text = text[max(end, len(text) - TAIL_BYTES) :]
        self.count = len(self.numbers)

    def close(self) -> None:
        """End it."""
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say hello."""
        self._transport = cast(asyncio.WriteTransport, transport)
        self._transport.write(self.hello())

    def data_received(self, data: bytes) -> None:
        """Count what came."""
        self.received_bytes += len(data)
        self.last_at = time.perf_counter()
        self.take(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that nothing comes any more."""
        self.ended = f"closed: {exc}"
        if not self.opened.done():
            self.opened.set_exception(CallFailed(f"the subscription did not begin: {exc}"))


class SseListening(Listening):
    """Server-sent events of a document."""

    def __init__(self, target: Target, topic: str, *, sampled: bool) -> None:
        super().__init__(target, topic, sampled=sampled)
        self._parser = httptools.HttpResponseParser(self)

    def hello(self) -> bytes:
        """See `Listening`."""
        path = f"/api/v1/db/{DOCUMENT}/events/stream?{urlencode({'topic': self.topic})}"
        headers = {"Authorization": f"Bearer {self._target.token}", "Accept": "text/event-stream"}
        return encode_request("GET", path, headers)

    def take(self, data: bytes) -> None:
        """Parse the framing of HTTP only if that matters."""
        if self.sampled or not self.opened.done():
            self._parser.feed_data(data)
        else:
            super().take(data)

    def on_headers_complete(self) -> None:
        """Say that it has begun."""
        if (status := self._parser.get_status_code()) == 200:
            self.opened.set_result(None)
        else:
            self.opened.set_exception(CallFailed(f"{status} for a subscription"))

    def on_body(self, part: bytes) -> None:
        """Take events."""
        super().take(part)


class SocketListening(Listening):
    """A WebSocket; its frames are not masked, so that marks and stamps are found in them."""

    def hello(self) -> bytes:
        """See `Listening`."""
        path = f"/api/v1/db/{DOCUMENT}/events/ws?{urlencode({'topic': self.topic})}"
        headers = {
            "Authorization": f"Bearer {self._target.token}",
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        }
        return encode_request("GET", path, headers)

    def take(self, data: bytes) -> None:
        """Look at the answer to the upgrade first."""
        if self.opened.done():
            super().take(data)
        elif data.startswith(b"HTTP/1.1 101"):
            self.opened.set_result(None)
        else:
            self.opened.set_exception(CallFailed(data[:200].decode(errors="replace")))


class MqttListening(Listening):
    """A session with one subscription of quality of service 1."""

    def __init__(self, target: Target, topic: str, *, sampled: bool) -> None:
        super().__init__(target, topic, sampled=sampled)
        self._rest = b""
        self._size = 0  # of a message of this topic; all have the same
        self._id_at = 0

    def hello(self) -> bytes:
        """See `Listening`."""
        return mqtt.connect() + mqtt.subscribe(self.topic)

    def take(self, data: bytes) -> None:
        """Acknowledge all messages that came together by one write."""
        buffer, self._rest = self._rest + data, b""
        whole = len(buffer) // self._size if self._size and not self.sampled else 0
        if whole and buffer[: whole * self._size : self._size] == FIRST * whole:
            ids = [buffer[at : at + 2] for at in range(self._id_at, whole * self._size, self._size)]
            self._rest = buffer[whole * self._size :]
            self.count += whole  # an id may hold the byte of a mark
        else:
            ids = self._parse(buffer)
        if ids and self._transport is not None:
            self._transport.write(b"".join(map(mqtt.puback, ids)))

    def _parse(self, buffer: bytes) -> list[bytes]:
        """Take packets one by one; return the ids of messages."""
        packets, self._rest = mqtt.split(buffer)
        ids = []
        for kind, body in packets:
            if kind & 0xF0 == mqtt.PUBLISH:
                at = 2 + int.from_bytes(body[:2], "big")
                self._size = len(body) + (2 if len(body) < 128 else 3)
                self._id_at = at + self._size - len(body)
                ids.append(body[at : at + 2])
                super().take(body[at + 2 :])
            elif kind == mqtt.SUBACK:
                self.opened.set_result(None)
        return ids


KINDS: dict[str, type[Listening]] = {"sse": SseListening, "ws": SocketListening, "mqtt": MqttListening}
