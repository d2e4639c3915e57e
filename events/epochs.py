"""The epochs of an archive: the newest table of what counts, and how a new one is begun."""

from pydantic import ValidationError

from events.errors import MalformedRecord
from events.objects.errors import PreconditionFailed
from events.objects.port import LIST_MAX, ObjectStore
from schemas.archive import EPOCHS, EpochTable, epoch_key, parse_epoch_key
from schemas.damage import damage
from schemas.ids import InvalidId


class EpochTaken(Exception):
    """Somebody else has begun this epoch, or a later one: this writer is not the writer any more."""


class Epochs:
    """The newest table below `prefix` of a store; of a new archive, and of one that never changed hands, it is empty.

    Raises what the store raises, and `MalformedRecord`.
    """

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self._store = store
        self._prefix = prefix
        self._known: EpochTable | None = None

    async def table(self, epoch: int = 0) -> EpochTable:
        """Return the newest table; what was read once is looked for again if it knows nothing of `epoch`."""
        if self._known is None or self._known.epoch < epoch:
            return await self.refresh()
        return self._known

    async def refresh(self) -> EpochTable:
        """Look for a newer table, and return the newest."""
        known = self._known or EpochTable()
        newest = await self._newest(known.epoch)
        if newest > known.epoch or (self._known is None and newest == known.epoch):
            known = await self._read(newest)
        if self._known is None or self._known.epoch < known.epoch:
            self._known = known  # else somebody else has found a newer one meanwhile
        return self._known

    async def begin(self, table: EpochTable) -> None:
        """Begin the epoch of `table`, before anything of it is stored; raise `EpochTaken`. Repeating it is safe."""
        key, body = self._prefix + epoch_key(table.epoch), table.model_dump_json().encode()
        if await self._newest(table.epoch) > table.epoch:
            raise EpochTaken(f"epoch {table.epoch} is over: a later one has begun")
        try:
            await self._store.create(key, body)
        except PreconditionFailed as error:
            if (await self._read(table.epoch)).ends != table.ends:
                raise EpochTaken(f"{key} was written by somebody else") from error
        self._known = table

    async def _newest(self, epoch: int) -> int:
        """Return the newest epoch that has a table, 0 if none has; one before `epoch` may be overlooked."""
        newest = 0
        after = self._prefix + epoch_key(epoch - 1)
        while True:
            page = await self._store.list(self._prefix + EPOCHS, after=after)
            for found in page:
                try:
                    newest = max(newest, parse_epoch_key(found.key.removeprefix(self._prefix)))
                except InvalidId:
                    continue  # somebody else's object
            if len(page) < LIST_MAX:
                return newest
            after = page[-1].key

    async def _read(self, epoch: int) -> EpochTable:
        key = self._prefix + epoch_key(epoch)
        try:
            table = EpochTable.model_validate_json((await self._store.get(key)).data)
        except ValidationError as error:
            raise MalformedRecord(f"{key} does not say what counts: {damage(error)}") from error
        if table.epoch != epoch:
            raise MalformedRecord(f"{key} is of epoch {table.epoch}")
        return table
