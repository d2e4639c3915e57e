"""How messages reach many subscribers: how late, how many a second, and what an idle one costs."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.messages_publish import Contestant
from benchmarks.peers.helper import Helper, helper
from benchmarks.peers.messages import topics
from benchmarks.peers.mosquitto import mosquitto
from benchmarks.peers.publishing import Target

PUBLISHERS = {"paced": 16, "burst": 64}
SETTLED_S = 120.0
WARM_S = 30.0
QUIET_S = 0.5


@dataclass(frozen=True, slots=True)
class Crowd:
    """So many topics with so many subscribers each."""

    topics: int
    each: int

    @property
    def name(self) -> str:
        """How it is called in results."""
        return f"{self.topics}_topics_{self.each}_subscribers"


CROWDS = (Crowd(1, 500), Crowd(20, 100))


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is published: so many a second for a while, and as fast as it goes until about `deliveries`."""

    per_s: int
    seconds: float
    deliveries: int
    idle: int


@dataclass(frozen=True, slots=True)
class Load:
    """The processes of the load."""

    listeners: Helper
    publishers: Helper


async def fan_out(forge: Contestant, sockets: Sequence[str], folder: Path, extent: Extent) -> dict[str, Any]:
    """Measure everybody with each crowd; `sockets` are the kinds of subscription of Forge."""
    figures: dict[str, Any] = {}
    async with helper("benchmarks.peers.listeners") as listeners, helper("benchmarks.peers.publishers") as publishers:
        load = Load(listeners, publishers)
        for crowd in CROWDS:
            by_name = figures[crowd.name] = {}
            for kind in sockets:
                by_name[f"forge_{kind}"] = await _crowd(load, forge, kind, crowd, extent)
            with mosquitto(folder / crowd.name) as broker:
                peer = Contestant("mosquitto", Target("mqtt", broker.port), broker.processes)
                by_name["mosquitto"] = await _crowd(load, peer, "mqtt", crowd, extent)
    return figures


async def idle(contestant: Contestant, kind: str, subscribers: int) -> dict[str, Any]:
    """Return how much memory each subscriber takes in a server that has done nothing else yet."""
    async with helper("benchmarks.peers.listeners") as listeners:
        before = sum(contestant.processes.rss_mib().values())
        target = asdict(contestant.target)
        await listeners.ask("open", kind=kind, target=target, topics=topics(1), each=subscribers)
        await asyncio.sleep(1)  # what opening them needed for a moment is given back
        after = sum(contestant.processes.rss_mib().values())
    return {"subscribers": subscribers, "kib_each": round((after - before) * 1024 / subscribers, 2)}


async def _crowd(load: Load, contestant: Contestant, kind: str, crowd: Crowd, extent: Extent) -> dict[str, Any]:
    wanted, target = topics(crowd.topics), asdict(contestant.target)
    await load.listeners.ask("open", kind=kind, target=target, topics=wanted, each=crowd.each)
    try:
        await _warm(load, contestant, crowd)
        paced = {"per_s": extent.per_s, "seconds": extent.seconds}
        steady = await _hear(load, contestant, crowd, "paced", int(extent.per_s * extent.seconds), paced)
        messages = extent.deliveries // crowd.each // crowd.topics * crowd.topics
        fast = await _hear(load, contestant, crowd, "burst", messages, {"messages": messages})
    finally:
        await load.listeners.ask("close")
    return {f"at_{extent.per_s}_per_s": steady, "saturated": fast}


async def _hear(
    load: Load, contestant: Contestant, crowd: Crowd, do: str, messages: int, how: dict[str, Any]
) -> dict[str, Any]:
    """Publish, and wait until everybody has heard everything."""
    await load.listeners.ask("reset")
    before = contestant.processes.cpu_s()
    said = await _publish(load, contestant, crowd, do, how)
    each = messages // crowd.topics
    heard: dict[str, Any] = await load.listeners.ask("expect", each=each, began=said["began"], timeout_s=SETTLED_S)
    heard["server_cpu"] = round((contestant.processes.cpu_s() - before) / heard["seconds"], 3)
    heard["published_per_s"] = round(messages / (said["ended"] - said["began"]), 1)
    return heard | ({"answered": said["answered"]} if "answered" in said else {})


async def _warm(load: Load, contestant: Contestant, crowd: Crowd) -> None:
    """Publish to each topic until everybody has heard of something, and wait until nobody hears more."""
    least, before, now = 0, -1, 0
    async with asyncio.timeout(WARM_S):
        while not least:
            await _publish(load, contestant, crowd, "burst", {"messages": crowd.topics})
            least, now = await load.listeners.ask("counts")
        while now != before:
            await asyncio.sleep(QUIET_S)
            before, (_, now) = now, await load.listeners.ask("counts")


async def _publish(load: Load, contestant: Contestant, crowd: Crowd, do: str, how: dict[str, Any]) -> Any:
    target = asdict(contestant.target)
    return await load.publishers.ask(do, target=target, clients=PUBLISHERS[do], topics=topics(crowd.topics), **how)
