"""The whole of an ingest: walk, hash, ask, upload what is missing, in bounded memory.

Bounds: `forge.ingest.hashing` runs a few jobs ahead, a lookup batch ends early when what it keeps at hand
reaches `HELD_BYTES_MAX` or `HELD_DESCRIPTORS_MAX`, and `UPLOADS_MAX` files are being sent. What grows with
the number of files are the 32-byte digests that tell duplicates.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from functools import partial

import apsw

from forge.client import ForgeClient, Retry
from forge.ingest.candidate import Candidate, Identified, Identify
from forge.ingest.catalogue import Catalogue, Remembered
from forge.ingest.content import Kind
from forge.ingest.hashing import identified
from forge.ingest.precheck import LocalCopy
from forge.ingest.scan import Failed, Skipped, Walk
from forge.ingest.tally import Tally
from forge.ingest.upload import Uploaded, upload

UPLOADS_MAX = 16
HELD_BYTES_MAX = 64 << 20
HELD_DESCRIPTORS_MAX = 64
REMEMBERED_MAX = 2000
# A full queue empties at the pace of the embedding workers, so a run waits; a node that starts again takes
# seconds, and one that is gone for longer is worth a message.
PATIENCE = Retry(attempts=1000, total_s=900.0, unreachable_s=30.0)


@dataclass(frozen=True, slots=True)
class Sent:
    """A file that the node has taken, or in a dry run, would be sent."""

    path: bytes
    size_bytes: int
    dry_run: bool = False


Event = Skipped | Failed | Sent


@dataclass(frozen=True, slots=True)
class Plan:
    """What to ingest and how hard to work: hashing threads, and hashes per lookup."""

    root: bytes
    kind: Kind
    workers: int
    lookup_batch: int
    dry_run: bool = False
    excluded: frozenset[tuple[int, int]] = frozenset()


class Ingest:
    """One run; `tally` can be read at any time, `scanned` is set when everything has been seen."""

    def __init__(
        self,
        plan: Plan,
        client: ForgeClient,
        catalogue: Catalogue,
        *,
        local_copy: LocalCopy | None = None,
        report: Callable[[Event], None] = lambda _: None,
    ) -> None:
        self.plan = plan
        self.tally = Tally()
        self.scanned = False
        self._client = client
        self._catalogue = catalogue
        self._local_copy = local_copy
        self._report = report
        self._identify = Identify(plan.kind, write_attributes=not plan.dry_run)
        self._seen: set[bytes] = set()
        self._batch: list[Candidate] = []
        self._held_bytes = 0
        self._held_descriptors = 0
        self._remembered: list[tuple[bytes, Remembered]] = []
        self._slots = asyncio.Semaphore(UPLOADS_MAX)

    async def run(self) -> Tally:
        """Ingest everything; raise `OSError` for the root, `ClientError` when the node stops the run.

        A run that was stopped can be repeated: hashes are cached, and the node knows what it has.
        """
        plan = self.plan
        try:
            async with AsyncExitStack() as closing:
                uploads = await closing.enter_async_context(asyncio.TaskGroup())
                closing.callback(self._release_batch)
                walk = Walk(plan.root, plan.kind, plan.excluded, read_only=plan.dry_run)
                files = identified(walk, self._catalogue, self._identify, plan.workers)
                async for found in await closing.enter_async_context(aclosing(files)):
                    self._take(found)
                    while self._batch_is_full():
                        await self._settle(uploads)
                self.scanned = True
                await self._settle(uploads)
        except BaseExceptionGroup as group:
            raise _first(group) from None
        finally:
            self._flush_remembered()
        return self.tally

    def _take(self, found: Identified) -> None:
        self.tally.seen += found.seen
        for skipped in found.skipped:
            self._skip(skipped)
        for failed in found.failed:
            self._fail(failed)
        for candidate in found.candidates:
            if candidate.cached:
                self.tally.cached_hash += 1
            else:
                self.tally.hashed += 1
            if candidate.digest in self._seen:
                self.tally.duplicates += 1
                candidate.release()
            else:
                self._seen.add(candidate.digest)
                self._batch.append(candidate)
                self._held_bytes += candidate.held_bytes
                self._held_descriptors += candidate.descriptor is not None
        self.tally.attributes_refused += found.attributes_refused
        self._remember(found.remembered)

    def _batch_is_full(self) -> bool:
        return len(self._batch) >= self.plan.lookup_batch or (
            self._held_bytes >= HELD_BYTES_MAX or self._held_descriptors >= HELD_DESCRIPTORS_MAX
        )

    async def _settle(self, uploads: asyncio.TaskGroup) -> None:
        """Ask the node about the first batch, and start the uploads of what it misses."""
        batch, self._batch = self._batch[: self.plan.lookup_batch], self._batch[self.plan.lookup_batch :]
        self._held_bytes -= sum(candidate.held_bytes for candidate in batch)
        self._held_descriptors -= sum(candidate.descriptor is not None for candidate in batch)
        unsettled = deque(batch)
        try:
            known_here = self._known_here(batch)
            asked = [c.digest.hex() for c in batch if c.digest not in known_here]
            presence = await self._client.lookup(self.plan.kind, asked)
            while unsettled:
                candidate = unsettled[0]
                if candidate.digest in known_here:
                    self.tally.present_locally += 1
                    unsettled.popleft().release()
                    continue
                match presence[candidate.digest.hex()]:
                    case "present":
                        self.tally.present += 1
                        unsettled.popleft().release()
                    case "processing":
                        self.tally.processing += 1
                        unsettled.popleft().release()
                    case "missing" if self.plan.dry_run:
                        self.tally.would_upload += 1
                        self._report(Sent(candidate.file.path, candidate.file.size_bytes, dry_run=True))
                        unsettled.popleft().release()
                    case "missing":
                        await self._slots.acquire()
                        sending = uploads.create_task(self._upload(candidate))
                        sending.add_done_callback(partial(self._sent, unsettled.popleft()))
        finally:
            for candidate in unsettled:
                candidate.release()

    def _known_here(self, batch: list[Candidate]) -> set[bytes]:
        if self._local_copy is None:
            return set()
        return self._local_copy.holds([candidate.digest for candidate in batch])

    async def _upload(self, candidate: Candidate) -> None:
        match await upload(self._client, candidate, self._identify):
            case Uploaded(result, size_bytes, _):
                if result.status == "already_present":
                    self.tally.present += 1
                else:
                    self.tally.uploaded += 1
                    self.tally.uploaded_bytes += size_bytes
                    self._report(Sent(candidate.file.path, size_bytes))
            case Failed() as failed:
                self._fail(failed)

    def _sent(self, candidate: Candidate, _: asyncio.Task[None]) -> None:
        candidate.release()  # here, as a task that is cancelled before it began runs no `finally`
        self._slots.release()

    def _skip(self, skipped: Skipped) -> None:
        self.tally.skipped[skipped.reason] += 1
        self._report(skipped)

    def _fail(self, failed: Failed) -> None:
        self.tally.failed[failed.reason] += 1
        self._report(failed)

    def _remember(self, rows: list[tuple[bytes, Remembered]]) -> None:
        if self.plan.dry_run:
            return
        self._remembered += rows
        if len(self._remembered) >= REMEMBERED_MAX:
            self._flush_remembered()

    def _flush_remembered(self) -> None:
        rows, self._remembered = self._remembered, []
        if not rows:
            return
        try:
            self._catalogue.remember(rows, int(time.time()))
        except apsw.Error:  # a full cache disk costs the next run time, and this one nothing
            self.tally.not_remembered += len(rows)

    def _release_batch(self) -> None:
        for candidate in self._batch:
            candidate.release()


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
