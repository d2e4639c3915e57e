"""What a command is about: a file or a content hash, and the kind of its embedding."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from forge.cli.errors import CliError, ExitCode
from forge.cli.options import invocation

if TYPE_CHECKING:
    from forge.client import ForgeClient
    from forge.ingest.catalogue import Catalogue, Remembered
    from forge.ingest.content import Content

KIND = click.Choice(["image", "text"], case_sensitive=False)


@dataclass(frozen=True, slots=True)
class Target:
    """A content hash (64 hex digits), with the path it came from, None if the hash itself was given."""

    name: str
    digest: str
    path: Path | None = None
    content: "Content | None" = None
    seen: "tuple[bytes, Remembered] | None" = None


def resolve(text: str) -> Target:
    """Return the hash of a file (from its checksum attribute, else by reading it), or the hash that `text` is."""
    from forge.ingest.checksum import read_checksum
    from forge.ingest.digest import FileChanged, read_file
    from forge.ingest.scan import open_regular
    from schemas.ids import InvalidId, parse_cid

    path = Path(text)
    try:
        if not path.exists():
            return Target(text, parse_cid(text))
        real = os.path.realpath(os.fsencode(path))
        now = os.stat(real)
        if kept := read_checksum(real, now.st_size, now.st_mtime_ns):
            seen = _seen(real, now.st_size, now.st_mtime_ns, kept.digest, kept.content)
            return Target(text, kept.digest, path, kept.content, seen)
        descriptor = open_regular(real)
        try:
            read = read_file(descriptor)
        finally:
            os.close(descriptor)
    except InvalidId:
        raise CliError(
            f"finding {click.format_filename(text)}",
            "there is no such file, and it is no hash of 64 hex digits",
            "check the path",
            "forge vector --help",
            ExitCode.NOT_FOUND,
        ) from None
    except (OSError, FileChanged) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "it kept changing"
        raise CliError(
            f"reading {click.format_filename(text)}", why, "check the file", "forge vector --help"
        ) from error
    seen = _seen(real, read.size_bytes, read.mtime_ns, read.digest, read.content)
    return Target(text, read.digest, path, read.content, seen)


def _seen(path: bytes, size_bytes: int, mtime_ns: int, digest: str, content: "Content") -> "tuple[bytes, Remembered]":
    """Return what the catalogue is to remember of a file: its folder, and what it held."""
    from forge.ingest.catalogue import Remembered

    folder, name = os.path.split(path)
    return folder, Remembered(name, size_bytes, mtime_ns, bytes.fromhex(digest), content)


async def kind_of(target: Target, given: str | None, client: "ForgeClient") -> str:
    """Return the kind that was given, that the content tells, or under which the node knows the hash."""
    from forge.ingest.content import Content

    if given:
        return given
    with open_catalogue() as catalogue:
        content = target.content or catalogue.content(target.digest)
    if content is not None:
        return "image" if content is Content.IMAGE else "text"
    known = (await client.lookup("text", [target.digest]))[target.digest]
    return "text" if known == "present" else "image"


def open_catalogue() -> "Catalogue":
    """Open the catalogue of this user; an empty one if its folder cannot be used."""
    import apsw

    from forge.ingest.catalogue import Catalogue

    folder = invocation().settings().cache_dir
    try:
        return Catalogue.open(folder)
    except (OSError, apsw.Error) as error:
        click.echo(f"warning: no catalogue in {folder} ({error}): file names and hashes are not remembered", err=True)
        return Catalogue.in_memory()
