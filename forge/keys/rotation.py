"""Encrypt the archive again: for other recipients, with another key of the node, or what was stored in the clear."""

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

from events.objects import age
from events.objects.age import Recipient
from events.objects.errors import KeyRefused, ObjectMissing, PreconditionFailed, StoreUnavailable
from events.objects.keyring import Keyring, StoredRecord
from events.objects.port import Listed, ObjectStore
from events.objects.sealed import is_sealed
from forge.key_files import node_key
from forge.keys.access import KeyAccess
from forge.keys.survey import all_objects
from forge.private_file import write_private
from schemas.encryption import RecipientsRecord
from schemas.instants import now
from schemas.settings import Settings

AT_ONCE = 8
BATCH_BYTES = 64 << 20  # of objects that are rewritten at the same time; a larger one is alone
TRIES_MAX = 8  # a running node may change an object at the same time


class Progress(NamedTuple):
    """How far a rotation has come."""

    objects: int
    rewritten: int


class RecipientsChanged(Exception):
    """Somebody has changed the recipients while the archive was being encrypted again."""


def under_way(record: RecipientsRecord | None) -> bool:
    """Say whether a rotation began and did not end."""
    return record is not None and record.rotated_to is not None


def replace_node_key(settings: Settings) -> None:
    """Give the node a new key; the former one stays in the file below it, for secrets that it opens."""
    path = node_key(settings)
    former = path.read_text() if path.exists() else ""
    write_private(
        path, f"{age.new_identity()}\n# former, until {now()}\n{former}" if former else f"{age.new_identity()}\n"
    )


async def begin(access: KeyAccess) -> RecipientsRecord:
    """Say in the store for whom all is to be encrypted; raise `KeyRefused` unless the keys here open all of it."""
    await access.keyring.admit()
    stored = await access.keyring.read()
    wanted = access.keyring.wanted(make=True)
    if not wanted:
        raise KeyRefused("FORGE_RECIPIENTS names nobody to encrypt for")
    record = stored.record
    if record is None or record.current.publics() != {one.public for one in wanted}:
        record = access.keyring.next_record(record, wanted)
    record = record.model_copy(update={"rotated_to": ""})
    await _note(access.keyring, stored, record)
    return record


async def rotate(access: KeyAccess, told: Callable[[Progress], None]) -> Progress:
    """Encrypt every object for the last recipients alone; goes on where an earlier call was interrupted.

    A node that runs may go on writing, as long as it encrypts for them.
    """
    keyring, store = access.keyring, access.store
    stored = await keyring.read()
    record = stored.record
    if record is None or record.rotated_to is None:
        raise RecipientsChanged("no rotation is under way: it is done, or the recipients were changed since it began")
    recipients = [Recipient(one.public, one.name) for one in record.current.recipients]
    everything = len(record.sets) > 1
    progress = Progress(0, 0)
    after = f"{access.prefix}{record.rotated_to}" if record.rotated_to else ""
    async for page in all_objects(store, access.prefix, after):
        for batch in _batches(page):
            done = await asyncio.gather(*(_rewrite(store, keyring, one.key, recipients, everything) for one in batch))
            progress = Progress(progress.objects + len(batch), progress.rewritten + sum(done))
            told(progress)
        reached = page[-1].key.removeprefix(access.prefix)
        stored = await _note(keyring, stored, record.model_copy(update={"rotated_to": reached}))
    finished = {"rotated_to": None, "sets": (record.current,), "revision": record.revision + 1}
    await _note(keyring, stored, record.model_copy(update=finished))
    return progress


async def _note(keyring: Keyring, stored: StoredRecord, record: RecipientsRecord) -> StoredRecord:
    try:
        return await keyring.write(record, stored.tag)
    except PreconditionFailed:
        found = await keyring.read()
        if found.record == record:
            return found  # our own first attempt, whose answer was lost
        raise RecipientsChanged("the recipients were changed meanwhile: run it again") from None


async def _rewrite(
    store: ObjectStore, keyring: Keyring, key: str, recipients: Sequence[Recipient], everything: bool
) -> bool:
    """Encrypt one object for `recipients`, or decrypt what need not be; return whether it was changed."""
    wanted = keyring.encrypts(key)
    for _ in range(TRIES_MAX):
        try:
            if not everything and await _is_as_wanted(store, key, wanted):
                return False
            found = await store.get(key)
        except ObjectMissing:
            return False
        sealed = is_sealed(key, found.data)
        if not sealed and not wanted:
            return False
        data = await asyncio.to_thread(keyring.open, key, found.data) if sealed else found.data
        if wanted:
            data = await asyncio.to_thread(age.encrypt, data, recipients)
        try:
            await store.swap(key, data, found.tag)
        except PreconditionFailed:
            continue
        return True
    raise StoreUnavailable(f"{key} is changed by others all the time")


async def _is_as_wanted(store: ObjectStore, key: str, wanted: bool) -> bool:
    """Say by its first bytes whether an object is encrypted if and only if it should be."""
    return age.is_sealed(await store.get_range(key, 0, len(age.MAGIC))) is wanted


def _batches(page: Sequence[Listed]) -> list[list[Listed]]:
    """Split a page into what is rewritten at the same time."""
    batches: list[list[Listed]] = [[]]
    size = 0
    for one in page:
        if batches[-1] and (len(batches[-1]) == AT_ONCE or size + one.size_bytes > BATCH_BYTES):
            batches.append([])
            size = 0
        batches[-1].append(one)
        size += one.size_bytes
    return batches
