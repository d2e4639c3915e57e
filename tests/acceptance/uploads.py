"""Many clients that upload files without rest, each again and again until it is accepted, and what they were told."""

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import httpx2

from schemas.ids import Position
from schemas.problems import OUTCOME_UNKNOWN
from schemas.vector import Kind
from tests.acceptance.files import File
from tests.acceptance.node_process import NodeProcess
from tests.faults.history import History
from tests.waiting import until

CLIENTS = 32
TIMEOUT_S = 20.0
RETRY_S = (0.05, 0.3)
FULL_WAIT_S = 1.0
GIVES_UP_EVERY = 7  # so that refusals are seen that no later attempt turns into an acceptance
FINISH_WAIT_S = 120.0

Key = tuple[Kind, str]
"""Kind and content hash."""


class Uploads:
    """The files of `seed`, uploaded by `CLIENTS` clients while `running`; every answer is noted in `history`.

    Operations are named `<number>.<copy>`, which is also their Idempotency-Key. `accepted` holds the files that
    were answered 202, or 200, before the last `freeze`.
    """

    def __init__(self, node: NodeProcess, seed: int) -> None:
        self.history: History[Position] = History()
        self.files: dict[int, File] = {}
        self.accepted: dict[Key, File] = {}
        self.acks = 0
        self.retries = 0
        self._ack_times: list[tuple[float, float]] = []
        self._node = node
        self._seed = seed
        self._work = self._copies()
        self._frozen = 0
        self._may_send = asyncio.Event()
        self._may_send.set()
        self._ending = False
        self._at_ack: Callable[[], object] | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Upload inside the block; at its end wait until every client has an answer to its last file."""
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

    def pause(self) -> None:
        """Send nothing more until `thaw`; what was sent is answered."""
        self._may_send.clear()

    def freeze(self) -> None:
        """From this moment on no answer counts and nothing is sent, until `thaw`."""
        self._frozen += 1
        self.pause()

    def thaw(self) -> None:
        """Send again, to wherever the node listens now."""
        self._may_send.set()

    async def at_next_ack(self, act: Callable[[], object]) -> None:
        """Call `act` in the instant in which the next acknowledgement is noted, before any other code runs."""
        self._at_ack = act
        await until(lambda: self._at_ack is None, FINISH_WAIT_S)

    async def acknowledged(self, more: int) -> None:
        """Wait until `more` uploads were acknowledged from now on."""
        wanted = self.acks + more
        await until(lambda: self.acks >= wanted, FINISH_WAIT_S)

    def recovery_s(self, since: float, until: float) -> float | None:
        """Return the seconds from `since` to the first ack of something sent after it; None if not before `until`."""
        answers = [answered for sent, answered in self._ack_times if since <= sent and answered < until]
        return min(answers) - since if answers else None

    def _copies(self) -> Iterator[tuple[File, int]]:
        for number in itertools.count(1):
            file = self.files[number] = File(self._seed, number)
            yield from ((file, copy) for copy in range(file.copies))

    async def _client(self, number: int) -> None:
        rng = random.Random(f"{self._seed}/client/{number}")
        async with httpx2.AsyncClient(timeout=TIMEOUT_S, trust_env=False, verify=False) as http:
            while not self._ending:
                await self._upload(http, *next(self._work), rng)

    async def _upload(self, http: httpx2.AsyncClient, file: File, copy: int, rng: random.Random) -> None:
        """Send one file until it is accepted; a few give up at the first definite refusal instead."""
        gives_up = file.copies == 1 and file.number % GIVES_UP_EVERY == 0
        for attempt in itertools.count():
            await self._may_send.wait()
            self.retries += attempt > 0
            wait_s = await self._attempt(http, file, copy)
            if wait_s is None:
                return
            if wait_s == FULL_WAIT_S and gives_up:
                return
            await asyncio.sleep(wait_s or rng.uniform(*RETRY_S))

    async def _attempt(self, http: httpx2.AsyncClient, file: File, copy: int) -> float | None:
        """Send one file once; return None if it was accepted, else how long to wait (0: the usual time)."""
        frozen, sent = self._frozen, time.monotonic()
        attempt = self.history.invoke(f"{file.number}.{copy}")
        response = await self._post(http, file, copy)
        if response is None or frozen != self._frozen:
            return 0  # nobody knows, or it came too late to count
        match response.status_code:
            case 202:
                self.history.answered(attempt, Position.parse(response.headers["Forge-Position"]))
                self._accept(file, sent)
                return None
            case 200:
                self._accept(file, sent)
                return None
            case 429 | 503 if response.json()["type"] != OUTCOME_UNKNOWN.uri:
                self.history.refused(attempt)
                return FULL_WAIT_S
            case 503:
                return 0
        raise AssertionError(f"upload {file.number}.{copy} was answered {response.status_code}: {response.text}")

    async def _post(self, http: httpx2.AsyncClient, file: File, copy: int) -> httpx2.Response | None:
        headers = {
            "Authorization": f"Bearer {self._node.token}",
            "X-File-Hash": file.cid,
            "X-Embedding-Kind": file.kind,
            "Idempotency-Key": f"{file.number}.{copy}",
        }
        with contextlib.suppress(httpx2.TransportError):
            return await http.post(f"{self._node.url}/api/v1/upload", content=file.content, headers=headers)
        return None

    def _accept(self, file: File, sent: float) -> None:
        self.accepted[file.kind, file.cid] = file
        self.acks += 1
        self._ack_times.append((sent, time.monotonic()))
        act, self._at_ack = self._at_ack, None
        if act is not None:
            act()
