"""Get a document's snapshot from its node, going on where an earlier attempt broke off."""

import asyncio
import os
from pathlib import Path

import httpx2

from forge.client.documents import path_of
from forge.client.errors import ClientError, ForgeError, NodeUnreachable, UnexpectedAnswer
from forge.client.retry import RETRIED_STATUSES
from forge.client.transport import Transport
from forge.replica.download import SnapshotHead, discard, sha256_of
from forge.replica.identity import Identity
from forge.replica.lock import beside
from schemas.ids import InvalidId, Position

BUFFER_BYTES = 1 << 20
SILENCE_S = 120.0  # a node that makes the snapshot first needs a while
_PARTIAL = 206
_RANGE_NOT_SATISFIABLE = 416


async def fetch(transport: Transport, db_id: str, download: Path, identity: Identity) -> SnapshotHead:
    """Gather the latest snapshot in `download` and return what the node says of it; nothing is checked yet.

    What is there already of the same snapshot is kept. A connection that breaks is tried again while that brings
    more bytes, else as `Retry` says. Raise as `Transport.send` does.
    """
    failures = 0
    while True:
        before = _size(download)
        failure: ClientError
        try:
            return await _attempt(transport, db_id, download, identity)
        except NodeUnreachable as error:
            failure = error
        except ForgeError as error:
            if error.status == _RANGE_NOT_SATISFIABLE:
                discard(download)
            elif error.status not in RETRIED_STATUSES:
                raise
            failure = error
        failures = 1 if _size(download) > before else failures + 1
        if failures >= transport.retry.attempts:
            raise failure
        await transport.sleep(transport.retry.wait_s(failures, getattr(failure, "retry_after", None)))


async def _attempt(transport: Transport, db_id: str, download: Path, identity: Identity) -> SnapshotHead:
    etag_file = beside(download, "etag")
    have = max(0, _size(download) - 1)  # once more the last byte, so that a whole file has a range to ask for
    headers = {"Accept-Encoding": "identity"}
    if have and etag_file.exists():
        headers |= {"Range": f"bytes={have}-", "If-Range": etag_file.read_text()}
    path = path_of(db_id, "snapshot", "latest")
    asked = identity.asked
    async with transport.open("GET", path, params=asked, headers=headers, silence_s=SILENCE_S) as response:
        resumed = response.status_code == _PARTIAL
        head = _head(transport, response)
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise UnexpectedAnswer(transport.url, f"{path}: not the range that was asked for")
        if not resumed:
            discard(download)
            etag_file.write_text(head.etag)
        with download.open("r+b" if resumed else "wb", buffering=BUFFER_BYTES) as file:
            file.seek(have if resumed else 0)
            async for part in response.aiter_raw():
                file.write(part)
                if file.tell() > head.size_bytes:
                    raise UnexpectedAnswer(transport.url, f"{path}: more bytes than it said")
            file.flush()
            await asyncio.to_thread(os.fsync, file.fileno())
    if _size(download) < head.size_bytes:
        raise NodeUnreachable(transport.url, "the snapshot broke off")
    return head


def _head(transport: Transport, response: httpx2.Response) -> SnapshotHead:
    headers = response.headers
    try:
        whole = headers["Content-Range"].rpartition("/")[2] if response.status_code == _PARTIAL else None
        return SnapshotHead(
            position=Position.parse(headers["Forge-Position"]),
            hash=headers["Forge-Hash"],
            digest=headers["Forge-Digest"],
            sha256=sha256_of(headers["Repr-Digest"]),
            etag=headers["ETag"],
            size_bytes=int(whole or headers["Content-Length"]),
        )
    except (KeyError, ValueError, InvalidId) as error:
        raise UnexpectedAnswer(transport.url, f"{response.request.url.path}: {error!r}") from error


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
