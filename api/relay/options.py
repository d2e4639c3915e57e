"""What a relay request asks for in its query: flags with values, modes, how long to wait, what to do besides."""

import math
from dataclasses import dataclass
from typing import Any

from api.fences import FENCE_HEADER, refuse_fences
from api.routes import Request
from schemas.problems import INVALID_PARAMETER, Refusal

ON = frozenset({"", "1", "true", "yes", "on"})
OFF = frozenset({"0", "false", "no", "off"})
MODES = ("queue", "pubsub")
WAIT_S_MAX = 7 * 86_400.0
UNSTORED = "only what `?tee=` stores rests on leases"


@dataclass(frozen=True, slots=True)
class Options:
    """`wait_s` None: as long as it takes; `tee` is a topic, `text` stands for the body."""

    wait_s: float | None = None
    tee: str | None = None
    text: str | None = None
    discard: bool = False
    wants_request: bool = False


def receiving(request: Request[Any]) -> Options:
    """Return what a receiver asks for; `Refusal` (400) for nonsense, as of all that follow."""
    refuse_fences(request.headers, UNSTORED)
    return Options(_wait_s(request))


def sending(request: Request[Any]) -> Options:
    """Return what the sender of a message asks for."""
    return Options(_wait_s(request), _tee(request), request.query.get("body") or None, flag(request, "discard"))


def asking(request: Request[Any]) -> Options:
    """Return what the sender of a request asks for."""
    return Options(_wait_s(request), _tee(request))


def answering(request: Request[Any]) -> Options:
    """Return what the sender of an answer asks for."""
    return Options(_wait_s(request), _tee(request), wants_request=flag(request, "request"))


def flag(request: Request[Any], name: str) -> bool:
    """Return whether a flag is on: absent is off, without a value is on."""
    given = request.query.get(name)
    if given is None:
        return False
    value = given.strip().lower()
    if value not in ON | OFF:
        raise _invalid(name, f"{name} is on (1, true, yes, on) or off (0, false, no, off), not {given[:40]!r}")
    return value in ON


def broadcasts(request: Request[Any], *, default: bool = False) -> bool:
    """Return whether a message goes to all who listen; `?mode=` decides before `?pubsub`, that before `default`."""
    if (mode := request.query.get("mode")) is not None:
        if mode not in MODES:
            raise _invalid("mode", f"mode is queue or pubsub, not {mode[:40]!r}")
        return mode == "pubsub"
    return flag(request, "pubsub") if "pubsub" in request.query else default


def _tee(request: Request[Any]) -> str | None:
    topic = request.query.get("tee")
    if topic is None and FENCE_HEADER in request.headers:
        refuse_fences(request.headers, UNSTORED)
    return topic


def _wait_s(request: Request[Any]) -> float | None:
    given = request.query.get("timeout")
    if given is None:
        return None
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= WAIT_S_MAX:
        raise _invalid("timeout", f"timeout is a number of seconds up to {WAIT_S_MAX:g}, not {given[:40]!r}")
    return seconds


def _invalid(name: str, why: str) -> Refusal:
    return Refusal(INVALID_PARAMETER.problem(why, field=name))
