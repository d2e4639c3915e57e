"""Clients that break off at random moments, over real sockets: nothing is left, and nobody gets what is not his."""

import asyncio
import itertools
import random
import re
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from api.relay.body import SPOOL_BYTES
from tests.relaying import Relaying, hang_up, relaying
from tests.waiting import until

SIZES = (10, 10, 10, 100_000, SPOOL_BYTES, 3 * SPOOL_BYTES)
PATIENCE_S = (0.001, 0.01, 0.05, 0.2, 0.5)


@dataclass
class Seen:
    """What came out of a run."""

    received: Counter[bytes] = field(default_factory=Counter)
    delivered: set[bytes] = field(default_factory=set)
    strange: list[str] = field(default_factory=list)
    rounds: int = 0


@dataclass(frozen=True)
class Answer:
    """An answer that came to its end."""

    status_code: int
    content: bytes

    @classmethod
    def parse(cls, received: bytes) -> "Answer | None":
        """Return what was received, None if it is incomplete."""
        head, _, body = received.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head.lower())
        if length is None:
            body, complete = _unchunked(body)
            if not complete:
                return None
        elif len(body) != int(length[1]):
            return None
        return cls(int(head[9:12]), body)


def _unchunked(data: bytes) -> tuple[bytes, bool]:
    parts: list[bytes] = []
    while b"\r\n" in data:
        size_text, _, data = data.partition(b"\r\n")
        size = int(size_text, 16)
        if size == 0:
            return b"".join(parts), True
        parts.append(data[:size])
        data = data[size + 2 :]
    return b"", False


@dataclass
class Crowd:
    """Clients without patience."""

    served: Relaying
    choose: random.Random
    seen: Seen = field(default_factory=Seen)
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def body(self, mark: str) -> bytes:
        head = f"{mark}:{next(self.numbers)};".encode()
        return head + bytes(self.choose.choice(SIZES))

    async def hurried(self, method: str, path: str, content: bytes = b"") -> Answer | None:
        """Ask, and break off if it takes longer than some random time; None unless the answer came to its end."""
        reader, writer = await asyncio.open_connection(self.served.host, self.served.port)
        head = f"{method} {path} HTTP/1.1\r\nHost: forge\r\nConnection: close\r\nContent-Length: {len(content)}\r\n\r\n"
        try:
            async with asyncio.timeout(self.choose.choice(PATIENCE_S)):
                writer.write(head.encode() + content)
                return Answer.parse(await reader.read())
        except (TimeoutError, ConnectionError):
            return None
        finally:
            link = writer.get_extra_info("socket")
            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # nothing is sent any more
            await hang_up(writer)

    async def produce(self) -> None:
        body = self.body("m")
        answer = await self.hurried("POST", "/p/queue/x", body)
        if answer is not None and answer.status_code == 200:
            self.seen.delivered.add(_head(body))

    async def consume(self) -> None:
        answer = await self.hurried("GET", "/p/queue/x")
        if answer is not None and answer.status_code == 200:
            self.seen.received[_head(answer.content)] += 1

    async def publish(self) -> None:
        await self.hurried("POST", "/p/queue/x?pubsub", self.body("b"))

    async def ask(self) -> None:
        body = self.body("q")
        answer = await self.hurried("POST", "/p/req/x", body)
        if answer is not None and answer.status_code == 200 and _head(answer.content) != b"a" + _head(body):
            self.seen.strange.append(f"{_head(body)!r} was answered {_head(answer.content)!r}")

    async def work(self) -> None:
        """Take a request, and answer it at a channel of a random name, unless patience ends."""
        name = f"n{next(self.numbers)}"
        request = await self.hurried("POST", "/p/res/x?switch", name.encode())
        if request is not None and request.status_code == 200:
            answer = b"a" + _head(request.content) + bytes(self.choose.choice(SIZES))
            await self.hurried("POST", f"/p/{name}", answer)

    async def repeat(self, act: Callable[[], Awaitable[None]], times: int) -> None:
        for _ in range(times):
            await act()
            self.seen.rounds += 1


def _head(body: bytes) -> bytes:
    return body[: body.index(b";") + 1]


async def test_random_departures_leak_nothing_and_mix_nothing_up() -> None:
    """P4.1, P4.3, S4, S6, S13, PR7: no task, byte, channel or answer is left, and each message came at most once."""
    number = random.randrange(2**32)
    print(f"seed {number}")
    async with relaying(answer_s=1, small_buffers=True) as served, served.client() as client:
        await client.get("/p/warm?timeout=0.01")
        await client.aclose()
        tasks = len(asyncio.all_tasks())
        crowd = Crowd(served, random.Random(number))
        acts = [crowd.produce, crowd.consume, crowd.consume, crowd.publish, crowd.ask, crowd.work]
        while not (crowd.seen.received and crowd.seen.delivered):  # on a slow machine patience ends before all else
            await asyncio.gather(*(crowd.repeat(act, 25) for act in acts * 4))
        await served.quiet()
        await until(lambda: len(asyncio.all_tasks()) <= tasks)
        seen = crowd.seen
        print(f"{seen.rounds} rounds, {len(seen.received)} messages received, {len(seen.delivered)} confirmed")
        assert seen.strange == []
        assert all(times == 1 for head, times in seen.received.items() if head.startswith(b"m"))
        assert seen.received
        assert seen.delivered
