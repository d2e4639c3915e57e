"""The writer lease: who gets it when, for how long, and what becomes of requests that nobody answered."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import Any

import pytest

from events.objects.errors import CorruptObject, PreconditionFailed, StoreUnavailable
from events.objects.memory import MemoryStore
from events.write_guard import RAN_OUT
from schemas.writer_lease import LeaseRecord, Mode
from tests.lease_contenders import BEGIN, KEY, TERMS, Clocks, FaultyStore, Meddled, MemoryPlace, contender
from tests.virtual_time import in_virtual_time
from workers.lease.errors import LeaseUnreadable
from workers.lease.lease import Contended, Held
from workers.lease.stored import StoredLease

RNG = random.Random(1)


class Scene:
    """Two machines and one store."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.a, self.b = MemoryPlace("a"), MemoryPlace("b")
        self.clocks = {"a": Clocks(RNG), "b": Clocks(RNG)}

    def lease(self, place: MemoryPlace, store: object = None, mode: Mode = "hard") -> StoredLease:
        """Return the lease of a process that starts there."""
        return contender(store or self.store, place, self.clocks[place.host], mode=mode)

    async def record(self) -> LeaseRecord:
        """Return what is stored."""
        return LeaseRecord.parse((await self.store.get(KEY)).data)


def why_closed(lease: StoredLease) -> str | None:
    """Return why nothing may be written now: a type checker takes a property for what it was when it was compared."""
    return lease.guard.closed_because


def now() -> float:
    return asyncio.get_running_loop().time()


def killed(lease: StoredLease) -> None:
    """End a process without a word: it renews no more, and gives nothing back."""
    assert lease._keeper is not None
    lease._keeper.cancel()


def in_time(work: Coroutine[Any, Any, None]) -> None:
    in_virtual_time(work)


def test_one_holds_it_and_the_others_wait_until_he_gives_it_back() -> None:
    """PR3: releasing is immediate and real, and another place has another epoch."""

    async def scene() -> None:
        s = Scene()
        first, second = s.lease(s.a), s.lease(s.b)
        assert await first.acquire() == Held(1, None, taken=True)
        outcome = await second.try_acquire()
        assert isinstance(outcome, Contended)
        assert (outcome.holder.node, outcome.remaining_s) == ("a", 45)
        assert ":" in outcome.holder.owner_id
        assert "not got" in str(second.guard.closed_because)

        waiting = asyncio.create_task(second.acquire())
        await asyncio.sleep(300)
        assert not waiting.done()
        assert why_closed(first) is None
        released_at = now()
        await first.release()
        assert why_closed(first)
        held = await waiting
        assert held.before is not None
        assert (held.epoch, held.before.node, held.taken) == (2, "a", True)
        assert now() - released_at <= TERMS.duration_s / 6 + 0.1
        await second.release()
        assert (await s.record()).duration_s == 0

    in_time(scene())


def test_who_is_killed_is_followed_soon_after_his_lease_is_over() -> None:
    """PR3: not before, whatever the clock of either machine jumps to."""

    async def scene(jump_s: float) -> None:
        s = Scene()
        first, second = s.lease(s.a), s.lease(s.b)
        await first.acquire()
        waiting = asyncio.create_task(second.acquire())
        await asyncio.sleep(100)
        s.clocks["b"].jump_s = jump_s
        killed(first)
        killed_at = now()
        await waiting
        assert why_closed(first) == RAN_OUT
        assert TERMS.duration_s - TERMS.renew_s <= now() - killed_at <= TERMS.duration_s + TERMS.duration_s / 6 + 1
        await second.release()

    for jump_s in (0, 3600, -3600, 86_400 * 365):
        in_time(scene(jump_s))


def test_an_old_lease_of_another_machine_is_waited_for_by_our_own_clock() -> None:
    """PR3: that it says to have run out yesterday may be the word of a clock that was wrong."""

    async def scene() -> None:
        s = Scene()
        s.clocks["a"].jump_s = -86_400
        first = s.lease(s.a)
        await first.acquire()
        second = s.lease(s.b)
        began_at = now()
        waiting = asyncio.create_task(second.acquire())
        await asyncio.sleep(0)
        killed(first)
        await waiting
        assert now() - began_at >= TERMS.duration_s
        await second.release()

    in_time(scene())


def test_the_same_place_goes_on_at_once_with_its_epoch() -> None:
    """PR1: after a kill as well as after a stop."""

    async def scene() -> None:
        s = Scene()
        first = s.lease(s.a)
        await first.acquire()
        killed(first)
        again = s.lease(s.a)
        began_at = now()
        held = await again.acquire()
        assert (held.epoch, held.taken, now() - began_at < 1) == (1, False, True)
        await again.release()
        third = s.lease(s.a)
        held = await third.acquire()
        assert (held.epoch, held.taken) == (1, False)
        killed(third)

        s.a.saved = s.a.saved.model_copy(update={"lease_id": "", "trying": ""})
        forgetful = s.lease(s.a)
        assert isinstance(await forgetful.try_acquire(), Contended)
        assert (await forgetful.acquire()).epoch == 2
        await forgetful.release()

    in_time(scene())


def test_a_copy_of_the_data_directory_on_another_machine_is_another_place() -> None:
    """PR3."""

    async def scene() -> None:
        s = Scene()
        first = s.lease(s.a)
        await first.acquire()
        s.b.saved = s.a.saved
        assert isinstance(await s.lease(s.b).try_acquire(), Contended)
        await first.release()

    in_time(scene())


def test_a_store_that_is_away_stops_writing_in_time_and_lets_it_go_on_when_it_is_back() -> None:
    """PR3: the same epoch, if nobody took it meanwhile."""

    async def scene() -> None:
        s = Scene()
        faulty = FaultyStore(s.store, random.Random(1))
        first = s.lease(s.a, faulty)
        await first.acquire()
        faulty.always = "hangs"
        await asyncio.sleep(TERMS.duration_s - TERMS.margin_s - TERMS.renew_s - 1)
        assert why_closed(first) is None
        await asyncio.sleep(TERMS.renew_s + 1)
        assert why_closed(first) == RAN_OUT
        assert not first.lost.is_set()
        await asyncio.sleep(600)
        assert "no answer" in first.trouble

        faulty.always = ""
        await asyncio.sleep(8)
        assert why_closed(first) is None
        assert (first.epoch, first.trouble) == (1, "")
        await first.release()

    in_time(scene())


def test_who_was_taken_over_from_knows_it_by_the_first_answer_and_writes_no_more() -> None:
    """PR3: and may get it again, with an epoch that is new."""

    async def scene() -> None:
        s = Scene()
        faulty = FaultyStore(s.store, random.Random(1))
        first, second = s.lease(s.a, faulty), s.lease(s.b)
        await first.acquire()
        faulty.always = "hangs"
        assert (await second.acquire()).epoch == 2
        faulty.always = ""
        await first.lost.wait()
        assert "epoch 2" in str(why_closed(first))
        assert first.holder is not None
        assert first.holder.node == "b"

        waiting = asyncio.create_task(first.acquire())
        await second.release()
        held = await waiting
        assert (held.epoch, held.taken, why_closed(first)) == (3, True, None)
        assert not first.lost.is_set()
        await first.release()

    in_time(scene())


@pytest.mark.parametrize("harm", ["answer lost", "said to be refused"])
def test_what_was_done_and_not_answered_is_found_by_our_own_id(harm: str) -> None:
    """PR3: acquiring, renewing and giving back."""

    async def scene() -> None:
        s = Scene()
        harms = iter([harm, "", harm, "", harm, "", harm])

        async def unanswered(work: Callable[[], Awaitable[Any]], changes: bool) -> Any:
            result = await work()
            if changes and next(harms, "") == harm:
                raise PreconditionFailed("") if harm == "said to be refused" else StoreUnavailable("")
            return result

        first = s.lease(s.a, Meddled(s.store, unanswered))
        assert (await first.acquire()).epoch == 1
        await asyncio.sleep(200)
        assert first.guard.remaining_s > 20
        assert not first.lost.is_set()
        await first.release()
        assert (await s.record()).duration_s == 0

    in_time(scene())


def test_a_lease_counts_from_before_it_was_asked_for() -> None:
    """PR3: whoever sees it counts from when it was stored, which is before its holder hears of that."""

    async def scene() -> None:
        s = Scene()

        async def slow(work: Callable[[], Awaitable[Any]], changes: bool) -> Any:
            result = await work()
            if changes:
                await asyncio.sleep(4)
            return result

        first = s.lease(s.a, Meddled(s.store, slow))
        await first.acquire()
        assert first.guard.remaining_s == pytest.approx(TERMS.duration_s - TERMS.margin_s - 4, abs=0.1)
        await first.release()

    in_time(scene())


def test_a_lease_that_somebody_removed_is_made_again() -> None:
    async def scene() -> None:
        s = Scene()
        first = s.lease(s.a)
        await first.acquire()
        await s.store.delete(KEY)
        await asyncio.sleep(20)
        assert first.guard.remaining_s > 20
        assert (await s.record()).node == "a"
        await first.release()

    in_time(scene())


def test_who_acquires_what_he_holds_gives_it_back_for_good() -> None:
    """PR3: a node may have got it, and failed to become the writer; nobody goes on to renew it behind its back."""

    async def scene() -> None:
        s = Scene()
        first = s.lease(s.a)
        await first.acquire()
        again = await first.acquire()
        assert (again.epoch, again.taken) == (1, False)
        await asyncio.sleep(100)
        assert first.guard.remaining_s > 20

        await first.release()

        await asyncio.sleep(60)
        assert (await s.record()).duration_s == 0
        assert "given the writer lease back" in str(why_closed(first))

    in_time(scene())


def test_an_epoch_that_the_archive_knows_is_not_taken_again() -> None:
    """PR3: the lease may be missing, or an old copy of itself that somebody put back."""

    async def scene() -> None:
        s = Scene()

        async def begun(here: int) -> int:
            return here if here >= 7 else 8

        async def taken_by(place: MemoryPlace) -> int:
            lease = s.lease(place)
            lease._first_epoch = begun
            epoch = (await lease.acquire()).epoch
            await lease.release()
            return int(epoch)

        assert await taken_by(s.a) == 8
        old = (await s.record()).model_copy(update={"epoch": 2})
        await s.store.put(KEY, old.encode())
        assert await taken_by(s.b) == 8
        await s.store.delete(KEY)
        assert await taken_by(s.b) == 8

    in_time(scene())


def test_in_soft_mode_the_later_of_two_who_begin_one_after_the_other_waits() -> None:
    """And another's lease is seen at the next renewal."""

    async def scene() -> None:
        s = Scene()
        first, second = s.lease(s.a, mode="soft"), s.lease(s.b, mode="soft")
        assert (await first.acquire()).epoch == 1
        assert isinstance(await second.try_acquire(), Contended)
        await asyncio.sleep(100)
        assert first.guard.remaining_s > 20
        stolen = (await s.record()).model_copy(update={"lease_id": "x", "owner_id": "b:1", "node": "b"})
        await s.store.put(KEY, stolen.encode())
        await first.lost.wait()
        assert why_closed(first)
        assert (await s.record()).lease_id == "x"

    in_time(scene())


def test_bytes_that_were_damaged_on_their_way_are_asked_for_again() -> None:
    async def scene() -> None:
        s = Scene()
        flips = iter(["flip", "flip"])

        async def damaged(work: Callable[[], Awaitable[Any]], _: bool) -> Any:
            if next(flips, ""):
                raise CorruptObject("flipped")
            return await work()

        await s.lease(s.a).acquire()
        second = s.lease(s.a, Meddled(s.store, damaged))
        await second.acquire()
        assert second.guard.closed_because is None
        await second.release()

    in_time(scene())


def test_what_is_no_lease_is_not_taken_for_one() -> None:
    """PR3: nobody knows who may write, so nobody does."""

    async def scene() -> None:
        s = Scene()
        record = LeaseRecord(
            resource="writer",
            mode="hard",
            owner_id="a:1",
            lease_id="x",
            issued_at_utc=BEGIN,
            expires_at_utc=BEGIN + timedelta(seconds=45),
        )
        for data in (b"", b"{}", record.encode().replace(b"2026-11", b"2026-13")):
            await s.store.put(KEY, data)
            with pytest.raises(LeaseUnreadable, match="remove the object"):
                await s.lease(s.a).acquire()

    in_time(scene())
