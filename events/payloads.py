"""The payload files of one node, each under the hash of its content and durable before it is named in an event."""

import asyncio
import errno
import os
import stat
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import structlog
from prometheus_client import Counter
from ulid import ULID

from events.fsync import Arrival, Outcome, SyncRounds
from events.payload_errors import (
    PayloadMissing,
    PayloadNotDurable,
    PayloadStoreError,
    PayloadTooLarge,
    disk_errors,
)
from events.staging import StagedFile, hash_file, sweep
from schemas.ids import parse_cid

# A body up to this size stays in memory until its round writes it, which spares it two changes of thread;
# a larger one is hashed and written in steps of this size. So an upload under way holds this much memory.
BATCH_BYTES = 64 << 10
READ_BYTES = 256 << 10
# A larger file is flushed before it joins a round, so that small ones do not wait for it.
ROUND_BYTES_MAX = 4 << 20
_KEEP_TRIES = 4
_DAMAGED = frozenset({errno.EIO, errno.ELOOP, errno.EISDIR, errno.ENXIO})

QUARANTINED = Counter("forge_payloads_quarantined_total", "Damaged payload files set aside")
SWEPT = Counter("forge_payloads_swept_total", "Unfinished payload files of earlier processes removed")
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Staged:
    """Bytes that arrived whole and have their name, but are not durable yet; `keep` or `discard` it."""

    cid: str
    size_bytes: int
    file: StagedFile = field(repr=False, compare=False)


class PayloadStore:
    """Payloads below `root` as `<cid[:2]>/<cid[2:4]>/<cid>.blob`; large uploads grow in `temp` first.

    Files have mode 0600, directories 0700. `fsync` is the system call, replaceable for fault injection.
    """

    def __init__(self, root: Path, temp: Path, *, fsync: Callable[[int], None] = os.fsync) -> None:
        self._root, self._temp, self._fsync = root, temp, fsync
        self._incoming, self._quarantine = root / ".incoming", root / "quarantine"
        self._rounds = SyncRounds(root, self._incoming, fsync)
        self._keeping: set[asyncio.Task[None]] = set()
        with disk_errors(f"creating the payload directories {root} and {temp}"):
            created = [root, *(parent for parent in root.absolute().parents if not parent.exists())]
            for directory in (root, self._incoming, self._quarantine, temp):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            for directory in created:
                self._rounds.sync_directory(directory.absolute().parent)
            self._crosses_devices = not _renames(temp, self._incoming)

    async def close(self) -> None:
        """Finish what is being kept."""
        if self._keeping:
            await asyncio.wait(self._keeping)
        await self._rounds.close()

    def path(self, cid: str) -> Path:
        """Return where the payload is or would be; raise `InvalidId` for what is no content hash."""
        return payload_path(self._root, cid)

    def has(self, cid: str) -> bool:
        """Return whether a file of that name exists, by one `stat`; its content is not checked."""
        return self.path(cid).is_file()

    def open(self, cid: str) -> BinaryIO:
        """Open a payload for blocking reads; raise `PayloadMissing`."""
        try:
            with disk_errors(f"opening payload {cid}"):
                return open(self.path(cid), "rb")
        except PayloadStoreError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise PayloadMissing(cid) from error
            raise

    async def stage(self, chunks: AsyncIterable[bytes], *, bytes_max: int) -> Staged:
        """Take a stream, hashing it; nothing stays on disk when it fails, is cancelled or is too large.

        Raises `PayloadTooLarge` with the first chunk past `bytes_max`, or a `PayloadStoreError`.
        """
        file = StagedFile(self._temp)
        buffer = bytearray()
        size_bytes = 0
        try:
            async for chunk in chunks:
                size_bytes += len(chunk)
                if size_bytes > bytes_max:
                    raise PayloadTooLarge(bytes_max)
                buffer += chunk
                if len(buffer) > BATCH_BYTES:
                    await _append(file, bytes(buffer))
                    buffer.clear()
            if file.size_bytes == 0:
                file.hold(bytes(buffer))
            elif buffer:
                await _append(file, bytes(buffer))
            return Staged(file.cid, size_bytes, file)
        except BaseException:
            await asyncio.shield(asyncio.to_thread(file.discard))
            raise

    async def discard(self, staged: Staged) -> None:
        """Drop a staged payload; repeating it, or doing it after `keep`, changes nothing."""
        await asyncio.shield(asyncio.to_thread(staged.file.discard))

    async def keep(self, staged: Staged) -> None:
        """Return when the payload is durable under its final name; `staged` is used up in any case.

        An equal intact file is synced and stays; a damaged one goes to `quarantine/` and is replaced.
        Raises a `PayloadStoreError`, and then nothing was kept. When the caller is cancelled, it may be.
        """
        work = asyncio.create_task(self._keep(staged))
        self._keeping.add(work)
        work.add_done_callback(self._keeping.discard)
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            # The files are in the hands of a thread: it finishes, and nobody hears the result.
            work.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise

    async def _keep(self, staged: Staged) -> None:
        arrival = Arrival(staged.file, staged.cid, self.path(staged.cid))
        try:
            if staged.size_bytes > ROUND_BYTES_MAX or (self._crosses_devices and staged.file.path):
                await asyncio.to_thread(self._prepare, staged)
            for _ in range(_KEEP_TRIES):
                if await self._rounds.join(arrival) is Outcome.KEPT:
                    return
                if await asyncio.to_thread(self._settle_existing, staged.cid):
                    return
            raise PayloadNotDurable(f"payload {staged.cid} is damaged again each time it is replaced")
        finally:
            if staged.file.unfinished:
                await asyncio.to_thread(staged.file.discard)

    async def verify(self, cid: str) -> bool:
        """Return whether the payload is here and its content still has its hash."""
        with disk_errors(f"checking payload {cid}"):
            return await asyncio.to_thread(self._intact, self.path(cid), parse_cid(cid))

    async def quarantine(self, cid: str) -> None:
        """Set a damaged payload aside, so that the next upload of its content replaces it."""
        with disk_errors(f"setting payload {cid} aside"):
            await asyncio.to_thread(self._set_aside, self.path(cid), parse_cid(cid))

    async def read(self, cid: str) -> AsyncIterator[bytes]:
        """Yield the bytes, up to 256 KiB at a time; raise `PayloadMissing` or a `PayloadStoreError`."""
        file = await asyncio.to_thread(self.open, cid)
        try:
            with disk_errors(f"reading payload {cid}"):
                while data := await asyncio.to_thread(file.read, READ_BYTES):
                    yield data
        finally:
            file.close()

    async def sweep(self) -> int:
        """Remove unfinished files whose process is gone, count them and return how many; for the start."""
        with disk_errors("sweeping unfinished payloads"):
            swept = sum([await asyncio.to_thread(sweep, d) for d in {self._temp, self._incoming}])
        SWEPT.inc(swept)
        return swept

    def _prepare(self, staged: Staged) -> None:
        with disk_errors(f"syncing payload {staged.cid}", PayloadNotDurable):
            if self._crosses_devices:
                staged.file.copy_to(self._incoming)
            staged.file.sync(self._fsync)

    def _settle_existing(self, cid: str) -> bool:
        """Return whether the final file is intact and durable; if damaged, set it aside."""
        final = self.path(cid)
        with disk_errors(f"checking payload {cid}", PayloadNotDurable):
            if not self._intact(final, cid, durable=True):
                self._set_aside(final, cid)
                return False
            for directory in (final.parent, final.parent.parent, self._root):
                self._rounds.sync_directory(directory)
        return True

    def _intact(self, final: Path, cid: str, *, durable: bool = False) -> bool:
        try:
            fd = os.open(final, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno in _DAMAGED:
                return False
            raise
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return False
            if durable:
                self._fsync(fd)
                # Read what the disk has, not a page that the kernel calls clean after a failed write.
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            return _readable_hash(fd) == cid
        finally:
            os.close(fd)

    def _set_aside(self, final: Path, cid: str) -> None:
        aside = self._quarantine / f"{cid}.{ULID()}"
        with suppress(FileNotFoundError):
            os.rename(final, aside)
            QUARANTINED.inc()
            _log.error("payload quarantined", cid=cid, path=str(aside))


def payload_path(root: Path, cid: str) -> Path:
    """Return where the store below `root` has a payload; raise `InvalidId` for what is no content hash."""
    cid = parse_cid(cid)
    return root / cid[:2] / cid[2:4] / f"{cid}.blob"


async def _append(file: StagedFile, data: bytes) -> None:
    with disk_errors("writing an upload"):
        await asyncio.to_thread(file.append, data)


def _readable_hash(fd: int) -> str:
    """Return the content hash, '' where the disk cannot read the file back."""
    try:
        return hash_file(fd)
    except OSError as error:
        if error.errno in _DAMAGED:
            return ""
        raise


def _renames(source: Path, target: Path) -> bool:
    """Return whether a file can be renamed from one directory to the other; mounts of one disk cannot."""
    probe = StagedFile(source)
    probe.append(b"")
    try:
        moved = target / f"{ULID()}.probe"
        probe.rename(moved)
        moved.unlink()
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return False
    finally:
        probe.discard()
    return True
