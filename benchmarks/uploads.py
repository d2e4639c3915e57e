"""Uploads of 20 KiB by 32 clients and lookups of 500 hashes, against a real node."""

import asyncio
import json
import os
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import uvloop
from blake3 import blake3

from benchmarks.http_client import KeptConnection
from benchmarks.node import BenchNode, bench_node
from benchmarks.report import Report

CLIENTS = 32
BODY_BYTES = 20 << 10
SECONDS = 6.0
LOOKUP_HASHES = 500
LOOKUPS = 200
DEAD_WORKER = "http://127.0.0.1:9"  # nothing listens there: jobs stay pending, only uploads are measured


def latencies(seconds: list[float], wall_s: float) -> dict[str, float]:
    """Return rate and percentiles of one kind of call."""
    cuts = statistics.quantiles(seconds, n=100)
    return {
        "per_s": round(len(seconds) / wall_s, 1),
        "p50_ms": round(cuts[49] * 1e3, 3),
        "p99_ms": round(cuts[98] * 1e3, 3),
    }


async def uploads(node: BenchNode) -> tuple[dict[str, float], list[str]]:
    """Upload as fast as `CLIENTS` can for a while; return figures and the hashes."""
    hashes: list[str] = []
    seconds: list[float] = []
    end = time.perf_counter() + SECONDS

    async def client() -> None:
        connection = await KeptConnection.open(node.url, node.token)
        while time.perf_counter() < end:
            body = os.urandom(BODY_BYTES)
            name = blake3(body).hexdigest()
            headers = f"X-File-Hash: {name}\r\nX-Embedding-Kind: text\r\n".encode()
            started = time.perf_counter()
            status, answer = await connection.post("/api/v1/upload", body, headers)
            seconds.append(time.perf_counter() - started)
            assert status == 202, answer
            hashes.append(name)
        connection.close()

    cpu, began = node.cpu_s(), time.perf_counter()
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    wall = time.perf_counter() - began
    figures = latencies(seconds, wall)
    figures["node_cpu_ms_per_upload"] = round((node.cpu_s() - cpu) / len(seconds) * 1e3, 3)
    figures["node_rss_mib"] = round(node.rss_bytes() / (1 << 20), 1)
    return figures, hashes


async def lookups(node: BenchNode, hashes: list[str]) -> dict[str, float]:
    """Look up `LOOKUP_HASHES` hashes, half of them known, one request after the other."""
    unknown = [os.urandom(32).hex() for _ in range(LOOKUP_HASHES // 2)]
    body = json.dumps({"kind": "text", "hashes": hashes[: LOOKUP_HASHES // 2] + unknown}).encode()
    connection = await KeptConnection.open(node.url, node.token)
    seconds = []
    cpu, began = node.cpu_s(), time.perf_counter()
    for _ in range(LOOKUPS):
        started = time.perf_counter()
        status, answer = await connection.post("/api/v1/lookup", body)
        seconds.append(time.perf_counter() - started)
        assert status == 200, answer
    figures = latencies(seconds, time.perf_counter() - began)
    figures["node_cpu_ms_per_lookup"] = round((node.cpu_s() - cpu) / LOOKUPS * 1e3, 3)
    connection.close()
    return figures


def fsynced_files() -> dict[str, float]:
    """Write files of the same size, each fsynced with its folder, by as many threads: the least it can cost."""
    seconds: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        end = time.perf_counter() + SECONDS / 2

        def writer(number: int) -> None:
            folder = Path(name) / str(number)
            folder.mkdir()
            count = 0
            while time.perf_counter() < end:
                body = os.urandom(BODY_BYTES)
                started = time.perf_counter()
                fd = os.open(folder / str(count := count + 1), os.O_WRONLY | os.O_CREAT)
                os.write(fd, body)
                os.fsync(fd)
                os.close(fd)
                directory = os.open(folder, os.O_RDONLY)
                os.fsync(directory)
                os.close(directory)
                seconds.append(time.perf_counter() - started)

        began = time.perf_counter()
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(writer, range(CLIENTS)))
        return latencies(seconds, time.perf_counter() - began)


def main() -> None:
    """Run and write the result."""

    async def run(node: BenchNode) -> dict[str, Any]:
        uploaded, hashes = await uploads(node)
        return {"uploads": uploaded, "lookups": await lookups(node, hashes)}

    environ = {"FORGE_VECTOR_WORKER_URL": DEAD_WORKER, "FORGE_VECTOR_MAX_PENDING_JOBS": str(1 << 40)}
    with bench_node(**environ) as node:
        figures = uvloop.run(run(node))
    figures["fsynced_files"] = fsynced_files()
    report = Report("uploads", figures | {"clients": CLIENTS, "body_bytes": BODY_BYTES})
    report.ratio("upload_rate_to_fsynced_files", figures["uploads"]["per_s"] / figures["fsynced_files"]["per_s"])
    report.ratio("upload_p50_to_fsynced_files", figures["uploads"]["p50_ms"] / figures["fsynced_files"]["p50_ms"])
    report.write()


if __name__ == "__main__":
    main()
