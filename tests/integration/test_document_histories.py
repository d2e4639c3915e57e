"""Random histories on a whole node: its file, a rebuild, a follower that had a hard time, and clones hold the same."""

import asyncio
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from pathlib import Path
from urllib.parse import urlsplit

import apsw
import httpx2
import pytest

from projectors.difference import first_difference
from projectors.document.domain import document_path
from tests.acceptance.node_process import NodeProcess
from tests.document_copies import forgetful
from tests.document_history import content
from tests.document_scripts import Script
from tests.faults.proxy import TcpProxy

FORGE = Path(sys.executable).with_name("forge")
HISTORIES, HISTORIES_LONG = 10, 300
COMMANDS = 40
WAIT_S = 60.0


@pytest.mark.parametrize(
    "histories", [HISTORIES, pytest.param(HISTORIES_LONG, marks=[pytest.mark.long, pytest.mark.timeout(7200)])]
)
async def test_every_copy_of_a_history_on_a_node_is_the_same(tmp_path: Path, histories: int) -> None:
    """PR2, PR4, K0.1: followers are disconnected and killed; clones are made of a random position of the past."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    async with AsyncExitStack() as stack:
        node = NodeProcess(tmp_path)
        stack.push_async_callback(node.close)
        await node.start()
        address = urlsplit(node.url)
        assert address.hostname
        assert address.port
        proxy = await stack.enter_async_context(TcpProxy(address.hostname, address.port))
        http = await stack.enter_async_context(node.http())
        http.timeout = httpx2.Timeout(WAIT_S)
        for number in range(histories):
            await _History(node, proxy, http, f"h{number}", random.Random(f"{seed}.{number}")).run()
        rebuilt = await node.cli("rebuild", "--verify", "--json")
        assert rebuilt.code == 0, rebuilt.out + rebuilt.err
        assert await node.stop() == 0


class _History:
    """One document: written at random, followed by `forge replica`, then compared with all that was made of it."""

    def __init__(
        self, node: NodeProcess, proxy: TcpProxy, http: httpx2.AsyncClient, db_id: str, chosen: random.Random
    ) -> None:
        self.db_id = db_id
        self._node = node
        self._proxy = proxy
        self._http = http
        self._random = chosen
        self._live = document_path(node.data / "docs", db_id)
        self._copy = node.home / f"{db_id}-copy.db"

    async def run(self) -> None:
        """Write and follow; compare the replica, and a clone of a past moment."""
        assert (await self._http.post("/api/v1/db", json={"db_id": self.db_id})).status_code == 201
        await self._write(1)  # so that the file is there
        async with self._followed():
            await self._write(COMMANDS // 2)
            known, position = self._content(), await self._position()
            await self._write(COMMANDS // 2)
        async with self._follower("--once") as process:
            assert await process.wait() == 0, self.db_id
        self._same(self._copy)
        end = await self._position()
        latest, newer = f"/api/v1/db/{self.db_id}/snapshot/latest", {"Forge-Min-Position": end}
        meta = (await self._http.get(latest, params={"meta": "true"}, headers=newer)).json()
        assert (meta["position"], meta["digest"]) == (end, self._content(whole=True)[0])
        clone = f"{self.db_id}-clone"
        made = await self._http.post(f"/api/v1/db/{self.db_id}/clone", json={"db_id": clone, "at": position})
        assert made.status_code == 201, made.text
        with closing(_opened(document_path(self._node.data / "docs", clone))) as db, forgetful(db):
            assert content(db) == known, (self.db_id, position)

    async def _write(self, commands: int) -> None:
        script = Script(self._random)
        for _ in range(commands):
            if self._live.exists():
                with closing(_opened(self._live)) as db:
                    script.look(db)
            sent = {"statements": [{"sql": one.sql} for one in script.batch()]}
            answer = await self._http.post(f"/api/v1/db/{self.db_id}/query/batch", json=sent)
            assert answer.status_code < 500, answer.text

    @asynccontextmanager
    async def _followed(self) -> AsyncIterator[None]:
        """Have a follower run that is disconnected and killed again and again."""
        task = asyncio.create_task(self._disturb())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})
            self._proxy.accept()
            if not task.cancelled() and (error := task.exception()):
                raise error

    async def _disturb(self) -> None:
        while True:
            async with self._follower() as process:
                assert process.stdout is not None
                assert await process.stdout.readline(), self.db_id  # its first state: it has begun
                for _ in range(self._random.randint(0, 3)):
                    await asyncio.sleep(self._random.uniform(0, 0.1))
                    await self._proxy.drop_connections()
                    await self._proxy.refuse()
                    await asyncio.sleep(self._random.uniform(0, 0.05))
                    self._proxy.accept()

    @asynccontextmanager
    async def _follower(self, *options: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """Run `forge replica` through the proxy, and kill it in the end."""
        url = f"http://127.0.0.1:{self._proxy.port}"
        environ = self._node.environ | {"FORGE_URL": url, "FORGE_TOKEN": self._node.token}
        process = await asyncio.create_subprocess_exec(
            *(str(FORGE), "replica", self.db_id, str(self._copy), "--json", *options),
            env=environ,
            cwd=self._node.home,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
            await process.communicate()

    async def _position(self) -> str:
        answer = await self._http.post(f"/api/v1/db/{self.db_id}/query/exec", json={"sql": "SELECT 1"})
        return str(answer.headers["Forge-Position"])

    def _content(self, *, whole: bool = False) -> tuple[str, dict[str, list[int]]]:
        """Return the content of the live file, which nobody writes now; not `whole`: without its own history."""
        with closing(_opened(self._live)) as db:
            if whole:
                return content(db)
            copy = apsw.Connection(":memory:")
            with closing(copy):
                with copy.backup("main", db, "main") as backup:
                    backup.step()
                with forgetful(copy):
                    return content(copy)

    def _same(self, path: Path) -> None:
        with closing(_opened(self._live)) as live, closing(_opened(path)) as copy:
            assert content(copy) == content(live), (self.db_id, first_difference(live, copy))


def _opened(path: Path) -> apsw.Connection:
    db = apsw.Connection(str(path))
    db.set_busy_timeout(5000)
    return db
