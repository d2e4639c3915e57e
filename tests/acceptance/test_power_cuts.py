"""Power cuts under load: the disk forgets what was not synced, everything dies, and nothing accepted is lost."""

import asyncio
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from blake3 import blake3

from forge.stack.nats import NatsServer
from tests.acceptance.conftest import StartNode
from tests.acceptance.figures import Figures
from tests.acceptance.node_process import NodeProcess
from tests.acceptance.nothing_lost import payloads_are_whole, prove_nothing_lost
from tests.acceptance.uploads import Uploads
from tests.conftest import StartNats
from tests.faults import powercut
from tests.faults.killer import fresh_seed
from tests.faults.powercut import PowerCutDisk

CUTS, CUTS_LONG = 5, 50
EARLIEST_S, LATEST_S = 0.2, 1.5
ACKS_BETWEEN = 100
DISK_MB = 2048  # a sparse file; the node wants some hundred MB free to call itself ready
LONG_TIMEOUT_S = 3600


@pytest.fixture
def disk() -> Iterator[PowerCutDisk]:
    """A disk whose power can be cut, or a loud skip that says why this machine cannot."""
    if reason := powercut.unavailable():
        pytest.skip(f"POWER CUTS ARE NOT TESTED: {reason}")
    with PowerCutDisk(size_mb=DISK_MB) as disk:
        yield disk


@pytest.mark.root
async def test_power_cuts_lose_nothing_accepted(disk: PowerCutDisk, start_node: StartNode) -> None:
    """PR1, K0.3: data and payloads on a disk that loses what is not synced, five times under load."""
    await cut_the_power(disk, start_node, CUTS)


@pytest.mark.root
@pytest.mark.long
@pytest.mark.timeout(LONG_TIMEOUT_S)
async def test_fifty_power_cuts_lose_nothing_accepted(disk: PowerCutDisk, start_node: StartNode) -> None:
    """PR1: the same, often enough to meet rarer moments."""
    await cut_the_power(disk, start_node, CUTS_LONG)


async def cut_the_power(disk: PowerCutDisk, start_node: StartNode, cuts: int) -> None:
    """Cut the power `cuts` times while clients upload; all that was answered before a cut must be there."""
    seed = fresh_seed()
    rng = random.Random(seed)
    node = await start_node(disk=disk.path)
    uploads, figures = Uploads(node, seed), Figures("power cuts", seed)
    before: list[int] = []

    def cut() -> None:
        # Between these two lines no answer is handled, so none is counted that came after the cut began.
        uploads.freeze()
        disk.cut()
        before.append(uploads.acks)
        figures.moments.append(time.monotonic())

    async with uploads.running():
        for _ in range(cuts):
            await uploads.acknowledged(ACKS_BETWEEN)
            if rng.randrange(2):
                await uploads.at_next_ack(cut)
            else:
                await asyncio.sleep(rng.uniform(EARLIEST_S, LATEST_S))
                cut()
            disk.remount()
            payloads_are_whole(node, uploads.accepted)
            figures.starts_s.append(await node.start())
            uploads.thaw()
        await uploads.acknowledged(ACKS_BETWEEN)
    print(f"power cuts: acknowledged before each {before}")
    await prove_nothing_lost(node, uploads)
    figures.report(uploads)


@pytest.mark.parametrize("with_data", [False, True], ids=["first start", "with data"])
async def test_a_server_that_syncs_later_gets_no_writes(
    start_node: StartNode, start_nats: StartNats, tmp_path: Path, with_data: bool
) -> None:
    """PR1, K0.3: with the default sync_interval the node takes no upload, is not ready, and says what to change.

    That such a server does lose acknowledged records is shown in tests/integration/test_log_durability.py.
    """
    home = tmp_path / "server"
    server = await start_nats(home)
    node = await start_node(extra=addresses(server))
    assert (await upload(node, b"on a server that syncs")).status_code == 202
    assert await node.stop() == 0
    await server.close()
    if not with_data:
        shutil.rmtree(node.data)
    later = await start_nats(home if with_data else None, sync_always=False)
    node.environ.update(addresses(later))

    await node.start(until_ready=False)
    await node.serving()
    refused = await upload(node, b"not on this server")
    async with node.http() as http:
        ready = await http.get("/readyz")

    assert refused.status_code == 503, refused.text
    assert "sync_interval: always" in refused.json()["detail"]
    assert int(refused.headers["Retry-After"]) > 0
    assert ready.status_code == 503
    failed = {check["name"]: check["value"] for check in ready.json()["checks"] if not check["ok"]}
    assert "sync_interval: always" in failed["log"]


async def upload(node: NodeProcess, body: bytes) -> httpx2.Response:
    """Upload `body` as a text once."""
    headers = {"X-File-Hash": blake3(body).hexdigest(), "X-Embedding-Kind": "text"}
    async with node.http() as http:
        return await http.post("/api/v1/upload", content=body, headers=headers, timeout=30)


def addresses(server: NatsServer) -> dict[str, str]:
    """Return the settings that name `server`."""
    return {
        "FORGE_NATS_URL": server.log_url,
        "FORGE_NATS_READ_URL": server.read_url,
        "FORGE_NATS_LIVE_URL": server.live_url,
        "FORGE_NATS_ADMIN_URL": server.admin_url,
        "FORGE_NATS_MONITOR_URL": server.monitor_url,
    }
