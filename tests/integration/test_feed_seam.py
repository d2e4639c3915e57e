"""The seam between history and live: followers from anywhere, at any pace, see one history."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
import pytest_asyncio

from events.cursor import Cursor
from events.log import Log
from forge.stack.nats import NatsServer
from projectors.document.history import feed
from projectors.document.history.history import History
from tests.conftest import StartNats
from tests.notes import append_note, eventually, new_partition, opened_log

SEED = 20261120
RECORDS = 150


@pytest_asyncio.fixture
async def event_log(nats_server: NatsServer) -> AsyncIterator[Log]:
    async with opened_log(nats_server) as opened:
        yield opened


@pytest.mark.parametrize("seed", range(SEED, SEED + 5))
async def test_followers_of_any_pace_see_every_record_once_and_in_order(
    event_log: Log, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """K0.1 (c), PR2: they begin at random places while somebody writes, pause at random, leave and come back."""
    chance = random.Random(seed)
    monkeypatch.setattr(feed, "RING_RECORDS", chance.choice([1, 2, 7, 1000]))
    monkeypatch.setattr(feed, "MADE_RECORDS", 3)
    partition = new_partition()
    cursors = [Cursor.start(partition)]
    for _ in range(chance.randint(0, 30)):
        cursors.append(await append_note(event_log, partition, cursors[-1]))
    history = History(event_log)

    async def follow(first: int, rng: random.Random) -> list[Cursor]:
        seen = [cursors[first]]
        while seen[-1].position.index < RECORDS:
            left = rng.choice([3, 20, RECORDS])  # then it leaves, and comes back where it stood
            async with history.following(partition) as live, aclosing(live.follow(seen[-1])) as passings:
                async for passing in passings:
                    seen.append(passing.entry.cursor)
                    left -= 1
                    if left == 0 or passing.entry.cursor.position.index == RECORDS:
                        break
                    if rng.random() < 0.1:
                        await asyncio.sleep(rng.random() / 50)
        return seen[1:]

    starts = [chance.randrange(len(cursors)) for _ in range(12)]
    followers = [asyncio.create_task(follow(first, random.Random(chance.random()))) for first in starts]
    while len(cursors) <= RECORDS:
        cursors.append(await append_note(event_log, partition, cursors[-1]))
        if chance.random() < 0.3:
            await event_log.live.send(partition.live_subject, b"")
    await event_log.live.send(partition.live_subject, b"")

    async with asyncio.timeout(60):
        for first, seen in zip(starts, await asyncio.gather(*followers), strict=True):
            assert seen == cursors[first + 1 :], f"seed {seed}"
    await history.close()


async def test_a_follower_outlives_the_server_of_the_log(start_nats: StartNats) -> None:
    """PR7: nothing is lost or repeated when the server is killed under live followers, behind the ring or in it."""
    server = await start_nats()
    async with opened_log(server) as event_log:
        partition = new_partition()
        cursors = [Cursor.start(partition)]
        for _ in range(5):
            cursors.append(await append_note(event_log, partition, cursors[-1]))
        history = History(event_log)
        seen: list[Cursor] = []

        async def follow() -> None:
            async with history.following(partition) as live, aclosing(live.follow(cursors[0])) as passings:
                async for passing in passings:
                    seen.append(passing.entry.cursor)
                    if len(seen) == 10:
                        return

        task = asyncio.create_task(follow())
        async with asyncio.timeout(60):
            await eventually(lambda: len(seen) == 5)
            await server.child.kill()
            for _ in range(5):
                cursors.append(await append_note(event_log, partition, cursors[-1]))
            await task
        assert seen == cursors[1:]
        await history.close()
