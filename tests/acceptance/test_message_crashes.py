"""Kill -9 of the node while fifty publish and two hundred follow: nobody misses a message, or gets one twice."""

import asyncio
import random
import time

import httpx2
import pytest

from tests.acceptance.conftest import StartNode
from tests.acceptance.message_traffic import DB, Publisher, Subscriber, everything, picked, some_filters, topics
from tests.faults.killer import fresh_seed, kill
from tests.waiting import until

PUBLISHERS, SUBSCRIBERS = 50, 200
KILLS, KILLS_LONG = 5, 40
BETWEEN_S = 2.0
WITHIN_S = 120.0


@pytest.mark.parametrize(
    "kills", [KILLS, pytest.param(KILLS_LONG, marks=[pytest.mark.long, pytest.mark.timeout(1800)])]
)
async def test_kills_lose_no_message_and_repeat_none(start_node: StartNode, kills: int) -> None:
    """P3.4, P3.7, PR1, PR3, PR5: each ends with exactly the published sequence of its filters, in order, once."""
    rng = random.Random(seed := fresh_seed())
    print(f"seed {seed}")
    node = await start_node()
    headers = {"authorization": f"Bearer {node.token}"}
    limits = httpx2.Limits(max_connections=PUBLISHERS)
    async with httpx2.AsyncClient(headers=headers, timeout=30, limits=limits, trust_env=False) as http:
        assert (await http.post(f"{node.url}/api/v1/db", json={"db_id": DB})).status_code == 201
        publishers = [Publisher(n, topics(), lambda: node.url, random.Random(seed + n)) for n in range(PUBLISHERS)]
        subscribers = [
            Subscriber(some_filters(rng), lambda: node.url, node.token, random.Random(seed - n))
            for n in range(SUBSCRIBERS)
        ]
        stop = asyncio.Event()
        publishing = [asyncio.create_task(one.run(http, stop)) for one in publishers]
        following = [asyncio.create_task(one.run()) for one in subscribers]
        for _ in range(kills):
            await asyncio.sleep(rng.uniform(0.2, 2 * BETWEEN_S))
            await kill(node.pid)
            await node.start()
        await asyncio.sleep(BETWEEN_S)
        stop.set()
        await asyncio.gather(*publishing)
        rows = await everything(http, node.url)
        await _all_told(subscribers, [(id_, topic) for id_, topic, _ in rows], following)
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)

    answered = {id_: [one.number, number] for one in publishers for number, id_ in one.answered.items()}
    assert [id_ for id_, _, _ in rows] == list(range(1, len(rows) + 1))
    assert {id_: payload for id_, _, payload in rows} == answered
    for one in subscribers:
        assert one.seen == picked([(id_, topic) for id_, topic, _ in rows], one.filters), one.filters
        assert set(one.lagged) <= {"slow"}
    repeated, connections = sum(one.repeated for one in publishers), sum(one.connections for one in subscribers)
    delivered, lagged = sum(len(one.seen) for one in subscribers), sum(len(one.lagged) for one in subscribers)
    print(f"{len(rows)} messages, {repeated} attempts repeated, {delivered} deliveries over {connections} connections")
    print(f"{lagged} times lagged")


async def _all_told(
    subscribers: list[Subscriber], rows: list[tuple[int, str]], following: list[asyncio.Task[None]]
) -> None:
    """Wait until everybody has had as much as there is for him, or is wrong already."""
    expected = [len(picked(rows, one.filters)) for one in subscribers]
    deadline = time.monotonic() + WITHIN_S

    def told() -> bool:
        assert not any(task.done() for task in following), [task.exception() for task in following if task.done()]
        return all(len(one.seen) >= count for one, count in zip(subscribers, expected, strict=True)) or (
            time.monotonic() > deadline
        )

    await until(told, within_s=WITHIN_S + 10)
