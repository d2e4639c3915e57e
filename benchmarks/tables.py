"""The tables of docs/performance.md that results of the last run make: messages, relay, leases, replication."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.report import RESULTS

Figures = Mapping[str, Any]
PUBLISHERS = {
    "Forge, HTTP": "forge_http",
    "Forge, NATS": "forge_nats",
    "Forge, HTTP, 100 a request": "forge_batch",
    "Mosquitto, a save after each change": "mosquitto_every_change",
    "Mosquitto as it comes": "mosquitto_as_it_comes",
}
SUBSCRIBERS = {"Forge, SSE": "forge_sse", "Forge, WebSocket": "forge_ws", "Mosquitto": "mosquitto"}
RELAYS = {"Forge": "forge", "piping-server": "piping-server"}


def messages(figures: Figures) -> Iterator[str]:
    """Yield the lines about publishing and subscribing."""
    kept = figures["publish_with_many_kept"]
    clients = list(figures["publish"])
    head = [f"{one} publisher{'s' * (one != '1')}" for one in clients]
    yield from _head("Messages a second", [*head, f"256, where {kept['kept']:,} are kept", "CPU of the server"])
    for title, name in PUBLISHERS.items():
        rates = [figures["publish"][one][name]["messages_per_s"] for one in clients]
        last = kept[name]["messages_per_s"] if name in kept else None
        cpu = figures["publish"][clients[-1]][name]["server_cpu_us_per_message"]
        yield _row(title, [*map(_rate, rates), _rate(last), f"{cpu:.0f} us"])
    yield ""
    crowds = list(figures["fan_out"])
    columns = [f"{_words(one)}: {what}" for one in crowds for what in ("100 a second, p50 / p99", "saturated")]
    yield from _head("Deliveries", [*columns, "Idle subscriber"])
    for title, name in SUBSCRIBERS.items():
        cells = []
        for crowd in crowds:
            steady, fast = figures["fan_out"][crowd][name].values()
            cells += [f"{steady['p50_ms']:,.0f} / {steady['p99_ms']:,.0f} ms", f"{_rate(fast['deliveries_per_s'])}/s"]
        yield _row(title, [*cells, f"{figures['idle'][name]['kib_each']} KiB"])


def relay(figures: Figures) -> Iterator[str]:
    """Yield the lines about the relay."""
    pairs = list(figures["pairs"])
    columns = [f"Small bodies a second, {one} pair{'s' * (one != '1')}" for one in pairs] + [
        "1 GiB, chunked",
        "1 GiB, with a length",
        "CPU for it",
        "Memory for it",
        "Waiting consumer",
    ]
    yield from _head("", columns)
    for title, name in RELAYS.items():
        large = [one[name] for one in figures["large"].values()]
        cells = [_rate(figures["pairs"][one][name]["per_s"]) for one in pairs]
        cells += [f"{one['mib_per_s']:,.0f} MiB/s" for one in large]
        cells += [" / ".join(f"{one['server_cpu_s_per_gib']:.2f}" for one in large) + " s"]
        cells += [f"{max(one['rss_growth_mib'] for one in large):.0f} MiB"]
        yield _row(title, [*cells, f"{figures['waiting'][name]['kib_each']:.0f} KiB"])


def leases(figures: Figures) -> Iterator[str]:
    """Yield the lines about leases."""
    yield from _head("Cycles of acquire and release", ["a second", "p50"])
    rows = {
        "1 caller": "alone",
        "50 callers, a resource each": "many_each_its_own",
        "50 callers that want the same": "many_for_one",
    }
    for title, name in rows.items():
        yield _row(title, [_rate(figures[name]["per_s"]), f"{figures[name]['p50_ms']:,.0f} ms"])


def replication(figures: Figures) -> Iterator[str]:
    """Yield the lines about replication: Litestream, Forge, and the ratio."""
    yield from _head("", ["Litestream", "Forge", "ratio"])
    for section, sides in figures.items():
        if section in ("peer", "options"):
            continue
        for name, value in sides["forge"].items():
            if name in sides["litestream"]:
                peer = sides["litestream"][name]
                ratio = f"{value / peer:.2f}" if peer > 0 else ""
                yield _row(f"{section}: {name}", [f"{peer:,}", f"{value:,}", ratio])


def _head(first: str, columns: Sequence[str]) -> Iterator[str]:
    yield _row(first, columns)
    yield "|---" * (len(columns) + 1) + "|"


def _row(first: str, cells: Sequence[str]) -> str:
    return f"| {' | '.join((first, *cells))} |"


def _rate(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _words(crowd: str) -> str:
    topics, _, each, _ = crowd.split("_")
    return f"{topics} topic{'s' if topics != '1' else ''} x {each}"


def tables() -> None:
    """Print them."""
    for name, lines in (("messages", messages), ("relay", relay), ("leases", leases), ("replication", replication)):
        figures = json.loads((RESULTS / f"{name}.json").read_text())["figures"]
        sys.stdout.write("\n".join([*lines(figures), "", ""]))


if __name__ == "__main__":
    tables()
