"""How soon clients hear of a change: one listener and one change at a time, and 1,000 listeners at 100 changes/s."""

import asyncio
import time
from itertools import count
from typing import Any

from benchmarks.peers.feeds import Feed, Listener
from benchmarks.peers.load import Connection, percentiles
from benchmarks.peers.processes import own_cpu_s, until

HEARD_S = 10.0
SETTLED_S = 60.0
OPENING = 32  # streams that are opened at the same time
WRITERS = 8
TOLD_MAX = 1000  # changes that one frame may be the first to tell of
SAMPLED_EVERY = 20  # one listener in so many notes when it heard of each change
_numbers = count(1)  # each tick is newer than all before, whoever writes it


async def latency(feed: Feed, changes: int) -> dict[str, Any]:
    """Make one change after the other; return the time from sending it until a listener has heard of it."""
    waited: dict[int, asyncio.Future[float]] = {}

    def heard(frame: bytes, now: float) -> None:
        for found in feed.number.findall(frame):
            if (waiting := waited.get(int(found))) is not None and not waiting.done():
                waiting.set_result(now)

    listener = await feed.subscribe(heard)
    connection = await Connection.open(feed.port)
    since_sent, since_answer = [], []
    try:
        for warm in range(changes + 10):
            number = next(_numbers)
            waited = {number: asyncio.get_running_loop().create_future()}
            sent = time.perf_counter()
            await connection.call(feed.tick(number))
            answered = time.perf_counter()
            at = await asyncio.wait_for(waited[number], HEARD_S)
            if warm >= 10:
                since_sent.append(at - sent)
                since_answer.append(at - answered)
    finally:
        listener.close()
        connection.close()
    return percentiles(since_sent) | {"p50_ms_after_answer": percentiles(since_answer)["p50_ms"]}


class _Crowd:
    """Listeners that count frames; some of them note how late they heard of each change."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self.sent: dict[int, float] = {}
        self.newest: list[bytes] = []
        self.frames = 0
        self.frame_bytes = 0
        self.late: list[float] = []
        self.listeners: list[Listener] = []

    async def open(self, listeners: int) -> None:
        """Open all streams."""
        self.newest = [b""] * listeners
        gate = asyncio.Semaphore(OPENING)

        async def one(at: int) -> None:
            async with gate:
                heard = self._sampled(at) if at % SAMPLED_EVERY == 0 else self._counted(at)
                self.listeners.append(await self._feed.subscribe(heard))

        await asyncio.gather(*(one(at) for at in range(listeners)))

    def reached(self, number: int) -> bool:
        """Whether all listeners have heard of the change `number` or a later one."""
        return all(self._number(frame) >= number for frame in self.newest)

    def _number(self, frame: bytes) -> int:
        return max(map(int, self._feed.number.findall(frame)), default=0)

    def _counted(self, at: int) -> Any:
        def heard(frame: bytes, now: float) -> None:
            if len(frame) > 40:  # signs of life are shorter
                self.newest[at] = frame
                self.frames += 1
                self.frame_bytes += len(frame) + 2

        return heard

    def _sampled(self, at: int) -> Any:
        count_it, known = self._counted(at), 0

        def heard(frame: bytes, now: float) -> None:
            nonlocal known
            number = self._number(frame)
            if not number:
                return
            count_it(frame, now)
            told = range(max(known + 1, number - TOLD_MAX), number + 1) if self._feed.coalesces else (number,)
            for each in told:
                if (sent := self.sent.get(each)) is not None:
                    self.late.append(now - sent)
            known = number

        return heard


async def crowd(feed: Feed, listeners: int, per_s: int, seconds: float) -> dict[str, Any]:
    """Let `listeners` hear of `per_s` changes a second; return frames, how late they were, and what that cost."""
    heard = _Crowd(feed)
    before = feed.processes.rss_mib()
    await heard.open(listeners)
    connections = [await Connection.open(feed.port) for _ in range(WRITERS)]
    try:
        cpu, own, began = feed.processes.cpu_s(), own_cpu_s(), time.perf_counter()
        await _write(feed, heard, connections, per_s, seconds)
        wall = time.perf_counter() - began
        figures = {
            "changes_per_s": round(len(heard.sent) / wall, 1),
            "frames_per_s": round(heard.frames / wall, 1),
            "mib_per_s": round(heard.frame_bytes / wall / (1 << 20), 2),
            "server_cpu": round((feed.processes.cpu_s() - cpu) / wall, 3),
            "load_cpu": round((own_cpu_s() - own) / wall, 3),
        }
        last = max(heard.sent)
        await until(lambda: heard.reached(last), timeout_s=SETTLED_S)
        figures["all_heard_the_last_after_ms"] = round((time.perf_counter() - heard.sent[last]) * 1e3, 1)
    finally:
        for listener in heard.listeners:
            listener.close()
        for connection in connections:
            connection.close()
    return figures | percentiles(heard.late) | {"rss_mib_before": before, "rss_mib": feed.processes.rss_mib()}


async def _write(feed: Feed, heard: _Crowd, connections: list[Connection], per_s: int, seconds: float) -> None:
    """Send changes on a schedule; a change counts from its place there, whether the answers keep up or not."""
    free: asyncio.Queue[Connection] = asyncio.Queue()
    for connection in connections:
        free.put_nowait(connection)
    began = time.perf_counter()

    async def one(due: float) -> None:
        connection = await free.get()
        number = next(_numbers)
        heard.sent[number] = due
        await connection.call(feed.tick(number))
        free.put_nowait(connection)

    async with asyncio.TaskGroup() as writing:
        for at in range(int(per_s * seconds)):
            due = began + at / per_s
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            writing.create_task(one(due))
    await one(time.perf_counter())  # alone, so that it is the last in any order
