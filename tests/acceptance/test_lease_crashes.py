"""Fifty contenders for one lease, of whom some vanish, while the node is killed: one holder, fences that only grow."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import httpx2
import pytest

from tests.acceptance.conftest import StartNode
from tests.acceptance.node_process import NodeProcess
from tests.faults.killer import fresh_seed, kill
from tests.waiting import until

DB, RESOURCE = "jobs", "jobs/nightly"
CONTENDERS = 50
ROUNDS, ROUNDS_LONG = 60, 1000
KILLS, KILLS_LONG = 2, 20
VANISH = 0.1  # of those who got the lease; it runs out after a second
WITHIN_S, WITHIN_LONG_S = 300, 3000
OVERLAPPING = (
    "SELECT count(*) FROM leases AS a JOIN leases AS b ON b.resource = a.resource AND b.fence = a.fence + 1 "
    "WHERE b.acquired_at < a.expires_at"
)


class Contenders:
    """They acquire, write a row that rests on the lease, and release; or vanish."""

    def __init__(self, node: NodeProcess, seed: int) -> None:
        self.granted: list[int] = []
        self.written: list[int] = []
        self.stale = 0
        self._node = node
        self._seed = seed

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Contend inside the block."""
        tasks = [asyncio.create_task(self._contend(number)) for number in range(CONTENDERS)]
        try:
            yield
            assert not [task.exception() for task in tasks if task.done()]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _contend(self, number: int) -> None:
        rng = random.Random(self._seed + number)
        while True:
            with suppress(httpx2.TransportError):
                async with self._node.http() as http:
                    http.timeout = httpx2.Timeout(30)
                    while True:
                        await self._round(http, f"c{number}", rng)
            await asyncio.sleep(rng.uniform(0.01, 0.1))

    async def _round(self, http: httpx2.AsyncClient, owner: str, rng: random.Random) -> None:
        asked: dict[str, Any] = {"resource": RESOURCE, "owner": owner}
        path = f"/api/v1/db/{DB}/leases"
        wait_s = rng.choice([0, 0.5, 5])
        acquired = await http.post(f"{path}/acquire", json=asked | {"ttl_seconds": 1, "wait_seconds": wait_s})
        if acquired.status_code != 200:
            assert acquired.status_code in (409, 503), acquired.text
            await asyncio.sleep(rng.uniform(0.01, 0.1))
            return
        held = acquired.json()
        self.granted.append(held["fence"])
        if rng.random() < VANISH:
            await asyncio.sleep(rng.choice([0, 1.1]))  # a holder that was paused goes on as if nothing had happened
        body = {"sql": "INSERT INTO work (fence, owner) VALUES (?, ?)", "args": [held["fence"], owner]}
        fence = {"If-Fence": f"{RESOURCE}={held['fence']}"}
        wrote = await http.post(f"/api/v1/db/{DB}/query/exec", json=body, headers=fence)
        if wrote.status_code == 412:
            self.stale += 1
            return
        if wrote.status_code == 503:
            return
        assert wrote.status_code == 200, wrote.text
        self.written.append(held["fence"])
        if rng.random() < VANISH:
            return
        await http.post(f"{path}/release", json=asked | {"token": held["token"]})


@pytest.mark.parametrize(
    ("rounds", "kills", "within_s"),
    [
        (ROUNDS, KILLS, WITHIN_S),
        pytest.param(ROUNDS_LONG, KILLS_LONG, WITHIN_LONG_S, marks=[pytest.mark.long, pytest.mark.timeout(3600)]),
    ],
)
async def test_one_holder_at_a_time_though_the_node_is_killed(
    start_node: StartNode, rounds: int, kills: int, within_s: float
) -> None:
    """P6.X, P6.5, P6.7, PR1: no fence is granted twice, and what rests on a lease is written while it is held."""
    seed = fresh_seed()
    print(f"seed {seed}")
    node = await start_node()
    async with node.http() as http:
        assert (await http.post("/api/v1/db", json={"db_id": DB})).status_code == 201
        body = {"sql": "CREATE TABLE work (id INTEGER PRIMARY KEY, fence INTEGER, owner TEXT)"}
        assert (await http.post(f"/api/v1/db/{DB}/query/exec", json=body)).status_code == 200
    contenders = Contenders(node, seed)

    def were_granted(leases: int) -> bool:
        return len(contenders.granted) >= leases

    async with contenders.running():
        for number in range(1, kills + 2):
            wanted = rounds * number // (kills + 1)
            await until(partial(were_granted, wanted), within_s)
            if number <= kills:
                await kill(node.pid)
                await node.start()

    async with node.client() as client:
        document = client.db(DB)
        # in one state: what was asked for last may still be granted, though nobody waits for it any more
        work, leases, newest, overlapping = await document.batch(
            [
                "SELECT fence, owner FROM work ORDER BY id",
                "SELECT fence, owner FROM leases ORDER BY fence",
                "SELECT fence FROM fencing_tokens",
                OVERLAPPING,
            ]
        )
    assert overlapping.scalar == 0
    print(f"{len(contenders.granted)} granted, {len(contenders.written)} written, {contenders.stale} refused as stale")
    assert len(set(contenders.granted)) == len(contenders.granted)
    fences = [int(str(row[0])) for row in work.rows]
    assert fences == sorted(set(fences)), "what a stale holder wrote came after what the next one wrote"
    assert set(contenders.written) <= set(fences)
    owners = {row[0]: row[1] for row in leases.rows}
    assert all(owners.get(fence, owner) == owner for fence, owner in work.rows)
    assert newest.scalar == max(int(str(row[0])) for row in leases.rows) >= max(contenders.granted)
    rebuilt = await node.cli("rebuild", "--verify", "--json")
    assert rebuilt.code == 0, rebuilt.out + rebuilt.err
