"""What clients saw: every command they sent, and how it ended, over all attempts and processes."""

import json
import time
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TextIO, TypeVar


class Ordered(Hashable, Protocol):
    """A position in the log: anything hashable that can be compared with its like."""

    def __lt__(self, other: Any, /) -> bool: ...


P = TypeVar("P", bound=Ordered)


@dataclass(slots=True)
class Operation(Generic[P]):
    """One command id as its clients saw it, over all attempts under that id; times are nanoseconds.

    `positions` are those it was answered with. Neither a position nor `refused` means ambiguous: perhaps
    in the log. One ambiguous attempt makes `refused` False, for that attempt may have been stored.
    """

    id: str
    invoked: int
    answered: int | None = None
    positions: set[P] = field(default_factory=set)
    refused: bool = False


class History(Generic[P]):
    """Records what clients see; keep one per process and one clock (`time.monotonic_ns`) for all of them.

    With `journal`, every line is also written to that file at once, so that the history of a client process
    that is killed survives it; `read_histories` joins such files.
    """

    def __init__(self, journal: TextIO | None = None, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._journal = journal
        self._clock = clock
        self._attempts: list[_Attempt[P]] = []

    def invoke(self, id: str) -> int:
        """Note that command `id` is about to be sent; return the number of this attempt."""
        self._attempts.append(_Attempt(id, self._clock()))
        attempt = len(self._attempts) - 1
        self._write({"event": "invoked", "attempt": attempt, "id": id, "at": self._attempts[attempt].invoked})
        return attempt

    def answered(self, attempt: int, position: P) -> None:
        """Note that the attempt was acknowledged at `position`."""
        self._end(attempt, "answered", position)

    def refused(self, attempt: int) -> None:
        """Note that the attempt was definitely refused; a timeout or disconnect is no refusal."""
        self._end(attempt, "refused", None)

    def operations(self) -> list[Operation[P]]:
        """Return one operation per command id. Attempts that were never ended are ambiguous."""
        return _join(self._attempts)

    def _end(self, attempt: int, event: Literal["answered", "refused"], position: P | None) -> None:
        noted = self._attempts[attempt]
        assert noted.end is None, f"attempt {attempt} of {noted.id} ended twice"
        noted.end, noted.ended, noted.position = event, self._clock(), position
        where = None if position is None else str(position)
        self._write({"event": event, "attempt": attempt, "position": where, "at": noted.ended})

    def _write(self, line: dict[str, object]) -> None:
        if self._journal is not None:
            self._journal.write(json.dumps(line) + "\n")
            self._journal.flush()


@dataclass(slots=True)
class _Attempt(Generic[P]):
    id: str
    invoked: int
    end: Literal["answered", "refused"] | None = None
    ended: int | None = None
    position: P | None = None


def read_histories(journals: Iterable[Path], parse_position: Callable[[str], P]) -> list[Operation[P]]:
    """Join the journals of several processes of one machine into one list of operations.

    A last line that was cut off by a kill is passed over: that attempt stays ambiguous.
    """
    attempts: dict[tuple[Path, int], _Attempt[P]] = {}
    for journal in journals:
        for line in journal.read_text().splitlines(keepends=True):
            if not line.endswith("\n"):
                continue
            noted = json.loads(line)
            key = (journal, noted["attempt"])
            if noted["event"] == "invoked":
                attempts[key] = _Attempt(noted["id"], noted["at"])
            else:
                attempt = attempts[key]
                attempt.end, attempt.ended = noted["event"], noted["at"]
                attempt.position = None if noted["position"] is None else parse_position(noted["position"])
    return _join(attempts.values())


def _join(attempts: Iterable[_Attempt[P]]) -> list[Operation[P]]:
    operations: dict[str, Operation[P]] = {}
    ambiguous: set[str] = set()
    for attempt in attempts:
        known = operations.setdefault(attempt.id, Operation(attempt.id, attempt.invoked))
        known.invoked = min(known.invoked, attempt.invoked)
        if attempt.end == "answered":
            assert attempt.position is not None
            assert attempt.ended is not None
            known.positions.add(attempt.position)
            known.answered = attempt.ended if known.answered is None else min(known.answered, attempt.ended)
        elif attempt.end == "refused":
            known.refused = True
        else:
            ambiguous.add(attempt.id)
    for known in operations.values():
        known.refused = known.refused and not known.positions and known.id not in ambiguous
    return list(operations.values())
