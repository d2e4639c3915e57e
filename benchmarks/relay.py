"""The stream relay against piping-server: small bodies, a large one, waiting consumers, a stalled one, in one run."""

import argparse
import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any

import uvloop

from benchmarks.node import bench_node
from benchmarks.peers.helper import Helper, helper
from benchmarks.peers.load import call, encode_request
from benchmarks.peers.piping import piping_server, piping_version
from benchmarks.peers.processes import ProcessTree, raise_open_files
from benchmarks.peers.relaying import DOCUMENT, Relay
from benchmarks.report import Report
from benchmarks.rounds import medians

PAIRS = (1, 16, 128)
FRAMINGS = {"chunked": True, "content_length": False}
MEMORY_EVERY_S = 0.05


@dataclass(frozen=True, slots=True)
class Extent:
    """How much one run does."""

    rounds: int = 3
    messages: int = 6_000
    size: int = 1 << 30
    waiting: int = 2_000


QUICK = Extent(1, 600, 1 << 28, 500)


@dataclass(frozen=True, slots=True)
class Ends:
    """The two processes of the load."""

    giver: Helper
    taker: Helper


async def run(extent: Extent) -> dict[str, Any]:
    """Start everybody, and let both relays do everything in turn; return all figures."""
    with bench_node(FORGE_CONNECTIONS_MAX="10000") as node, piping_server() as piping:
        port = int(node.url.rpartition(":")[2])
        forge = Relay("forge", port, ProcessTree(node.pid), node.token)
        headers = {"Authorization": f"Bearer {node.token}"}
        await call(port, encode_request("POST", "/api/v1/db", headers, {"db_id": DOCUMENT}))
        relays = (forge, piping)
        async with ends() as both:
            # First, while nothing that was given back could be used again.
            figures: dict[str, Any] = {"waiting": {relay.name: await waiting(both, relay, extent) for relay in relays}}
            figures["pairs"] = await small(both, relays, extent)
            figures["large"] = await large(both, relays, extent)
            figures["stalled"] = {relay.name: await stalled(both, relay, extent) for relay in relays}
    return figures | {"peers": [piping_version()]}


@asynccontextmanager
async def ends() -> AsyncIterator[Ends]:
    """Start the processes of the load."""
    async with AsyncExitStack() as closing:
        giver, taker = [await closing.enter_async_context(helper("benchmarks.peers.relay_ends")) for _ in range(2)]
        yield Ends(giver, taker)


async def small(both: Ends, relays: Sequence[Relay], extent: Extent) -> dict[str, Any]:
    """Measure how many small bodies a second pass, each on a channel of its own."""
    seen: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for _ in range(extent.rounds):
        for pairs in PAIRS:
            for relay in relays:
                await _pass_on(both, relay, pairs, max(1, extent.messages // 10 // pairs))
                figures = await _pass_on(both, relay, pairs, max(1, extent.messages // pairs))
                seen.setdefault(str(pairs), {}).setdefault(relay.name, []).append(figures)
    return {pairs: {name: medians(taken) for name, taken in by_name.items()} for pairs, by_name in seen.items()}


async def _pass_on(both: Ends, relay: Relay, pairs: int, messages: int) -> dict[str, Any]:
    what = {"address": asdict(relay.address.next_run()), "pairs": pairs, "messages": messages}
    before = relay.processes.cpu_s()
    _, taken = await asyncio.gather(both.giver.ask("give", **what), both.taker.ask("take", **what))
    used = relay.processes.cpu_s() - before
    return dict(taken) | {"server_cpu_ms": round(used / taken["calls"] * 1e3, 4)}


async def large(both: Ends, relays: Sequence[Relay], extent: Extent) -> dict[str, Any]:
    """Measure how fast a large body passes, and how much the server grows meanwhile."""
    seen: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for _ in range(extent.rounds):
        for framing, chunked in FRAMINGS.items():
            for relay in relays:
                figures = await _pass_large(both, relay, extent.size, chunked=chunked)
                seen.setdefault(framing, {}).setdefault(relay.name, []).append(figures)
    return {framing: {name: medians(taken) for name, taken in by_name.items()} for framing, by_name in seen.items()}


async def _pass_large(both: Ends, relay: Relay, size: int, *, chunked: bool) -> dict[str, Any]:
    address = asdict(relay.address.next_run())
    before, most = relay.rss_mib(), 0.0
    cpu = relay.processes.cpu_s()
    giving = asyncio.create_task(both.giver.ask("give_large", address=address, size=size, chunked=chunked))
    taking = asyncio.create_task(both.taker.ask("take_large", address=address, size=size))
    while not taking.done():
        most = max(most, relay.rss_mib())
        await asyncio.wait((taking,), timeout=MEMORY_EVERY_S)
    status, taken = await giving, await taking
    if status != 200 or not taken["whole"]:
        raise AssertionError(f"{relay.name} passed on {taken} and answered {status}")
    return {
        "mib_per_s": taken["mib_per_s"],
        "server_cpu_s_per_gib": round((relay.processes.cpu_s() - cpu) / (size / (1 << 30)), 3),
        "rss_growth_mib": round(most - before, 1),
    }


async def stalled(both: Ends, relay: Relay, extent: Extent) -> dict[str, Any]:
    """Measure how long others wait beside a consumer that reads nothing of a large body."""
    pairs, messages = 16, max(1, extent.messages // 16)
    alone = await _pass_on(both, relay, pairs, messages)
    async with helper("benchmarks.peers.relay_ends") as third:
        address = asdict(relay.address.next_run())
        await third.ask("stall", address=address)
        beside = await _pass_on(both, relay, pairs, messages)
        await third.ask("leave", address=address)
    return {"alone": alone, "beside": beside}


async def waiting(both: Ends, relay: Relay, extent: Extent) -> dict[str, Any]:
    """Measure how much memory a waiting consumer takes, and how long others wait beside so many."""
    address = asdict(relay.address.next_run())
    async with helper("benchmarks.peers.relay_ends") as third:
        before = relay.rss_mib()
        await third.ask("wait", address=address, waiting=extent.waiting)
        await _pass_on(both, relay, 1, 20)  # answered: so all before it have been read
        await asyncio.sleep(1)
        after = relay.rss_mib()
        beside = await _pass_on(both, relay, 16, max(1, extent.messages // 16))
        await third.ask("leave", address=address)
    kib = (after - before) * 1024 / extent.waiting
    return {"consumers": extent.waiting, "kib_each": round(kib, 2), "others": beside}


def report(figures: dict[str, Any]) -> Report:
    """Return the figures with ratios of this run and their targets."""
    result = Report("relay", figures)
    for pairs, by_name in figures["pairs"].items():
        rates = {name: one["per_s"] for name, one in by_name.items()}
        result.ratio(f"pairs_{pairs}_rate_to_piping_server", rates["forge"] / rates["piping-server"])
    for framing, by_name in figures["large"].items():
        ratio = f"large_{framing}_rate_to_piping_server"
        result.ratio(ratio, by_name["forge"]["mib_per_s"] / by_name["piping-server"]["mib_per_s"])
        result.target(ratio, at_least=1)
        cpu = {name: one["server_cpu_s_per_gib"] for name, one in by_name.items()}
        result.ratio(f"large_{framing}_cpu_to_piping_server", cpu["forge"] / cpu["piping-server"])
    ours = figures["stalled"]["forge"]
    result.ratio("stalled_p99_beside_to_alone", ours["beside"]["p99_ms"] / ours["alone"]["p99_ms"])
    kib = {name: one["kib_each"] for name, one in figures["waiting"].items()}
    result.ratio("waiting_kib_to_piping_server", kib["forge"] / max(kib["piping-server"], 0.01))
    return result


def main() -> None:
    """Run and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a look within a minute; nothing is stored")
    arguments = parser.parse_args()
    raise_open_files()
    figures = uvloop.run(run(QUICK if arguments.quick else Extent()))
    report(figures).write(store=not arguments.quick)


if __name__ == "__main__":
    main()
