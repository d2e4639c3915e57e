"""`forge log`: look at the log itself."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import click

from forge.cli.errors import CliError, ExitCode
from forge.cli.log_failures import log_failures
from forge.cli.log_segment import segment
from forge.cli.options import data_dir_option, invocation, json_option
from forge.cli.output import emit, size_text, table
from forge.cli.record_lines import emit_record

if TYPE_CHECKING:  # the log's libraries take longer to import than `forge --help` may take
    from forge.log_access import LogAccess
    from schemas.ids import PartitionId, Position

PARTITION_HELP = "A partition is named as `forge log streams` shows it, for example vector/0."


@click.group()
def log() -> None:
    """Read and verify the log."""


log.add_command(segment)


@log.command()
@data_dir_option
@json_option
def streams() -> None:
    """List the streams and the partitions that have records."""

    async def run(access: "LogAccess") -> list[dict[str, Any]]:
        from events.streams import STREAMS
        from schemas.ids import PartitionId

        found = []
        for stream in STREAMS:
            state = (await access.stream_info(stream.name)).state
            subjects = sorted(state.subjects or {})
            found.append(
                {
                    "stream": stream.name,
                    "holds": stream.holds,
                    "messages": state.messages,
                    "bytes": state.bytes,
                    "partitions": [str(PartitionId.parse(subject)) for subject in subjects],
                }
            )
        return found

    found = with_log(run)
    rows = [
        (s["stream"], s["messages"], size_text(s["bytes"]), ", ".join(s["partitions"][:5]) or "-", s["holds"])
        for s in found
    ]
    emit(found, table(("STREAM", "MESSAGES", "SIZE", "PARTITIONS", "HOLDS"), rows), as_json=invocation().json)


@log.command(epilog=PARTITION_HELP)
@click.argument("partition")
@click.option("--after", metavar="POSITION", default="1.0", show_default=True, help="Begin after this position.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="Records at most.")
@data_dir_option
@json_option
def show(partition: str, after: str, limit: int) -> None:
    """Print the events of PARTITION."""

    async def run(access: "LogAccess") -> None:
        from events.read import read
        from events.seek import seek_begin

        target, position = parse_partition(partition), _position(after)
        left = limit
        async for entry in read(access.log.reader, target, await seek_begin(access.log.reader, target)):
            if entry.cursor.position > position:
                emit_record(entry)
                left -= 1
            if not left:
                return

    with_log(run)


@log.command(epilog=PARTITION_HELP)
@click.argument("partition")
@data_dir_option
@json_option
def tail(partition: str) -> None:
    """Print the events of PARTITION as they are written, until stopped."""

    async def run(access: "LogAccess") -> None:
        from events.read import follow
        from events.seek import seek_end

        target = parse_partition(partition)
        cursor = await seek_end(access.log.reader, target)
        async for entry in follow(access.log.reader, access.log.reader, target, cursor):
            emit_record(entry)

    with_log(run)


@log.command(epilog=PARTITION_HELP)
@click.argument("partitions", nargs=-1)
@data_dir_option
@json_option
def verify(partitions: tuple[str, ...]) -> None:
    """Read every record of PARTITIONS (default: all) and check order, hash chain and events.

    Also compares the end of the log with the positions that databases here have reached.
    """
    from forge.verify import Finding, folded_partitions, verify_partition

    async def run(access: "LogAccess") -> list[Finding]:
        settings = invocation().settings()
        targets = [parse_partition(p) for p in partitions]
        if not targets:
            known = {*await access.partitions(), *folded_partitions(settings)}
            targets = sorted(known, key=lambda partition: partition.subject)
        return [await verify_partition(access.log, settings, target) for target in targets]

    findings = with_log(run)
    rows = [(f.partition, f.records, f.events, f.position, f.problem or "ok") for f in findings]
    shown = table(("PARTITION", "RECORDS", "EVENTS", "END", "RESULT"), rows) if rows else "the log is empty"
    emit(findings, shown, as_json=invocation().json)
    if bad := [f for f in findings if f.problem]:
        raise CliError(
            "forge log verify",
            f"{bad[0].partition}: {bad[0].problem}",
            "stop writing, keep a copy of the data directory, and compare it with a backup",
            "docs/operations.md",
            ExitCode.DATA_FAULT,
        )


def parse_partition(text: str) -> "PartitionId":
    """Read a partition as people write it: `vector/0`, or its subject."""
    from events.streams import stream_of
    from schemas.ids import InvalidId, PartitionId

    try:
        domain, _, key = text.partition("/")
        partition = PartitionId.parse(text) if text.startswith("forge.log.") else PartitionId(domain, key)
        stream_of(partition), partition.token
    except (InvalidId, KeyError) as error:
        fix = "forge log streams lists them"
        raise CliError(f"partition {text}", f"no such partition: {error}", fix, "", ExitCode.NOT_FOUND) from error
    return partition


def _position(text: str) -> "Position":
    from schemas.ids import InvalidId, Position

    try:
        return Position.parse(text)
    except InvalidId as error:
        raise CliError("--after", str(error), "--after 1.0", "forge log show --help", ExitCode.USAGE) from error


def with_log(work: Callable[["LogAccess"], Awaitable[Any]], *, exclusive: bool = False) -> Any:
    """Run `work` with the log of this call's settings; explain what goes wrong."""

    async def run() -> Any:
        async with _access(exclusive) as access:
            return await work(access)

    with log_failures(click.get_current_context().command_path):
        return asyncio.run(run())


@asynccontextmanager
async def _access(exclusive: bool) -> "AsyncIterator[LogAccess]":
    from forge.log_access import log_access

    async with log_access(invocation().settings(), exclusive=exclusive) as access:
        yield access
