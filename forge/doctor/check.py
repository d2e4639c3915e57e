"""One check: the value seen, the limit, and what to do when it is past it."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

NOT_READY = 6
DATA_FAULT = 7


class State(StrEnum):
    """How a check came out; only `FAIL` makes the doctor's exit code differ from 0."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Check:
    """A finished check; `fault` is the exit code that a failure asks for."""

    name: str
    state: State
    value: str
    limit: str = ""
    fix: str = ""
    fault: int = NOT_READY


def judged(
    name: str, good: bool, value: str, limit: str, fix: str, *, otherwise: State, fault: int = NOT_READY
) -> Check:
    """Return a check that is `OK` if `good`, else `otherwise` with its fix."""
    return Check(name, State.OK if good else otherwise, value, limit, "" if good else fix, fault)


def exit_code(checks: Iterable[Check]) -> int:
    """Return 0 if nothing failed, 7 if data is at risk, else 6."""
    return max((check.fault for check in checks if check.state is State.FAIL), default=0)
