"""Real servers for tests: each on free ports with a store of its own under pytest's temporary folder."""

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import settings as examples

from forge.datadir import read_root_token
from forge.embedded import running
from forge.stack.nats import NatsServer
from forge.stack.weed import Weed
from schemas.settings import Settings

StartNats = Callable[..., Awaitable[NatsServer]]

# How long an example takes depends on what else runs on the machine: benchmarks measure time, tests do not.
examples.register_profile("forge", examples(), deadline=None)
examples.load_profile("forge")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def nats_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NatsServer]:
    """One nats-server for all tests that leave it running: share it by using partitions of your own."""
    async with NatsServer(tmp_path_factory.mktemp("nats"), supervised=False) as server:
        yield server


@pytest_asyncio.fixture
async def start_nats(tmp_path: Path) -> AsyncIterator[StartNats]:
    """Start servers for this test alone (0.1 s each); keywords are those of `NatsServer`.

    `data` (default: a new folder) may name the folder of an earlier server. A server may be killed,
    stopped and started again; all are closed at the end.
    """
    numbers = itertools.count(1)
    async with AsyncExitStack() as closing:

        async def start(data: Path | None = None, **options: Any) -> NatsServer:
            server = NatsServer(data or tmp_path / f"nats-{next(numbers)}", **options)
            return await closing.enter_async_context(server)

        yield start


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def weed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Weed]:
    """One SeaweedFS for all tests (some seconds to start): share it by using buckets of your own."""
    async with Weed(tmp_path_factory.mktemp("weed"), supervised=False) as server:
        yield server


@dataclass(frozen=True, slots=True)
class ServedNode:
    """Where a node that serves is found."""

    url: str
    token: str


@pytest_asyncio.fixture
async def node(tmp_path: Path) -> AsyncIterator[ServedNode]:
    """Serve a node with the built-in worker in this process, for this test alone."""
    settings = Settings.load({"FORGE_DATA_DIR": str(tmp_path / "node"), "FORGE_CACHE_DIR": str(tmp_path / "cache")})
    async with running(settings, listen="127.0.0.1:0") as served:
        yield ServedNode(served.url, read_root_token(settings.data_dir))
