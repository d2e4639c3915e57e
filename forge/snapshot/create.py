"""Take a snapshot: read the folder, record what is new of it, and name it last."""

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from events.payload_errors import PayloadStoreError, PayloadTooLarge
from events.payloads import READ_BYTES, PayloadStore
from forge.ingest.digest import FileChanged
from forge.ingest.scan import open_regular
from forge.snapshot.desk import Desk
from forge.snapshot.reading import Reader
from forge.snapshot.walk import SnapshotFailed, Walk
from projectors.node.parts import PART_BYTES_MAX, entry_bytes
from projectors.node.queries import hashes_v2, refs_among
from schemas.ids import Cid
from schemas.node import REFS_MAX, TREES_MAX, KeepRefs, RecordTrees, Ref, TakeSnapshot, TreePart
from schemas.os_text import shown

SOURCE = "snapshot.tree_entries"
KEEPING_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Plan:
    """What to take a snapshot of. `keep`: with the bytes of its files; `basic`: without modes, times and tags."""

    root: bytes
    threads: int
    strict: bool = False
    basic: bool = False
    keep: bool = False


async def create(desk: Desk, plan: Plan) -> dict[str, Any]:
    """Take the snapshot; return what it is. Raise `SnapshotFailed`, and then nothing was recorded.

    Everything is read before anything is recorded, and the snapshot is the last of it: whatever ends this half way
    leaves at most trees that no snapshot names.
    """
    check_root(desk, plan.root)
    walk = Walk(plan.root, Reader(plan.basic), plan.threads, plan.strict, _excluded(desk))
    with tempfile.TemporaryFile("w+b") as spool:
        async with _payloads(desk, plan) as store:
            if store is not None:
                walk.keep = _Keeping(store, asyncio.Semaphore(KEEPING_AT_ONCE))
            root = await _spool(walk, spool)
        if plan.keep:
            await _keep_refs(desk, _parts(spool))
        recorded = 0
        for batch in _batches(_parts(spool)):
            recorded += await _record(desk, batch)
    taken = await desk.submit(TakeSnapshot(path=plan.root, target_hash=root))
    return {"path": shown(plan.root), **taken, **asdict(walk.tally), "recorded": recorded, "kept": plan.keep}


def check_root(desk: Desk, root: bytes) -> None:
    """Raise `SnapshotFailed` for a folder that holds Forge's own files and hardly anything else."""
    resolved = Path(os.fsdecode(os.path.realpath(root)))
    for own in desk.own_files:
        if resolved == own.resolve() or resolved.is_relative_to(own.resolve()):
            raise SnapshotFailed(root, f"it conflicts with snapshot db path {desk.settings.snapshot_db}")


def _excluded(desk: Desk) -> frozenset[tuple[int, int]]:
    found = set()
    for own in desk.own_files:
        with contextlib.suppress(OSError):
            now = own.stat()
            found.add((now.st_dev, now.st_ino))
    return frozenset(found)


async def _spool(walk: Walk, spool: IO[bytes]) -> Cid:
    """Write all parts of all trees, a line each; return the hash of the root."""
    part = None
    try:
        async for part in walk.trees():
            spool.write(part.model_dump_json().encode() + b"\n")
    except (OSError, PayloadStoreError) as error:
        raise SnapshotFailed(walk.root, (getattr(error, "strerror", None) or str(error)).lower()) from error
    assert part is not None
    return part.hash


def _parts(spool: IO[bytes]) -> Iterator[TreePart]:
    spool.seek(0)
    for line in spool:
        yield TreePart.model_validate_json(line)


def _batches(parts: Iterator[TreePart]) -> Iterator[list[TreePart]]:
    batch: list[TreePart] = []
    size = 0
    for part in parts:
        more = sum(map(entry_bytes, part.entries))
        if batch and (len(batch) == TREES_MAX or size + more > PART_BYTES_MAX):
            yield batch
            batch, size = [], 0
        batch.append(part)
        size += more
    if batch:
        yield batch


async def _record(desk: Desk, batch: list[TreePart]) -> int:
    """Record those of `batch` that are new; return how many."""
    with desk.snapshots() as db:
        known = hashes_v2(db, [part.hash for part in batch])
    new = tuple(part for part in batch if part.hash not in known)
    if new:
        await desk.submit(RecordTrees(trees=new))
    return len({part.hash for part in new})


async def _keep_refs(desk: Desk, parts: Iterator[TreePart]) -> None:
    """Say that the content of all files is kept. Before the trees, so that whoever sees them finds it kept."""
    waiting: dict[str, None] = {}
    for part in parts:
        waiting.update(dict.fromkeys(entry.target for entry in part.entries if entry.kind == "file"))
        while len(waiting) >= REFS_MAX:
            await _keep_some(desk, [waiting.popitem()[0] for _ in range(REFS_MAX)])
    await _keep_some(desk, list(waiting))


async def _keep_some(desk: Desk, cids: list[Cid]) -> None:
    with desk.refs() as db:
        kept = refs_among(db, SOURCE, cids)
    if new := [cid for cid in cids if cid not in kept]:
        await desk.submit(KeepRefs(source=SOURCE, refs=tuple(Ref(ref_key=cid, cid=cid) for cid in new)))


@contextlib.asynccontextmanager
async def _payloads(desk: Desk, plan: Plan) -> AsyncIterator[PayloadStore | None]:
    if not plan.keep:
        yield None
        return
    settings = desk.settings
    store = await asyncio.to_thread(PayloadStore, settings.blob_cache, settings.vector_temp_dir)
    try:
        yield store
    finally:
        await store.close()


@dataclass(frozen=True, slots=True)
class _Keeping:
    """Puts the bytes of files into the payload store, where their hash says that they are not there yet."""

    store: PayloadStore
    room: asyncio.Semaphore

    async def __call__(self, path: bytes, cid: Cid) -> None:
        async with self.room:
            if await asyncio.to_thread(self.store.has, cid):
                return
            descriptor = await asyncio.to_thread(open_regular, path)
            try:
                size = os.fstat(descriptor).st_size
                staged = await self.store.stage(_bytes_of(descriptor), bytes_max=size)
            except PayloadTooLarge as error:
                raise FileChanged from error
            finally:
                os.close(descriptor)
            if staged.cid != cid:
                await self.store.discard(staged)
                raise FileChanged
            await self.store.keep(staged)


async def _bytes_of(descriptor: int) -> AsyncIterator[bytes]:
    while chunk := await asyncio.to_thread(os.read, descriptor, READ_BYTES):
        yield chunk
