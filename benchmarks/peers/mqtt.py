"""As much of MQTT 3.1.1 as a benchmark needs: packets, and a publisher that waits for each PUBACK."""

import os
from itertools import count
from typing import Self

from benchmarks.peers.caller import Caller

CONNACK, PUBLISH, PUBACK, SUBACK = 0x20, 0x30, 0x40, 0x90
PUBACK_BYTES = 4
DISCONNECT = b"\xe0\x00"
QOS = 1
_clean, _clients = 0x02, count(1)


def connect(client_id: str | None = None, *, clean: bool = True) -> bytes:
    """Return the packet that begins a session, without keep-alive; one that is not `clean` outlives its connection."""
    name = client_id or f"bench-{os.getpid()}-{next(_clients)}"
    flags = _clean if clean else 0
    return _packet(0x10, _text("MQTT") + bytes((4, flags, 0, 0)) + _text(name))


def publish(topic: str, payload: bytes, packet_id: int = 1) -> bytes:
    """Return a message of quality of service 1."""
    return _packet(PUBLISH | QOS << 1, _text(topic) + packet_id.to_bytes(2, "big") + payload)


def subscribe(*filters: str) -> bytes:
    """Return the packet that subscribes to `filters` with quality of service 1."""
    wanted = b"".join(_text(one) + bytes((QOS,)) for one in filters)
    return _packet(0x82, (1).to_bytes(2, "big") + wanted)


def puback(packet_id: bytes) -> bytes:
    """Return the acknowledgement of a message."""
    return b"\x40\x02" + packet_id


def split(buffer: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """Return the complete packets of `buffer` as (first byte, rest), and what is left."""
    packets, at = [], 0
    while len(buffer) - at >= 2:
        size, place, shift = 0, at + 1, 0
        while place < len(buffer):
            byte = buffer[place]
            size |= (byte & 127) << shift
            place, shift = place + 1, shift + 7
            if byte < 128:
                break
        else:
            break
        if place + size > len(buffer):
            break
        packets.append((buffer[at], buffer[place : place + size]))
        at = place + size
    return packets, buffer[at:]


def _packet(kind: int, body: bytes) -> bytes:
    size, digits = len(body), bytearray()
    while True:
        size, digit = size >> 7, size & 127
        digits.append(digit | 128 if size else digit)
        if not size:
            return bytes((kind,)) + bytes(digits) + body


def _text(text: str) -> bytes:
    raw = text.encode()
    return len(raw).to_bytes(2, "big") + raw


class MqttCaller(Caller):
    """A session; its requests are packets that the broker acknowledges, one at a time."""

    def __init__(self) -> None:
        super().__init__()
        self._rest = b""

    @classmethod
    async def open(cls, port: int) -> Self:
        """Connect, with a session of its own."""
        connection = await super().open(port)
        await connection.call(connect())
        return connection

    def data_received(self, data: bytes) -> None:
        """Take acknowledgements."""
        packets, self._rest = split(self._rest + data)
        for kind, body in packets:
            if kind not in (CONNACK, PUBACK, SUBACK) or (kind == CONNACK and body[1]):
                self.failed(f"the broker sent {kind:#x} {body!r}")
            else:
                self.answered()


async def keep_everything(port: int, client_id: str = "archive") -> None:
    """Let the broker keep every message from now on, and none from before, for a session whose client is away."""
    for clean in (True, False):
        connection = await ByHand.open(port)
        await connection.call(connect(client_id, clean=clean))
        if not clean:
            await connection.call(subscribe("#"))
        connection.send(DISCONNECT, 0.0)
        connection.close()


class ByHand(MqttCaller):
    """A connection whose session is begun by hand."""

    @classmethod
    async def open(cls, port: int) -> Self:
        """Connect only."""
        return await super(MqttCaller, cls).open(port)
