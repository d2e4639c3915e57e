"""On which stored tables a query depends, given the names that SQLite says it reads."""

import re
from collections.abc import Set
from typing import NamedTuple
from weakref import WeakKeyDictionary

import apsw

_ELSEWHERE = re.compile(r"content\s*=", re.IGNORECASE)
_FULL_TEXT = re.compile(r"using\s+[\"'`\[]?fts5\b", re.IGNORECASE)
_VIRTUAL = """
    SELECT lower(list.name), found.sql FROM pragma_table_list AS list
    JOIN main.sqlite_schema AS found ON found.name = list.name WHERE list.schema = 'main' AND list.type = 'virtual'
"""
_SHADOWS = "SELECT lower(name) FROM pragma_table_list WHERE schema = 'main' AND type = 'shadow'"
_APART = apsw.SQLITE_PREPARE_PERSISTENT
"""Cached apart by this flag: a user's statement must not be found in the place of one that the guard allowed us."""


class _Virtual(NamedTuple):
    """The virtual tables of one version of a schema: the tables behind each, None if that cannot be told."""

    version: int
    tables: dict[str, frozenset[str] | None]


class Dependencies:
    """Looks at the schema of a connection's document, and remembers it as long as it does not change."""

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[apsw.Connection, _Virtual] = WeakKeyDictionary()

    def of(self, db: apsw.Connection, names: Set[str]) -> frozenset[str] | None:
        """Return the stored tables behind `names` (lower case), and `names`; None if nobody can tell."""
        if not names:
            return frozenset()
        if any(name.startswith("pragma_") for name in names):
            return None
        tables = set(names)
        virtual = self._virtual(db).tables
        for name in names & virtual.keys():
            if (behind := virtual[name]) is None:
                return None
            tables |= behind
        return frozenset(tables)

    def _virtual(self, db: apsw.Connection) -> _Virtual:
        version = int(db.execute("PRAGMA main.schema_version", prepare_flags=_APART).get)
        known = self._known.get(db)
        if known is None or known.version != version:
            known = self._known[db] = _Virtual(version, _look(db))
        return known


def _look(db: apsw.Connection) -> dict[str, frozenset[str] | None]:
    found = db.execute(_VIRTUAL, prepare_flags=_APART).fetchall()
    shadows = [str(name) for (name,) in db.execute(_SHADOWS, prepare_flags=_APART)] if found else []
    tables: dict[str, frozenset[str] | None] = {}
    for name, sql in found:
        known = _FULL_TEXT.search(str(sql)) and not _ELSEWHERE.search(str(sql))
        tables[str(name)] = frozenset(s for s in shadows if s.startswith(f"{name}_")) if known else None
    return tables
