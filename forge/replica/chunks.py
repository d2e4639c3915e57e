"""Slices of a document's history from its node, each verified against where the replica stands."""

from collections.abc import Mapping

from events.chunk import Chunk, open_chunk
from events.cursor import Cursor
from forge.client.documents import path_of
from forge.client.errors import UnexpectedAnswer
from forge.client.transport import Transport
from projectors.document.domain import document_partition
from schemas.wal import InvalidChunk

CHUNK_BYTES = 1 << 20
WAIT_MS = 25_000
ATTEMPTS = 3
NOTHING: Mapping[str, str] = {}


class Chunks:
    """The chunks of one document; `fetch` them in order."""

    def __init__(self, transport: Transport, db_id: str, *, chunk_bytes: int = CHUNK_BYTES) -> None:
        self._transport = transport
        self._db_id = db_id
        self._partition = document_partition(db_id)
        self._chunk_bytes = chunk_bytes

    async def fetch(self, after: Cursor, *, wait_ms: int = 0, told: Mapping[str, str] = NOTHING) -> Chunk:
        """Return what follows `after`, waiting so long for it if there is nothing yet (the chunk may be empty).

        `told` is what the node hears of the replica.

        Raise `ForeignHistory` if the node has another history, `ForgeError` 409, 410 or 416 if it says so itself,
        `UnexpectedAnswer` if a chunk arrives damaged again and again.
        """
        asked = {
            "segment": after.position.epoch,
            "offset": after.position.index,
            "hash": after.hash,
            "max_bytes": self._chunk_bytes,
            "wait_ms": wait_ms,
            **told,
        }
        for attempt in range(1, ATTEMPTS + 1):
            response = await self._transport.send("GET", path_of(self._db_id, "wal"), params=asked)
            try:
                return open_chunk(response.content, self._partition, after)
            except InvalidChunk as error:
                if type(error) is not InvalidChunk:
                    raise
                if attempt == ATTEMPTS:
                    raise UnexpectedAnswer(self._transport.url, f"the log arrives damaged: {error}") from error
        raise AssertionError("unreachable")
