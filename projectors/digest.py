"""The digest of a SQLite file's content, which two copies share exactly when they hold the same.

What counts is what a reader can see: the schema, `user_version`, `application_id`, the counters of
AUTOINCREMENT and every stored value with its type. What does not: page layout, free pages, the order in
which rows arrived, whitespace and comments in the schema, planner statistics, our positions and caches.
"""

import re
import struct
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice

import apsw
from blake3 import blake3

FORMAT = b"forge digest 1\n"
UNCOUNTED = ("_forge_position", "_forge_cache", "sqlite_")
SETTINGS = ("application_id", "user_version")
BATCH_ROWS = 4096
BATCH_BYTES = 4 << 20

_SHADOWS = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'shadow'"

Value = None | int | float | str | bytes
Row = tuple[Value, ...]

_SQL_PIECE = re.compile(
    r"""(?P<gap>(?:[ \t\n\f\r]+|--[^\n]*|/\*.*?(?:\*/|\Z))+)
      | '[^']*' | "[^"]*" | `[^`]*` | \[[^\]]*\] | [^ \t\n\f\r'"`\[/-]+ | .""",
    re.DOTALL | re.VERBOSE,
)
_TAGS = {type(None): 0, int: 1, float: 2, str: 3, bytes: 4}


@dataclass(frozen=True, slots=True)
class Table:
    """A table's stored columns, and which of them order its rows: all, where no key tells rows apart."""

    name: str
    columns: tuple[str, ...]
    key: tuple[int, ...]
    distinct: bool
    where: str = ""

    def select(self, terms: Iterable[str]) -> str:
        """Return the query for `terms` of every row in the canonical order."""
        order = [f"{quoted(self.columns[n])} COLLATE BINARY" for n in self.key]
        if not self.distinct:
            order += [f"{c} COLLATE BINARY, typeof({c})" for c in map(quoted, self.columns)]
        return f"SELECT {', '.join(terms)} FROM main.{quoted(self.name)} {self.where} ORDER BY {', '.join(order)}"


@dataclass(slots=True)
class _Column:
    """The running hashes of one column, one per kind of bytes, so that batches leave no trace in them."""

    tags: blake3 = field(default_factory=blake3)
    integers: blake3 = field(default_factory=blake3)
    reals: blake3 = field(default_factory=blake3)
    lengths: blake3 = field(default_factory=blake3)
    contents: blake3 = field(default_factory=blake3)

    def update(self, values: Sequence[Value], encode: Callable[[str], bytes]) -> None:
        types = list(map(type, values))
        self.tags.update(bytes(map(_TAGS.__getitem__, types)))
        kinds = set(types)
        if int in kinds:
            integers = [v for v in values if type(v) is int]
            self.integers.update(struct.pack(f"<{len(integers)}q", *integers))
        if float in kinds:
            reals = [v for v in values if type(v) is float]
            self.reals.update(struct.pack(f"<{len(reals)}d", *reals))
        if str in kinds or bytes in kinds:
            contents = [encode(v) if isinstance(v, str) else v for v in values if isinstance(v, str | bytes)]
            self.lengths.update(struct.pack(f"<{len(contents)}Q", *map(len, contents)))
            self.contents.update(b"".join(contents))

    def digest(self) -> bytes:
        parts = (self.tags, self.integers, self.reals, self.lengths, self.contents)
        return b"".join(part.digest() for part in parts)


def digest(db: apsw.Connection) -> str:
    """Return the content of `db`'s main database as 64 hex digits, read in one snapshot.

    Memory is bounded by a few `BATCH_BYTES`, or a few times the largest row if that is larger.
    Virtual tables count by their declaration and their shadow tables; generated columns by their declaration.
    A table without a primary key is keyed by rowid, which an in-place VACUUM may renumber: that is a change.
    """
    whole = blake3(FORMAT)
    with db:
        for name, kind, sql in schema(db):
            whole.update(_framed("object", name, kind, sql))
        for name in SETTINGS:
            whole.update(_framed("setting", name, str(setting(db, name))))
        for table in tables(db):
            whole.update(_framed("table", table.name))
            whole.update(table_digest(db, table))
    return whole.hexdigest()


def schema(db: apsw.Connection) -> Iterator[tuple[str, str, str]]:
    """Yield (name, type, SQL in one form) of every object that somebody declared and that counts, by name.

    Nobody declared shadow tables: how theirs is written depends on whether their table was ever renamed.
    """
    query = f"""SELECT name, type, tbl_name, sql FROM main.sqlite_schema
                WHERE sql IS NOT NULL AND name NOT IN ({_SHADOWS}) ORDER BY name, type"""
    for name, kind, table, sql in db.execute(query):
        if not str(table).startswith(UNCOUNTED):
            yield str(name), str(kind), normalised(str(sql))


def setting(db: apsw.Connection, name: str) -> int:
    """Return the value of one of `SETTINGS`."""
    return int(str(db.execute(f"PRAGMA main.{name}").get))  # `db.pragma` prepares it anew each time


def normalised(sql: str) -> str:
    """Return `sql` without comments and with no more space than keeps its words apart."""
    text, gap = "", False
    for piece in _SQL_PIECE.finditer(sql):
        if piece["gap"]:
            gap = True
            continue
        if gap and text and text[-1] not in "()," and piece[0][0] not in "(),":
            text += " "
        text, gap = text + piece[0], False
    return text


def tables(db: apsw.Connection) -> Iterator[Table]:
    """Yield the tables whose rows count, by name: ordinary and shadow tables, AUTOINCREMENT counters if any."""
    query = """SELECT name, wr FROM pragma_table_list
               WHERE schema = 'main' AND type IN ('table', 'shadow') ORDER BY name"""
    for name, without_rowid in [(str(n), bool(w)) for n, w in db.execute(query)]:
        if not name.startswith(UNCOUNTED):
            yield _table(db, name, without_rowid)
        elif name == "sqlite_sequence":
            where = "WHERE " + " AND ".join(f"substr(name, 1, {len(p)}) <> '{p}'" for p in UNCOUNTED)
            if db.execute(f"SELECT EXISTS (SELECT 1 FROM main.sqlite_sequence {where})").get:
                yield Table(name, ("name", "seq"), key=(0,), distinct=False, where=where)


def _table(db: apsw.Connection, name: str, without_rowid: bool) -> Table:
    query = 'SELECT name, pk, "notnull", hidden FROM pragma_table_xinfo(?, ?) ORDER BY cid'
    info = list(db.execute(query, (name, "main")))
    stored = [(str(column), int(pk), bool(not_null)) for column, pk, not_null, hidden in info if not hidden]
    columns = tuple(column for column, _, _ in stored)
    key = tuple(n for _, n in sorted((pk, n) for n, (_, pk, _) in enumerate(stored) if pk))
    if key:
        # In a rowid table SQLite lets many rows have NULL in their primary key.
        distinct = without_rowid or all(stored[n][2] for n in key)
        return Table(name, columns, key, distinct)
    taken = {str(column).lower() for column, *_ in info}
    rowid = next((r for r in ("rowid", "oid", "_rowid_") if r not in taken), None)
    if rowid is None:
        return Table(name, columns, (), distinct=False)
    return Table(name, (rowid, *columns), (0,), distinct=True)


def table_digest(db: apsw.Connection, table: Table) -> bytes:
    """Return a digest of a table's rows, the same for every way of reading them in batches."""
    try:
        return _table_digest(db, table, rows(db, table), str.encode)
    except UnicodeDecodeError:
        return _table_digest(db, table, rows(db, table, text_as_hex=True), bytes.fromhex)


def _table_digest(db: apsw.Connection, table: Table, source: Generator[Row], encode: Callable[[str], bytes]) -> bytes:
    running = [_Column() for _ in table.columns]
    size = _batch_rows(db, table)
    with closing(source):
        while batch := list(islice(source, size)):
            for column, values in zip(running, zip(*batch, strict=True), strict=True):
                column.update(values, encode)
    whole = blake3(_framed(*table.columns))
    for column in running:
        whole.update(column.digest())
    return whole.digest()


def _batch_rows(db: apsw.Connection, table: Table) -> int:
    """Return how many rows surely fit into `BATCH_BYTES`, from the longest value of each column."""
    longest = ", ".join(f"max(octet_length({quoted(c)}))" for c in table.columns)
    widths = next(db.execute(f"SELECT {longest} FROM main.{quoted(table.name)}"))
    return max(1, min(BATCH_ROWS, BATCH_BYTES // max(1, sum(w or 0 for w in widths))))


def rows(db: apsw.Connection, table: Table, *, text_as_hex: bool = False) -> Generator[Row]:
    """Yield a table's rows in canonical order; as hex, text that is not UTF-8 can be read too.

    Only text then comes as `str`, so that its hex cannot be mistaken for anything else.
    """
    columns = [quoted(c) for c in table.columns]
    terms = [f"CASE typeof({c}) WHEN 'text' THEN hex({c}) ELSE {c} END" for c in columns]
    with closing(db.cursor()) as cursor:
        yield from cursor.execute(table.select(terms if text_as_hex else columns))


def quoted(name: str) -> str:
    """Return a name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def _framed(*fields: str) -> bytes:
    encoded = [f.encode() for f in fields]
    return b"".join([struct.pack("<Q", len(encoded)), *(struct.pack("<Q", len(e)) + e for e in encoded)])
