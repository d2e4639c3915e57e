"""Copies documents into new ones, part by part, going on where an earlier attempt was cut off."""

import asyncio
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from projectors.document.domain import document_partition, document_path
from projectors.document.past.cloning import PART_BYTES, Part, Progress, parts_of, read_progress
from projectors.document.past.travel import TimeTravel
from projectors.partitions import Partitions
from projectors.projection import connect
from projectors.threads import Threads
from schemas.document import CopyContent
from schemas.ids import START, Position
from schemas.problems import CONFLICT, UNAVAILABLE, Refusal

CLONES_MAX = 2
OPEN_WAIT_S = 10.0
PART_WAIT_S = 120.0


class Cloner:
    """At most `CLONES_MAX` documents are copied at a time. `close` it when nothing runs."""

    def __init__(
        self, partitions: Partitions, travel: TimeTravel, docs_dir: Path, *, part_bytes: int = PART_BYTES
    ) -> None:
        self._partitions = partitions
        self._travel = travel
        self._docs_dir = docs_dir
        self._part_bytes = part_bytes
        self._threads = Threads(CLONES_MAX, "clone")
        self._running = 0

    async def progress(self, db_id: str) -> Progress:
        """Return how far a document is as a clone."""
        await self._partitions[document_partition(db_id)].ready(OPEN_WAIT_S)
        return await self._threads.run(_progress, document_path(self._docs_dir, db_id))

    async def check_unused(self, db_id: str) -> None:
        """Raise `Refusal` (409) if half a clone lies under a name: whoever made a document of it would see that."""
        if not await self._travel.has_history(db_id):
            return
        found = await self.progress(db_id)
        if found.source is not None and not found.whole:
            raise Refusal(
                CONFLICT.problem(
                    f"a clone of {found.source} at {found.source_position} was begun as {db_id} and is not finished",
                    fix=f"Ask for it again: `POST /api/v1/db/{found.source}/clone`. Or choose another name.",
                    field="db_id",
                )
            )

    async def copy(self, source: str, target: str, moment: Position | str | None, *, principal: str) -> Position:
        """Bring what `source` is now, or was at `moment`, into `target`; return the position that was copied.

        What an earlier attempt began is finished, at the position that it began with. Raise `Refusal`: 409 if
        `target` holds something else, 503 if too many clones are made, and what `TimeTravel.at` raises.
        """
        if self._running >= CLONES_MAX:
            raise Refusal(UNAVAILABLE.problem(f"{CLONES_MAX} documents are being cloned", retry_after_s=5))
        self._running += 1
        try:
            return await self._copy(source, target, moment, principal)
        finally:
            self._running -= 1

    async def _copy(self, source: str, target: str, moment: Position | str | None, principal: str) -> Position:
        found = await self.progress(target)
        begun = _begun(found, source, target)
        if begun is None and self._partitions[document_partition(target)].position != START:
            why = f"{target} has a history of its own"
            raise Refusal(CONFLICT.problem(why, fix="Choose another name.", field="db_id"))
        if begun is None and moment is None:
            await (of := self._partitions[document_partition(source)]).ready(OPEN_WAIT_S)
            moment = of.position
        wanted = begun if moment is None else moment
        assert wanted is not None
        async with self._travel.at(source, wanted) as copy:
            position = copy.moment.position
            if begun is not None and begun != position:
                why = f"a clone of {source} at {begun} was begun as {target}, and {position} is another state"
                raise Refusal(CONFLICT.problem(why, fix="Finish that one, or choose another name.", field="at"))
            if not found.whole:
                await self._submit_all(copy.path, found.parts, source, position, target, principal)
        return position

    async def _submit_all(
        self, path: Path, first: int, source: str, position: Position, target: str, principal: str
    ) -> None:
        parts = parts_of(path, first, part_bytes=self._part_bytes)
        try:
            while (part := await self._threads.run(_next, parts)) is not None:
                command = CopyContent(
                    source=source,
                    source_position=str(position),
                    part=part.number,
                    last=part.last,
                    steps=part.steps,
                    tables=part.tables,
                    system_version=part.system_version,
                )
                await self._partitions.submit(
                    document_partition(target), command, principal=principal, timeout_s=PART_WAIT_S
                )
        finally:
            await self._threads.run(parts.close)

    async def close(self) -> None:
        """End the threads."""
        await asyncio.to_thread(self._threads.close)


def _begun(found: Progress, source: str, target: str) -> Position | None:
    """Return the position at which a clone of `source` was begun as `target`; refuse if it is one of another."""
    if found.source is None or found.source_position is None:
        return None
    if found.source != source:
        why = f"{target} is a clone of {found.source}"
        raise Refusal(CONFLICT.problem(why, fix="Choose another name.", field="db_id"))
    return Position.parse(found.source_position)


def _progress(path: Path) -> Progress:
    with closing(connect(path, readonly=True)) as db:
        return read_progress(db)


def _next(parts: Iterator[Part]) -> Part | None:
    return next(parts, None)
