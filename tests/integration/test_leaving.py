"""Work is given up when its client leaves, and finished when it stays."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

from api.app import build_app
from api.auth import Access
from api.leaving import Departure, given_up_when_client_leaves
from api.problems import ClientGone
from api.routes import Reply, Request, Route
from api.server import Server

ASK = b"GET /api/v1/work HTTP/1.1\r\nHost: forge\r\nAuthorization: Bearer secret\r\n\r\n"


class Work:
    """A handler that goes on until it is told that it is done."""

    def __init__(self) -> None:
        self.begun, self.done, self.over = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.error: BaseException | None = None

    async def __call__(self, request: Request[None]) -> Reply:
        self.begun.set()
        try:
            with given_up_when_client_leaves(request):
                await self.done.wait()
        except BaseException as error:
            self.error = error
            raise
        finally:
            self.over.set()
        return Reply(200, {"done": True})


@asynccontextmanager
async def asked(work: Work) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Serve the work, and ask for it over one connection."""
    route = Route("GET", "/api/v1/work", "system.read", work)
    server = Server(build_app([route], authoriser=Access("secret")), "127.0.0.1", 0, shutdown_s=1)
    host, port = await server.start()
    try:
        reader, writer = await asyncio.open_connection(host, port)
        try:
            writer.write(ASK)
            async with asyncio.timeout(10):
                await work.begun.wait()
                yield reader, writer
        finally:
            writer.close()
    finally:
        await server.stop()


async def test_what_a_client_waits_for_is_given_up_when_it_leaves() -> None:
    work = Work()
    async with asked(work) as (_, writer):
        writer.close()
        await work.over.wait()

    assert isinstance(work.error, ClientGone)


async def test_what_a_client_waits_for_is_finished_while_it_stays() -> None:
    work = Work()
    async with asked(work) as (reader, _):
        work.done.set()
        answer = await reader.readuntil(b"}")

    assert answer.endswith(b'{"done":true}')
    assert work.error is None


async def test_who_left_before_the_work_began_does_not_keep_it_waiting() -> None:
    departure = Departure()
    departure.happened()

    with pytest.raises(ClientGone):
        await asyncio.wait_for(_waits(departure), 10)


@pytest.mark.parametrize("moment", ["inside", "afterwards"])
async def test_nothing_is_cancelled_once_the_work_is_done(moment: str) -> None:
    departure = Departure()

    with given_up_when_client_leaves(SimpleNamespace(departure=departure)):
        if moment == "inside":
            departure.happened()
    departure.happened()

    assert departure.tell is None

    task = asyncio.current_task()
    assert task is not None
    await asyncio.sleep(0.1)  # longer than the patience: a timer that was left behind would cancel this
    assert not task.cancelling()


async def test_a_cancellation_by_somebody_else_stays_one() -> None:
    task = asyncio.create_task(_waits(Departure()))
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def _waits(departure: Departure) -> None:
    with given_up_when_client_leaves(SimpleNamespace(departure=departure)):
        await asyncio.Event().wait()
