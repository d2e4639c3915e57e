"""The control plane as a node runs it: who may do what, and which documents there are."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from api.auth import Access
from api.credentials import TokenCredentials
from api.usage import EVERY_S, note_use
from projectors.control.domain import PARTITION
from projectors.control.endpoints import WebhookEndpoints
from projectors.control.reading import ControlReader
from projectors.control.registry import Registry
from projectors.partitions import Partitions
from projectors.readers import Readers
from schemas.instants import now as wall_clock

READ_WAIT_S = 5.0
READERS = 2


class ControlPlane:
    """`access` decides, `registry` knows the documents and `webhook_endpoints` the settings of theirs, `readers` are
    for queries of `control.db` that take longer.

    `async with` starts and ends what runs beside the requests.
    """

    def __init__(
        self,
        partitions: Partitions,
        control_db: Path,
        root_token: str,
        *,
        clock: Callable[[], str] = wall_clock,
        note_every_s: float = EVERY_S,
    ) -> None:
        """`root_token` opens everything, also while the log is away. `clock` returns the present moment."""
        self._partitions = partitions
        self._note_every_s = note_every_s
        self._reader = ControlReader(control_db, lambda: partitions[PARTITION].position is not None)
        self.readers = Readers(control_db, self._ready, connections=READERS)
        self.registry = Registry(self._reader)
        self.webhook_endpoints = WebhookEndpoints(self._reader)
        self.credentials = TokenCredentials(self._reader)
        self.access = Access(root_token, self.credentials, self.registry, clock=clock)
        partitions.listen(self.registry.heard)
        partitions.listen(self.credentials.heard)
        self._noting: asyncio.Task[None] | None = None

    async def _ready(self) -> None:
        await self._partitions[PARTITION].ready(READ_WAIT_S)

    async def __aenter__(self) -> Self:
        noting = note_use(self.credentials, self._partitions, every_s=self._note_every_s)
        self._noting = asyncio.create_task(noting, name="note the use of tokens")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._noting is not None:
            self._noting.cancel()
            with suppress(asyncio.CancelledError):
                await self._noting
        self._reader.close()
        await asyncio.to_thread(self.readers.close)
