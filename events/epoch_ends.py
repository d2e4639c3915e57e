"""Where the epochs before a new one end: found out once, under the writer lease, before anything else is written."""

import asyncio
from collections.abc import AsyncIterator, Mapping

from events.archive import Archive
from events.archived_place import archived_end
from schemas.archive import EpochTable
from schemas.ids import PartitionId, Position

LOOKED_UP_AT_ONCE = 16
PAGE_PARTITIONS = 1024  # looked up together


async def begin_epoch(
    archive: Archive, epoch: int, *, node: str, time: str, known: Mapping[PartitionId, Position] | None = None
) -> EpochTable:
    """Begin `epoch`: what is archived now counts, and nothing that a writer of an earlier epoch stores from now on.

    Where the log here ends as its archive does is `known`: that counts, whatever is stored after it was looked up.

    Return its table, which is the one that is there if the epoch has begun. Raise `EpochTaken`, `LogError`, and what
    the store raises; repeating it is safe.
    """
    newest = await archive.epochs.refresh()
    if newest.epoch == epoch:
        return newest
    ends: dict[str, tuple[tuple[int, int], ...]] = {}
    limit = asyncio.Semaphore(LOOKED_UP_AT_ONCE)

    async def one(partition: PartitionId) -> None:
        if (end := (known or {}).get(partition)) is None:
            async with limit:
                end = (await archived_end(archive, partition)).cursor.position
        *over, current = newest.spans(partition)
        found = [(span.epoch, span.last or 0) for span in over]
        if current.holds(end.index):
            found.append((current.epoch, end.index))
        if found:
            ends[partition.token] = tuple(found)

    async for page in _pages(archive):
        await asyncio.gather(*map(one, page))
    table = EpochTable(epoch=epoch, ends=dict(sorted(ends.items())), node=node, time=time)
    await archive.epochs.begin(table)
    return table


async def _pages(archive: Archive) -> AsyncIterator[list[PartitionId]]:
    page: list[PartitionId] = []
    async for partition in archive.partitions():
        page.append(partition)
        if len(page) == PAGE_PARTITIONS:
            yield page
            page = []
    yield page
