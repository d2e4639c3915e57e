"""The mark of a stream in the store: how far it was looked through, and which partitions have changed lately."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable

from ulid import ULID

from events.archive import Archive
from events.objects.errors import CorruptObject, ObjectMissing, PreconditionFailed
from schemas.archive import Mark, mark_key
from schemas.ids import PartitionId

MARK_EVERY_S = 5.0  # so much is read once more after a crash
TELL_EVERY_S = 1.0  # those who follow the archive hear so often what has changed,
TOLD_MAX = 256  # and look through everything if it was more
BUSY_S = 10.0  # so long after its last change a partition is still said to be busy: saying so costs a request
BUSY_MAX = 1024  # named in a mark; if there are more, any may be busy


class Marker:
    """Keeps the mark of the stream `name`; another archiver may have been faster, and nothing is lost by that."""

    def __init__(self, archive: Archive, name: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._store = archive.store
        self._key = archive.key(mark_key(name))
        self._teller = str(ULID())
        self._created = ""
        self._changed: deque[str] = deque(maxlen=TOLD_MAX)
        self._changes = self._told = 0
        self._sequence, self._saved_at = 0, 0.0
        self._tag = ""
        self._busy: dict[str, float] = {}  # until when, by token
        self._storing: set[str] = set()  # of which nobody knows yet what is stored
        self._said: frozenset[str] | None = frozenset()  # to be busy in the mark that is stored; None: any is
        self._seen = 0

    async def begin(self, created: str) -> int:
        """Return up to which sequence everything is archived of the stream that was made at `created`."""
        self._created = created
        try:
            found = await self._store.get(self._key)
            mark = Mark.model_validate_json(found.data)
        except (ObjectMissing, CorruptObject, ValueError):
            mark = Mark(sequence=0, created="")
        self._sequence = mark.sequence if mark.created == created else 0  # numbers of another stream say nothing
        return self._sequence

    async def announce(self, partitions: Iterable[PartitionId], sequence: int, seen: int) -> None:
        """Say that something of `partitions` is going to be stored, before it is; raise what the store raises.

        Whoever takes over looks there, for the last changes of a writer that died are told by nobody. Of those that
        have changed lately it is said already, and costs nothing.
        """
        tokens = {partition.token for partition in partitions}
        self._busy |= dict.fromkeys(tokens, math.inf)
        self._storing |= tokens
        self._seen = max(self._seen, seen)
        if self._said is not None and not tokens <= self._said:
            await self._store_mark(sequence)

    def archived(self, partition: PartitionId) -> None:
        """Note that a partition has changed in the archive; it is busy until its position is told, too."""
        self._storing.discard(partition.token)
        self._changed.append(partition.token)
        self._changes += 1

    def told(self, partition: PartitionId) -> None:
        """Note that the position of a partition says all that is archived of it."""
        if partition.token in self._busy and partition.token not in self._storing:
            self._busy[partition.token] = self._clock() + BUSY_S

    def due_s(self, sequence: int) -> float | None:
        """Return in how many seconds the mark shall be saved, if `sequence` is the newest; None: it says all.

        That nothing is busy any more is said once.
        """
        if self._changes == self._told and sequence <= self._sequence:
            quiet = self._said != frozenset() and max(self._busy.values(), default=0.0) <= self._clock()
            return 0.0 if quiet else None
        every_s = TELL_EVERY_S if self._changes != self._told else MARK_EVERY_S
        return max(0.0, self._saved_at + every_s - self._clock())

    async def save(self, sequence: int) -> None:
        """Store the mark if it says something new; raise what the store raises."""
        if self.due_s(sequence) is None:
            return
        await self._store_mark(sequence)
        self._saved_at = self._clock()

    async def _store_mark(self, sequence: int) -> None:
        changes, sequence, now = self._changes, max(sequence, self._sequence), self._clock()
        self._busy = {token: until for token, until in self._busy.items() if until > now}
        said = frozenset(self._busy) if len(self._busy) <= BUSY_MAX else None
        mark = Mark(
            sequence=sequence,
            created=self._created,
            teller=self._teller,
            told=changes,
            changed=tuple(self._changed),
            busy=None if said is None else tuple(sorted(said)),
            seen=max(self._seen, sequence),
        )
        self._said = frozenset()  # if nobody knows what becomes of it, nobody knows what is said
        await self._put(mark.model_dump_json().encode())
        self._told, self._sequence, self._said = changes, sequence, said

    async def _put(self, body: bytes) -> None:
        tag, self._tag = self._tag, ""  # whatever happens to it now, it is looked up if that is not known
        try:
            if tag:
                self._tag = await self._store.swap(self._key, body, tag)
                return
        except PreconditionFailed:
            pass
        try:
            tag = (await self._store.get(self._key)).tag
        except CorruptObject:
            await self._store.delete(self._key)  # it tells nobody anything
            tag = ""
        except ObjectMissing:
            tag = ""
        self._tag = await (self._store.swap(self._key, body, tag) if tag else self._store.create(self._key, body))
