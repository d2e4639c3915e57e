"""Documents against plain SQLite, PocketBase and Datasette: writes, reads, watchers and replicas, in one run."""

import argparse
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.documents_catch_up import catch_up
from benchmarks.documents_feeds import crowd, latency
from benchmarks.documents_loop import commit_loop
from benchmarks.peers.datasette import datasette
from benchmarks.peers.feeds import Feed, ForgeChanges, ForgeWatch, PocketBaseRealtime
from benchmarks.peers.forge_node import BATCH_ROWS, ForgeNode, forge_node
from benchmarks.peers.plain_sqlite import plain_sqlite
from benchmarks.peers.pocketbase import pocketbase
from benchmarks.peers.processes import program_version, raise_open_files
from benchmarks.peers.trivial import trivial
from benchmarks.peers.workload import KINDS, Contestant, HttpContestant
from benchmarks.report import Report

CLIENTS = (1, 16, 128)
PEERS = ("pocketbase", "datasette")


@dataclass(frozen=True, slots=True)
class Extent:
    """How much one run does."""

    rounds: int = 3
    seconds: float = 0.8
    changes: int = 300
    listeners: int = 1000
    changes_per_s: int = 100
    crowd_s: float = 8.0
    commits: int = 100_000


QUICK = Extent(rounds=1, seconds=0.4, changes=50, listeners=200, crowd_s=2.0, commits=5_000)


async def run(extent: Extent, programs: Path | None) -> dict[str, Any]:
    """Start everybody, and let each do everything in turn; return all figures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with AsyncExitStack() as closing:
            forge = await closing.enter_async_context(forge_node(FORGE_CONNECTIONS_MAX="10000"))
            pocket = await closing.enter_async_context(pocketbase(folder / "pocketbase", programs))
            as_it_comes = await closing.enter_async_context(pocketbase(folder / "unsynced", programs, fsync=False))
            data = await closing.enter_async_context(datasette(folder / "datasette", programs))
            plain = closing.enter_context(plain_sqlite(folder))
            figures: dict[str, Any] = {"calls": await calls((forge, plain, pocket, data), extent)}
            figures["pocketbase_without_fsync"] = await _medians(as_it_comes, "write", extent)
            figures["variants"] = await variants(forge, extent)
            figures["load_ceiling"] = await ceiling(extent)
            feeds: Sequence[Feed] = (ForgeWatch(forge), ForgeChanges(forge), PocketBaseRealtime(pocket))
            figures["change_to_watcher"] = {feed.name: await latency(feed, extent.changes) for feed in feeds}
            figures["crowd"] = {feed.name: await _crowd(feed, extent) for feed in (feeds[0], feeds[2])}
            figures["replica"] = await catch_up(forge, folder, extent.commits)
            figures["peers"] = [program_version(name, programs) for name in PEERS]
            figures["rss_mib"] = {peer.name: peer.processes.rss_mib() for peer in (forge, pocket, data)}
        figures["commit_loop"] = await commit_loop(folder, CLIENTS, extent.seconds * extent.rounds)
    return figures


async def calls(contestants: Sequence[Contestant], extent: Extent) -> dict[str, Any]:
    """Measure all kinds of calls of all contestants; in rounds, so that what disturbs one disturbs all."""
    seen: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for _ in range(extent.rounds):
        for kind in KINDS:
            for clients in CLIENTS:
                for contestant in contestants:
                    taken = seen.setdefault(f"{kind}_{clients}", {}).setdefault(contestant.name, [])
                    taken.append(await contestant.measure(kind, clients, extent.seconds))
    return {row: {name: _median(rounds) for name, rounds in by_name.items()} for row, by_name in seen.items()}


async def variants(forge: ForgeNode, extent: Extent) -> dict[str, Any]:
    """Measure other ways to write."""
    seconds, keyed = extent.seconds * extent.rounds, forge.keyed_writes()
    figures: dict[str, Any] = {}
    for clients in CLIENTS:
        figures[f"write_with_key_{clients}"] = await forge.measure_requests(keyed, clients, seconds)
    for clients in (1, 16):
        batches = await forge.measure_requests(repeat(forge.batch()), clients, seconds)
        figures[f"batch_{BATCH_ROWS}_{clients}"] = batches | {"rows_per_s": batches["per_s"] * BATCH_ROWS}
    return figures


async def ceiling(extent: Extent) -> dict[str, Any]:
    """Measure what the load reaches against a server that does nothing."""
    with trivial() as server:
        return {str(clients): await server.measure("point_read", clients, extent.seconds) for clients in CLIENTS}


async def _medians(contestant: HttpContestant, kind: Any, extent: Extent) -> dict[str, Any]:
    return {
        f"{kind}_{clients}": _median(
            [await contestant.measure(kind, clients, extent.seconds) for _ in range(extent.rounds)]
        )
        for clients in CLIENTS
    }


async def _crowd(feed: Feed, extent: Extent) -> dict[str, Any]:
    return await crowd(feed, extent.listeners, extent.changes_per_s, extent.crowd_s)


def _median(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {key: round(statistics.median(one[key] for one in rounds), 4) for key in rounds[0]}


def report(figures: dict[str, Any]) -> Report:
    """Return the figures with ratios of this run and their targets."""
    result = Report("documents", figures)
    for row, by_name in figures["calls"].items():
        ours = by_name["forge"]["per_s"]
        for name in ("sqlite", *PEERS):
            result.ratio(f"{row}_rate_to_{name}", ours / by_name[name]["per_s"])
        for name in PEERS:
            result.target(f"{row}_rate_to_{name}", at_least=1)
    result.target("write_128_rate_to_sqlite", at_least=5)
    writes = {clients: figures["calls"][f"write_{clients}"] for clients in CLIENTS}
    best = max(by_name["sqlite"]["per_s"] for by_name in writes.values())  # its threads only get into each other's way
    result.ratio("write_128_rate_to_best_of_sqlite", writes[128]["forge"]["per_s"] / best)
    batches = figures["variants"][f"batch_{BATCH_ROWS}_16"]["rows_per_s"]
    result.ratio("batch_rows_rate_to_best_of_sqlite", batches / best)
    loop = figures["commit_loop"]["128"]["per_s"]
    result.ratio("commit_loop_128_rate_to_sqlite_write_128", loop / figures["calls"]["write_128"]["sqlite"]["per_s"])
    heard, many = figures["change_to_watcher"], figures["crowd"]
    for feed in ("forge_watch", "forge_changes"):
        result.ratio(f"{feed}_p50_to_pocketbase", heard[feed]["p50_ms"] / heard["pocketbase_realtime"]["p50_ms"])
        result.target(f"{feed}_p50_to_pocketbase", at_most=1)
    result.ratio("crowd_p99_to_pocketbase", many["forge_watch"]["p99_ms"] / many["pocketbase_realtime"]["p99_ms"])
    result.target("crowd_p99_to_pocketbase", at_most=1)
    replica = figures["replica"]
    result.ratio("replica_rate_to_live_writes", replica["applied_per_s"] / replica["live"]["per_s"])
    result.target("replica_rate_to_live_writes", at_least=2)
    return result


def main() -> None:
    """Run and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a look within a minute; nothing is stored")
    parser.add_argument("--peers", type=Path, metavar="DIR", help="folder of the peers' programs, if not beside python")
    arguments = parser.parse_args()
    raise_open_files()
    figures = uvloop.run(run(QUICK if arguments.quick else Extent(), arguments.peers))
    report(figures).write(store=not arguments.quick)


if __name__ == "__main__":
    main()
