"""The checker "the log is the order": compares what clients saw with what the log holds."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from tests.faults.history import Operation, P

Kind = Literal[
    "lost",  # acknowledged, but not in the log
    "moved",  # acknowledged at one position, logged at another
    "duplicate",  # more than once in the log
    "phantom",  # refused, but in the log
    "unknown",  # in the log, but nobody asked for it
    "reordered",  # answered before another was invoked, but logged at or after it
    "disordered log",  # the positions that were read do not increase
]


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken promise: which kind, which command id, and a sentence."""

    kind: Kind
    id: str
    message: str


def check(operations: Sequence[Operation[P]], log: Iterable[tuple[P, Sequence[str]]]) -> list[Violation]:
    """Return every way in which `log`, read from its start, breaks what clients were told; [] if none.

    `log` holds (position, command ids of that record) in the order read. Checked, in O(n log n): each
    answered id is in the log exactly once, at its answered position; refused ids are not; ambiguous ones
    at most once; no id that nobody sent; an id answered before another was invoked has the smaller position.
    """
    places, violations = _places(log)
    known = {operation.id: operation for operation in operations}
    assert len(known) == len(operations), "one operation per id: join attempts with History or read_histories"
    for id, positions in places.items():
        if len(positions) > 1:
            violations.append(Violation("duplicate", id, f"{id} is in the log at {_text(positions)}"))
        if id not in known:
            violations.append(Violation("unknown", id, f"{id} is in the log at {_text(positions)}, never invoked"))
        elif known[id].refused:
            violations.append(Violation("phantom", id, f"{id} was refused but is in the log at {_text(positions)}"))
    for operation in operations:
        there = places.get(operation.id, [])
        for position in operation.positions:
            if not there:
                violations.append(Violation("lost", operation.id, f"{operation.id} was answered {position}, not there"))
            elif position not in there:
                told = f"{operation.id} was answered {position} but is in the log at {_text(there)}"
                violations.append(Violation("moved", operation.id, told))
    return violations + _reordered(operations, places)


def _places(log: Iterable[tuple[P, Sequence[str]]]) -> tuple[dict[str, list[P]], list[Violation]]:
    places: dict[str, list[P]] = {}
    violations: list[Violation] = []
    last: P | None = None
    for position, ids in log:
        if last is not None and not last < position:
            violations.append(Violation("disordered log", "", f"position {position} was read after {last}"))
        last = position
        for id in ids:
            places.setdefault(id, []).append(position)
    return places, violations


def _reordered(operations: Sequence[Operation[P]], places: dict[str, list[P]]) -> list[Violation]:
    """Walk invocations in time, holding the highest position of everything answered before."""
    stored = [operation for operation in operations if operation.id in places]
    ended = sorted(
        ((operation.answered, operation) for operation in stored if operation.answered is not None),
        key=lambda pair: pair[0],
    )
    violations: list[Violation] = []
    highest: tuple[P, str] | None = None
    seen = 0
    for operation in sorted(stored, key=lambda stored: stored.invoked):
        while seen < len(ended) and ended[seen][0] < operation.invoked:
            earlier = ended[seen][1]
            if highest is None or highest[0] < places[earlier.id][0]:
                highest = (places[earlier.id][0], earlier.id)
            seen += 1
        here = places[operation.id][0]
        if highest is not None and not highest[0] < here:
            told = f"{highest[1]} at {highest[0]} was answered before {operation.id} (at {here}) was invoked"
            violations.append(Violation("reordered", operation.id, told))
    return violations


def _text(positions: Sequence[P]) -> str:
    return ", ".join(str(position) for position in positions)
