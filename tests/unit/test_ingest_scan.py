"""Which files a walk finds, and why it leaves others out."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from forge.ingest.catalogue import FILE_NAME, Catalogue, Remembered
from forge.ingest.content import Content, Kind, content_of
from forge.ingest.scan import CHUNK_FILES_MAX, Walk
from tests.unit.ingest_folder import LONG_AGO_NS, picture, write


def walk(root: Path, kind: Kind = "text", **options: Any) -> tuple[list[str], dict[str, str]]:
    """Return the names of the files that may be for us, and the reason for every other, relative to `root`."""
    found: list[str] = []
    skipped: dict[str, str] = {}
    with Catalogue.in_memory() as catalogue:
        for chunk in Walk(os.fsencode(root), kind, **options).chunks(catalogue):
            assert len(chunk) <= CHUNK_FILES_MAX
            found += [os.path.relpath(os.fsdecode(file.path), root) for file in chunk.unread + chunk.known]
            skipped |= {os.path.relpath(os.fsdecode(s.path), root): s.reason for s in chunk.skipped}
    return found, skipped


def test_files_come_in_order_with_hidden_ones_and_each_other_entry_has_its_reason(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z", "a/b/deep", ".hidden", "a.txt"):
        write(tmp_path / name, b"text")
    write(tmp_path / "empty", b"")
    (tmp_path / "link").symlink_to(tmp_path / "b.txt")
    (tmp_path / "linked-folder").symlink_to(tmp_path / "a")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "socket"))

        found, skipped = walk(tmp_path)

    assert found == [".hidden", "a.txt", "b.txt", "a/z", "a/b/deep"]
    assert skipped == {
        "empty": "empty",
        "link": "symbolic link",
        "linked-folder": "symbolic link",
        "dangling": "symbolic link",
        "fifo": "not a regular file",
        "socket": "not a regular file",
    }


def test_images_are_looked_for_under_their_names_and_under_names_without_a_suffix(tmp_path: Path) -> None:
    for name in ("photo.JPG", "scan.tiff", "noname", ".jpg", "notes.txt", "archive.jpg.gz"):
        write(tmp_path / name, picture(1))

    found, skipped = walk(tmp_path, "image")

    assert found == [".jpg", "noname", "photo.JPG", "scan.tiff"]
    assert skipped == {"notes.txt": "not an image", "archive.jpg.gz": "not an image"}


def test_names_that_are_not_utf8_are_found(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/caf\xe9\n.txt"
    with open(path, "wb") as file:
        file.write(b"text")

    found, _ = walk(tmp_path)

    assert os.fsencode(found[0]) == b"caf\xe9\n.txt"


def test_excluded_folders_are_left_out(tmp_path: Path) -> None:
    """The root token of a node is a text file too."""
    write(tmp_path / "data" / "root.token", b"secret")
    write(tmp_path / "kept", b"text")
    data = (tmp_path / "data").stat()

    found, skipped = walk(tmp_path, excluded=frozenset({(data.st_dev, data.st_ino)}))

    assert found == ["kept"]
    assert skipped == {"data": "Forge's own data"}


def test_a_folder_with_more_files_than_a_chunk_comes_in_several(tmp_path: Path) -> None:
    """PR7: what is held of a large folder is bounded."""
    names = [f"{n:05d}" for n in range(CHUNK_FILES_MAX + 5)]
    for name in names:
        (tmp_path / name).write_bytes(b"x")

    assert walk(tmp_path)[0] == names


def test_a_root_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        walk(tmp_path / "nowhere")


def remember(catalogue: Catalogue, path: Path, content: Content, digest: bytes | None) -> None:
    now = path.stat()
    row = Remembered(os.fsencode(path.name), now.st_size, now.st_mtime_ns, digest, content)
    catalogue.remember([(os.fsencode(path.parent), row)], 0)


def test_a_remembered_file_is_known_until_its_size_or_time_changes(tmp_path: Path) -> None:
    path = write(tmp_path / "file", b"text")
    digest = b"\x01" * 32
    with Catalogue.in_memory() as catalogue:
        remember(catalogue, path, Content.TEXT, digest)
        steps = Walk(os.fsencode(tmp_path), "text")
        known = [file.digest for chunk in steps.chunks(catalogue) for file in chunk.known]
        write(path, b"Text", LONG_AGO_NS + 1)
        after = [file.digest for chunk in steps.chunks(catalogue) for file in chunk.known]

        assert (known, after) == ([digest], [])


def test_content_that_does_not_fit_is_remembered_too(tmp_path: Path) -> None:
    path = write(tmp_path / "program", b"\x7fELF\x00")
    with Catalogue.in_memory() as catalogue:
        remember(catalogue, path, Content.BINARY, None)
        reasons: dict[Kind, str] = {"image": "not an image", "text": "not text"}
        for kind, reason in reasons.items():
            chunks = Walk(os.fsencode(tmp_path), kind).chunks(catalogue)
            assert [s.reason for chunk in chunks for s in chunk.skipped] == [reason]


@pytest.mark.parametrize("read_only", [False, True])
def test_files_that_are_gone_are_forgotten(tmp_path: Path, read_only: bool) -> None:
    path = write(tmp_path / "file", b"text")
    with Catalogue.in_memory() as catalogue:
        remember(catalogue, path, Content.TEXT, b"\x01" * 32)
        path.unlink()
        list(Walk(os.fsencode(tmp_path), "text", read_only=read_only).chunks(catalogue))

        assert catalogue.paths("01" * 32) == ([os.fsencode(path)] if read_only else [])


@pytest.mark.parametrize("damage", [b"", b"not a database at all, but long enough" * 300, "other version"])
def test_a_damaged_or_foreign_catalogue_is_replaced(tmp_path: Path, damage: bytes | str) -> None:
    with Catalogue.open(tmp_path) as catalogue:
        if isinstance(damage, str):
            catalogue._db.pragma("user_version", 99)
    if isinstance(damage, bytes):
        (tmp_path / FILE_NAME).write_bytes(damage)

    with Catalogue.open(tmp_path) as catalogue:
        catalogue.remember([(b"/f", Remembered(b"n", 1, 2, b"\x02" * 32, Content.IMAGE))], 0)
        assert catalogue.paths("02" * 32) == [b"/f/n"]
        assert catalogue.content("02" * 32) is Content.IMAGE


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_image_formats_are_recognised(file_format: str) -> None:
    assert content_of(picture(3, file_format)) is Content.IMAGE


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"plain text", Content.TEXT),
        (b"BM is how a bitmap begins", Content.TEXT),
        ("grüße".encode(), Content.TEXT),
        ("utf-16".encode("utf-16"), Content.BINARY),
        (b"\x7fELF\x02\x01\x01\x00", Content.BINARY),
        (b"\x00\x00\x00\x1cftypavif\x00", Content.IMAGE),
        (b"\x00\x00\x00\x1cftypmp42\x00", Content.BINARY),
        (b"RIFF\x00\x00\x00\x00WAVE", Content.BINARY),
        (b"x" * 8192 + b"\x00", Content.TEXT),
    ],
)
def test_content_is_told_by_its_first_bytes(head: bytes, expected: Content) -> None:
    assert content_of(head) is expected
