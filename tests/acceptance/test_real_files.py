"""Ingest of real files into a real node, as a user does it: twice, after changes, with trouble, and killed half-way."""

import asyncio
import gzip
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from blake3 import blake3
from PIL import Image

from tests.acceptance import real_files, watched_forge
from tests.acceptance.node_process import NodeProcess
from tests.unit.ingest_folder import require_attributes

TEXTS, PACKED, TEXTS_KILLED = 1000, 20, 600
PICTURES, PHOTOS_MIN = 300, 60
SEED = 20_261_120
INGEST_WAIT_S = 240.0
EMBED_WAIT_S = 240.0
POLL_S = 0.05
KILL_AFTER_UPLOADS = 40
OUTCOMES = ("present", "present_locally", "processing", "uploaded", "would_upload", "duplicates")

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass(frozen=True)
class Run:
    """One `forge vector ingest --json`: its exit code, what it printed, and the files it opened, in order."""

    code: int
    document: dict[str, Any]
    opened: list[Path]
    error: str

    def reasons(self, outcome: str) -> dict[str, str]:
        """Return the reason of each path with this outcome."""
        return {one["path"]: one["reason"] for one in self.document["files"] if one["outcome"] == outcome}

    def adds_up(self) -> bool:
        """Tell whether every path that was seen ended in exactly one count."""
        counts = self.document
        ends = sum(counts[name] for name in OUTCOMES)
        return bool(counts["seen"] == ends + sum(counts["skipped"].values()) + sum(counts["failed"].values()))


@dataclass(frozen=True)
class Library:
    """A node, a tree of real texts and one of pictures, and what their first ingest said."""

    node: NodeProcess
    texts: Path
    pictures: Path
    photos: list[Path]
    first: dict[str, Run]

    def root(self, kind: str) -> Path:
        return self.texts if kind == "text" else self.pictures


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def library(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Library]:
    """A node with at least 1,000 real texts and 300 pictures ingested, everything embedded."""
    home = tmp_path_factory.mktemp("library")
    texts, pictures = home / "texts", home / "pictures"
    copied = len(real_files.copy(real_files.texts(), TEXTS, texts))
    assert copied == TEXTS, f"only {copied} real texts on this machine"
    packed = real_files.copy(real_files.packed(), PACKED, texts / "packed")
    if not packed:
        (texts / "packed.gz").write_bytes(gzip.compress(b"a text, packed"))
    (texts / "empty.txt").touch()
    found = real_files.copy(
        real_files.found(real_files.PICTURE_SOURCES, real_files.PICTURE_ENDINGS), PICTURES - PHOTOS_MIN, pictures
    )
    print(f"{copied} texts, {len(packed)} packed, {len(found)} pictures found, the rest drawn with seed {SEED}")
    photos = real_files.draw_photos(PICTURES - len(found), pictures, SEED)
    node = NodeProcess(home)
    try:
        await node.start()
        first = {kind: await ingest(node, root, kind) for kind, root in (("text", texts), ("image", pictures))}
        await everything_embedded(node)
        yield Library(node, texts, pictures, photos, first)
    finally:
        await node.close()


def command(node: NodeProcess, root: Path, kind: str, notes: Path, *options: str) -> list[str]:
    told = ("--root", str(root), "--kind", kind, *options)
    return [sys.executable, watched_forge.__file__, str(notes), str(root), "vector", "ingest", *told]


async def ingest(
    node: NodeProcess, root: Path, kind: str, *options: str, cache: Path | None = None, vanishing: Path | None = None
) -> Run:
    """Run `forge vector ingest --json`; `cache` is another cache directory than the node's."""
    notes = node.home / "opened"
    notes.unlink(missing_ok=True)
    environ = node.environ | ({"FORGE_CACHE_DIR": str(cache)} if cache else {})
    environ |= {"WATCHED_VANISHES": str(vanishing)} if vanishing else {}
    process = await asyncio.create_subprocess_exec(
        *command(node, root, kind, notes, "--json", *options), env=environ, stdout=-1, stderr=-1
    )
    async with asyncio.timeout(INGEST_WAIT_S):
        out, err = await process.communicate()
    assert process.returncode is not None
    assert out, err.decode()
    opened = [Path(os.fsdecode(path)) for path in notes.read_bytes().split(b"\0") if path]
    return Run(process.returncode, json.loads(out), opened, err.decode())


async def everything_embedded(node: NodeProcess) -> None:
    """Wait until no job waits or is worked on; fail if one is a dead letter."""
    async with asyncio.timeout(EMBED_WAIT_S), node.client() as client:
        jobs = (await client.status())["jobs"]
        while jobs["pending"] or jobs["processing"]:
            await asyncio.sleep(POLL_S)
            jobs = (await client.status())["jobs"]
    assert jobs["error"] == 0


def contents(root: Path) -> dict[str, list[Path]]:
    """Return the files below `root` by their BLAKE3, computed here."""
    by_hash: dict[str, list[Path]] = {}
    for path in sorted(root.rglob("*")):
        if path.is_file():
            by_hash.setdefault(blake3(path.read_bytes()).hexdigest(), []).append(path)
    return by_hash


def files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


def forget_times(root: Path) -> None:
    """Let no file look as if it had just been written."""
    for path in files(root):
        os.utime(path, (1_700_000_000, 1_700_000_000))


@pytest.fixture
def own_tree(tmp_path: Path) -> Iterator[Path]:
    """A folder of the test's own, emptied at the end as it may be large."""
    root = tmp_path / "tree"
    root.mkdir()
    yield root
    shutil.rmtree(root)


@pytest.mark.parametrize("kind", ["text", "image"])
async def test_every_accepted_real_file_becomes_present(library: Library, kind: str) -> None:
    """Show 6: at least 1,000 texts and 300 pictures, each read once, each with a vector or a reason why not."""
    run = library.first[kind]
    left_out = run.reasons("skipped")
    wanted = {digest: paths for digest, paths in contents(library.root(kind)).items() if str(paths[0]) not in left_out}

    assert (run.code, run.document["failed"], run.document["complete"]) == (0, {}, True)
    assert run.document["seen"] == len(files(library.root(kind))) >= (TEXTS if kind == "text" else PICTURES)
    assert run.adds_up()
    assert run.document["uploaded"] == len(wanted)
    assert run.document["duplicates"] == sum(len(paths) - 1 for paths in wanted.values())
    assert set(left_out.values()) <= {"not text", "not an image", "empty"}
    assert sorted(run.opened) == [p for p in files(library.root(kind)) if left_out.get(str(p)) != "empty"]
    async with library.node.client() as client:
        assert await client.lookup(kind, list(wanted)) == dict.fromkeys(wanted, "present")


@pytest.mark.parametrize("kind", ["text", "image"])
async def test_a_second_run_uploads_nothing_and_opens_no_unchanged_file(library: Library, kind: str) -> None:
    """Show 6: the first run proves that opens are seen, this one that there are none."""
    first = library.first[kind].document
    assert library.first[kind].opened

    second = await ingest(library.node, library.root(kind), kind)

    assert second.opened == []
    assert (second.code, second.document["uploaded"], second.document["hashed"]) == (0, 0, 0)
    assert second.document["present"] == first["uploaded"]
    for count in ("seen", "duplicates", "skipped"):
        assert second.document[count] == first[count]
    assert second.adds_up()


async def test_checksums_kept_with_the_files_do_for_somebody_without_the_catalogue(
    library: Library, tmp_path: Path
) -> None:
    """G27: another user, or a copy that kept the attributes, opens no file that has a valid checksum."""
    require_attributes(library.texts)
    without = set(library.first["text"].reasons("skipped"))

    run = await ingest(library.node, library.texts, "text", cache=tmp_path / "cache")

    assert {str(path) for path in run.opened} <= without  # what is no text was never hashed
    assert (run.document["hashed"], run.document["uploaded"]) == (0, 0)
    assert run.document["cached_hash"] == library.first["text"].document["hashed"]


async def test_a_file_that_changed_between_runs_is_read_and_uploaded_again(library: Library, own_tree: Path) -> None:
    real_files.copy(real_files.texts(), 50, own_tree)
    forget_times(own_tree)
    await ingest(library.node, own_tree, "text")
    changed, touched, same_size, *_ = files(own_tree)
    changed.write_bytes(changed.read_bytes() + b"\nand one line more\n")
    touched.touch()
    content = same_size.read_bytes()
    same_size.write_bytes(b"#" + content[:0:-1])

    run = await ingest(library.node, own_tree, "text")

    assert sorted(run.opened) == [changed, touched, same_size]
    assert (run.code, run.document["hashed"], run.document["uploaded"]) == (0, 3, 2)
    assert run.document["seen"] == 50
    assert run.adds_up()
    await everything_embedded(library.node)
    async with library.node.client() as client:
        for path in (changed, touched, same_size):
            digest = blake3(path.read_bytes()).hexdigest()
            assert await client.lookup("text", [digest]) == {digest: "present"}


async def test_a_rescaled_photo_is_found_first(library: Library, own_tree: Path) -> None:
    photo = library.photos[0]
    copy = own_tree / "rescaled.png"
    with Image.open(photo) as picture:
        picture.convert("RGB").resize((picture.width * 2 // 3, picture.height * 2 // 3)).save(copy)
    await ingest(library.node, own_tree, "image")
    await everything_embedded(library.node)

    assert await most_like(library.node, photo, "image") == copy
    assert await most_like(library.node, copy, "image") == photo


async def test_an_edited_text_is_found_first(library: Library, own_tree: Path) -> None:
    original = max(files(library.texts / "000"), key=lambda path: path.stat().st_size)
    copy = own_tree / "edited.txt"
    lines = original.read_text(errors="replace").splitlines()
    copy.write_text("\n".join(["A sentence in front.", *lines[: len(lines) // 2], *lines[len(lines) // 2 + 5 :]]))
    await ingest(library.node, own_tree, "text")
    await everything_embedded(library.node)

    assert await most_like(library.node, original, "text") == copy
    assert await most_like(library.node, copy, "text") == original


async def most_like(node: NodeProcess, path: Path, kind: str) -> Path:
    """Return the file that `forge vector search` shows first."""
    found = await node.cli("vector", "search", str(path), "--kind", kind, "-k", "3", "--json")
    assert found.code == 0, found.err
    first = json.loads(found.out)["hits"][0]
    return Path(first["paths"][0])


async def test_a_file_that_cannot_be_read_fails_the_run_with_its_reason(library: Library, own_tree: Path) -> None:
    """G31: exit code 1, every path with its reason, everything else ingested; the next run makes up for it."""
    readable, locked, vanishing, *_ = real_files.copy(real_files.texts(), 20, own_tree)
    for number, path in enumerate(files(own_tree)):
        path.write_bytes(path.read_bytes() + f"\n# trouble {number}\n".encode())
    locked.chmod(0)
    closed = own_tree / "closed"
    closed.mkdir()
    (closed / "unseen.txt").write_text("nobody can know that this is here")
    closed.chmod(0)
    os.mkfifo(own_tree / "pipe")
    (own_tree / "link").symlink_to(readable)

    first = await ingest(library.node, own_tree, "text", vanishing=vanishing)

    assert first.code == 1
    assert first.reasons("failed") == {
        str(locked): "unreadable: Permission denied",
        str(vanishing): "vanished",
        str(closed): "unreadable: Permission denied",
    }
    assert first.reasons("skipped") == {
        str(own_tree / "pipe"): "not a regular file",
        str(own_tree / "link"): "symbolic link",
    }
    assert (first.document["uploaded"], first.document["seen"]) == (18, 23)
    assert first.adds_up()
    assert json.loads(first.error)["what"] == "3 of 23 files were not ingested"

    said = await verbose(library.node, own_tree)
    assert said.count("unreadable: Permission denied") >= 2
    assert f"skipped: {own_tree / 'pipe'}: not a regular file" in said

    locked.chmod(0o600)
    closed.chmod(0o700)
    mended = await ingest(library.node, own_tree, "text")
    assert (mended.code, mended.document["uploaded"], mended.document["failed"]) == (0, 2, {})


async def verbose(node: NodeProcess, root: Path) -> str:
    """Return what `forge vector ingest -v` prints, which must fail."""
    arguments = command(node, root, "text", node.home / "opened", "-v")
    process = await asyncio.create_subprocess_exec(*arguments, env=node.environ, stdout=-1, stderr=-2)
    async with asyncio.timeout(INGEST_WAIT_S):
        out, _ = await process.communicate()
    assert process.returncode == 1
    return re.sub(r"\x1b\[[0-9;]*m", "", out.decode())


async def test_a_dry_run_tells_what_it_would_send_and_changes_nothing(library: Library, own_tree: Path) -> None:
    for number, path in enumerate(real_files.copy(real_files.texts(), 20, own_tree)):
        path.write_bytes(path.read_bytes() + f"\n# dry {number}\n".encode())
    before = await jobs_ever(library.node)

    runs = [await ingest(library.node, own_tree, "text", "--dry-run") for _ in range(2)]

    assert [(run.code, run.document["would_upload"], run.document["hashed"]) for run in runs] == [(0, 20, 20)] * 2
    assert all(run.adds_up() for run in runs)
    assert not [path for path in files(own_tree) if os.listxattr(path)]
    assert await jobs_ever(library.node) == before


async def test_an_ingest_that_was_killed_goes_on_where_it_was(library: Library, own_tree: Path) -> None:
    """Show 6, PR5: `kill -9` half-way; the next run sends what is missing and nothing twice."""
    for path in real_files.copy(real_files.texts(), TEXTS_KILLED, own_tree):
        path.write_bytes(path.read_bytes() + b"\n# the tree of the killed run\n")
    wanted = contents(own_tree)
    before = await jobs_ever(library.node)
    arguments = command(library.node, own_tree, "text", library.node.home / "opened", "--lookup-batch", "50")
    hangs = {"WATCHED_HANGS": str(files(own_tree)[TEXTS_KILLED // 2])}  # so that it cannot end before it is killed
    process = await asyncio.create_subprocess_exec(*arguments, env=library.node.environ | hangs, stdout=-3, stderr=-3)
    async with asyncio.timeout(INGEST_WAIT_S):
        while await jobs_ever(library.node) < before + KILL_AFTER_UPLOADS:
            assert process.returncode is None, "the run ended by itself"
    process.send_signal(signal.SIGKILL)
    assert await process.wait() == -signal.SIGKILL
    sent = await jobs_ever(library.node) - before

    again = await ingest(library.node, own_tree, "text")

    known = again.document["present"] + again.document["processing"]
    print(f"killed after {sent} of {len(wanted)} uploads; the next run found {known} and sent the rest")
    assert KILL_AFTER_UPLOADS <= sent < len(wanted)
    assert (again.code, again.document["failed"]) == (0, {})
    assert known >= sent
    assert known + again.document["uploaded"] == len(wanted)
    assert again.adds_up()
    assert await jobs_ever(library.node) - before == len(wanted)
    await everything_embedded(library.node)
    async with library.node.client() as client:
        assert await client.lookup("text", list(wanted)) == dict.fromkeys(wanted, "present")


async def jobs_ever(node: NodeProcess) -> int:
    async with node.client() as client:
        counts: Sequence[int] = (await client.status())["jobs"].values()
    return sum(counts)
