"""What a route reads from the query and the headers, declared for those who call it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

POSITION_PATTERN = r"^(0|[1-9][0-9]{0,19})\.(0|[1-9][0-9]{0,19})$"


@dataclass(frozen=True, slots=True)
class Input:
    """One parameter: where it is found, what it holds (JSON Schema), and what it is for."""

    where: Literal["query", "header"]
    name: str
    description: str
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})
    required: bool = False


def text(name: str, description: str, **schema: Any) -> Input:
    """Return a query parameter of text; `schema` says more, such as `maxLength`."""
    return Input("query", name, description, {"type": "string", **schema})


def number(name: str, description: str, least: int, most: int, default: int | None = None) -> Input:
    """Return a query parameter that is a whole number from `least` to `most`."""
    schema: dict[str, Any] = {"type": "integer", "minimum": least, "maximum": most}
    return Input("query", name, description, schema if default is None else {**schema, "default": default})


def choice(name: str, description: str, values: Sequence[str], default: str | None = None) -> Input:
    """Return a query parameter that is one of `values`."""
    schema: dict[str, Any] = {"type": "string", "enum": list(values)}
    return Input("query", name, description, schema if default is None else {**schema, "default": default})


def flag_input(name: str, description: str) -> Input:
    """Return a query parameter that is `true` or `false`."""
    return Input("query", name, description, {"type": "boolean"})


def position_input(name: str, description: str) -> Input:
    """Return a query parameter that is a position, or `0` for the beginning."""
    return Input("query", name, description, {"type": "string", "pattern": rf"^0$|{POSITION_PATTERN}"})


def header(name: str, description: str, *, required: bool = False, **schema: Any) -> Input:
    """Return a header; `schema` says what it holds, text if it says nothing."""
    return Input("header", name, description, {"type": "string", **schema}, required)


KEY = header(
    "Idempotency-Key",
    "Chosen by the caller for one mutation: the same request with it again gets the first answer.",
    maxLength=255,
)
MIN_POSITION = header(
    "Forge-Min-Position",
    "Answer only once this position was reached, as an earlier answer told it in Forge-Position.",
    pattern=POSITION_PATTERN,
)
IF_MATCH = header(
    "If-Match",
    'The position at which the document must still stand, as in an ETag: `"1.42"`; `*` for any. Else 412.',
    pattern=r'^\*$|^"(0|[1-9][0-9]{0,19})\.(0|[1-9][0-9]{0,19})"$',
)
IF_FENCE = header(
    "If-Fence",
    "Leases that must be held for the change to be made, each `<resource>=<fence>`, separated by commas. Else 412.",
)
LAST_EVENT_ID = header(
    "Last-Event-ID",
    "The id of the last event that was seen: the stream goes on from there.",
    pattern=POSITION_PATTERN,
)
AT_INPUT = text("at", "Read the past: a position such as `1.42`, or a time of RFC 3339.", maxLength=64)
