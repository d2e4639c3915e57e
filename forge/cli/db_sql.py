"""`forge db sql`, `batch` and `watch`: run SQL in a document, once or whenever its result changes."""

import json
from typing import TYPE_CHECKING, Any

import click

from forge.cli.db_name import DOCUMENT
from forge.cli.db_values import ARGUMENTS_HELP, arguments, read_sql, result_json, result_text, shown, statements
from forge.cli.fence_option import fence_option
from forge.cli.moment import Moment
from forge.cli.node_call import ask_node
from forge.cli.options import invocation, json_option, node_options
from forge.cli.output import emit, emit_line, table

if TYPE_CHECKING:
    from forge.client import ForgeClient, Result, Watched
    from schemas.fences import Fence

FILE_HELP = "Read the SQL from FILE, - for standard input."
ARGS_HELP = "The arguments as a JSON array, or an object for named ones."
AT_HELP = "Read the past: a position, 12:30 of today, or 2026-01-31T12:30."


@click.command(epilog=ARGUMENTS_HELP)
@click.argument("name", type=DOCUMENT)
@click.argument("statement", metavar="[SQL]", required=False)
@click.argument("args", nargs=-1)
@click.option("-f", "--file", metavar="FILE", help=FILE_HELP)
@click.option("--args", "exact", metavar="JSON", help=ARGS_HELP)
@click.option("--at", type=Moment(), metavar="MOMENT", help=AT_HELP)
@fence_option
@click.option("--stream", is_flag=True, help="Print rows as they come, however many, each a JSON array on a line.")
@node_options
@json_option
def sql(
    name: str,
    statement: str | None,
    args: tuple[str, ...],
    file: str | None,
    exact: str | None,
    at: str | None,
    fences: "tuple[Fence, ...]",
    stream: bool,
) -> None:
    """Run SQL in the document NAME and print what it answers.

    A file with several statements is run as `forge db batch` does.
    """
    found = statements(read_sql(statement, file)) if file else [read_sql(statement, file)]
    if len(found) > 1:
        if args or exact or stream:
            raise click.UsageError(f"the file has {len(found)} statements, and only one can have arguments or a stream")
        return _run_all(name, [{"sql": one} for one in found], at, fences)
    if not found:
        raise click.UsageError("the file holds no statement")
    values = arguments(args, exact)
    if stream:
        if fences:
            raise click.UsageError("a stream only reads: it rests on no fence")
        return _stream(name, found[0], values, at)
    result = ask_node(lambda client: client.db(name).exec(found[0], values, at=at, fences=fences))
    emit(result_json(result), result_text(result), as_json=invocation().json)


@click.command()
@click.argument("name", type=DOCUMENT)
@click.argument("file", metavar="FILE")
@click.option("--at", type=Moment(), metavar="MOMENT", help=AT_HELP)
@fence_option
@node_options
@json_option
def batch(name: str, file: str, at: str | None, fences: "tuple[Fence, ...]") -> None:
    """Run the statements of FILE (- for standard input) in the document NAME, all or none.

    FILE holds SQL, or a JSON array of objects with sql, args, and expect, which says what a statement must do:
    {"rows_affected": 1} or {"row_count": 1}.
    """
    text = read_sql(None, file)
    found = _listed(text) if text.lstrip().startswith("[") else [{"sql": one} for one in statements(text)]
    _run_all(name, found, at, fences)


def _listed(text: str) -> list[dict[str, Any]]:
    from schemas.values import InvalidValue, decode

    try:
        found = [dict(one) for one in json.loads(text)]
        for one in found:
            match one.get("args"):
                case list() as values:
                    one["args"] = [decode(value) for value in values]
                case dict() as values:
                    one["args"] = {name: decode(value) for name, value in values.items()}
    except (ValueError, TypeError, InvalidValue) as error:
        raise click.UsageError(f"the file is no JSON array of statements: {error}") from error
    return found


def _run_all(name: str, found: list[dict[str, Any]], at: str | None, fences: "tuple[Fence, ...]") -> None:
    if not found:
        raise click.UsageError("there is no statement")

    async def run(client: "ForgeClient") -> list["Result"]:
        return await client.db(name).batch(found, at=at, fences=fences)

    results = ask_node(run)
    text = "\n\n".join(result_text(result) for result in results)
    emit([result_json(result) for result in results], text, as_json=invocation().json)


def _stream(name: str, statement: str, values: Any, at: str | None) -> None:
    async def run(client: "ForgeClient") -> None:
        from schemas.values import encode

        async for row in client.db(name).rows(statement, values, at=at):
            click.echo(json.dumps([encode(value) for value in row]))

    ask_node(run)


@click.command(epilog=ARGUMENTS_HELP)
@click.argument("name", type=DOCUMENT)
@click.argument("statement", metavar="SQL")
@click.argument("args", nargs=-1)
@click.option("--args", "exact", metavar="JSON", help=ARGS_HELP)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Stop after N results.")
@node_options
@json_option
def watch(name: str, statement: str, args: tuple[str, ...], exact: str | None, limit: int | None) -> None:
    """Print what SQL reads in the document NAME, and again whenever that changes, until stopped.

    A node that stops or cannot be reached is waited for.
    """
    values = arguments(args, exact)

    async def run(client: "ForgeClient") -> None:
        count = 0
        async for watched in client.db(name).watch(statement, values):
            _print_watched(watched)
            count += 1
            if count == limit:
                return

    ask_node(run)


def _print_watched(watched: "Watched") -> None:
    from schemas.values import encode

    rows = [[encode(value) for value in row] for row in watched.rows]
    line = {"position": str(watched.position), "columns": watched.columns, "rows": rows, "hash": watched.result_hash}
    text = table(watched.columns, [[shown(value) for value in row] for row in watched.rows])
    emit_line(line, f"-- at {watched.position}\n{text}", as_json=invocation().json)
