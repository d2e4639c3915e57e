"""Positions and idempotency keys in HTTP headers: read your own write, repeat without doing it twice."""

from typing import Any

from blake3 import blake3

from api.routes import Request
from projectors.partition import Partition
from schemas.ids import InvalidId, Position
from schemas.problems import INVALID_PARAMETER, Refusal

POSITION_HEADER = "forge-position"
MIN_POSITION_HEADER = "forge-min-position"
KEY_HEADER = "idempotency-key"
KEY_LENGTH_MAX = 255
WAIT_S_MAX = 10.0


def min_position(request: Request[Any]) -> Position | None:
    """Return the position that a read must have reached, if the request asks for one; refuse (400) what is none."""
    text = request.headers.get(MIN_POSITION_HEADER)
    if text is None:
        return None
    try:
        return Position.parse(text.strip())
    except InvalidId as error:
        raise Refusal(INVALID_PARAMETER.problem(f"Forge-Min-Position: {error}", field="Forge-Min-Position")) from error


async def await_position(request: Request[Any], partition: Partition) -> None:
    """Wait (bounded) until the local projection has reached the position that the request asks for, if any."""
    position = min_position(request)
    if position is not None:
        await partition.reached(position, WAIT_S_MAX)


def command_id(request: Request[Any]) -> str | None:
    """Return the id under which the answer is remembered: the caller's key, kept apart by caller and route."""
    key = request.headers.get(KEY_HEADER, "").strip()
    if not key:
        return None
    if len(key) > KEY_LENGTH_MAX:
        why = f"Idempotency-Key has more than {KEY_LENGTH_MAX} characters"
        raise Refusal(INVALID_PARAMETER.problem(why, field="Idempotency-Key"))
    return blake3("\0".join((request.caller.name, request.method, request.path, key)).encode()).hexdigest(16)
