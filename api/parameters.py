"""Parameters and headers of requests, read and checked."""

from typing import Any

from api.routes import Request
from schemas.ids import InvalidId, parse_cid
from schemas.problems import INVALID_PARAMETER, Refusal
from schemas.vector import KINDS


def parse_hash(text: str, field: str) -> str:
    """Read a content hash in any case; refuse anything but 64 hex digits, naming `field`."""
    try:
        return parse_cid(text)
    except InvalidId as error:
        raise Refusal(INVALID_PARAMETER.problem(f"{field}: {error}", field=field)) from error


def parse_kind(text: str, field: str) -> Any:
    """Read a kind in any case; refuse what is none, naming `field`."""
    kind = text.strip().lower()
    if kind not in KINDS:
        why = f"{field} is one of {', '.join(KINDS)}, not {text[:40]!r}"
        raise Refusal(INVALID_PARAMETER.problem(why, field=field))
    return kind


def query_number(request: Request[Any], name: str, default: int, least: int, most: int) -> int:
    """Read a whole number from the query, `default` if it is not there."""
    text = request.query.get(name)
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 20 and least <= int(text) <= most):
        raise Refusal(INVALID_PARAMETER.problem(f"{name} is a number from {least} to {most}", field=name))
    return int(text)
