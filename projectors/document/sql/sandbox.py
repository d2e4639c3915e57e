"""What stands between SQL of users and everything but their own document: settings, limits, guard, and what is said."""

import re

import apsw

from projectors.document.sql.bounds import SqlBounds
from projectors.document.sql.functions import install
from projectors.document.sql.guard import Guard, guard_of
from schemas.problems import (
    CONSTRAINT,
    INVALID_SQL,
    NO_SYSTEM_TABLE,
    QUERY_TIMEOUT,
    QUERY_TOO_LARGE,
    SQL_NOT_ALLOWED,
    UNAVAILABLE,
    UNPROCESSABLE,
    Problem,
    ProblemType,
    Refusal,
)
from schemas.system_tables import is_system

__all__ = ["Guard", "configure_reader", "configure_writer", "explain", "guard_of"]

_NOT_AUTHORIZED = "not authorized"  # said as of a wrong statement where a function was refused
_NO_TABLE = re.compile(r"no such table: (?:main\.)?(\w+)$")
_SETTINGS = (
    (apsw.SQLITE_DBCONFIG_DEFENSIVE, 1),
    (apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0),
    (apsw.SQLITE_DBCONFIG_WRITABLE_SCHEMA, 0),
    (apsw.SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0),
    (apsw.SQLITE_DBCONFIG_ENABLE_FTS3_TOKENIZER, 0),
    (apsw.SQLITE_DBCONFIG_ENABLE_ATTACH_CREATE, 0),
    (apsw.SQLITE_DBCONFIG_ENABLE_ATTACH_WRITE, 0),
    (apsw.SQLITE_DBCONFIG_DQS_DDL, 0),
    (apsw.SQLITE_DBCONFIG_DQS_DML, 0),
    (apsw.SQLITE_DBCONFIG_LEGACY_ALTER_TABLE, 0),
)
_PROBLEMS: tuple[tuple[type[Exception], ProblemType], ...] = (
    (apsw.InterruptError, UNAVAILABLE),
    (MemoryError, QUERY_TOO_LARGE),
    (apsw.TooBigError, QUERY_TOO_LARGE),
    (apsw.ConstraintError, CONSTRAINT),
    (apsw.MismatchError, CONSTRAINT),
    (apsw.AuthError, SQL_NOT_ALLOWED),
    (apsw.ReadOnlyError, SQL_NOT_ALLOWED),
    (apsw.BusyError, UNAVAILABLE),
    (apsw.LockedError, UNAVAILABLE),
    (apsw.SchemaChangeError, UNAVAILABLE),
)


def configure_reader(db: apsw.Connection, bounds: SqlBounds) -> Guard:
    """Prepare a read-only connection to a document for SQL of users; return its guard."""
    db.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
    for _ in db.execute("PRAGMA query_only=1"):
        pass
    return _configure(db, bounds)


def configure_writer(db: apsw.Connection, bounds: SqlBounds) -> Guard:
    """Prepare the writing connection of a document, which trusted code and users share; return its guard."""
    db.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 1)
    db.config(apsw.SQLITE_DBCONFIG_ENABLE_FKEY, 1)
    return _configure(db, bounds)


def _configure(db: apsw.Connection, bounds: SqlBounds) -> Guard:
    apsw.hard_heap_limit(bounds.heap_bytes)
    for setting, value in _SETTINGS:
        db.config(setting, value)
    for limit, most in (
        (apsw.SQLITE_LIMIT_LENGTH, bounds.value_bytes),
        (apsw.SQLITE_LIMIT_SQL_LENGTH, bounds.sql_bytes),
        (apsw.SQLITE_LIMIT_EXPR_DEPTH, bounds.expression_depth),
        (apsw.SQLITE_LIMIT_COMPOUND_SELECT, bounds.compound_selects),
        (apsw.SQLITE_LIMIT_VDBE_OP, bounds.vdbe_ops),
        (apsw.SQLITE_LIMIT_FUNCTION_ARG, 127),
        (apsw.SQLITE_LIMIT_ATTACHED, 0),
        (apsw.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, bounds.pattern_bytes),
        (apsw.SQLITE_LIMIT_VARIABLE_NUMBER, bounds.arguments),
        (apsw.SQLITE_LIMIT_WORKER_THREADS, 0),
    ):
        db.limit(limit, most)
    pragmas = f"temp_store=MEMORY; PRAGMA cache_size=-{bounds.cache_bytes >> 10}; PRAGMA cell_size_check=1"
    for _ in db.execute(f"PRAGMA {pragmas}; PRAGMA mmap_size=0"):
        pass  # statements that answer rows run only as far as they are read
    install(db, bounds)
    return Guard(db, bounds)


def explain(error: Exception, guard: Guard) -> Refusal:
    """Return what to answer for an error of a user's statement; raise `error` itself if no statement can cause it."""
    if isinstance(error, Refusal):
        return error
    if guard.denied is not None:
        return Refusal(guard.denied)
    if guard.stopped is not None and (
        isinstance(error, apsw.InterruptError | apsw.AuthError) or _NOT_AUTHORIZED in str(error)
    ):
        return Refusal(_stopped(guard))
    if isinstance(error, apsw.SQLError):
        return Refusal(_invalid(error))
    if isinstance(error, UnicodeDecodeError):
        return Refusal(UNPROCESSABLE.problem("a text is not UTF-8", fix="Take it with CAST(column AS BLOB)."))
    if isinstance(error, apsw.CorruptError) and getattr(error, "extendedresult", 0) == apsw.SQLITE_CORRUPT_VTAB:
        return Refusal(UNPROCESSABLE.problem("a full-text index does not fit its content", fix="Rebuild the index."))
    if isinstance(error, apsw.NoMemError):  # what SQLite says of too many steps, too
        return Refusal(QUERY_TOO_LARGE.problem("the statement needs too much memory, or is too long"))
    for kind, problem in _PROBLEMS:
        if isinstance(error, kind):
            return Refusal(problem.problem(str(error) or problem.title))
    raise error


def _stopped(guard: Guard) -> Problem:
    if guard.stopped == "memory":
        return QUERY_TOO_LARGE.problem("the statement took too much memory and was stopped")
    return QUERY_TIMEOUT.problem("its time was over")


def _invalid(error: apsw.SQLError) -> Problem:
    said = str(error)
    if "VACUUM" in said:
        return SQL_NOT_ALLOWED.problem("VACUUM is not allowed")
    if (missing := _NO_TABLE.search(said)) and is_system(missing[1]):
        return NO_SYSTEM_TABLE.problem(said, field="sql")
    at = getattr(error, "error_offset", -1)
    return INVALID_SQL.problem(f"{said} (at byte {at})" if at > 0 else said, field="sql")
