"""What a replica's file is made from, and which files are refused."""

import os
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest

from forge.client.errors import NodeUnreachable
from forge.replica.download import download_path
from forge.replica.errors import FileRefused, SnapshotRefused
from forge.replica.follower import Follower
from forge.replica.identity import Identity
from forge.replica.lock import beside
from forge.replica.snapshot import fetch
from tests.document_source import Source, content_of, digest_of, served
from tests.replicas import caught_up, flip, following, notes


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Source]:
    with closing(notes(tmp_path)) as document:
        yield document


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "copy.db"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.write_text("a shopping list\n" * 100), "not-a-database"),
        (lambda path: sqlite3.connect(path).execute("CREATE TABLE mine (a)").connection.close(), "not-a-replica"),
        (lambda path: path.write_bytes(b""), "not-a-replica"),
        (lambda path: path.mkdir(), "not-a-database"),
    ],
    ids=["text", "own-database", "empty", "folder"],
)
async def test_a_file_of_somebody_else_is_refused_and_untouched(
    source: Source, file: Path, make: Callable[[Path], Any], reason: str
) -> None:
    make(file)
    before = content_of(file)
    async with served(source) as (peer, transport):
        with pytest.raises(FileRefused) as refused:
            await caught_up(transport, file)
        assert not peer.snapshot_ranges
    assert refused.value.reason == reason
    assert content_of(file) == before


async def test_a_nodes_own_file_is_refused(source: Source, tmp_path: Path) -> None:
    async with served(source) as (_, transport):
        with pytest.raises(FileRefused, match="not a replica"):
            await caught_up(transport, tmp_path / "source-notes.db")


async def test_a_replica_of_another_document_is_refused(source: Source, file: Path, tmp_path: Path) -> None:
    async with served(source) as (_, transport):
        await caught_up(transport, file)
    before = digest_of(file)
    other = Source(tmp_path / "other", "letters")
    other.run("CREATE TABLE letter (id INTEGER PRIMARY KEY)")
    try:
        async with served(other) as (_, transport):
            follower = Follower(transport, "letters", file)
            with pytest.raises(FileRefused) as refused:
                await follower.open()
            await follower.close()
    finally:
        other.close()
    assert refused.value.reason == "other-document"
    assert digest_of(file) == before


async def test_a_file_has_one_follower(source: Source, file: Path) -> None:
    async with served(source) as (_, transport), following(transport, file):
        second = Follower(transport, "notes", file)
        with pytest.raises(FileRefused) as refused:
            await second.open()
        await second.close()
    assert refused.value.reason == "in-use"
    async with served(source) as (_, transport):
        await caught_up(transport, file)


async def test_a_replica_that_is_ahead_of_its_node_is_refused(source: Source, file: Path, tmp_path: Path) -> None:
    """K3.4: a node that was set back must not set its replicas back."""
    async with served(source) as (_, transport):
        source.run("INSERT INTO note (body) VALUES ('lost by the node')")
        await caught_up(transport, file)
        before = digest_of(file)
        source.entries.pop()
        source.cursors.pop()
        async with following(transport, file) as follower:
            with pytest.raises(FileRefused) as refused:
                await follower.catch_up()
        assert refused.value.reason == "ahead"
        assert "--reseed" in refused.value.fix
    assert digest_of(file) == before


async def test_a_damaged_snapshot_is_never_used(source: Source, file: Path) -> None:
    """K3.6: one flipped bit anywhere is refused and reported, and leaves nothing behind."""
    number = random.Random(13)
    async with served(source) as (peer, transport):
        for _ in range(10):
            damage = flip(number)
            peer.spoil_snapshot = damage
            with pytest.raises(SnapshotRefused, match="SHA-256"):
                await caught_up(transport, file)
            assert list(file.parent.glob("copy.db*")) == []


@pytest.mark.parametrize(
    ("header", "value", "why"),
    [
        ("Forge-Position", "1.4", "stands at"),
        ("Forge-Position", "2.5", "stands at"),
        ("Forge-Hash", "00" * 16, "another history"),
        ("Forge-Digest", "00" * 32, "content has the digest"),
        ("Repr-Digest", "sha-256=:AAAA:", "SHA-256"),
    ],
)
async def test_a_snapshot_is_what_the_node_says_of_it(
    source: Source, file: Path, header: str, value: str, why: str
) -> None:
    """K3.4: index, epoch, hash and digest are each checked, and each refusal has its own reason."""
    async with served(source) as (peer, transport):
        peer.spoil_headers = {header: value}
        follower = Follower(transport, "notes", file)
        with pytest.raises(SnapshotRefused, match=why):
            await follower.open(content=True)
        await follower.close()
    assert not content_of(file)


async def test_a_broken_download_goes_on_where_it_broke_off(source: Source, file: Path) -> None:
    """K3.1: the rest is asked for by range, also by a follower that was started anew."""
    async with served(source) as (peer, transport):
        peer.cut_snapshot_at = 3000
        await caught_up(transport, file)
        assert peer.snapshot_ranges == ["", "bytes=2999-"]
    assert digest_of(file) == source.digest()


async def test_a_download_of_an_older_snapshot_is_begun_anew(source: Source, file: Path) -> None:
    async with served(source) as (peer, transport):
        peer.cut_snapshot_at = 3000
        transport.retry = type(transport.retry)(attempts=1)
        with pytest.raises(NodeUnreachable):
            await caught_up(transport, file)
        source.run("INSERT INTO note (body) VALUES ('one more')")
        await caught_up(transport, file)
        assert peer.snapshot_ranges == ["", "bytes=2999-"]
    assert digest_of(file) == source.digest()


async def test_an_installation_that_was_killed_is_made_anew(source: Source, file: Path) -> None:
    """K3.3: whatever SQLite left beside the download is not applied to it."""
    async with served(source) as (_, transport):
        head = await fetch(transport, "notes", download_path(file), Identity.new("file"))
        with closing(apsw.Connection(str(download_path(file)))) as db:
            for _ in db.execute("PRAGMA journal_mode=WAL; BEGIN; CREATE TABLE half_done (a); COMMIT"):
                pass
            for suffix in ("", "-wal"):
                shutil.copy(f"{download_path(file)}{suffix}", f"{file}.kept{suffix}")
        for suffix in ("", "-wal"):
            shutil.copy(f"{file}.kept{suffix}", f"{download_path(file)}{suffix}")
        beside(download_path(file), "etag").write_text(head.etag)
        await caught_up(transport, file)
    assert digest_of(file) == source.digest()


async def test_a_file_that_is_taken_away_is_not_followed_in_secret(source: Source, file: Path) -> None:
    async with served(source) as (_, transport), following(transport, file) as follower:
        await follower.catch_up()
        os.rename(file, file.with_name("moved.db"))
        source.run("INSERT INTO note (body) VALUES ('one more')")
        with pytest.raises(FileRefused, match="removed or replaced"):
            await follower.catch_up()
