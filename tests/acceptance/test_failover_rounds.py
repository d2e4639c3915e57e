"""Writers that stop, are killed or sleep in turns, while a client writes to whoever takes it."""

import asyncio
import os
import random
import signal
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest

from events.archive import Archive
from forge.stack.weed import Weed
from projectors.document.domain import document_partition
from projectors.tasks import end
from schemas.ids import Position
from tests.acceptance.conftest import StartNode
from tests.acceptance.node_process import NodeProcess
from tests.acceptance.two_nodes import (
    DB,
    LEASE_S,
    environ,
    notes,
    sql,
    started,
    status,
    until,
    until_notes,
    until_standby,
)
from tests.faults.killer import fresh_seed, kill
from tests.s3_stores import s3_store

ROUNDS = 8
NODES = 3
SLEEP_S = LEASE_S + 3
WRITE_EVERY_S = 0.02


class Client:
    """Writes one note after the other to whoever takes it, and remembers where each answered one stood."""

    def __init__(self, nodes: list[NodeProcess]) -> None:
        self.nodes = nodes
        self.answered: dict[str, Position] = {}
        self.unsure: set[str] = set()
        self._number = 0

    async def run(self) -> None:
        """Write for ever."""
        while True:
            for node in self.nodes:
                await self._write(node)
            await asyncio.sleep(WRITE_EVERY_S)

    async def _write(self, node: NodeProcess) -> None:
        self._number += 1
        text = f"note {self._number}"
        try:
            async with asyncio.timeout(2):
                answer = await sql(node, "INSERT INTO note VALUES (?)", text)
        except (httpx2.TransportError, TimeoutError):
            self.unsure.add(text)
            return
        if answer.status_code == 200:
            self.answered[text] = Position.parse(answer.headers["forge-position"])
        elif answer.json()["type"] != "urn:forge:problem:not-the-writer":
            self.unsure.add(text)


async def writer_of(nodes: list[NodeProcess]) -> NodeProcess:
    """Wait until a node writes, and return it."""
    found: list[NodeProcess] = []

    async def one_writes() -> bool:
        for node in nodes:
            with suppress(TimeoutError):
                async with asyncio.timeout(2):
                    if node.runs and (await status(node)).get("writes") is True:
                        found.append(node)
                        return True
        return False

    await until(one_writes, "somebody writes")
    return found[0]


async def harm(rng: random.Random, writer: NodeProcess) -> str:
    """Let a writer be gone for longer than its lease lasts, and come back."""
    how = rng.choice(["sleep", "kill", "stop"])
    if how == "sleep":
        os.kill(writer.pid, signal.SIGSTOP)
        await asyncio.sleep(SLEEP_S)
        os.kill(writer.pid, signal.SIGCONT)
        return how
    await (kill(writer.pid) if how == "kill" else writer.stop())
    await asyncio.sleep(SLEEP_S if how == "kill" else rng.uniform(0, 2))
    await writer.start(until_ready=False)
    await writer.serving()
    return how


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_whoever_writes_what_was_answered_counts_or_is_told_to_be_lost(
    start_node: StartNode, weed: Weed, tmp_path: Path
) -> None:
    """PR3, PR4, G11: on all nodes each answered note whose position counts is there once, and no other one."""
    rng = random.Random(fresh_seed())
    prefix = f"rounds-{rng.randrange(1 << 30)}"
    nodes = [await started(start_node, weed, prefix)]
    nodes += [await start_node(extra=environ(weed, prefix)) for _ in range(NODES - 1)]
    for node in nodes[1:]:
        await until_standby(node)
    client = Client(nodes)
    writing = asyncio.create_task(client.run())
    try:
        for _ in range(ROUNDS):
            await asyncio.sleep(rng.uniform(1, 4))
            writer = await writer_of(nodes)
            print(f"{await harm(rng, writer)} node {nodes.index(writer) + 1}, {len(client.answered)} answered")
    finally:
        await end(writing)
    await asyncio.sleep(SLEEP_S)
    final = await notes(await writer_of(nodes))
    assert final is not None
    for node in nodes:
        await until_notes(node, final)
    await assert_true(client, final, Archive(store := s3_store(weed), prefix))
    await store.close()
    restored = NodeProcess(tmp_path / "restored", extra=environ(weed, prefix))
    await asyncio.to_thread(restored.home.mkdir)
    for node in nodes:
        assert await node.stop() == 0
    assert (await restored.cli("restore", "--json")).code == 0
    try:
        await restored.start()
        assert await notes(restored) == final
        assert (await restored.cli("rebuild", "--verify")).code == 0
    finally:
        await restored.close()


async def assert_true(client: Client, final: list[str], archive: Archive) -> None:
    """Fail unless `final` holds each answered note that counts once, and no other answered one."""
    assert len(set(final)) == len(final)
    there, lost = set(final), 0
    for text, position in client.answered.items():
        counts = await archive.knows(document_partition(DB), position)
        assert (text in there) == counts, f"{text} at {position}: counts is {counts}"
        lost += not counts
    assert there <= client.answered.keys() | client.unsure
    print(f"{len(client.answered)} answered, {lost} lost at takeovers, epoch {(await archive.epochs.table()).epoch}")
