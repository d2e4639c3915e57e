"""`forge vector ingest`: embed all files of a folder, uploading only what the node does not have."""

import asyncio
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from forge.cli.errors import CliError, ExitCode
from forge.cli.flags import Duration, OneDashCommand
from forge.cli.node_call import UNREACHABLE_S, node_address, say
from forge.cli.options import give, invocation, json_option, node_options
from forge.cli.vector_copy import copy_path, open_local_copy
from forge.cli.vector_target import KIND, open_catalogue

if TYPE_CHECKING:
    from forge.ingest.run import Plan
    from forge.ingest.tally import Tally
    from schemas.settings import Settings

ALGORITHM = "blake3"
NO_FILE = "0" * 64


def _server(context: click.Context, _: click.Parameter, value: str | None) -> None:
    if value is not None:
        give(context, given={"FORGE_URL": value})


def _algorithm(_: click.Context, __: click.Parameter, value: str) -> str:
    if value.strip().lower() != ALGORITHM:
        raise click.BadParameter(f"{value!r} is not known; supported: {ALGORITHM}")
    return ALGORITHM


def _positive(_: click.Context, __: click.Parameter, value: int) -> int:
    if value <= 0:
        raise click.BadParameter("must be > 0")
    return value


@click.command(cls=OneDashCommand)
@click.option("--server", metavar="URL", expose_value=False, callback=_server, help="Same as --url.")
@click.option("--root", default=".", show_default=True, metavar="FOLDER", help="What to ingest, with all below it.")
@click.option("--kind", type=KIND, default="image", show_default=True, help="Which files, and which embedding.")
@click.option("--algo", default=ALGORITHM, callback=_algorithm, show_default=True, help="Hash of the content.")
@click.option(
    "--hydrated-db",
    metavar="FILE",
    help="Local copy of the embeddings to ask first, brought up to date from the archive; empty: none.",
)
@click.option("--workers", type=int, callback=_positive, default=os.cpu_count() or 1, help="Hashing threads.")
@click.option(
    "--lookup-batch", type=int, callback=_positive, default=500, show_default=True, help="Hashes per question."
)
@click.option("--http-timeout", type=Duration(), default=120.0, metavar="120s", help="Bound of one request.")
@click.option("--dry-run", is_flag=True, help="Upload nothing, and change no file, attribute or cache.")
@click.option("-v", "--verbose", "--v", "verbose", is_flag=True, help="A line for every file that is left out or sent.")
@node_options
@json_option
def ingest(
    root: str,
    kind: str,
    algo: str,
    hydrated_db: str | None,
    workers: int,
    lookup_batch: int,
    http_timeout: float,
    dry_run: bool,
    verbose: bool,
) -> None:
    """Embed all files below a folder; run it again at any time, only what is new is read and sent.

    Hidden files are included, symbolic links are not followed. For images, files with the name of an image
    format and those without a suffix are looked at; for text, all files without a zero byte in their first
    8 KiB. The exit code is 1 if any file failed: it could not be read, vanished meanwhile, or was refused. A
    file that was skipped has its reason with -v or --json.
    """
    from forge.ingest.run import Plan

    settings = invocation().settings()
    plan = Plan(
        root=os.path.abspath(os.fsencode(Path(root).expanduser())),
        kind="text" if kind == "text" else "image",
        workers=workers,
        lookup_batch=lookup_batch,
        dry_run=dry_run,
        excluded=_own_folders(settings),
    )
    tally = asyncio.run(_run(plan, settings, copy_path(settings, hydrated_db), http_timeout, verbose))
    if tally.failed:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in tally.failed.most_common(3))
        raise CliError(
            f"{tally.failed.total()} of {tally.seen} files were not ingested",
            reasons,
            "run the same command again: it sends only what is missing",
            "forge vector ingest --help",
        )


async def _run(
    plan: "Plan", settings: "Settings", hydrated_db: Path | None, timeout_s: float, verbose: bool
) -> "Tally":
    from forge.client import ForgeClient, Retry
    from forge.ingest.progress import report_for
    from forge.ingest.run import PATIENCE, Ingest

    url, token = node_address(settings)
    retry = Retry(unreachable_s=UNREACHABLE_S)
    async with ForgeClient(url, token, timeout_s=timeout_s, retry=retry, waiting=say) as client:
        await client.lookup(plan.kind, [NO_FILE])  # before hours of hashing: is it there, does it know us?
    local_copy, told = None, None
    if hydrated_db is not None:
        local_copy, told = await open_local_copy(settings, plan.kind, hydrated_db, changes_files=not plan.dry_run)
    started = time.monotonic()
    try:
        with open_catalogue() as catalogue:
            async with ForgeClient(url, token, timeout_s=timeout_s, retry=PATIENCE) as client:
                report = report_for(plan, url, told, as_json=invocation().json, verbose=verbose)
                ingest = Ingest(plan, client, catalogue, local_copy=local_copy, report=report.file)
                with report.showing(ingest):
                    tally = await ingest.run()
    except OSError as error:
        why = error.strerror or str(error)
        where = click.format_filename(plan.root)
        raise CliError(
            f"reading {where}", why, "check -root", "forge vector ingest --help", ExitCode.NOT_FOUND
        ) from error
    finally:
        if local_copy is not None:
            local_copy.close()
    report.totals(tally, time.monotonic() - started)
    return tally


def _own_folders(settings: "Settings") -> frozenset[tuple[int, int]]:
    """Return data and cache directory as (device, inode): the root token is a text file too."""
    found = set()
    for folder in (settings.data_dir, settings.cache_dir):
        if folder.is_dir():
            stat = folder.stat()
            found.add((stat.st_dev, stat.st_ino))
    return frozenset(found)
