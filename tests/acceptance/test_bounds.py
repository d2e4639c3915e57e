"""What a node does past its bounds: slow, malformed, too many, too large, unauthorised and hostile requests."""

import asyncio
import contextlib
import os
import resource
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit

import httpx2
import pytest
from ulid import ULID

from tests.acceptance.asking import cid_of, files_below, lookup, present, raw, rss_bytes, statuses, until, upload
from tests.acceptance.conftest import StartNode
from tests.acceptance.node_process import NodeProcess
from tests.faults.slowclients import SlowReport, send_half_bodies, send_half_headers

SLOW_CLIENTS = 1000
HEALTHY_PAUSE_S = 0.05
HEADER_DEADLINE_S = 3
BODY_IDLE_S = 30
SPARE_S = 15  # for a busy machine: a slow client that is still there after this is held, not late
SLOW_GROWTH_BYTES_MAX = 64 << 20  # 1,000 connections may hold 64 KiB of body each; these send less
USUAL_OPEN_FILES = 1024
UNREACHABLE = "http://127.0.0.1:1"


@pytest.fixture
def usual_open_files() -> Iterator[None]:
    """The soft limit of open files that a login shell on Debian has, for what the test starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, USUAL_OPEN_FILES), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@asynccontextmanager
async def healthy_client(node: NodeProcess) -> AsyncIterator[Counter[int]]:
    """A client that uploads and looks up without rest; yields the statuses it gets."""
    seen: Counter[int] = Counter()

    async def ask() -> None:
        async with node.http() as http:
            while True:
                content = str(ULID()).encode()
                seen[(await upload(http, content)).status_code] += 1
                await lookup(http, content)
                seen[(await http.get("/healthz")).status_code] += 1
                await asyncio.sleep(HEALTHY_PAUSE_S)

    asking = asyncio.create_task(ask())
    try:
        yield seen
    finally:
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking


async def beside_slow_ones(node: NodeProcess, kind: str) -> tuple[SlowReport, int]:
    """Run slow clients beside a healthy one; return what became of them, and by how much memory grew."""
    address = urlsplit(node.url)
    host, port = str(address.hostname), int(address.port or 0)
    headers = {"Authorization": f"Bearer {node.token}", "X-File-Hash": cid_of(b""), "X-Embedding-Kind": "text"}
    before = peak = rss_bytes(node.pid)
    async with healthy_client(node) as seen:
        if kind == "headers":
            hold_s = HEADER_DEADLINE_S + SPARE_S
            slow = asyncio.create_task(send_half_headers(host, port, count=SLOW_CLIENTS, hold_s=hold_s))
        else:
            slow = asyncio.create_task(
                send_half_bodies(
                    *(host, port),
                    count=SLOW_CLIENTS,
                    hold_s=BODY_IDLE_S + SPARE_S,
                    path="/api/v1/upload",
                    headers=headers,
                )
            )
        while not slow.done():
            peak = max(peak, rss_bytes(node.pid))
            await asyncio.wait([slow], timeout=0.2)
    print(f"healthy client: {dict(seen)}; memory {before >> 20} MiB, at most {peak >> 20} MiB")
    assert set(seen) == {200, 202}
    assert seen[202] > 10
    return slow.result(), peak - before


@pytest.mark.parametrize("kind", ["headers", "bodies"])
async def test_a_thousand_slow_clients_are_closed_in_time_while_a_healthy_one_is_served(
    start_node: StartNode, usual_open_files: None, kind: str
) -> None:
    """PR7: half-sent headers and dripping uploads get 408; memory stays flat; nothing of them stays on disk."""
    node = await start_node(extra={"FORGE_HEADER_DEADLINE_S": str(HEADER_DEADLINE_S)})
    async with node.http() as http:
        await upload(http, b"warm up")
        await present(http, b"warm up")

        report, growth = await beside_slow_ones(node, kind)

        print(f"slow clients: {dict(report.fates)} {dict(report.statuses)}, the last after {report.longest_s:.1f} s")
        assert report.fates["open"] == report.fates["not connected"] == 0
        assert report.statuses == {408: SLOW_CLIENTS}
        assert growth < SLOW_GROWTH_BYTES_MAX
        assert list(node.settings.vector_temp_dir.iterdir()) == []
        assert (await http.get("/readyz")).status_code == 200


HOST = b"Host: forge\r\n"
HEAD = b"POST /api/v1/lookup HTTP/1.1\r\n" + HOST + b"Authorization: Bearer %b\r\n"
MALFORMED = {
    "no Host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "two Hosts": b"GET /healthz HTTP/1.1\r\n" + HOST + HOST + b"\r\n",
    "Transfer-Encoding and Content-Length": HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    "two Content-Lengths": HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "Content-Length that is no number": HEAD + b"Content-Length: +2\r\n\r\n{}",
    "chunk size that is no number": HEAD + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n{}\r\n0\r\n\r\n",
    "folded header": b"GET /healthz HTTP/1.1\r\n" + HOST + b"X-A: b\r\n c\r\n\r\n",
    "space before the colon": b"GET /healthz HTTP/1.1\r\nHost : forge\r\n\r\n",
    "bare line feeds": b"GET /healthz HTTP/1.1\nHost: forge\n\n",
    "100 KB of headers": b"GET /healthz HTTP/1.1\r\n" + HOST + b"X-A: " + b"a" * 100_000 + b"\r\n\r\n",
}


async def test_malformed_requests_get_one_4xx_each_and_none_is_smuggled(start_node: StartNode) -> None:
    """PR7, reliability C2: the ten probes, each with a second request behind it that must not be answered."""
    node = await start_node()
    behind = b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"
    for name, request in MALFORMED.items():
        sent = request.replace(b"%b", node.token.encode())
        for parts in (sent, sent + behind):
            answer = await raw(node.url, parts)
            codes = statuses(answer)
            assert len(codes) == 1, (name, answer)
            assert 400 <= codes[0] < 500, (name, answer)
            assert b"connection: close" in answer.lower(), (name, answer)
    async with node.http() as http:
        assert (await http.get("/readyz")).status_code == 200


async def test_a_full_queue_is_429_with_retry_after_and_takes_on_when_it_empties(start_node: StartNode) -> None:
    """PR7: `FORGE_VECTOR_MAX_PENDING_JOBS`; what was refused is not in the queue."""
    node = await start_node(extra={"FORGE_VECTOR_MAX_PENDING_JOBS": "3", "FORGE_VECTOR_WORKER_URL": UNREACHABLE})
    async with node.http() as http:
        contents = [f"file {number}".encode() for number in range(30)]
        codes = {content: (answer := await upload(http, content)).status_code for content in contents}
        assert answer.status_code == 429
        assert answer.headers["Retry-After"] == "5"
        assert answer.json()["type"] == "urn:forge:problem:too-many-requests"
        assert set(codes.values()) == {202, 429}
        for content, state in zip(contents, await lookup(http, *contents), strict=True):
            assert state == ("processing" if codes[content] == 202 else "missing")


async def test_an_upload_past_the_cap_is_413_however_it_is_announced(start_node: StartNode) -> None:
    """PR7: `FORGE_UPLOAD_BYTES_MAX`, with a Content-Length and chunked; no byte of it stays."""
    node = await start_node(extra={"FORGE_UPLOAD_BYTES_MAX": "200000"})
    content = bytes(200_001)

    async def chunks() -> AsyncIterator[bytes]:
        for at in range(0, len(content), 50_000):
            yield content[at : at + 50_000]

    async with node.http() as http:
        before = files_below(node.cache)
        headers = {"X-File-Hash": cid_of(content), "X-Embedding-Kind": "text"}
        announced = await http.post("/api/v1/upload", content=content, headers=headers)
        chunked = await http.post("/api/v1/upload", content=chunks(), headers=headers)
        for answer in (announced, chunked):
            assert (answer.status_code, answer.json()["type"]) == (413, "urn:forge:problem:body-too-large")
        assert files_below(node.cache) == before
        assert (await upload(http, content[:-1])).status_code == 202


@pytest.mark.parametrize("authorization", ["", "Authorization: Bearer wrong\r\n", "Authorization: Basic eDp5\r\n"])
async def test_a_request_without_a_valid_token_is_401_before_its_body_is_read(
    start_node: StartNode, authorization: str
) -> None:
    """PR6: the answer comes while not one byte of the body was sent."""
    node = await start_node()
    head = f"POST /api/v1/upload HTTP/1.1\r\nHost: forge\r\n{authorization}X-File-Hash: {cid_of(b'x')}\r\n"
    answer = await raw(node.url, f"{head}X-Embedding-Kind: text\r\nContent-Length: 10000000\r\n\r\n".encode())
    assert statuses(answer) == [401]
    assert b"www-authenticate: bearer" in answer.lower()
    paths = ("/api/v1/lookup", "/api/v1/search", "/api/v1/jobs", "/api/v1/jobs/requeue", "/status", "/metrics")
    async with httpx2.AsyncClient(base_url=node.url, trust_env=False, timeout=60) as http:
        for path in paths:
            for method in ("GET", "POST"):
                refused = await http.request(method, path)
                assert refused.status_code in (401, 405), (method, path)
        assert (await http.get("/healthz")).status_code == (await http.get("/readyz")).status_code == 200


HOSTILE_HASHES = [
    "../../../../tmp/forge-escaped",
    "..%2f..%2fforge-escaped",
    "/etc/forge-escaped",
    "a" * 63,
    "a" * 65,
    "g" * 64,
    f"{'a' * 62}..",
    f"../{'a' * 61}",
    f"{'a' * 64}/..",
    f"{'a' * 32}\\..\\{'a' * 28}",
    "0x" + "a" * 62,
    "a" * 64 + "\t.",
    "\u00e9" * 64,
]


async def test_a_hash_that_is_no_hash_is_400_and_touches_no_file(start_node: StartNode, tmp_path: Path) -> None:
    """PR6: `X-File-Hash` becomes a path only after it is known to be 64 hexadecimal digits."""
    node = await start_node()
    async with node.http() as http:
        await upload(http, b"a real one")
        await present(http, b"a real one")
        before = files_below(tmp_path)
        for hostile in HOSTILE_HASHES:
            headers = {b"X-File-Hash": hostile.encode(), b"X-Embedding-Kind": b"text"}
            answer = await http.post("/api/v1/upload", content=b"payload", headers=headers)
            assert answer.status_code == 400, (hostile, answer.text)
            assert answer.json()["field"] == "X-File-Hash"
            found = await http.get(f"/api/v1/embeddings/text/{quote(hostile, safe='')}")
            assert found.status_code in (400, 404), (hostile, found.text)
        log_server = f"{node.data.relative_to(tmp_path)}/nats/"  # which makes files of its own whenever it likes
        assert {one for one in files_below(tmp_path) - before if not one.startswith(log_server)} == set()
        assert "forge-escaped" not in os.listdir("/tmp")


async def test_an_upper_case_hash_is_the_same_file(start_node: StartNode) -> None:
    """PR5: one payload, one job, one vector, whichever case the hash is written in."""
    node = await start_node()
    content = b"the same file"
    async with node.http() as http:
        first = await upload(http, content, file_hash=cid_of(content).upper())
        again = await upload(http, content)
        assert first.status_code == 202
        assert again.status_code in (200, 202)
        await present(http, content)
        upper = cid_of(content).upper()
        body = {"kind": "text", "hashes": [upper, cid_of(content)]}
        status = (await http.post("/api/v1/lookup", json=body)).json()["status"]
        assert status == {upper: "present", cid_of(content): "present"}

        async def done() -> bool:  # a moment after its embedding is there
            jobs: dict[str, int] = (await http.get("/status")).json()["jobs"]
            return sum(jobs.values()) == jobs["done"] == 1

        await until(done, "its one job is done")
    blobs = [path for path in files_below(node.settings.blob_cache) if path.endswith(".blob")]
    assert [Path(path).stem for path in blobs] == [cid_of(content)]
