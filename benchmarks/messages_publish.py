"""How many messages a second are published, each publisher its next after the answer to its last."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers import mqtt
from benchmarks.peers.helper import Helper, helper
from benchmarks.peers.messages import topics
from benchmarks.peers.mosquitto import EVERY_CHANGE, Mosquitto, mosquitto
from benchmarks.peers.processes import ProcessTree
from benchmarks.peers.publishing import Target
from benchmarks.rounds import medians

PUBLISHERS = (1, 64, 256)
TOPICS = 20


@dataclass(frozen=True, slots=True)
class Contestant:
    """Somebody to publish to. `broker`: it is to keep every message for a session whose client is away."""

    name: str
    target: Target
    processes: ProcessTree
    broker: Mosquitto | None = None


async def publish_rates(forge: Sequence[Contestant], folder: Path, rounds: int, seconds: float) -> dict[str, Any]:
    """Measure everybody in rounds, so that what disturbs one disturbs all; return the medians."""
    seen: dict[str, dict[str, list[dict[str, Any]]]] = {}
    async with AsyncExitStack() as closing:
        brokers = {
            "mosquitto_as_it_comes": closing.enter_context(mosquitto(folder / "as_it_comes")),
            "mosquitto_every_change": closing.enter_context(mosquitto(folder / "every_change", EVERY_CHANGE)),
        }
        peers = [Contestant(name, Target("mqtt", one.port), one.processes, one) for name, one in brokers.items()]
        load = await closing.enter_async_context(helper("benchmarks.peers.publishers"))
        for _ in range(rounds):
            for clients in PUBLISHERS:
                for contestant in (*forge, *peers):
                    figures = await _measure(load, contestant, clients, seconds)
                    seen.setdefault(str(clients), {}).setdefault(contestant.name, []).append(figures)
    return {clients: {name: medians(taken) for name, taken in by_name.items()} for clients, by_name in seen.items()}


async def rates_with_many_kept(
    forge: Sequence[Contestant], folder: Path, kept: int, rounds: int, seconds: float
) -> dict[str, Any]:
    """Measure the most publishers where so many messages are kept already: Mosquitto writes all of them each time."""
    clients, seen = PUBLISHERS[-1], dict[str, list[dict[str, Any]]]()
    async with helper("benchmarks.peers.publishers") as load:
        with mosquitto(folder / "kept") as broker:
            await mqtt.keep_everything(broker.port)
            await _fill(load, Target("mqtt", broker.port), kept)
        await _fill(load, next(one.target for one in forge if one.target.kind == "batch"), kept)
        with mosquitto(folder / "kept", EVERY_CHANGE) as broker:
            peer = Contestant("mosquitto_every_change", Target("mqtt", broker.port), broker.processes)
            for _ in range(rounds):
                for contestant in (*forge, peer):
                    seen.setdefault(contestant.name, []).append(await _measure(load, contestant, clients, seconds))
            mib = round(broker.stored_bytes() / (1 << 20), 1)
    return {"kept": kept, "mosquitto_file_mib": mib} | {name: medians(taken) for name, taken in seen.items()}


async def _fill(load: Helper, target: Target, messages: int) -> None:
    await load.ask("burst", target=asdict(target), clients=64, messages=messages, topics=topics(TOPICS))


async def _measure(load: Helper, contestant: Contestant, clients: int, seconds: float) -> dict[str, Any]:
    if contestant.broker is not None:
        await mqtt.keep_everything(contestant.target.port)
    processes = contestant.processes
    before, first_before = processes.cpu_s(), processes.first_cpu_s()
    figures: dict[str, Any] = await load.ask(
        "rate", target=asdict(contestant.target), clients=clients, seconds=seconds, topics=topics(TOPICS)
    )
    # With what warmed it up, which took a part of the time.
    wall = seconds + min(0.3, seconds / 4)
    cores, first = (processes.cpu_s() - before) / wall, (processes.first_cpu_s() - first_before) / wall
    return figures | {
        "server_cpu": round(cores, 3),
        "server_cpu_us_per_message": round(cores / figures["messages_per_s"] * 1e6, 1),
        "without_children_us": round(first / figures["messages_per_s"] * 1e6, 1),
    }
