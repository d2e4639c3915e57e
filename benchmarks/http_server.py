"""Compares HTTP servers under our adapter: malformed requests, half-sent requests, memory, throughput.

Run `python -m benchmarks.http_server` from the repository. Candidates that are not installed are left out
(`pip install granian uvicorn h11` for all of them). Prints JSON and stores it in `benchmarks/results/`.
"""

import argparse
import asyncio
import contextlib
import importlib.metadata
import json
import os
import platform
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import uvloop
from pydantic import BaseModel

from api.app import build_app
from api.auth import Access
from api.limits import Limits
from api.routes import PUBLIC, Reply, Request, Route
from api.server import Server
from forge.logs import configure_logs

CANDIDATES = {"forge": "httptools", "granian": "granian", "uvicorn-httptools": "uvicorn", "uvicorn-h11": "uvicorn"}
BASELINE = "uvicorn-httptools"
RESULTS = Path(__file__).parent / "results" / "http_server.json"
TOKEN = "benchmark"
HEADER_DEADLINE_S = 3
BODY_IDLE_S = 3
PATIENCE_S = 12  # how long a half-sent request may stay open before we call it never closed
HALF_SENT = 1000
CONNECTIONS = 32
ROUND_S = 2.0
ROUNDS = 5
MIB = 1 << 20
HOST = b"Host: forge\r\n"
AUTH = b"Authorization: Bearer benchmark\r\n"
LOOKUP = b"POST /api/v1/lookup HTTP/1.1\r\n" + HOST + AUTH
PROBES = {
    "no Host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "two Hosts": b"GET /healthz HTTP/1.1\r\n" + HOST + HOST + b"\r\n",
    "Transfer-Encoding and Content-Length": LOOKUP
    + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\n"
    + HOST
    + b"\r\n",
    "two Content-Lengths": LOOKUP + b"Content-Length: 13\r\nContent-Length: 14\r\n\r\n" + b'{"hashes":[]} ',
    "bad Content-Length": LOOKUP + b"Content-Length: +13\r\n\r\n" + b'{"hashes":[]}',
    "bad chunk size": LOOKUP + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n{}\r\n0\r\n\r\n",
    "folded header": b"GET /healthz HTTP/1.1\r\n" + HOST + b"X-A: b\r\n c\r\n\r\n",
    "space in header name": b"GET /healthz HTTP/1.1\r\n" + HOST + b"X A: b\r\n\r\n",
    "NUL in header": b"GET /healthz HTTP/1.1\r\n" + HOST + b"X-A: b\0c\r\n\r\n",
    "garbage": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
}
LIMIT_PROBES = {
    "header of 100 KB": b"GET /healthz HTTP/1.1\r\n" + HOST + b"X-A: " + b"a" * 100_000 + b"\r\n\r\n",
    "1,000 headers": b"GET /healthz HTTP/1.1\r\n" + HOST + b"X: y\r\n" * 1000 + b"\r\n",
}
HASHES = json.dumps({"hashes": [f"{number:064x}" for number in range(100)]}).encode()
LOADS = {
    "get": b"GET /api/v1/things/abc HTTP/1.1\r\n" + HOST + AUTH + b"\r\n",
    "post_100_hashes": LOOKUP + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(HASHES) + HASHES,
    "upload_20_kib": b"POST /api/v1/upload HTTP/1.1\r\n"
    + HOST
    + AUTH
    + b"Content-Length: 20480\r\n\r\n"
    + bytes(20480),
}


class Lookup(BaseModel):
    """Hashes to look up."""

    hashes: list[str]


def routes() -> list[Route]:
    """Return routes shaped like the real ones, that do nothing."""

    async def health(request: Request[None]) -> Reply:
        return Reply(200, {"status": "ok"})

    async def show(request: Request[None]) -> Reply:
        return Reply(200, {"name": request.params["name"], "size": 3})

    async def lookup(request: Request[Lookup]) -> Reply:
        return Reply(200, {"status": dict.fromkeys(request.body.hashes, "missing")})

    async def upload(request: Request[None]) -> Reply:
        size_bytes = 0
        async for chunk in request.stream():
            size_bytes += len(chunk)
            if request.query.get("pause_s") and size_bytes < 8 * MIB:
                await asyncio.sleep(float(request.query["pause_s"]))
        return Reply(202, {"size": size_bytes})

    return [
        Route("GET", "/healthz", PUBLIC, health),
        Route("GET", "/api/v1/things/{name}", "vector.read", show),
        Route("POST", "/api/v1/lookup", "vector.read", lookup, body=Lookup),
        Route("POST", "/api/v1/upload", "vector.write", upload, streaming=True, body_bytes_max=1 << 30),
    ]


async def serve(candidate: str, port: int) -> None:
    """Serve the routes with one candidate until killed."""
    configure_logs("info")
    app = build_app(routes(), authoriser=Access(TOKEN))
    if candidate == "forge":
        limits = Limits(header_deadline_s=HEADER_DEADLINE_S, body_idle_s=BODY_IDLE_S)
        await Server(app, "127.0.0.1", port, limits=limits).start()
        await asyncio.Event().wait()
    elif candidate == "granian":
        from granian.http import HTTP1Settings
        from granian.server.embed import Server as Granian

        settings = HTTP1Settings(header_read_timeout=HEADER_DEADLINE_S * 1000, max_buffer_size=16 * 1024)
        await Granian(
            app, "127.0.0.1", port, interface="asginl", http="1", websockets=False, http1_settings=settings,
            log_enabled=False, backlog=2048,
        ).serve()  # fmt: skip
    else:
        import uvicorn

        config = uvicorn.Config(
            app, "127.0.0.1", port, http=candidate.removeprefix("uvicorn-"), ws="none", lifespan="off",
            log_level="error", access_log=False, limit_concurrency=4096, loop="none",
        )  # fmt: skip
        await uvicorn.Server(config).serve()


@contextlib.contextmanager
def running(candidate: str) -> Iterator[tuple[int, int]]:
    """Start a candidate as a child; give its pid and port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "benchmarks.http_server", "--serve", candidate, "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as child:
        try:
            deadline_s = time.monotonic() + 20
            while time.monotonic() < deadline_s:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                time.sleep(0.05)
            else:
                raise RuntimeError(f"{candidate} did not start")
            yield child.pid, port
        finally:
            child.kill()


async def ask(port: int, request: bytes, wait_s: float) -> bytes:
    """Send `request`, return all that comes within `wait_s` or until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = bytearray()
    with contextlib.suppress(ConnectionError, TimeoutError):
        writer.write(request)
        async with asyncio.timeout(wait_s):
            while chunk := await reader.read(65536):
                received += chunk
    writer.close()
    return bytes(received)


async def probe(port: int, requests: dict[str, bytes]) -> dict[str, str]:
    """Return, per malformed request, the statuses that came back."""
    verdicts = {}
    for name, request in requests.items():
        codes = re.findall(r"HTTP/1\.1 (\d{3})", (await ask(port, request, 1.5)).decode("latin-1"))
        verdicts[name] = " ".join(codes) or "closed without an answer"
    return verdicts


async def half_sent(port: int, request: bytes, sockets: int) -> dict[str, Any]:
    """Open many connections that stop half-way; say how many were closed in time, and how others fared."""
    streams = [await asyncio.open_connection("127.0.0.1", port) for _ in range(sockets)]
    for _, writer in streams:
        writer.write(request)
    started_s = time.monotonic()
    other_ms = []
    for _ in range(50):
        began_s = time.perf_counter()
        await ask(port, b"GET /healthz HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n", 5)
        other_ms.append((time.perf_counter() - began_s) * 1000)
    reads = [asyncio.ensure_future(reader.read()) for reader, _ in streams]
    done, pending = await asyncio.wait(reads, timeout=PATIENCE_S)
    took_s = time.monotonic() - started_s
    for read in pending:
        read.cancel()
    for _, writer in streams:
        writer.close()
    return {
        "sockets": sockets,
        "closed": len(done),
        "seconds": round(took_s, 1) if not pending else f"still open after {PATIENCE_S}",
        "others_p50_ms": round(statistics.median(other_ms), 2),
    }


async def upload_growth(pid: int, port: int) -> float:
    """Return by how many MiB a server grows while a slow handler takes 200 MiB in chunks."""
    before, peak = rss_bytes(pid), 0
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = b"POST /api/v1/upload?pause_s=0.01 HTTP/1.1\r\n" + HOST + AUTH + b"Transfer-Encoding: chunked\r\n\r\n"
    writer.write(head)
    chunk = b"%x\r\n" % MIB + bytes(MIB) + b"\r\n"
    for _ in range(200):
        writer.write(chunk)
        await writer.drain()
        peak = max(peak, rss_bytes(pid))
    writer.write(b"0\r\n\r\n")
    await reader.readuntil(b"}")
    writer.close()
    return round((max(peak, rss_bytes(pid)) - before) / MIB, 1)


class Load(asyncio.Protocol):
    """Sends one request after the other; counts answers of the length that the first one had."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.answers = 0
        self._expected = 0
        self._received = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self.transport = cast(asyncio.WriteTransport, transport)
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        """Count, and send the next when an answer is whole."""
        if not self._expected:
            head, _, _ = data.partition(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            if not length or b" 20" not in head[:13]:
                raise RuntimeError(f"unexpected answer: {data[:200]!r}")
            self._expected = len(head) + 4 + int(length[1])
        self._received += len(data)
        if self._received >= self._expected:
            self._received = 0
            self.answers += 1
            self.transport.write(self.request)


async def load(pid: int, port: int, request: bytes) -> tuple[float, float]:
    """Return requests per second and server CPU microseconds per request, over one round."""
    loop = asyncio.get_running_loop()
    clients = [(await loop.create_connection(lambda: Load(request), "127.0.0.1", port))[1] for _ in range(CONNECTIONS)]
    await asyncio.sleep(0.2)
    before, cpu, began_s = sum(c.answers for c in clients), cpu_s(pid), time.perf_counter()
    await asyncio.sleep(ROUND_S)
    count = sum(c.answers for c in clients) - before
    seconds, used_s = time.perf_counter() - began_s, cpu_s(pid) - cpu
    for client in clients:
        client.transport.abort()
    return count / seconds, used_s / max(count, 1) * 1e6


def rss_bytes(pid: int) -> int:
    """Return the resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cpu_s(pid: int) -> float:
    """Return the CPU seconds a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def judge(candidate: str) -> dict[str, Any]:
    """Return how a candidate behaves."""
    with running(candidate) as (pid, port):
        idle_mib = round(rss_bytes(pid) / MIB, 1)
        malformed = await probe(port, PROBES)
        refused = sum(re.fullmatch(r"[45]\d\d|closed.*", verdict) is not None for verdict in malformed.values())
        head = b"GET /healthz HTTP/1.1\r\nHost: fo"
        body = b"POST /api/v1/upload HTTP/1.1\r\n" + HOST + AUTH + b"Content-Length: 500\r\n\r\nabc"
        return {
            "rss_mib_idle": idle_mib,
            "malformed": malformed,
            "malformed_refused_of_10": refused,
            "over_limits": await probe(port, LIMIT_PROBES),
            "half_sent_headers": await half_sent(port, head, HALF_SENT),
            "half_sent_bodies": await half_sent(port, body, 100),
            "rss_mib_growth_200_mib_slow_upload": await upload_growth(pid, port),
        }


async def race(candidates: list[str]) -> dict[str, Any]:
    """Return throughput and CPU per request, rounds interleaved over candidates, with ratios to the baseline."""
    rounds: dict[str, dict[str, list[tuple[float, float]]]] = {
        name: {candidate: [] for candidate in candidates} for name in LOADS
    }
    for _ in range(ROUNDS):
        for candidate in candidates:
            with running(candidate) as (pid, port):
                for name, request in LOADS.items():
                    rounds[name][candidate].append(await load(pid, port, request))
    results: dict[str, Any] = {}
    for name, by_candidate in rounds.items():
        baseline = by_candidate.get(BASELINE) or by_candidate["forge"]
        base = [statistics.median(values) for values in zip(*baseline, strict=True)]
        results[name] = {}
        for candidate, samples in by_candidate.items():
            rate, cpu_us = (statistics.median(values) for values in zip(*samples, strict=True))
            results[name][candidate] = {
                "per_s": round(rate),
                "per_s_min_max": [round(min(s[0] for s in samples)), round(max(s[0] for s in samples))],
                "cpu_us": round(cpu_us, 1),
                "rate_ratio": round(rate / base[0], 2),
                "cpu_ratio": round(cpu_us / base[1], 2),
            }
    return results


async def compare() -> dict[str, Any]:
    """Return everything measured, with what it was measured on."""
    candidates = [name for name, package in CANDIDATES.items() if version(package)]
    packages = ["httptools", "uvloop", "starlette", "uvicorn", "h11", "granian"]
    return {
        "command": "python -m benchmarks.http_server",
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.release()}, {platform.machine()}",
        "python": platform.python_version(),
        "versions": {package: version(package) for package in packages if version(package)},
        "left_out": [name for name in CANDIDATES if name not in candidates],
        "settings": {
            "header_deadline_s": HEADER_DEADLINE_S,
            "body_idle_s": BODY_IDLE_S,
            "connections": CONNECTIONS,
            "rounds": ROUNDS,
            "round_s": ROUND_S,
            "baseline": BASELINE if BASELINE in candidates else "forge",
        },
        "load": await race(candidates),
        "behaviour": {candidate: await judge(candidate) for candidate in candidates},
    }


def version(package: str) -> str | None:
    """Return the installed version of a package, None if it is not there."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None


def main() -> None:
    """Compare, or be one of the servers compared."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--serve", choices=list(CANDIDATES))
    parser.add_argument("--port", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.serve:
        uvloop.run(serve(arguments.serve, arguments.port))
        return
    result = uvloop.run(compare())
    text = json.dumps(result, indent=2)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
