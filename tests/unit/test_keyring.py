"""For whom a prefix is encrypted: who is let in, who is added, what is encrypted and what is not."""

import asyncio
from pathlib import Path

import pytest

from events.archive import Archive
from events.objects import age
from events.objects.age import Identity
from events.objects.errors import CorruptObject, KeyRefused, PreconditionFailed, StoreUnavailable
from events.objects.keyring import Keyring, KeySettings
from events.objects.memory import MemoryStore
from events.objects.port import checksum
from events.objects.sealed import SealedStore
from events.payload_archive import store_payload
from schemas.archive import payload_key
from schemas.encryption import AREAS, RECIPIENTS_KEY, is_encrypted, parse_areas
from tests.keys import identity, keys_of

RECORD = f"p/{RECIPIENTS_KEY}"
DOCUMENT = "p/log/FORGE_DOCS/doc.a/1/1.seg"
PAYLOAD = f"p/payloads/aa/{checksum(b'x')}"


def sealed(store: MemoryStore, keys: KeySettings, temp: Path) -> SealedStore:
    return SealedStore(store, Keyring(store, "p", keys), temp)


def opens(store: MemoryStore, key: str, one: Identity) -> bool:
    try:
        age.decrypt(store.objects[key].data, [one])
    except age.NotForUs:
        return False
    return True


async def test_every_recipient_reads_and_nobody_else(tmp_path: Path) -> None:
    """G25: another is refused before anything is read or stored."""
    node, root, third = identity("node"), identity("root"), identity("third")
    store = MemoryStore()
    await sealed(store, keys_of(node, recipients=(root.recipient,)), tmp_path).create(DOCUMENT, b"secret")
    before = dict(store.objects)

    for one in (node, root):
        assert opens(store, DOCUMENT, one)
        found = await sealed(store, keys_of(one, recipients=(root.recipient,)), tmp_path).get(DOCUMENT)
        assert found.data == b"secret"
    stranger = sealed(store, keys_of(third, recipients=(root.recipient,)), tmp_path)
    for attempt in (
        stranger.get(DOCUMENT),
        stranger.create("p/leases/a", b""),
        stranger.create("p/new", b""),
        stranger.list("p/"),
        stranger.folders("p/"),
        stranger.size(DOCUMENT),
        stranger.get_range(DOCUMENT, 0, 1),
        stranger.delete(DOCUMENT),
        stranger.create_file(PAYLOAD, tmp_path / "none", ""),
    ):
        with pytest.raises(KeyRefused, match=root.recipient.fingerprint):
            await attempt
    assert store.objects == before


async def test_a_missing_key_is_refused_and_none_is_made(tmp_path: Path) -> None:
    """G25."""
    store = MemoryStore()
    await sealed(store, keys_of(identity()), tmp_path).create(DOCUMENT, b"secret")

    with pytest.raises(KeyRefused, match="there is no key here"):
        await sealed(store, keys_of(), tmp_path).get(DOCUMENT)


async def test_nothing_is_stored_in_the_clear_beside_what_is_encrypted(tmp_path: Path) -> None:
    """G22: by a node whose settings lost their recipients; what is there it reads."""
    node = identity()
    store = MemoryStore()
    await sealed(store, keys_of(node), tmp_path).create(DOCUMENT, b"secret")

    forgot = sealed(store, keys_of(node, recipients=()), tmp_path)

    assert (await forgot.get(DOCUMENT)).data == b"secret"
    with pytest.raises(KeyRefused, match="FORGE_RECIPIENTS"):
        await forgot.create("p/log/FORGE_DOCS/doc.a/1/2.seg", b"another secret")


async def test_without_recipients_nothing_is_encrypted_and_nothing_written_beside(tmp_path: Path) -> None:
    """PR8."""
    store = MemoryStore()

    await sealed(store, keys_of(recipients=()), tmp_path).create(DOCUMENT, b"clear")

    assert {key: found.data for key, found in store.objects.items()} == {DOCUMENT: b"clear"}


async def test_a_recipient_that_comes_or_goes_is_told_apart_from_those_who_read_everything(tmp_path: Path) -> None:
    node, before, after = identity("node"), identity("before"), identity("after")
    store = MemoryStore()
    await sealed(store, keys_of(node, recipients=(before.recipient,)), tmp_path).create(DOCUMENT, b"old")
    keyring = Keyring(store, "p", keys_of(node, recipients=(after.recipient,)))
    await SealedStore(store, keyring, tmp_path).create("p/new", b"new")

    record = await keyring.admit()
    assert record is not None
    assert {one.name: reads for one, reads in record.reads()} == {"node": "all", "after": "new", "before": "old"}
    assert record.revision == 2
    assert not opens(store, "p/new", before)
    for partly in (before, after):
        with pytest.raises(KeyRefused):
            await Keyring(store, "p", keys_of(partly)).admit()
    await Keyring(store, "p", keys_of(node)).admit()


async def test_several_nodes_that_begin_at_the_same_time_agree(tmp_path: Path) -> None:
    """PR3: whoever comes later adds itself, or is refused; nobody is forgotten."""
    nodes = [identity(f"node-{n}") for n in range(3)]
    everybody = tuple(one.recipient for one in nodes)
    store = MemoryStore()

    await asyncio.gather(
        *(
            sealed(store, keys_of(one, recipients=everybody), tmp_path).create(f"p/{n}", b"")
            for n, one in enumerate(nodes)
        )
    )

    assert all(opens(store, f"p/{n}", one) for n in range(3) for one in nodes)


async def test_a_record_that_names_somebody_else_gives_him_nothing(tmp_path: Path) -> None:
    """G25: whoever writes the bucket cannot have objects encrypted for himself; the settings alone say for whom."""
    node, thief = identity("node"), identity("thief")
    store = MemoryStore()
    keys = keys_of(node, recipients=(node.recipient,))
    await sealed(store, keys, tmp_path).create(DOCUMENT, b"secret")
    forged = Keyring(store, "p", keys)
    found = await forged.read()
    assert found.record is not None
    current = found.record.current
    added = current.recipients[0].model_copy(update={"public": thief.recipient.public, "name": "thief"})
    more = current.model_copy(update={"recipients": (*current.recipients, added)})
    await forged.write(found.record.model_copy(update={"sets": (more,)}), found.tag)

    await sealed(store, keys, tmp_path).create("p/new", b"secret")

    assert not opens(store, "p/new", thief)
    assert opens(store, "p/new", node)


async def test_a_node_that_waited_does_not_bring_back_whom_another_has_revoked(tmp_path: Path) -> None:
    """G25: the settings that it read at its start are no reason to change what was decided since."""
    waiting, writer, revoked = identity("waiting"), identity("writer"), identity("revoked")
    both = (waiting.recipient, writer.recipient)
    store = MemoryStore()
    await sealed(store, keys_of(writer, recipients=(*both, revoked.recipient)), tmp_path).create(DOCUMENT, b"old")
    standby = sealed(store, keys_of(waiting, recipients=(*both, revoked.recipient)), tmp_path)
    await standby.get(DOCUMENT)
    before = (await Keyring(store, "p", keys_of(writer)).read()).record
    await Keyring(store, "p", keys_of(writer, recipients=both)).enroll()

    with pytest.raises(KeyRefused, match="were changed"):
        await standby.create("p/new", b"secret")

    assert "p/new" not in store.objects
    assert before is not None
    assert (await Keyring(store, "p", keys_of(writer)).read()).record != before


async def test_a_canary_or_a_record_that_is_none_is_refused(tmp_path: Path) -> None:
    node = identity()
    store = MemoryStore()
    keyring = Keyring(store, "p", keys_of(node))
    await keyring.enroll()
    found = await keyring.read()
    assert found.record is not None
    other = age.encrypt(b"something else", [node.recipient], armoured=True).decode()
    for canary in ("", "nonsense", other):
        bad = found.record.current.model_copy(update={"canary": canary})
        await keyring.write(found.record.model_copy(update={"sets": (bad,)}), (await keyring.read()).tag)
        with pytest.raises(KeyRefused):
            await Keyring(store, "p", keys_of(node)).admit()
    for damaged, place in ((b"{}", "revision"), (b"half a rec", "its JSON")):
        await store.swap(RECORD, damaged, (await store.get(RECORD)).tag)
        with pytest.raises(KeyRefused, match=f"it is damaged at {place}$") as refused:
            await Keyring(store, "p", keys_of(node)).admit()
        assert "remove it" in refused.value.fix, "another key mends nothing"


async def test_an_age_file_of_a_user_comes_back_as_it_was(tmp_path: Path) -> None:
    """PR2: whether it was stored before objects were encrypted, or after."""
    node = identity()
    users = age.encrypt(b"of a user", [identity().recipient])
    key = f"p/payloads/aa/{checksum(users)}"
    (tmp_path / "users").write_bytes(users)
    clear, encrypted = MemoryStore(), MemoryStore()
    await sealed(clear, keys_of(recipients=()), tmp_path).create_file(key, tmp_path / "users", checksum(users))
    await sealed(encrypted, keys_of(node), tmp_path).create_file(key, tmp_path / "users", checksum(users))

    for store in (clear, encrypted):
        assert (await sealed(store, keys_of(node), tmp_path).get(key)).data == users
    assert encrypted.objects[key].data != users


async def test_a_damaged_object_is_corrupt_and_not_a_matter_of_keys(tmp_path: Path) -> None:
    """K3.6: also if the store itself vouches for the damage."""
    store = MemoryStore()
    opened = sealed(store, keys_of(identity()), tmp_path)
    await opened.create(DOCUMENT, b"x" * 1000)
    whole = store.objects.pop(DOCUMENT).data
    await store.create(DOCUMENT, whole[:-1])

    with pytest.raises(CorruptObject):
        await opened.get(DOCUMENT)


@pytest.mark.parametrize("rest", [b"", b"a text about age, with one line\n", b"x" * (age.HEADER_BYTES_MAX + 1)])
async def test_a_payload_that_begins_as_an_age_file_does_is_one_like_others(tmp_path: Path, rest: bytes) -> None:
    """PR5: somebody's, in an archive that is not encrypted; it may be uploaded again."""
    archive = Archive(sealed(MemoryStore(), keys_of(recipients=()), tmp_path), "p")
    path, data = tmp_path / "file", age.MAGIC + rest
    path.write_bytes(data)
    key = archive.key(payload_key(checksum(data)))

    assert [await store_payload(archive, checksum(data), path) for _ in range(2)] == [True, False]
    assert (await archive.store.size(key), (await archive.store.get(key)).data) == (len(data), data)


async def test_a_file_leaves_nothing_behind_and_no_place_for_it_is_no_fault_of_the_file(tmp_path: Path) -> None:
    """PR7: a full disk must not make a payload count as lost."""
    path, temp = tmp_path / "file", tmp_path / "temp"
    path.write_bytes(b"x" * 300_000)
    digest = checksum(path.read_bytes())
    opened = sealed(MemoryStore(), keys_of(identity()), temp)

    with pytest.raises(StoreUnavailable):
        await opened.create_file(PAYLOAD, path, digest)
    temp.mkdir()
    await opened.create_file(PAYLOAD, path, digest)
    with pytest.raises(PreconditionFailed):
        await opened.create_file(PAYLOAD, path, digest)

    assert list(temp.iterdir()) == []
    assert await opened.size(PAYLOAD) == 300_000


@pytest.mark.parametrize(
    ("key", "areas"),
    [
        ("log/FORGE_CONTROL/control/1/1.seg", "control"),
        ("log/FORGE_DOCS/doc.a/position.json", "documents"),
        ("log/FORGE_VECTOR/mark.json", "vector"),
        ("log/FORGE_NODE/node.a/1/1.seg", "snapshot"),
        ("gen/control/1.1/manifest.json", "control"),
        ("gen/doc/a/current.json", "documents"),
        ("gen/vector/queue/1.1/manifest.json", "vector"),
        ("gen/refs/a/1.1/manifest.json", "refs"),
        ("gen/snapshot/a/current.json", "snapshot"),
        ("payloads/aa/aa", ",".join(AREAS)),
        ("pages/aa/aa", ",".join(AREAS)),
        ("something/new", ",".join(AREAS)),
        ("clear/pages/aa/aa", ""),
        ("keys/recipients.json", ""),
        ("leases/writer.json", ""),
        ("epochs/00000000000000000002.json", ""),
    ],
)
def test_each_area_has_its_objects(key: str, areas: str) -> None:
    assert [area for area in AREAS if is_encrypted(key, frozenset([area]))] == [a for a in areas.split(",") if a]


@pytest.mark.parametrize("text", ["", " , ", "documents,letters"])
def test_areas_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be some of"):
        parse_areas(text)
