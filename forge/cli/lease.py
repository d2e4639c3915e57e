"""`forge lease`: resources that one holder at a time may use."""

import getpass
import socket
from typing import TYPE_CHECKING, Any

import click

from forge.cli.db_name import DOCUMENT
from forge.cli.lease_run import run
from forge.cli.lease_status import status
from forge.cli.node_call import ask_node
from forge.cli.options import invocation, json_option, node_options
from forge.cli.output import emit, table

if TYPE_CHECKING:
    from forge.client import ForgeClient
    from schemas.lease_bodies import LeaseView

OWNER_HELP = "Who holds it; USER@HOST by default."
TTL_HELP = "How long it lasts unless it is renewed, in seconds."
TOKEN_HELP = "What acquiring it printed (FORGE_LEASE_TOKEN, which other users of the machine cannot see)."
SHOWN = ("resource", "owner", "fence", "held", "expires_at")
GRANT_SHOWN = ("fence", "owner", "principal", "acquired_at", "expires_at", "released_at")


def default_owner() -> str:
    """Return who works here."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


owner_option = click.option("--owner", metavar="NAME", default=default_owner, help=OWNER_HELP)
ttl_option = click.option("--ttl", type=click.IntRange(1, 3600), default=30, metavar="S", help=TTL_HELP)
token_option = click.option(
    "--lease-token", envvar="FORGE_LEASE_TOKEN", required=True, metavar="TOKEN", help=TOKEN_HELP
)


@click.group()
def lease() -> None:
    """Lease resources, so that one holder at a time uses them, and run commands that need one.

    `status` is about another lease: that by which one node at a time writes to the object store.
    """


@lease.command()
@click.argument("name", type=DOCUMENT)
@click.argument("resource")
@owner_option
@ttl_option
@click.option("--wait", type=click.FloatRange(0), default=0, metavar="S", help="Wait so long while somebody holds it.")
@node_options
@json_option
def acquire(name: str, resource: str, owner: str, ttl: int, wait: float) -> None:
    """Lease RESOURCE in the document NAME, and print the token that proves it.

    Exit code 5 if somebody else holds it.
    """
    held = ask_node(lambda client: client.db(name).leases.acquire(resource, owner, ttl_s=ttl, wait_s=wait))
    emit(held, _lines(held.model_dump()), as_json=invocation().json)


@lease.command()
@click.argument("name", type=DOCUMENT)
@click.argument("resource")
@owner_option
@ttl_option
@token_option
@node_options
@json_option
def renew(name: str, resource: str, owner: str, ttl: int, lease_token: str) -> None:
    """Let the lease of RESOURCE last longer."""
    renewed = ask_node(lambda client: client.db(name).leases.renew(resource, owner, lease_token, ttl_s=ttl))
    emit(renewed, _lines(renewed.model_dump()), as_json=invocation().json)


@lease.command()
@click.argument("name", type=DOCUMENT)
@click.argument("resource")
@owner_option
@token_option
@node_options
@json_option
def release(name: str, resource: str, owner: str, lease_token: str) -> None:
    """Give the lease of RESOURCE back."""
    released = ask_node(lambda client: client.db(name).leases.release(resource, owner, lease_token))
    emit(released, f"{resource} is released", as_json=invocation().json)


@lease.command("list")
@click.argument("name", type=DOCUMENT)
@click.option("--held", is_flag=True, help="Only what somebody holds now.")
@node_options
@json_option
def list_(name: str, held: bool) -> None:
    """List what was leased in the document NAME, each with its newest lease."""

    async def ask(client: "ForgeClient") -> "list[LeaseView]":
        return [one async for one in client.db(name).leases.all(held=held)]

    found = ask_node(ask)
    rows = [[_shown(getattr(one, field)) for field in SHOWN] for one in found]
    emit(found, table(("RESOURCE", "OWNER", "FENCE", "HELD", "UNTIL"), rows), as_json=invocation().json)


@lease.command()
@click.argument("name", type=DOCUMENT)
@click.argument("resource")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, metavar="N", help="How many at most.")
@node_options
@json_option
def history(name: str, resource: str, limit: int) -> None:
    """List the leases of RESOURCE, newest first."""
    found = ask_node(lambda client: client.db(name).leases.show(resource, limit=limit))
    rows = [[_shown(getattr(one, field)) for field in GRANT_SHOWN] for one in found.history]
    headers = ("FENCE", "OWNER", "PRINCIPAL", "ACQUIRED", "UNTIL", "RELEASED")
    emit(found, table(headers, rows), as_json=invocation().json)


lease.add_command(run)
lease.add_command(status)


def _shown(value: Any) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
    return str(value)


def _lines(answer: dict[str, Any]) -> str:
    return "\n".join(f"{key}: {value}" for key, value in answer.items())
