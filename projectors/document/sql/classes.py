"""Which class a statement is of, and running it if it is a read, both beside the writer."""

import time
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Final

import apsw

from projectors.document.sql.bounds import SqlBounds
from projectors.document.sql.results import Result, Results
from projectors.document.sql.sandbox import Guard, guard_of
from projectors.document.sql.statements import Prepared, Running, begin, execute, naming
from schemas.document import SqlClass, Statement
from schemas.problems import FORBIDDEN, Refusal

SQL_CHARACTERS_MAX = 4096
_WRITE: Final[frozenset[SqlClass]] = frozenset({"read", "write"})


class NotARead(Exception):
    """A statement that was to be run only if it is a read is of another `kind`."""

    def __init__(self, sql: str, kind: SqlClass) -> None:
        super().__init__(kind)
        self.sql = sql
        self.kind = kind


def execute_read(db: apsw.Connection, statement: Statement, bounds: SqlBounds, deadline: float) -> Result:
    """Run a statement on a connection of a reader; raise `NotARead`, or `Refusal` as `execute` does."""
    guard = guard_of(db)
    try:
        with guard.reading(deadline):
            return execute(db, guard, statement, bounds, can_cache=True)
    except Refusal:
        if not _needs_more(guard):
            raise
    raise NotARead(statement.sql, kind_of(db, statement, bounds, deadline))


def execute_reads(
    db: apsw.Connection, statements: Sequence[Statement], bounds: SqlBounds, *, numbered: bool
) -> Results:
    """Run statements that are all reads, within `bounds` together; refusals say which if they are `numbered`.

    Raise `NotARead` at the first that is none, or `Refusal`.
    """
    deadline = time.monotonic() + bounds.seconds
    results = Results(bounds)
    for number, statement in enumerate(statements):
        with naming(number) if numbered else nullcontext():
            results.add(execute_read(db, statement, bounds, deadline))
    return results


def begin_read(db: apsw.Connection, statement: Statement, bounds: SqlBounds, deadline: float) -> Running:
    """Begin a statement on a connection of a reader; raise `NotARead`, or `Refusal` as `begin` does."""
    guard = guard_of(db)
    try:
        with guard.reading(deadline):
            return begin(db, guard, statement, bounds)
    except Refusal:
        if not _needs_more(guard):
            raise
    raise NotARead(statement.sql, kind_of(db, statement, bounds, deadline))


def kind_of(db: apsw.Connection, statement: Statement, bounds: SqlBounds, deadline: float) -> SqlClass:
    """Return the class of a statement by preparing it; raise `Refusal` if that fails already."""
    guard = guard_of(db)
    try:
        with guard.running(_WRITE, deadline):
            begin(db, guard, statement, bounds, only_prepare=True)
    except Prepared as prepared:
        return prepared.kind
    except Refusal:
        if not _needs_more(guard):
            raise
    return "admin"


def _needs_more(guard: Guard) -> bool:
    return guard.denied is not None and guard.denied.type == FORBIDDEN.uri


class KnownClasses:
    """The classes of statements that were seen lately; a hint, since a change of the schema may change one."""

    def __init__(self, size: int = 4096) -> None:
        self._size = size
        self._kinds: OrderedDict[tuple[str, str], SqlClass] = OrderedDict()

    def find(self, db_id: str, sql: str) -> SqlClass | None:
        """Return the class that `sql` had in a document when it was last seen there."""
        kind = self._kinds.get((db_id, sql))
        if kind is not None:
            self._kinds.move_to_end((db_id, sql))
        return kind

    def note(self, db_id: str, sql: str, kind: SqlClass) -> None:
        """Remember one."""
        if len(sql) <= SQL_CHARACTERS_MAX:
            self._kinds[db_id, sql] = kind
            self._kinds.move_to_end((db_id, sql))
            if len(self._kinds) > self._size:
                self._kinds.popitem(last=False)
