"""`forge replicate generation`: copy projections to the object store now."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from forge.cli.errors import CliError, ExitCode
from forge.cli.node_call import ask_node, say
from forge.cli.options import invocation, json_option, node_options
from forge.cli.output import emit, size_text, table
from forge.cli.projection_name import projection_name

if TYPE_CHECKING:  # the HTTP library takes longer to import than `forge --help` may take
    from forge.client import ForgeClient

AT_ONCE = 8
NAMES_SHOWN = 8
ALWAYS_THERE = "control"  # asked for where nothing else is known: a node that makes none says why
WHAT = "forge replicate generation"
MORE = "docs/replication.md"


@click.command()
@click.argument("names", nargs=-1)
@node_options
@json_option
def generation(names: tuple[str, ...]) -> None:
    """Make a generation of projections now, whatever has changed since the last one.

    NAMES are documents, or projections such as control and vector/queue (default: all).
    """
    made = ask_node(lambda client: _made(client, [projection_name(name) for name in names]))
    emit(made, _text(made), as_json=invocation().json)
    if names and (absent := [one["projection"] for one in made if one["result"] == "absent"]):
        why, fix = f"there is no {absent[0]} on this node", f"name one of {_some(ask_node(_archived))}"
        raise CliError(WHAT, why, fix, MORE, ExitCode.NOT_FOUND)
    if bad := [one for one in made if one["result"] == "failed"]:
        why = f"{bad[0]['projection']}: {bad[0]['problem']}"
        fix = "mend what the reason names, and try again; older generations are as they were"
        raise CliError(WHAT, why, fix, MORE, ExitCode.NOT_READY)


async def _made(client: "ForgeClient", projections: Sequence[str]) -> list[dict[str, Any]]:
    """Make them, a few at a time, and wait for those that take long."""
    projections = projections or await _archived(client) or [ALWAYS_THERE]
    made = []
    for few in _few(projections):
        while few:
            answers = await client.make_generations(few)
            made += [one for one in answers if one["result"] != "making"]
            if few := [one["projection"] for one in answers if one["result"] == "making"]:
                say(f"still being made: {_some(few)}; `forge doctor` tells whether the object store answers")
    return made


async def _archived(client: "ForgeClient") -> list[str]:
    """Return the projections that the node makes generations of; a standby makes none."""
    state = await client.replicate_status()
    return [one["projection"] for part in state["partitions"] for one in part["generations"]]


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:NAMES_SHOWN])
    return f"{shown} and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else shown


def _few(projections: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(projections), AT_ONCE):
        yield list(projections[start : start + AT_ONCE])


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _text(made: Sequence[dict[str, Any]]) -> str:
    rows = [
        (
            one["projection"],
            one["position"] or "-",
            "-" if one["size_bytes"] is None else size_text(one["size_bytes"]),
            "-" if one["stored_bytes"] is None else size_text(one["stored_bytes"]),
            _yes(one["verified"]) if one["result"] == "made" else "-",
            one["result"],
        )
        for one in made
    ]
    return (
        table(("PROJECTION", "POSITION", "SIZE", "STORED", "VERIFIED", "RESULT"), rows)
        if rows
        else "Nothing is archived."
    )
