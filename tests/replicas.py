"""What tests of replicas share: a document, followers that are closed, and damage."""

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from forge.client.transport import Transport
from forge.replica.follower import Follower
from forge.replica.status import Status
from tests.document_source import Source


def notes(directory: Path) -> Source:
    """Return a document with two tables, an index, a trigger and five commits; close it."""
    document = Source(directory)
    document.run(
        "CREATE TABLE note (id INTEGER PRIMARY KEY, body TEXT NOT NULL)",
        "CREATE TABLE audit (note INTEGER, at TEXT DEFAULT CURRENT_TIMESTAMP, luck INTEGER)",
        "CREATE INDEX by_body ON note (body)",
        "CREATE TRIGGER seen AFTER INSERT ON note BEGIN INSERT INTO audit (note, luck) VALUES (new.id, random()); END",
    )
    for number in range(4):
        document.run(("INSERT INTO note (body) VALUES (?)", [f"note {number}"]))
    return document


@asynccontextmanager
async def following(
    transport: Transport, file: Path, *, db_id: str = "notes", heard: list[Status] | None = None
) -> AsyncIterator[Follower]:
    """Open a follower, and close it whatever happens."""
    follower = Follower(transport, db_id, file, heard=(heard if heard is not None else []).append)
    try:
        yield await follower.open()
    finally:
        await follower.close()


async def caught_up(transport: Transport, file: Path) -> Follower:
    """Bring the file to the end of the document, and close it."""
    async with following(transport, file) as follower:
        await follower.catch_up()
        return follower


def flip(number: random.Random) -> Callable[[bytes], bytes]:
    """Return what flips one bit of some bytes, always the same one."""
    where, bit = number.random(), 1 << number.randrange(8)

    def damaged(raw: bytes) -> bytes:
        at = int(where * len(raw))
        return raw[:at] + bytes([raw[at] ^ bit]) + raw[at + 1 :]

    return damaged
