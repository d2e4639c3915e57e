"""A program that prunes the archive of a node's settings at a moment, and may be killed while it removes something."""

import asyncio
import os
import signal
import sys

from events.objects.guarded import GuardedStore
from events.objects.port import ObjectStore
from events.write_guard import ALWAYS_OPEN
from forge.archive_access import archive_access
from forge.generation_service import GenerationService
from projectors.threads import Threads
from schemas.settings import Settings


class Dying(GuardedStore):
    """A store whose process is killed instead of removing one more object than it may."""

    def __init__(self, store: ObjectStore, left: int) -> None:
        super().__init__(store, ALWAYS_OPEN)
        self._left = left

    async def delete(self, key: str) -> None:
        """Remove an object, or die."""
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= 1
        await super().delete(key)


async def main(now: str, removals: int) -> None:
    """Look once, as if it were `now`; print how many segments went."""
    settings = Settings.load(os.environ)
    async with archive_access(settings) as archive:
        assert archive is not None
        archive.store = Dying(archive.store, removals)
        with Threads(1) as threads:
            print(await GenerationService(archive, settings).pruner(threads, lambda _: ()).look(now))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
