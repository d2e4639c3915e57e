"""What is not of the archived history, kept under a name that says so: files as they are, records as segments."""

import asyncio
import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import apsw

from events.archive import Archive
from events.connection import Connection
from events.cursor import Cursor, Entry
from events.read import read
from events.seek import extent, seek_end, seek_index
from events.segment import seal
from forge.private_file import sync_folder
from forge.replica.file import set_aside
from projectors.rebuild import close_wal
from schemas.ids import PartitionId
from schemas.segment import RECORDS_MAX

FOLDER = "aside"
SEGMENT_BYTES = 32 << 20  # of payloads in one segment


def stamp() -> str:
    """Return the present minute as names have it."""
    return datetime.now(UTC).strftime("%Y%m%dT%H%M")


def keep_file(path: Path, cursor: Cursor | None) -> Path:
    """Give a projection, which nobody has open, a name that says that it was put aside; return it."""
    with suppress(apsw.NotADBError, apsw.CorruptError):  # then what belongs to it is kept beside it
        close_wal(path)
    return set_aside(path, f"aside-{cursor.position if cursor else 'damaged'}-{stamp()}")


async def keep_tail(archive: Archive, reader: Connection, partition: PartitionId, data_dir: Path) -> list[Path]:
    """Write the records of the log that are not archived into segments below `data_dir`; return the files.

    Doing it again writes the same files again.
    """
    before = await fork(archive, reader, partition)
    folder = data_dir / FOLDER
    kept: list[Path] = []
    group: list[Entry] = []
    size = 0
    async for entry in read(reader, partition, before):
        full = len(group) >= RECORDS_MAX or size >= SEGMENT_BYTES
        if group and (full or entry.cursor.position.epoch != group[0].cursor.position.epoch):
            kept.append(await asyncio.to_thread(_write, folder, partition, before, group))
            before, group, size = group[-1].cursor, [], 0
        group.append(entry)
        size += len(entry.record.payload)
    if group:
        kept.append(await asyncio.to_thread(_write, folder, partition, before, group))
    return kept


async def fork(archive: Archive, reader: Connection, partition: PartitionId) -> Cursor:
    """Return the last place of the server's log that is archived too, by halving; its beginning if none is."""
    known = await extent(reader, partition)
    shared, last = (
        known.floor.index - 1,
        known.head.index,
    )  # the record before the first one is that of both, or of none
    if not last:
        return await seek_end(reader, partition)
    while last > shared:
        middle = (shared + last + 1) // 2
        here = await seek_index(reader, partition, middle)
        there = await archive.cursor_at(partition, here.position)
        if there is not None and there.hash == here.hash:
            shared = middle
        else:
            last = middle - 1
    return await seek_index(reader, partition, shared)


def _write(folder: Path, partition: PartitionId, before: Cursor, entries: list[Entry]) -> Path:
    folder.mkdir(mode=0o700, exist_ok=True)
    first, last = entries[0].cursor, entries[-1].cursor
    path = folder / f"{partition.token}-{first.position}-{last.position}-{last.hash[:8]}.seg"  # no two tails are one
    partial = path.with_suffix(".part")
    with open(partial, "wb") as file:
        file.write(seal(partition, before, entries))
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    sync_folder(folder)
    return path
