"""SQL on the command line: arguments in, results out."""

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from forge.cli.output import table

if TYPE_CHECKING:
    from forge.client import Result
    from schemas.values import SqlValue

BLOB_SHOWN_BYTES = 32
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_WORDS = frozenset({"null", "true", "false"})
_COMMENT = re.compile(r"--[^\n]*|/\*.*?(?:\*/|\Z)", re.DOTALL)
ARGUMENTS_HELP = (
    "ARGS fill the ? of the statement in order. One that is a number, null, true, false, text in double quotes or an "
    'object such as {"$blob": "AAE="} is that value; anything else is text. Put -- before one that begins with a dash.'
)


def arguments(given: tuple[str, ...], exact: str | None) -> Any:
    """Return the values to bind: those typed, or those of one JSON array or object."""
    from schemas.values import InvalidValue, decode

    if exact is None:
        return [argument(text) for text in given]
    if given:
        raise click.UsageError("give either ARGS or --args")
    try:
        values = json.loads(exact)
        if isinstance(values, list):
            return [decode(value) for value in values]
        if isinstance(values, dict):
            return {name: decode(value) for name, value in values.items()}
    except (ValueError, InvalidValue) as error:
        raise click.BadOptionUsage("--args", f"--args: {error}") from error
    raise click.BadOptionUsage("--args", "--args is a JSON array, or an object for named arguments")


def argument(text: str) -> "SqlValue":
    """Return the value that one argument stands for."""
    from schemas.values import InvalidValue, decode

    if not (_NUMBER.fullmatch(text) or text in _WORDS or text[:1] + text[-1:] in ('""', "{}")):
        return text
    try:
        return decode(json.loads(text))
    except (ValueError, InvalidValue):
        return text  # such as a text in braces, which is no value of ours


def read_sql(sql: str | None, file: str | None) -> str:
    """Return the SQL that was given, or that of a file (`-`: standard input)."""
    if (sql is None) == (file is None):
        raise click.UsageError("give SQL, or a file of it with -f")
    if file is None:
        return str(sql)
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadOptionUsage("--file", f"cannot read {click.format_filename(file)}: {error}") from error


def statements(script: str) -> list[str]:
    """Return the statements of a script, each with its comments; a trigger is one, whatever it holds."""
    from sqlite3 import complete_statement

    found, begin, end = [], 0, 0
    while (end := script.find(";", end) + 1) > 0:
        if complete_statement(script[begin:end]):
            found.append(script[begin:end])
            begin = end
    found.append(script[begin:])
    return [one.strip() for one in found if _COMMENT.sub("", one).strip(" \t\r\n;")]


def shown(value: "SqlValue") -> str:
    """Return a value for people."""
    match value:
        case None:
            return "NULL"
        case bytes():
            more = "..." if len(value) > BLOB_SHOWN_BYTES else ""
            return f"x'{value[:BLOB_SHOWN_BYTES].hex()}{more}'"
    return str(value)


def result_text(result: "Result") -> str:
    """Return a result for people: its rows, or what it changed."""
    if result.columns:
        rows = table(result.columns, [[shown(value) for value in row] for row in result.rows])
        return rows if result.rows else f"{rows}\n(no rows)"
    if result.kind == "write" or result.rows_affected:
        count = result.rows_affected or 0
        return f"{count} row{'' if count == 1 else 's'} changed at {result.position}"
    return f"done at {result.position}"


def result_json(result: "Result") -> dict[str, Any]:
    """Return a result for machines, in the words of the API."""
    from schemas.values import encode

    rows = [[encode(value) for value in row] for row in result.rows]
    described: dict[str, Any] = {"class": result.kind, "position": str(result.position)}
    if result.columns:
        described |= {"columns": list(result.columns), "rows": rows, "row_count": len(rows)}
    if result.kind != "read":
        last = result.last_insert_id
        described |= {"rows_affected": result.rows_affected, "last_insert_id": None if last is None else encode(last)}
    return described
