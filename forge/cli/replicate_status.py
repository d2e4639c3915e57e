"""`forge replicate status`: what the object store has of this node, or of the daemon on this data directory."""

from typing import TYPE_CHECKING, Any

import click

from forge.cli.errors import CliError, ExitCode
from forge.cli.node_call import ask_node
from forge.cli.options import invocation, json_option, node_options
from forge.cli.output import duration_text, emit, size_text, table

if TYPE_CHECKING:
    from schemas.settings import Settings

PAGE = 1000
HEAD = ("PARTITION", "HERE", "ARCHIVED", "LAG", "BYTES", "FOR", "GENERATION", "DRILL")
OFF = "This node has no archive: start it with `forge up --s3`, or set FORGE_S3_BUCKET."


@click.command()
@node_options
@json_option
def status() -> None:
    """Show, for each partition, where it stands here and in the archive.

    Ends with 7 if one is archived no more, with 6 if the store did not tell of one.
    """
    state = _of_daemon(invocation().settings()) or ask_node(lambda client: client.replicate_status(page=PAGE))
    emit(state, _text(state), as_json=invocation().json)
    if bad := [one for one in state["partitions"] if one["problem"]]:
        raise CliError(
            "forge replicate status",
            f"{bad[0]['partition']}: {bad[0]['problem']}",
            "see what the reason names; nothing that is archived was changed",
            "docs/replication.md",
            ExitCode.DATA_FAULT,
        )
    if away := [one for one in state["partitions"] if one["unknown"]]:
        raise CliError(
            "forge replicate status",
            f"how far {away[0]['partition']} is archived is not known: {away[0]['unknown']}",
            "try again when the store answers; what is written meanwhile is kept here and archived then",
            "docs/replication.md",
            ExitCode.NOT_READY,
        )


def _of_daemon(settings: "Settings") -> dict[str, Any] | None:
    """Return what the daemon on the data directory of `settings` is at, None if none runs there."""
    from forge.daemon.status import read_status
    from forge.datadir import read_runtime

    runtime = read_runtime(settings.data_dir)
    if settings.url or runtime is None or runtime.url:
        return None
    if (found := read_status(settings.data_dir)) is None:
        why = f"the daemon on {settings.data_dir} has not said anything yet"
        raise CliError(
            "forge replicate status", why, "try again in a moment", "docs/replicate-daemon.md", ExitCode.NOT_READY
        )
    return found.told()


def _text(state: dict[str, Any]) -> str:
    if state["archive"] is None:
        return OFF
    rows = [
        (
            one["partition"],
            one["position"],
            one["archived"] or "?",
            "?" if one["lag_records"] is None else one["lag_records"],
            "?" if one["lag_bytes"] is None else size_text(one["lag_bytes"]),
            "?" if one["lag_s"] is None else duration_text(one["lag_s"]),
            _generation(one),
            _drill(one),
        )
        for one in state["partitions"]
    ]
    lines = [f"archive  {state['archive']}"]
    lines += [f"waits    {state['waits_for']}"] if state.get("waits_for") else []
    lines += [f"waits    {one['stream']}: {one['trouble']}" for one in state["streams"] if one["trouble"]]
    lines += [
        f"waits    generation of {one['partition']}: {one['generation_problem']}"
        for one in state["partitions"]
        if one["generation_problem"]
    ]
    untold = [why for one in state["partitions"] for why in _untold(one)]
    lines += [f"unknown  some generations and drills: {untold[0]}"] if untold else []
    lines += ["", table(HEAD, rows)]
    return "\n".join([*lines, *_retention_lines(state.get("retention"))])


def _generation(partition: dict[str, Any]) -> str:
    """Return from where on a restore reads the log: the oldest of the newest generations of the projections."""
    if _untold(partition):
        return "?"
    found = [one["position"] for one in partition["generations"]]
    return "-" if not found or None in found else min(found, key=lambda text: [int(part) for part in text.split(".")])


def _untold(partition: dict[str, Any]) -> list[str]:
    """Return why nobody knows where a generation of the partition stands."""
    return [one["problem"] for one in partition["generations"] if one["problem"]]


def _retention_lines(retention: dict[str, Any] | None) -> list[str]:
    """Say what the log takes on the server, and who holds it."""
    if retention is None or retention["used_bytes"] is None:
        return []
    cap = retention["cap_bytes"]
    lines = ["", f"log      {size_text(retention['used_bytes'])}" + (f", at most {size_text(cap)}" if cap else "")]
    if retention["trouble"]:
        lines.append(f"stays    {retention['trouble']}")
    if rows := [(one["partition"], one["by"], one["records"]) for one in retention["held"]]:
        lines += ["", table(("HELD", "BY", "RECORDS"), rows)]
    return lines


def _drill(partition: dict[str, Any]) -> str:
    """Return the oldest of the last drills of the projections, and that one is red if any is."""
    if not partition["drills"]:
        return "?" if _untold(partition) else "-"
    red = [one for one in partition["drills"] if not one["green"]]
    return f"{'red' if red else 'green'} {min(one['at'] for one in red or partition['drills'])[:10]}"
