"""Encrypting an archive again: interrupted, beside a writer, from the clear; and what a survey says of it."""

import asyncio
import itertools
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from events.objects import age
from events.objects.age import Identity
from events.objects.errors import KeyRefused, PreconditionFailed
from events.objects.keyring import Keyring
from events.objects.memory import MemoryStore
from events.objects.port import LIST_MAX, Object
from events.objects.sealed import SealedStore
from forge.key_files import key_settings, node_key, read_identities
from forge.keys.access import KeyAccess
from forge.keys.rotation import Progress, RecipientsChanged, begin, replace_node_key, rotate
from forge.keys.survey import survey
from schemas import drill, generation
from schemas.archive import epoch_key, mark_key, payload_key, place_key
from schemas.encryption import CLEAR, FOLDERS, RECIPIENTS_KEY, SETS_MAX, is_encrypted, parse_areas
from schemas.ids import PartitionId
from schemas.settings import Settings
from schemas.writer_lease import lease_key
from tests.faults.killer import fresh_seed
from tests.keys import identity

P = "p"
RECORD = f"{P}/{RECIPIENTS_KEY}"
DOCUMENTS = LIST_MAX + 100  # more than a page
AREAS_WANTED = parse_areas("control,documents,vector,snapshot")
KEYS = [f"log/FORGE_DOCS/doc.{n}/1/1.seg" for n in range(DOCUMENTS)] + ["gen/refs/a/current.json", "clear/pages/aa/bb"]


def access_of(store: MemoryStore, folder: Path, *recipients: Identity) -> KeyAccess:
    """Return what a command gets on the data directory `folder`."""
    named = ",".join(one.recipient.public for one in recipients)
    settings = Settings.load({"FORGE_DATA_DIR": str(folder), "FORGE_RECIPIENTS": named, "FORGE_S3_PREFIX": P})
    return KeyAccess(store, "memory", f"{P}/", Keyring(store, P, key_settings(settings)), settings)


async def filled(access: KeyAccess, folder: Path) -> None:
    """Store the objects as a node would."""
    store = SealedStore(access.store, access.keyring, folder)
    for key in KEYS:
        await store.create(f"{P}/{key}", key.encode())


def held(store: MemoryStore, reader: Identity) -> dict[str, bytes]:
    """Return what the encrypted objects hold; raise `NotForUs`."""
    return {
        key.removeprefix(f"{P}/"): age.decrypt(found.data, [reader])
        for key, found in store.objects.items()
        if is_encrypted(key.removeprefix(f"{P}/"), AREAS_WANTED)
    }


def readable(store: MemoryStore, reader: Identity) -> int:
    """Return how many objects somebody can read."""
    return sum(age.is_sealed(found.data) and _opens(found, reader) for found in store.objects.values())


def _opens(found: Object, reader: Identity) -> bool:
    try:
        age.decrypt(found.data, [reader])
    except age.NotForUs:
        return False
    return True


def silent(_: Progress) -> None:
    """Nobody watches."""


class Killed(BaseException):
    """The process ends here."""


async def test_a_rotation_that_is_killed_anywhere_goes_on(tmp_path: Path) -> None:
    """G25: then those who were revoked read nothing, those who came read all, and nothing was lost."""
    rng = random.Random(fresh_seed())
    before, after = identity("before"), identity("after")
    store = MemoryStore()
    access = access_of(store, tmp_path, before)
    await filled(access, tmp_path)
    (former,) = read_identities(node_key(access.settings))
    replace_node_key(access.settings)
    access = access_of(store, tmp_path, after)
    await begin(access)

    for first, last in ((1, 120), (126, 136), (1, 10)):  # in the first page, in the second, and in what is left of it
        with pytest.raises(Killed):
            await rotate(access_of(store, tmp_path, after), _killed_after(rng.randint(first, last)))
    rest = await rotate(access_of(store, tmp_path, after), silent)

    own = read_identities(node_key(access.settings))[0]
    for reader in (own, after):
        assert held(store, reader) == {key: key.encode() for key in KEYS if is_encrypted(key, AREAS_WANTED)}
    assert readable(store, before) == 0
    assert readable(store, former) == 0
    assert rest.objects < len(KEYS) / 2, "it did not go on, it began again"
    with pytest.raises(RecipientsChanged):
        await rotate(access_of(store, tmp_path, after), silent)


def _killed_after(batches: int) -> Callable[[Progress], None]:
    left = itertools.count(1)

    def tell(_: Progress) -> None:
        if next(left) == batches:
            raise Killed

    return tell


async def test_archives_further_below_are_left_alone(tmp_path: Path) -> None:
    """G11: those of machines, below the prefix of a node; encrypted for it, their recipients could not be read."""
    own = identity("own")
    store = MemoryStore()
    access = access_of(store, tmp_path, own)
    await filled(access, tmp_path)
    below = {f"{P}/nodes/ada/{key}": key.encode() for key in (RECIPIENTS_KEY, "leases/writer.json", "log/FORGE_NODE/x")}
    for key, data in below.items():
        await store.create(key, data)

    await begin(access)
    await rotate(access, silent)
    found = await survey(store, f"{P}/", access.keyring, samples=None, rng=random.Random(1))

    assert {key: store.objects[key].data for key in below} == below
    assert (found.objects, found.problems) == (len(KEYS) + 1, [])


def test_every_object_of_an_archive_lies_in_a_folder_that_is_encrypted_again() -> None:
    partition = PartitionId("doc", "a")
    made = [
        place_key("FORGE_DOCS", partition),
        mark_key("FORGE_DOCS"),
        payload_key("0" * 64),
        epoch_key(1),
        *(generation.FOLDER, generation.PAGES, drill.FOLDER, CLEAR, lease_key("writer"), RECIPIENTS_KEY),
    ]

    assert all(key.startswith(FOLDERS) for key in made)
    assert list(FOLDERS) == sorted(FOLDERS)


async def test_a_node_that_writes_meanwhile_loses_nothing(tmp_path: Path) -> None:
    """PR2: each object has what was stored last, for the new recipients."""
    before, after = identity("before"), identity("after")
    store = MemoryStore()
    access = access_of(store, tmp_path, before)
    await filled(access, tmp_path)
    access = access_of(store, tmp_path, after)
    await begin(access)
    node = SealedStore(store, access_of(store, tmp_path, after).keyring, tmp_path)
    writing = asyncio.create_task(_write(node))

    await rotate(access, silent)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing

    assert readable(store, before) == 0
    numbers = {int(data) for key, data in held(store, after).items() if key.endswith("position.json")}
    assert max(numbers) - min(numbers) <= 1, "something older was put in the place of what was written"


async def _write(store: SealedStore) -> None:
    """Move positions on, again and again, as an archiver does, going on after a change by somebody else."""
    keys = [f"{P}/log/FORGE_DOCS/doc.{n}/position.json" for n in range(20)]
    for key in keys:
        await store.create(key, b"0")
    for number in itertools.count(1):
        for key in keys:
            while True:
                try:
                    await store.swap(key, b"%d" % number, (await store.get(key)).tag)
                    break
                except PreconditionFailed:
                    continue


async def test_what_was_in_the_clear_is_encrypted_and_nothing_else_is_touched(tmp_path: Path) -> None:
    """G22: and what need not be encrypted is not."""
    root = identity("root")
    store = MemoryStore()
    await filled(access_of(store, tmp_path), tmp_path)
    access = access_of(store, tmp_path, root)
    rng = random.Random(fresh_seed())
    await SealedStore(store, access.keyring, tmp_path).create(f"{P}/gen/doc/a/current.json", b"{}")
    sealed = dict(store.objects)
    found = await survey(store, access.prefix, access.keyring, samples=None, rng=rng)
    assert (found.clear_by_mistake, found.opened, found.sound) == (DOCUMENTS, 1, False)
    assert len(found.problems) == 5

    await begin(access)
    done = await rotate(access, silent)

    assert done.rewritten == DOCUMENTS
    found = await survey(store, access.prefix, access.keyring, samples=None, rng=rng)
    assert (found.clear_by_mistake, found.opened, found.clear, found.sound) == (0, DOCUMENTS + 1, 3, True)
    assert store.objects[f"{P}/gen/doc/a/current.json"] == sealed[f"{P}/gen/doc/a/current.json"]
    await begin(access)
    assert (await rotate(access, silent)).rewritten == 0


async def test_a_sample_is_as_large_as_was_asked_and_finds_what_does_not_open(tmp_path: Path) -> None:
    root = identity("root")
    store = MemoryStore()
    access = access_of(store, tmp_path, root)
    await filled(access, tmp_path)
    strange = age.encrypt(b"x", [identity().recipient])
    await store.create(f"{P}/log/FORGE_DOCS/doc.1/1/2.seg", strange)
    await store.create(f"{P}/log/FORGE_DOCS/doc.1/1/3.seg", strange[:-1])

    some = await survey(store, access.prefix, access.keyring, samples=10, rng=random.Random(1))
    every = await survey(store, access.prefix, access.keyring, samples=None, rng=random.Random(1))

    assert some.opened + some.clear + some.not_opened == 10
    assert some.objects == every.objects == len(store.objects)
    assert every.not_opened == 2


async def test_recipients_that_change_under_a_rotation_end_it(tmp_path: Path) -> None:
    first, second = identity("first"), identity("second")
    store = MemoryStore()
    access = access_of(store, tmp_path, first)
    await filled(access, tmp_path)
    await begin(access)
    other = MemoryStore()
    await access_of(other, tmp_path, second).keyring.enroll()

    def changed(_: Progress) -> None:
        store.objects[RECORD] = other.objects[RECORD]

    with pytest.raises(RecipientsChanged):
        await rotate(access, changed)
    assert store.objects[RECORD] == other.objects[RECORD]
    with pytest.raises(KeyRefused):
        await begin(access_of(MemoryStore(), tmp_path))


async def test_recipients_change_a_bounded_number_of_times_between_rotations(tmp_path: Path) -> None:
    """PR7."""
    store = MemoryStore()
    for _ in range(SETS_MAX):
        await access_of(store, tmp_path, identity()).keyring.enroll()
    last = access_of(store, tmp_path, identity())

    with pytest.raises(KeyRefused, match="rotate"):
        await last.keyring.enroll()
