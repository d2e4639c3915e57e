"""The keys of one prefix: for whom its objects are encrypted, and whether the key here opens them."""

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import structlog
from pydantic import ValidationError

from events.objects import age
from events.objects.age import Identity, Recipient
from events.objects.errors import CorruptObject, KeyRefused, ObjectMissing, PreconditionFailed, StoreUnavailable
from events.objects.port import ObjectStore
from schemas.damage import damage
from schemas.encryption import (
    RECIPIENTS_KEY,
    RECIPIENTS_MAX,
    SETS_MAX,
    Areas,
    RecipientSet,
    RecipientsRecord,
    StoredRecipient,
    is_encrypted,
)
from schemas.instants import now

CANARY = b"who reads this reads what is encrypted for the same recipients\n"
TRIES_MAX = 8  # others may change the recipients at the same time
MEND_RECORD = (
    "bring its version before back in the store; else, with FORGE_RECIPIENTS and the keys as they were, remove it: the "
    "node writes it again, and `forge keys check --all` tells what it opens"
)
ENROLLED_S = 60.0  # then the record is read again before something is stored: another node may have rotated keys

log = structlog.get_logger(__name__)


class KeySettings(NamedTuple):
    """What a node says of encryption.

    `identities` gives its private keys, its own first; asked to `make` one it makes it if it has none. It may raise
    `KeyRefused`.
    """

    recipients: Sequence[Recipient]
    identities: Callable[[bool], Sequence[Identity]]
    areas: Areas
    node: str


class StoredRecord(NamedTuple):
    """The record of the recipients as it is in the store, None if there is none, and its version."""

    record: RecipientsRecord | None
    tag: str


class Keyring:
    """For whom objects below `prefix` of `store` (which encrypts nothing itself) are encrypted, and how they open.

    Nothing passes before `admit`: the key here opens what is there, or it raises `KeyRefused`. Nothing is encrypted
    before `enroll`: the store says for whom.
    """

    def __init__(self, store: ObjectStore, prefix: str, settings: KeySettings) -> None:
        self._store = store
        self._prefix = f"{prefix}/" if prefix else ""
        self._settings = settings
        self._lock = asyncio.Lock()
        self._stored: StoredRecord | None = None
        self._recipients: Sequence[Recipient] = ()
        self._enrolled_until = -math.inf

    def encrypts(self, key: str) -> bool:
        """Say whether the object of a whole key is to be encrypted if there are recipients."""
        return key.startswith(self._prefix) and is_encrypted(key.removeprefix(self._prefix), self._settings.areas)

    async def admit(self) -> RecipientsRecord | None:
        """Return for whom objects are encrypted, None if they are not; raise `KeyRefused` if the key here is no use."""
        if self._stored is None:
            async with self._lock:
                return (await self._admitted()).record
        return self._stored.record

    async def enroll(self) -> Sequence[Recipient]:
        """Return for whom to encrypt, nobody: not at all; before this returns the store says so.

        Raise `KeyRefused`, also if objects are encrypted already and the settings name no recipients, or others than
        the store has come to name since this node was admitted.
        """
        if time.monotonic() < self._enrolled_until:
            return self._recipients
        async with self._lock:
            if time.monotonic() >= self._enrolled_until:
                self._recipients = await self._tried()
                self._enrolled_until = time.monotonic() + ENROLLED_S
            return self._recipients

    def open(self, key: str, data: bytes) -> bytes:
        """Return what an object holds; raise `KeyRefused` or `CorruptObject`."""
        try:
            return age.decrypt(data, self._settings.identities(False))
        except age.NotForUs as error:
            raise KeyRefused(f"{key} is encrypted: {error}") from error
        except age.NotAge as error:
            raise CorruptObject(f"{key}: {error}") from error

    async def read(self) -> StoredRecord:
        """Return the record as it is in the store now."""
        key = self._prefix + RECIPIENTS_KEY
        try:
            found = await self._store.get(key)
        except ObjectMissing:
            return StoredRecord(None, "")
        try:
            return StoredRecord(RecipientsRecord.model_validate_json(found.data), found.tag)
        except ValidationError as error:
            why = f"{key} does not say for whom objects are encrypted: {damage(error)}"
            raise KeyRefused(why, MEND_RECORD) from error

    async def write(self, record: RecipientsRecord, tag: str) -> StoredRecord:
        """Replace the version `tag` of the record (none: the empty string); raise `PreconditionFailed`."""
        key, data = self._prefix + RECIPIENTS_KEY, record.model_dump_json(indent=1).encode()
        written = await (self._store.swap(key, data, tag) if tag else self._store.create(key, data))
        return StoredRecord(record, written)

    def wanted(self, *, make: bool = False) -> list[StoredRecipient]:
        """Return for whom the settings want objects encrypted: those they name, and this node; nobody: not at all."""
        mine: dict[str, Recipient] = {one.public: one for one in self._settings.recipients}
        if not mine:
            return []
        identities = self._settings.identities(make)
        if not identities:
            raise KeyRefused("FORGE_RECIPIENTS is set, but there is no key of this node")
        own = identities[0].recipient
        roles = [(one, "root") for one in mine.values()] + ([] if own.public in mine else [(own, "node")])
        if len(roles) > RECIPIENTS_MAX:
            raise KeyRefused(f"{len(roles)} recipients are more than {RECIPIENTS_MAX}")
        return [StoredRecipient(public=r.public, name=r.name, role=role) for r, role in roles]

    async def _admitted(self) -> StoredRecord:
        if self._stored is None:
            self._stored = await self._looked_at()
        return self._stored

    async def _looked_at(self) -> StoredRecord:
        """Return the record as it is in the store now; raise `KeyRefused` unless the keys here read everything."""
        stored = await self.read()
        if stored.record is not None:
            await asyncio.to_thread(self._open_canaries, stored.record)
        return stored

    def _open_canaries(self, record: RecipientsRecord) -> None:
        identities = self._settings.identities(False)
        for one in record.sets:
            why = f"{self._prefix} is encrypted for {named(one.recipients)}"
            if not identities:
                raise KeyRefused(f"{why}, and there is no key here: FORGE_IDENTITY_FILE names one of theirs")
            try:
                found = age.decrypt(one.canary.encode(), identities)
            except age.NotForUs as error:
                ours = ", ".join(f"{own.recipient.fingerprint} ({own.recipient.public})" for own in identities)
                raise KeyRefused(f"{why}; the key here, {ours}, does not open it") from error
            except age.NotAge as error:
                raise KeyRefused(f"the canary of {self._prefix} is damaged: {error}") from error
            if found != CANARY:
                raise KeyRefused(f"the canary of {self._prefix} holds something else: its record cannot be believed")

    async def _tried(self) -> Sequence[Recipient]:
        for _ in range(TRIES_MAX):
            with suppress(PreconditionFailed):  # another node was faster, or our own first attempt was: look again
                return await self._enrolled()
        raise StoreUnavailable("the recipients change all the time")

    async def _enrolled(self) -> Sequence[Recipient]:
        admitted, stored = (await self._admitted()).record, await self._looked_at()
        wanted = await asyncio.to_thread(partial(self.wanted, make=True))
        if stored.record is not None and stored.record.current.publics() != {one.public for one in wanted}:
            readers = named(stored.record.current.recipients)
            if not wanted:
                raise KeyRefused(f"{self._prefix} is encrypted for {readers}: set FORGE_RECIPIENTS to store there")
            if admitted is None or admitted.revision != stored.record.revision:
                why = f"the recipients of {self._prefix} were changed to {readers} while this node ran"
                raise KeyRefused(f"{why}: set FORGE_RECIPIENTS to the same, and start it again")
        elif stored.record is not None or not wanted:
            return [_recipient(one) for one in wanted]
        self._stored = await self.write(await asyncio.to_thread(self.next_record, stored.record, wanted), stored.tag)
        tell = log.info if stored.record is None else log.warning
        tell("recipients changed", prefix=self._prefix, recipients=named(wanted))
        return [_recipient(one) for one in wanted]

    def next_record(self, record: RecipientsRecord | None, wanted: Sequence[StoredRecipient]) -> RecipientsRecord:
        """Return what the store says when objects begin to be encrypted for `wanted`; raise `KeyRefused`."""
        before = record.sets if record else ()
        if len(before) == SETS_MAX:
            raise KeyRefused(f"recipients changed {SETS_MAX} times since everything was encrypted: `forge keys rotate`")
        canary = age.encrypt(CANARY, [_recipient(one) for one in wanted], armoured=True).decode()
        return RecipientsRecord(
            revision=record.revision + 1 if record else 1,
            sets=(*before, RecipientSet(recipients=tuple(wanted), canary=canary, since=now())),
            node=self._settings.node,
        )


def named(recipients: Iterable[StoredRecipient]) -> str:
    """Return recipients as people know them: names and fingerprints."""
    return ", ".join(str(_recipient(one)) for one in recipients)


def _recipient(stored: StoredRecipient) -> Recipient:
    return Recipient(stored.public, stored.name)
