"""What a store can do for a lease, which mode follows from it, and where and how often one looks."""

import random

import pytest
from structlog.testing import capture_logs

from events.objects.errors import StoreRefused, StoreUnavailable, Unsupported
from events.objects.memory import MemoryStore
from schemas.writer_lease import SavedLease, lease_key
from tests.lease_contenders import FaultyStore, MemoryPlace
from workers.lease.capabilities import Capabilities, chosen_mode, probe
from workers.lease.errors import LeaseModeImpossible, LeaseRefused
from workers.lease.holder import Terms
from workers.lease.opening import lease_object
from workers.lease.waiting import backoff


def test_which_mode_follows_from_what_the_store_can() -> None:
    """The mode table: auto is hard where the store has both conditions."""
    both, none = Capabilities(True, True), Capabilities(False, False)
    assert chosen_mode("auto", both) == "hard"
    assert [chosen_mode("auto", Capabilities(*can)) for can in ((True, False), (False, True), none)] == ["soft"] * 3
    assert chosen_mode("hard", both) == "hard"
    assert chosen_mode("soft", both) == "soft"
    for can in ((True, False), (False, True), none):
        with pytest.raises(LeaseModeImpossible, match="conditional writes"):
            chosen_mode("hard", Capabilities(*can))


def test_how_long_to_wait_between_two_attempts() -> None:
    """And the key of the older service's own lease."""
    assert [backoff(attempt) for attempt in (-1, 0, 1, 2, 5, 20)] == [2, 2, 4, 8, 30, 30]
    assert f"forge-data/{lease_key('vector/embeddings-writer')}" == "forge-data/leases/vector/embeddings-writer.json"


class Careless(MemoryStore):
    """A store that ignores conditions, or does not know them."""

    unsupported = False

    async def create(self, key: str, data: bytes) -> str:
        """Store it."""
        if self.unsupported:
            raise Unsupported("NotImplemented")
        return await self.put(key, data)

    async def swap(self, key: str, data: bytes, tag: str) -> str:
        """Store it."""
        return await self.create(key, data)


class Refusing(MemoryStore):
    """A store whose bucket is not there."""

    asked = 0

    async def put(self, key: str, data: bytes) -> str:
        """Refuse."""
        self.asked += 1
        raise StoreRefused("NoSuchBucket")

    async def delete(self, key: str) -> None:
        """Refuse."""
        self.asked += 1
        raise StoreRefused("NoSuchBucket")


@pytest.mark.parametrize("unsupported", [False, True])
async def test_what_a_store_can_is_tried_and_leaves_nothing_behind(unsupported: bool) -> None:
    """Refusals mean no, silence means nothing."""
    good, careless = MemoryStore(), Careless()
    careless.unsupported = unsupported

    assert await probe(good, "p/leases/probe") == (True, True)
    assert await probe(careless, "p/leases/probe") == (False, False)

    assert not good.objects
    assert not careless.objects
    refusing = Refusing()
    with capture_logs() as said, pytest.raises(StoreRefused, match="NoSuchBucket"):
        await probe(refusing, "p/leases/probe")
    assert (said, refusing.asked) == ([], 1), "one refusal is enough"
    silent = FaultyStore(MemoryStore(), random.Random(1))
    silent.always = "lost"
    with pytest.raises(StoreUnavailable):
        await probe(silent, "p/leases/probe")  # type: ignore[arg-type]  # all that a probe needs


async def test_a_place_that_the_store_has_never_served_is_told_of_its_refusal_at_once() -> None:
    """One that it has served waits: what is there can still be read."""
    terms, place = Terms(45, 15, 5), MemoryPlace("here")
    opened = lease_object(Refusing(), "p", "a store", "auto", place, terms)
    with pytest.raises(LeaseRefused, match=r"a store .* NoSuchBucket"):
        await opened()

    place.saved = SavedLease(store="a store", mode="soft")
    with pytest.raises(StoreRefused):
        await opened()
