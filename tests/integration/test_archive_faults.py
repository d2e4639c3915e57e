"""An object store that fails in every way: nothing wrong is stored or taken, and the archive catches up."""

import asyncio
import random
from contextlib import suppress
from urllib.parse import urlsplit

import pytest

from events.archive import Archive
from events.cursor import Cursor
from events.objects.errors import StoreError
from events.objects.retrying import RetryingStore
from forge.stack.nats import NatsServer
from forge.stack.weed import Weed
from tests.archives import PREFIX, archived_up_to, archiving, assert_equal, written
from tests.faults.killer import fresh_seed
from tests.faults.s3_proxy import S3Proxy
from tests.notes import eventually, new_partition, opened_log
from tests.s3_stores import emptied, s3_store

HARMS, HARMS_LONG = 60, 10_000
LONG_TIMEOUT_S = 7200
ONE_IN = 5


@pytest.mark.parametrize(
    "harms", [HARMS, pytest.param(HARMS_LONG, marks=[pytest.mark.long, pytest.mark.timeout(LONG_TIMEOUT_S)])]
)
async def test_a_store_that_fails_at_random_gets_every_record_once(
    nats_server: NatsServer, weed: Weed, harms: int
) -> None:
    """PR3, PR4: requests and answers are lost, cut, altered and refused, done or not; no segment is wrong."""
    rng = random.Random(fresh_seed())
    plain = await emptied(s3_store(weed))
    async with opened_log(nats_server) as event_log, S3Proxy(*_address(weed), rng) as proxy:
        harmed = s3_store(weed, port=proxy.port)
        cursors = {partition: Cursor.start(partition) for partition in (new_partition() for _ in range(4))}
        async with archiving(event_log, RetryingStore(harmed, deadline_s=5)) as archiver:
            proxy.one_in = ONE_IN
            while proxy.harmed.total() < harms:
                for partition in rng.sample(list(cursors), 2):
                    cursors[partition] = await written(event_log, partition, rng.randrange(1, 4), cursors[partition])
                await asyncio.sleep(0.02)  # else the backlog outgrows what is archived
            proxy.one_in = 0
            for partition, cursor in cursors.items():
                await archived_up_to(plain, partition, cursor.position)
            stopped = {name for stream in archiver._streams for name in stream.stopped}
            assert not stopped & set(map(str, cursors))
        for partition in cursors:
            await assert_equal(Archive(plain, PREFIX), event_log.reader, partition)
        await harmed.close()
    await plain.close()


async def test_altered_bytes_are_never_handed_out_or_stored(weed: Weed) -> None:
    """PR4, K3.6: whatever the proxy does to it, an object is what was stored, or there is an error."""
    rng = random.Random(fresh_seed())
    plain = await emptied(s3_store(weed))
    async with S3Proxy(*_address(weed), rng) as proxy:
        harmed = s3_store(weed, port=proxy.port)
        proxy.one_in = 2
        for n in range(60):
            data = rng.randbytes(rng.choice([0, 10, 10_000, 200_000]))
            with suppress(StoreError):
                await harmed.create(f"o/{n}", data)
            if await plain.size(f"o/{n}") is not None:
                assert (await plain.get(f"o/{n}")).data == data
                with suppress(StoreError):
                    assert (await harmed.get(f"o/{n}")).data == data
        await harmed.close()
    assert proxy.harmed.total() > 20
    await plain.close()


async def test_a_store_that_is_away_is_waited_for(nats_server: NatsServer, weed: Weed) -> None:
    """PR7: the log keeps everything, memory is bounded, the lag is told and shrinks again."""
    plain = await emptied(s3_store(weed))
    partition = new_partition()
    async with opened_log(nats_server) as event_log, S3Proxy(*_address(weed), random.Random(1)) as proxy:
        behind = s3_store(weed, port=proxy.port)
        async with archiving(event_log, RetryingStore(behind, deadline_s=0.3)) as archiver:
            cursor = await written(event_log, partition, 2)
            await archived_up_to(plain, partition, cursor.position)
            await proxy.refuse()
            await proxy.drop_connections()

            cursor = await written(event_log, partition, 50, cursor)
            await eventually(lambda: any(stream.trouble for stream in archiver._streams))
            (lag,) = [lag for lag in await archiver.lag() if lag.stream == "FORGE_DOCS"]
            assert lag.records >= 50
            assert lag.seconds > 0
            assert lag.size_bytes > 0

            proxy.accept()
            await archived_up_to(plain, partition, cursor.position)
            await eventually(lambda: not any(stream.trouble for stream in archiver._streams))
        await assert_equal(Archive(plain, PREFIX), event_log.reader, partition)
        await behind.close()
    await plain.close()


def _address(weed: Weed) -> tuple[str, int]:
    parts = urlsplit(weed.s3_url)
    assert parts.hostname
    assert parts.port
    return parts.hostname, parts.port
