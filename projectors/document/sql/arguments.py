"""The arguments of a statement: decoded, and checked against the parameters that it has."""

import re
from typing import Any

import apsw

from projectors.document.sql.bounds import SqlBounds
from schemas.document import Statement
from schemas.problems import INVALID_ARGUMENTS, INVALID_SQL, Refusal
from schemas.values import InvalidValue, SqlValue, decode

_COUNTS = re.compile(r"uses (\d+) and there are (\d+) supplied")

Arguments = tuple[SqlValue, ...] | dict[str, SqlValue]


def bind(statement: Statement, bounds: SqlBounds) -> Arguments:
    """Return the arguments as SQLite takes them; raise `Refusal` (400) for what can be none."""
    sql, args = statement.sql, statement.args
    if len(sql) > bounds.sql_bytes or (not sql.isascii() and len(sql.encode()) > bounds.sql_bytes):
        raise Refusal(INVALID_SQL.problem(f"a statement has at most {bounds.sql_bytes} bytes", field="sql"))
    if "\0" in sql:
        raise Refusal(INVALID_SQL.problem("a statement holds no NUL character", field="sql"))
    if len(args) > bounds.arguments:
        why = f"a statement takes at most {bounds.arguments} arguments, not {len(args)}"
        raise Refusal(INVALID_ARGUMENTS.problem(why, field="args"))
    if isinstance(args, dict):
        return {name: _argument(name, value) for name, value in args.items()}
    return tuple(_argument(number, value) for number, value in enumerate(args))


def _argument(name: object, value: Any) -> SqlValue:
    if type(value) is str or value is None:
        return value
    try:
        return decode(value)
    except InvalidValue as error:
        raise Refusal(INVALID_ARGUMENTS.problem(f"args.{name}: {error}", field=f"args.{name}")) from error


def require_used(cursor: apsw.Cursor, arguments: Arguments) -> None:
    """Refuse arguments (400) that the statement prepared on `cursor` has no parameters for."""
    if isinstance(arguments, dict):
        if unknown := arguments.keys() - set(cursor.bindings_names):
            why = f"the statement has no parameter named {', '.join(sorted(unknown))}"
            fix = "Name arguments without the sign before them: `:id`, `@id` and `$id` are all `id`."
            raise Refusal(INVALID_ARGUMENTS.problem(why, fix=fix, field="args"))
    elif cursor.bindings_count != len(arguments):
        raise Refusal(INVALID_ARGUMENTS.problem(_counted(cursor.bindings_count, len(arguments)), field="args"))


def why_unbound(error: Exception) -> str:
    """Return what was wrong with the arguments when they could not be bound."""
    if isinstance(error, KeyError):
        return f"no argument is named {error.args[0]}"
    if found := _COUNTS.search(str(error)):
        return _counted(int(found[1]), int(found[2]))
    return "the statement has parameters without a name: send the arguments as an array"


def _counted(takes: int, given: int) -> str:
    return f"the statement takes {takes} argument{'s' if takes != 1 else ''}, {given} came"
