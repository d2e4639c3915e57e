"""`forge db changes` and `log`: what happened to a document."""

from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from forge.cli.db_name import DOCUMENT
from forge.cli.node_call import ask_node
from forge.cli.options import invocation, json_option, node_options
from forge.cli.output import emit, emit_line, table

if TYPE_CHECKING:
    from forge.client import Document, ForgeClient
    from schemas.changes import Change, ChangesPage, RowChange, SchemaChange
    from schemas.ids import Position

BEGINNING = "1.0"
PAGE_COMMITS = 500
SQL_SHOWN = 60


class PositionText(click.ParamType[str]):
    """A position such as 1.42; 0 is the beginning."""

    name = "position"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the position as the API takes it."""
        from schemas.ids import InvalidId, Position

        try:
            return BEGINNING if str(value) == "0" else str(Position.parse(str(value)))
        except InvalidId as error:
            self.fail(str(error), param, ctx)


@click.command()
@click.argument("name", type=DOCUMENT)
@click.option(
    "--after", type=PositionText(), metavar="POSITION", help="Begin after it, 0 for all there are; else from now on."
)
@click.option("--table", "tables", multiple=True, metavar="TABLE", help="Only rows of this table; may be repeated.")
@click.option("--once", is_flag=True, help="Stop at the present end.")
@node_options
@json_option
def changes(name: str, after: str | None, tables: tuple[str, ...], once: bool) -> None:
    """Print every changed row of the document NAME as it is committed, until stopped.

    To go on where an earlier call ended, give the last position it printed to --after. A node that stops or cannot
    be reached is waited for.
    """
    if once and after is None:
        raise click.UsageError("--once needs --after: where to begin")

    async def run(client: "ForgeClient") -> None:
        from schemas.ids import Position

        start = Position.parse(after) if after else None
        document = client.db(name)
        source = pages(document, start, tables) if once and start else document.changes(after=start, tables=tables)
        async for change in source:
            emit_line(_json(change), change_text(change), as_json=invocation().json)

    ask_node(run)


async def pages(document: "Document", after: "Position", tables: tuple[str, ...]) -> "AsyncIterator[Change]":
    """Yield the commits after `after` up to the present end."""
    from schemas.ids import Position

    while True:
        page = await document.log(after=after, tables=tables, limit=PAGE_COMMITS, rows=True)
        for change in page.changes:
            yield change
        after = Position.parse(page.next)
        if page.eof:
            return


@click.command()
@click.argument("name", type=DOCUMENT)
@click.option("--limit", type=click.IntRange(1, PAGE_COMMITS), default=20, show_default=True, help="So many commits.")
@click.option("--before", type=PositionText(), metavar="POSITION", help="Only commits before it.")
@node_options
@json_option
def log(name: str, limit: int, before: str | None) -> None:
    """Tell who changed the document NAME, when, and how, newest first."""

    async def run(client: "ForgeClient") -> "ChangesPage":
        from schemas.ids import Position

        return await client.db(name).log(before=Position.parse(before) if before else None, limit=limit)

    page = ask_node(run)
    rows = [(one.position, _second(one.time), one.principal, _what(one)) for one in page.changes if not one.part]
    text = table(("POSITION", "TIME", "WHO", "WHAT"), rows) if rows else "nothing has been changed yet"
    emit(page, text, as_json=invocation().json)


def change_text(change: "Change") -> str:
    """Return a commit, or a part of it, for people: a line for itself and one for each row."""
    head = f"{change.position}  {_second(change.time)}  {change.principal}"
    return "\n".join([head, *(f"  {_row_text(row)}" for row in change.changes or ())])


def _row_text(row: "RowChange | SchemaChange") -> str:
    if row.op == "ddl":
        return f"ddl     {_line(row.sql)}"
    said = _values(row.new or {}) if row.op == "insert" else _values(row.key)
    if row.op == "update":
        old, new = row.old or {}, row.new or {}
        said += ": " + ", ".join(f"{name} {_value(old.get(name))} -> {_value(new[name])}" for name in new)
    return f"{row.op}  {row.table}  {'not UTF-8' if row.unreadable else said}"


def _what(change: "Change") -> str:
    """Return what a commit did in a few words: its statements, else its tables."""
    ran = [_line(one.sql) + (f" x {one.times}" if one.times > 1 else "") for one in change.statements]
    said = "; ".join(ran[:3]) + (f"; and {len(ran) - 3} more" if len(ran) > 3 else "")
    return said or f"{change.kind} {', '.join(change.tables)}".strip()


def _json(change: "Change") -> dict[str, Any]:
    return change.model_dump(mode="json")


def _values(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_value(value)}" for name, value in values.items())


def _value(value: Any) -> str:
    from forge.cli.db_values import shown
    from schemas.values import decode

    return repr(value) if isinstance(value, str) else shown(decode(value))


def _line(sql: str) -> str:
    text = " ".join(sql.split())
    return text if len(text) <= SQL_SHOWN else text[: SQL_SHOWN - 3] + "..."


def _second(instant: str) -> str:
    return instant[:19] + "Z"
