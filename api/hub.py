"""What all connections of one server share."""

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starlette.types import ASGIApp

from api.limits import Limits

if TYPE_CHECKING:
    from api.connection import Connection


@dataclass(slots=True)
class Hub:
    """The application, its bounds, and who is connected."""

    app: ASGIApp
    limits: Limits
    loop: asyncio.AbstractEventLoop
    stopping: asyncio.Event
    date: bytes = b""
    connections: "set[Connection]" = field(default_factory=set)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    emptied: asyncio.Event = field(default_factory=asyncio.Event)

    def current_date(self) -> bytes:
        """Return the value of the Date header, renewed once a second."""
        return self.date
