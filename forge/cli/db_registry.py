"""The commands of `forge db` that make, list, name, clone and remove documents."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import click

from forge.cli.db_name import DOCUMENT
from forge.cli.moment import Moment
from forge.cli.node_call import ask_node
from forge.cli.options import invocation, json_option, node_options
from forge.cli.output import emit, table

if TYPE_CHECKING:
    from forge.client.documents import Documents
    from schemas.registry import DocumentView

SHOWN = ("db_id", "name", "state", "owner", "created_at")


@click.command()
@click.argument("name", type=DOCUMENT)
@click.option("--title", metavar="TEXT", help="A name for people; it may change, NAME never does.")
@node_options
@json_option
def create(name: str, title: str | None) -> None:
    """Make the document NAME: letters, digits, dots, underscores, hyphens."""
    _describe(lambda documents: documents.create(name, name=title), f"{name} created")


@click.command("list")
@click.option("--search", metavar="TEXT", help="Only documents with TEXT in their name or title.")
@click.option("--state", type=click.Choice(["active", "archived", "deleted"]), help="Only documents in this state.")
@node_options
@json_option
def list_(search: str | None, state: str | None) -> None:
    """List the documents that the token opens."""

    async def run(documents: "Documents") -> "list[DocumentView]":
        return [document async for document in documents.all(query=search, state=state)]

    found = ask_node(lambda client: run(client.documents))
    rows = [[getattr(document, field) for field in SHOWN] for document in found]
    emit(found, table(("NAME", "TITLE", "STATE", "OWNER", "CREATED"), rows), as_json=invocation().json)


@click.command()
@click.argument("name", type=DOCUMENT)
@node_options
@json_option
def show(name: str) -> None:
    """Describe the document NAME."""
    _describe(lambda documents: documents.show(name))


@click.command()
@click.argument("name", type=DOCUMENT)
@click.argument("title")
@node_options
@json_option
def rename(name: str, title: str) -> None:
    """Give the document NAME another title; its NAME stays."""
    _describe(lambda documents: documents.rename(name, title), f"{name} is titled {title!r} now")


@click.command()
@click.argument("name", type=DOCUMENT)
@node_options
@json_option
def archive(name: str) -> None:
    """Refuse writes to the document NAME from now on."""
    _describe(lambda documents: documents.archive(name), f"{name} is archived: it can be read, not written")


@click.command()
@click.argument("name", type=DOCUMENT)
@node_options
@json_option
def unarchive(name: str) -> None:
    """Take writes to the document NAME again."""
    _describe(lambda documents: documents.unarchive(name), f"{name} can be written again")


@click.command()
@click.argument("name", type=DOCUMENT)
@node_options
@json_option
def delete(name: str) -> None:
    """Take the document NAME away from everybody; undelete brings it back."""
    ask_node(lambda client: client.documents.delete(name))
    text = f"{name} is deleted; `forge db undelete {name}` brings it back"
    emit({"db_id": name, "state": "deleted"}, text, as_json=invocation().json)


@click.command()
@click.argument("name", type=DOCUMENT)
@node_options
@json_option
def undelete(name: str) -> None:
    """Bring the deleted document NAME back."""
    _describe(lambda documents: documents.undelete(name), f"{name} is back")


@click.command()
@click.argument("name", type=DOCUMENT)
@click.argument("new", type=DOCUMENT)
@click.option("--at", type=Moment(), metavar="MOMENT", help="As it was then: a position, 12:30, 2026-01-31T12:30.")
@click.option("--title", metavar="TEXT", help="A name for people.")
@node_options
@json_option
def clone(name: str, new: str, at: str | None, title: str | None) -> None:
    """Make the document NEW with the content of NAME, as it is or as it was."""
    _describe(lambda documents: documents.clone(name, new, at=at, name=title), f"{new} holds what {name} held")


def _describe(ask: Callable[["Documents"], Awaitable["DocumentView"]], text: str | None = None) -> None:
    """Print `text`, or if there is none the description that the node gives."""
    described = ask_node(lambda client: ask(client.documents))
    lines = "\n".join(f"{key}: {'-' if value is None else value}" for key, value in described.model_dump().items())
    emit(described, lines if text is None else text, as_json=invocation().json)
