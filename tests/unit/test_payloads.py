"""The payload store keeps whole files or nothing."""

import asyncio
import errno
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from blake3 import blake3

from events.payload_errors import (
    PayloadMissing,
    PayloadNotDurable,
    PayloadStoreFull,
    PayloadTooLarge,
)
from events.payloads import BATCH_BYTES, QUARANTINED, ROUND_BYTES_MAX, PayloadStore
from schemas.ids import InvalidId

SIZES = [0, 1, 20 << 10, BATCH_BYTES, BATCH_BYTES + 1, 5 * BATCH_BYTES + 7, ROUND_BYTES_MAX + 1]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[PayloadStore]:
    store = PayloadStore(tmp_path / "root", tmp_path / "temp")
    yield store
    await store.close()


async def stream(data: bytes, chunk_bytes: int = 10_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), chunk_bytes):
        yield data[start : start + chunk_bytes]


async def keep(store: PayloadStore, data: bytes) -> str:
    staged = await store.stage(stream(data), bytes_max=1 << 30)
    await store.keep(staged)
    return staged.cid


def parts(tmp_path: Path, suffix: str = ".blob") -> list[Path]:
    """Every file that is not under its final name."""
    return [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != suffix]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    mount = tmp_path / "small"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mount)], check=True)
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


@pytest.fixture
def other_device(tmp_path: Path) -> Iterator[Path]:
    """A directory on another device than `tmp_path`."""
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second device")
    with tempfile.TemporaryDirectory(dir=other) as directory:
        yield Path(directory)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("size_bytes", SIZES)
async def test_a_kept_payload_reads_back_and_leaves_nothing_else(
    store: PayloadStore, tmp_path: Path, size_bytes: int
) -> None:
    """PR1, spec 4.9: path, mode and content."""
    data = random.Random(size_bytes).randbytes(size_bytes)
    before = open_files()

    staged = await store.stage(stream(data), bytes_max=size_bytes)
    await store.keep(staged)

    cid = blake3(data).hexdigest()
    path = tmp_path / "root" / cid[:2] / cid[2:4] / f"{cid}.blob"
    assert (staged.cid, staged.size_bytes, store.path(cid)) == (cid, size_bytes, path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == path.parent.parent.stat().st_mode & 0o777 == 0o700
    assert b"".join([chunk async for chunk in store.read(cid)]) == data
    assert store.has(cid)
    assert await store.verify(cid)
    assert parts(tmp_path) == []
    assert open_files() <= before + 1  # the first use of threads may open one for itself


@pytest.mark.parametrize("size_bytes", [1000, 3 * BATCH_BYTES])
async def test_a_stream_past_the_bound_is_refused_at_once_and_leaves_nothing(
    store: PayloadStore, tmp_path: Path, size_bytes: int
) -> None:
    """PR7: the chunk after the one that is too many is not asked for."""
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 100
            yield bytes(100)

    with pytest.raises(PayloadTooLarge, match=str(size_bytes)):
        await store.stage(endless(), bytes_max=size_bytes)

    assert taken <= size_bytes + 100
    assert parts(tmp_path) == []


@pytest.mark.parametrize("size_bytes", [1000, 3 * BATCH_BYTES])
async def test_a_broken_or_cancelled_upload_leaves_nothing(
    store: PayloadStore, tmp_path: Path, size_bytes: int
) -> None:
    waiting = asyncio.Event()

    async def hanging(error: Exception | None) -> AsyncIterator[bytes]:
        yield bytes(size_bytes)
        if error:
            raise error
        waiting.set()
        await asyncio.Event().wait()

    with pytest.raises(ConnectionResetError):
        await store.stage(hanging(ConnectionResetError()), bytes_max=1 << 20)
    task = asyncio.create_task(store.stage(hanging(None), bytes_max=1 << 20))
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert parts(tmp_path) == []


async def test_a_discarded_payload_leaves_nothing(store: PayloadStore, tmp_path: Path) -> None:
    staged = await store.stage(stream(bytes(3 * BATCH_BYTES)), bytes_max=1 << 20)
    assert len(parts(tmp_path)) == 1

    await store.discard(staged)
    await store.discard(staged)

    assert parts(tmp_path) == []


@pytest.mark.parametrize("size_bytes", [1000, 3 * BATCH_BYTES])
async def test_cancelling_keep_leaves_the_whole_file_or_none(
    store: PayloadStore, tmp_path: Path, size_bytes: int
) -> None:
    """A caller that goes away while its file is in a round leaves no half of it."""
    staged = [await store.stage(stream(os.urandom(size_bytes)), bytes_max=1 << 20) for _ in range(20)]
    tasks = [asyncio.create_task(store.keep(one)) for one in staged]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await store.close()

    assert parts(tmp_path) == []
    for one in staged:
        assert not store.has(one.cid) or await store.verify(one.cid)


async def test_many_writers_of_equal_and_different_content_all_succeed(store: PayloadStore, tmp_path: Path) -> None:
    contents = [bytes([n % 10]) * (1000 + n % 10 * 20_000) for n in range(100)]

    cids = await asyncio.gather(*(keep(store, content) for content in contents))

    assert len(set(cids)) == 10
    assert all([await store.verify(cid) for cid in set(cids)])
    assert parts(tmp_path) == []


@pytest.mark.parametrize("size_bytes", [1000, 3 * BATCH_BYTES])
async def test_a_damaged_file_is_quarantined_and_replaced(store: PayloadStore, tmp_path: Path, size_bytes: int) -> None:
    """G9: a truncated file does not refuse its content for ever."""
    data = bytes(size_bytes)
    cid = await keep(store, data)
    store.path(cid).write_bytes(data[:100])
    assert not await store.verify(cid)
    before = QUARANTINED._value.get()

    await keep(store, data)

    assert await store.verify(cid)
    (aside,) = (tmp_path / "root" / "quarantine").iterdir()
    assert aside.name.startswith(f"{cid}.")
    assert aside.read_bytes() == data[:100]
    assert QUARANTINED._value.get() == before + 1


@pytest.mark.parametrize("place", [Path.mkdir, lambda path: path.symlink_to("/etc/passwd"), os.mkfifo])
async def test_what_is_no_file_under_a_final_name_is_set_aside(
    store: PayloadStore, place: Callable[[Path], object]
) -> None:
    data = b"content"
    path = store.path(blake3(data).hexdigest())
    path.parent.mkdir(parents=True)
    place(path)

    cid = await keep(store, data)

    assert await store.verify(cid)


async def test_an_intact_file_is_not_replaced(store: PayloadStore) -> None:
    cid = await keep(store, b"content")
    inode = store.path(cid).stat().st_ino

    await keep(store, b"content")

    assert store.path(cid).stat().st_ino == inode


@pytest.mark.parametrize("text", ["", "../../etc/passwd", "a" * 63, "g" * 64, "a" * 62 + "/.", "a" * 64 + "\n\n/x"])
async def test_nothing_but_a_content_hash_becomes_a_path(store: PayloadStore, text: str) -> None:
    """G23."""
    with pytest.raises(InvalidId):
        store.path(text)
    with pytest.raises(InvalidId):
        await store.verify(text)


async def test_a_missing_payload_is_named(store: PayloadStore) -> None:
    cid = "0" * 64

    assert not store.has(cid)
    assert not await store.verify(cid)
    with pytest.raises(PayloadMissing, match=cid):
        store.open(cid)
    with pytest.raises(PayloadMissing, match=cid):
        [chunk async for chunk in store.read(cid)]


@pytest.mark.parametrize("wave", ["data", "name"])
async def test_a_failed_fsync_fails_its_round_and_keeps_none_of_it(tmp_path: Path, wave: str) -> None:
    """PR1: a second fsync after an error may succeed without the bytes, so the files are written anew."""
    failing = True

    def fsync(fd: int) -> None:
        target = os.readlink(f"/proc/self/fd/{fd}")
        leaf = Path(target).is_dir() and len(Path(target).name) == 2 and len(Path(target).parent.name) == 2
        if failing and (target.endswith(".part") if wave == "data" else leaf):
            raise OSError(errno.EIO, "injected")
        os.fsync(fd)

    failing = False
    store = PayloadStore(tmp_path / "root", tmp_path / "temp", fsync=fsync)
    failing = True
    contents = [bytes([n]) * 2000 for n in range(8)]
    results = await asyncio.gather(*(keep(store, content) for content in contents), return_exceptions=True)

    assert [type(result) for result in results] == [PayloadNotDurable] * 8
    assert parts(tmp_path, suffix="none") == []

    failing = False
    cids = await asyncio.gather(*(keep(store, content) for content in contents))
    assert all([await store.verify(cid) for cid in cids])
    await store.close()


async def test_bytes_are_synced_before_the_name_and_the_name_before_the_answer(tmp_path: Path) -> None:
    """PR1, G9: the order of the system calls, also of directories that an earlier process made."""
    data = b"content"
    cid = blake3(data).hexdigest()
    leaf = tmp_path / "root" / cid[:2] / cid[2:4]
    leaf.mkdir(parents=True)
    synced: list[tuple[str, bool]] = []

    def fsync(fd: int) -> None:
        target = os.readlink(f"/proc/self/fd/{fd}")
        synced.append(("data" if target.endswith(".part") else target, (leaf / f"{cid}.blob").exists()))
        os.fsync(fd)

    store = PayloadStore(tmp_path / "root", tmp_path / "temp", fsync=fsync)
    synced.clear()
    await keep(store, data)
    await store.close()

    assert set(synced[:3]) == {("data", False), (str(tmp_path / "root"), False), (str(leaf.parent), False)}
    assert synced[3:] == [(str(leaf), True)]


async def test_sweeping_removes_only_our_files_whose_writer_is_gone(store: PayloadStore, tmp_path: Path) -> None:
    """The temporary files of a running upload and foreign files stay."""
    temp, incoming = tmp_path / "temp", tmp_path / "root" / ".incoming"
    ours = "forge-01ARZ3NDEKTSV4RRFFQ69G5FAV.part"
    foreign = [temp / "notes.part", temp / "forge-x.part", temp / f"{ours}.txt", temp / f"x{ours}"]
    for path in [temp / ours, incoming / ours, *foreign]:
        path.write_bytes(b"x")
    link = temp / "forge-01ARZ3NDEKTSV4RRFFQ69G5FAW.part"
    link.symlink_to(foreign[0])
    running = await store.stage(stream(bytes(3 * BATCH_BYTES)), bytes_max=1 << 20)

    assert await store.sweep() == 2

    assert all(path.exists() for path in [*foreign, link])
    await store.keep(running)
    assert await store.verify(running.cid)


async def test_a_temporary_directory_on_another_device_works(tmp_path: Path, other_device: Path) -> None:
    store = PayloadStore(tmp_path / "root", other_device)

    cids = [await keep(store, bytes(size_bytes)) for size_bytes in SIZES]

    assert all([await store.verify(cid) for cid in cids])
    assert parts(other_device) == parts(tmp_path) == []
    await store.close()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small tmpfs")
@pytest.mark.parametrize("size_bytes", [20 << 10, 300 << 10])
async def test_a_full_disk_is_said_so_and_space_freed_is_used(small_disk: Path, size_bytes: int) -> None:
    """PR7: nothing half-written stays, and the store goes on when there is room."""
    store = PayloadStore(small_disk / "root", small_disk / "temp")
    kept: list[str] = []

    async def fill() -> None:
        for n in range(100):
            kept.append(await keep(store, bytes([n]) * size_bytes))

    with pytest.raises(PayloadStoreFull, match="free some space"):
        await fill()
    assert parts(small_disk) == []
    assert kept
    assert all([await store.verify(cid) for cid in kept])

    store.path(kept[0]).unlink()
    assert await store.verify(await keep(store, b"z" * size_bytes))
    await store.close()


WRITER = """
import asyncio, os, random, sys
from pathlib import Path
from events.payloads import PayloadStore

async def chunks(data):
    yield data

async def main(root, temp, seed):
    store = PayloadStore(Path(root), Path(temp))
    await store.sweep()
    rng = random.Random(int(seed))
    async def write():
        while True:
            # Few contents, so that finished, unfinished and equal files meet.
            data = rng.randbytes(1) * rng.choice([100, 20_000, 200_000])
            staged = await store.stage(chunks(data), bytes_max=1 << 20)
            await store.keep(staged)
            os.write(1, f"{staged.cid}\\n".encode())
    await asyncio.gather(*(write() for _ in range(16)))

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_killed_writer_leaves_every_reported_payload_intact(store: PayloadStore, tmp_path: Path) -> None:
    """PR1, G9: after kill -9 at random moments no file under a final name is damaged."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    reported: set[str] = set()
    for _ in range(6):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", WRITER, tmp_path / "root", tmp_path / "temp", str(rng.randrange(1 << 32)),
            stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        assert process.stdout is not None
        for _ in range(rng.randrange(1, 60)):
            reported.add((await process.stdout.readline()).decode().strip())
        process.send_signal(signal.SIGKILL)
        rest = (await process.stdout.read()).decode()
        reported |= set(rest[: rest.rfind("\n") + 1].split())
        await process.wait()

    assert len(reported) > 10
    for cid in reported:
        assert await store.verify(cid), cid
    for path in (tmp_path / "root").rglob("*.blob"):
        assert await store.verify(path.stem), path
    await store.sweep()
    assert parts(tmp_path) == []
    with suppress(FileNotFoundError):
        assert list((tmp_path / "root" / "quarantine").iterdir()) == []
