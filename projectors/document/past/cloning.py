"""Cloning: a document's content at one position, cut into parts that become the first commands of another document."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw

from projectors.digest import SETTINGS, quoted
from projectors.document.capture import Capture
from projectors.document.replay import apply_steps, as_recorded, note_progress
from projectors.document.tables import OURS, Tables, TableShape, free_rowid
from projectors.domain import Decision
from projectors.projection import read_cursor
from schemas.document import ContentCopied, CopyContent, DdlStep, StateStep, Step
from schemas.problems import CONFLICT, Refusal
from schemas.values import encode

PART_BYTES = 8 << 20
VALUE_BYTES = 12  # what a value costs in a changeset beside its content, at most
_LATER = "'index', 'view', 'trigger'"


@dataclass(frozen=True, slots=True)
class Progress:
    """How much of another document's content is here: `parts` of it, `whole` if that is all."""

    source: str | None
    source_position: str | None
    parts: int
    whole: bool


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a document's content; parts of one position are the same whenever they are made."""

    number: int
    last: bool
    steps: tuple[Step, ...]
    tables: dict[str, tuple[str, ...]]
    system_version: int


def read_progress(db: apsw.Connection) -> Progress:
    """Return how far the document in `db` is as a clone."""
    row = db.execute("SELECT source, source_position, next_part, copied FROM _forge_document").get
    source, position, parts, copied = row
    return Progress(source, position, parts, bool(copied))


def decide_copy(db: apsw.Connection, command: CopyContent) -> Decision:
    """Take over the next part, leaving it in `db`; one that is here already changes nothing.

    The answer says which part is the next.
    """
    found = read_progress(db)
    if (found.source, found.source_position) != (command.source, command.source_position):
        if found.source is not None:
            raise Refusal(
                CONFLICT.problem(
                    f"this document was begun as a clone of {found.source} at {found.source_position}",
                    fix="Finish that clone by asking for it again, or choose another name.",
                )
            )
        if (position := read_cursor(db).position).index:
            raise Refusal(CONFLICT.problem(f"this document has a history of its own, up to {position}"))
    if command.part < found.parts or found.whole:
        return Decision(answer={"next_part": found.parts})
    if command.part > found.parts:
        raise Refusal(CONFLICT.problem(f"part {command.part} came before part {found.parts}"))
    copied = ContentCopied(
        source=command.source,
        source_position=command.source_position,
        part=command.part,
        last=command.last,
        steps=command.steps,
        tables=command.tables,
        system_version=command.system_version,
    )
    with db, as_recorded(db):
        apply_steps(db, copied.steps)
        note_progress(db, copied)
    return Decision([copied], {"next_part": command.part + 1}, applied=True)


def parts_of(path: Path, first: int = 0, *, part_bytes: int = PART_BYTES) -> Generator[Part]:
    """Yield the content of the document in a file, which nobody changes, from part `first` on.

    A part is the tables, then rows of about `part_bytes` each (at least one row), then everything else. Memory is
    bounded by a few parts.
    """
    with closing(apsw.Connection("", flags=_SCRATCH)) as db:
        db.execute("ATTACH ? AS source", (f"{path.absolute().as_uri()}?mode=ro",))
        db.execute("PRAGMA ignore_check_constraints = ON")  # they held when the rows were written
        system_version = int(str(db.execute("SELECT system_version FROM source._forge_document").get))
        tables = _create_tables(db)
        if first == 0:
            created = tuple(DdlStep(sql=sql) for sql in tables)
            yield Part(0, False, created, _columns(db), system_version)
        number = 1
        for pieces in _portions(db, part_bytes):
            if number >= first:
                yield _captured(db, number, system_version, [piece.copy for piece in pieces])
            number += 1
        later = [str(sql) for (sql,) in db.execute(f"SELECT sql {_DECLARED} AND type IN ({_LATER}) {_IN_ORDER}")]
        steps: list[Step] = [_counters(db), *(DdlStep(sql=sql) for sql in later)]
        yield _captured(db, number, system_version, [_copy_state], steps, last=True)


_SCRATCH = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI
_NOT_OURS = " AND ".join(f"substr(tbl_name, 1, {len(prefix)}) <> '{prefix}'" for prefix in OURS)
_DECLARED = f"FROM source.sqlite_schema WHERE sql IS NOT NULL AND {_NOT_OURS}"
_IN_ORDER = "ORDER BY instr('index view trigger', type), rowid"


def _create_tables(db: apsw.Connection) -> list[str]:
    """Create the source's tables, empty; return their declarations. Shadow tables come with their virtual ones."""
    shadows = "SELECT name FROM pragma_table_list WHERE schema = 'source' AND type = 'shadow'"
    query = f"SELECT sql {_DECLARED} AND type = 'table' AND name NOT IN ({shadows}) ORDER BY rowid"
    declared = [str(sql) for (sql,) in db.execute(query)]
    for sql in declared:
        db.execute(sql)
    return declared


def _columns(db: apsw.Connection) -> dict[str, tuple[str, ...]]:
    return {shape.name: shape.columns for shape in _shapes(db)}


def _shapes(db: apsw.Connection) -> list[TableShape]:
    names = db.execute(
        "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type IN ('table', 'shadow') ORDER BY name"
    ).fetchall()
    return [Tables.of(db).shape(str(name)) for (name,) in names if not str(name).startswith(OURS)]


@dataclass(frozen=True, slots=True)
class _Piece:
    """Some rows of one table that follow each other by its key, from `offset` on."""

    shape: TableShape
    where: str
    values: tuple[int, ...]
    first: bool

    def copy(self, db: apsw.Connection) -> None:
        """Bring these rows into the table of `db`, which holds only what creating it put there."""
        name, terms = quoted(self.shape.name), ", ".join(_terms(self.shape))
        if self.first:  # a full-text index is born with some rows
            key = ", ".join(map(quoted, self.shape.key))
            db.execute(f"DELETE FROM main.{name} WHERE ({key}) NOT IN (SELECT {key} FROM source.{name})")
        db.execute(
            f"INSERT OR REPLACE INTO main.{name} ({terms}) SELECT {terms} FROM source.{name} {self.where}", self.values
        )


def _rowid(shape: TableShape) -> str:
    """Return what the rows of a table that has rowids are found by: its key, where that is another name for them."""
    return free_rowid(shape) if shape.floating else quoted(shape.key[0])


def _terms(shape: TableShape) -> Sequence[str]:
    columns = list(map(quoted, shape.columns))
    return [free_rowid(shape), *columns] if shape.floating else columns


def _portions(db: apsw.Connection, part_bytes: int) -> Iterator[list[_Piece]]:
    """Cut the source's rows into lists of pieces, each of about `part_bytes`."""
    portion: list[_Piece] = []
    size = 0
    for shape in _shapes(db):
        for piece, piece_bytes in _pieces(db, shape, part_bytes):
            if portion and size + piece_bytes > part_bytes:
                yield portion
                portion, size = [], 0
            portion.append(piece)
            size += piece_bytes
    if portion:
        yield portion


def _pieces(db: apsw.Connection, shape: TableShape, part_bytes: int) -> Iterator[tuple[_Piece, int]]:
    """Cut a table into pieces of at most `part_bytes`, or of one row; an empty one is a piece too."""
    columns = list(map(quoted, shape.columns))
    size_of = " + ".join(f"ifnull(octet_length({column}), 0)" for column in columns)
    by_rowid = not _without_rowid(db, shape)
    place = _rowid(shape) if by_rowid else "0"
    order = place if by_rowid else ", ".join(map(quoted, shape.key))
    rows = db.execute(f"SELECT {place}, {size_of} FROM source.{quoted(shape.name)} ORDER BY {order}")
    fixed = VALUE_BYTES * (len(columns) + 1)
    start: int | None = None
    offset = count = size = last = 0
    cut = False
    for rowid, content in rows:
        if count and size + content + fixed > part_bytes:
            yield _piece(shape, by_rowid, start, last, offset, count, first=not cut), size
            cut, start, offset, count, size = True, None, offset + count, 0, 0
        start = rowid if start is None else start
        last = rowid
        count += 1
        size += content + fixed
    yield _piece(shape, by_rowid, start, last, offset, count, first=not cut), size


def _piece(
    shape: TableShape, by_rowid: bool, start: int | None, last: int, offset: int, count: int, *, first: bool
) -> _Piece:
    if start is None:
        return _Piece(shape, "WHERE 0", (), first)
    if by_rowid:
        return _Piece(shape, f"WHERE {_rowid(shape)} BETWEEN ? AND ?", (start, last), first)
    order = ", ".join(map(quoted, shape.key))
    return _Piece(shape, f"ORDER BY {order} LIMIT ? OFFSET ?", (count, offset), first)


def _without_rowid(db: apsw.Connection, shape: TableShape) -> bool:
    query = "SELECT wr FROM pragma_table_list(?) WHERE schema = 'main'"
    return bool(db.execute(query, (shape.name,)).get)


def _copy_state(db: apsw.Connection) -> None:
    """Bring over what stands beside the rows: `user_version` and `application_id`."""
    for name in SETTINGS:
        db.pragma(name, int(str(db.pragma(name, schema="source"))))


def _counters(db: apsw.Connection) -> StateStep:
    """Return the counters of AUTOINCREMENT; none where the copied rows made one that is not in the source."""
    counters: dict[str, tuple[Any, ...]] = {shape.name: () for shape in _shapes(db) if shape.counted}
    if Tables.of(db).counts:
        for name, value in db.execute(f"SELECT name, seq FROM source.sqlite_sequence WHERE {_COUNTED} ORDER BY rowid"):
            counters[str(name)] = (encode(value),)
    return StateStep(sequences=counters or None)


_COUNTED = " AND ".join(f"substr(name, 1, {len(prefix)}) <> '{prefix}'" for prefix in OURS)


def _captured(
    db: apsw.Connection,
    number: int,
    system_version: int,
    work: Sequence[Callable[[apsw.Connection], None]],
    later: Sequence[Step] = (),
    *,
    last: bool = False,
) -> Part:
    """Return what `work` does as a part, and leave `db` as it was."""
    db.execute("BEGIN")
    try:
        with Capture(db, only_inserts=True) as capture:
            for one in work:
                one(db)
            capture.finish()
        return Part(number, last, (*capture.steps, *later), capture.tables, system_version)
    finally:
        db.execute("ROLLBACK")
