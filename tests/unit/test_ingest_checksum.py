"""Checksums kept with the files: when they are believed, and what writing one removes."""

import os
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from blake3 import blake3

from forge.ingest.checksum import DIGEST, MTIME, STAT, Checksum, read_checksum, write_checksum
from forge.ingest.content import Content
from forge.ingest.digest import IN_MEMORY_BYTES_MAX, FileChanged, Stopped, read_file, settled
from forge.ingest.mapped import MAPPED_BYTES_MIN, MappedHasher
from forge.ingest.mapped_child import CHUNK_BYTES
from tests.unit.ingest_folder import LONG_AGO_NS, attributes, require_attributes, write

CONTENT = b"hello world"
DIGEST_HEX = "d74981efa70a0c880b8d8c1985d075dbcbf679b99a5f9914e5aaf96b831a9e24"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    require_attributes(tmp_path)
    return write(tmp_path / "file", CONTENT)


def keep(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        read = read_file(descriptor)
        return write_checksum(descriptor, Checksum(read.digest, read.content, read.size_bytes, read.mtime_ns))
    finally:
        os.close(descriptor)


def kept(path: Path) -> Checksum | None:
    now = path.stat()
    return read_checksum(os.fsencode(path), now.st_size, now.st_mtime_ns)


def test_a_checksum_is_kept_in_the_attributes_that_other_tools_read(file: Path) -> None:
    assert keep(file)

    assert attributes(file) == {
        DIGEST: DIGEST_HEX,
        MTIME: str(LONG_AGO_NS // 10**9),
        STAT: f"11:{LONG_AGO_NS}:text",
    }
    assert kept(file) == Checksum(DIGEST_HEX, Content.TEXT, 11, LONG_AGO_NS)
    assert file.stat().st_mtime_ns == LONG_AGO_NS


def test_writing_a_checksum_removes_those_of_older_content_and_nothing_else(file: Path) -> None:
    """G27: an old sha256 beside a new blake3 looks valid."""
    for name in ("user.checksum.sha256", "user.checksum.md5", "user.checksum.blake3", "user.xdg.tags", "user.other"):
        os.setxattr(file, name, b"old")

    keep(file)

    assert set(attributes(file)) == {DIGEST, MTIME, STAT, "user.xdg.tags", "user.other"}


def test_an_edit_within_the_same_second_is_noticed(file: Path) -> None:
    """G27: whole seconds miss it."""
    keep(file)
    write(file, b"hello WORLD", LONG_AGO_NS + 1)

    assert kept(file) is None


def test_an_edit_that_changes_only_the_size_is_noticed(file: Path) -> None:
    keep(file)
    write(file, CONTENT + b"!")

    assert kept(file) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (STAT, None),
        (STAT, b"11"),
        (STAT, b"x:y:text"),
        (STAT, f"11:{LONG_AGO_NS}:odd".encode()),
        (STAT, b"\xff" * 500),
        (MTIME, None),
        (MTIME, b"1"),
        (MTIME, b"soon"),
        (DIGEST, None),
        (DIGEST, b""),
        (DIGEST, b"../../etc/passwd"),
        (DIGEST, DIGEST_HEX.upper().encode()),
    ],
)
def test_attributes_that_do_not_all_agree_are_not_believed(file: Path, name: str, value: bytes | None) -> None:
    keep(file)
    if value is None:
        os.removexattr(file, name)
    else:
        os.setxattr(file, name, value)

    assert kept(file) is None


def test_attributes_that_may_not_be_written_are_not_an_error() -> None:
    proc = Path("/proc/self/status")  # a file system without user attributes
    descriptor = os.open(proc, os.O_RDONLY)
    try:
        assert not write_checksum(descriptor, Checksum(DIGEST_HEX, Content.TEXT, 1, 1))
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("size", [1, 8192, IN_MEMORY_BYTES_MAX, IN_MEMORY_BYTES_MAX + 1, 20_000_003])
def test_files_of_every_size_have_the_hash_of_their_content(tmp_path: Path, size: int) -> None:
    content = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    path = write(tmp_path / "file", content)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        read = read_file(descriptor)
    finally:
        os.close(descriptor)

    assert (read.digest, read.size_bytes, read.mtime_ns) == (blake3(content).hexdigest(), size, LONG_AGO_NS)
    assert read.content is Content.TEXT
    assert read.small == (content if size <= IN_MEMORY_BYTES_MAX else None)


def test_a_file_that_keeps_changing_has_no_hash(tmp_path: Path) -> None:
    path = write(tmp_path / "file", b"x" * (64 << 20))
    descriptor = os.open(path, os.O_RDWR)
    done = threading.Event()

    def edit() -> None:
        while not done.is_set():
            os.pwrite(descriptor, b"y", 0)

    editor = threading.Thread(target=edit)
    editor.start()
    try:
        with pytest.raises(FileChanged):
            read_file(descriptor)
    finally:
        done.set()
        editor.join()
        os.close(descriptor)


@pytest.fixture
def hasher() -> Iterator[MappedHasher]:
    with closing(MappedHasher()) as hasher:
        yield hasher


def digest_of(hasher: MappedHasher, path: Path, size: int | None = None) -> bytes | None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return hasher.digest(descriptor, size or path.stat().st_size, threading.Event())
    finally:
        os.close(descriptor)


def test_a_child_hashes_one_large_file_after_the_other(tmp_path: Path, hasher: MappedHasher) -> None:
    for size in (1, 70_000_001, CHUNK_BYTES):
        path = write(tmp_path / str(size), os.urandom(size))

        assert digest_of(hasher, path) == blake3(path.read_bytes()).digest()


def test_a_file_that_shrinks_under_its_map_costs_a_child_and_nothing_more(tmp_path: Path, hasher: MappedHasher) -> None:
    """A mapped page that has gone ends the process that touches it: not this one."""
    other = write(tmp_path / "other", b"x" * 10_000)
    assert digest_of(hasher, other) is not None
    path = tmp_path / "file"
    path.touch()
    os.truncate(path, 64 << 30)  # a hole: takes no disk, and longer to hash than the machine stalls
    child = hasher._child
    assert child is not None

    def shrink_when_mapped() -> None:
        deadline = time.monotonic() + 30
        while str(path) not in Path(f"/proc/{child.pid}/maps").read_text() and time.monotonic() < deadline:
            time.sleep(0.001)
        os.truncate(path, 0)

    shrinking = threading.Thread(target=shrink_when_mapped)
    shrinking.start()
    digest = digest_of(hasher, path)
    shrinking.join()

    assert digest is None
    assert child.returncode not in (None, 0)
    assert digest_of(hasher, other) == blake3(b"x" * 10_000).digest()


def test_a_large_file_that_the_child_dies_of_is_read_instead(
    tmp_path: Path, hasher: MappedHasher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forge.ingest.mapped._PROGRAM", write(tmp_path / "dies.py", b"raise SystemExit"))
    path = write(tmp_path / "file", b"x" * MAPPED_BYTES_MIN)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        assert read_file(descriptor, None, hasher).digest == blake3(path.read_bytes()).hexdigest()
    finally:
        os.close(descriptor)


def test_a_child_ends_with_its_parents_door(tmp_path: Path, hasher: MappedHasher) -> None:
    digest_of(hasher, write(tmp_path / "file", b"x"))
    child = hasher._child
    assert child is not None

    hasher.close()

    assert child.returncode is not None


def test_reading_ends_when_nobody_wants_the_result(tmp_path: Path) -> None:
    path = write(tmp_path / "file", b"x" * (20 << 20))
    stop = threading.Event()
    stop.set()
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with pytest.raises(Stopped):
            read_file(descriptor, stop)
    finally:
        os.close(descriptor)


def test_a_file_that_was_just_written_rests_so_that_a_later_edit_has_another_time(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for round_number in range(50):
        path.write_bytes(b"%04d" % round_number)
        descriptor = os.open(path, os.O_RDONLY)
        before = settled(descriptor)
        os.close(descriptor)
        path.write_bytes(b"edit")

        assert path.stat().st_mtime_ns != before.st_mtime_ns


def test_a_file_from_the_future_is_read_at_once(tmp_path: Path) -> None:
    ahead_ns = time.time_ns() + 3600 * 10**9
    path = write(tmp_path / "file", CONTENT, ahead_ns)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        assert stat.S_ISREG(settled(descriptor).st_mode)
        assert read_file(descriptor).mtime_ns == ahead_ns
    finally:
        os.close(descriptor)
