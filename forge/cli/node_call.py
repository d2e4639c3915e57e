"""How a command reaches the node it was told of, or the one that runs here."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import click

from forge.cli.errors import CliError, ExitCode, one_line
from forge.cli.options import invocation

if TYPE_CHECKING:  # the HTTP library takes longer to import than `forge --help` may take
    from forge.client import ForgeClient
    from schemas.settings import Settings

DEFAULT_URL = "http://localhost:8080"
UNREACHABLE_S = 2.0

Answer = TypeVar("Answer")


def node_address(settings: "Settings") -> tuple[str, str]:
    """Return URL and token: those given, else those of the node on the data directory, else the default URL.

    Raise `CliError` if nothing was given, and the daemon runs on the data directory, which nobody can ask.
    """
    from forge.datadir import read_runtime
    from forge.local_node import target

    url, token = target(settings.data_dir, settings.url, settings.token.get_secret_value())
    if not url and not token and read_runtime(settings.data_dir) is not None:
        why = f"on {settings.data_dir} runs `forge replicate daemon`, which takes no requests"
        fix = "`forge replicate status` says what it is at; for a node elsewhere give --url"
        raise CliError("asking the node", why, fix, "docs/replicate-daemon.md", ExitCode.NOT_READY)
    return url or DEFAULT_URL, token


def ask_node(call: Callable[["ForgeClient"], Awaitable[Answer]]) -> Answer:
    """Run `call` with a client for the node; a node that does not answer is given up after two seconds."""
    from forge.client import ForgeClient, Retry

    url, token = node_address(invocation().settings())

    async def run() -> Answer:
        async with ForgeClient(url, token, retry=Retry(unreachable_s=UNREACHABLE_S), waiting=said_once()) as client:
            return await call(client)

    return asyncio.run(run())


def said_once() -> Callable[[str], None]:
    """Return what says each line once: a command may make many requests."""
    said: set[str] = set()

    def told(line: str) -> None:
        if line not in said:
            said.add(line)
            say(line)

    return told


def say(line: str) -> None:
    """Print what a person waits for, beside the output; what a node said in it cannot write on a terminal."""
    click.echo(one_line(line), err=True)
