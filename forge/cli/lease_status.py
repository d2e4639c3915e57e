"""`forge lease status` and `forge vector lease-status`: who may write below the prefix of the object store."""

import asyncio
from typing import Any

import click

from forge.cli.errors import CliError, ExitCode
from forge.cli.flags import OneDashCommand
from forge.cli.options import data_dir_option, invocation, json_option
from forge.cli.output import emit
from forge.cli.store_errors import store_errors

OFF = "FORGE_S3_BUCKET names no object store, and no node with its own runs here: there is no writer lease to see."
WHAT = "reading the writer lease"
resource_option = click.option(
    "--resource", metavar="NAME", help="Another lease than that of the writer, such as vector/embeddings-writer."
)


@click.command("status")
@resource_option
@data_dir_option
@json_option
def status(resource: str | None) -> None:
    """Show who may write below the prefix of the object store.

    That is the lease of a whole node, not one of the leases in documents. It is read from the store; no node is needed.
    """
    _show(resource)


@click.command("lease-status", cls=OneDashCommand)
@resource_option
@data_dir_option
@json_option
def vector_status(resource: str | None) -> None:
    """Show who may write below the prefix of the object store, as `forge lease status` does."""
    _show(resource)


def _show(resource: str | None) -> None:
    said = _looked_up(resource)
    text = OFF if said is None else "\n".join(f"{name}: {_text(value)}" for name, value in said.items())
    emit(said, text, as_json=invocation().json)


def _looked_up(resource: str | None) -> dict[str, Any] | None:
    settings = invocation().settings()
    from events.objects.port import check_key
    from forge.lease_status import lease_status
    from schemas.writer_lease import WRITER, lease_key
    from workers.lease.errors import LeaseUnreadable

    name = (resource or WRITER).strip("/")
    try:
        check_key(lease_key(name))
    except ValueError as error:
        raise CliError(WHAT, str(error), "correct --resource", "docs/failover.md", ExitCode.USAGE) from error
    with store_errors(WHAT, "docs/failover.md"):
        try:
            return asyncio.run(lease_status(settings, name))
        except LeaseUnreadable as error:
            fix = "remove the object if no node writes below this prefix"
            raise CliError(WHAT, str(error), fix, "docs/failover.md", ExitCode.DATA_FAULT) from error


def _text(value: object) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return str(value).lower()
    return str(value)
