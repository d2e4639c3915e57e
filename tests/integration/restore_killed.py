"""A program that restores a machine and dies at a given step, again and again; see `test_restore_kills.py`.

A step is a call of a function of ours, in any thread: between two of them nothing of ours can be half done.
"""

import asyncio
import json
import os
import shutil
import sys
import threading
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from events.append import last_message
from events.objects.folder import FolderStore
from events.purge import purge
from events.read import message_position
from schemas.ids import PartitionId
from tests.restoring import Machine, machine

ROOMS = ("/events/", "/forge/restore/", "/projectors/")
KILLED = 137
Kind = Literal["missing", "behind", "diverged"]


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the server of the machine listens."""

    log_url: str
    read_url: str
    live_url: str
    admin_url: str
    monitor_url: str


@dataclass(frozen=True, slots=True)
class Trial:
    """One machine: what is archived is in `store`, what was archived some time ago in `early`; it lies in `folder`."""

    addresses: Addresses
    store: Path
    early: Path
    folder: Path
    partition: PartitionId

    async def prepare(self, kind: Kind) -> None:
        """Make the machine what it is before it is restored."""
        await asyncio.to_thread(shutil.rmtree, self.folder, ignore_errors=True)
        async with self._machine(self.early) as here:
            await purge(here.log.admin, self.partition)
            if kind == "diverged":
                await here.write(self.partition, *"xyz")
            if kind == "behind":
                assert (await here.restore(self.partition)).problem is None

    async def restore(self) -> dict[str, Any]:
        """Restore it, and say how it stands then."""
        async with self._machine(self.store) as here:
            outcome = await here.restore(self.partition)
            last = await last_message(here.log.reader, self.partition)
            return {
                "problem": outcome.problem,
                "position": outcome.position,
                "newest": str(message_position(last)) if last else None,
                "digests": here.digests,
                "records": len(await here.records(self.partition)),
                "files": sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*")),
            }

    def _machine(self, store: Path) -> AbstractAsyncContextManager[Machine]:
        return machine(self.folder, self.addresses, FolderStore(store))


def dying(work: Coroutine[Any, Any, Any], at_step: int | None) -> int:
    """Do `work` in a process of its own that dies at a step (None: never); return the steps until then or the end."""
    read, write = os.pipe()
    if child := os.fork():
        os.close(write)
        work.close()
        told = os.read(read, 64)
        os.close(read)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        assert code == (0 if told else KILLED), code
        return int(told) if told else -1
    steps = 0

    def count(frame: FrameType, event: str, _: object) -> None:
        nonlocal steps
        if event == "call" and any(room in frame.f_code.co_filename for room in ROOMS):
            steps += 1
            if steps == at_step:
                os._exit(KILLED)

    threading.setprofile(count)
    sys.setprofile(count)
    asyncio.run(work)
    sys.setprofile(None)
    os.write(write, str(steps).encode())
    os._exit(0)


def main() -> None:
    """Read what to do from standard input, one line of JSON each, and answer each with one."""
    told = json.loads(sys.argv[1])
    addresses, key = Addresses(**told["addresses"]), told["partition"]
    store, early, folder = (Path(told[name]) for name in ("store", "early", "folder"))
    trial = Trial(addresses, store, early, folder, PartitionId("doc", key))
    for line in sys.stdin:
        asked = json.loads(line)
        asyncio.run(trial.prepare(asked["kind"]))
        steps = dying(trial.restore(), asked["at_step"])
        print(json.dumps({"steps": steps} | asyncio.run(trial.restore())), flush=True)


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        main()
