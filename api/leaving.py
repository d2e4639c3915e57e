"""Giving work up whose client has left."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Protocol

from api.problems import ClientGone

PATIENCE_S = 0.05  # work that is nearly done is finished


class Departure:
    """Whether the client of one request has left, and whom to tell."""

    __slots__ = ("gone", "tell")

    def __init__(self) -> None:
        self.gone = False
        self.tell: Callable[[], object] | None = None

    def happened(self) -> None:
        """The client has left."""
        self.gone = True
        if self.tell is not None:
            self.tell()


class _Asked(Protocol):
    """What is needed of a request."""

    departure: Departure


def given_up_when_client_leaves(request: _Asked, patience_s: float = PATIENCE_S) -> AbstractContextManager[None]:
    """Cancel what this task awaits inside, and raise `ClientGone`, soon after the client leaves."""
    return _GivingUp(request.departure, patience_s)


class _GivingUp(AbstractContextManager[None]):
    """Costs nothing but being told, as long as the client stays."""

    __slots__ = ("_cancelled", "_departure", "_patience_s", "_task", "_timer")

    def __init__(self, departure: Departure, patience_s: float) -> None:
        self._departure = departure
        self._patience_s = patience_s
        self._task: asyncio.Task[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._cancelled = False

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        self._departure.tell = self._left
        if self._departure.gone:
            self._left()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._departure.tell = None
        if self._timer is not None:
            self._timer.cancel()
        if self._cancelled and isinstance(error, asyncio.CancelledError):
            assert self._task is not None
            if self._task.uncancel() == 0:
                raise ClientGone from None

    def _left(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._patience_s, self._give_up)

    def _give_up(self) -> None:
        assert self._task is not None
        self._cancelled = self._task.cancel()
