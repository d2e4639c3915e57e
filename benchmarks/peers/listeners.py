"""A process of subscribers to messages."""

import asyncio
from contextlib import suppress
from typing import Any

from benchmarks.peers.helper import serve
from benchmarks.peers.listening import KINDS, Listening
from benchmarks.peers.load import percentiles
from benchmarks.peers.processes import own_cpu_s, raise_open_files, until
from benchmarks.peers.publishing import Target

OPENING = 32
OPENED_S = 30.0
SAMPLED_EVERY = 20


class Listeners:
    """All subscriptions of this process."""

    def __init__(self) -> None:
        self._all: list[Listening] = []
        self._cpu = own_cpu_s()

    async def answer(self, do: str, what: dict[str, Any]) -> Any:
        """Do what the benchmark asks."""
        match do:
            case "open":
                return await self._open(**what)
            case "reset":
                for one in self._all:
                    one.reset()
                self._cpu = own_cpu_s()
            case "counts":
                return min(one.count for one in self._all), sum(one.count for one in self._all)
            case "expect":
                return await self._expect(**what)
            case "close":
                for one in self._all:
                    one.close()
                self._all = []
        return None

    async def _open(self, kind: str, target: dict[str, Any], topics: list[str], each: int) -> int:
        gate, loop = asyncio.Semaphore(OPENING), asyncio.get_running_loop()
        where = Target(**target)

        async def one(at: int, topic: str) -> None:
            async with gate, asyncio.timeout(OPENED_S):
                listening = KINDS[kind](where, topic, sampled=at % SAMPLED_EVERY == 0)
                await loop.create_connection(lambda: listening, "127.0.0.1", where.port)
                await listening.opened
                self._all.append(listening)

        await asyncio.gather(*(one(at, topic) for topic in topics for at in range(each)))
        return len(self._all)

    async def _expect(self, each: int, began: float, timeout_s: float) -> dict[str, Any]:
        """Wait until everybody has `each` messages; return what came since `began` (a `time.perf_counter`)."""
        with suppress(TimeoutError):
            await until(lambda: all(one.count >= each or one.ended for one in self._all), timeout_s=timeout_s)
        wall = max(one.last_at for one in self._all) - began
        sampled = [one for one in self._all if one.sampled]
        return {
            "listeners": len(self._all),
            "complete": sum(one.count == each for one in self._all),
            "short_or_long": sorted({one.count for one in self._all if one.count != each})[:5],
            "ended": sum(one.ended is not None for one in self._all),
            "lagged": sum(one.lagged for one in sampled),
            "sampled": len(sampled),
            "sampled_without_repeat": sum(sorted(one.numbers) == sorted(set(one.numbers)) for one in sampled),
            "same_order": _same_order(sampled),
            "deliveries": sum(one.count for one in self._all),
            "deliveries_per_s": round(sum(one.count for one in self._all) / wall, 1),
            "mib_per_s": round(sum(one.received_bytes for one in self._all) / wall / (1 << 20), 2),
            "load_cpu": round((own_cpu_s() - self._cpu) / wall, 3),
            "seconds": round(wall, 3),
        } | percentiles([late for one in sampled for late in one.late])


def _same_order(sampled: list[Listening]) -> bool:
    """Say whether all who listen to a topic were given the same messages in the same order."""
    first: dict[str, list[int]] = {}
    return all(one.numbers == first.setdefault(one.topic, one.numbers) for one in sampled)


if __name__ == "__main__":
    raise_open_files()
    serve(Listeners().answer)
