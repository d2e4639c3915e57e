"""Rounds of fsync: files that wait at the same moment become durable under their final names together."""

import asyncio
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path

from prometheus_client import Histogram

from events.payload_errors import PayloadNotDurable, PayloadStoreBusy, PayloadStoreError, translated
from events.staging import StagedFile

# Measured with 32 writers of 20 KiB files on ext4 with 2 cores (benchmarks/payload_fsync.py, six runs): rounds
# kept 1.2 to 1.7 times as many files per second as syncing each alone in the first runs, for half to two thirds of
# the CPU, and 0.6 to 0.7 times as many in the others, for the same CPU: an fsync costs from 0.2 to 0.6 ms of kernel
# time on that machine, depending on the minute, and a round waits for its slowest. 32 threads were never behind 8;
# several rounds at a time gave nothing. One syncfs(2) per step gave 0.8 to 1.7 times the files of parallel fsyncs,
# mostly for less CPU. It is not used because it waits for whatever other programs left unwritten, because Linux
# before 5.8 reports no lost page by it, and because file systems in user space may not pass it on to the disk.
THREADS = 32
ROUND_FILES_MAX = 256
WAITING_MAX = 4096

ROUND_FILES = Histogram(
    "forge_payload_round_files", "Payload files made durable together", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256)
)


class Outcome(Enum):
    """What a round did with one file."""

    KEPT = "kept"
    EXISTS = "exists"


@dataclass(frozen=True, slots=True, eq=False)
class Arrival:
    """One file that wants its final name."""

    file: StagedFile
    cid: str
    final: Path


class SyncRounds:
    """Group commit of files below `root`: while one round runs, the next one gathers; no timer."""

    def __init__(self, root: Path, incoming: Path, fsync: Callable[[int], None] = os.fsync) -> None:
        self._root, self._incoming, self._fsync = root, incoming, fsync
        self._pool = ThreadPoolExecutor(THREADS, "payload-fsync")
        self._waiting: list[tuple[Arrival, asyncio.Future[Outcome]]] = []
        self._task: asyncio.Task[None] | None = None
        # Directories whose names are durable, by the leading hex digits of the CIDs in them. That one
        # exists proves nothing: the process that made it may have died before its fsync.
        self._durable: set[str] = set()

    def join(self, arrival: Arrival) -> asyncio.Future[Outcome]:
        """Queue a file for the next round; the future holds its outcome or a `PayloadStoreError`."""
        done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        if len(self._waiting) >= WAITING_MAX:
            raise PayloadStoreBusy(f"{WAITING_MAX} payloads already wait for the disk; try again in a second")
        self._waiting.append((arrival, done))
        if self._task is None:
            self._task = asyncio.create_task(self._drain(), name="payload-fsync")
        return done

    async def close(self) -> None:
        """Finish the rounds under way and stop the threads."""
        if self._task is not None:
            await self._task
        self._pool.shutdown()

    async def _drain(self) -> None:
        while self._waiting:
            taken, self._waiting = self._waiting[:ROUND_FILES_MAX], self._waiting[ROUND_FILES_MAX:]
            ROUND_FILES.observe(len(taken))
            arrivals = [arrival for arrival, _ in taken]
            outcomes: dict[Arrival, Outcome | PayloadStoreError]
            try:
                outcomes = await asyncio.to_thread(self._round, arrivals)
            except Exception as error:
                outcomes = dict.fromkeys(arrivals, PayloadNotDurable(f"the sync round failed: {error!r}"))
            for arrival, done in taken:
                if done.done():
                    continue
                outcome = outcomes[arrival]
                if isinstance(outcome, Outcome):
                    done.set_result(outcome)
                else:
                    done.set_exception(outcome)
        self._task = None

    def _round(self, arrivals: list[Arrival]) -> dict[Arrival, Outcome | PayloadStoreError]:
        outcomes: dict[Arrival, Outcome | PayloadStoreError] = {}
        twins: dict[str, list[Arrival]] = {}
        for arrival in arrivals:
            twins.setdefault(arrival.cid, []).append(arrival)
        firsts = [same[0] for same in twins.values()]
        try:
            written = self._write(firsts, outcomes)
            self._name(written, outcomes)
        except OSError as error:
            # After a failed fsync the kernel may call the lost pages clean, and a second fsync would
            # succeed: so nothing of this round is kept, and its files are written anew if sent again.
            failed = translated(error, "syncing payloads", PayloadNotDurable)
            outcomes.update({first: failed for first in firsts if outcomes.get(first) is not Outcome.EXISTS})
        for same in twins.values():
            outcomes.update(dict.fromkeys(same, outcomes[same[0]]))
        return outcomes

    def _write(self, arrivals: list[Arrival], outcomes: dict[Arrival, Outcome | PayloadStoreError]) -> list[Arrival]:
        """Have the bytes and the directories on disk, synced; return the files that now need a name."""
        written: list[Arrival] = []
        descriptors: list[int] = []
        parents: dict[Path, None] = {}
        made: set[str] = set()
        for arrival in arrivals:
            try:
                if os.path.lexists(arrival.final):
                    outcomes[arrival] = Outcome.EXISTS
                    continue
                for prefix, parent, directory in self._levels(arrival):
                    if prefix not in self._durable:
                        directory.mkdir(mode=0o700, exist_ok=True)
                        parents[parent] = None
                        made.add(prefix)
                descriptor = arrival.file.write(self._incoming)
            except OSError as error:
                outcomes[arrival] = translated(error, f"writing payload {arrival.cid}", PayloadStoreError)
                continue
            if not arrival.file.synced:
                descriptors.append(descriptor)
            written.append(arrival)
        self._sync_all(descriptors, parents)
        self._durable |= made
        return written

    def _name(self, arrivals: list[Arrival], outcomes: dict[Arrival, Outcome | PayloadStoreError]) -> None:
        """Give the synced files their final names and sync those; on an fsync error take the names back."""
        named: list[Arrival] = []
        for arrival in arrivals:
            try:
                arrival.file.rename(arrival.final)
            except OSError as error:
                self._durable -= {prefix for prefix, _, _ in self._levels(arrival)}
                outcomes[arrival] = translated(error, f"naming payload {arrival.cid}", PayloadStoreError)
            else:
                named.append(arrival)
        try:
            self._sync_all([], dict.fromkeys(arrival.final.parent for arrival in named))
        except BaseException:
            for arrival in named:
                with suppress(OSError):
                    arrival.final.unlink()
            raise
        outcomes.update(dict.fromkeys(named, Outcome.KEPT))

    def _levels(self, arrival: Arrival) -> list[tuple[str, Path, Path]]:
        leaf, cid = arrival.final.parent, arrival.cid
        return [(cid[:2], self._root, leaf.parent), (cid[:4], leaf.parent, leaf)]

    def _sync_all(self, descriptors: list[int], directories: Iterable[Path]) -> None:
        """fsync all of them at the same time, wait for all, and raise the first error."""
        calls = [partial(self._fsync, descriptor) for descriptor in descriptors]
        calls += [partial(self.sync_directory, directory) for directory in directories]
        if len(calls) == 1:  # spares a lone upload the change of threads
            calls[0]()
            return
        futures = [self._pool.submit(call) for call in calls]
        errors = [error for error in [future.exception() for future in futures] if error is not None]
        if errors:
            raise errors[0]

    def sync_directory(self, path: Path) -> None:
        """fsync one directory."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._fsync(descriptor)
        finally:
            os.close(descriptor)
