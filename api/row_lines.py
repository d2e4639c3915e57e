"""Rows as lines of JSON: the columns first, then one array per row, at the end what it was or why it broke off."""

from typing import Self

import structlog
from pydantic_core import to_json

from projectors.document.reads.row_stream import RowStream, RowStreams
from projectors.document.sql.results import lines_json
from schemas.problems import INTERNAL, Problem, Refusal

NDJSON = "application/x-ndjson"
_log = structlog.get_logger(__name__)


class RowLines:
    """The parts of one answer. Not a generator, since one that was never begun would keep its connection."""

    def __init__(self, streams: RowStreams, stream: RowStream, request_id: str) -> None:
        self._streams = streams
        self._stream: RowStream | None = stream
        self._request_id = request_id
        self._begun = False
        self._rows = 0
        self._bytes = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._stream is None:
            raise StopAsyncIteration
        if not self._begun:
            self._begun = True
            return to_json({"columns": self._stream.columns}) + b"\n"
        try:
            if rows := await self._streams.next(self._stream):
                lines = lines_json(rows)
                self._rows += len(rows)
                self._bytes += len(lines)
                return lines
        except Refusal as refusal:
            return await self._broken_off(refusal.problem)
        except Exception:
            _log.exception("stream of rows failed")
            return await self._broken_off(INTERNAL.problem("the read failed inside the node"))
        position = str(self._stream.position)
        await self.aclose()
        return to_json({"row_count": self._rows, "result_bytes": self._bytes, "position": position}) + b"\n"

    async def _broken_off(self, problem: Problem) -> bytes:
        await self.aclose()
        body = problem.model_copy(update={"request_id": self._request_id}).body()
        return to_json({"problem": body}) + b"\n"

    async def aclose(self) -> None:
        """Give the connection back; may be called again."""
        stream, self._stream = self._stream, None
        if stream is not None:
            self._streams.close(stream)
