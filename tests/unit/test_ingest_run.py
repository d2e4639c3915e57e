"""A whole ingest against an in-memory node: what is opened, sent, counted and remembered."""

import os
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from forge.client import ForgeClient, ForgeError, NodeUnreachable, Retry
from forge.ingest.catalogue import Catalogue
from forge.ingest.content import Kind
from forge.ingest.run import Event, Ingest, Plan
from forge.ingest.scan import Failed
from forge.ingest.tally import Tally
from tests.unit.http_peer import HANG_UP, Answer, Request, VectorPeer, serving
from tests.unit.ingest_folder import attributes, opened_below, picture, require_attributes, write

QUICK = Retry(attempts=3, base_s=0.001, cap_s=0.002, unreachable_s=0.1)


def hash_of(content: bytes) -> str:
    return blake3(content).hexdigest()


async def ingest(
    root: Path,
    node: Callable[[Request], Answer],
    cache: Path | None = None,
    *,
    kind: Kind = "text",
    events: list[Event] | None = None,
    retry: Retry = QUICK,
    **plan: Any,
) -> Tally:
    """Run once; without `cache` nothing is remembered but in the files."""
    chosen = Plan(os.fsencode(root), kind, workers=2, lookup_batch=plan.pop("lookup_batch", 7), **plan)
    report = (events if events is not None else []).append
    with Catalogue.open(cache) if cache else Catalogue.in_memory() as catalogue:
        async with serving(node) as peer, ForgeClient(peer.url, retry=retry) as client:
            run = Ingest(chosen, client, catalogue, report=report)
            try:
                return await run.run()
            finally:
                assert run.tally.settled <= run.tally.seen


def open_files(folder: Path) -> list[str]:
    """Return what this process has open below `folder`."""
    opened = []
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            opened.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return [path for path in opened if path.startswith(f"{folder}/")]


def folder_of_texts(root: Path, count: int) -> dict[Path, bytes]:
    return {
        write(root / f"{n % 5}" / f"{n}.txt", content): content for n in range(count) if (content := b"text %d" % n)
    }


async def test_only_missing_files_are_sent_and_every_file_is_counted_once(tmp_path: Path) -> None:
    files = list(folder_of_texts(tmp_path / "root", 40).values())
    write(tmp_path / "root" / "copy.txt", files[0])
    write(tmp_path / "root" / "program", b"\x00\x01")
    write(tmp_path / "root" / "empty", b"")
    node = VectorPeer(present={hash_of(c) for c in files[:10]}, processing={hash_of(c) for c in files[10:15]})

    tally = await ingest(tmp_path / "root", node)

    assert Counter(node.uploads) == Counter(files[15:])
    assert (tally.seen, tally.hashed, tally.cached_hash) == (43, 41, 0)
    assert (tally.present, tally.processing, tally.uploaded, tally.duplicates) == (10, 5, 25, 1)
    assert tally.uploaded_bytes == sum(len(c) for c in files[15:])
    assert tally.skipped == {"not text": 1, "empty": 1}
    assert not tally.failed
    assert tally.settled == tally.seen


@pytest.mark.parametrize("cache", ["attributes", "catalogue"])
async def test_a_second_run_opens_and_sends_nothing(tmp_path: Path, cache: str) -> None:
    """Show 6: the second run uploads nothing and opens no unchanged file."""
    require_attributes(tmp_path)
    root = tmp_path / "root"
    folder_of_texts(root, 30)
    write(root / "large.txt", b"large " * 400_000)
    if cache == "catalogue":
        write(root / "program", b"\x00\x01")
    remembered = tmp_path / "cache" if cache == "catalogue" else None
    node = VectorPeer()
    await ingest(root, node, remembered)
    if cache == "catalogue":
        for path in root.rglob("*"):
            for name in attributes(path):
                os.removexattr(path, name)
    uploads = len(node.uploads)

    with opened_below(root) as opened:
        tally = await ingest(root, node, remembered)

    assert opened == []
    assert len(node.uploads) == uploads == 31
    assert (tally.hashed, tally.cached_hash, tally.present) == (0, 31, 31)


async def test_each_file_is_opened_once_also_when_it_is_sent(tmp_path: Path) -> None:
    root = tmp_path / "root"
    files = folder_of_texts(root, 20)
    for n in range(3):
        path = write(root / f"large-{n}", b"large %d " % n * 300_000)
        files[path] = path.read_bytes()

    with opened_below(root) as opened:
        tally = await ingest(root, VectorPeer())

    assert tally.uploaded == 23
    assert Counter(opened) == Counter({os.fsencode(path): 1 for path in files})


async def test_an_edited_file_is_hashed_and_sent_again(tmp_path: Path) -> None:
    root = tmp_path / "root"
    first = next(iter(folder_of_texts(root, 10)))
    node = VectorPeer()
    await ingest(root, node, tmp_path / "cache")
    first.write_bytes(b"edited")

    tally = await ingest(root, node, tmp_path / "cache")

    assert node.uploads[-1] == b"edited"
    assert (tally.hashed, tally.cached_hash, tally.uploaded) == (1, 9, 1)


async def test_a_dry_run_changes_nothing_anywhere(tmp_path: Path) -> None:
    root = tmp_path / "root"
    files = folder_of_texts(root, 10)
    node = VectorPeer()
    events: list[Event] = []

    tally = await ingest(root, node, tmp_path / "cache", dry_run=True, events=events)

    assert node.uploads == []
    assert (tally.would_upload, tally.uploaded, tally.settled) == (10, 0, tally.seen)
    assert {os.fsdecode(event.path) for event in events} == {str(path) for path in files}
    assert all(attributes(path) == {} for path in files)
    with Catalogue.open(tmp_path / "cache") as catalogue:
        assert all(catalogue.paths(hash_of(content)) == [] for content in files.values())


async def test_the_catalogue_knows_the_names_of_what_was_ingested(tmp_path: Path) -> None:
    files = folder_of_texts(tmp_path / "root", 5)
    await ingest(tmp_path / "root", VectorPeer(), tmp_path / "cache")

    with Catalogue.open(tmp_path / "cache") as catalogue:
        assert {path: catalogue.paths(hash_of(content)) for path, content in files.items()} == {
            path: [os.fsencode(path)] for path in files
        }


async def test_for_images_only_images_are_sent(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write(root / "a.png", picture(1))
    write(root / "b", picture(2, "JPEG"))
    write(root / "fake.jpg", b"<html>404</html>")
    write(root / "README", b"text")
    write(root / "notes.txt", b"text")
    node = VectorPeer()

    with opened_below(root) as opened:
        tally = await ingest(root, node, kind="image")

    assert Counter(node.uploads) == Counter([picture(1), picture(2, "JPEG")])
    assert tally.skipped == {"not an image": 3}
    assert os.fsencode(root / "notes.txt") not in opened


@pytest.mark.parametrize("size", [100, 3_000_000])
async def test_a_file_whose_cached_hash_is_wrong_is_hashed_again_and_sent(tmp_path: Path, size: int) -> None:
    """A changed file is not a failure: the node's refusal makes the client look again."""
    require_attributes(tmp_path)
    root = tmp_path / "root"
    path = write(root / "file", b"a" * size)
    await ingest(root, VectorPeer())
    write(path, b"b" * size)  # as if something had kept size, time and attributes
    node = VectorPeer()

    tally = await ingest(root, node)

    assert node.uploads == [b"b" * size]
    assert (tally.uploaded, tally.failed) == (1, {})
    assert attributes(path)["user.checksum.blake3"] == hash_of(b"b" * size)


async def test_a_file_that_shrinks_while_it_is_sent_is_hashed_again(tmp_path: Path) -> None:
    path = write(tmp_path / "root" / "file", b"a" * 3_000_000)
    node = VectorPeer()

    def looked_up(request: Request) -> Answer:
        if request.path == "/api/v1/lookup" and path.stat().st_size > 1000:
            path.write_bytes(b"shrunk")
        return node(request)

    tally = await ingest(tmp_path / "root", looked_up)

    assert node.uploads == [b"shrunk"]
    assert (tally.uploaded, tally.failed) == (1, {})


async def test_a_refused_file_fails_with_its_reason_and_the_others_go_on(tmp_path: Path) -> None:
    folder_of_texts(tmp_path / "root", 12)
    node = VectorPeer()
    node.before_upload = lambda r: Answer(413, {"title": "too large"}) if r.body == b"text 3" else None
    events: list[Event] = []

    tally = await ingest(tmp_path / "root", node, events=events)

    assert (tally.uploaded, tally.failed) == (11, {"HTTP 413 too large": 1})
    assert [os.path.basename(e.path) for e in events if isinstance(e, Failed)] == [b"3.txt"]
    assert tally.settled == tally.seen


async def test_a_refusal_for_a_file_with_the_right_hash_is_a_failure_after_one_more_look(tmp_path: Path) -> None:
    write(tmp_path / "root" / "file", b"text")
    node = VectorPeer()
    node.before_upload = lambda _: Answer(400, {"error": "unknown kind"})

    tally = await ingest(tmp_path / "root", node)

    assert (tally.uploaded, tally.failed.total()) == (0, 1)


async def test_refusals_for_now_and_broken_connections_are_tried_again(tmp_path: Path) -> None:
    """G31: no retry on 429 and 503 was a defect."""
    files = folder_of_texts(tmp_path / "root", 20)
    node = VectorPeer()
    tries: Counter[str] = Counter()

    def later(request: Request) -> Answer | None:
        digest = request.headers["x-file-hash"]
        tries[digest] += 1
        answers = (Answer(429, {"error": "full"}, {"Retry-After": "0"}), HANG_UP, Answer(503, {"error": "slow"}))
        return answers[len(digest) % 3 if tries[digest] == 1 else 1] if tries[digest] < 3 else None

    node.before_upload = later

    tally = await ingest(tmp_path / "root", node, retry=Retry(attempts=9, base_s=0.001, cap_s=0.002))

    assert Counter(node.uploads) == Counter(files.values())
    assert (tally.uploaded, tally.failed) == (20, {})


@pytest.mark.parametrize(
    ("answer", "stopped"),
    [
        (Answer(401, {"error": "who?"}), ForgeError),
        (Answer(503, {"error": "no"}), ForgeError),
        (HANG_UP, NodeUnreachable),
    ],
)
async def test_what_would_meet_every_file_stops_the_run_and_a_later_run_resumes(
    tmp_path: Path, answer: Answer, stopped: type[Exception]
) -> None:
    files = folder_of_texts(tmp_path / "root", 30)
    files[write(tmp_path / "root" / "large", b"large " * 300_000)] = b"large " * 300_000
    node = VectorPeer()
    node.before_upload = lambda _: answer if len(node.uploads) >= 4 else None
    with pytest.raises(stopped):
        await ingest(tmp_path / "root", node, tmp_path / "cache")
    assert open_files(tmp_path / "root") == []
    node.before_upload = lambda _: None

    tally = await ingest(tmp_path / "root", node, tmp_path / "cache")

    assert Counter(node.uploads) == Counter(files.values())
    assert tally.settled == tally.seen == 31


async def test_a_lookup_batch_ends_early_before_too_much_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PR7: what is kept between hashing and sending is bounded."""
    monkeypatch.setattr("forge.ingest.run.HELD_BYTES_MAX", 1_000_000)
    monkeypatch.setattr("forge.ingest.run.HELD_DESCRIPTORS_MAX", 2)
    monkeypatch.setattr("forge.ingest.hashing.JOB_BYTES_MAX", 500_000)
    for n in range(8):
        write(tmp_path / "root" / f"small-{n}", b"%d" % n * 400_000)
        write(tmp_path / "root" / f"large-{n}", b"%d" % n * 1_200_000)
    node = VectorPeer()
    asked: list[int] = []

    def noted(request: Request) -> Answer:
        if request.path == "/api/v1/lookup":
            asked.append(len(request.json()["hashes"]))
        return node(request)

    tally = await ingest(tmp_path / "root", noted, lookup_batch=500)

    assert tally.uploaded == 16
    assert max(asked) <= 5


async def test_a_catalogue_that_cannot_grow_does_not_stop_an_ingest(tmp_path: Path) -> None:
    folder_of_texts(tmp_path / "root", 100)
    node = VectorPeer()
    plan = Plan(os.fsencode(tmp_path / "root"), "text", workers=2, lookup_batch=500)
    with Catalogue.open(tmp_path / "cache") as catalogue:
        catalogue._db.pragma("max_page_count", 1)  # SQLite then says what it says on a full disk
        async with serving(node) as peer, ForgeClient(peer.url, retry=QUICK) as client:
            tally = await Ingest(plan, client, catalogue).run()

    assert (tally.uploaded, tally.not_remembered) == (100, 100)
