"""The contract of the object store port, the same for memory, a local folder and S3, and for each of them encrypted."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from events.objects.age import new_identity
from events.objects.errors import CorruptObject, ObjectMissing, PreconditionFailed, StoreRefused, StoreUnavailable
from events.objects.folder import FolderStore
from events.objects.keyring import Keyring
from events.objects.memory import MemoryStore
from events.objects.port import ObjectStore, checksum
from events.objects.retrying import RetryingStore
from events.objects.s3 import PART_BYTES, S3Store
from events.objects.s3_account import Account
from events.objects.s3_clients import s3_clients
from events.objects.sealed import SealedStore
from forge.stack.weed import Weed
from tests.faults.proxy import Direction, Filter, TcpProxy
from tests.keys import keys_of
from tests.s3_stores import BUCKET, emptied, s3_address, s3_store


class Altered(Filter):
    """Harms every body."""

    def feed(self, data: bytes) -> bytes:
        return data.replace(b"sound", b"sownd")


class AlteringProxy(TcpProxy):
    """Alters what is sent."""

    def filters(self) -> dict[Direction, Filter]:
        return {Direction.TO_SERVER: Altered(), Direction.TO_CLIENT: Filter()}


@pytest_asyncio.fixture(params=["memory", "folder", "s3", "sealed memory", "sealed folder", "sealed s3"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, weed: Weed) -> AsyncIterator[ObjectStore]:
    opened: ObjectStore
    sealed, _, kind = request.param.rpartition(" ")
    match kind:
        case "memory":
            opened = MemoryStore()
        case "folder":
            opened = FolderStore(tmp_path / "store")
        case _:
            opened = await emptied(s3_store(weed))
    if sealed:
        opened = SealedStore(opened, Keyring(MemoryStore(), "", keys_of(new_identity())), tmp_path)
    yield opened
    await opened.close()


async def test_an_object_is_created_once(store: ObjectStore) -> None:
    """K3.6: create-only, and what was there stays."""
    tag = await store.create("a/b", b"first")

    with pytest.raises(PreconditionFailed):
        await store.create("a/b", b"second")

    assert await store.get("a/b") == (b"first", tag)


async def test_of_many_who_create_one_wins(store: ObjectStore) -> None:
    """PR3."""
    outcomes = await asyncio.gather(*(store.create("k", b"%d" % n) for n in range(16)), return_exceptions=True)

    won = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, str)]
    assert len(won) == 1
    assert all(isinstance(outcome, str | PreconditionFailed) for outcome in outcomes)
    assert (await store.get("k")).data == b"%d" % won[0]


async def test_of_many_who_swap_one_wins(store: ObjectStore) -> None:
    """PR3: and a tag of an earlier version never does."""
    tag = await store.create("k", b"")
    for _ in range(5):
        outcomes = await asyncio.gather(*(store.swap("k", b"%d" % n, tag) for n in range(8)), return_exceptions=True)
        won = [outcome for outcome in outcomes if isinstance(outcome, str)]
        assert len(won) == 1
        old, tag = tag, won[0]
        with pytest.raises(PreconditionFailed):
            await store.swap("k", b"late", old if old != tag else "none")
        tag = await store.swap("k", b"", tag)


async def test_a_plain_put_replaces_whatever_is_there(store: ObjectStore) -> None:
    """And its tag is that of the version it made."""
    first = await store.put("put/x", b"first")
    second = await store.put("put/x", b"second")

    assert await store.get("put/x") == (b"second", second)
    with pytest.raises(PreconditionFailed):
        await store.swap("put/x", b"third", first)
    await store.swap("put/x", b"third", second)


async def test_what_is_not_there_cannot_be_swapped(store: ObjectStore) -> None:
    with pytest.raises(PreconditionFailed):
        await store.swap("missing", b"x", checksum(b"y"))


async def test_missing_objects_are_told(store: ObjectStore) -> None:
    await store.create("a/b", b"x")

    with pytest.raises(ObjectMissing):
        await store.get("a/c")
    with pytest.raises(ObjectMissing):
        await store.get_range("a/c", 0, 1)
    assert await store.size("a/c") is None
    assert await store.size("a/b") == 1


@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 40_000], ids=["empty", "one", "ten megabytes"])
async def test_bytes_come_back_as_they_were(store: ObjectStore, data: bytes) -> None:
    await store.create("k", data)

    assert (await store.get("k")).data == data
    assert await store.size("k") == len(data)


@pytest.mark.parametrize(("start", "length"), [(0, 3), (2, 3), (8, 100), (10, 5), (100, 5), (3, 0)])
async def test_ranges_are_cut_at_the_end(store: ObjectStore, start: int, length: int) -> None:
    await store.create("k", b"0123456789")

    assert await store.get_range("k", start, length) == b"0123456789"[start : start + length]


async def test_listing_goes_by_pages_in_the_order_of_bytes(store: ObjectStore) -> None:
    keys = ["a/1", "a/10", "a/2", "a-b/1", "a/b/c", "b/1", "a/B", "a.b"]
    for key in keys:
        await store.create(key, key.encode())

    assert [found.key for found in await store.list("a/")] == ["a/1", "a/10", "a/2", "a/B", "a/b/c"]
    assert [found.key for found in await store.list("a/", limit=2)] == ["a/1", "a/10"]
    assert [found.key for found in await store.list("a/", after="a/10", limit=2)] == ["a/2", "a/B"]
    assert [found.key for found in await store.list("a/", after="a/15")] == ["a/2", "a/B", "a/b/c"]
    assert sorted(found.key for found in await store.list("")) == sorted(keys)
    assert await store.list("zz") == []
    assert [found.size_bytes for found in await store.list("b/")] == [3] or isinstance(store, SealedStore)


async def test_a_key_is_listed_as_it_was_given(store: ObjectStore) -> None:
    """Whatever its characters mean in an address."""
    keys = [f"odd/{name}" for name in ("a b", "a+b", "a%20b", "a~b", "a=b&c", "a#b?c", "a@b:c;d", "a'b\"c", "a(b)*[c]")]
    for key in keys:
        await store.create(key, key.encode())

    assert sorted(found.key for found in await store.list("odd/")) == sorted(keys)
    for n, key in enumerate(sorted(keys), 1):
        assert [found.key for found in await store.list("odd/", after=key)] == sorted(keys)[n:]
        assert key in [found.key for found in await store.list(key)]
    assert [(await store.get(key)).data for key in keys] == [key.encode() for key in keys]


@pytest.mark.parametrize("limit", [1, 2, 3, 1000])
async def test_folders_are_told_once_each_whatever_lies_in_them(store: ObjectStore, limit: int) -> None:
    """They are told page by page, and an object beside them is none of them; an emptied one may be told."""
    names = ["a", "a-b", "a.b", "a0", "a_2e", "b"]
    keys = [f"told/log/{name}/{n}/x" for name in names for n in range(3)]
    for key in [*keys, "told/log/file", "told/log/z/gone", "told/logs/c/x", "o/log/d/x"]:
        await store.create(key, b"x")
    await store.delete("told/log/z/gone")

    found: list[str] = []
    page = await store.folders("told/log/", limit=limit)
    found += page.names
    while page.next:
        page = await store.folders("told/log/", after=page.next, limit=limit)
        assert len(page.names) <= limit
        found += page.names

    assert sorted(name for name in found if name != "z") == names
    assert await store.folders("told/none/", limit=limit) == ([], "")


async def test_a_deleted_object_is_gone_and_may_be_deleted_again(store: ObjectStore) -> None:
    await store.create("k", b"x")

    await store.delete("k")
    await store.delete("k")

    assert await store.size("k") is None
    await store.create("k", b"again")


@pytest.mark.parametrize("size", [0, 10, PART_BYTES, 2 * PART_BYTES + 5], ids=["empty", "small", "a part", "parts"])
async def test_a_file_is_stored_whole(store: ObjectStore, tmp_path: Path, size: int) -> None:
    data = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    path = tmp_path / "file"
    path.write_bytes(data)

    await store.create_file("f", path, checksum(data))

    assert (await store.get("f")).data == data
    with pytest.raises(PreconditionFailed):
        await store.create_file("f", path, checksum(data))


@pytest.mark.parametrize("size", [10, PART_BYTES + 5], ids=["small", "parts"])
async def test_a_file_of_other_bytes_is_not_stored(store: ObjectStore, tmp_path: Path, size: int) -> None:
    """PR4: a damaged payload never takes the place of the sound one."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * size)

    with pytest.raises(CorruptObject):
        await store.create_file("f", path, checksum(b"y" * size))

    assert await store.size("f") is None
    with pytest.raises(FileNotFoundError):
        await store.create_file("f", tmp_path / "none", checksum(b""))


@pytest.mark.parametrize(
    "key", ["", "/a", "a/", "a//b", "../a", "a/./b", "a\nb", "\N{LATIN SMALL LETTER E WITH ACUTE}"]
)
async def test_a_key_is_a_plain_path(store: ObjectStore, key: str) -> None:
    with pytest.raises(ValueError, match="not a key"):
        await store.create(key, b"x")


async def test_an_altered_file_is_not_handed_out(tmp_path: Path) -> None:
    """K3.6, for a folder."""
    store = FolderStore(tmp_path)
    await store.create("a/b", b"0123456789")
    raw = bytearray((tmp_path / "a/b").read_bytes())
    for place in (0, 9, 10, len(raw) - 1):
        altered = bytearray(raw)
        altered[place] ^= 1
        (tmp_path / "a/b").write_bytes(altered)
        with pytest.raises(CorruptObject):
            await store.get("a/b")


async def test_an_object_of_somebody_else_is_not_taken_for_ours(weed: Weed) -> None:
    """K3.6, for S3: without the checksum that Forge stores, nobody can tell."""
    store = s3_store(weed)
    client = weed.s3_client()
    client.put_object(Bucket=BUCKET, Key="foreign", Body=b"x")
    client.close()

    with pytest.raises(CorruptObject):
        await store.get("foreign")
    await store.close()


async def test_bytes_that_are_altered_on_their_way_are_not_stored(weed: Weed) -> None:
    """K3.6: the server compares them with the hash that goes with them, which the signature covers."""
    async with AlteringProxy(*s3_address(weed)) as proxy:
        store = s3_store(weed, port=proxy.port)

        for data in (b"sound", b"sound" * 100_000):
            with pytest.raises(StoreUnavailable):
                await store.put("altered", data)

        assert await store.size("altered") is None
        await store.close()


async def test_refusals_are_told_from_silence_and_not_repeated(weed: Weed, unused_tcp_port: int) -> None:
    """PR7: a missing bucket is said at once; a server that is away is asked until the deadline."""
    nowhere = s3_store(weed, bucket="no-such-bucket")
    nameless = s3_store(weed, bucket="B_")
    away = s3_store(weed, port=unused_tcp_port)

    with pytest.raises(StoreRefused):
        await RetryingStore(nowhere, deadline_s=600).get("k")
    with pytest.raises(StoreRefused):
        await RetryingStore(nowhere, deadline_s=600).list("")
    with pytest.raises(StoreRefused):
        await RetryingStore(nameless, deadline_s=600).put("k", b"1")
    with pytest.raises(StoreUnavailable):
        await RetryingStore(away, deadline_s=0.5).get("k")

    await nowhere.close()
    await nameless.close()
    await away.close()


async def test_a_server_that_hangs_is_a_server_that_is_away() -> None:
    """PR7: it takes connections and never answers; what botocore raises then is an OSError too."""
    keys = {"aws_access_key_id": "k", "aws_secret_access_key": "s"}
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        url = f"http://127.0.0.1:{hanging.getsockname()[1]}"
        account = Account(url, "us-east-1", keys, path_style=True, direct=True, read_timeout_s=0.2)
        store = S3Store(s3_clients(account, BUCKET), BUCKET)

        for call in (store.get("k"), store.put("k", b"1"), store.delete("k"), store.size("k")):
            with pytest.raises(StoreUnavailable, match="no answer in time"):
                await call
        with pytest.raises(StoreUnavailable, match="Read timeout"):
            await store.list("")

        await store.close()
