"""One attempt at a generation: from a copy and a plan to a manifest in the archive, proved if that is wanted."""

from pathlib import Path
from typing import NamedTuple

import structlog
from blake3 import blake3
from ulid import ULID

from events.archive import Archive
from events.objects.errors import PreconditionFailed, StoreUnavailable
from projectors.generations.errors import GenerationDamaged, GenerationError, GenerationMissing
from projectors.generations.fetching import fetch
from projectors.generations.reading import check_history, manifest, translated
from projectors.projection import remove_database
from projectors.threads import Threads
from schemas.generation import FORMAT_PATCHED, Manifest
from schemas.instants import now
from workers.generations import metrics
from workers.generations.copies import Copied
from workers.generations.failures import NotNow
from workers.generations.page_table import PageTable
from workers.generations.planning import Plan
from workers.generations.uploading import Upload, Uploaded

log = structlog.get_logger(__name__)


class Writer(NamedTuple):
    """Who makes a generation, and below which folder its chunks belong."""

    node: str
    epoch: int
    pages: str


class Stored(NamedTuple):
    """A generation to which no pointer has come yet, and the table of its pages, if this attempt made it."""

    manifest: Manifest
    data: bytes
    is_new: bool
    table: PageTable | None


class Attempt:
    """What was copied, on its way into the archive."""

    def __init__(
        self,
        archive: Archive,
        scratch: Path,
        threads: Threads,
        projection: str,
        copied: Copied,
        before: Manifest | None,
        writer: Writer,
    ) -> None:
        """`before` is the generation before, if there is one."""
        self._archive = archive
        self._scratch = scratch
        self._threads = threads
        self._projection = projection
        self._copied = copied
        self._before = before
        self._writer = writer
        self._upload = Upload(archive, copied.path, writer.pages)

    @property
    def stored_bytes(self) -> int:
        """What chunks, patches and lists of them took in the archive."""
        return self._upload.stored_bytes

    async def store(self, plan: Plan) -> Stored:
        """Store what the archive lacks, then the manifest; or take the manifest that is there.

        One that is there is of an attempt that did not come to its end: at the same position, so it does as well.
        """
        uploaded = await self._upload.run(self._copied.cut, plan, self._before)
        wanted = self._manifest(uploaded)
        await check_history(self._archive, wanted)
        key, data = self._archive.key(str(wanted.key)), wanted.model_dump_json().encode()
        try:
            await self._archive.store.create(key, data)
        except PreconditionFailed:
            if (there := await self._there(key, wanted)) is not None:
                return there
            await self._archive.store.delete(key)
            raise NotNow(f"{key} was damaged, or of another version or history: it is made again") from None
        return Stored(wanted, data, True, self._table(data, plan, uploaded))

    async def _there(self, key: str, wanted: Manifest) -> Stored | None:
        """Return the manifest that is there if it does as well as the one that is `wanted`, None if it is of no use."""
        try:
            with translated():
                data = (await self._archive.store.get(key)).data
            there = await manifest(self._archive, wanted.projection, wanted.at, blake3(data).hexdigest())
        except GenerationMissing as error:
            raise StoreUnavailable(f"{key} was said to exist, but does not") from error
        except GenerationDamaged as error:
            metrics.damaged.inc()
            log.error("generation damaged", generation=str(wanted.key), reason=str(error))
            return None
        is_same = (there.partition, there.hash, there.version) == (wanted.partition, wanted.hash, wanted.version)
        return Stored(there, data, False, None) if is_same else None

    def _manifest(self, uploaded: Uploaded) -> Manifest:
        found, cut, patches = self._copied.found, self._copied.cut, uploaded.patches
        return Manifest(
            format=FORMAT_PATCHED if patches else 1,
            projection=self._projection,
            partition=found.partition,
            position=str(found.cursor.position),
            hash=found.cursor.hash,
            sequence=found.cursor.sequence,
            time=found.time,
            version=found.version,
            size_bytes=cut.size_bytes,
            page_size=found.page_size,
            file=cut.file,
            digest=found.digest,
            chunk_bytes=cut.chunk_bytes,
            pages=self._writer.pages,
            chunks=uploaded.chunks,
            parts=[] if patches else uploaded.parts,
            base=uploaded.parts if patches else [],
            patches=[patch.cid for patch in patches],
            previous=self._before.position if self._before else None,
            epoch=self._writer.epoch,
            node=self._writer.node,
            created_at=now(),
        )

    def _table(self, data: bytes, plan: Plan, uploaded: Uploaded) -> PageTable | None:
        cut = self._copied.cut
        if not cut.hashes:
            return None
        told = (blake3(data).hexdigest(), cut.page_size, cut.chunk_bytes, plan.chunks, cut.chunks, cut.hashes)
        return PageTable(*told, uploaded.patches)

    async def prove(self, stored: Stored) -> Stored:
        """Restore a generation and compare it with what was copied; return it as it is after what had to be mended.

        One that stays damaged is removed.
        """
        found = stored
        try:
            try:
                await self._restore(found.manifest)
            except GenerationError as error:
                metrics.damaged.inc()
                log.error("generation damaged", generation=str(found.manifest.key), reason=str(error))
                if found.manifest.file != self._copied.cut.file:
                    raise  # what would mend it is not here
                found = await self._mended(found)
                await self._restore(found.manifest)
        except GenerationError:
            await self._remove(found.manifest)
            raise
        metrics.verified.inc()
        return found

    async def _mended(self, stored: Stored) -> Stored:
        """Make a damaged generation whole; what is below patches is not here any more: then it is made without them."""
        cut = self._copied.cut
        if stored.manifest.patches:
            await self._remove(stored.manifest)
            stored = await self.store(Plan(cut.chunks))
        await self._upload.mend(cut)
        return stored

    async def _remove(self, generation: Manifest) -> None:
        await self._archive.store.delete(self._archive.key(str(generation.key)))

    async def _restore(self, generation: Manifest) -> None:
        path = self._scratch / f"{ULID()}.proof"
        await fetch(self._archive, generation, path)
        await self._threads.run(remove_database, path)
