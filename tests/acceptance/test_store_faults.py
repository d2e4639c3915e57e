"""A node whose object store fails in every way, from the first archived record to the restored machine."""

import asyncio
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from forge.log_access import log_access
from forge.stack.weed import Weed
from schemas.ids import Position
from tests.acceptance.conftest import StartNode
from tests.acceptance.mixed_load import Answered, MixedLoad, assert_there
from tests.acceptance.node_process import NodeProcess
from tests.archives import assert_equal
from tests.faults.killer import fresh_seed
from tests.faults.s3_proxy import S3Proxy
from tests.s3_stores import s3_environ

HARMS, HARMS_LONG = 200, 10_000
LONG_TIMEOUT_S = 7200
ONE_IN = 5  # of requests and answers while records are archived, and generations made
ONE_IN_RESTORE = 8
RESTORES_MAX = 40
WAIT_S = 180.0
BURST = 100  # writes; then the archive may come near, else it would have all of them to catch up with at the end
GENERATION_RECORDS = 20
EAGER = {
    "FORGE_ARCHIVE_SEAL_S": "0.1",
    "FORGE_GENERATION_RECORDS": str(GENERATION_RECORDS),
    "FORGE_GENERATION_EVERY_S": "1",
    "FORGE_GENERATION_VERIFY": "1",
}


@pytest.mark.parametrize(
    "harms", [HARMS, pytest.param(HARMS_LONG, marks=[pytest.mark.long, pytest.mark.timeout(LONG_TIMEOUT_S)])]
)
async def test_a_store_that_fails_in_every_way_harms_no_byte_and_loses_no_answer(
    start_node: StartNode, weed: Weed, tmp_path: Path, harms: int
) -> None:
    """PR1, PR3, PR4, K3.6: archive, generations, and a restore through the same faults, in both directions."""
    seed = fresh_seed()
    rng = random.Random(seed)
    print(f"store faults: seed={seed}")
    async with _proxy(weed, rng) as proxy:
        extra = s3_environ(weed, port=proxy.port, prefix=f"faults-{rng.randrange(1 << 30)}") | EAGER
        node = await start_node(extra=extra)
        await MixedLoad(node, 0).prepare()
        proxy.one_in = ONE_IN
        answers: list[Answered] = []
        while proxy.harmed.total() < harms:
            load = MixedLoad(node, rng.randrange(1 << 30))
            async with load.running():
                await load.answered(BURST)
            answers += load.answers
            await _archived_or(node, lambda: proxy.harmed.total() >= harms)
        proxy.one_in = 0
        await _caught_up(node)
        await _generations_made(node)
        assert await node.stop() == 0
        await _assert_archived(node)
        digests = await _digests(node)

        (tmp_path / "other").mkdir()
        other = NodeProcess(tmp_path / "other", extra=extra)
        proxy.one_in = ONE_IN_RESTORE
        said = await _restored(other)
        proxy.one_in = 0
        assert await _digests(other) == digests
    reached = {one["partition"]: Position.parse(one["position"]) for one in said["partitions"]}
    await asyncio.to_thread(assert_there, other.settings, answers, reached)
    print(f"store faults: {json.dumps({'answers': len(answers), 'harmed': dict(proxy.harmed)})}")


def _proxy(weed: Weed, rng: random.Random) -> S3Proxy:
    parts = urlsplit(weed.s3_url)
    assert parts.hostname
    assert parts.port
    return S3Proxy(parts.hostname, parts.port, rng)


async def _archived_or(node: NodeProcess, enough: Callable[[], bool]) -> None:
    """Wait until little lags, or it is enough."""
    async with node.client() as client:
        while not enough():
            lag = sum(stream["lag_records"] for stream in (await client.replicate_status())["streams"])
            if lag < BURST:
                return
            await asyncio.sleep(0.2)


async def _caught_up(node: NodeProcess) -> None:
    """Wait until nothing lags, and fail if anything is archived no more."""
    async with asyncio.timeout(WAIT_S):
        while True:
            if all(one["lag_records"] == 0 for one in (await _status(node))["partitions"]):
                return
            await asyncio.sleep(0.2)


async def _generations_made(node: NodeProcess) -> None:
    """Wait until each projection that was written has a generation."""
    async with asyncio.timeout(WAIT_S):
        while True:
            partitions = (await _status(node))["partitions"]
            written = [one for one in partitions if Position.parse(one["position"]).index > 2 * GENERATION_RECORDS]
            if all(made["position"] for one in written for made in one["generations"]):
                return
            await asyncio.sleep(0.2)


async def _status(node: NodeProcess) -> Any:
    said = await node.cli("replicate", "status", "--json")
    assert said.code == 0, said.out + said.err
    return json.loads(said.out)


async def _assert_archived(node: NodeProcess) -> None:
    """Fail unless the segments of every partition are exactly its log."""
    async with log_access(node.settings, exclusive=True) as access:
        assert access.archive is not None
        for partition in await access.partitions():
            await assert_equal(access.archive, access.log.reader, partition)


async def _digests(node: NodeProcess) -> dict[str, str]:
    """Return the digests of all projections, each equal to what its history gives."""
    verified = await node.cli("rebuild", "--verify", "--json")
    assert verified.code == 0, verified.out + verified.err
    return {one["projection"]: one["digest"] for one in json.loads(verified.out)}


async def _restored(node: NodeProcess) -> Any:
    """Restore, again and again: it goes on where it was stopped, and says in four lines what stopped it."""
    for _ in range(RESTORES_MAX):
        said = await node.cli("restore", "--json")
        assert "Traceback" not in said.err
        if said.code == 0:
            return json.loads(said.out)
        assert {"what", "why", "fix"} <= json.loads(said.err).keys(), said.err
    raise AssertionError(f"not restored after {RESTORES_MAX} attempts: {said.err}")
