"""What nats-server itself loses when the power is cut or it is killed, with and without `sync_interval: always`."""

import asyncio
import contextlib
import random
from collections.abc import Iterator
from pathlib import Path

import nats
import nats.errors
import nats.js.errors
import pytest
from nats.aio.client import Client
from nats.js.api import DiscardPolicy, StorageType, StreamConfig

from tests.faults import powercut
from tests.faults.checker import Violation, check
from tests.faults.history import History, Operation
from tests.faults.killer import fresh_seed
from tests.faults.nats_server import NatsServer
from tests.faults.powercut import PowerCutDisk

STREAM = "POWER"
SUBJECT = "power.one"
WRITERS = 16
EARLIEST_S, LATEST_S = 0.2, 1.2
ANSWER_WAIT_S = 5.0


@pytest.fixture
def disk() -> Iterator[PowerCutDisk]:
    """A disk whose power can be cut, or a loud skip that says why this machine cannot."""
    if reason := powercut.unavailable():
        pytest.skip(f"POWER CUTS ARE NOT TESTED: {reason}")
    with PowerCutDisk(size_mb=128) as disk:
        yield disk


@pytest.mark.root
async def test_sync_always_loses_no_acknowledged_publish_over_five_power_cuts(
    disk: PowerCutDisk, tmp_path: Path
) -> None:
    """PR1: every ack received before the cut is in the log, once, at its position."""
    acknowledged, violations = await cut_while_publishing(disk, tmp_path, sync_always=True, cuts=5)

    assert min(acknowledged) > 0, f"a cut came before any ack, so it proved nothing: {acknowledged}"
    assert violations == []


@pytest.mark.root
@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_sync_always_loses_no_acknowledged_publish_over_fifty_power_cuts(
    disk: PowerCutDisk, tmp_path: Path
) -> None:
    """PR1: the same, often enough to meet rarer moments."""
    acknowledged, violations = await cut_while_publishing(disk, tmp_path, sync_always=True, cuts=50)

    assert min(acknowledged) > 0, f"a cut came before any ack, so it proved nothing: {acknowledged}"
    assert violations == []


@pytest.mark.root
async def test_the_default_sync_interval_loses_acknowledged_publishes_in_the_same_test(
    disk: PowerCutDisk, tmp_path: Path
) -> None:
    """PR1: the power cut is real and the check can see a loss; this is why Forge refuses such a server."""
    acknowledged, violations = await cut_while_publishing(disk, tmp_path, sync_always=False, cuts=1)

    assert min(acknowledged) > 0
    assert "lost" in {violation.kind for violation in violations}


async def cut_while_publishing(
    disk: PowerCutDisk, home: Path, *, sync_always: bool, cuts: int
) -> tuple[list[int], list[Violation]]:
    """Publish from many tasks, cut the power at random moments; return acks per cut and what the log lacks."""
    seed = fresh_seed()
    print(f"power cuts: seed={seed} sync_always={sync_always}")
    moments = random.Random(seed)
    history: History[int] = History()
    acknowledged: list[int] = []
    server = NatsServer(home, disk.path / "jetstream", sync_always=sync_always)
    try:
        for cut in range(cuts):
            await server.start()
            acknowledged.append(
                await _publish_until_cut(server, disk, history, moments.uniform(EARLIEST_S, LATEST_S), cut)
            )
            disk.remount()
            await server.stop()
        await server.start()
        log = await _read_log(server)
    finally:
        await server.stop()
    operations = history.operations()
    violations = check(operations, log)
    print(f"power cuts: acks before each {acknowledged}, {_count_lost(violations)} of {sum(acknowledged)} lost")
    return acknowledged, violations


async def _publish_until_cut(
    server: NatsServer, disk: PowerCutDisk, history: History[int], after_s: float, cut: int
) -> int:
    """Return how many publishes were acknowledged before the power went."""
    client = await nats.connect(server.url, allow_reconnect=False, error_cb=_ignore, pending_size=0)
    try:
        await _make_stream(client)
        already = _count_answered(history.operations())
        writers = [asyncio.create_task(_publish(client, history, f"{cut}.{n}")) for n in range(WRITERS)]
        await asyncio.sleep(after_s)
        disk.cut()  # nothing that this event loop handles from here on was answered before it
        for writer in writers:
            writer.cancel()
        await asyncio.gather(*writers, return_exceptions=True)
        return _count_answered(history.operations()) - already
    finally:
        with contextlib.suppress(asyncio.CancelledError, nats.errors.Error, OSError):
            await client.close()


async def _make_stream(client: Client) -> None:
    wanted = StreamConfig(
        name=STREAM,
        subjects=["power.>"],
        storage=StorageType.FILE,
        discard=DiscardPolicy.NEW,
        allow_direct=True,
    )
    jetstream = client.jetstream(timeout=ANSWER_WAIT_S)
    try:
        await jetstream.stream_info(STREAM)
    except nats.js.errors.NotFoundError:
        await jetstream.add_stream(wanted)


async def _publish(client: Client, history: History[int], writer: str) -> None:
    """Publish one message after the other, each named by its own id; ends when cancelled."""
    jetstream = client.jetstream(timeout=ANSWER_WAIT_S)
    number = 0
    while True:
        id = f"{writer}.{number}"
        attempt = history.invoke(id)
        ack = await jetstream.publish(SUBJECT, id.encode(), stream=STREAM)
        history.answered(attempt, ack.seq)
        number += 1


async def _read_log(server: NatsServer) -> list[tuple[int, list[str]]]:
    """Return (sequence, ids) of all that is stored; nothing when the stream itself is gone."""
    client = await nats.connect(server.url, error_cb=_ignore)
    try:
        jetstream = client.jetstream(timeout=ANSWER_WAIT_S)
        try:
            state = (await jetstream.stream_info(STREAM)).state
        except nats.js.errors.NotFoundError:
            return []
        log: list[tuple[int, list[str]]] = []
        if state.messages == 0:
            return log
        reader = await jetstream.subscribe(SUBJECT, stream=STREAM, ordered_consumer=True)
        while not log or log[-1][0] < state.last_seq:
            message = await reader.next_msg(timeout=ANSWER_WAIT_S)
            log.append((message.metadata.sequence.stream, [message.data.decode()]))
        await reader.unsubscribe()
        return log
    finally:
        await client.close()


def _count_answered(operations: list[Operation[int]]) -> int:
    return sum(1 for operation in operations if operation.positions)


def _count_lost(violations: list[Violation]) -> int:
    return sum(1 for violation in violations if violation.kind == "lost")


async def _ignore(error: Exception) -> None:
    """The faults are ours; what they do to the client shows in the history."""
