"""Clients that write into one document without rest, each command again and again until it is answered."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
from blake3 import blake3

from schemas.ids import Position
from tests.acceptance.node_process import NodeProcess
from tests.faults.history import History
from tests.waiting import until

DB = "notes"
CLIENTS = 6
CHILDREN_MAX = 40
TIMEOUT_S = 120.0
RETRY_S = (0.02, 0.2)
FINISH_WAIT_S = 180.0
AGAIN_EVERY = 4  # one answer in so many is asked for once more at once
SCHEMA = (
    "CREATE TABLE marker (key TEXT PRIMARY KEY, children INT NOT NULL, at DEFAULT (random()))",
    "CREATE TABLE child (id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, n INT, body)",
    "CREATE INDEX child_key ON child (key)",
    "CREATE VIRTUAL TABLE search USING fts5 (key)",
    "CREATE TRIGGER searched AFTER INSERT ON marker BEGIN INSERT INTO search VALUES (new.key); END",
)
MARK = "INSERT INTO marker (key, children) VALUES (?, ?) RETURNING at"
CHILDREN = "INSERT INTO child (key, n, body) VALUES (?, ?, hex(randomblob(20)))"
LARGE = (
    "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
    "INSERT INTO child (key, n, body) SELECT ?, i, randomblob(1048576) FROM n"
)


@dataclass(frozen=True, slots=True)
class Write:
    """One command: it marks itself and adds so many children, and makes a table if `ddl`; all or nothing."""

    key: str
    children: int
    ddl: bool = False
    large: bool = False

    @property
    def path(self) -> str:
        """Where it is sent."""
        single = not self.children and not self.ddl
        return f"/api/v1/db/{DB}/query/{'exec' if single else 'batch'}"

    @property
    def command_id(self) -> str:
        """What the log calls it."""
        return blake3("\0".join(("root", "POST", self.path, self.key)).encode()).hexdigest(16)

    @property
    def body(self) -> dict[str, Any]:
        """What is sent."""
        mark = {"sql": MARK, "args": [self.key, self.children]}
        if self.large:
            return {"statements": [mark, {"sql": LARGE, "args": [self.children, self.key]}]}
        children = [{"sql": CHILDREN, "args": [self.key, n]} for n in range(self.children)]
        if self.ddl:
            made = [{"sql": f"CREATE TABLE {self.table} AS SELECT count(*) AS marks FROM marker"}]
            made += [{"sql": f"ALTER TABLE {self.table} ADD COLUMN more DEFAULT 7"}]
            return {"statements": [mark, *made, *children]}
        return {"statements": [mark, *children]} if children else mark

    @property
    def table(self) -> str:
        """The table that `ddl` makes."""
        return f"made_{self.key.replace('.', '_')}"


class DocumentWriters:
    """`CLIENTS` clients while `running`. Every key is an Idempotency-Key; `answers` holds the first answer to each."""

    def __init__(self, node: NodeProcess, seed: int) -> None:
        self.history: History[Position] = History()
        self.sent: dict[str, Write] = {}
        self.answers: dict[str, tuple[str, bytes]] = {}
        self.retries = 0
        self.repeated = 0
        self._node = node
        self._seed = seed
        self._ending = False
        self._at_answer: Callable[[], object] | None = None

    async def prepare(self) -> None:
        """Make the document and its tables."""
        async with self._node.http() as http:
            assert (await http.post("/api/v1/db", json={"db_id": DB})).status_code == 201
            sent = {"statements": [{"sql": sql} for sql in SCHEMA]}
            assert (await http.post(f"/api/v1/db/{DB}/query/batch", json=sent)).status_code == 200

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Write inside the block; at its end wait until every client has its last answer."""
        async with asyncio.TaskGroup() as group:
            clients = [group.create_task(self._client(number)) for number in range(CLIENTS)]
            try:
                yield
                self._ending = True
                async with asyncio.timeout(FINISH_WAIT_S):
                    await asyncio.wait(clients)
            finally:
                for client in clients:
                    client.cancel()

    async def answered(self, more: int) -> None:
        """Wait until so many more commands were answered."""
        wanted = len(self.answers) + more
        await until(lambda: len(self.answers) >= wanted, FINISH_WAIT_S)

    async def at_next_answer(self, act: Callable[[], object]) -> None:
        """Call `act` in the instant in which the next answer is noted."""
        self._at_answer = act
        await until(lambda: self._at_answer is None, FINISH_WAIT_S)

    async def ask_all_again(self) -> None:
        """Send every command that was answered once more, and compare."""
        async with self._http() as http:
            for key in list(self.answers):
                await self._until_answered(http, self.sent[key], random.Random(key))

    async def write(self, command: Write) -> None:
        """Send one command until it is answered."""
        self.sent[command.key] = command
        async with self._http() as http:
            await self._until_answered(http, command, random.Random(command.key))

    async def _client(self, number: int) -> None:
        rng = random.Random(f"{self._seed}/client/{number}")
        count = 0
        async with self._http() as http:
            while not self._ending:
                count += 1
                children = rng.choice((0, 0, 1, 5, rng.randint(1, CHILDREN_MAX)))
                command = Write(f"{number}.{count}", children, ddl=rng.random() < 0.08)
                self.sent[command.key] = command
                await self._until_answered(http, command, rng)
                if rng.randrange(AGAIN_EVERY) == 0:
                    await self._until_answered(http, command, rng)

    @asynccontextmanager
    async def _http(self) -> AsyncIterator[httpx2.AsyncClient]:
        async with httpx2.AsyncClient(timeout=TIMEOUT_S, trust_env=False, verify=False) as http:
            yield http

    async def _until_answered(self, http: httpx2.AsyncClient, command: Write, rng: random.Random) -> None:
        while not await self._attempt(http, command):
            self.retries += 1
            await asyncio.sleep(rng.uniform(*RETRY_S))

    async def _attempt(self, http: httpx2.AsyncClient, command: Write) -> bool:
        attempt = self.history.invoke(command.key)
        headers = {"Authorization": f"Bearer {self._node.token}", "Idempotency-Key": command.key}
        try:
            response = await http.post(f"{self._node.url}{command.path}", json=command.body, headers=headers)
        except httpx2.TransportError:
            return False
        if response.status_code == 503:
            return False
        assert response.status_code == 200, f"{command.key} was answered {response.status_code}: {response.text}"
        self._note(command.key, attempt, response)
        return True

    def _note(self, key: str, attempt: int, response: httpx2.Response) -> None:
        position = response.headers["Forge-Position"]
        first = self.answers.setdefault(key, (position, response.content))
        assert (position, response.content) == first, f"{key} was answered {first} before"
        self.repeated += first[1] is not response.content
        self.history.answered(attempt, Position.parse(position))
        act, self._at_answer = self._at_answer, None
        if act is not None:
            act()
