"""A proxy in front of nats-server that can lose exactly one publish, or exactly one publish acknowledgement."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass

from tests.faults.proxy import Direction, Filter, TcpProxy

CRLF = b"\r\n"
PAYLOAD_OPS = frozenset({b"PUB", b"HPUB", b"MSG", b"HMSG"})


@dataclass(frozen=True, slots=True)
class Frame:
    """One protocol message: operation in capitals, its arguments, and all its bytes as they came."""

    op: bytes
    arguments: tuple[bytes, ...]
    raw: bytes

    @property
    def body(self) -> bytes:
        """The bytes after the control line: payload, with the headers before it for HPUB and HMSG."""
        if self.op not in PAYLOAD_OPS:
            return b""
        return self.raw[self.raw.index(CRLF) + 2 : -2]

    @property
    def payload(self) -> bytes:
        """The payload without headers."""
        return self.body[int(self.arguments[-2]) :] if self.op in (b"HPUB", b"HMSG") else self.body


@dataclass(frozen=True, slots=True)
class Swallowed:
    """What the proxy lost: the subject published to, the payload sent or the acknowledgement not delivered."""

    subject: str
    payload: bytes


class Framer:
    """Splits one direction of a NATS connection into frames, however the bytes arrive."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """Return the frames that `data` completes."""
        self._buffer += data
        frames: list[Frame] = []
        while (line_end := self._buffer.find(CRLF)) >= 0:
            op, *arguments = bytes(self._buffer[:line_end]).split() or [b""]
            op = op.upper()
            size = line_end + 2 + (int(arguments[-1]) + 2 if op in PAYLOAD_OPS else 0)
            if len(self._buffer) < size:
                break
            frames.append(Frame(op, tuple(arguments), bytes(self._buffer[:size])))
            del self._buffer[:size]
        return frames


@dataclass(slots=True)
class _Trap:
    subject: str
    reset: bool
    caught: asyncio.Future[Swallowed]


class NatsProxy(TcpProxy):
    """A `TcpProxy` that reads the NATS protocol (plain TCP, no TLS) and removes `connect_urls` from INFO.

    Without the removal clients of a cluster would learn the servers' own addresses and go round the proxy.
    """

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self.publish_traps: list[_Trap] = []
        self.ack_traps: list[_Trap] = []

    def swallow_next_publish(self, subject: str = ">", *, reset: bool = True) -> asyncio.Future[Swallowed]:
        """Lose the next PUB or HPUB to a subject that matches: it never reaches the server.

        Everything before it is delivered, then (with `reset`) the connection is reset on both sides. The future
        is done when the publish is caught. Requests to `$JS.API` and the like match only when `subject` says so.
        """
        return self._set_trap(self.publish_traps, subject, reset)

    def swallow_next_ack(self, subject: str = ">", *, reset: bool = True) -> asyncio.Future[Swallowed]:
        """Lose the next positive JetStream acknowledgement of a publish to a subject that matches.

        The message is stored; its publisher never hears so. Everything before the acknowledgement is delivered,
        then (with `reset`) the connection is reset on both sides. The future is done when it is caught.
        Refusals, and the empty answer to the first message of an atomic batch, are no acknowledgements.
        """
        return self._set_trap(self.ack_traps, subject, reset)

    def filters(self) -> dict[Direction, Filter]:
        """Return a pair of filters that share which reply subject belongs to which publish."""
        published: dict[bytes, str] = {}
        return {
            Direction.TO_SERVER: _NatsFilter(lambda frame: self._to_server(frame, published)),
            Direction.TO_CLIENT: _NatsFilter(lambda frame: self._to_client(frame, published)),
        }

    def _set_trap(self, traps: list[_Trap], subject: str, reset: bool) -> asyncio.Future[Swallowed]:
        trap = _Trap(subject, reset, asyncio.get_running_loop().create_future())
        traps.append(trap)
        return trap.caught

    def _to_server(self, frame: Frame, published: dict[bytes, str]) -> "bytes | _Trap":
        if frame.op not in (b"PUB", b"HPUB"):
            return frame.raw
        subject = frame.arguments[0].decode()
        if trap := _sprung(self.publish_traps, subject):
            trap.caught.set_result(Swallowed(subject, frame.payload))
            return trap
        if len(frame.arguments) == (3 if frame.op == b"PUB" else 4):
            published[frame.arguments[1]] = subject
        return frame.raw

    def _to_client(self, frame: Frame, published: dict[bytes, str]) -> "bytes | _Trap":
        if frame.op == b"INFO":
            return _without_other_servers(frame)
        if frame.op not in (b"MSG", b"HMSG"):
            return frame.raw
        subject = published.pop(frame.arguments[0], None)
        if subject is None or not _is_ack(frame.payload):
            return frame.raw
        if trap := _sprung(self.ack_traps, subject):
            trap.caught.set_result(Swallowed(subject, frame.payload))
            return trap
        return frame.raw


class _NatsFilter(Filter):
    def __init__(self, judge: "Callable[[Frame], bytes | _Trap]") -> None:
        self._framer = Framer()
        self._judge = judge

    def feed(self, data: bytes) -> bytes:
        passed = bytearray()
        for frame in self._framer.feed(data):
            match self._judge(frame):
                case _Trap(reset=True):
                    self.cut_after = True
                    return bytes(passed)
                case _Trap():
                    continue
                case raw:
                    passed += raw
        return bytes(passed)


def _sprung(traps: list[_Trap], subject: str) -> _Trap | None:
    for trap in traps:
        if subject_matches(trap.subject, subject) and not trap.caught.done():
            traps.remove(trap)
            return trap
    return None


def subject_matches(pattern: str, subject: str) -> bool:
    """Return whether `subject` matches the pattern; a leading wildcard never matches `$JS...` or `_INBOX...`."""
    if subject.startswith(("$", "_")) and pattern[0] not in "$_":
        return False
    wanted, given = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        wanted.pop()
        return len(given) > len(wanted) and _tokens_match(wanted, given[: len(wanted)])
    return len(wanted) == len(given) and _tokens_match(wanted, given)


def _tokens_match(wanted: list[str], given: list[str]) -> bool:
    return all(want in ("*", token) for want, token in zip(wanted, given, strict=True))


def _is_ack(payload: bytes) -> bool:
    try:
        answer = json.loads(payload)
    except ValueError:
        return False
    return isinstance(answer, dict) and "seq" in answer and "stream" in answer and "error" not in answer


def _without_other_servers(frame: Frame) -> bytes:
    info = json.loads(frame.raw.split(None, 1)[1])
    if "connect_urls" not in info:
        return frame.raw
    del info["connect_urls"]
    return b"INFO " + json.dumps(info).encode() + CRLF
