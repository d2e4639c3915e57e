"""Pages of the change feed: from a position on, waiting for the first change if asked to, or the newest first."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

from pydantic_core import to_json

from api.places import FLOOR_HEADER, HEAD_HEADER, place, refusals
from api.routes import Reply, StreamReply
from events.cursor import Cursor, Extent
from projectors.document.history.changes import Selection
from projectors.document.history.decoding import Decoder
from projectors.document.history.feed import Passing
from projectors.document.history.history import History
from schemas.ids import PartitionId, Position

PAGE_BYTES = 1 << 20  # a page ends with the first commit that brings it over this


@dataclass(frozen=True, slots=True)
class Pages:
    """Makes pages for one history and selection."""

    history: History
    decoder: Decoder
    partition: PartitionId
    selection: Selection

    async def after(self, cursor: Cursor, *, limit: int, wait_s: float) -> StreamReply:
        """Return the page that follows `cursor`, whole commits until `limit` items or `PAGE_BYTES` are reached.

        Without a change it waits up to `wait_s` for one. A commit of any size is sent in parts as they are made.
        """
        with refusals(self.partition):
            first, cursor = await self._first(cursor, wait_s)
            known = await self.history.extent(self.partition)
        chunks = self._chunks(first, cursor, known.head, limit)
        return StreamReply(200, chunks, _headers(known), content_type="application/json")

    async def _first(self, cursor: Cursor, wait_s: float) -> tuple[Passing | None, Cursor]:
        """Return the first record that is wanted, if one comes within `wait_s`, and the cursor before it."""
        async with aclosing(self.history.read(self.partition, cursor)) as entries:
            async for entry in entries:
                if await self.decoder.wants(passing := Passing(entry), self.selection):
                    return passing, cursor
                cursor = entry.cursor
        if not wait_s:
            return None, cursor
        try:
            async with (
                asyncio.timeout(wait_s),
                self.history.following(self.partition) as feed,
                aclosing(feed.follow(cursor)) as passings,
            ):
                async for passing in passings:
                    if await self.decoder.wants(passing, self.selection):
                        return passing, cursor
                    cursor = passing.entry.cursor
        except TimeoutError:
            pass
        return None, cursor

    async def _chunks(self, first: Passing | None, cursor: Cursor, head: Position, limit: int) -> AsyncIterator[bytes]:
        yield b'{"changes":['
        count = size = 0
        async with aclosing(self._from(first)) as passings:
            async for passing in passings:
                async for item in self.decoder.items(passing, self.selection):
                    yield b"," + item if count else item
                    count += 1
                    size += len(item)
                cursor = passing.entry.cursor
                if count >= limit or size >= PAGE_BYTES:
                    break
        head = max(head, cursor.position)
        yield b"]," + _end(cursor.position, head, eof=cursor.position == head)

    async def _from(self, first: Passing | None) -> AsyncGenerator[Passing]:
        if first is not None:
            yield first
            async with aclosing(self.history.read(self.partition, first.entry.cursor)) as entries:
                async for entry in entries:
                    yield Passing(entry)

    async def before(self, position: Position | None, *, limit: int) -> Reply:
        """Return what at most `limit` commits before `position` (None: the newest) did, the newest first.

        `next` is the position to ask `before` next; `eof` says that the log holds nothing older.
        """
        with refusals(self.partition):
            known = await self.history.extent(self.partition)
        end = position or known.head.next()
        if end.index > known.head.index + 1 or end.epoch != known.head.epoch:
            await place(self.history, self.partition, end)  # which refuses what is not of this history
        oldest = max(known.floor.index, 1)
        begin = max(min(oldest, end.index) - 1, end.index - 1 - limit, 0)
        with refusals(self.partition):
            commits = await self._commits(await self.history.place_of(self.partition, begin), end)
        start = commits[0][0] if commits else end
        body = b",".join(event for _, events in reversed(commits) for event in reversed(events))
        told = _end(start, known.head, eof=start.index <= oldest)
        return Reply(200, b'{"changes":[%b],%b' % (body, told), _headers(known))

    async def _commits(self, cursor: Cursor, end: Position) -> deque[tuple[Position, list[bytes]]]:
        """Return each commit from `cursor` up to before `end` with its events, the newest that make up a page."""
        commits: deque[tuple[Position, list[bytes]]] = deque()
        size = 0
        if cursor.position.index + 1 >= end.index:
            return commits
        async with aclosing(self.history.read(self.partition, cursor)) as entries:
            async for entry in entries:
                events = await self.decoder.by_event(Passing(entry), self.selection)
                commits.append((entry.cursor.position, events))
                size += sum(map(len, events))
                while size > PAGE_BYTES and len(commits) > 1:  # what is older goes into the next page
                    size -= sum(map(len, commits.popleft()[1]))
                if entry.cursor.position.index + 1 >= end.index:
                    break
        return commits


def _end(next_: Position, head: Position, *, eof: bool) -> bytes:
    return to_json({"next": str(next_), "head": str(head), "eof": eof})[1:]


def _headers(known: Extent) -> dict[str, str]:
    return {HEAD_HEADER: str(known.head), FLOOR_HEADER: str(known.floor), "cache-control": "no-store"}
