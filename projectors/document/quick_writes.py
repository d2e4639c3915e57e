"""Writes that are known to be quick, decided where the commit loop runs.

A lone insert takes SQLite some microseconds; the way to a thread and back, twice for each record, takes more.
"""

import time
from collections import OrderedDict
from typing import Protocol
from weakref import WeakKeyDictionary

import apsw

from projectors.document.quickness import BANNED_S, HERE_S, QUICK_S, RUNS, SQL_CHARACTERS_MAX
from projectors.document.tables import Tables
from projectors.domain import Decision, NotQuick
from schemas.document import RunSql
from schemas.facts import Command
from schemas.problems import QUERY_TIMEOUT, Refusal
from schemas.system_tables import NEEDED_COLUMNS

KEPT = 256


class Decider(Protocol):
    """Decides commands; a statement gets `seconds` at most, if that is less than its bound."""

    def __call__(
        self, db: apsw.Connection, command: Command, now: str, *, seconds: float | None = None
    ) -> Decision: ...


class _Known:
    """What was seen of one document's statements: how often in a row each was quick."""

    def __init__(self) -> None:
        self.runs: OrderedDict[str, int] = OrderedDict()
        self.banned_until = 0.0


class QuickWrites:
    """A statement that was quick each of the last times may be decided on the event loop.

    A document that was wrong about it goes to threads for a minute, so that it cannot hold up others at will.
    """

    def __init__(self, decider: Decider) -> None:
        self._decider = decider
        self._known: WeakKeyDictionary[apsw.Connection, _Known] = WeakKeyDictionary()

    def expects(self, db: apsw.Connection, command: Command) -> bool:
        """Say whether deciding `command` will be quick."""
        known = self._known.get(db)
        if command.QUICK:  # unless triggers of users run with it
            return command.quick and not Tables.of(db).react(NEEDED_COLUMNS)
        if known is None or not isinstance(command, RunSql) or len(command.statements) > 1:
            return False
        runs = known.runs.get(command.statements[0].sql, 0)
        return runs >= RUNS and time.monotonic() >= known.banned_until

    def decide(self, db: apsw.Connection, command: Command, now: str) -> Decision:
        """Decide on the event loop; raise `NotQuick` if it takes too long, with nothing left behind but a lost
        transaction."""
        if command.QUICK:
            return self._decider(db, command, now)
        began = time.thread_time()
        try:
            return self._decider(db, command, now, seconds=HERE_S)
        except Refusal as refusal:
            if refusal.problem.type == QUERY_TIMEOUT.uri:
                raise NotQuick from refusal
            raise
        finally:
            if time.thread_time() - began > HERE_S:
                self._known.setdefault(db, _Known()).banned_until = time.monotonic() + BANNED_S

    def decide_in_thread(self, db: apsw.Connection, command: Command, now: str) -> Decision:
        """Decide, and learn how quick that was."""
        if not isinstance(command, RunSql) or len(command.statements) > 1:
            return self._decider(db, command, now)
        began = time.thread_time()
        decision = self._decider(db, command, now)
        self._note(db, command.statements[0].sql, time.thread_time() - began)
        return decision

    def _note(self, db: apsw.Connection, sql: str, cpu_s: float) -> None:
        if len(sql) > SQL_CHARACTERS_MAX:
            return
        known = self._known.setdefault(db, _Known())
        known.runs[sql] = known.runs.get(sql, 0) + 1 if cpu_s < QUICK_S else 0
        known.runs.move_to_end(sql)
        if len(known.runs) > KEPT:
            known.runs.popitem(last=False)
