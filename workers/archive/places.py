"""How far each partition is archived: read from the store when first needed, compared with the log, and moved on."""

from collections import OrderedDict

from events.archive import Archive
from events.archived_place import Place, archived_end
from events.connection import Connection
from events.cursor import Cursor
from events.errors import ChainMismatch, LogGap
from events.objects.errors import ObjectMissing, PreconditionFailed, StoreUnavailable
from events.read import check_end
from events.seek import OutOfReach, seek
from events.streams import stream_of
from schemas.archive import ArchivedPlace, place_key
from schemas.ids import PartitionId

PLACES_MAX = 4096  # remembered; others are read again


class Places:
    """The places of the partitions that this node archives."""

    def __init__(self, archive: Archive, reader: Connection, node: str) -> None:
        self._archive = archive
        self._reader = reader
        self._node = node
        self._known: OrderedDict[PartitionId, Place] = OrderedDict()

    async def find(self, partition: PartitionId) -> Place:
        """Return the place of a partition.

        Segments that were stored when their archiver died belong to it. Raise `LogDamaged` if the log does not hold
        what is archived: it lost something, or the archive is that of another history.
        """
        if known := self._known.get(partition):
            self._known.move_to_end(partition)
            return known
        place = await archived_end(self._archive, partition)
        return self._remember(partition, place._replace(cursor=await self._here(partition, place.cursor)))

    async def _here(self, partition: PartitionId, archived: Cursor) -> Cursor:
        """Return the end of the archive as a place in the log here; raise `LogDamaged` if the log does not hold it.

        The archiver may have been another node's, whose log kept the record elsewhere.
        """
        try:
            await check_end(self._reader, partition, archived)
        except LogGap:
            try:
                here = await seek(self._reader, partition, archived.position)
            except OutOfReach as error:
                raise LogGap(f"the log does not hold what is archived: {error}") from error
            if here.hash != archived.hash:
                raise ChainMismatch(
                    f"the log of {partition} holds another record {archived.position} than its archive: the archive "
                    "is that of another history"
                ) from None
            return here
        return archived

    async def tell(self, partition: PartitionId) -> None:
        """Say in the store how far a partition is archived, unless it says so already. One call at a time for each."""
        place = await self.find(partition)
        if not place.untold:
            return
        key = self._archive.key(place_key(stream_of(partition), partition))
        body = _body(partition, place, self._node)
        tag, store = place.tag, self._archive.store
        try:
            tag = await (store.swap(key, body, tag) if tag else store.create(key, body))
        except PreconditionFailed as error:
            try:
                found = await store.get(key)
            except ObjectMissing:
                self.forget(partition)
                raise StoreUnavailable(f"{key} was there, and is not any more") from error
            if found.data != body:
                self.forget(partition)
                raise StoreUnavailable(f"another archiver moves {partition} on") from error
            tag = found.tag  # the first attempt had done it, and its answer was lost
        self._remember(partition, place._replace(tag=tag, untold=0))

    def forget(self, partition: PartitionId) -> None:
        """Read the place of a partition again when it is needed."""
        self._known.pop(partition, None)

    def known(self, partition: PartitionId) -> Cursor | None:
        """Return how far a partition is archived, None if that would have to be looked up."""
        place = self._known.get(partition)
        return None if place is None else place.cursor

    def advance(self, partition: PartitionId, cursor: Cursor, time: str) -> int:
        """Note that one more segment is stored, up to `cursor`; return of how many the store does not tell."""
        if (before := self._known.get(partition)) is None:
            return 1  # so many others came meanwhile that it was forgotten: whoever needs it looks it up
        return self._remember(partition, Place(cursor, before.tag, time, before.untold + 1)).untold

    def _remember(self, partition: PartitionId, place: Place) -> Place:
        self._known[partition] = place
        self._known.move_to_end(partition)
        while len(self._known) > PLACES_MAX:
            self._known.popitem(last=False)
        return place


def _body(partition: PartitionId, place: Place, node: str) -> bytes:
    stored = ArchivedPlace(
        partition=partition.subject,
        position=str(place.cursor.position),
        hash=place.cursor.hash,
        sequence=place.cursor.sequence,
        time=place.time or None,
        node=node,
    )
    return stored.model_dump_json().encode()
