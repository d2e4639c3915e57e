"""`forge replicate`: how far the log is archived in the object store."""

from typing import Any

import click

from forge.cli.errors import CliError, ExitCode
from forge.cli.node_call import ask_node
from forge.cli.options import invocation, json_option, node_options
from forge.cli.output import duration_text, emit, size_text, table

PAGE = 1000
OFF = "This node has no archive: start it with `forge up --s3`, or set FORGE_S3_BUCKET."


@click.group()
def replicate() -> None:
    """Keep the log in an object store."""


@replicate.command()
@node_options
@json_option
def status() -> None:
    """Show, for each partition, where it stands here and in the archive; ends with 7 if one is archived no more."""
    state = ask_node(lambda client: client.replicate_status(page=PAGE))
    emit(state, _text(state), as_json=invocation().json)
    if bad := [one for one in state["partitions"] if one["problem"]]:
        raise CliError(
            "forge replicate status",
            f"{bad[0]['partition']}: {bad[0]['problem']}",
            "see what the reason names; nothing that is archived was changed",
            "docs/replication.md",
            ExitCode.DATA_FAULT,
        )


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
        )
        for one in state["partitions"]
    ]
    lines = [f"archive  {state['archive']}"]
    lines += [f"waits    {one['stream']}: {one['trouble']}" for one in state["streams"] if one["trouble"]]
    return "\n".join([*lines, "", table(("PARTITION", "HERE", "ARCHIVED", "LAG", "BYTES", "FOR"), rows)])
