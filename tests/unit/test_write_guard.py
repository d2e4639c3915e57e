"""The guard of writing: closed unless a lease opened it, by a clock that nobody can set."""

import math

import pytest

from events.errors import NotTheWriter
from events.objects.errors import Fenced, ObjectMissing
from events.objects.guarded import GuardedStore
from events.objects.memory import MemoryStore
from events.write_guard import NEVER_HELD, RAN_OUT, WriteGuard


class Clock:
    """A clock that goes when it is told to."""

    now = 100.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def test_a_guard_is_closed_until_it_is_opened_and_after_its_time() -> None:
    """PR3: nothing has to happen for it to close."""
    clock = Clock()
    guard = WriteGuard(clock)
    assert guard.closed_because == NEVER_HELD

    guard.open_until(110)
    guard.check()
    assert guard.remaining_s == 10
    clock.now = 110
    assert guard.closed_because == RAN_OUT
    with pytest.raises(NotTheWriter):
        guard.check()

    guard.open_until(120)
    guard.check()
    guard.close("another node took over")
    assert guard.closed_because == "another node took over"
    assert guard.remaining_s == 0


def test_a_guard_without_a_lease_stays_open() -> None:
    guard = WriteGuard.always_open()

    guard.check()

    assert guard.remaining_s == math.inf


async def test_a_guarded_store_changes_nothing_while_it_is_closed_and_goes_on_reading() -> None:
    """PR3."""
    store = MemoryStore()
    guard = WriteGuard()
    guarded = GuardedStore(store, guard)
    guard.open_until(math.inf)
    tag = await guarded.create("a", b"1")

    guard.close("lost")
    changes = (
        guarded.create("b", b""),
        guarded.swap("a", b"", tag),
        guarded.put("a", b""),
        guarded.delete("a"),
    )
    for change in changes:
        with pytest.raises(Fenced, match="lost"):
            await change

    assert (await guarded.get("a")).data == b"1"
    assert await guarded.get_range("a", 0, 1) == b"1"
    assert await guarded.size("a") == 1
    assert [found.key for found in await guarded.list("")] == ["a"]
    with pytest.raises(ObjectMissing):
        await guarded.get("b")
