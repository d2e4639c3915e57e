"""What `snapshot.db` and `refs.db` are asked: trees, entries, snapshots, and who keeps what."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import apsw
from pydantic_core import from_json, to_json

from schemas.node import TreeEntry
from schemas.os_text import sql_text

ENTRIES = """
SELECT name, kind, target_hash, mode, mod_time_ns, size, link_target,
       (SELECT json_group_array(name ORDER BY CAST(name AS BLOB)) FROM (
            SELECT tags.name FROM tree_entry_tags AS tagged JOIN tags ON tags.id = tagged.tag_id
            WHERE tagged.tree_hash = entry.tree_hash AND tagged.name = entry.name
        ))
FROM tree_entries AS entry WHERE tree_hash = ?
"""


class TreeRow(NamedTuple):
    """A tree; `hash_v2` is None while entries are missing."""

    hash: str
    entry_count: int
    hash_v2: str | None


class SnapshotRow(NamedTuple):
    """A snapshot of a folder."""

    id: int
    path: bytes
    taken_at_ns: int
    target_kind: str
    target_hash: str


def tree(db: apsw.Connection, tree_hash: str) -> TreeRow | None:
    """Return a tree, whole or not."""
    row = db.execute("SELECT hash, entry_count, hash_v2 FROM trees WHERE hash = ?", (tree_hash,)).fetchone()
    return TreeRow(*row) if row else None


def entries(db: apsw.Connection, tree_hash: str) -> Iterator[TreeEntry]:
    """Yield the entries of a tree in the order of their names' bytes."""
    for row in db.execute(f"{ENTRIES} ORDER BY CAST(name AS BLOB)", (tree_hash,)):
        yield _entry(row)


def entry(db: apsw.Connection, tree_hash: str, name: bytes) -> TreeEntry | None:
    """Return one entry of a tree."""
    row = db.execute(f"{ENTRIES} AND name = ?", (tree_hash, sql_text(name))).fetchone()
    return _entry(row) if row else None


def entries_known(db: apsw.Connection, tree_hash: str) -> int:
    """Return how many entries of a tree are recorded."""
    return int(db.execute("SELECT count(*) FROM tree_entries WHERE tree_hash = ?", (tree_hash,)).get)


def last_name(db: apsw.Connection, tree_hash: str) -> bytes:
    """Return the last name of a tree, empty if it has no entries."""
    row = db.execute(
        "SELECT name FROM tree_entries WHERE tree_hash = ? ORDER BY CAST(name AS BLOB) DESC LIMIT 1", (tree_hash,)
    ).fetchone()
    return _raw(row[0]) if row else b""


def hashes_v2(db: apsw.Connection, hashes: Sequence[str]) -> dict[str, str]:
    """Return hash v2 of those of `hashes` that are whole trees."""
    found = db.execute(
        "SELECT hash, hash_v2 FROM trees WHERE hash_v2 IS NOT NULL AND hash IN (SELECT value FROM json_each(?))",
        (to_json(hashes).decode(),),
    )
    return {str(one): str(v2) for one, v2 in found}


def snapshots(db: apsw.Connection, path: bytes, limit: int) -> list[SnapshotRow]:
    """Return the snapshots of a folder, the newest first."""
    return _snapshots(db, "WHERE path = ? ORDER BY snapshot_time_ns DESC LIMIT ?", sql_text(path), limit)


def snapshot_at(db: apsw.Connection, path: bytes, taken_at_ns: int) -> SnapshotRow | None:
    """Return the snapshot of a folder of exactly this moment."""
    found = _snapshots(db, "WHERE path = ? AND snapshot_time_ns = ?", sql_text(path), taken_at_ns)
    return found[0] if found else None


def tagged(db: apsw.Connection, tree_hash: str, tags: Sequence[str]) -> set[bytes]:
    """Return the names of a tree's entries that have all of `tags`."""
    found = db.execute(
        "SELECT tagged.name FROM tree_entry_tags AS tagged JOIN tags ON tags.id = tagged.tag_id "
        "WHERE tagged.tree_hash = ?1 AND tags.name IN (SELECT value FROM json_each(?2)) "
        "GROUP BY tagged.name HAVING count(*) = json_array_length(?2)",
        (tree_hash, to_json(sorted(set(tags))).decode()),
    )
    return {_raw(name) for (name,) in found}


def digests(db: apsw.Connection, blake3: str) -> dict[str, str]:
    """Return the other digests of some content, by algorithm."""
    found = db.execute("SELECT algo, digest FROM hash_mappings WHERE blake3 = ? ORDER BY algo", (blake3,))
    return {str(algo): str(digest) for algo, digest in found}


def content_of(db: apsw.Connection, algo: str, digest: str) -> str | None:
    """Return the BLAKE3 of the content with another digest."""
    row = db.execute("SELECT blake3 FROM hash_mappings WHERE algo = ? AND digest = ?", (algo, digest)).fetchone()
    return str(row[0]) if row else None


def refs(db: apsw.Connection, source: str) -> dict[str, str]:
    """Return what `refs.db` says that `source` keeps: content by name."""
    found = db.execute("SELECT ref_key, cid FROM blob_refs WHERE source = ? ORDER BY ref_key", (source,))
    return {str(key): str(cid) for key, cid in found}


def refs_among(db: apsw.Connection, source: str, keys: Sequence[str]) -> dict[str, str]:
    """Return those of `keys` that `source` keeps, with their content."""
    found = db.execute(
        "SELECT ref_key, cid FROM blob_refs WHERE source = ? AND ref_key IN (SELECT value FROM json_each(?))",
        (source, to_json(keys).decode()),
    )
    return {str(key): str(cid) for key, cid in found}


def _snapshots(db: apsw.Connection, where: str, *bindings: object) -> list[SnapshotRow]:
    columns = "id, path, snapshot_time_ns, target_kind, target_hash"
    rows = db.execute(f"SELECT {columns} FROM pointers {where}", bindings)
    return [SnapshotRow(id_, _raw(path), *rest) for id_, path, *rest in rows]


def _entry(row: tuple[object, ...]) -> TreeEntry:
    name, kind, target, mode, mtime_ns, size, link, tags = row
    return TreeEntry.model_validate(
        {
            "name": name,
            "kind": kind,
            "target": target,
            "mode": mode,
            "mtime_ns": mtime_ns,
            "size": size,
            "link": link,
            "tags": from_json(str(tags)),
        }
    )


def _raw(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value
