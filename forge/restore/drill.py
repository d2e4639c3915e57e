"""A drill: restore one projection into a scratch folder, compare it, and throw it away."""

import asyncio
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import apsw

from events.archive import Archive
from events.archived_place import archived_end
from events.cursor import Cursor
from events.errors import LogDamaged, LogUnavailable
from forge.restore.fresh import Wanted, fold_at
from forge.restore.scratch import scratch_folder
from projectors.digest import digest
from projectors.domain import Domain, ProjectionSpec
from projectors.generations.errors import GenerationError
from projectors.generations.reading import latest
from projectors.projection import WrongProjection, connect, read_cursor
from projectors.rebuild import digest_of
from projectors.threads import Threads
from schemas.drill import DrillResult
from schemas.ids import PartitionId
from schemas.instants import now

ARCHIVED_WAIT_S = 30.0
LOOK_S = 0.2


class NotDrilled(Exception):
    """There is nothing to compare: the projection is neither here nor in the archive."""


class Reference(NamedTuple):
    """What the restored file must be equal to: at this place, with this digest (None: of the records alone)."""

    cursor: Cursor
    digest: str | None


@dataclass(frozen=True, slots=True)
class Drill:
    """What drills need; files are made below `scratch`, one folder for each drill, gone afterwards, or with the next
    drill if it was killed."""

    archive: Archive
    threads: Threads
    scratch: Path
    node: str
    wait_s: float = ARCHIVED_WAIT_S

    async def run(self, domain: Domain, partition: PartitionId, spec: ProjectionSpec) -> DrillResult:
        """Restore a projection and say whether it is what it must be.

        The node may go on writing: its database is read in one snapshot, and the archive waited for. Raise
        `NotDrilled`, `LogUnavailable`, and what the store raises; whatever else goes wrong is the result.
        """
        async with scratch_folder(self.scratch) as folder:
            began = time.monotonic()
            try:
                reference = await self._reference(partition, spec)
                wanted = Wanted(partition, domain, [spec], reference.cursor)
                return await self._compare(wanted, reference, folder)
            except LogUnavailable:
                raise
            except (LogDamaged, GenerationError, WrongProjection, apsw.Error, OSError) as error:
                return self._result(spec, time.monotonic() - began, reason=str(error) or type(error).__name__)

    async def _reference(self, partition: PartitionId, spec: ProjectionSpec) -> Reference:
        here = await self.threads.run(_here, spec, partition)
        if here is None:
            end = (await archived_end(self.archive, partition)).cursor
            if not end.position.index:
                raise NotDrilled(f"{spec.name} is neither here nor archived")
            return Reference(end, None)
        await self._archived(partition, here.cursor)
        return here

    async def _archived(self, partition: PartitionId, cursor: Cursor) -> None:
        """Wait until the archive holds what the node has; raise `LogDamaged` if it never does, or holds another."""
        deadline = time.monotonic() + self.wait_s
        while (found := await self.archive.cursor_at(partition, cursor.position)) is None:
            if time.monotonic() > deadline:
                raise LogDamaged(f"{partition} stands at {cursor.position}, which is not archived")
            await asyncio.sleep(LOOK_S)
        if found.hash != cursor.hash:
            raise LogDamaged(f"the archive of {partition} holds another record {cursor.position} than this node")

    async def _compare(self, wanted: Wanted, reference: Reference, folder: Path) -> DrillResult:
        (spec,) = wanted.specs
        restored = folder / "restored.db"
        began = time.monotonic()
        refused = [problem] if (problem := await self._pointer_problem(spec)) else []
        (generation,), _ = await fold_at(self.archive, self.threads, wanted, [restored], refused=refused)
        seconds = time.monotonic() - began
        found = await self.threads.run(digest_of, restored)
        expected = reference.digest
        if expected is None:
            records = folder / "records.db"
            await fold_at(self.archive, self.threads, wanted, [records], from_generation=False)
            expected = await self.threads.run(digest_of, records)
        reason = "" if found == expected else f"its digest is {found}, but must be {expected}"
        return self._result(
            spec,
            seconds,
            reason="; ".join([*([reason] if reason else []), *refused]),
            position=str(wanted.end.position),
            digest=found,
            compared_with="records" if reference.digest is None else "node",
            generation=generation.position if generation else None,
            size_bytes=(await asyncio.to_thread(restored.stat)).st_size,
        )

    async def _pointer_problem(self, spec: ProjectionSpec) -> str | None:
        """Return why the newest generation cannot even be found; restoring would take an older one."""
        try:
            await latest(self.archive, spec.name)
        except GenerationError as error:
            return str(error)
        return None

    def _result(
        self,
        spec: ProjectionSpec,
        seconds: float,
        *,
        reason: str,
        position: str | None = None,
        digest: str | None = None,
        compared_with: Literal["node", "records"] | None = None,
        generation: str | None = None,
        size_bytes: int = 0,
    ) -> DrillResult:
        return DrillResult(
            projection=spec.name,
            green=not reason,
            reason=reason,
            at=now(),
            position=position,
            digest=digest,
            compared_with=compared_with,
            generation=generation,
            seconds=round(seconds, 3),
            size_bytes=size_bytes,
            node=self.node,
        )


def _here(spec: ProjectionSpec, partition: PartitionId) -> Reference | None:
    """Return what the database of this node holds now, None if it has none of this version with a record in it."""
    if not spec.path.exists():
        return None
    with closing(connect(spec.path, readonly=True)) as db:
        db.execute("BEGIN")  # one snapshot, whatever is written meanwhile
        found, version = db.execute("SELECT partition, version FROM _forge_position").get
        cursor = read_cursor(db)
        if (found, version) != (partition.subject, spec.version) or not cursor.position.index:
            return None
        return Reference(cursor, digest(db))
