"""`forge vector`: embed files, and look at what became of them."""

from typing import TYPE_CHECKING, Any

import click

from forge.cli.errors import CliError, ExitCode
from forge.cli.flags import OneDashCommand
from forge.cli.lease_status import vector_status
from forge.cli.node_call import ask_node
from forge.cli.options import invocation, json_option, node_options
from forge.cli.output import emit, emit_line, table
from forge.cli.vector_ingest import ingest
from forge.cli.vector_search import search
from forge.cli.vector_serve import serve
from forge.cli.vector_target import KIND, kind_of, resolve

if TYPE_CHECKING:
    from forge.client import ForgeClient
    from schemas.vector_bodies import JobView


@click.group()
def vector() -> None:
    """Embed files, and search what is alike."""


vector.add_command(ingest)
vector.add_command(vector_status)
vector.add_command(search)
vector.add_command(serve)


@vector.command(cls=OneDashCommand)
@click.argument("targets", metavar="FILE|HASH...", nargs=-1, required=True)
@click.option("--kind", type=KIND, help="Look only for this kind; both by default.")
@node_options
@json_option
def lookup(targets: tuple[str, ...], kind: str | None) -> None:
    """Tell whether files have an embedding: present, processing or missing."""
    found = [resolve(target) for target in targets]
    kinds = [kind] if kind else ["image", "text"]

    async def ask(client: "ForgeClient") -> dict[str, dict[str, str]]:
        digests = list({target.digest for target in found})
        return {one: dict(await client.lookup(one, digests)) for one in kinds}

    known = ask_node(ask)
    rows = [
        {"target": target.name, "hash": target.digest, **{one: known[one][target.digest] for one in kinds}}
        for target in found
    ]
    emit(rows, table(["target", *kinds], [[row["target"], *(row[k] for k in kinds)] for row in rows]), as_json=_json())


@vector.command(cls=OneDashCommand)
@click.argument("target", metavar="FILE|HASH")
@click.option("--kind", type=KIND, help="Which embedding; told by the file by default.")
@node_options
@json_option
def get(target: str, kind: str | None) -> None:
    """Print the stored embedding of a file."""
    wanted = resolve(target)

    async def ask(client: "ForgeClient") -> Any:
        return await client.embedding(await kind_of(wanted, kind, client), wanted.digest)

    found = ask_node(ask)
    described = "\n".join(
        f"{name}: {getattr(found, name)}" for name in ("hash", "kind", "model", "dimension", "created_at", "updated_at")
    )
    numbers = " ".join(f"{number:.6g}" for number in found.vector)
    emit(found.model_dump(), f"{described}\nvector: {numbers}", as_json=_json())


@vector.command(cls=OneDashCommand)
@click.option("--kind", type=KIND, help="Only jobs of this kind.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="At most so many.")
@node_options
@json_option
def failed(kind: str | None, limit: int) -> None:
    """List files that could not be embedded, and why; `requeue` puts them back."""
    _list("failed", "error", kind, limit, "No file has failed.")


@vector.command(cls=OneDashCommand)
@click.option("--kind", type=KIND, help="Only jobs of this kind.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="At most so many.")
@node_options
@json_option
def awaiting(kind: str | None, limit: int) -> None:
    """List files whose bytes the node has lost before they were embedded; uploading them again brings them back."""
    _list("awaiting", "awaiting_payload", kind, limit, "No file waits for its bytes.")


def _list(command: str, status: str, kind: str | None, limit: int, none: str) -> None:
    async def ask(client: "ForgeClient") -> tuple[list["JobView"], bool]:
        jobs: list[JobView] = []
        async for page in client.all_failed(kind, status=status, limit=min(limit, 500)):
            jobs += page.jobs
            if len(jobs) >= limit:
                return jobs[:limit], len(jobs) > limit or page.next is not None
        return jobs, False

    jobs, more = ask_node(ask)
    rows = [[job.job_id, job.kind, job.file_hash, job.attempts, job.updated_at, job.last_error or ""] for job in jobs]
    text = table(["job", "kind", "hash", "attempts", "since", "why"], rows) if jobs else none
    emit({"jobs": [job.model_dump() for job in jobs], "more": more}, text, as_json=_json())
    if more and not _json():
        click.echo(f"There are more: forge vector {command} --limit {limit * 10}", err=True)


@vector.command(cls=OneDashCommand)
@click.argument("targets", metavar="FILE|HASH...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Put back all that failed or wait for their bytes.")
@click.option("--kind", type=KIND, help="Only jobs of this kind.")
@node_options
@json_option
def requeue(targets: tuple[str, ...], everything: bool, kind: str | None) -> None:
    """Put files that could not be embedded, or whose bytes were missing, back into the queue."""
    if bool(targets) == everything:
        raise click.UsageError("name files or hashes, or give --all")
    hashes = [resolve(target).digest for target in targets]
    count = ask_node(lambda client: client.requeue(kind, hashes=hashes, all=everything))
    emit({"requeued": count}, f"{count} put back", as_json=_json())
    if not count and targets:
        raise CliError(
            "requeue", "none of these has failed", "forge vector failed lists those that have", "", ExitCode.NOT_FOUND
        )


@vector.command(cls=OneDashCommand)
@node_options
@json_option
def status() -> None:
    """Print what the node says of its queue and embeddings."""
    answer = ask_node(lambda client: client.status())
    part = answer.get("vector", answer)
    lines = table(["what", "value"], _flat(part))
    emit_line(part, lines, as_json=_json())


def _flat(value: Any, name: str = "") -> list[tuple[str, Any]]:
    match value:
        case dict():
            inner = [(str(key), part) for key, part in value.items()]
        case list():
            inner = [(str(index), part) for index, part in enumerate(value)]
        case _:
            return [(name, value)]
    return [row for key, part in inner for row in _flat(part, f"{name}.{key}" if name else key)]


def _json() -> bool:
    return invocation().json
