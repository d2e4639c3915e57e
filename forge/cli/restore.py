"""`forge restore`: bring a machine, or one document of the past, back from the object store."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from forge.cli.errors import CliError, ExitCode, stopped_by_hand
from forge.cli.log import with_log
from forge.cli.moment import Moment
from forge.cli.options import data_dir_option, invocation, json_option
from forge.cli.output import duration_text, emit, size_text, table
from forge.cli.restore_past import WHAT, restored_past
from forge.cli.store_errors import no_store, store_errors

if TYPE_CHECKING:  # the log's libraries take longer to import than `forge --help` may take
    from forge.log_access import LogAccess
    from forge.restore.machine import Restored

GIB = 1 << 30


@click.command()
@click.argument("name", required=False)
@click.option("--at", type=Moment(), metavar="MOMENT", help="As it was then: a position, 12:30, 2026-01-31T12:30.")
@click.option("--to", type=click.Path(dir_okay=False), metavar="FILE", help="Make NAME a SQLite file here.")
@click.option("--payloads", is_flag=True, help="Bring all payloads too; else those that unfinished jobs need.")
@data_dir_option
@json_option
def restore(name: str | None, at: str | None, to: str | None, payloads: bool) -> None:
    """Bring everything back that is archived, into the data directory.

    Nothing newer is replaced by older: what is of another history is kept under a name that says so. Stop the node
    first. Killed, it goes on when it is run again.

    With NAME and --to, only the document NAME is made, as a file of its own; no node is needed, and none is changed.
    NAME may be another projection too, such as vector/embeddings.
    """
    if name is not None and to is not None:
        past = restored_past(name, at, Path(to))
        text = (
            f"{past.projection} at {past.position}, written {past.time}, is {past.path} ({size_text(past.size_bytes)})"
        )
        emit(past, text, as_json=invocation().json)
        return
    if name is not None or at is not None or to is not None:
        raise click.UsageError("one document of the past needs both NAME and --to FILE; without them all is restored")
    restored = _machine(payloads)
    emit(_json(restored), _text(restored), as_json=invocation().json)
    if bad := [outcome for outcome in restored.partitions if outcome.problem]:
        raise CliError(
            WHAT,
            f"{bad[0].partition}: {bad[0].problem}",
            "the others are restored; mend what the reason names and run it again",
            "docs/restore.md",
            ExitCode.DATA_FAULT,
        )


def _machine(payloads: bool) -> "Restored":
    async def run(access: "LogAccess") -> "Restored":
        from events.payload_errors import PayloadStoreError
        from forge.restore.machine import NothingArchived, restore_machine
        from forge.restore.progress import shown

        if access.archive is None:
            raise no_store(WHAT)
        try:
            with shown() as watch:
                settings = invocation().settings()
                return await restore_machine(access, access.archive, settings, payloads=payloads, watch=watch)
        except NothingArchived as error:
            near = ", ".join(error.neighbours)
            fix = f"correct FORGE_S3_PREFIX; beside it is: {near}" if near else "correct FORGE_S3_BUCKET: it is empty"
            raise CliError(WHAT, str(error), fix, "docs/restore.md", ExitCode.NOT_FOUND) from error
        except PayloadStoreError as error:
            fix = "see that FORGE_CACHE_DIR can be written and has space, and run it again: it goes on"
            raise CliError(WHAT, str(error), fix, "docs/restore.md") from error

    fix = "run it again: it goes on where it was, and nothing newer was replaced by older"
    with stopped_by_hand(WHAT, fix, "docs/restore.md"), store_errors(WHAT):
        found: Restored = with_log(run, exclusive=True)
        return found


def _json(restored: "Restored") -> dict[str, Any]:
    size = restored.size_bytes
    return {
        "archive": restored.archive,
        "newest": restored.newest or None,
        "partitions": [asdict(outcome) for outcome in restored.partitions],
        "payloads": asdict(restored.payloads),
        "restored_bytes": size,
        "seconds": round(restored.seconds, 3),
        "seconds_per_gib": round(restored.seconds * GIB / size, 3) if size else None,
    }


def _text(restored: "Restored") -> str:
    rows = [
        (outcome.partition, outcome.position or "?", outcome.time or "-", size_text(outcome.size_bytes), outcome.done)
        for outcome in restored.partitions
    ]
    lines = [
        f"archive  {restored.archive}",
        "",
        table(("PARTITION", "POSITION", "WRITTEN", "SIZE", "RESULT"), rows),
        "",
    ]
    lines += [f"kept     {path}" for outcome in restored.partitions for path in outcome.aside]
    if (payloads := restored.payloads) and (payloads.fetched or payloads.missing):
        lines.append(f"payloads {payloads.fetched} brought, {payloads.missing} are not in the archive")
    changed = len(restored.changed)
    lines.append(
        f"took     {duration_text(restored.seconds)} for {changed} partitions, {size_text(restored.size_bytes)}"
    )
    if restored.newest:
        lines.append(f"reaches  {restored.newest}: what was written later and not archived is lost")
    return "\n".join(lines)
