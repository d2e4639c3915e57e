"""What a document's tables look like now, as far as capturing their changes depends on it."""

import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import apsw

from projectors.digest import quoted
from schemas.problems import UNPROCESSABLE, Refusal

OURS = ("sqlite_", "_forge")
ROWID = "_rowid_"
ROWID_NAMES = ("rowid", ROWID, "oid")
_GENERATED = (2, 3)  # what `table_xinfo` calls hidden

_REACTING = """
    SELECT lower(tbl_name) FROM main.sqlite_schema WHERE type = 'trigger'
    UNION SELECT lower(refers."table")
    FROM pragma_table_list AS tables, pragma_foreign_key_list(tables.name, 'main') AS refers
    WHERE tables.schema = 'main' AND tables.type = 'table'
"""
"""Tables with triggers, and those that foreign keys refer to."""


@dataclass(frozen=True, slots=True)
class TableShape:
    """A table's stored columns as changesets order them, and its key.

    `floating`: it has a declared key and, beside it, rowids that changesets do not carry. `counted`: AUTOINCREMENT.
    `loose`: its key may hold 1 and 1.0, which are the same key.
    """

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    floating: bool
    counted: bool = False
    loose: bool = False

    @property
    def keyless(self) -> bool:
        """Whether only its rowids tell its rows apart."""
        return self.key == (ROWID,)

    @property
    def stored(self) -> tuple[str, ...]:
        """The columns that somebody declared and that are not generated."""
        return self.columns[1:] if self.keyless else self.columns


class Tables:
    """The shapes of one connection's tables; call `refresh` where the schema may have changed."""

    def __init__(self, db: apsw.Connection) -> None:
        self._db = weakref.proxy(db)
        self._version = -1
        self._reacting: tuple[int, frozenset[str]] = (-1, frozenset())

    @classmethod
    def of(cls, db: apsw.Connection) -> "Tables":
        """Return the shapes of the tables that `db` has now."""
        tables = _known.get(db)
        if tables is None:
            tables = _known[db] = cls(db)
        tables.refresh()
        return tables

    def refresh(self) -> bool:
        """Look at the schema again if it has changed; say whether it had."""
        version = schema_version(self._db)
        if version == self._version:
            return False
        self._version = version
        found = self._db.execute(
            "SELECT name, type, wr FROM pragma_table_list "
            "WHERE schema = 'main' AND type IN ('table', 'virtual', 'shadow')"
        ).fetchall()
        self._shapes: dict[str, TableShape] = {}
        self._computed: set[str] = set()
        self._without_rowid = {str(name).lower(): bool(wr) for name, _, wr in found}
        self.counts = "sqlite_sequence" in self._without_rowid
        self.virtual = any(kind == "virtual" for _, kind, _ in found)
        self._names = [str(n) for n, kind, _ in found if kind == "table" and not str(n).startswith(OURS)]
        for name, kind, _ in found:  # all of them now: sessions ask in the midst of a change
            if kind != "virtual":
                self.shape(str(name))
        self.floating = any(self.shape(name).floating for name in self._names)
        self.loose = any(shape.loose for shape in self._shapes.values())
        self.keyless = any(self.shape(name).keyless for name in self._names)
        return True

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._without_rowid

    def shape(self, name: str) -> TableShape:
        """Return the shape of a table that exists."""
        known = self._shapes.get(name.lower())
        if known is None:
            known = self._shapes[name.lower()] = self._look(name)
        return known

    def _look(self, name: str) -> TableShape:
        info = self._db.execute(
            "SELECT name, pk, hidden, upper(type) FROM pragma_table_xinfo(?, 'main') ORDER BY cid", (name,)
        ).fetchall()
        columns = tuple(str(column) for column, _, hidden, _ in info if not hidden)
        if any(hidden in _GENERATED for _, _, hidden, _ in info):
            self._computed.add(name)
        keyed = sorted((pk, str(column), str(declared)) for column, pk, _, declared in info if pk)
        key = tuple(column for _, column, _ in keyed)
        if not key:
            return TableShape(name, (ROWID, *columns), (ROWID,), floating=False)
        floating = not self._without_rowid[name.lower()] and not self._is_rowid(name, keyed)
        *_, counted = self._db.column_metadata("main", name, key[0])
        loose = any(_may_hold_any_number(declared) for *_, declared in keyed)
        return TableShape(name, columns, key, floating, bool(counted), loose)

    def _is_rowid(self, name: str, keyed: list[tuple[int, str, str]]) -> bool:
        """Say whether the key is an alias of the rowid: then no index stands behind it."""
        if len(keyed) != 1 or keyed[0][2] != "INTEGER":
            return False
        return not self._db.execute(
            "SELECT EXISTS (SELECT 1 FROM pragma_index_list(?, 'main') WHERE origin = 'pk')", (name,)
        ).get

    def react(self, names: Iterable[str]) -> bool:
        """Say whether a change of one of these tables may have effects elsewhere: by a trigger or a foreign key."""
        if self._reacting[0] != self._version:
            found = self._db.execute(_REACTING).fetchall()
            self._reacting = (self._version, frozenset(str(name) for (name,) in found))
        return any(name.lower() in self._reacting[1] for name in names)

    def counted(self) -> list[str]:
        """Return the tables with AUTOINCREMENT."""
        return [name for name in self._names if self.shape(name).counted]

    def unique_indexes(self) -> int:
        """Return the largest number of unique indexes that a table has."""
        query = "SELECT count(*) FROM pragma_index_list(?, 'main') WHERE \"unique\""
        return max((int(str(self._db.execute(query, (name,)).get)) for name in self._names), default=0)

    def refuse_uncapturable(self) -> None:
        """Raise `Refusal` if changes of a table could not be told, or not be repeated: its columns hide the rowids
        that they are told by, or a column is generated from itself, which `ALTER TABLE` allows."""
        for name in sorted(self._computed):
            try:
                # An EXPLAIN that is kept does not see that the schema has changed.
                self._db.execute(f"EXPLAIN SELECT * FROM main.{quoted(name)}", can_cache=False).fetchall()
            except apsw.SQLError as error:
                why = f"the rows of table {name} could not be read or written: {error}"
                raise Refusal(UNPROCESSABLE.problem(why, fix="Generate a column from other columns only.")) from error
        for name in self._names:
            shape = self.shape(name)
            columns = {column.lower() for column in shape.stored}
            if (shape.keyless and ROWID in columns) or (shape.floating and columns.issuperset(ROWID_NAMES)):
                raise Refusal(
                    UNPROCESSABLE.problem(
                        f"the columns of table {name} hide its rowids, by which its rows are told apart",
                        fix=f"Give the column {ROWID} another name, or declare an INTEGER PRIMARY KEY.",
                    )
                )


def schema_version(db: apsw.Connection) -> int:
    """Return the number that SQLite raises with every change of the schema."""
    return int(str(db.execute("PRAGMA main.schema_version").get))


def rowid_select(shape: TableShape) -> str:
    """Return the query for the key of the row with a rowid."""
    return f"SELECT {', '.join(map(quoted, shape.key))} FROM main.{quoted(shape.name)} WHERE {free_rowid(shape)} = ?"


def free_rowid(shape: TableShape) -> str:
    """Return a name of the rowid that no column of the table has taken."""
    taken = {column.lower() for column in shape.stored}
    return next(name for name in ROWID_NAMES if name not in taken)


_known: WeakKeyDictionary[apsw.Connection, Tables] = WeakKeyDictionary()


def _may_hold_any_number(declared: str) -> bool:
    """Say whether a column of this type, in capitals, keeps numbers as they come: its affinity is BLOB."""
    return declared in ("", "ANY") or ("BLOB" in declared and not any(t in declared for t in ("INT", "CHAR", "CLOB")))
