"""`forge replicate daemon`: stream the databases of this machine into an object store, and nothing else."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from forge.cli.errors import CliError, ExitCode
from forge.cli.options import data_dir_option, give, invocation, json_option
from forge.cli.output import emit_line
from forge.cli.replicate_status import status as show
from forge.cli.up import run_until_stopped

if TYPE_CHECKING:
    from forge.daemon.daemon import Daemon
    from schemas.settings import Settings

MORE = "docs/replicate-daemon.md"
WHAT = "forge replicate daemon"


def _node_name(context: click.Context, _: click.Parameter, value: str | None) -> None:
    if value is None:
        return
    from schemas.node_settings import node_segment

    try:
        give(context, given={"FORGE_NODE_ID": node_segment(value)})
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command()
@click.option(
    "--node-name",
    metavar="NAME",
    expose_value=False,
    callback=_node_name,
    help="Name of this machine in the store (FORGE_NODE_NAME); its host name by default.",
)
@click.option(
    "--env-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Settings, a NAME=value on each line; read again at SIGHUP. The environment wins.",
)
@click.option("--status", is_flag=True, help="Show what the daemon on this data directory is at, and end.")
@data_dir_option
@json_option
def daemon(env_file: Path | None, status: bool) -> None:
    """Stream the databases of this machine into the bucket of FORGE_S3_BUCKET until stopped.

    Runs the log and what `forge snapshot` needs: no HTTP, no documents, no vectors. SIGHUP reads the settings again;
    SIGTERM and Ctrl-C store what is left within 15 seconds.
    """
    given = invocation()

    def load() -> "Settings":
        from schemas.settings import Settings

        return Settings.load({**_lines(env_file), **given.environ()})

    if status:
        with _explained():
            _require_running(settings := load())
            give(click.get_current_context(), given={"FORGE_DATA_DIR": str(settings.data_dir)})
        click.get_current_context().invoke(show)
        return
    from forge.daemon.daemon import running_daemon

    started = time.monotonic()

    def announce(running: "Daemon") -> None:
        settings = running.settings
        line = {"node": settings.node_id, "data_dir": str(settings.data_dir), "prefix": settings.s3_prefix}
        line["waits_for"] = running.trouble
        where = f"{settings.s3_bucket}, below {settings.s3_prefix}/"
        text = f"{settings.node_id} is replicated to {where}, after {time.monotonic() - started:.1f} s"
        if running.trouble:
            text = f"{settings.node_id} is not replicated to {where} yet: {running.trouble}"
        text += f"; `{WHAT} --status` says how far."
        emit_line(line, text, as_json=given.json)

    with _explained():
        run_until_stopped(load(), running_daemon(load), announce)


def _require_running(settings: "Settings") -> None:
    """Raise `CliError` if nothing runs on the data directory that could be asked."""
    from forge.datadir import read_runtime

    if not settings.url and read_runtime(settings.data_dir) is None:
        why, fix = f"nothing runs on {settings.data_dir}", f"start `{WHAT}`, or name its data directory"
        raise CliError(f"{WHAT} --status", why, fix, MORE, ExitCode.NOT_READY)


def _lines(path: Path | None) -> Mapping[str, str]:
    """Return the settings in a file; what is no `NAME=value` is a comment if it begins with #, else refused."""
    from schemas.settings import InvalidSettings

    if path is None:
        return {}
    found = {}
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSettings([f"{path} cannot be read: {error}"]) from error
    for line in (line.strip() for line in lines):
        name, equals, value = line.partition("=")
        if line and not line.startswith("#"):
            if not equals:
                raise InvalidSettings([f"{path}: {line[:40]!r} is not NAME=value"])
            found[name.strip()] = value.strip().strip("\"'")
    return found


@contextmanager
def _explained() -> Iterator[None]:
    """Turn settings that cannot be used into the four lines."""
    from schemas.settings import InvalidSettings

    try:
        yield
    except InvalidSettings as error:
        raise CliError(WHAT, str(error), "correct the settings named above", MORE, ExitCode.USAGE) from error
