"""The local copy of the embeddings that `forge vector ingest` asks first: brought up to date, opened, told about."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from forge.cli.output import duration_text

if TYPE_CHECKING:
    from forge.ingest.content import Kind
    from forge.ingest.hydration import Hydrated
    from forge.ingest.precheck import LocalCopy
    from schemas.settings import Settings

Told = dict[str, Any] | None
"""What of a copy stands in the JSON of an ingest."""


def copy_path(settings: "Settings", given: str | None) -> Path | None:
    """Return where the copy is or shall be; None if an empty name turns it off, or there is none and will be none."""
    if given == "":
        return None
    path = settings.vector_hydrated_db if given is None else Path(given).expanduser()
    if settings.s3_bucket or path.exists():
        return path
    if given is not None:
        click.echo(f"warning: there is no {path}; continuing without hydrated precheck DB", err=True)
    return None


async def open_local_copy(
    settings: "Settings", kind: "Kind", path: Path, *, changes_files: bool
) -> tuple["LocalCopy | None", Told]:
    """Return the copy to ask, if there is one, and what to tell about it.

    Where an object store is set it is brought to where the archive stands, if that is possible and `changes_files`.
    """
    from forge.ingest.hydration import State, as_it_is, hydrate
    from forge.ingest.precheck import LocalCopy, UnusableCopy
    from forge.logs import configure_logs

    configure_logs("error")  # what keeps a copy from being current is told below
    found = await (hydrate(settings, path) if settings.s3_bucket and changes_files else as_it_is(path))
    for line in lines(found, path, time.time()):
        click.echo(line, err=True)
    if found.state is State.NONE:
        return None, None
    try:
        return LocalCopy(path, kind), {"path": str(path), **asdict(found)}
    except UnusableCopy as error:
        click.echo(f"warning: not using the local copy: {error}", err=True)
        return None, None


def lines(found: "Hydrated", path: Path, now: float) -> list[str]:
    """Return what to tell people of a copy: where it stands, how old that is, and what keeps it from being current."""
    from forge.ingest.hydration import State
    from schemas.instants import parse_instant

    where = f", at {found.position}" if found.position else ""
    if found.time:
        where += f", newest entry {duration_text(max(0.0, now - parse_instant(found.time).timestamp()))} old"
    aside = [f"warning: the local copy was damaged; it is kept as {found.aside}"] if found.aside else []
    match found.state:
        case State.NONE if found.why:
            return [*aside, f"warning: {found.why}; continuing without hydrated precheck DB"]
        case State.NONE:
            return aside
        case State.STALE if found.why:
            return [f"warning: {found.why}; using existing local hydrated DB {path}{where}"]
        case State.STALE | State.FOREIGN:
            return [f"local copy: using existing local hydrated DB {path}{where}"]
    return [*aside, f"local copy: {found.state}{where}"]
