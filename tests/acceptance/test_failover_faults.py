"""Two nodes whose object store hangs, or answers only after it has done what was asked, while one takes over."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx2

from forge.stack.weed import Weed
from tests.acceptance.conftest import StartNode
from tests.acceptance.node_process import NodeProcess
from tests.acceptance.two_nodes import (
    environ,
    note,
    notes,
    sql,
    started,
    until,
    until_caught_up,
    until_notes,
    until_standby,
    until_writer,
)
from tests.faults.killer import fresh_seed, kill
from tests.faults.proxy import TcpProxy
from tests.faults.s3_proxy import S3Proxy

ONE_IN = 4
WRITE_EVERY_S = 0.02


@dataclass
class Told:
    """When a node was asked for which note, and said that it is written, by the clock of the test."""

    asked: dict[str, float] = field(default_factory=dict)
    done: list[tuple[float, str]] = field(default_factory=list)
    refused: list[tuple[float, str]] = field(default_factory=list)


@asynccontextmanager
async def writing(node: NodeProcess, name: str) -> AsyncIterator[Told]:
    """Write into a node without rest, whatever it answers; at the end everything that was asked is answered."""
    told, ending = Told(), asyncio.Event()

    async def write() -> None:
        number = 0
        while not ending.is_set():
            number += 1
            told.asked[f"{name} {number}"] = time.monotonic()
            with contextlib.suppress(httpx2.TransportError):
                answer = await sql(node, "INSERT INTO note VALUES (?)", f"{name} {number}")
                if answer.status_code == 200:
                    told.done.append((time.monotonic(), f"{name} {number}"))
                else:
                    assert answer.status_code == 503, answer.text
                    told.refused.append((time.monotonic(), answer.json()["type"]))
            await asyncio.sleep(WRITE_EVERY_S)

    task = asyncio.create_task(write())
    try:
        yield told
    finally:
        ending.set()
        await task  # else a last note might be written after everything was compared


async def until_some(told: Told) -> None:
    """Wait until a node has said of some note that it is written."""

    async def some() -> bool:
        return bool(told.done)

    await until(some, "it writes")


async def reads(node: NodeProcess) -> bool:
    """Tell whether a node shows its notes."""
    return bool(await notes(node))


async def harmed(proxy: S3Proxy, count: int) -> bool:
    """Tell whether so many requests were harmed."""
    return proxy.harmed.total() >= count


def address(weed: Weed) -> tuple[str, int]:
    parts = urlsplit(weed.s3_url)
    assert parts.hostname
    assert parts.port
    return parts.hostname, parts.port


async def restored(weed: Weed, prefix: str, home: Path) -> list[str] | None:
    """Restore into a fresh directory, and return the notes there."""
    await asyncio.to_thread(home.mkdir)
    node = NodeProcess(home, extra=environ(weed, prefix))
    said = await node.cli("restore", "--json")
    assert said.code == 0, said.err
    await node.start()
    try:
        return await notes(node)
    finally:
        await node.close()


async def test_a_node_whose_store_hangs_stops_before_the_other_begins(
    start_node: StartNode, weed: Weed, tmp_path: Path
) -> None:
    """PR3: no two answers overlap; what was held back on the way and arrives later does not count."""
    prefix = f"hangs-{random.Random(fresh_seed()).randrange(1 << 30)}"
    async with TcpProxy(*address(weed)) as proxy:
        first = await started(start_node, weed, prefix, port=proxy.port)
        second = await start_node(extra=environ(weed, prefix))
        await until_standby(second)
        await until_notes(second, [])  # before it has the table, it says of a note that it is wrong
        async with writing(first, "first") as by_first, writing(second, "second") as by_second:
            await until_some(by_first)
            await asyncio.sleep(2)
            proxy.pause()
            await until_writer(second)
            await until_some(by_second)
            await until(lambda: reads(first), "the first one still reads")
            proxy.resume()  # what the first has sent meanwhile arrives now
            await until_standby(first)
        began = by_second.done[0][0]
        assert not [text for _, text in by_first.done if by_first.asked[text] > began], "both wrote at the same time"
        kinds = {kind.removeprefix("urn:forge:problem:") for at, kind in by_first.refused if at > by_first.done[-1][0]}
        assert "not-the-writer" in kinds
        assert kinds <= {"not-the-writer", "outcome-unknown", "unavailable"}  # the last while it changes its role
        kept = await notes(second)
        assert kept is not None
        lost = [text for _, text in by_first.done if text not in kept]
        assert lost == [text for _, text in by_first.done][len(by_first.done) - len(lost) :], "only a tail is lost"
        assert {text for _, text in by_second.done} <= set(kept)
        assert len(kept) == len(set(kept))
        await until_notes(first, kept)
        await note(second, "after")
        await until_notes(first, [*kept, "after"])  # which follows what is archived
        assert await second.stop() == 0
        assert await first.stop() == 0
    assert await restored(weed, prefix, tmp_path / "third") == [*kept, "after"]


async def test_a_takeover_survives_a_store_that_does_and_does_not_say_so(
    start_node: StartNode, weed: Weed, tmp_path: Path
) -> None:
    """PR3, PR4: acquiring, the table of epochs, seeding: each answer may be lost, each refusal untrue."""
    seed = fresh_seed()
    prefix = f"unsaid-{random.Random(seed).randrange(1 << 30)}"
    print(f"failover: seed={seed}")
    async with S3Proxy(*address(weed), random.Random(seed)) as proxy:
        first = await started(start_node, weed, prefix, port=proxy.port)
        second = await start_node(extra=environ(weed, prefix, port=proxy.port))
        await until_standby(second)
        proxy.one_in = ONE_IN
        async with writing(first, "first") as by_first:
            await until_some(by_first)
            await asyncio.sleep(3)
            await kill(first.pid)
        await until_writer(second)
        async with writing(second, "second") as by_second:
            await until_some(by_second)
            await until(lambda: harmed(proxy, 20), "much was harmed")
        proxy.one_in = 0
        kept = await notes(second)
        assert kept is not None
        assert len(kept) == len(set(kept))
        assert {text for _, text in by_second.done} <= set(kept)
        archived = [text for _, text in by_first.done if text in kept]
        assert archived == [text for _, text in by_first.done][: len(archived)]
        await until_caught_up(second)
        assert await second.stop() == 0
        print(f"failover: harmed {dict(proxy.harmed)}")
    assert await restored(weed, prefix, tmp_path / "third") == kept
