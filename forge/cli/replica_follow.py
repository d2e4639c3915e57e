"""`forge replica follow`: a SQLite file that follows a document."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from forge.cli.db_name import DOCUMENT
from forge.cli.errors import CliError, ExitCode
from forge.cli.node_call import UNREACHABLE_S, node_address, say
from forge.cli.options import invocation, json_option, node_options
from forge.cli.output import emit, emit_line

if TYPE_CHECKING:
    from forge.client.transport import Transport
    from forge.replica.follower import Follower
    from forge.replica.status import Status
    from forge.replica.verify import Verdict

TIMEOUT_S = 60.0  # the node holds a question for news back for 25 s
STATES = {
    "bootstrapping": "fetching a snapshot",
    "catching_up": "catching up",
    "live": "live",
    "stalled": "stalled",
    "needs_reseed": "taking a new copy",
}
T = TypeVar("T")


@click.command()
@click.argument("name", metavar="DB", type=DOCUMENT)
@click.argument("file", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--once", is_flag=True, help="Catch up and stop.")
@click.option("--verify", is_flag=True, help="Catch up, compare the content with the node's, and stop.")
@click.option("--reseed", is_flag=True, help="Take a new copy first; the old one is kept beside it.")
@click.option("--no-reseed", is_flag=True, help="Stop, instead of taking a new copy where only that helps.")
@node_options
@json_option
def follow(name: str, file: Path, once: bool, verify: bool, reseed: bool, no_reseed: bool) -> None:
    """Keep FILE, a plain SQLite database, following the document DB until stopped.

    Other programs may read FILE meanwhile, and must not write it. Run it again after any interruption. A file that
    is something else than a replica of DB is refused and not touched.
    """
    opened = partial(_opened, name, file, _Told(), reseed=reseed, reseeds=not no_reseed)

    async def once_only() -> "Status":
        async with opened(endless=False) as (follower, _):
            await follower.catch_up()
            return follower.status

    async def compare() -> "Verdict":
        from forge.replica.verify import verify as verified

        async with opened(endless=False, content=True) as (follower, transport):
            return await verified(follower, transport)

    async def forever() -> None:
        async with opened(endless=True) as (follower, _):
            await follower.follow()

    if verify:
        _print_verdict(name, file, _run(file, compare))
    elif once:
        status = _run(file, once_only)
        text = f"{click.format_filename(file)} holds {name} at {status.position}"
        emit({"file": str(file), "position": str(status.position)}, text, as_json=invocation().json)
    else:
        _run(file, forever)


class _Told:
    """Prints a line whenever the state changes; positions alone would be too many."""

    def __init__(self) -> None:
        self._last: tuple[str, str] | None = None
        self.silent = False

    def __call__(self, status: "Status") -> None:
        if self.silent or self._last == (status.state, status.why):
            return
        self._last = (status.state, status.why)
        line = {
            "state": status.state,
            "position": str(status.position) if status.position else None,
            "head": str(status.head) if status.head else None,
            "lag_records": status.lag_records,
            "why": status.why,
            "reseeds": status.reseeds,
        }
        at = f" at {status.position}" if status.position else ""
        why = f": {status.why}" if status.why else ""
        emit_line(line, f"{STATES[status.state]}{at}{why}", as_json=invocation().json)


@asynccontextmanager
async def _opened(
    name: str, file: Path, told: _Told, *, reseed: bool, reseeds: bool, endless: bool, content: bool = False
) -> "AsyncIterator[tuple[Follower, Transport]]":
    from forge.client.retry import Retry
    from forge.client.transport import Transport
    from forge.replica.follower import Follower
    from forge.replica.replica import FOLLOWER_RETRY

    url, token = node_address(invocation().settings())
    told.silent = not endless
    transport = Transport(url, token, timeout_s=TIMEOUT_S, retry=Retry(unreachable_s=UNREACHABLE_S), waiting=say)
    follower = Follower(transport, name, file, heard=told, reseeds=reseeds)
    try:
        await follower.open(reseed=reseed, content=content)
        if endless:
            transport.retry = FOLLOWER_RETRY
            transport.waiting = None  # from now on it waits for news, and the state says what is wrong
        yield follower, transport
    finally:
        await follower.close()
        await transport.http.aclose()


def _run(file: Path, work: Callable[[], Awaitable[T]]) -> T:
    """Run `work`; explain what goes wrong with the file."""
    from events.errors import LogDamaged
    from forge.replica.errors import Diverged, FileRefused, ReplicaError, SnapshotRefused
    from schemas.ids import InvalidId

    what = f"following into {click.format_filename(file)}"
    more = "docs/replica.md"

    async def run() -> T:
        return await work()

    try:
        return asyncio.run(run())
    except FileRefused as error:
        raise CliError(what, str(error), error.fix, more, ExitCode.CONFLICT) from error
    except (SnapshotRefused, Diverged) as error:
        raise CliError(what, str(error), error.fix, more, ExitCode.DATA_FAULT) from error
    except ReplicaError as error:
        raise CliError(what, str(error), error.fix, more) from error
    except InvalidId as error:
        raise CliError(what, str(error), "correct the name", more, ExitCode.USAGE) from error
    except LogDamaged as error:
        raise CliError(
            what, str(error), "run the version of Forge that the node runs", more, ExitCode.DATA_FAULT
        ) from error


def _print_verdict(name: str, file: Path, verdict: "Verdict") -> None:
    said = {
        "file": str(file),
        "position": str(verdict.position),
        "digest": verdict.digest,
        "node_digest": verdict.node_digest,
        "equal": verdict.equal,
    }
    same = "holds exactly" if verdict.equal else "differs from"
    text = f"{click.format_filename(file)} {same} what the node has of {name} at {verdict.position}"
    emit(said, text, as_json=invocation().json)
    if not verdict.equal:
        raise CliError(
            f"comparing {click.format_filename(file)}",
            f"at {verdict.position} its content has the digest {verdict.digest}, the node's {verdict.node_digest}",
            "somebody else wrote the file: take a new copy with --reseed",
            "docs/replica.md",
            ExitCode.DATA_FAULT,
        )
