"""`forge replicate drill`: prove that the archive can be restored."""

import asyncio
import random
from typing import TYPE_CHECKING

import click

from forge.cli.errors import CliError, ExitCode, stopped_by_hand
from forge.cli.log_failures import log_failures
from forge.cli.options import data_dir_option, invocation, json_option
from forge.cli.output import duration_text, emit, size_text, table
from forge.cli.projection_name import projection_name
from forge.cli.store_errors import no_store, store_errors

if TYPE_CHECKING:  # the log's libraries take longer to import than `forge --help` may take
    from schemas.drill import DrillResult

WHAT = "forge replicate drill"
MORE = "docs/runbooks/while-it-runs.md"


@click.command()
@click.argument("names", nargs=-1)
@click.option("--sample", type=click.IntRange(0), metavar="N", help="Of the documents only N, picked at random.")
@data_dir_option
@json_option
def drill(names: tuple[str, ...], sample: int | None) -> None:
    """Restore projections from the archive into a scratch folder and compare them.

    NAMES are documents, or projections such as control and vector/queue (default: all that is archived). Runs beside a
    node, whose databases are compared with, or without one. Changes nothing; ends with 7 if anything is red.
    """
    fix = "run it again; what was drilled is kept in the archive, and the scratch folder is gone"
    with stopped_by_hand(WHAT, fix, MORE), store_errors(WHAT), log_failures(WHAT):
        results = asyncio.run(_drill([projection_name(name) for name in names], sample))
    rows = [
        (
            one.projection,
            "green" if one.green else "red",
            one.at,
            one.position or "-",
            one.generation or "-",
            size_text(one.size_bytes),
            duration_text(one.seconds),
        )
        for one in results
    ]
    head = ("PROJECTION", "RESULT", "AT", "POSITION", "FROM", "SIZE", "TOOK")
    emit(results, table(head, rows), as_json=invocation().json)
    if bad := [one for one in results if not one.green]:
        fix = "make a generation now (`forge replicate generation`), and drill again; see the runbook"
        raise CliError(WHAT, f"{bad[0].projection}: {bad[0].reason}", fix, MORE, ExitCode.DATA_FAULT)


async def _drill(names: list[str], sample: int | None) -> "list[DrillResult]":
    from forge.archive_access import archive_access
    from forge.restore.drill import NotDrilled
    from forge.restore.drilling import NoSuchProjection, drill_each, everything
    from schemas.ids import InvalidId

    settings = invocation().settings()
    async with archive_access(settings) as archive:
        if archive is None:
            raise no_store(WHAT)
        wanted = names or await everything(archive, settings, sample, random.Random())
        if not wanted:  # green would say that it can be restored
            fix = "correct FORGE_S3_BUCKET and FORGE_S3_PREFIX; `forge replicate status` says what a node has archived"
            raise CliError(WHAT, f"nothing is archived in {archive.name}", fix, MORE, ExitCode.NOT_FOUND)
        try:
            return [result async for result in drill_each(archive, settings, wanted)]
        except (NoSuchProjection, InvalidId) as error:
            fix = "NAMES are documents, or control, vector/queue, vector/embeddings"
            raise CliError(WHAT, f"there is no projection {error}", fix, MORE, ExitCode.NOT_FOUND) from error
        except NotDrilled as error:
            raise CliError(WHAT, str(error), "check the name and FORGE_S3_PREFIX", MORE, ExitCode.NOT_FOUND) from error
