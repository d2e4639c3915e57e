"""The route of snapshots: a document as one SQLite file, in ranges if need be."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from api.byte_ranges import FileParts, byte_range
from api.inputs import MIN_POSITION, flag_input, header
from api.places import Documents, document, flag
from api.positions import POSITION_HEADER, min_position
from api.routes import Reply, Request, Route, StreamReply
from api.tracking import WHO, Tracking
from projectors.document.history.snapshots import Snapshot, Snapshots
from projectors.threads import Threads
from schemas.ids import Position
from schemas.snapshot import SnapshotMeta

CONTENT_TYPE = "application/vnd.sqlite3"
INPUTS = (
    flag_input("meta", "Only what there is to say of it, as JSON."),
    header("Range", "One range of bytes of the file, `bytes=0-1023`."),
    header("If-Range", "The ETag of the snapshot of which the range is wanted, as long as it is kept."),
    header("If-None-Match", "The ETag of the snapshot that the caller has: 304 if it is the newest."),
    MIN_POSITION,
    *WHO,
)


@dataclass(frozen=True, slots=True)
class SnapshotApi:
    """The handler, with what it needs; `threads` read the files."""

    snapshots: Snapshots
    documents: Documents
    threads: Threads
    tracking: Tracking

    def routes(self) -> Sequence[Route]:
        """Return the route table of snapshots."""
        return (
            Route(
                "GET",
                "/api/v1/db/{db_id}/snapshot/latest",
                "query.read",
                self.latest,
                resource="/snapshot",
                inputs=INPUTS,
                media={200: (CONTENT_TYPE,), 206: (CONTENT_TYPE,)},
                replies={
                    200: SnapshotMeta,
                    206: "the range of the file that was asked for",
                    304: "the snapshot is the one that If-None-Match names",
                    416: "the range lies outside of the file",
                },
                summary="The document as one SQLite file (`meta=true`: only what there is to say of it)",
            ),
        )

    async def latest(self, request: Request[None]) -> Reply | StreamReply:
        """Answer the newest snapshot, or the one whose download `If-Range` goes on with, as long as it is kept."""
        document(request, self.documents)
        snapshot = await self._snapshot(request)
        headers = _headers(snapshot)
        if request.headers.get("if-none-match", "").strip() == headers["etag"]:
            return Reply(304, None, headers)
        if flag(request, "meta", False):
            return Reply(200, snapshot.meta, headers)
        headers |= self.tracking.begun(self.tracking.bootstrapping(request, Position.parse(snapshot.meta.position)))
        if_range = request.headers.get("if-range", "").strip()
        asked = request.headers.get("range") if if_range in ("", headers["etag"]) else None
        size = snapshot.meta.size_bytes
        part = byte_range(asked, size)
        start, end = part or (0, size)
        if part:
            headers["content-range"] = f"bytes {start}-{end - 1}/{size}"
        headers["content-length"] = str(end - start)
        if request.method == "HEAD":
            start = end
        parts = FileParts(snapshot.path, start, end, self.threads)
        return StreamReply(206 if part else 200, parts, headers, CONTENT_TYPE)

    async def _snapshot(self, request: Request[None]) -> Snapshot:
        if_range = request.headers.get("if-range", "").strip().strip('"')
        kept = self.snapshots.find(request.db_id, if_range) if if_range else None
        return kept or await self.snapshots.latest(request.db_id, min_position(request))


def _headers(snapshot: Snapshot) -> dict[str, str]:
    meta = snapshot.meta
    return {
        POSITION_HEADER: meta.position,
        "forge-hash": meta.hash,
        "forge-digest": meta.digest,
        "forge-page-size": str(meta.page_size),
        "repr-digest": f"sha-256=:{base64.b64encode(bytes.fromhex(meta.sha256)).decode()}:",
        "etag": f'"{meta.generation}"',
        "accept-ranges": "bytes",
        "cache-control": "no-store",
    }
