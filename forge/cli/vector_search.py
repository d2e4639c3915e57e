"""`forge vector search`: the files most like a file."""

import asyncio
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from forge.cli.errors import CliError, ExitCode
from forge.cli.flags import Duration, OneDashCommand
from forge.cli.node_call import ask_node
from forge.cli.options import invocation, json_option, node_options
from forge.cli.output import emit, table
from forge.cli.vector_target import KIND, Target, kind_of, open_catalogue, resolve

if TYPE_CHECKING:
    from forge.client import ForgeClient
    from schemas.vector_bodies import SearchReply

NOT_FOUND_STATUS = 404
POLL_FIRST_S = 0.05
POLL_LONGEST_S = 1.0


@click.command(cls=OneDashCommand)
@click.argument("target", metavar="FILE|HASH")
@click.option("--kind", type=KIND, help="Which embeddings to compare; told by the file by default.")
@click.option("-k", "--k", "k", type=click.IntRange(1, 1000), default=10, show_default=True, help="How many.")
@click.option("--upload", is_flag=True, help="Embed FILE first if the node does not have it.")
@click.option("--wait", type=Duration(), default=60.0, metavar="60s", help="How long to wait for that.")
@node_options
@json_option
def search(target: str, kind: str | None, k: int, upload: bool, wait: float) -> None:
    """Print the files most like FILE, best first; 1.0 is the same direction."""
    wanted = resolve(target)

    async def ask(client: "ForgeClient") -> "SearchReply":
        wanted_kind = await kind_of(wanted, kind, client)
        if upload and wanted.path is not None:
            await _embed(client, wanted, wanted_kind, wait)
        return await _search(client, wanted, wanted_kind, k)

    reply = ask_node(ask)
    import apsw

    with open_catalogue() as catalogue:
        if wanted.seen is not None:
            with suppress(apsw.Error):  # so that a later search can name it; an ingest may be writing just now
                catalogue.remember([wanted.seen], int(time.time()))
        named = [(hit, [p for p in catalogue.paths(hit.hash) if os.path.lexists(p)]) for hit in reply.hits]
    document: dict[str, Any] = reply.model_dump(exclude={"hits"})
    document["hits"] = [
        {"hash": hit.hash, "score": hit.score, "paths": [os.fsdecode(p) for p in paths]} for hit, paths in named
    ]
    rows = [[f"{hit.score:.4f}", _shown(hit.hash, paths)] for hit, paths in named]
    emit(document, table(["score", "file"], rows), as_json=invocation().json)


def _shown(digest: str, paths: list[bytes]) -> str:
    if not paths:
        return digest
    more = f"  (and {len(paths) - 1} more)" if len(paths) > 1 else ""
    return click.format_filename(paths[0]) + more


async def _search(client: "ForgeClient", wanted: Target, kind: str, k: int) -> "SearchReply":
    from forge.client import ForgeError

    try:
        return await client.search(kind, hash=wanted.digest, k=k)
    except ForgeError as error:
        if error.status != NOT_FOUND_STATUS:
            raise
    known = (await client.lookup(kind, [wanted.digest]))[wanted.digest]
    again = f"forge vector search --kind {kind} --upload {click.format_filename(wanted.name)}"
    raise CliError(
        f"searching for what is like {click.format_filename(wanted.name)}",
        f"the node has no {kind} embedding of it ({known})",
        again if wanted.path is not None else "ingest the file first: forge vector ingest -root FOLDER",
        "forge vector search --help",
        ExitCode.NOT_FOUND,
    )


async def _embed(client: "ForgeClient", wanted: Target, kind: str, wait_s: float) -> None:
    """Upload the file unless the node has it, and wait until it is embedded; `CliError` if that fails."""
    assert wanted.path is not None
    known = (await client.lookup(kind, [wanted.digest]))[wanted.digest]
    if known == "missing":
        await client.upload(wanted.path, wanted.digest, kind)
        known = "processing"
    pause_s = POLL_FIRST_S
    try:
        async with asyncio.timeout(wait_s):
            while known == "processing":
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, POLL_LONGEST_S)
                known = (await client.lookup(kind, [wanted.digest]))[wanted.digest]
    except TimeoutError:
        raise CliError(
            f"embedding {click.format_filename(wanted.name)}",
            f"the node has taken it but not embedded it within {wait_s:g} s",
            "search again in a while; `forge vector status` shows the queue",
            "forge status",
            ExitCode.NOT_READY,
        ) from None
    if known == "missing":
        raise CliError(
            f"embedding {click.format_filename(wanted.name)}",
            "the worker refused it",
            "forge vector failed",
            "forge vector requeue --help",
        )
