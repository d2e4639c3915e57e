"""Who takes over what: after a kill, a clean stop, a move of the data directory, and over one log that both share."""

import asyncio
import json
import random
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from forge.stack.weed import Weed
from tests.acceptance.conftest import StartNode
from tests.acceptance.node_process import NodeProcess
from tests.acceptance.two_nodes import (
    environ,
    note,
    notes,
    sql,
    started,
    status,
    until,
    until_notes,
    until_standby,
    until_writer,
)
from tests.conftest import StartNats
from tests.faults.killer import fresh_seed, kill
from tests.faults.s3_proxy import S3Proxy

# nothing is archived but by a flush, and that is no reason not to be ready
LATE = {
    "FORGE_ARCHIVE_SEAL_S": "3600",
    "FORGE_ARCHIVE_SEAL_BYTES": "1000000",
    "FORGE_ARCHIVE_READY_LAG_S": "3600",
}


def new_prefix() -> str:
    return f"takeover-{random.Random(fresh_seed()).randrange(1 << 30)}"


@pytest.mark.long
async def test_a_node_that_was_killed_comes_back_as_a_standby_without_what_nobody_else_has(
    start_node: StartNode, weed: Weed
) -> None:
    """PR3, G3: its last records were in no archive when the other took over; it keeps them, and shows nobody."""
    prefix = new_prefix()
    first = await started(start_node, weed, prefix)
    second = await start_node(extra=environ(weed, prefix))
    await until_standby(second)
    await note(first, "archived")
    await until_notes(second, ["archived"])
    await note(first, "lost")
    await kill(first.pid)
    await until_writer(second)
    await note(second, "second")
    kept = await notes(second)

    await first.start()

    await until_standby(first)
    assert kept is not None
    await until_notes(first, kept)
    if "lost" not in kept:
        assert list((first.data / "aside").rglob("*.seg"))


async def test_a_clean_stop_hands_over_at_once_and_loses_nothing(start_node: StartNode, weed: Weed) -> None:
    """PR4: what was answered a moment before is archived when the lease is given back; the standby need not wait."""
    prefix = new_prefix()
    first = await started(start_node, weed, prefix)
    second = await start_node(extra=environ(weed, prefix) | {"FORGE_LEASE_DURATION_S": "600"})
    await until_standby(second)
    told = await second.cli("replicate", "status", "--json")
    assert told.code == 0, told.err
    assert json.loads(told.out)["archive"]
    assert not [one for one in json.loads(told.out)["partitions"] if one["problem"]]
    for number in range(20):
        await note(first, str(number))
    assert await first.stop() == 0

    await until_writer(second)

    assert await notes(second) == [str(number) for number in range(20)]
    assert (await note(second, "second")).epoch == 2


async def test_a_data_directory_that_moved_loses_nothing_that_was_not_archived(
    start_node: StartNode, weed: Weed, tmp_path: Path
) -> None:
    """PR1 and PR4: it is another place and so another epoch, but nobody else wrote: its log is archived before that."""
    prefix = new_prefix()
    first = await started(start_node, weed, prefix, extra=LATE)
    for number in range(5):
        await note(first, str(number))
    await kill(first.pid)
    moved = NodeProcess(tmp_path / "moved", extra=environ(weed, prefix) | LATE)
    await asyncio.to_thread(shutil.copytree, first.data, moved.data)

    try:
        await moved.start()
        await until_writer(moved)

        assert await notes(moved) == [str(number) for number in range(5)]
        assert (await note(moved, "moved")).epoch == 2
    finally:
        await moved.close()


async def test_over_one_log_a_takeover_loses_nothing_that_was_answered(
    start_node: StartNode, start_nats: StartNats, weed: Weed
) -> None:
    """PR1, PR3: with servers of their own both nodes read one log; what was not archived is in it."""
    prefix, server = new_prefix(), await start_nats()
    shared = LATE | {
        "FORGE_NATS_URL": server.log_url,
        "FORGE_NATS_READ_URL": server.read_url,
        "FORGE_NATS_LIVE_URL": server.live_url,
        "FORGE_NATS_ADMIN_URL": server.admin_url,
        "FORGE_NATS_MONITOR_URL": server.monitor_url,
    }
    first = await started(start_node, weed, prefix, extra=shared)
    await note(first, "before")
    second = await start_node(extra=environ(weed, prefix) | shared)
    await until_standby(second)
    await until_notes(second, ["before"])
    await note(first, "after")
    await until_notes(second, ["before", "after"])
    assert (await sql(second, "INSERT INTO note VALUES ('no')")).status_code == 503
    await note(first, "last")
    await kill(first.pid)
    await until_writer(second)

    assert await notes(second) == ["before", "after", "last"]
    assert (await note(second, "second")).epoch == 2
    await first.start()
    await until_notes(first, ["before", "after", "last", "second"])
    assert not (first.data / "aside").exists()


async def test_a_node_that_stops_before_all_is_archived_does_not_hand_over(start_node: StartNode, weed: Weed) -> None:
    """PR1: it may come back before the lease has run out, and then nothing that it answered is lost."""
    prefix, parts = new_prefix(), urlsplit(weed.s3_url)
    long = LATE | {"FORGE_LEASE_DURATION_S": "600"}
    assert parts.hostname
    assert parts.port
    async with S3Proxy(parts.hostname, parts.port, random.Random(1)) as proxy:
        first = await started(start_node, weed, prefix, port=proxy.port, extra=long)
        second = await start_node(extra=environ(weed, prefix) | long)
        await until_standby(second)
        await note(first, "answered")
        await proxy.refuse()
        await proxy.drop_connections()
        assert await first.stop() == 0
        assert "stopped before everything was archived" in await asyncio.to_thread(first.log.read_text)
        proxy.accept()

        await first.start()

        await until_writer(first)
        assert await notes(first) == ["answered"]
        assert (await note(first, "again")).epoch == 1
        assert (await status(second))["role"] == "standby"


@pytest.mark.long
async def test_a_standby_that_cannot_reach_the_store_says_so_and_catches_up(start_node: StartNode, weed: Weed) -> None:
    """G30: it is not ready before it has seen what is archived, and later while it is too far behind."""
    prefix, parts = new_prefix(), urlsplit(weed.s3_url)
    assert parts.hostname
    assert parts.port
    first = await started(start_node, weed, prefix)
    await note(first, "one")
    async with S3Proxy(parts.hostname, parts.port, random.Random(1)) as proxy:
        await proxy.refuse()
        extra = environ(weed, prefix, port=proxy.port) | {"FORGE_ARCHIVE_READY_LAG_S": "5"}
        second = await start_node(extra=extra, until_ready=False)
        await second.serving()
        assert not (await standby_check(second))["ok"]

        proxy.accept()
        await until_notes(second, ["one"])
        await second.ready()

        await proxy.refuse()
        await proxy.drop_connections()
        await until(lambda: _is_red(second), "it is too far behind")
        assert await notes(second) == ["one"], "reads are answered"
        assert (await sql(second, "INSERT INTO note VALUES ('no')")).status_code == 503
        await note(first, "two")
        proxy.accept()
        await until_notes(second, ["one", "two"])
        await second.ready()


async def standby_check(node: NodeProcess) -> dict[str, Any]:
    """Return what a standby says of itself when it is asked whether it is ready."""
    async with node.http() as http:
        checks = (await http.get("/readyz")).json()["checks"]
    return next(dict(check) for check in checks if check["name"] == "standby")


async def _is_red(node: NodeProcess) -> bool:
    return not (await standby_check(node))["ok"]
