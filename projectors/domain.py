"""What a domain gives to the commit loop: its facts, its projections, and how it decides."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import apsw

from events.envelope import Event
from schemas.facts import Command, Fact


class Decision(NamedTuple):
    """What became true because of a command, and the answer to it (a JSON value).

    `applied`: deciding has already brought the projection to where folding the facts would. `void`: the facts change
    nothing, and are only kept if a retry has to get the same answer.
    """

    facts: Sequence[Fact] = ()
    answer: Any = None
    applied: bool = False
    void: bool = False


Decide = Callable[[apsw.Connection, Command, str], Decision]
"""`decide(db, command, now)`: reads its own projection; returns a decision or raises `Refusal`.

One that writes (a document runs the user's statements) undoes its writes before it refuses.
"""


class NotQuick(Exception):
    """A command that was expected to be quick is not; the transaction may be lost. Decide it in a thread."""


class Quick(Protocol):
    """Decides some commands on the event loop, where that is expected to take microseconds."""

    def expects(self, db: apsw.Connection, command: Command) -> bool: ...
    def decide(self, db: apsw.Connection, command: Command, now: str) -> Decision: ...


Apply = Callable[[apsw.Connection, Sequence[Event]], None]
"""`apply(db, events)`: the fold, of events in their order. Pure: it sees them and its own rows, no clock, network or
randomness. However a history is cut into calls, the rows are the same."""


@dataclass(frozen=True, slots=True)
class ProjectionSpec:
    """One SQLite file that folds one partition. `version` changes when the same events give other rows.

    `prepare` sets up each connection that writes it.
    """

    name: str
    path: Path
    schema: str
    apply: Apply
    version: str
    prepare: Callable[[apsw.Connection], object] = lambda _: None


@dataclass(frozen=True, slots=True)
class Domain:
    """A kind of partition.

    `projections` of a partition: the first one is decided against and committed last, so that whoever sees its
    rows finds those of the others.
    """

    name: str
    facts: Mapping[str, type[Fact]]
    commands: Mapping[str, type[Command]]
    projections: Callable[[str], Sequence[ProjectionSpec]]
    decide: Decide
    quick: Quick | None = None

    def is_quick(self, db: apsw.Connection, command: Command) -> bool:
        """Say whether `command` may be decided on the event loop: its class says so, or the domain expects it."""
        return command.quick if self.quick is None else self.quick.expects(db, command)
