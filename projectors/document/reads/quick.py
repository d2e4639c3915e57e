"""Reads that are known to be quick, run where they are asked for.

A point read takes SQLite some microseconds; the way to a thread and back takes more. And in a thread each row gives the
interpreter's lock away and waits for it again.
"""

import time
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

from projectors.document.quickness import BANNED_S, HERE_S, QUICK_S, RUNS, SQL_CHARACTERS_MAX, STALL_S
from projectors.document.reads.reader import Reader
from projectors.document.reads.reading import DocumentReaders
from projectors.document.sql.bounds import SqlBounds
from projectors.document.sql.classes import execute_reads
from projectors.document.sql.results import Results
from schemas.document import Statement
from schemas.ids import Position
from schemas.problems import QUERY_TIMEOUT, Refusal

KEPT = 4096


class QuickReads:
    """Runs reads: a statement that was quick each of the last times on the event loop, any other in a thread.

    A document that was wrong about it once goes to threads for a minute, so that it cannot hold up others at will.
    """

    def __init__(self, readers: DocumentReaders) -> None:
        self._readers = readers
        self._runs: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._banned: OrderedDict[str, float] = OrderedDict()
        self._bounds = (readers.bounds, readers.bounds.narrowed(HERE_S))
        self.here = 0

    async def run(
        self, db_id: str, statements: Sequence[Statement], bounds: SqlBounds, *, numbered: bool
    ) -> tuple[Results, Position]:
        """Return what `execute_reads` returns, and the position of the state that it saw; raise what it raises."""
        key = (db_id, statements[0].sql)
        alone = len(statements) == 1 and len(key[1]) <= SQL_CHARACTERS_MAX
        if alone and self._runs.get(key, 0) >= RUNS and time.monotonic() >= self._banned.get(db_id, 0.0):
            found = self._run_here(db_id, statements, bounds, numbered=numbered)
            if found is not None:
                return found
        cpu_s = 0.0

        def work(reader: Reader) -> Results:
            nonlocal cpu_s
            began = time.thread_time()
            results = execute_reads(reader.db, statements, bounds, numbered=numbered)
            cpu_s = time.thread_time() - began
            return results

        results = await self._readers.run(db_id, work)
        if alone:
            self._note(key, cpu_s)
        return results

    def _run_here(
        self, db_id: str, statements: Sequence[Statement], bounds: SqlBounds, *, numbered: bool
    ) -> tuple[Results, Position] | None:
        began, cpu_began = time.monotonic(), time.thread_time()
        work = partial(_execute, statements=statements, bounds=self._narrowed(bounds), numbered=numbered)
        try:
            found = self._readers.run_here(db_id, work)
        except Refusal as refusal:
            if refusal.problem.type != QUERY_TIMEOUT.uri:
                raise
            found = None
        finally:
            if time.thread_time() - cpu_began > HERE_S or time.monotonic() - began > STALL_S:
                self._ban(db_id)
        self.here += found is not None
        return found

    def _narrowed(self, bounds: SqlBounds) -> SqlBounds:
        """Return the bounds of a run here; those of nearly all requests are the same, and take a while to copy."""
        if bounds is not self._bounds[0]:
            self._bounds = (bounds, bounds.narrowed(HERE_S))
        return self._bounds[1]

    def _note(self, key: tuple[str, str], cpu_s: float) -> None:
        self._runs[key] = self._runs.get(key, 0) + 1 if cpu_s < QUICK_S else 0
        self._runs.move_to_end(key)
        if len(self._runs) > KEPT:
            self._runs.popitem(last=False)

    def _ban(self, db_id: str) -> None:
        self._banned[db_id] = time.monotonic() + BANNED_S
        self._banned.move_to_end(db_id)
        if len(self._banned) > KEPT:
            self._banned.popitem(last=False)


def _execute(reader: Reader, statements: Sequence[Statement], bounds: SqlBounds, *, numbered: bool) -> Results:
    return execute_reads(reader.db, statements, bounds, numbered=numbered)
