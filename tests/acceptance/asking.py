"""What the fault tests ask of a node, and how they wait for an answer that they want."""

import asyncio
import contextlib
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
from blake3 import blake3

WAIT_S = 60.0
POLL_S = 0.05
RAW_WAIT_S = 20.0


def cid_of(content: bytes) -> str:
    """Return the content hash."""
    return blake3(content).hexdigest()


async def upload(
    http: httpx2.AsyncClient, content: bytes, kind: str = "text", *, file_hash: str | None = None
) -> httpx2.Response:
    """Upload once; `file_hash` is the header to send instead of the right one."""
    headers = {"X-File-Hash": file_hash or cid_of(content), "X-Embedding-Kind": kind}
    return await http.post("/api/v1/upload", content=content, headers=headers)


async def lookup(http: httpx2.AsyncClient, *contents: bytes, kind: str = "text") -> list[str]:
    """Return what the node knows of each content: present, processing or missing."""
    hashes = [cid_of(content) for content in contents]
    answer = await http.post("/api/v1/lookup", json={"kind": kind, "hashes": hashes})
    assert answer.status_code == 200, answer.text
    return [answer.json()["status"][one] for one in hashes]


async def present(http: httpx2.AsyncClient, *contents: bytes, within_s: float = WAIT_S) -> None:
    """Wait until all contents have their vectors."""

    async def all_present() -> bool:
        return set(await lookup(http, *contents)) <= {"present"}

    await until(all_present, "all vectors are there", within_s)


async def ready_again(http: httpx2.AsyncClient, within_s: float = WAIT_S) -> None:
    """Wait until /readyz says yes."""

    async def ready() -> bool:
        return (await http.get("/readyz")).status_code == 200

    await until(ready, "the node is ready again", within_s)


async def taken(http: httpx2.AsyncClient, *contents: bytes, within_s: float = WAIT_S) -> None:
    """Send each content again until it is accepted, and wait for the vectors."""
    for content in contents:

        async def accepted(content: bytes = content) -> bool:
            return (await upload(http, content)).status_code in (200, 202)

        await until(accepted, "uploads are accepted again", within_s)
    await present(http, *contents, within_s=within_s)


async def until(condition: Callable[[], Awaitable[object]], what: str, within_s: float = WAIT_S) -> None:
    """Ask `condition` until it says yes; fail after a bound that only a broken node reaches."""
    deadline = time.monotonic() + within_s
    while True:
        with contextlib.suppress(httpx2.TransportError):
            if await condition():
                return
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        await asyncio.sleep(POLL_S)


async def raw(url: str, *parts: bytes) -> bytes:
    """Send `parts` on a connection of their own; return all that comes until the node closes it."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        with contextlib.suppress(ConnectionError):
            for part in parts:
                writer.write(part)
                await writer.drain()
        async with asyncio.timeout(RAW_WAIT_S):
            return await reader.read()
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def statuses(answer: bytes) -> list[int]:
    """Return the status of every answer in what a connection gave."""
    return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


def rss_bytes(pid: int) -> int:
    """Return the memory of a process that is in RAM."""
    fields = re.search(r"^VmRSS:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert fields
    return int(fields[1]) * 1024


def files_below(folder: Path) -> set[str]:
    """Return the paths of all files below `folder`, relative to it."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}
