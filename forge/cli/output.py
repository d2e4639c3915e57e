"""How commands print: text for people, JSON for machines."""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import click

GAP = "  "
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def emit(value: Any, text: str, *, as_json: bool) -> None:
    """Print `value` as JSON, indented by two spaces, if `as_json`; else print `text`."""
    click.echo(json.dumps(value, indent=2, default=_jsonable) if as_json else text)


def emit_line(value: Any, text: str, *, as_json: bool) -> None:
    """Print one item of a stream: JSON on one line, or text; flushed, so that a follower sees it."""
    click.echo(json.dumps(value, default=_jsonable) if as_json else text)


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return aligned columns under `headers`; numbers to the right, no trailing blanks."""
    body = [[_printable(cell) for cell in row] for row in rows]
    raw = [list(headers), *body]
    widths = [max(len(line[i]) for line in raw) for i in range(len(headers))]
    right = [bool(body) and all(_is_number(line[i]) for line in body) for i in range(len(headers))]
    return "\n".join(
        GAP.join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in raw
    )


def size_text(size_bytes: float) -> str:
    """Return a size for people: `3.4 GiB`, `12 B`."""
    for unit in _UNITS[:-1]:
        if abs(size_bytes) < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} {_UNITS[-1]}"


def duration_text(seconds: float) -> str:
    """Return a duration for people: `0.8 ms`, `12.0 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds < 1:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _printable(cell: object) -> str:
    return "".join(c if c.isprintable() else " " for c in str(cell))


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).replace("-", "", 1).isdigit()


def _jsonable(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    raise TypeError(f"cannot print {type(value).__name__} as JSON")
