"""What all connections of one server share."""

import asyncio
from dataclasses import dataclass, field
from typing import Protocol

from starlette.types import ASGIApp

from api.exchange import Exchange
from api.limits import Limits


class Member(Protocol):
    """An open connection, as far as the server needs to know it."""

    def sweep(self, now: float) -> None: ...
    def stop(self) -> None: ...
    def abort(self) -> None: ...


@dataclass(slots=True)
class Hub:
    """The application, its bounds, and who is connected."""

    app: ASGIApp
    limits: Limits
    loop: asyncio.AbstractEventLoop
    stopping: asyncio.Event
    date: bytes = b""
    connections: set[Member] = field(default_factory=set)
    running: dict[Exchange, asyncio.Task[None]] = field(default_factory=dict)
    emptied: asyncio.Event = field(default_factory=asyncio.Event)

    def current_date(self) -> bytes:
        """Return the value of the Date header, renewed once a second."""
        return self.date
