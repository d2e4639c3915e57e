"""Real nodes for acceptance tests: each in a process of its own, gone at the end with everything it started."""

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.acceptance.node_process import NodeProcess
from tests.acceptance.relay_scripts import RelayNode

pytest.register_assert_rewrite("tests.acceptance.nothing_lost")

RELAY = {
    "FORGE_RELAY_ANONYMOUS": "public,guest",
    "FORGE_RELAY_HOOK_KEY": "key of hooks",
    "FORGE_RATE_ANONYMOUS": "0",
    "FORGE_RATE_UNKNOWN": "0",
}
"""The profile of older clients of the relay, without bounds of rates, which have tests of their own."""

StartNode = Callable[..., Awaitable[NodeProcess]]
StartRelay = Callable[..., Awaitable[RelayNode]]


@pytest_asyncio.fixture
async def start_node(tmp_path: Path) -> AsyncIterator[StartNode]:
    """Start nodes for this test alone; keywords are those of `NodeProcess`, and `until_ready` that of `start`.

    A node may be stopped, killed and started again; at the end all are killed, and none may leave a child.
    """
    numbers = itertools.count(1)
    async with AsyncExitStack() as closing:

        async def start(*, until_ready: bool = True, **options: Any) -> NodeProcess:
            home = tmp_path / f"node-{next(numbers)}"
            home.mkdir()
            node = NodeProcess(home, **options)
            closing.push_async_callback(node.close)
            await node.start(until_ready=until_ready)
            return node

        yield start


async def relay_of(node: NodeProcess, folder: Path) -> RelayNode:
    """Give the scripts of older clients a node, and the client that it serves."""
    client = folder / "patchwork.sh"
    async with node.http() as http:
        client.write_bytes((await http.get("/static/patchwork.sh")).content)
    return RelayNode(node, folder, client)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_relay(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NodeProcess]:
    """One node for all scripts of a module."""
    node = NodeProcess(tmp_path_factory.mktemp("relay"), extra=RELAY)
    try:
        await node.start()
        yield node
    finally:
        await node.close()


@pytest_asyncio.fixture(loop_scope="module")
async def start_relay(tmp_path: Path) -> AsyncIterator[StartRelay]:
    """Start a node of the same profile for this test alone; keywords are settings that differ."""
    async with AsyncExitStack() as closing:

        async def start(**extra: str) -> RelayNode:
            node = NodeProcess(tmp_path, extra=RELAY | extra)
            closing.push_async_callback(node.close)
            await node.start()
            return await relay_of(node, tmp_path)

        yield start


@pytest_asyncio.fixture(loop_scope="module")
async def relay(shared_relay: NodeProcess, tmp_path: Path) -> AsyncIterator[RelayNode]:
    """The relay of that node, where nobody waits before and after a test (S13)."""
    served = await relay_of(shared_relay, tmp_path)
    await served.quiet()
    yield served
    await served.quiet()
