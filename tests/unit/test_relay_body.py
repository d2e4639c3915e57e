"""Bodies that are read ahead up to a bound, and then no faster than they are taken."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.problems import ClientGone
from api.relay.body import SPOOL_BYTES, WINDOW_BYTES, WINDOW_CHUNKS, Body
from api.relay.budget import Budget
from schemas.problems import Refusal

PIECE = 64 << 10
pieces = st.lists(st.sampled_from([1, 1000, PIECE, 4 * PIECE]), max_size=30)


async def parts(sizes: Sequence[int], pulled: list[int] | None = None) -> AsyncIterator[bytes]:
    for number, size in enumerate(sizes):
        if pulled is not None:
            pulled.append(size)
        yield bytes([number % 256]) * size


def expected(sizes: Sequence[int]) -> bytes:
    return b"".join(bytes([number % 256]) * size for number, size in enumerate(sizes))


async def read(reader: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in reader])


@given(pieces, st.integers(1, 4))
def test_every_reader_gets_all_of_it_whatever_the_pieces(sizes: list[int], readers: int) -> None:
    """S3, P4.12: with one window for all of them, and the budget is whole again."""

    async def run() -> None:
        budget = Budget(16 << 20)
        body = Body(budget.of("d"))
        source = parts(sizes)
        await body.spool(source)
        assert body.complete is (sum(sizes) <= SPOOL_BYTES)
        reading = [asyncio.ensure_future(read(one)) for one in [body.reader() for _ in range(readers)]]
        await asyncio.sleep(0)
        if not body.complete:
            await body.fill(source)
        assert await asyncio.gather(*reading) == [expected(sizes)] * readers
        body.close()
        assert budget.used_bytes == 0

    asyncio.run(run())


@given(pieces)
def test_what_is_spooled_can_be_read_again_and_what_is_not_cannot(sizes: list[int]) -> None:
    """S4: also after a reader has had a part of it."""

    async def run() -> None:
        body = Body(Budget(16 << 20).of("d"))
        await body.spool(parts(sizes))
        first = body.reader()
        if sizes:
            await first.__anext__()
        await first.aclose()
        assert body.rereadable is (body.complete or not sizes)
        if body.rereadable:
            assert await read(body.reader()) == expected(sizes)

    asyncio.run(run())


async def test_a_sender_is_not_read_faster_than_its_slowest_reader() -> None:
    """P4.12, PR7: what is kept stays within the window, in bytes and in pieces."""
    for size, most in ((PIECE, WINDOW_BYTES // PIECE + 1), (1, WINDOW_CHUNKS + 1)):
        body, pulled = Body(Budget(16 << 20).of("d")), list[int]()
        source = parts([SPOOL_BYTES + 1] + [size] * 5000, pulled)
        await body.spool(source)
        quick, slow = body.reader(), body.reader()
        for _ in range(SPOOL_BYTES // PIECE + 1):
            await quick.__anext__()
            await slow.__anext__()
        filling = asyncio.ensure_future(body.fill(source))
        draining = asyncio.ensure_future(_drain(quick))
        for _ in range(3 * WINDOW_CHUNKS):
            await asyncio.sleep(0)
        assert len(pulled) - 1 <= most + 1
        assert not filling.done()
        slow.cut()
        await filling
        await draining
        assert len(pulled) == 5001
        body.close()


async def test_a_body_that_is_closed_cuts_its_readers_off() -> None:
    """3.7: they never take a part for the whole."""
    budget = Budget(16 << 20)
    body = Body(budget.of("d"))
    await body.spool(parts([2 * SPOOL_BYTES]))
    reading = asyncio.ensure_future(read(body.reader()))
    await asyncio.sleep(0)
    body.close()
    with pytest.raises(ClientGone):
        await reading
    body.close()
    assert budget.used_bytes == 0


async def test_what_nobody_wants_is_read_and_dropped() -> None:
    """S7: so that its sender can finish."""
    body, pulled = Body(Budget(16 << 20).of("d")), list[int]()
    source = parts([SPOOL_BYTES + 1] + [PIECE] * 100, pulled)
    await body.spool(source)
    body.discard()
    await body.fill(source)
    assert (body.complete, len(pulled)) == (True, 101)


async def test_no_more_is_kept_than_there_is_room_for() -> None:
    """PR7: all documents together, and one of them at most half."""
    budget = Budget(4 * SPOOL_BYTES)
    kept = [Body(budget.of(name)) for name in ("a", "a", "b", "b")]
    for body in kept:
        await body.spool(parts([SPOOL_BYTES]))
    for name in ("a", "c"):
        with pytest.raises(Refusal) as refused:
            await Body(budget.of(name)).spool(parts([1]))
        assert refused.value.problem.status == 503
    kept[0].close()
    await Body(budget.of("c")).spool(parts([1]))


async def _drain(reader: AsyncIterator[bytes]) -> None:
    async for _ in reader:
        pass
