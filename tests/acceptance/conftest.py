"""Real nodes for acceptance tests: each in a process of its own, gone at the end with everything it started."""

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.acceptance.node_process import NodeProcess

pytest.register_assert_rewrite("tests.acceptance.nothing_lost")

StartNode = Callable[..., Awaitable[NodeProcess]]


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
