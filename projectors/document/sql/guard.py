"""The guard of a connection: what a user's statement may do, how long, and what it asked for."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import MethodType, TracebackType
from typing import Self

import apsw

from projectors.document.sql.bounds import SqlBounds
from projectors.document.sql.deadlines import DEADLINES, Stopped
from projectors.document.sql.functions import FUNCTIONS
from projectors.document.sql.permissions import CLASSES, DENY, INTERNAL, OK, OURS, Permissions
from projectors.document.sql.triggers import firing, inside, never, table_of
from schemas.document import SqlClass
from schemas.problems import FORBIDDEN, SQL_NOT_ALLOWED, Problem, Refusal
from schemas.system_tables import SYSTEM_PREFIX, SYSTEM_TABLES, is_system

READ: frozenset[SqlClass] = frozenset({"read"})
WRITE: frozenset[SqlClass] = frozenset({"read", "write"})
_EVERYTHING: frozenset[SqlClass] = frozenset(CLASSES)
_FOR_EVER = float("inf")
_UNBOUNDED = 1 << 62
_SCHEMA_ACTIONS = frozenset(
    {apsw.SQLITE_CREATE_TABLE, apsw.SQLITE_CREATE_INDEX, apsw.SQLITE_CREATE_VIEW, apsw.SQLITE_CREATE_TRIGGER}
    | {apsw.SQLITE_DROP_TABLE, apsw.SQLITE_DROP_INDEX, apsw.SQLITE_DROP_VIEW, apsw.SQLITE_DROP_TRIGGER}
    | {apsw.SQLITE_CREATE_VTABLE, apsw.SQLITE_DROP_VTABLE, apsw.SQLITE_ALTER_TABLE}
)
_KEPT_NAMES = f"""
    SELECT name, sql IS NOT NULL AND instr(lower(sql), '{OURS}') FROM main.sqlite_schema
    WHERE substr(lower(name), 1, {len(OURS)}) = '{OURS}' OR instr(lower(sql), '{OURS}')
    OR (type <> 'trigger' AND (lower(name) IN ({", ".join(f"'{name}'" for name in sorted(SYSTEM_TABLES))})
                               OR substr(lower(name), 1, {len(SYSTEM_PREFIX)}) = '{SYSTEM_PREFIX}'))
"""


class Guard:
    """The authorizer of one connection, and the bounds of what users run on it. Unless told otherwise it trusts.

    One statement runs inside of each `with guard.reading(...)` or `with guard.running(...)`. Where trusted code runs
    too, prepare those of users with `can_cache=False`, so that none prepared in one mode is run in the other. What the
    statement asked for can be read in there and afterwards, until the next one.
    """

    def __init__(self, db: apsw.Connection, bounds: SqlBounds) -> None:
        self._db = db
        self._bounds = bounds
        self._user: Permissions | None = None
        self._triggered: Permissions | None = None
        self._trying: str | None = None  # the one trigger that `_triggered` is about, if it is
        self._next = READ
        self._names: frozenset[str] | None = None  # None: to be looked up, Forge has changed the schema
        self._names_before: frozenset[str] = frozenset()
        self._said = Permissions(READ, bounds.function_calls)
        self._calls = bounds.full_calls
        self.deadline = _FOR_EVER
        self.memory_max = _UNBOUNDED
        self.abandoned = False
        self.stopped: Stopped | None = None
        db.authorizer = self._authorize

    @property
    def kind(self) -> SqlClass:
        """The highest class that anything in the statement needed."""
        return self._said.kind

    @property
    def tables(self) -> set[str]:
        """The tables and views that it reads, in lower case, virtual ones without their shadow tables."""
        return self._said.tables

    @property
    def whole(self) -> bool:
        """Whether it looks at more than `tables`: at the schema or the state of the file, by a PRAGMA."""
        return self._said.whole

    @property
    def ddl(self) -> Sequence[tuple[str, str]]:
        """How it changes the schema: (action, name), the action as SQLite names it (`CREATE_TABLE`)."""
        return self._said.ddl

    @property
    def denied(self) -> Problem | None:
        """Why the statement may not run, if that is so."""
        return self._said.denied

    def reading(self, deadline: float) -> Self:
        """Return a context in which a statement may only read, until `deadline` (of `time.monotonic`)."""
        return self.running(READ, deadline)

    def running(self, classes: Sequence[SqlClass] | frozenset[SqlClass], deadline: float) -> Self:
        """Return a context in which a statement of a user may do what `classes` say, until `deadline`.

        Leaving it raises `Refusal` if only the outcome shows that the statement was not allowed: undo it then.
        """
        self._next = READ if classes is READ else frozenset(classes)
        self.deadline = deadline
        return self

    def __enter__(self) -> Self:
        assert self._user is None, "statements of users do not nest"
        if "admin" in self._next:
            if self._names is None:
                self._names = self._kept_names()
            self._names_before = self._names
        self._user = self._said = Permissions(self._next, self._bounds.function_calls)
        self._begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        DEADLINES.remove(self)
        self._user = None
        if self._calls > self._bounds.full_calls:
            self._lengthen()
        if kind is None:
            self._check_outcome()

    @property
    def seconds(self) -> float:
        """How long a statement may take."""
        return self._bounds.seconds

    @contextmanager
    def limited(self, deadline: float) -> Iterator[None]:
        """Let trusted code run that makes triggers of users run, until `deadline` (of `time.monotonic`).

        What they do they may do as statements of users who can write.
        """
        self.deadline = deadline
        self._said = self._triggered = Permissions(WRITE, self._bounds.function_calls)
        self._begin()
        try:
            yield
        finally:
            self._triggered = None
            DEADLINES.remove(self)

    def forget(self) -> None:
        """Forget what the last statement of a user asked for, and what it was refused for."""
        self._said = Permissions(READ, self._bounds.function_calls)
        self.stopped = None

    def _begin(self) -> None:
        self.memory_max = apsw.memory_used() + self._bounds.temp_bytes
        self.stopped = None
        DEADLINES.add(self)

    @contextmanager
    def trusted(self) -> Iterator[None]:
        """Let trusted code run in the midst of a user's statement; the deadline holds for it too."""
        user, self._user = self._user, None
        try:
            yield
        finally:
            self._user = user

    def abandon(self) -> None:
        """End what runs, and whatever begins after it: SQLite forgets an interrupt that finds nothing to end."""
        self.abandoned = True
        self._db.interrupt()

    def interrupt(self) -> None:
        """End what runs on the connection now."""
        self._db.interrupt()

    def _authorize(self, action: int, first: str | None, second: str | None, schema: str | None, by: str | None) -> int:
        user = self._user
        if user is not None:
            if self.stopped is not None:
                return DENY
            answer = _decide(user, action, first, second, schema, by)
            if user.calls > self._calls:
                self._calls = user.calls
                self._shorten()
            return answer
        if action in _SCHEMA_ACTIONS:
            self._names = None
        if by is not None and self._triggered is not None:  # here it can only forbid, whoever may spoof it
            if self._trying is not None and by != self._trying:
                return OK
            return _decide(self._triggered, action, first, second, schema, by)
        # Triggers of users do not run when other trusted code writes.
        if by is not None and action == apsw.SQLITE_FUNCTION and second is not None:
            name = second.lower()
            return OK if name in FUNCTIONS or name.startswith(INTERNAL) else DENY
        return OK

    def _shorten(self) -> None:
        """Let values be the shorter the more functions are called: SQLite is not interrupted between two of a row."""
        self._db.limit(apsw.SQLITE_LIMIT_LENGTH, self._bounds.value_bytes * self._bounds.full_calls // self._calls)

    def _lengthen(self) -> None:
        self._calls = self._bounds.full_calls
        self._db.limit(apsw.SQLITE_LIMIT_LENGTH, self._bounds.value_bytes)
        self._db.cache_flush()  # found there, the statement would not be looked at again

    def _kept_names(self) -> frozenset[str]:
        return frozenset(f"{name} {mentions}".lower() for name, mentions in self._db.execute(_KEPT_NAMES))

    def _check_outcome(self) -> None:
        said = self._said
        if said.kind == "read" and "read" not in self._next:
            why = "the statement needs query.read, which the token does not have"
            raise Refusal(FORBIDDEN.problem(why, fix="Use a token that has the scope query.read."))
        if said.clears_statistics and not any(action in ("DROP_TABLE", "ANALYZE") for action, _ in said.ddl):
            raise Refusal(
                SQL_NOT_ALLOWED.problem("writing the statistics of SQLite is not allowed", fix="Use ANALYZE.")
            )
        if not said.ddl:
            return
        if found := self._kept_names() - self._names_before:
            name = min(found).rsplit(" ", 1)[0]
            why = f"{name} is, or mentions, a name that is kept for Forge: {OURS}... or that of a system table"
            raise Refusal(SQL_NOT_ALLOWED.problem(why, fix="Choose other names."))
        for action, name in said.ddl:
            if action == "CREATE_TRIGGER" and (on := table_of(self._db, name)) is not None:
                self._try_trigger(name, on)
        for table in said.altered & SYSTEM_TABLES:
            if next(iter(self._db.execute("SELECT 1 FROM pragma_foreign_key_list(?)", (table,))), None):
                raise Refusal(SQL_NOT_ALLOWED.problem(f"a foreign key from {table} is not allowed"))

    def _try_trigger(self, name: str, table: str) -> None:
        """Refuse a trigger that does what no statement that fires it may do; what is merely missing may still come."""
        tried = Permissions(WRITE if is_system(table) else _EVERYTHING, self._bounds.function_calls)
        self._triggered, self._trying = tried, name
        try:
            for statement in firing(self._db, table):
                with suppress(apsw.Error):
                    self._db.execute(statement, can_cache=False).fetchall()
        finally:
            self._triggered = self._trying = None
        if tried.denied is not None:
            raise never(tried.denied, table)


def _decide(
    asked: Permissions, action: int, first: str | None, second: str | None, schema: str | None, by: str | None
) -> int:
    """Ask, and have the first refusal say inside of what it is."""
    before = asked.denied
    answer = asked.decide(action, first, second, schema)
    if by is not None and before is None and asked.denied is not None:
        asked.denied = inside(asked.denied, action, by)
    return answer


def guard_of(db: apsw.Connection) -> Guard:
    """Return the guard that `configure_reader` or `configure_writer` put on `db`."""
    authorizer = db.authorizer
    assert isinstance(authorizer, MethodType)
    guard = authorizer.__self__
    assert isinstance(guard, Guard)
    return guard
