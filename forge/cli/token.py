"""`forge token`: what opens what."""

from typing import TYPE_CHECKING

import click

from forge.cli.errors import CliError, ExitCode
from forge.cli.moment import Expiry
from forge.cli.node_call import ask_node
from forge.cli.options import invocation, json_option, node_options
from forge.cli.output import emit, table

if TYPE_CHECKING:
    from forge.client import ForgeClient
    from schemas.tokens import TokenView


@click.group()
def token() -> None:
    """Make tokens that open a part of a node, and explain what they open."""


@token.command(
    epilog="A scope is ACTION:DB or ACTION:DB:RESOURCE, for example query.read:notes, query.write:team-* or "
    "pub.publish:home:sensors. docs/access.md lists the actions."
)
@click.argument("label")
@click.option("--scope", "scopes", multiple=True, metavar="SCOPE", help="What it opens; may be repeated.")
@click.option("--admin", is_flag=True, help="Opens everything.")
@click.option("--for-url", is_flag=True, help="May be given as ?token= where a route takes that.")
@click.option("--expires", type=Expiry(), metavar="30d", help="When it ends: 30d, 12h, or 2026-01-31T12:30.")
@node_options
@json_option
def create(label: str, scopes: tuple[str, ...], admin: bool, for_url: bool, expires: str | None) -> None:
    """Make a token and print its secret, which cannot be shown again."""
    from forge.client.tokens import parse_scope

    if bool(scopes) == admin:
        raise click.UsageError("say what it opens: --scope ACTION:DB, or --admin for everything")
    try:
        wanted = [parse_scope(text) for text in scopes]
    except ValueError as error:
        raise click.BadOptionUsage("--scope", str(error)) from error
    made = ask_node(lambda client: client.tokens.mint(label, wanted, admin=admin, expires_at=expires, url=for_url))
    emit(made, made.token, as_json=invocation().json)
    if not invocation().json:
        click.echo(f"token {made.id}; keep it, it is not shown again", err=True)


@token.command("list")
@node_options
@json_option
def list_() -> None:
    """List the tokens, newest first; never their secrets."""

    async def run(client: "ForgeClient") -> "list[TokenView]":
        return [one async for one in client.tokens.all()]

    found = ask_node(run)
    rows = [[one.id, one.label, _state(one), one.last_used_at or "never", _opens(one)] for one in found]
    emit(found, table(("ID", "LABEL", "STATE", "LAST USED", "OPENS"), rows), as_json=invocation().json)


def _state(one: "TokenView") -> str:
    if one.revoked_at:
        return "revoked"
    return f"until {one.expires_at}" if one.expires_at else "valid"


def _opens(one: "TokenView") -> str:
    from forge.client.tokens import format_scope

    return "everything" if one.is_admin else ", ".join(map(format_scope, one.scopes))


@token.command()
@click.argument("token_id", metavar="ID")
@node_options
@json_option
def revoke(token_id: str) -> None:
    """End the token ID; what it has open ends within a second."""
    ask_node(lambda client: client.tokens.revoke(token_id))
    emit({"id": token_id, "revoked": True}, f"{token_id} is revoked", as_json=invocation().json)


@token.command()
@click.argument("secret", metavar="TOKEN")
@click.argument("action")
@click.argument("db_id", metavar="DB")
@click.argument("resource", default="")
@node_options
@json_option
def why(secret: str, action: str, db_id: str, resource: str) -> None:
    """Explain whether TOKEN (its secret or its id) may do ACTION on DB; ends with 4 if not."""
    said = ask_node(lambda client: client.tokens.why(secret, action, db_id, resource))
    emit(said, "\n".join(said.reasons), as_json=invocation().json)
    if not said.allowed and not invocation().json:
        raise CliError(
            f"{action} on {db_id}", "this token does not open it", "forge token create --help", "", ExitCode.DENIED
        )
