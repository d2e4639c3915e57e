"""`forge lease run`: a command that runs only while a lease is held."""

import asyncio
import getpass
import os
import shutil
import signal
import socket
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from forge.cli.db_name import DOCUMENT
from forge.cli.errors import CliError, ExitCode
from forge.cli.node_call import ask_node
from forge.cli.options import json_option, node_options
from forge.stack import launch

if TYPE_CHECKING:
    from forge.client import ForgeClient, HeldLease

KILL_AFTER_S_MAX = 3.0  # of SIGTERM, and no later than the lease ends
NOT_FOUND, SIGNALLED = 127, 128  # as shells say it
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def process_owner() -> str:
    """Return who this very process is."""
    return f"{getpass.getuser()}@{socket.gethostname()}:{os.getpid()}"


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("name", type=DOCUMENT)
@click.argument("resource")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--owner", metavar="NAME", default=process_owner, help="Who holds it; USER@HOST:PID by default.")
@click.option(
    "--ttl",
    type=click.IntRange(1, 3600),
    default=30,
    metavar="S",
    help="Renewed three times as often; the command is ended when no renewal was answered for so long.",
)
@click.option("--wait", type=click.FloatRange(0), default=0, metavar="S", help="Wait so long while somebody holds it.")
@node_options
@json_option
def run(name: str, resource: str, command: tuple[str, ...], owner: str, ttl: int, wait: float) -> int:
    """Run COMMAND while RESOURCE in the document NAME is leased to it: `forge lease run jobs nightly -- ./job`.

    It finds FORGE_LEASE_RESOURCE and FORGE_FENCE in its environment, to say with each change that it makes. When the
    lease is lost the command gets SIGTERM, at most three seconds later SIGKILL. Exit code: the command's; 5 if somebody
    else holds the lease, or it was lost.
    """
    program = shutil.which(command[0])
    if program is None:
        raise CliError(f"running {command[0]}", "there is no such command", "correct it", exit_code=NOT_FOUND)
    found = (os.path.abspath(program), *command[1:])

    async def work(client: "ForgeClient") -> int:
        return await _leased(client, name, resource, found, owner, ttl, wait)

    return ask_node(work)


async def _leased(
    client: "ForgeClient", name: str, resource: str, command: tuple[str, ...], owner: str, ttl: int, wait: float
) -> int:
    from forge.client import LeaseLost

    try:
        async with client.db(name).lease(resource, owner=owner, ttl_s=ttl, wait_s=wait) as held:
            return await _run(command, held)
    except LeaseLost as error:
        what = f"{command[0]} was ended, because its lease of {resource} was lost"
        fix = "run it again; what it changed with its fence happened while it held the lease"
        raise CliError(what, str(error), fix, f"forge lease history {name} {resource}", ExitCode.CONFLICT) from error


async def _run(command: tuple[str, ...], held: "HeldLease") -> int:
    """Run it in a process group of its own; signals to us are for it."""
    environ = {**os.environ, "FORGE_LEASE_RESOURCE": held.resource, "FORGE_FENCE": str(held.fence)}
    dies_with_us = (sys.executable, "-I", "-S", launch.__file__, str(os.getpid()))
    process = await asyncio.create_subprocess_exec(*dies_with_us, *command, env=environ, process_group=0)
    loop = asyncio.get_running_loop()
    for number in FORWARDED:
        loop.add_signal_handler(number, _signal, process.pid, number)
    try:
        code = await process.wait()
    finally:
        for number in FORWARDED:
            loop.remove_signal_handler(number)
        await _end(process, min(KILL_AFTER_S_MAX, max(0.0, held.left_s)))
    return code if code >= 0 else SIGNALLED - code


async def _end(process: asyncio.subprocess.Process, kill_after_s: float) -> None:
    """End what still runs of it."""
    if process.returncode is not None:
        return
    _signal(process.pid, signal.SIGTERM)
    with suppress(TimeoutError):
        async with asyncio.timeout(kill_after_s):
            await process.wait()
    _signal(process.pid, signal.SIGKILL)
    await process.wait()


def _signal(group: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)
