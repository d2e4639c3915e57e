"""Turns: bounded in all and per key, fair among keys, and none is lost."""

import asyncio
import random

import pytest

from projectors.document.reads.turns import Turns
from schemas.problems import Refusal


async def settled() -> None:
    """Let every task run until it waits."""
    for _ in range(5):
        await asyncio.sleep(0)


async def waiting(turns: Turns, key: str, began: list[str], name: str) -> None:
    """Wait for a turn and note that it came."""
    await turns.take(key)
    began.append(name)


async def test_one_key_leaves_turns_to_others() -> None:
    """PR6, P0.7: a document can only make itself wait."""
    turns, began = Turns(3, 2), list[str]()
    tasks = [asyncio.create_task(waiting(turns, "busy", began, f"busy {n}")) for n in range(4)]
    await settled()
    await asyncio.create_task(waiting(turns, "quiet", began, "quiet"))

    assert began == ["busy 0", "busy 1", "quiet"]
    for task in tasks:
        task.cancel()


async def test_keys_that_wait_take_turns() -> None:
    """PR7: in order within a key, in a round among keys."""
    turns, began = Turns(1, 1), list[str]()
    await turns.take("first")
    names = [f"{key} {n}" for key in ("a", "b", "c") for n in range(2)]
    tasks = [asyncio.create_task(waiting(turns, name[0], began, name)) for name in names]
    await settled()
    turns.give("first")
    for _ in names:
        await settled()
        turns.give(began[-1][0])
    await asyncio.gather(*tasks)

    assert began == ["a 0", "b 0", "c 0", "a 1", "b 1", "c 1"]


async def test_waiting_is_bounded_per_key_and_in_all() -> None:
    """P0.8, PR7: past the bound it is a 503 with Retry-After, not a hang."""
    turns = Turns(1, 1, waiting_max=3, waiting_per_key_max=2)
    await turns.take("a")
    tasks = [asyncio.create_task(turns.take(key)) for key in ("a", "a", "b")]
    await settled()

    for key in ("a", "c"):
        with pytest.raises(Refusal) as refusal:
            await turns.take(key)
        assert refusal.value.problem.status == 503
        assert refusal.value.problem.retry_after_s
    for task in tasks:
        task.cancel()


async def test_waiting_ends() -> None:
    """PR7."""
    turns = Turns(1, 1, wait_s=0.01)
    await turns.take("a")

    with pytest.raises(Refusal, match="could begin"):
        await turns.take("a")
    assert turns.waiting == 0
    turns.give("a")
    await turns.take("a")


async def test_no_turn_is_lost_however_callers_leave() -> None:
    """P0.8: a caller that is cancelled while it waits, or at the moment that its turn comes, holds up nobody."""
    seed = random.randrange(2**32)
    chosen = random.Random(seed)
    turns, running = Turns(3, 2), {"a": 0, "b": 0, "c": 0}

    async def one(key: str) -> None:
        await turns.take(key)
        running[key] += 1
        assert running[key] <= 2, seed
        assert sum(running.values()) <= 3, seed
        try:
            for _ in range(chosen.randrange(4)):
                await asyncio.sleep(0)
        finally:
            running[key] -= 1
            turns.give(key)

    tasks: list[asyncio.Task[None]] = []
    for _ in range(2000):
        tasks.append(asyncio.create_task(one(chosen.choice("abc"))))
        if chosen.random() < 0.4:
            chosen.choice(tasks[-20:]).cancel()
        if chosen.random() < 0.3:
            await asyncio.sleep(0)
    await asyncio.gather(*tasks, return_exceptions=True)

    failed = [t for t in tasks if not t.cancelled() and t.exception() and not isinstance(t.exception(), Refusal)]
    assert not failed, (seed, failed[0].exception())
    assert turns.waiting == 0, seed
    async with asyncio.timeout(60):
        for key in ("a", "a", "b"):
            await turns.take(key)
