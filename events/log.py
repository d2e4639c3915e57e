"""The log as one node holds it: the connections of its four NATS users."""

import asyncio
from dataclasses import dataclass
from typing import Self

from events.connection import Connection


@dataclass(frozen=True, slots=True)
class Log:
    """Connections by what they may do: append, read, pass on news, administer."""

    writer: Connection
    reader: Connection
    live: Connection
    admin: Connection

    @classmethod
    def at(cls, writer_url: str, reader_url: str = "", live_url: str = "", admin_url: str = "") -> Self:
        """Return the log at these NATS addresses; nothing is connected yet."""
        return cls(
            Connection(writer_url, "_INBOX_log", "forge-log"),
            Connection(reader_url or writer_url, "_INBOX_read", "forge-read"),
            Connection(live_url or writer_url, "_INBOX_live", "forge-live"),
            Connection(admin_url or writer_url, "_INBOX_admin", "forge-admin"),
        )

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(c.close() for c in (self.writer, self.reader, self.live, self.admin)))
