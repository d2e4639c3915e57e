"""Leases: how many are acquired and released, alone and by many who want the same, and what a fence costs a write."""

import argparse
import asyncio
import json
import time
from collections.abc import Callable
from itertools import repeat
from typing import Any

import uvloop

from benchmarks.peers.forge_node import ForgeNode, forge_node
from benchmarks.peers.load import Connection, summary
from benchmarks.peers.workload import BODY, INSERT
from benchmarks.report import Report
from benchmarks.rounds import medians

CONTENDERS = 50
LEASES = "/api/v1/db/bench/leases"
WRITERS = (1, 16)


async def run(rounds: int, seconds: float) -> dict[str, Any]:
    """Measure in rounds, so that what disturbs one disturbs all; return the medians."""
    seen: dict[str, list[dict[str, Any]]] = {}

    def note(name: str, figures: dict[str, Any]) -> None:
        seen.setdefault(name, []).append(figures)

    async with forge_node() as node:
        fence = json.loads(await _ask(node, "acquire", {"resource": "writer", "owner": "b", "ttl_seconds": 3600}))
        fenced = {"If-Fence": f"writer={fence['fence']}"}
        for _ in range(rounds):
            note("alone", await cycles(node, 1, seconds, lambda _: "one"))
            note("many_each_its_own", await cycles(node, CONTENDERS, seconds, lambda at: f"own-{at}"))
            note("many_for_one", await cycles(node, CONTENDERS, seconds, lambda _: "wanted"))
            for writers in WRITERS:
                for name, headers in (("write", {}), ("fenced_write", fenced)):
                    requests = repeat(node.exec(INSERT, [BODY, 1], headers=headers))
                    note(f"{name}_{writers}", await node.measure_requests(requests, writers, seconds))
    return {name: medians(taken) for name, taken in seen.items()}


async def cycles(node: ForgeNode, callers: int, seconds: float, resource: Callable[[int], str]) -> dict[str, Any]:
    """Let callers acquire, waiting for their turn, and release at once; a cycle is both."""
    end, taken, fences = time.perf_counter() + seconds, list[float](), list[tuple[str, int]]()

    async def one(at: int) -> None:
        connection, wanted = await Connection.open(node.port), resource(at)
        said = {"resource": wanted, "owner": f"caller-{at}"}
        while (began := time.perf_counter()) < end:
            lease = json.loads(await connection.call(_request(node, "acquire", said | {"wait_seconds": 30})))
            fences.append((wanted, lease["fence"]))
            await connection.call(_request(node, "release", said | {"token": lease["token"]}))
            taken.append(time.perf_counter() - began)
        connection.close()

    cpu, began = node.processes.cpu_s(), time.perf_counter()
    await asyncio.gather(*(one(at) for at in range(callers)))
    wall = time.perf_counter() - began
    if len(set(fences)) != len(fences):
        raise AssertionError("two leases had the same fence")
    return summary(taken, wall) | {"server_cpu_ms": round((node.processes.cpu_s() - cpu) / len(taken) * 1e3, 3)}


def _request(node: ForgeNode, what: str, said: dict[str, Any]) -> bytes:
    return node.encode("POST", f"{LEASES}/{what}", said)


async def _ask(node: ForgeNode, what: str, said: dict[str, Any]) -> bytes:
    connection = await Connection.open(node.port)
    try:
        return await connection.call(_request(node, what, said))
    finally:
        connection.close()


def report(figures: dict[str, Any]) -> Report:
    """Return the figures with ratios of this run."""
    result = Report("leases", figures)
    alone = figures["alone"]["per_s"]
    result.ratio("many_each_its_own_rate_to_alone", figures["many_each_its_own"]["per_s"] / alone)
    result.ratio("many_for_one_rate_to_alone", figures["many_for_one"]["per_s"] / alone)
    for writers in WRITERS:
        plain, fenced = figures[f"write_{writers}"], figures[f"fenced_write_{writers}"]
        result.ratio(f"fenced_write_{writers}_rate_to_write", fenced["per_s"] / plain["per_s"])
        result.ratio(f"fenced_write_{writers}_cpu_to_write", fenced["server_cpu_ms"] / plain["server_cpu_ms"])
    return result


def main() -> None:
    """Run and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a look; nothing is stored")
    quick = parser.parse_args().quick
    figures = uvloop.run(run(1, 0.8) if quick else run(3, 2.0))
    report(figures).write(store=not quick)


if __name__ == "__main__":
    main()
