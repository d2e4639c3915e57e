"""`forge replicate daemon` in a process of its own, to start, stop, kill and ask."""

import asyncio
import os
from typing import Any, ClassVar

from forge.daemon.status import read_status
from tests.acceptance.node_process import POLL_S, READY_WAIT_S, Finished, NodeProcess

ARCHIVED_S = 60.0


class DaemonProcess(NodeProcess):
    """See `NodeProcess`; it is ready once it has said so."""

    COMMAND: ClassVar[tuple[str, ...]] = ("replicate", "daemon")

    async def ready(self, within_s: float = READY_WAIT_S) -> None:
        """Wait until it takes commands."""
        await self.announced(within_s)

    async def status(self) -> dict[str, Any]:
        """Return what it says of itself, once it says something."""
        async with asyncio.timeout(ARCHIVED_S):
            while True:
                if status := await asyncio.to_thread(read_status, self.data):
                    return status.told()
                await asyncio.sleep(POLL_S)

    async def writes(self) -> None:
        """Wait until it holds the lease."""
        async with asyncio.timeout(ARCHIVED_S):
            while True:
                lease = (await self.status())["lease"]
                if lease and lease["writes"]:
                    return
                await asyncio.sleep(POLL_S)

    async def archived(self, position: str) -> dict[str, Any]:
        """Wait until everything up to `position` is archived, with generations there; return the status."""
        async with asyncio.timeout(ARCHIVED_S):
            while True:
                state = await self.status()
                for one in state["partitions"]:
                    made = [generation["position"] for generation in one["generations"]]
                    if one["archived"] == one["position"] == position and made == [position, position]:
                        return state
                await asyncio.sleep(POLL_S)

    async def snapshot(self, *arguments: str) -> Finished:
        """Take a snapshot of `folder` below home."""
        return await self.cli("snapshot", "create", os.fspath(self.home / "folder"), *arguments)
