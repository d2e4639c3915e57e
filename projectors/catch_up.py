"""Bring projections up to the end of the log: at start, after a foreign record, and for a rebuild."""

from collections.abc import AsyncIterable, Callable, Sequence
from functools import partial

import apsw

from events.connection import Connection
from events.cursor import Entry
from events.envelope import Event, decode_events
from events.errors import LogDamaged, MalformedRecord, UnknownEvent
from events.read import read
from projectors.domain import Domain
from projectors.projection import Projection
from projectors.threads import Threads
from schemas.ids import PartitionId, Position

GROUP_RECORDS = 256  # folded in one transaction
GROUP_BYTES = 4 << 20

Progress = Callable[[Position], None]


class FoldFailed(LogDamaged):
    """An event of the log could not be folded. It stops its projection; it is never passed over."""


async def catch_up(
    reader: Connection,
    threads: Threads,
    domain: Domain,
    partition: PartitionId,
    projections: Sequence[Projection],
    *,
    until: Position | None = None,
    progress: Progress = lambda _: None,
) -> None:
    """Fold all records that some projection has not seen, up to `until` (default: the end of the log).

    Each projection skips what it has. Raise what `read` raises, and `FoldFailed`; the projections then stand
    before the failing record's group.
    """
    start = min((p.cursor for p in projections), key=lambda cursor: cursor.position)
    await fold_entries(read(reader, partition, start), threads, domain, projections, until=until, progress=progress)


async def fold_entries(
    entries: AsyncIterable[Entry],
    threads: Threads,
    domain: Domain,
    projections: Sequence[Projection],
    *,
    until: Position | None = None,
    progress: Progress = lambda _: None,
) -> None:
    """Fold records that come in order, up to `until`, in groups; raise as `catch_up` does."""
    fold = partial(fold_group, domain, projections)
    group: list[Entry] = []
    size = 0
    async for entry in entries:
        if until is not None and entry.cursor.position.index > until.index:
            break
        group.append(entry)
        size += len(entry.record.payload)
        if len(group) >= GROUP_RECORDS or size >= GROUP_BYTES:
            await threads.run(fold, group)
            progress(entry.cursor.position)
            group, size = [], 0
    if group:
        await threads.run(fold, group)
        progress(group[-1].cursor.position)


def fold_group(domain: Domain, projections: Sequence[Projection], entries: Sequence[Entry]) -> None:
    """Fold records into each projection, one transaction per projection for all of them."""
    if not entries:
        return
    decoded = [(entry, _decode(domain, entry)) for entry in entries]
    deciding, *_ = domain.projections(entries[0].record.partition.key)
    for projection in reversed(projections):
        remembers = projection.spec.name == deciding.name  # also when it is folded alone
        try:
            projection.fold_all(decoded, remembers=remembers)
        except (apsw.FullError, apsw.IOError):
            raise  # the disk failed, not the event
        except Exception:
            _fold_singly(projection, decoded, remembers=remembers)
        if projection.checkpoint_due:
            projection.checkpoint()


def _fold_singly(projection: Projection, decoded: Sequence[tuple[Entry, list[Event]]], *, remembers: bool) -> None:
    """Fold records one after the other, to say which of them cannot be folded: then none of them is."""
    with projection.transaction():
        for entry, events in decoded:
            try:
                projection.fold(entry, events, remembers=remembers)
            except (apsw.FullError, apsw.IOError):
                raise
            except Exception as error:
                record = entry.record
                raise FoldFailed(
                    f"record {record.position} of {record.partition} ({record.id}) cannot be folded into "
                    f"{projection.spec.name}: {error!r}"
                ) from error


def _decode(domain: Domain, entry: Entry) -> list[Event]:
    record = entry.record
    try:
        return decode_events(record.json(), domain.facts)
    except (UnknownEvent, MalformedRecord) as error:
        place = f"record {record.position} of {record.partition} (message {entry.cursor.sequence})"
        raise type(error)(f"{place}: {error}") from error
