"""A process of publishers: as fast as answers come, so many messages, or so many a second."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from itertools import cycle, islice
from typing import Any

from benchmarks.peers.caller import Caller, open_all
from benchmarks.peers.helper import serve
from benchmarks.peers.load import measure, percentiles
from benchmarks.peers.messages import BATCH, payload
from benchmarks.peers.processes import raise_open_files
from benchmarks.peers.publishing import Target

LIMIT_S = 300.0


async def answer(do: str, what: dict[str, Any]) -> Any:
    """Do what the benchmark asks."""
    target = Target(**what.pop("target"))
    loads: dict[str, Callable[..., Awaitable[Any]]] = {"rate": _rate, "burst": _burst, "paced": _paced}
    return await loads[do](target, **what)


async def _rate(target: Target, clients: int, seconds: float, topics: list[str]) -> dict[str, float]:
    """Publish for a while, each client its next message after the answer to its last."""
    requests, kind = target.requests(topics), target.caller()
    await measure(target.caller_port, requests, clients, min(0.3, seconds / 4), kind)
    figures = await measure(target.caller_port, requests, clients, seconds, kind)
    each = BATCH if target.kind == "batch" else 1
    return figures | {"messages_per_s": round(figures["per_s"] * each, 1)}


async def _burst(target: Target, clients: int, messages: int, topics: list[str]) -> dict[str, float]:
    """Publish so many messages as fast as answers come; return when it began and ended."""
    sent = messages // BATCH if target.kind == "batch" else messages
    requests = islice(target.requests(topics), sent)
    began = time.perf_counter()
    await measure(target.caller_port, requests, clients, LIMIT_S, target.caller())
    return {"began": began, "ended": time.perf_counter()}


async def _paced(target: Target, clients: int, per_s: int, seconds: float, topics: list[str]) -> dict[str, Any]:
    """Publish on a schedule; a message counts from its place there, whether answers keep up or not."""
    free: asyncio.Queue[Caller] = asyncio.Queue()
    connections = await open_all(target.caller(), target.caller_port, clients)
    for connection in connections:
        free.put_nowait(connection)
    taken: list[float] = []
    began = time.perf_counter()

    async def one(topic: str, number: int, due: float) -> None:
        connection = await free.get()
        await connection.call(target.request(topic, payload(number, due)))
        taken.append(time.perf_counter() - due)
        free.put_nowait(connection)

    async with asyncio.TaskGroup() as publishing:
        for number, topic in enumerate(islice(cycle(topics), int(per_s * seconds)), start=1):
            due = began + (number - 1) / per_s
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            publishing.create_task(one(topic, number, due))
    ended = time.perf_counter()
    for connection in connections:
        connection.close()
    return {"began": began, "ended": ended, "messages": len(taken), "answered": percentiles(taken)}


if __name__ == "__main__":
    raise_open_files()
    serve(answer)
