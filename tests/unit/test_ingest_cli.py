"""`forge vector` as a process: flags, output, exit codes."""

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
from blake3 import blake3

from forge.cli.flags import Duration, two_dashes
from forge.cli.vector_ingest import ingest
from tests.unit.http_peer import Answer, Request, VectorPeer, serving
from tests.unit.ingest_folder import attributes, picture, write

COMMAND = (sys.executable, "-c", "from forge.cli import main; main()", "vector")


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


async def forge(tmp_path: Path, *arguments: str) -> Ended:
    """Run `forge vector` with directories of its own."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("FORGE_")}
    environ |= {"FORGE_DATA_DIR": str(tmp_path / "data"), "FORGE_CACHE_DIR": str(tmp_path / "cache")}
    process = await asyncio.create_subprocess_exec(
        *COMMAND, *arguments, env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    return Ended(process.returncode or 0, out.decode(), err.decode())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for n in range(4):
        write(tmp_path / "root" / f"{n}.png", picture(n))
    write(tmp_path / "root" / "notes.txt", b"text")
    write(tmp_path / "root" / "empty.png", b"")
    return tmp_path / "root"


async def test_an_ingest_with_gos_flags_sends_the_images_and_ends_with_the_totals(tmp_path: Path, root: Path) -> None:
    node = VectorPeer()
    async with serving(node) as peer:
        flags = ["-server", peer.url, "-root", str(root), "-kind=image", "-algo", "blake3", "-workers=2"]
        first = await forge(tmp_path, "ingest", *flags, "-lookup-batch", "3", "-http-timeout", "1m30s", "-hydrated-db=")
        second = await forge(tmp_path, "ingest", *flags, "-v=true")

    assert (first.code, first.err) == (0, "")
    assert len(node.uploads) == 4
    lines = [" ".join(line.split()) for line in first.out.splitlines()]
    assert {"seen 6", "hashed 4", "already present 0", "uploaded 4", "skipped: empty 1"} <= set(lines)
    assert "skipped: notes.txt" in second.out.replace(f"{root}/", "")
    assert {"hashed 0", "cached hash 4", "already present 4"} <= {" ".join(x.split()) for x in second.out.splitlines()}


async def test_the_json_of_an_ingest_has_a_reason_for_every_skipped_file(tmp_path: Path, root: Path) -> None:
    async with serving(VectorPeer()) as peer:
        ended = await forge(tmp_path, "ingest", "--url", peer.url, "-root", str(root), "--json")

    document = ended.json()
    skipped = {Path(f["path"]).name: f["reason"] for f in document["files"] if f["outcome"] == "skipped"}
    assert skipped == {"notes.txt": "not an image", "empty.png": "empty"}
    assert (document["seen"], document["uploaded"], document["complete"]) == (6, 4, True)
    assert document["skipped"] == {"not an image": 1, "empty": 1}


async def test_a_dry_run_names_what_it_would_send_and_leaves_no_trace(tmp_path: Path, root: Path) -> None:
    node = VectorPeer()
    async with serving(node) as peer:
        ended = await forge(tmp_path, "ingest", "-server", peer.url, "-root", str(root), "-dry-run", "--json")

    would = [Path(f["path"]).name for f in ended.json()["files"] if f["outcome"] == "would upload"]
    assert sorted(would) == ["0.png", "1.png", "2.png", "3.png"]
    assert node.uploads == []
    assert attributes(root / "0.png") == {}


async def test_a_failed_file_is_named_and_makes_the_exit_code_1(tmp_path: Path, root: Path) -> None:
    node = VectorPeer()
    node.before_upload = lambda r: Answer(413, {"title": "too large"}) if r.body == picture(2) else None
    async with serving(node) as peer:
        ended = await forge(tmp_path, "ingest", "-server", peer.url, "-root", str(root))
        as_json = await forge(tmp_path, "ingest", "-server", peer.url, "-root", str(root), "--json")

    assert ended.code == as_json.code == 1
    assert f"failed: {root}/2.png: HTTP 413 too large" in ended.err
    assert as_json.json()["failed"] == {"HTTP 413 too large": 1}
    assert json.loads(as_json.err)["exit_code"] == 1


async def test_a_run_that_is_stopped_ends_its_json_document(tmp_path: Path, root: Path) -> None:
    node = VectorPeer()
    node.before_upload = lambda _: Answer(401, {"title": "who?"})
    async with serving(node) as peer:
        ended = await forge(tmp_path, "ingest", "-server", peer.url, "-root", str(root), "--json")

    assert ended.code == 4
    assert ended.json()["complete"] is False


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["-algo", "sha256"], "supported: blake3"),
        (["-workers", "0"], "must be > 0"),
        (["-lookup-batch=0"], "must be > 0"),
        (["-http-timeout", "soon"], "120s"),
        (["-http-timeout", "0s"], "must be > 0"),
        (["-kind", "sound"], "image"),
        (["folder"], "folder"),
        (["-rot", "x"], "-r"),
    ],
)
async def test_wrong_flags_are_usage_errors(tmp_path: Path, flags: list[str], message: str) -> None:
    ended = await forge(tmp_path, "ingest", *flags)

    assert ended.code == 2
    assert message in ended.err


async def test_a_node_that_is_away_is_said_before_anything_is_hashed(tmp_path: Path, root: Path) -> None:
    async with serving(VectorPeer()) as peer:
        url = peer.url

    ended = await forge(tmp_path, "ingest", "-server", url, "-root", str(root))

    assert ended.code == 6
    assert "forge up" in ended.err
    assert attributes(root / "0.png") == {}


async def test_a_root_that_is_not_there_is_named(tmp_path: Path) -> None:
    async with serving(VectorPeer()) as peer:
        ended = await forge(tmp_path, "ingest", "-server", peer.url, "-root", str(tmp_path / "nowhere"))

    assert ended.code == 3
    assert "nowhere" in ended.err


async def test_hashes_of_a_local_copy_are_not_asked_for(tmp_path: Path, root: Path) -> None:
    import apsw

    copy = tmp_path / "copy.db"
    with_hash = apsw.Connection(str(copy))
    with_hash.execute("CREATE TABLE image_embeddings (hash TEXT PRIMARY KEY, vector BLOB, created_at, updated_at)")
    with_hash.execute("INSERT INTO image_embeddings (hash) VALUES (?)", (blake3(picture(1)).hexdigest(),))
    with_hash.close()
    node = VectorPeer()
    async with serving(node) as peer:
        ended = await forge(
            tmp_path, "ingest", "-server", peer.url, "-root", str(root), "-hydrated-db", str(copy), "--json"
        )
        assert picture(1) not in node.uploads
        odd = await forge(tmp_path, "ingest", "-server", peer.url, "-root", str(root), "-hydrated-db", str(root))

        none = await forge(tmp_path, "ingest", "-server", peer.url, "-root", str(root), "-hydrated-db", "/nowhere.db")
    assert "continuing without hydrated precheck DB" in none.err
    assert (ended.json()["present_locally"], ended.json()["uploaded"]) == (1, 3)
    assert (odd.code, "warning" in odd.err) == (0, True)


class SearchPeer(VectorPeer):
    """Knows vectors once their files are uploaded, and finds everything alike."""

    def __call__(self, request: Request) -> Answer:
        if request.path != "/api/v1/search":
            return super().__call__(request)
        asked = request.json()
        if asked["hash"] not in self.present:
            return Answer(404, {"title": "no embedding"})
        best_first = sorted(self.present, key=lambda h: (h != asked["hash"], h))
        hits = [{"hash": h, "score": 1.0 if h == asked["hash"] else 0.5} for h in best_first]
        return Answer(200, {"kind": asked["kind"], "model": "m", "hits": hits[: asked["k"]], "scanned": len(hits)})


async def test_a_search_prints_scores_and_the_names_of_ingested_files(tmp_path: Path, root: Path) -> None:
    async with serving(SearchPeer()) as peer:
        await forge(tmp_path, "ingest", "-server", peer.url, "-root", str(root))
        by_file = await forge(tmp_path, "search", str(root / "2.png"), "--url", peer.url, "-k", "2")
        digest = blake3(picture(2)).hexdigest()
        by_hash = await forge(tmp_path, "search", digest, "--url", peer.url, "--json")

    assert by_file.out.splitlines()[1].split() == ["1.0000", str(root / "2.png")]
    assert len(by_file.out.splitlines()) == 3
    assert by_hash.json()["kind"] == "image"
    assert by_hash.json()["hits"][0] == {"hash": digest, "score": 1.0, "paths": [str(root / "2.png")]}


async def test_a_search_for_a_file_that_is_not_embedded_says_how_to_embed_it(tmp_path: Path, root: Path) -> None:
    async with serving(SearchPeer()) as peer:
        absent = await forge(tmp_path, "search", str(root / "0.png"), "--url", peer.url)
        uploaded = await forge(tmp_path, "search", str(root / "0.png"), "--url", peer.url, "--upload", "--wait", "5s")

    assert absent.code == 3
    assert "--upload" in absent.err
    assert (uploaded.code, uploaded.out.split()[-2]) == (0, "1.0000")


async def test_lookup_tells_the_state_of_files_and_hashes(tmp_path: Path, root: Path) -> None:
    node = VectorPeer(present={blake3(picture(0)).hexdigest()}, processing={"ab" * 32})
    async with serving(node) as peer:
        ended = await forge(
            tmp_path, "lookup", str(root / "0.png"), "AB" * 32, "--kind", "image", "--url", peer.url, "--json"
        )
        nothing = await forge(tmp_path, "lookup", "nonsense", "--url", peer.url)

    assert [row["image"] for row in ended.json()] == ["present", "processing"]
    assert nothing.code == 3


async def test_failed_files_are_listed_and_put_back(tmp_path: Path) -> None:
    job = {"job_id": 3, "file_hash": "ab" * 32, "kind": "text", "status": "error", "attempts": 3}
    job |= {"last_error": "not an image", "next_attempt_at": "t", "created_at": "t", "updated_at": "t"}

    def answer(request: Request) -> Answer:
        if request.path.startswith("/api/v1/jobs?"):
            return Answer(200, {"jobs": [job], "next": None})
        return Answer(200, {"requeued": 1})

    async with serving(answer) as peer:
        listed = await forge(tmp_path, "failed", "--url", peer.url)
        requeued = await forge(tmp_path, "requeue", "--all", "--url", peer.url, "--json")
        unclear = await forge(tmp_path, "requeue", "--url", peer.url)

    assert "not an image" in listed.out
    assert requeued.json() == {"requeued": 1}
    assert peer.requests[1].json() == {"all": True}
    assert unclear.code == 2


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["-root", "x"], ["--root", "x"]),
        (["--root=x"], ["--root", "x"]),
        (["-root=a=b"], ["--root", "a=b"]),
        (["-root", "-kind", "-kind", "text"], ["--root", "-kind", "--kind", "text"]),
        (["-v", "-dry-run"], ["-v", "--dry-run"]),
        (["-v=false", "-dry-run=true"], ["--dry-run"]),
        (["-http-timeout"], ["--http-timeout"]),
        (["--", "-root"], ["--", "-root"]),
        (["-unknown", "x"], ["-unknown", "x"]),
    ],
)
def test_one_dash_is_enough_for_long_flags(given: list[str], expected: Sequence[str]) -> None:
    assert two_dashes(ingest.params, given) == expected


@pytest.mark.parametrize(
    ("text", "seconds"), [("120s", 120), ("1m30s", 90), ("1.5h", 5400), ("500ms", 0.5), (".5s", 0.5), ("1h0m1s", 3601)]
)
def test_durations_are_read_as_go_reads_them(text: str, seconds: float) -> None:
    assert Duration().convert(text, None, None) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "s", "1m 30s", "-5s", "1d", "0s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        Duration().convert(text, None, None)
