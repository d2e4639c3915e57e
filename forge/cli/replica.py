"""`forge replica`: SQLite files that follow documents, and what a node knows of them."""

from typing import TYPE_CHECKING

import click

from forge.cli.db_name import DOCUMENT
from forge.cli.node_call import ask_node
from forge.cli.options import invocation, json_option, node_options
from forge.cli.output import duration_text, emit, size_text, table
from forge.cli.replica_follow import follow

if TYPE_CHECKING:
    from forge.client import ForgeClient
    from schemas.replicas import ReplicaView

DEFAULT = "follow"
HELP_OPTIONS = ("-h", "--help")
REASON_HELP = "Why, for the audit and for whoever runs the replica."
NONE = "No replica has reported to this node."
COLUMNS = ("DOCUMENT", "REPLICA", "STATE", "AT", "HEAD", "LAG", "BYTES", "FOR", "HOLDS LOG", "LAST SEEN")
reason_option = click.option("--reason", default="", metavar="TEXT", help=REASON_HELP)


class Following(click.Group):
    """A group in which what is no command is a document to follow: `forge replica DB FILE`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the default command before what names none."""
        if args and args[0] not in self.commands and args[0] not in HELP_OPTIONS:
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)


@click.group(cls=Following)
def replica() -> None:
    """Keep SQLite files following documents: `forge replica DB FILE`, short for `forge replica follow DB FILE`."""


replica.add_command(follow)


@replica.command("list")
@click.option("--db", "db_id", type=DOCUMENT, metavar="DB", help="Only those of this document.")
@node_options
@json_option
def list_replicas(db_id: str | None) -> None:
    """Show where replicas stand, how far each is behind, and for which of them the log is kept."""

    async def ask(client: "ForgeClient") -> "list[ReplicaView]":
        return [one async for one in client.replicas.all(db_id)]

    found = ask_node(ask)
    rows = [
        (
            one.db_id,
            one.replica_id,
            one.state,
            one.position,
            one.head or "?",
            "?" if one.lag_records is None else one.lag_records,
            "?" if one.lag_bytes is None else size_text(one.lag_bytes),
            "?" if one.lag_s is None else duration_text(one.lag_s),
            "yes" if one.holds_log else "no",
            one.last_seen,
        )
        for one in found
    ]
    emit({"replicas": found}, table(COLUMNS, rows) if rows else NONE, as_json=invocation().json)


@replica.command()
@click.argument("name", metavar="DB", type=DOCUMENT)
@click.argument("replica_id", metavar="REPLICA")
@reason_option
@node_options
@json_option
def evict(name: str, replica_id: str, reason: str) -> None:
    """Keep the log no longer for a replica; if it comes back it takes a new copy first."""
    found = ask_node(lambda client: client.replicas.evict(name, replica_id, reason))
    emit(found, f"{replica_id} is evicted; it was at {found.position}", as_json=invocation().json)


@replica.command()
@click.argument("name", metavar="DB", type=DOCUMENT)
@click.argument("replica_id", metavar="REPLICA")
@reason_option
@node_options
@json_option
def reseed(name: str, replica_id: str, reason: str) -> None:
    """Have a replica take a new copy when it next asks for news."""
    found = ask_node(lambda client: client.replicas.reseed(name, replica_id, reason))
    emit(found, f"{replica_id} will take a new copy; it was at {found.position}", as_json=invocation().json)
