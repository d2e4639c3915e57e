"""The two folds of a node's log: snapshots, and what is kept."""

from collections.abc import Sequence
from typing import assert_never, cast

import apsw

from events.envelope import Event
from schemas.instants import nanoseconds
from schemas.node import HashesMapped, NodeFact, RefsDropped, RefsKept, SnapshotTaken, TreeRecorded
from schemas.os_text import sql_text

FOLD_VERSION = 1  # raise it when the same events give other rows


def apply_to_snapshot(db: apsw.Connection, events: Sequence[Event]) -> None:
    """Fold events into `snapshot.db`."""
    for event in events:
        match cast(NodeFact, event.fact):
            case TreeRecorded() as recorded:
                _record(db, recorded, nanoseconds(event.time))
            case SnapshotTaken() as taken:
                db.execute(
                    "INSERT INTO pointers (path, snapshot_time_ns, target_kind, target_hash, hash_algo) "
                    "VALUES (?, ?, ?, ?, ?)",
                    (sql_text(taken.path), taken.taken_at_ns, taken.target_kind, taken.target_hash, taken.hash_algo),
                )
            case HashesMapped() as mapped:
                db.executemany(
                    "INSERT OR REPLACE INTO hash_mappings VALUES (?, ?, ?)",
                    [(mapped.blake3, algo, digest) for algo, digest in mapped.digests.items()],
                )
            case RefsKept() | RefsDropped():
                pass  # refs.db folds these
            case unreachable:
                assert_never(unreachable)


def apply_to_refs(db: apsw.Connection, events: Sequence[Event]) -> None:
    """Fold events into `refs.db`."""
    for event in events:
        match cast(NodeFact, event.fact):
            case RefsKept() as kept:
                at = nanoseconds(event.time)
                db.executemany(
                    "INSERT INTO blob_refs VALUES (?1, ?2, ?3, ?4, ?4) "
                    "ON CONFLICT DO UPDATE SET cid = excluded.cid, updated_at_ns = excluded.updated_at_ns",
                    [(kept.source, ref.ref_key, ref.cid, at) for ref in kept.refs],
                )
            case RefsDropped() as dropped:
                db.executemany(
                    "DELETE FROM blob_refs WHERE source = ? AND ref_key = ?",
                    [(dropped.source, key) for key in dropped.ref_keys],
                )
            case TreeRecorded() | SnapshotTaken() | HashesMapped():
                pass  # snapshot.db folds these
            case unreachable:
                assert_never(unreachable)


def _record(db: apsw.Connection, fact: TreeRecorded, at_ns: int) -> None:
    part = fact.tree
    if part.first == 0:  # whatever was left of a tree that never became whole goes
        db.execute("DELETE FROM trees WHERE hash = ? AND hash_v2 IS NULL", (part.hash,))
        db.execute("INSERT INTO trees VALUES (?, ?, ?, ?, NULL)", (part.hash, fact.hash_algo, at_ns, part.entry_count))
    db.executemany(
        "INSERT INTO tree_entries VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                part.hash,
                sql_text(entry.name),
                entry.kind,
                entry.target,
                entry.mode,
                entry.mtime_ns,
                entry.size,
                sql_text(entry.link),
            )
            for entry in part.entries
        ],
    )
    for entry in part.entries:
        for tag in entry.tags:
            db.execute("INSERT INTO tags (name) VALUES (?) ON CONFLICT DO NOTHING", (tag,))
            db.execute(
                "INSERT INTO tree_entry_tags SELECT ?, ?, id FROM tags WHERE name = ?",
                (part.hash, sql_text(entry.name), tag),
            )
    if fact.hash_v2 is not None:
        db.execute("UPDATE trees SET hash_v2 = ? WHERE hash = ?", (fact.hash_v2, part.hash))
