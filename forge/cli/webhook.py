"""`forge webhook`: how the webhooks of a document are checked."""

import os
import sys
from pathlib import Path

import click

from forge.cli.db_name import DOCUMENT
from forge.cli.errors import CliError, ExitCode
from forge.cli.node_call import ask_node
from forge.cli.options import invocation, json_option, node_options
from forge.cli.output import emit, table

SHOWN = ("endpoint", "provider", "policy", "dedupe", "secrets", "set_at")
SECRETS = "FORGE_WEBHOOK_SECRETS"


@click.group()
def webhook() -> None:
    """Say how the webhooks of a document are checked; what came is in its table webhook_inbox."""


@webhook.command("set")
@click.argument("name", type=DOCUMENT)
@click.argument("endpoint")
@click.option("--provider", default="none", metavar="NAME", help="github, stripe, standard (Svix and others), or none.")
@click.option(
    "--secrets-from",
    type=click.Path(dir_okay=False, allow_dash=True),
    metavar="FILE",
    help=f"Read secrets from FILE, one a line, - for standard input ({SECRETS}, separated by blanks); else they stay.",
)
@click.option("--reject", is_flag=True, help="Refuse webhooks whose signature is wrong; else that is only recorded.")
@click.option("--dedupe", is_flag=True, help="Keep each delivery once, by the id that its sender gave it.")
@node_options
@json_option
def set_(name: str, endpoint: str, provider: str, secrets_from: str | None, reject: bool, dedupe: bool) -> None:
    """Check webhooks that come to ENDPOINT of the document NAME."""
    secrets = _secrets(secrets_from)
    policy = "reject" if reject else "record"
    view = ask_node(
        lambda client: client.db(name).webhooks.set(
            endpoint, provider=provider, secrets=secrets, policy=policy, dedupe=dedupe
        )
    )
    text = "\n".join(f"{key}: {value}" for key, value in view.model_dump().items())
    emit(view, text, as_json=invocation().json)


def _secrets(path: str | None) -> list[str] | None:
    if path is None:
        given = os.environ.get(SECRETS, "").split()
        return given or None
    try:
        text = (sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()).decode()
    except (OSError, UnicodeDecodeError) as error:
        what, fix = f"reading secrets from {path}", "name a text file that has a secret on each line"
        raise CliError(what, str(error), fix, "forge webhook set --help", ExitCode.USAGE) from error
    return [line.strip() for line in text.splitlines() if line.strip()]


@webhook.command("list")
@click.argument("name", type=DOCUMENT)
@node_options
@json_option
def list_(name: str) -> None:
    """List the endpoints of the document NAME that have settings."""
    found = ask_node(lambda client: client.db(name).webhooks.all())
    rows = [[getattr(one, field) for field in SHOWN] for one in found]
    headers = ("ENDPOINT", "PROVIDER", "POLICY", "DEDUPE", "SECRETS", "SET")
    emit(found, table(headers, rows), as_json=invocation().json)


@webhook.command()
@click.argument("name", type=DOCUMENT)
@click.argument("endpoint")
@node_options
@json_option
def remove(name: str, endpoint: str) -> None:
    """Keep webhooks that come to ENDPOINT as they are, unchecked."""
    ask_node(lambda client: client.db(name).webhooks.remove(endpoint))
    emit({"endpoint": endpoint, "removed": True}, f"{endpoint} is not checked any more", as_json=invocation().json)
