"""Giving work up whose client has left."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from api.problems import ClientGone
from api.routes import Request

LOOK_AFTER_S = 0.05  # most work is done by then, and need not pay for a look


@contextmanager
def given_up_when_client_leaves(request: Request[Any]) -> Iterator[None]:
    """Cancel what this task awaits inside, and raise `ClientGone`, when the client leaves."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    looking: asyncio.Task[None] | None = None
    inside, gone = True, False

    async def look() -> None:
        nonlocal gone
        await request.gone()
        if inside:
            gone = task.cancel()

    def begin() -> None:
        nonlocal looking
        looking = loop.create_task(look())

    timer = loop.call_later(LOOK_AFTER_S, begin)
    try:
        yield
    except asyncio.CancelledError:
        if gone and task.uncancel() == 0:
            raise ClientGone from None
        raise
    finally:
        inside = False
        timer.cancel()
        if looking is not None:
            looking.cancel()
