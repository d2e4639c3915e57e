"""Clients that write into documents and upload files without rest until their node dies, and what they were told."""

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import apsw
import httpx2
from blake3 import blake3

from forge.domains import domains
from projectors.projection import connect
from schemas.ids import START, PartitionId, Position
from schemas.settings import Settings
from tests.acceptance.node_process import NodeProcess
from tests.waiting import until

DOCUMENTS = ("notes", "Orders")
CLIENTS = 4
TIMEOUT_S = 20.0
WAIT_S = 60.0
RETRY_S = 0.1
TABLE = "CREATE TABLE IF NOT EXISTS entry (key TEXT PRIMARY KEY, body, at DEFAULT (random()))"

Send = Callable[[httpx2.AsyncClient, str, random.Random], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Answered:
    """One write that was answered: `key` is in the table `entry` of a document, or the hash of an uploaded file."""

    partition: PartitionId
    key: str
    position: Position
    at_s: float


class MixedLoad:
    """Half of the clients write into `DOCUMENTS`, half upload files. What nobody answered is not repeated."""

    def __init__(self, node: NodeProcess, seed: int) -> None:
        self.answers: list[Answered] = []
        self._node = node
        self._seed = seed

    async def prepare(self) -> None:
        """Make the documents, which may be there, as soon as the node is the writer."""
        async with self._node.http() as http, asyncio.timeout(WAIT_S):
            for name in DOCUMENTS:
                await self._made(http, "/api/v1/db", {"db_id": name}, 200, 201)
                await self._made(http, f"/api/v1/db/{name}/query/exec", {"sql": TABLE}, 200)

    async def _made(self, http: httpx2.AsyncClient, path: str, sent: dict[str, str], *statuses: int) -> None:
        while (answer := await http.post(path, json=sent)).status_code == 503:  # noqa: ASYNC110 - of another process
            await asyncio.sleep(RETRY_S)
        assert answer.status_code in statuses, answer.text

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Write inside the block."""
        work = (self._write, self._upload)
        clients = [asyncio.create_task(self._client(n, work[n % 2])) for n in range(CLIENTS)]
        try:
            yield
        finally:
            for client in clients:
                client.cancel()
            for ended in await asyncio.gather(*clients, return_exceptions=True):
                if isinstance(ended, AssertionError):
                    raise ended

    async def answered(self, more: int) -> None:
        """Wait until so many more writes were answered."""
        wanted = len(self.answers) + more
        await until(lambda: len(self.answers) >= wanted, WAIT_S)

    async def _client(self, number: int, send: Send) -> None:
        rng = random.Random(f"{self._seed}/{number}")
        headers = {"Authorization": f"Bearer {self._node.token}"}
        async with httpx2.AsyncClient(
            base_url=self._node.url, headers=headers, timeout=TIMEOUT_S, trust_env=False
        ) as http:
            for count in itertools.count():
                try:
                    await send(http, f"{self._seed}.{number}.{count}", rng)
                except httpx2.TransportError:
                    return  # it was killed

    async def _write(self, http: httpx2.AsyncClient, key: str, rng: random.Random) -> None:
        name = rng.choice(DOCUMENTS)
        sent = {
            "sql": "INSERT INTO entry (key, body) VALUES (?, hex(randomblob(?)))",
            "args": [key, rng.randrange(400)],
        }
        self._note(PartitionId("doc", name), key, await http.post(f"/api/v1/db/{name}/query/exec", json=sent), 200)

    async def _upload(self, http: httpx2.AsyncClient, key: str, rng: random.Random) -> None:
        content = f"{key} {rng.randbytes(rng.randrange(300)).hex()}".encode()
        digest = blake3(content).hexdigest()
        headers = {"X-File-Hash": digest, "X-Embedding-Kind": "text"}
        answer = await http.post("/api/v1/upload", content=content, headers=headers)
        self._note(PartitionId("vector", "0"), digest, answer, 202)

    def _note(self, partition: PartitionId, key: str, answer: httpx2.Response, status: int) -> None:
        if answer.status_code in (408, 503):  # its time was over, or it was refused: nothing was changed
            return
        assert answer.status_code == status, answer.text
        position = Position.parse(answer.headers["Forge-Position"])
        self.answers.append(Answered(partition, key, position, time.monotonic()))


def assert_there(settings: Settings, answers: Iterable[Answered], reached: dict[str, Position]) -> None:
    """Fail unless every write that was answered up to the restored position is in the restored files."""
    found: dict[PartitionId, set[str]] = {}
    for one in answers:
        if one.partition not in found:
            found[one.partition] = _keys(settings, one.partition)
        position = reached.get(str(one.partition), START)
        if one.position <= position:
            assert one.key in found[one.partition], f"{one} was lost, but {position} was reported"


def _keys(settings: Settings, partition: PartitionId) -> set[str]:
    spec, *_ = domains(settings)[partition.domain].projections(partition.key)
    if not spec.path.exists():
        return set()  # nothing of it was archived yet
    query = "SELECT key FROM entry" if partition.domain == "doc" else "SELECT file_hash FROM job"
    db = connect(spec.path, readonly=True)
    try:
        return {str(row[0]) for row in db.execute(query)}
    except apsw.SQLError:
        return set()  # its table was not archived yet
    finally:
        db.close()
