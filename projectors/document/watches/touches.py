"""When each table of a document was touched last, as far back as this process has heard."""

from collections.abc import Iterable, Sequence
from itertools import chain

from schemas.document import DocumentFact, StateStep
from schemas.facts import Fact
from schemas.ids import Position

TABLES_MAX = 1024  # more, and everything before now counts as touched


def tables_touched(facts: Sequence[Fact]) -> frozenset[str] | None:
    """Return the tables that facts changed, in lower case; None if anything may have changed.

    That is so when tables themselves changed, when a fact does not say what it touched, and when there is news of
    a position without its facts.
    """
    if not facts or not all(isinstance(fact, DocumentFact) and not fact.changes_schema for fact in facts):
        return None
    return frozenset(chain.from_iterable(_tables(fact) for fact in facts if isinstance(fact, DocumentFact)))


def _tables(fact: DocumentFact) -> Iterable[str]:
    yield from map(str.lower, fact.touched)
    if any(isinstance(step, StateStep) and step.sequences is not None for step in fact.steps):
        yield "sqlite_sequence"


class Touches:
    """The newest touch of each table, and since when every touch is known."""

    def __init__(self, since: Position) -> None:
        """Begin to know at `since`; everything before it counts as touched."""
        self.since = since
        self.heard = since
        self._newest: dict[str, Position] = {}

    def note(self, position: Position, tables: frozenset[str] | None) -> frozenset[str] | None:
        """Take in a commit and return what it touched: None, for everything, also if news before it was missed."""
        if position <= self.heard:
            return frozenset()  # an evaluation was ahead of the news, and everything before it counts as touched
        if tables is None or position != self.heard.next() or len(self._newest.keys() | tables) > TABLES_MAX:
            self._newest.clear()
            self.since = position
            tables = None
        else:
            self._newest.update(dict.fromkeys(tables, position))
        self.heard = position
        return tables

    def changed(self, tables: frozenset[str] | None, after: Position) -> bool:
        """Say whether one of `tables` (None: any) was touched after a position, or may have been."""
        if after < self.since:
            return True
        if tables is None:
            return after < self.heard
        return any(touched > after for table in tables if (touched := self._newest.get(table)))
