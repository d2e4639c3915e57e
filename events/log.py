"""The log as one node holds it: the connections of its four NATS users, and the server's promise to sync."""

import asyncio

from events.archive import Archive
from events.connection import Connection
from events.durability import check_durable


class Log:
    """Connections by what they may do: append, read, pass on news, administer. Nothing is connected at first.

    With an `archive`, reading goes on in it where the server's history begins too late.
    """

    def __init__(
        self,
        writer_url: str,
        monitor_url: str,
        *,
        reader_url: str = "",
        live_url: str = "",
        admin_url: str = "",
        archive: Archive | None = None,
    ) -> None:
        self.writer = Connection(writer_url, "_INBOX_log", "forge-log")
        self.reader = Connection(reader_url or writer_url, "_INBOX_read", "forge-read")
        self.reader.archive = archive
        self.live = Connection(live_url or writer_url, "_INBOX_live", "forge-live")
        self.admin = Connection(admin_url or writer_url, "_INBOX_admin", "forge-admin")
        self.monitor_url = monitor_url
        self._checked = 0

    async def require_durable(self) -> None:
        """Raise `NotDurable` unless the server syncs what it acknowledges; asks once per connection."""
        if not self.writer.connected:
            await self.writer.client()
        if self._checked != (generation := self.writer.generation):
            await check_durable(self.monitor_url)
            self._checked = generation

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(c.close() for c in (self.writer, self.reader, self.live, self.admin)))
