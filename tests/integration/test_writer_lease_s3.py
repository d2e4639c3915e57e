"""The writer lease on a real S3 server, also through connections that hang and answers that get lost."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from events.objects.errors import Fenced
from events.objects.guarded import GuardedStore
from events.objects.port import ObjectStore
from events.objects.s3 import S3Store
from events.write_guard import RAN_OUT
from forge.stack.weed import Weed
from schemas.writer_lease import LeaseRecord, lease_key
from tests.faults.killer import fresh_seed
from tests.faults.proxy import Direction, TcpProxy
from tests.faults.s3_proxy import S3Proxy
from tests.lease_contenders import MemoryPlace
from tests.s3_stores import s3_address, s3_store
from workers.lease.capabilities import probe
from workers.lease.holder import Identity, Terms
from workers.lease.lease import Held
from workers.lease.object import LeaseObject
from workers.lease.opening import lease_object
from workers.lease.stored import StoredLease

TERMS = Terms(duration_s=3, renew_s=0.5, margin_s=0.5)
CONTENDERS, ROUNDS, ROUNDS_LONG = 16, 6, 500


def new_prefix() -> str:
    return f"lease-{random.Random(fresh_seed()).randrange(1 << 30)}"


def lease_at(store: ObjectStore, prefix: str, host: str, *, wall_off_s: float = 0) -> StoredLease:
    """Return the lease of a process on `host`, whose clock is off."""
    place = MemoryPlace(host)
    opened = lease_object(store, prefix, "test", "auto", place, TERMS)
    identity = Identity(place, host, lambda: datetime.now(UTC) + timedelta(seconds=wall_off_s))
    return StoredLease(opened, identity, TERMS)


@asynccontextmanager
async def stores(weed: Weed, *ports: int | None) -> AsyncIterator[list[S3Store]]:
    opened = [s3_store(weed, port=port) for port in ports]
    try:
        yield opened
    finally:
        for store in opened:
            await store.close()


async def test_the_server_has_what_a_hard_lease_needs(weed: Weed) -> None:
    async with stores(weed, None) as (store,):
        prefix = new_prefix()
        assert await probe(store, f"{prefix}/leases/probe") == (True, True)
        assert await store.list(f"{prefix}/") == []


@pytest.mark.parametrize(
    "rounds", [ROUNDS, pytest.param(ROUNDS_LONG, marks=[pytest.mark.long, pytest.mark.timeout(3600)])]
)
async def test_of_sixteen_who_try_at_the_same_moment_one_gets_it(weed: Weed, rounds: int) -> None:
    """PR3: where nothing is stored, and where a lease is over; each winner has an epoch of his own."""
    async with stores(weed, None) as (store,):
        prefix = new_prefix()
        key = f"{prefix}/{lease_key()}"

        async def opened() -> LeaseObject:
            return LeaseObject(store, key, "hard", timeout_s=10, settle_s=0)

        for number in range(1, rounds + 1):
            leases = [
                StoredLease(opened, Identity(MemoryPlace(f"h{number}-{n}"), f"n{n}", lambda: datetime.now(UTC)), TERMS)
                for n in range(CONTENDERS)
            ]
            outcomes = await asyncio.gather(*(lease.try_acquire() for lease in leases))
            won = [outcome for outcome in outcomes if isinstance(outcome, Held)]
            assert len(won) == 1
            assert won[0].epoch == number
            writing = [lease for lease in leases if lease.guard.closed_because is None]
            assert len(writing) == 1
            await writing[0].release()


@pytest.mark.parametrize("wall_off_s", [0, 3600, -3600])
async def test_who_hangs_writes_no_more_when_another_takes_over(weed: Weed, wall_off_s: float) -> None:
    """PR3: the connections of the holder are accepted and never answered; the clock of either may be an hour off."""
    async with TcpProxy(*s3_address(weed)) as proxy, stores(weed, proxy.port, None, proxy.port) as (hung, direct, data):
        prefix = new_prefix()
        first = lease_at(hung, prefix, "a", wall_off_s=wall_off_s)
        second = lease_at(direct, prefix, "b")
        guarded = GuardedStore(data, first.guard)
        await first.acquire()
        await guarded.create(f"{prefix}/one", b"1")
        proxy.pause()
        held = await second.acquire()
        assert (held.epoch, first.guard.closed_because) == (2, RAN_OUT)
        with pytest.raises(Fenced):
            await guarded.create(f"{prefix}/two", b"2")

        proxy.resume()
        await asyncio.wait_for(first.lost.wait(), 30)
        assert first.guard.closed_because
        assert "epoch 2" in first.guard.closed_because
        record = LeaseRecord.parse((await direct.get(f"{prefix}/{lease_key()}")).data)
        assert (record.node, record.epoch) == ("b", 2)
        await second.release()
        await first.release()
        assert [found.key for found in await direct.list(f"{prefix}/")] == [f"{prefix}/{lease_key()}", f"{prefix}/one"]


async def test_answers_that_get_lost_cost_nobody_his_lease(weed: Weed) -> None:
    """PR3: what the store has applied and not answered is found by the id of the process."""
    async with S3Proxy(*s3_address(weed), random.Random(fresh_seed())) as proxy, stores(weed, proxy.port) as (store,):
        prefix = new_prefix()
        lease = lease_at(store, prefix, "a")
        await lease.acquire()
        proxy.one_in = 2
        async with asyncio.timeout(60):
            while proxy.harmed.total() < 8:  # noqa: ASYNC110 - the keeper works in the background
                await asyncio.sleep(0.05)
        assert not lease.lost.is_set()
        proxy.one_in = 0
        async with asyncio.timeout(30):
            while lease.guard.closed_because is not None:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.05)
        assert lease.epoch == 1
        await lease.release()


async def test_a_connection_that_hangs_while_it_is_given_back_ends_in_time(weed: Weed) -> None:
    """PR7: and it runs out by itself."""
    async with TcpProxy(*s3_address(weed)) as proxy, stores(weed, proxy.port, None) as (hung, direct):
        prefix = new_prefix()
        first, second = lease_at(hung, prefix, "a"), lease_at(direct, prefix, "b")
        await first.acquire()
        proxy.pause(Direction.TO_CLIENT)
        await first.release()
        assert first.guard.closed_because
        assert (await second.acquire()).epoch == 2
        await second.release()
