"""Ingest of real files into a real node, twice, and searching what was ingested.

Needs the fixture `node` (`.url`, `.token`); as long as there is none, these tests are skipped.
"""

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from forge.client import ForgeClient
from forge.ingest.catalogue import Catalogue
from forge.ingest.content import Kind
from forge.ingest.run import PATIENCE, Ingest, Plan
from forge.ingest.tally import Tally
from tests.unit.ingest_folder import opened_below, require_attributes

TEXTS = 1000
IMAGES = 300
TEXT_SOURCES = ("/usr/share/common-licenses", "/usr/share/doc", "/usr/lib/python3", os.path.dirname(os.__file__))
IMAGE_SOURCES = ("/usr/share/icons", "/usr/share/pixmaps", "/usr/share/doc")
SIZE_MAX = 200_000
EMBEDDED_WITHIN_S = 240
SEED = 20_240_229


@dataclass(frozen=True)
class Served:
    url: str
    token: str


@pytest.fixture
def served(request: pytest.FixtureRequest) -> Served:
    try:
        node = request.getfixturevalue("node")
    except pytest.FixtureLookupError:
        pytest.skip("tests/conftest.py offers no fixture `node` yet")
    return Served(node.url, node.token)


@pytest.fixture
async def client(served: Served) -> AsyncIterator[ForgeClient]:
    async with ForgeClient(served.url, served.token, retry=PATIENCE) as client:
        yield client


def found_on_this_machine(folders: tuple[str, ...], suffixes: tuple[str, ...]) -> Iterator[Path]:
    """Yield regular files of a moderate size, in a fixed order."""
    for folder in folders:
        for where, below, names in os.walk(folder):
            below.sort()
            for name in sorted(names):
                path = Path(where, name)
                if name.endswith(suffixes) and path.is_file() and not path.is_symlink():
                    yield path


def copy(found: Iterator[Path], target: Path, count: int) -> int:
    """Copy up to `count` files with their names; return how many."""
    copied = 0
    for path in found:
        if copied == count:
            break
        try:
            content = path.read_bytes()
        except OSError:
            continue
        if not 0 < len(content) <= SIZE_MAX:
            continue
        folder = target / f"{copied % 17:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{copied:04d}-{path.name}").write_bytes(content)
        copied += 1
    return copied


def draw(path: Path, random_source: random.Random) -> None:
    """Write a photo-like picture: a gradient with shapes, in one of the usual formats."""
    size = random_source.randrange(64, 320), random_source.randrange(64, 320)
    picture = Image.linear_gradient("L").resize(size).convert("RGB")
    pen = ImageDraw.Draw(picture)
    for _ in range(6):
        x, y = random_source.randrange(size[0]), random_source.randrange(size[1])
        colour = tuple(random_source.randrange(256) for _ in range(3))
        pen.ellipse((x, y, x + random_source.randrange(10, 90), y + random_source.randrange(10, 90)), fill=colour)
    picture.save(path)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    root = tmp_path / "texts"
    copied = copy(found_on_this_machine(TEXT_SOURCES, (".py", ".txt", "copyright", "GPL-2", "README")), root, TEXTS)
    if copied < TEXTS:
        pytest.skip(f"only {copied} text files found on this machine, {TEXTS} wanted")
    return root


@pytest.fixture
def images(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    root.mkdir()
    copied = copy(found_on_this_machine(IMAGE_SOURCES, (".png", ".jpg", ".gif", ".webp")), root, IMAGES // 2)
    print(f"seed {SEED}")
    random_source = random.Random(SEED)
    for n in range(copied, IMAGES):
        draw(root / f"photo-{n:04d}.{('jpg', 'png', 'webp', 'gif')[n % 4]}", random_source)
    return root


async def ingest(root: Path, kind: Kind, client: ForgeClient, cache: Path) -> Tally:
    with Catalogue.open(cache) as catalogue:
        return await Ingest(Plan(os.fsencode(root), kind, workers=2, lookup_batch=500), client, catalogue).run()


async def wait_until_embedded(client: ForgeClient, kind: Kind, hashes: list[str]) -> None:
    """Wait until no file is being processed any more."""
    deadline = time.monotonic() + EMBEDDED_WITHIN_S
    waiting = hashes
    while waiting and time.monotonic() < deadline:
        known = await client.lookup(kind, waiting)
        waiting = [h for h in waiting if known[h] == "processing"]
        await asyncio.sleep(0.2 if waiting else 0)
    assert not waiting, f"{len(waiting)} files are still being processed"


def hashes_of(root: Path, cache: Path) -> dict[str, list[Path]]:
    """Return the paths below `root` by content hash, as the catalogue knows them."""
    found: dict[str, list[Path]] = {}
    with Catalogue.open(cache) as catalogue:
        for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
            for file in catalogue.in_folder(os.fsencode(folder)).values():
                if file.digest is not None:
                    found.setdefault(file.digest.hex(), []).append(folder / os.fsdecode(file.name))
    return found


@pytest.mark.parametrize("kind", ["text", "image"])
async def test_a_second_ingest_of_real_files_uploads_nothing_and_opens_no_unchanged_file(
    kind: Kind, client: ForgeClient, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Show 6: at least 1,000 real text files and 300 real images, twice."""
    require_attributes(tmp_path)
    root: Path = request.getfixturevalue("texts" if kind == "text" else "images")
    cache = tmp_path / "cache"

    first = await ingest(root, kind, client, cache)
    known = hashes_of(root, cache)
    await wait_until_embedded(client, kind, list(known))
    with opened_below(root) as opened:
        second = await ingest(root, kind, client, cache)

    assert not first.failed
    assert first.settled == first.seen
    assert first.uploaded + first.present + first.processing == len(known)
    assert opened == []
    failures = [job for page in [await client.failed(kind)] for job in page.jobs if job.file_hash in known]
    assert second.uploaded == len(failures) == 0, failures
    assert (second.hashed, second.present) == (0, len(known))
    assert (second.seen, second.duplicates, second.skipped) == (first.seen, first.duplicates, first.skipped)


async def test_a_near_copy_is_what_is_most_like_a_file(client: ForgeClient, tmp_path: Path) -> None:
    root, cache = tmp_path / "root", tmp_path / "cache"
    root.mkdir()
    print(f"seed {SEED}")
    random_source = random.Random(SEED)
    words = [f"word{n}" for n in range(500)]
    pages = [" ".join(random_source.choices(words, k=300)) for _ in range(20)]
    for n, page in enumerate(pages):
        (root / f"{n}.txt").write_text(page)
    (root / "near.txt").write_text(pages[0] + " and a little more")
    await ingest(root, "text", client, cache)
    known = hashes_of(root, cache)
    await wait_until_embedded(client, "text", list(known))
    by_name = {path.name: digest for digest, paths in known.items() for path in paths}

    found = await client.search("text", hash=by_name["0.txt"], k=2)

    assert found.hits[0].hash == by_name["near.txt"]
    assert found.hits[0].score > found.hits[1].score
    stored = await client.embedding("text", by_name["0.txt"])
    assert (len(stored.vector), stored.model) == (stored.dimension, found.model)


async def test_a_dry_run_leaves_the_node_as_it_is(client: ForgeClient, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    for n in range(20):
        (root / f"{n}.txt").write_text(f"dry run {n} {time.time_ns()}")
    plan = Plan(os.fsencode(root), "text", workers=2, lookup_batch=500, dry_run=True)
    with Catalogue.in_memory() as catalogue:
        tally = await Ingest(plan, client, catalogue).run()
        again = await Ingest(plan, client, catalogue).run()

    assert tally.would_upload == again.would_upload == 20
