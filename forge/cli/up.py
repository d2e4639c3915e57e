"""`forge up`, `forge serve` and `forge worker`: the commands that keep running."""

import asyncio
import errno
import gc
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from forge.cli.errors import CliError, ExitCode
from forge.cli.options import data_dir_option, invocation, json_option
from forge.cli.output import emit_line
from forge.cli.store_errors import store_errors

if TYPE_CHECKING:  # importing the node takes longer than `forge --help` may take
    from forge.embedded import Running
    from schemas.settings import Settings

MORE = "docs/getting-started.md; forge doctor"
MORE_STORE = "docs/replication.md"


@click.command()
@data_dir_option
@click.option("--listen", metavar="HOST:PORT", help="HTTP address (FORGE_LISTEN); port 0 picks a free one.")
@click.option("--s3", is_flag=True, help="Archive in an S3 store that is started here, unless FORGE_S3_BUCKET is set.")
@json_option
def up(listen: str | None, s3: bool) -> None:
    """Start everything on this machine and serve until stopped.

    Starts nats-server and the built-in embedding worker unless FORGE_NATS_URL or a worker URL names yours.
    """
    settings = invocation().settings()
    serve_until_stopped(settings, listen or settings.listen, s3=s3, embed=True)


@click.command()
@data_dir_option
@click.option("--listen", metavar="HOST:PORT", help="HTTP address (FORGE_LISTEN); port 0 picks a free one.")
@json_option
def serve(listen: str | None) -> None:
    """Serve the API against the NATS servers that FORGE_NATS_URL names; run `forge worker embed` beside it."""
    settings = invocation().settings()
    _require_nats(settings, "forge serve")
    serve_until_stopped(settings, listen or settings.listen, s3=False, embed=False)


@click.command()
@click.argument("name", type=click.Choice(["embed"]))
@data_dir_option
@json_option
def worker(name: str) -> None:
    """Run the worker NAME against FORGE_NATS_URL and the node that serves there.

    It reads payload files from FORGE_PATH_BLOB_CACHE and calls the worker that FORGE_VECTOR_WORKER_URL names.
    """
    settings = invocation().settings()
    _require_nats(settings, "forge worker")
    if not all(settings.worker_url(kind) for kind in ("image", "text")):
        raise CliError(
            f"forge worker {name}",
            "no embedding worker is set",
            "set FORGE_VECTOR_WORKER_URL, for example to http://localhost:3003",
            "docs/vector-workers.md",
            ExitCode.USAGE,
        )
    from forge.remote_embed import remote_embed

    run_until_stopped(
        settings, remote_embed(settings), lambda started: emit_line({"worker": name}, started, as_json=_json())
    )


def serve_until_stopped(settings: "Settings", listen: str, *, s3: bool, embed: bool) -> None:
    """Run a node in the foreground until SIGINT or SIGTERM."""
    from forge.embedded import running
    from forge.listen import InvalidAddress, parse_listen

    try:
        parse_listen(listen)
    except InvalidAddress as error:
        raise CliError(
            "forge up", str(error), "forge up --listen 127.0.0.1:8080", "forge up --help", ExitCode.USAGE
        ) from error
    if settings.payload_ack == "remote" and not (s3 or settings.s3_bucket):
        why = "FORGE_PAYLOAD_ACK=remote needs an object store"
        raise CliError("forge up", why, "set FORGE_S3_BUCKET, or run `forge up --s3`", MORE_STORE, ExitCode.USAGE)
    started = time.monotonic()

    def announce(node: "Running") -> None:
        line = {"url": node.url, "data_dir": str(settings.data_dir), "s3_url": node.s3_url, "why_not": node.why_not}
        emit_line(line, _welcome(settings, node, time.monotonic() - started), as_json=_json())

    run_until_stopped(settings, running(settings, listen=listen, s3=s3, embed=embed), announce)


def _json() -> bool:
    return invocation().json


def _require_nats(settings: "Settings", command: str) -> None:
    if not settings.nats_url.get_secret_value():
        raise CliError(
            command,
            "FORGE_NATS_URL is not set",
            "set it to your server, or run `forge up`, which starts one",
            "docs/configuration.md",
            ExitCode.USAGE,
        )


def run_until_stopped(
    settings: "Settings", context: AbstractAsyncContextManager[Any], announce: Callable[[Any], None]
) -> None:
    """Enter `context`, announce it, and leave it on the first signal; explain what goes wrong."""
    import uvloop
    from prometheus_client import disable_created_metrics

    from forge.logs import configure_logs
    from forge.open_files import raise_open_files

    configure_logs(settings.log_level, settings.log_format)
    _warn_of_old_names()
    disable_created_metrics()  # type: ignore[no-untyped-call]  # the library leaves it untyped
    raise_open_files(settings.connections_max, settings.partitions_open_max)
    with _explained(settings):
        uvloop.run(_until_stopped(context, announce))


def _warn_of_old_names() -> None:
    import structlog

    from forge.old_names import old_names_in

    for name, advice in old_names_in(invocation().environ()):
        structlog.get_logger(__name__).warning("setting is not read", name=name, instead=advice)


async def _until_stopped(context: AbstractAsyncContextManager[Any], announce: Callable[[Any], None]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    starting: asyncio.Task[Any] = asyncio.ensure_future(context.__aenter__())
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait([starting, stopped], return_when=asyncio.FIRST_COMPLETED)
    try:
        if not starting.done():
            starting.cancel()
            with suppress(asyncio.CancelledError):
                await starting
            return
        announce(starting.result())
        _spare_the_collector()
        await stopped
    finally:
        stopped.cancel()
        if starting.done() and not starting.cancelled() and starting.exception() is None:
            await context.__aexit__(None, None, None)


def _spare_the_collector() -> None:
    """Look for reference cycles less often: what is loaded stays anyway. Costs a busy node 8 % of its time else."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@contextmanager
def _explained(settings: "Settings") -> Iterator[None]:
    """Turn what can go wrong at start into the four lines."""
    from events.errors import LogError
    from forge.datadir import DataDirBusy, DataDirError
    from forge.stack.errors import StackError
    from workers.lease.errors import LeaseError, LeaseRefused

    what = f"forge on {settings.data_dir}"
    try:
        with store_errors(what, MORE_STORE):
            yield
    except DataDirBusy as error:
        fix = f"stop it with `kill {error.pid}`, or use another --data-dir" if error.pid else "try again in a moment"
        raise CliError(what, str(error), fix, "forge status", ExitCode.CONFLICT) from error
    except (DataDirError, StackError) as error:
        raise CliError(what, str(error), "mend what the reason names", MORE) from error
    except LeaseRefused as error:
        fix = "give the keys of FORGE_S3_* the permissions that docs/replication.md names; nothing was written here"
        raise CliError(what, str(error), fix, MORE_STORE, ExitCode.DENIED) from error
    except LeaseError as error:
        raise CliError(what, str(error), "mend what the reason names", "docs/failover.md") from error
    except LogError as error:
        fix = "see that the NATS server of FORGE_NATS_URL runs with JetStream on"
        raise CliError(what, str(error), fix, "forge doctor", ExitCode.NOT_READY) from error
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        fix = "choose another address with --listen" if taken else "mend what the reason names"
        raise CliError(what, str(error), fix, MORE) from error


def _welcome(settings: "Settings", node: "Running", seconds: float) -> str:
    default = settings.load({"HOME": str(Path.home())}).data_dir
    here = "" if settings.data_dir == default else f" --data-dir {settings.data_dir}"
    program = "forge" if shutil.which("forge") else os.path.relpath(sys.argv[0])
    token = settings.data_dir / "root.token"
    lines = [
        f"Forge is ready after {seconds:.1f} s." if node.why_not is None else "Forge is up, and takes no writes yet.",
        "",
        f"  API       {node.url}",
        f"  data      {settings.data_dir}",
        f"  payloads  {settings.blob_cache}",
        f"  token     {token}",
    ]
    if node.s3_url:
        lines.append(f"  S3        {node.s3_url}")
    if node.why_not is not None:
        lines.append(f"  waits     {node.why_not}")
    writing = [
        f"  {program} db create{here} hello",
        f'  {program} db sql{here} hello "select sqlite_version()"',
        f"  {program} vector ingest{here} -root ~/Pictures -kind image",
    ]
    lines += [
        "",
        "Try in a second terminal:",
        "",
        *(writing if node.why_not is None else [f"  {program} replicate status{here}"]),
        f"  {program} status{here}",
        f'  curl -H "Authorization: Bearer $(cat {token})" {node.url}/status',
        "",
        "Ctrl-C stops it; everything that was accepted is kept.",
    ]
    return "\n".join(lines)
