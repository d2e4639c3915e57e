"""Doing something on every item: what is under way has ended before the caller goes on, whatever ended it."""

import asyncio
from contextlib import suppress

import pytest

from projectors.tasks import for_each
from tests.waiting import until


class Stubborn:
    """Work that takes until `go` to end when it is cancelled, like that of a thread."""

    def __init__(self) -> None:
        self.go, self.cancelled = asyncio.Event(), asyncio.Event()
        self.begun = self.ended = 0

    async def work(self, item: int) -> None:
        """Fail for 0; for others wait for ever."""
        self.begun += 1
        if item == 0:
            raise LookupError("the first one")
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()
            while not self.go.is_set():
                with suppress(asyncio.CancelledError):
                    await self.go.wait()
            self.ended += 1


@pytest.mark.parametrize("items", [[1, 2], [0, 1, 2]], ids=["cancelled", "failed"])
async def test_cancelled_twice_it_still_waits_for_the_end_of_what_is_under_way(items: list[int]) -> None:
    stubborn = Stubborn()
    doing = asyncio.create_task(for_each(items, stubborn.work, len(items)))
    if 0 not in items:
        await until(lambda: stubborn.begun == len(items))
        doing.cancel()
    await stubborn.cancelled.wait()
    for _ in range(3):
        doing.cancel()
        await asyncio.wait({doing}, timeout=0.01)
    assert (doing.done(), stubborn.ended) == (False, 0)
    stubborn.go.set()
    with pytest.raises(asyncio.CancelledError):
        await doing
    assert stubborn.ended == len([item for item in items if item])


async def test_the_first_failure_is_raised_when_the_others_have_ended() -> None:
    stubborn = Stubborn()
    stubborn.go.set()
    with pytest.raises(LookupError):
        await for_each([1, 2, 0], stubborn.work, 3)
    assert stubborn.ended == 2
