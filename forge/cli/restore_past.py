"""`forge restore NAME --to FILE`: one document, or another projection, as it was at a moment."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from forge.cli.errors import CliError, ExitCode, stopped_by_hand
from forge.cli.log_failures import log_failures
from forge.cli.options import invocation
from forge.cli.projection_name import projection_name
from forge.cli.store_errors import no_store, store_errors

if TYPE_CHECKING:  # the log's libraries take longer to import than `forge --help` may take
    from forge.restore.past import Past

WHAT = "forge restore"
MORE = "docs/restore.md"


def restored_past(name: str, at: str | None, target: Path) -> "Past":
    """Make the file `target` of what is called `name`, as it was at `at`, which `Moment` has read."""
    with stopped_by_hand(WHAT, "run it again; nothing was made", MORE), store_errors(WHAT), log_failures(WHAT):
        return asyncio.run(_make(name, at, target))


async def _make(name: str, at: str | None, target: Path) -> "Past":
    import apsw

    from forge.archive_access import archive_access
    from forge.domains import projection_named
    from forge.restore.past import NotInArchive, find, make
    from forge.restore.progress import shown
    from projectors.threads import Threads
    from schemas.ids import InvalidId, Position

    settings = invocation().settings()
    try:
        found = projection_named(settings, projection_name(name))
    except InvalidId as error:
        raise CliError(WHAT, str(error), "check the name", MORE, ExitCode.USAGE) from error
    if found is None:
        fix = "NAME is a document, or control, vector/queue, vector/embeddings"
        raise CliError(WHAT, f"there is no projection {name}", fix, MORE, ExitCode.NOT_FOUND)
    domain, partition, spec = found
    moment = Position.parse(at) if at is not None and _is_position(at) else at
    async with archive_access(settings) as archive:
        if archive is None:
            raise no_store(WHAT)
        try:
            with Threads(1, "restore") as threads, shown() as watch:
                end = await find(archive, partition, moment)
                progress = watch.started(partition, end.position)
                return await make(archive, threads, domain, partition, spec, end, target, progress=progress)
        except NotInArchive as error:
            fix = (
                "check the name and FORGE_S3_PREFIX"
                if error.missing
                else "choose a moment of its history, or leave --at"
            )
            raise CliError(WHAT, str(error), fix, MORE, ExitCode.NOT_FOUND) from error
        except FileExistsError as error:
            fix = "give --to a name that is free: nothing is overwritten"
            raise CliError(WHAT, f"{target} exists already", fix, MORE, ExitCode.CONFLICT) from error
        except (OSError, apsw.CantOpenError) as error:
            raise CliError(WHAT, f"{target} cannot be written: {error}", "choose another --to", MORE) from error


def _is_position(text: str) -> bool:
    return "T" not in text
