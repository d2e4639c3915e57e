"""How commands about snapshots reach the partition of this node, and which snapshot they mean."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from forge.cli.errors import CliError, ExitCode, key_refused
from forge.cli.log_failures import log_failures
from forge.cli.options import invocation

if TYPE_CHECKING:
    import apsw

    from forge.snapshot.desk import Desk
    from projectors.node.queries import SnapshotRow

MORE = "docs/snapshot.md"


def absolute(path: str) -> bytes:
    """Return a path as snapshots name it."""
    return os.path.abspath(os.fsencode(os.path.expanduser(path)))


def at_desk(what: str, work: "Callable[[Desk], Awaitable[Any]]") -> Any:
    """Run `work` where commands about snapshots are decided; explain what goes wrong."""
    from events.objects.errors import KeyRefused, StoreError
    from events.payload_errors import PayloadError
    from forge.snapshot.desk import NotReached, desk
    from forge.snapshot.restore import NotRestored
    from forge.snapshot.walk import SnapshotFailed

    async def run() -> Any:
        async with desk(invocation().settings()) as opened:
            return await work(opened)

    try:
        with log_failures(what):
            return asyncio.run(run())
    except SnapshotFailed as error:
        raise CliError(what, str(error), "mend what the reason names; nothing was recorded", MORE) from error
    except NotReached as error:
        raise CliError(what, str(error), error.fix, MORE, ExitCode.NOT_READY) from error
    except NotRestored as error:
        raise CliError(what, str(error), "choose an empty folder with --to", MORE, ExitCode.CONFLICT) from error
    except KeyRefused as error:
        raise key_refused(error) from error
    except StoreError as error:
        raise CliError(what, str(error), "try again in a moment", "docs/replication.md", ExitCode.NOT_READY) from error
    except (OSError, PayloadError) as error:
        raise CliError(what, str(error), "mend what the reason names", MORE) from error


def row_at(db: "apsw.Connection", path: bytes, time_ns: int | None) -> "SnapshotRow":
    """Return the snapshot of a folder at a time, or its newest one."""
    from projectors.node.queries import snapshot_at, snapshots
    from schemas.os_text import shown

    found = snapshots(db, path, 1) if time_ns is None else [snapshot_at(db, path, time_ns)]
    if not found or found[0] is None:
        which = f"no snapshot of {shown(path)}" + ("" if time_ns is None else f" at {time_ns}")
        fix = f"`forge snapshot history {shown(path)}` lists them"
        raise CliError(f"looking for a snapshot of {shown(path)}", f"there is {which}", fix, MORE, ExitCode.NOT_FOUND)
    return found[0]


def shown_time(taken_at_ns: int) -> str:
    """Return the moment of a snapshot for people, in UTC."""
    return datetime.fromtimestamp(taken_at_ns // 1_000_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
