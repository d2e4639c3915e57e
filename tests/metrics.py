"""The metrics of Forge: which the code declares, and which a text names."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = ("events", "projectors", "api", "workers", "forge")
DECLARED = re.compile(r"\b(Counter|Gauge|Histogram)\(\s*\"(forge_\w+)\"")
NAMED = re.compile(r"\bforge_[a-z0-9_]+")


def declared() -> dict[str, str]:
    """Return the kind of every metric that the code declares, by the name under which `/metrics` has it."""
    sources = [path.read_text() for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    found = {str(name): str(kind) for text in sources for kind, name in DECLARED.findall(text)}
    return {
        name if kind != "Counter" or name.endswith("_total") else f"{name}_total": kind for name, kind in found.items()
    }


def series(metrics: dict[str, str]) -> set[str]:
    """Return what queries can name of metrics of which the kind is known."""
    parts = {"histogram": ("_bucket", "_sum", "_count")}
    return {name + part for name, kind in metrics.items() for part in parts.get(kind.lower(), ("",))}


def named(text: str) -> set[str]:
    """Return the series that queries in `text` name."""
    return set(NAMED.findall(text))
