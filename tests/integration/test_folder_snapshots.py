"""Snapshots of real folders: what is in them, what is left out, and that they come back as they were."""

import asyncio
import os
import stat
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from socket import AF_UNIX, socket
from typing import Any

import pytest
import pytest_asyncio
from blake3 import blake3

from events.payloads import PayloadStore, payload_path
from forge.datadir import data_directory, root_token
from forge.embedded import nats
from forge.ingest.scan import open_regular
from forge.snapshot.create import Plan, create
from forge.snapshot.desk import Desk, NotReached, desk
from forge.snapshot.payloads import opened_payloads
from forge.snapshot.reading import Reader, parse_tags, write_tags
from forge.snapshot.restore import NotRestored, Restored, restore
from forge.snapshot.walk import SnapshotFailed, Walk
from projectors.node import queries
from projectors.node.file_mode import go_mode
from projectors.node.parts import parts_of
from projectors.node.tree_difference import Change, changes
from schemas.ids import Cid
from schemas.node import RecordTrees, TreeEntry
from schemas.settings import Settings

NOBODY = 65534
LARGE_BYTES = 192 << 20  # takes so long to read that whoever writes to it comes to his turn


@pytest_asyncio.fixture
async def here(tmp_path: Path) -> AsyncIterator[Desk]:
    """A data directory whose log is opened for snapshots alone."""
    names = {"FORGE_DATA_DIR": str(tmp_path / "data"), "FORGE_CACHE_DIR": str(tmp_path / "cache")}
    async with desk(Settings.load(names)) as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one of everything."""
    root = tmp_path / "folder"
    (root / "below" / "deep").mkdir(parents=True)
    (root / "empty").mkdir(mode=0o750)
    (root / "a.txt").write_text("hello world")
    (root / "below" / "b.bin").write_bytes(os.urandom(3 << 20))
    (root / "below" / "deep" / "none").touch()
    (root / "below" / "program").write_text("#!/bin/sh\n")
    (root / "below" / "program").chmod(0o4755)
    os.symlink("below/nowhere", root / "link")
    os.mkfifo(root / "pipe", 0o600)
    Path(os.fsdecode(bytes(root) + b"/not utf-8 \xff")).write_text("odd")
    os.utime(root / "a.txt", ns=(1, 1_700_000_000_123_456_789))
    write_tags(bytes(root / "a.txt"), ("music", "work"))
    return root


def plan(root: Path, **more: Any) -> Plan:
    return replace(Plan(bytes(root), threads=2), **more)


def entries(here: Desk, tree: Cid) -> dict[bytes, TreeEntry]:
    with here.snapshots() as db:
        return {entry.name: entry for entry in queries.entries(db, tree)}


def taken(here: Desk, root: Path) -> int:
    with here.snapshots() as db:
        return len(queries.snapshots(db, bytes(root), 100))


def difference(here: Desk, root: Path) -> list[Change]:
    with here.snapshots() as db:
        after, before = queries.snapshots(db, bytes(root), 2)
        return list(changes(db, before.target_hash, after.target_hash))


async def bring_back(here: Desk, tree: Cid, target: Path) -> Restored:
    store = PayloadStore(here.settings.blob_cache, here.settings.vector_temp_dir)
    try:
        with here.snapshots() as db:
            return restore(db, tree, store, bytes(target))
    finally:
        await store.close()


async def test_a_snapshot_has_everything_and_comes_back_as_it_was(here: Desk, folder: Path, tmp_path: Path) -> None:
    """Spec 62, 72, PR4: the tree that is made of the restored folder has the same second hash."""
    first = await create(here, plan(folder, keep=True))
    again = await create(here, plan(folder))
    done = await bring_back(here, first["hash"], tmp_path / "back")
    back = await create(here, plan(tmp_path / "back"))

    found = entries(here, first["hash"])
    assert found[b"a.txt"] == TreeEntry(
        name=b"a.txt",
        kind="file",
        target=blake3(b"hello world").hexdigest(),
        mode=0o644,
        mtime_ns=1_700_000_000_123_456_789,
        size=11,
        tags=("music", "work"),
    )
    link = found[b"link"]
    assert (link.kind, link.link, link.size) == ("symlink", b"below/nowhere", 13)
    assert link.target == blake3(b"below/nowhere").hexdigest()
    pipe = (folder / "pipe").stat()
    assert found[b"pipe"].target == blake3(f"prw-------:0:{pipe.st_mtime_ns}".encode()).hexdigest()
    assert found[b"below"].mode == go_mode((folder / "below").stat().st_mode)
    assert (first["trees"], first["files"], first["specials"], first["recorded"]) == (4, 5, 1, 4)
    assert (again["hash"], again["recorded"], again["cached"]) == (first["hash"], 0, 5)
    assert (done.files, done.missing_count, done.passed_over) == (5, 0, [])
    assert back["hash_v2"] == first["hash_v2"]
    assert stat.S_ISFIFO((tmp_path / "back" / "pipe").stat().st_mode)


async def test_a_file_that_nobody_may_read_comes_back_so(here: Desk, folder: Path, tmp_path: Path) -> None:
    """Spec 62: rights of 000 are no left out rights; they are told apart by the time, as `/etc/shadow` is in places."""
    await create(here, plan(folder, keep=True))
    kept = TreeEntry(name=b"kept", kind="file", target=blake3(b"hello world").hexdigest(), mtime_ns=10**18, size=11)
    (part,) = parts_of([kept])
    await here.submit(RecordTrees(trees=(part,)))

    await bring_back(here, part.hash, tmp_path / "back")

    found = (tmp_path / "back" / "kept").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_mtime_ns) == (0, 10**18)


async def test_bytes_that_were_not_kept_are_listed_and_everything_else_comes_back(
    here: Desk, folder: Path, tmp_path: Path
) -> None:
    """PR4: also when a payload is damaged: nothing wrong is ever written as if it were the file."""
    bare = await create(here, plan(folder))
    done = await bring_back(here, bare["hash"], tmp_path / "bare")
    assert (done.files, done.missing_count, done.symlinks) == (0, 5, 1)
    assert "below/b.bin" in done.missing

    kept = await create(here, plan(folder, keep=True))
    store = PayloadStore(here.settings.blob_cache, here.settings.vector_temp_dir)
    damaged = store.path(blake3(b"hello world").hexdigest())
    damaged.chmod(0o600)
    damaged.write_bytes(b"hellO world")
    await store.close()
    done = await bring_back(here, kept["hash"], tmp_path / "kept")
    assert (done.files, done.missing) == (4, ["a.txt"])
    assert not (tmp_path / "kept" / "a.txt").exists()
    with pytest.raises(NotRestored, match="is not empty"):
        await bring_back(here, kept["hash"], tmp_path / "kept")
    with here.refs() as db:
        refs = queries.refs(db, "snapshot.tree_entries")
    assert refs == {cid: cid for cid in refs}
    assert len(refs) == 5


async def test_damaged_bytes_are_set_aside_and_kept_again(here: Desk, folder: Path, tmp_path: Path) -> None:
    """PR4: else every later snapshot would take them for kept, and no archive be asked for them."""
    kept = await create(here, plan(folder, keep=True))
    damaged = payload_path(here.settings.blob_cache, blake3(b"hello world").hexdigest())
    damaged.write_bytes(b"hellO world")
    with here.snapshots() as db:
        async with opened_payloads(here, db, kept["hash"]) as store:
            assert restore(db, kept["hash"], store, bytes(tmp_path / "without")).missing == ["a.txt"]

    assert not damaged.exists()
    await create(here, plan(folder, keep=True))

    assert (await bring_back(here, kept["hash"], tmp_path / "whole")).missing_count == 0


async def test_a_file_whose_hash_is_of_other_bytes_is_read_again(here: Desk, folder: Path) -> None:
    """K7: some programs put the time of a file back after they changed it; `--keep` sees the bytes."""
    await create(here, plan(folder))
    file = folder / "a.txt"
    before = file.stat()
    file.write_text("HELLO WORLD")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))

    again = await create(here, plan(folder, keep=True))

    assert (again["warnings"], again["samples"]) == (0, [])
    assert entries(here, again["hash"])[b"a.txt"].target == blake3(b"HELLO WORLD").hexdigest()
    assert (await create(here, plan(folder)))["hash"] == again["hash"], "and what is kept with it is mended"


async def test_beside_a_node_that_decides_nothing_what_is_there_can_be_read(tmp_path: Path, folder: Path) -> None:
    """Such as a standby: nobody answers commands there."""
    settings = Settings.load({"FORGE_DATA_DIR": str(tmp_path / "data"), "FORGE_CACHE_DIR": str(tmp_path / "cache")})
    async with desk(settings) as alone:
        await create(alone, plan(folder))
    async with data_directory(settings.data_dir) as data, nats(settings, data) as at:
        root_token(data.path)
        data.publish("http://127.0.0.1:1", settings.node_id, at.monitor, at.reader, at.client)
        async with desk(settings) as beside:
            assert taken(beside, folder) == 1
            with pytest.raises(NotReached, match="takes no commands now"):
                await create(beside, plan(folder))


async def test_a_difference_has_what_came_went_and_changed(here: Desk, folder: Path) -> None:
    """Spec 78, 79: A, D, M, T, below a folder too, and tags."""
    await create(here, plan(folder))
    (folder / "below" / "deep" / "none").write_text("some")
    (folder / "below" / "new").mkdir()
    (folder / "below" / "new" / "file").touch()
    (folder / "link").unlink()
    (folder / "pipe").unlink()
    (folder / "pipe").touch()
    write_tags(bytes(folder / "a.txt"), ("play", "work"))
    await create(here, plan(folder))

    assert difference(here, folder) == [
        Change("M", b"a.txt", "file", ["play"], ["music"]),
        Change("M", b"below/deep/none", "file", [], []),
        Change("A", b"below/new", "tree", (), ()),
        Change("A", b"below/new/file", "file", (), ()),
        Change("D", b"link", "symlink", (), ()),
        Change("T", b"pipe", "file", [], []),
    ]


async def test_a_basic_tree_knows_no_modes_times_and_tags(here: Desk, folder: Path) -> None:
    """Spec 70, 71."""
    before = await create(here, plan(folder, basic=True))
    (folder / "a.txt").chmod(0o600)
    os.utime(folder / "below", ns=(5, 5))
    os.utime(folder / "pipe", ns=(5, 5))
    write_tags(bytes(folder / "a.txt"), ("other",))
    after = await create(here, plan(folder, basic=True))

    assert after["hash"] == before["hash"]
    assert difference(here, folder) == []
    assert {(e.mode, e.mtime_ns, e.tags) for e in entries(here, after["hash"]).values()} == {(0, 0, ())}


async def test_forges_own_files_are_no_part_of_a_snapshot(here: Desk, tmp_path: Path) -> None:
    """Spec 73, 76, PR6: neither databases nor the root token."""
    (tmp_path / "file").touch()
    taken = await create(here, plan(tmp_path))

    assert set(entries(here, taken["hash"])) == {b"file"}
    for own in (here.settings.data_dir, here.settings.snapshot_db, here.settings.data_dir / "nats"):
        with pytest.raises(SnapshotFailed, match="conflicts with snapshot db path"):
            await create(here, plan(own))


@contextmanager
def growing(path: Path) -> Iterator[None]:
    """Let a file grow all the time."""
    stop = threading.Event()

    def grow() -> None:
        with path.open("ab") as file:
            while not stop.is_set():
                file.write(b"more")
                file.flush()

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


async def test_a_file_that_changes_while_it_is_read_is_left_out_with_a_warning(here: Desk, folder: Path) -> None:
    """Spec 74, 75: the others are kept; strictly, nothing is recorded."""
    busy = folder / "below" / "busy"
    busy.touch()
    os.truncate(busy, LARGE_BYTES)
    with growing(busy):
        seen = await create(here, plan(folder))
        with pytest.raises(SnapshotFailed, match="file changed"):
            await create(here, plan(folder, strict=True))

    assert (seen["warnings"], seen["files"]) == (1, 5)
    assert seen["samples"] == [f"{busy}: file changed while it was read"]
    assert taken(here, folder) == 1


@pytest.mark.parametrize("now", ["link", "pipe", "folder", "socket"])
async def test_a_file_that_becomes_something_else_meanwhile_is_left_out_with_a_warning(
    now: str, open_folder: Path
) -> None:
    """Spec 74: it has changed while it was read, and the others are kept."""
    for name in ("replaced", "stays"):
        (open_folder / name).write_text(name)

    async def keep(path: bytes, _: str) -> None:
        if path.endswith(b"replaced"):
            os.unlink(path)
            match now:
                case "link":
                    os.symlink(b"stays", path)
                case "pipe":
                    os.mkfifo(path)
                case "folder":
                    os.mkdir(path)
                case _:
                    with socket(AF_UNIX) as bound:
                        bound.bind(path)
        os.close(open_regular(path))

    walk = Walk(bytes(open_folder), Reader(), 1, keep=keep)
    (part,) = [part async for part in walk.trees()]

    assert [entry.name for entry in part.entries] == [b"stays"]
    assert walk.tally.samples == [f"{open_folder}/replaced: file changed while it was read"]


@contextmanager
def as_nobody() -> Iterator[None]:
    """Lose the rights of root, for whom nothing is unreadable."""
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users may enter, as those of pytest are not."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)


async def test_what_cannot_be_read_is_left_out_or_strictly_fails(open_folder: Path) -> None:
    """Spec 69, 74, 75: an unreadable folder; an unreadable root always fails."""
    root = open_folder / "root"
    (root / "closed").mkdir(parents=True)
    (root / "open").mkdir()
    (root / "closed").chmod(0)
    with as_nobody():
        walk = Walk(bytes(root), Reader(), 1)
        parts = [part async for part in walk.trees()]
        with pytest.raises(SnapshotFailed, match="permission denied"):
            [part async for part in Walk(bytes(root), Reader(), 1, strict=True).trees()]
        with pytest.raises(PermissionError):
            [part async for part in Walk(bytes(root / "closed"), Reader(), 1).trees()]

    assert [entry.name for entry in parts[-1].entries] == [b"open"]
    assert walk.tally.samples == [f"{root}/closed: permission denied"]


async def test_what_ends_half_way_names_no_snapshot(here: Desk, folder: Path) -> None:
    """PR3: the snapshot is the last that is recorded; what is there before it is taken up by the next run."""
    for commands in range(1, 4):
        sent = 0

        async def submit(command: Any, limit: int = commands) -> Any:
            nonlocal sent
            sent += 1
            if sent == limit:
                raise asyncio.CancelledError
            return await here.submit(command)

        (folder / f"{commands}").write_text(f"new content {commands}")
        with pytest.raises(asyncio.CancelledError):
            await create(replace(here, submit=submit), plan(folder, keep=True))
        assert taken(here, folder) == 0
    await create(here, plan(folder, keep=True))
    assert taken(here, folder) == 1


def test_tags_are_trimmed_sorted_and_told_apart() -> None:
    assert parse_tags(" work;music, work ,,") == ("music", "work")
