"""Messages against Mosquitto: durable publishes, and how they reach subscribers, in one run."""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.messages_fanout import CROWDS, fan_out, idle
from benchmarks.messages_fanout import Extent as FanOut
from benchmarks.messages_loop import publish_loop
from benchmarks.messages_publish import PUBLISHERS, Contestant, publish_rates, rates_with_many_kept
from benchmarks.node import BenchNode, bench_node
from benchmarks.peers.load import call, encode_request
from benchmarks.peers.mosquitto import mosquitto, mosquitto_version
from benchmarks.peers.nats_door import client_url
from benchmarks.peers.processes import ProcessTree, raise_open_files
from benchmarks.peers.publishing import DOCUMENT, Target
from benchmarks.report import Report

KINDS = ("http", "nats", "batch")
SOCKETS = ("sse", "ws")
FAN_OUT = FanOut(per_s=100, seconds=10.0, deliveries=1_000_000, idle=2_000)


@dataclass(frozen=True, slots=True)
class Extent:
    """How much one run does."""

    rounds: int = 3
    seconds: float = 2.0
    kept: int = 200_000
    fan_out: FanOut = FAN_OUT


QUICK = Extent(1, 0.8, 20_000, FanOut(per_s=100, seconds=2.0, deliveries=100_000, idle=500))


async def run(extent: Extent, kinds: Sequence[str], sockets: Sequence[str]) -> dict[str, Any]:
    """Start everybody and measure; return all figures."""
    with tempfile.TemporaryDirectory() as name, bench_node(FORGE_CONNECTIONS_MAX="10000") as node:
        forge = [_contestant(node, kind) for kind in kinds]
        await call(forge[0].target.port, _create(node))
        folder = Path(name)
        published = await publish_rates(forge, folder, extent.rounds, extent.seconds)
        kept = await rates_with_many_kept(forge, folder, extent.kept, extent.rounds, extent.seconds)
        heard = await fan_out(forge[0], sockets, folder, extent.fan_out)
        memory = ProcessTree(node.pid).rss_mib()
    with tempfile.TemporaryDirectory() as name:
        loop = await publish_loop(Path(name), PUBLISHERS, extent.seconds)
    waiting = await idlers(sockets, extent.fan_out.idle)
    peers = [mosquitto_version()]
    figures = {"publish": published, "publish_with_many_kept": kept, "commit_loop": loop}
    return figures | {"fan_out": heard, "idle": waiting, "peers": peers, "rss_mib": memory}


async def idlers(sockets: Sequence[str], subscribers: int) -> dict[str, Any]:
    """Measure what an idle subscriber takes, each kind in a server of its own."""
    figures = {}
    for kind in sockets:
        with bench_node(FORGE_CONNECTIONS_MAX="10000") as node:
            forge = _contestant(node, "http")
            await call(forge.target.port, _create(node))
            figures[f"forge_{kind}"] = await idle(forge, kind, subscribers)
    with tempfile.TemporaryDirectory() as name, mosquitto(Path(name) / "idle") as broker:
        peer = Contestant("mosquitto", Target("mqtt", broker.port), broker.processes)
        figures["mosquitto"] = await idle(peer, "mqtt", subscribers)
    return figures


def _contestant(node: BenchNode, kind: str) -> Contestant:
    port = int(node.url.rpartition(":")[2])
    target = Target(kind, port, node.token, client_url(node.data) if kind == "nats" else "")
    return Contestant(f"forge_{kind}", target, ProcessTree(node.pid))


def _create(node: BenchNode) -> bytes:
    return encode_request("POST", "/api/v1/db", {"Authorization": f"Bearer {node.token}"}, {"db_id": DOCUMENT})


def report(figures: dict[str, Any]) -> Report:
    """Return the figures with ratios of this run and their targets."""
    result = Report("messages", figures)
    for clients in map(str, PUBLISHERS):
        rates = {name: one["messages_per_s"] for name, one in figures["publish"][clients].items()}
        for name in (name for name in rates if name.startswith("forge")):
            for peer in ("mosquitto_every_change", "mosquitto_as_it_comes"):
                result.ratio(f"{name}_{clients}_rate_to_{peer}", rates[name] / rates[peer])
    kept = figures["publish_with_many_kept"]
    for name in figures["publish"]["256"]:
        if name.startswith("forge"):
            result.target(f"{name}_256_rate_to_mosquitto_every_change", at_least=1)
            ratio = f"{name}_256_rate_with_many_kept_to_mosquitto_every_change"
            result.ratio(ratio, kept[name]["messages_per_s"] / kept["mosquitto_every_change"]["messages_per_s"])
            result.target(ratio, at_least=1)
    for crowd in CROWDS:
        by_name = figures["fan_out"][crowd.name]
        peer = by_name["mosquitto"]["saturated"]["deliveries_per_s"]
        for name in (name for name in by_name if name.startswith("forge")):
            ratio = f"{name}_{crowd.name}_deliveries_to_mosquitto"
            result.ratio(ratio, by_name[name]["saturated"]["deliveries_per_s"] / peer)
            result.target(ratio, at_least=0.5)
    return result


def main() -> None:
    """Run and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a look within a minute; nothing is stored")
    parser.add_argument("--publish", nargs="*", default=KINDS, choices=KINDS, help="ways to publish")
    parser.add_argument("--listen", nargs="*", default=SOCKETS, choices=SOCKETS, help="ways to subscribe")
    arguments = parser.parse_args()
    raise_open_files()
    figures = uvloop.run(run(QUICK if arguments.quick else Extent(), arguments.publish, arguments.listen))
    whole = not arguments.quick and set(arguments.publish) == set(KINDS) and set(arguments.listen) == set(SOCKETS)
    report(figures).write(store=whole)


if __name__ == "__main__":
    main()
