"""A document with a real history and an HTTP peer that serves it to replicas, honestly or not."""

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import apsw

from events.chunk import chunk_head, chunk_record
from events.cursor import Cursor, Entry, Extent
from forge.client.retry import Retry
from forge.client.transport import Transport
from projectors.batch import Batch
from projectors.command_queue import Pending
from projectors.digest import digest
from projectors.document.domain import document_domain, document_partition, document_spec
from projectors.document.sql.bounds import SqlBounds
from projectors.projection import Projection, connect
from schemas.document import RunSql, Statement
from schemas.ids import START, Position
from schemas.instants import now
from schemas.problems import DOCUMENT_DELETED, ProblemType
from schemas.snapshot import SnapshotMeta
from schemas.wal import encode
from tests.unit.http_peer import HANG_UP, Answer, Peer, Request, serving

FORGOTTEN = ProblemType("history-gone", "These records are no longer kept", 410, "Take a snapshot.")
OTHER = ProblemType("other-history", "The position is of another history", 409, "Take a snapshot.")
BEYOND = ProblemType("beyond-head", "The position was never written", 416, "Ask for an earlier one.")


class Source:
    """The document `db_id` in `directory`: `run` writes it, `entries` are all of its records."""

    def __init__(self, directory: Path, db_id: str = "notes") -> None:
        self.db_id = db_id
        self.partition = document_partition(db_id)
        self._directory = directory
        bounds = SqlBounds()
        self.domain = document_domain(directory, bounds)
        self._projection = Projection(document_spec(db_id, directory / f"source-{db_id}.db", bounds), self.partition)
        self.entries: list[Entry] = []
        self.cursors = [Cursor.start(self.partition)]

    def run(self, *statements: str | tuple[str, list[Any]]) -> Position:
        """Run statements in one commit."""
        said = [
            Statement(sql=one) if isinstance(one, str) else Statement(sql=one[0], args=one[1]) for one in statements
        ]
        command = RunSql(statements=tuple(said), classes=("read", "write", "admin"))
        batch = Batch(self.domain, [self._projection], self.partition, "test-node", now)
        loop = asyncio.new_event_loop()
        try:
            batch.decide([Pending(command, "root", None, loop.create_future())])
        finally:
            loop.close()
        for outcome in batch.outcomes:
            if isinstance(outcome, Exception):
                batch.rollback()
                raise outcome
        assert batch.record is not None
        cursor = batch.cursor(len(self.entries) + 1)
        batch.commit(cursor)
        self.entries.append(Entry(batch.record, cursor))
        self.cursors.append(cursor)
        return cursor.position

    @property
    def head(self) -> Position:
        return self.cursors[-1].position

    def digest(self) -> str:
        """Return the digest of the document as it is now."""
        return digest(self._projection.db)

    def chunk(self, after: Cursor, bytes_max: int) -> bytes:
        """Return the chunk that follows `after`, as a node makes it."""
        first = after.position.index
        entries: list[Entry] = []
        size = 0
        for entry in self.entries[first:]:
            size += len(entry.record.payload)
            if entries and size > bytes_max:
                break
            entries.append(entry)
        extent = Extent(START.next(), self.head)
        head = chunk_head(self.partition, after, entries, extent, eof=first + len(entries) == len(self.entries))
        return b"".join(encode(head, [chunk_record(entry) for entry in entries]))

    def snapshot(self) -> tuple[bytes, Cursor, str]:
        """Return the bytes of a snapshot, where it stands, and the digest of its content."""
        path = self._directory / "snapshot.db"
        path.unlink(missing_ok=True)
        with closing(apsw.Connection(str(path))) as copy:
            with copy.backup("main", self._projection.db, "main") as backup:
                backup.step()
            for _ in copy.execute("PRAGMA journal_mode=DELETE"):
                pass
        return path.read_bytes(), self.cursors[-1], self.digest()

    def close(self) -> None:
        self._projection.close()


class SourcePeer:
    """The replication routes of a node. What it does wrong is set by the test: see the attributes."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.floor = 0
        self.chunk_bytes: int | None = None
        self.spoil_chunk: Callable[[bytes], bytes] = lambda raw: raw
        self.spoil_snapshot: Callable[[bytes], bytes] = lambda raw: raw
        self.spoil_headers: dict[str, str] = {}
        self.cut_snapshot_at: int | None = None
        self.deleted = False
        self.away = 0  # requests that get no answer
        self.wal_requests = 0
        self.snapshot_ranges: list[str] = []

    def __call__(self, request: Request) -> Answer:
        url = urlsplit(request.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if self.away:
            self.away -= 1
            return HANG_UP
        if self.deleted:
            return _problem(DOCUMENT_DELETED)
        match url.path.removeprefix(f"/api/v1/db/{self.source.db_id}/"):
            case "wal":
                return self._wal(query)
            case "snapshot/latest":
                return self._snapshot(request, query)
        return Answer(404, {"title": "not found", "detail": request.path})

    def _wal(self, query: dict[str, str]) -> Answer:
        self.wal_requests += 1
        index = int(query["offset"])
        if index < self.floor:
            return _problem(FORGOTTEN)
        if index > self.source.head.index:
            return _problem(BEYOND)
        after = self.source.cursors[index]
        if query["hash"] != after.hash or int(query["segment"]) != after.position.epoch:
            return _problem(OTHER)
        raw = self.source.chunk(after, min(int(query["max_bytes"]), self.chunk_bytes or 1 << 20))
        return Answer(200, self.spoil_chunk(raw), {"Content-Type": "application/vnd.forge.wal"})

    def _meta(self, raw: bytes, cursor: Cursor, content: str) -> SnapshotMeta:
        return SnapshotMeta(
            db_id=self.source.db_id,
            generation=str(cursor.position),
            position=str(cursor.position),
            epoch=cursor.position.epoch,
            index=cursor.position.index,
            cursor={"segment": cursor.position.epoch, "offset": cursor.position.index},
            hash=cursor.hash,
            digest=content,
            sha256=hashlib.sha256(raw).hexdigest(),
            size_bytes=len(raw),
            page_size=4096,
            schema_version="1",
            created_at=now(),
            previous=None,
        )

    def _snapshot(self, request: Request, query: dict[str, str]) -> Answer:
        raw, cursor, content = self.source.snapshot()
        if "meta" in query:
            return Answer(200, self._meta(raw, cursor, content).model_dump())
        sha256 = base64.b64encode(hashlib.sha256(raw).digest()).decode()
        etag = f'"{cursor.position}"'
        headers = {
            "Forge-Position": str(cursor.position),
            "Forge-Hash": cursor.hash,
            "Forge-Digest": content,
            "Repr-Digest": f"sha-256=:{sha256}:",
            "ETag": etag,
        } | self.spoil_headers
        raw = self.spoil_snapshot(raw)
        wanted = request.headers.get("range", "")
        self.snapshot_ranges.append(wanted)
        if wanted and request.headers.get("if-range") == etag:
            first = int(wanted.removeprefix("bytes=").rstrip("-"))
            headers["Content-Range"] = f"bytes {first}-{len(raw) - 1}/{len(raw)}"
            return Answer(206, raw[first:], headers)
        if self.cut_snapshot_at is not None:
            headers["Content-Length"] = str(len(raw))
            raw, self.cut_snapshot_at = raw[: self.cut_snapshot_at], None
            return Answer(200, raw, headers | {"Connection": "close"})
        return Answer(200, raw, headers)


def _problem(kind: ProblemType) -> Answer:
    body = kind.problem("as the test wants it").body()
    return Answer(kind.status, json.dumps(body).encode(), {"Content-Type": "application/problem+json"})


@asynccontextmanager
async def served(source: Source) -> AsyncIterator[tuple[SourcePeer, Transport]]:
    """Serve `source`; give the peer, and a transport to it that tries three times without waiting."""
    handler = SourcePeer(source)

    async def no_wait(_: float) -> None:
        await asyncio.sleep(0)

    async with serving(handler) as peer:
        transport = transport_to(peer, no_wait)
        try:
            yield handler, transport
        finally:
            await transport.http.aclose()


def transport_to(peer: Peer, sleep: Any) -> Transport:
    """Return a transport to a peer."""
    return Transport(peer.url, "token", timeout_s=30.0, retry=Retry(attempts=3), sleep=sleep)


def content_of(path: Path) -> bytes:
    """Return the bytes of a file, none if it is a folder or missing."""
    return path.read_bytes() if path.is_file() else b""


def digest_of(path: Path) -> str:
    """Return the digest of the document in a file."""
    with closing(connect(path, readonly=True)) as db:
        return digest(db)
