"""Captures what a command does to a document, as steps that do the same to any copy of it.

A SQLite session records the rows that change. It is cut at every change of the schema, and what sessions do not see
is recorded here beside it: rows of `CREATE TABLE AS SELECT`, the counters of AUTOINCREMENT, rowids of tables that
have a key of another kind, `user_version` and `application_id`.
"""

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import apsw

from projectors.digest import SETTINGS, quoted, setting
from projectors.document.tables import OURS, Tables, TableShape, free_rowid, rowid_select
from schemas.document import ChangesetStep, DdlStep, RowidsStep, RowsStep, StateStep, Step
from schemas.problems import CONSTRAINT, Refusal
from schemas.values import encode

MOVED = "_forge_moved"
SESSION_ROWS_MAX = 128


class Capture:
    """What happens to `db` between entering and leaving, inside of a transaction; an error undoes it.

    Tell it about each statement that changes the schema, before and after.
    """

    def __init__(self, db: apsw.Connection, *, only_inserts: bool = False) -> None:
        """`only_inserts`: of rows in tables without a key; those are always told right."""
        self._db = db
        self._only_inserts = only_inserts
        self._tables = Tables.of(db)
        self._keyed: apsw.Session | None = None
        self._keyless: apsw.Session | None = None
        self._left_out: set[str] | None = set()
        self._changes = 0
        self._touched: dict[str, None] = {}
        self._moved: set[tuple[str, int]] = set()
        self.steps: list[Step] = []
        self.tables: dict[str, tuple[str, ...]] = {}

    def __enter__(self) -> Self:
        self._settings = self._read_settings()
        self._sequences = self._read_sequences()
        self._db.execute("SAVEPOINT captured")
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
        if kind is None:
            self._db.execute("RELEASE captured")
        elif self._db.in_transaction:  # an interrupted write has ended it
            self._db.execute("ROLLBACK TO captured")
            self._db.execute("RELEASE captured")
        if kind is not None:
            self._tables.refresh()

    def finish(self) -> None:
        """Make `steps` and `tables` complete; raise `Refusal` for what cannot be kept or told."""
        self._end()
        if self._db.status(apsw.SQLITE_DBSTATUS_DEFERRED_FKS)[0]:
            raise Refusal(CONSTRAINT.problem("FOREIGN KEY constraint failed: a row refers to one that is not there"))
        counters = self._counters() if self._tables.counts else {}
        settings = {name: value for name, value in self._read_settings().items() if value != self._settings[name]}
        if counters or settings:
            self.steps.append(StateStep(sequences=counters or None, **settings))

    def _counters(self) -> dict[str, tuple[Any, ...]]:
        """Return the counters of AUTOINCREMENT that changed, and those of touched tables.

        Those too, because repeating a change of a key as delete and insert moves one that stood still here; and all of
        them after a change of the schema, which may have moved one from name to name.
        """
        counted = set(self._tables.counted())
        touched = (
            counted if any(isinstance(step, DdlStep) for step in self.steps) else counted.intersection(self.tables)
        )
        now = self._read_sequences()
        return {
            name: tuple(now.get(name, ()))
            for name in sorted(self._sequences.keys() | now.keys() | touched)
            if self._sequences.get(name) != now.get(name) or name in touched
        }

    def cut(self) -> None:
        """End what is being recorded, and begin again."""
        self._end()
        self._start()

    def _end(self) -> None:
        if self._tables.virtual:  # FTS5 keeps what it has to write until a savepoint
            self._db.execute("SAVEPOINT written")
            self._db.execute("RELEASE written")
        keyed, keyless = (session.changeset() if session else b"" for session in (self._keyed, self._keyless))
        if keyed:
            if self._tables.loose and any(self._tables.shape(name).loose for name in self._touched):
                _refuse_retyped(keyed)
            self.steps.append(ChangesetStep(data=keyed))
        if keyless and self._is_trusted():
            self.steps.append(ChangesetStep(data=keyless))
        elif keyless:
            self.steps += self._rows(keyless)
        if self._moved:
            self._note_rowids()
        for name in self._touched:
            self.tables.setdefault(name, self._tables.shape(name).columns)
        self._stop()
        self._touched, self._moved = {}, set()

    def before_ddl(self, named: Sequence[tuple[str, str]]) -> None:
        """Be told that a statement changes the schema, before its first step; `named` are its (action, object)."""
        self.cut()
        # Dropping a table may change rows of others, by foreign keys. All else is repeated by the statement itself.
        drops = any(action == "DROP_TABLE" for action, _ in named)
        self._left_out = {name.lower() for _, name in named} if drops else None

    def after_ddl(self, sql: str, named: Sequence[tuple[str, str]]) -> None:
        """Be told that it ran; raise `Refusal` if it made a table whose changes could not be told."""
        if self._tables.refresh() or any(action == "ANALYZE" for action, _ in named):
            self._tables.refuse_uncapturable()
            known = [name for _, name in named if name.lower() in self._tables]
            created = [name for action, name in named if action == "CREATE_TABLE" and name in known]
            self.steps += [DdlStep(sql=self._declared(name)) for name in created] or [DdlStep(sql=sql)]
            self.tables |= {name: self._tables.shape(name).columns for name in known}
            self.cut()
            for name in created:
                self._fill_again(name)
        else:
            self.cut()

    def _start(self) -> None:
        self._left_out = set()
        self._changes = self._db.total_changes()
        self._keyed = self._record(keyless=False)
        if self._tables.keyless:
            self._keyless = self._record(keyless=True)
        if self._tables.floating:
            self._db.set_update_hook(self._note_row)

    def _record(self, *, keyless: bool) -> apsw.Session:
        session = apsw.Session(self._db, "main")
        session.config(apsw.SQLITE_SESSION_OBJCONFIG_ROWID, True)
        session.table_filter(lambda name: self._records(name, keyless))
        session.attach()
        return session

    def _stop(self) -> None:
        self._db.set_update_hook(None)
        for session in (self._keyed, self._keyless):
            if session is not None:
                session.close()
        self._keyed = self._keyless = None

    def _records(self, table: str, keyless: bool) -> bool:
        """Say whether a session records a table that is about to change for the first time."""
        if table.startswith(OURS) or self._left_out is None or table.lower() in self._left_out:
            return False
        self._touched[table] = None
        return self._tables.shape(table).keyless == keyless

    def _is_trusted(self) -> bool:
        """Say whether a changeset of tables without a key is what happened.

        With 128 changed rows in a table SQLite (3.54) begins to look for them in the wrong places: those that change
        once more are told twice.
        """
        if self._only_inserts:
            return True
        changed = self._db.total_changes() - self._changes  # without the rows that REPLACE took out of the way
        return changed * (1 + self._tables.unique_indexes()) < SESSION_ROWS_MAX

    def _rows(self, changeset: bytes) -> list[Step]:
        """Return the rows that a changeset is about as they are now."""
        rowids: dict[str, set[int]] = {}
        for change in apsw.Changeset.iter(changeset):
            values = change.old or change.new
            assert values is not None
            rowids.setdefault(change.name, set()).add(int(str(values[0])))
        return [self._present(self._tables.shape(table), sorted(found)) for table, found in rowids.items()]

    def _present(self, shape: TableShape, rowids: Sequence[int]) -> RowsStep:
        columns = ", ".join(map(quoted, shape.stored))
        query = f"SELECT {columns} FROM main.{quoted(shape.name)} WHERE {free_rowid(shape)} = ?"
        found = [(rowid, self._db.execute(query, (rowid,)).fetchone()) for rowid in rowids]
        rows = tuple((rowid, tuple(map(encode, row)) if row else None) for rowid, row in found)
        return RowsStep(table=shape.name, columns=shape.stored, rows=rows)

    def _note_row(self, _: int, __: str, table: str, rowid: int) -> None:
        if not table.startswith(OURS):
            self._moved.add((table, rowid))

    def _note_rowids(self) -> None:
        """Record the rowids of changed rows whose changes are told by another key, which must not be NULL."""
        by_table: dict[str, list[int]] = {}
        for table, rowid in sorted(self._moved):
            if self._tables.shape(table).floating:
                by_table.setdefault(table, []).append(rowid)
        for table, rowids in by_table.items():
            shape = self._tables.shape(table)
            query = rowid_select(shape)
            rows = [(rowid, key) for rowid in rowids if (key := self._db.execute(query, (rowid,)).fetchone())]
            if any(None in key for _, key in rows):
                raise Refusal(
                    CONSTRAINT.problem(
                        f"NOT NULL constraint failed: the primary key of {table} ({', '.join(shape.key)}) is NULL",
                        fix="Give the key a value: a row whose key is NULL cannot be addressed.",
                    )
                )
            if rows:
                told = tuple((rowid, *map(encode, key)) for rowid, key in rows)
                self.steps.append(RowidsStep(table=table, rows=told))

    def _declared(self, table: str) -> str:
        return str(
            self._db.execute("SELECT sql FROM main.sqlite_schema WHERE type = 'table' AND name = ?", (table,)).get
        )

    def _fill_again(self, table: str) -> None:
        """Insert the rows of a new table once more, for the session: `CREATE TABLE AS SELECT` is not seen by it."""
        name = f"main.{quoted(table)}"
        if not self._db.execute(f"SELECT EXISTS (SELECT 1 FROM {name})").get:
            return
        shape = self._tables.shape(table)
        columns = ", ".join(map(quoted, shape.stored))
        rowid = free_rowid(shape)
        self._unseen(f"CREATE TEMP TABLE {MOVED} AS SELECT {rowid} AS {MOVED}, {columns} FROM {name}")
        self._unseen(f"DELETE FROM {name}")
        self._db.execute(f"INSERT INTO {name} ({rowid}, {columns}) SELECT * FROM temp.{MOVED} ORDER BY 1")
        self.cut()
        self._unseen(f"DROP TABLE temp.{MOVED}")

    def _unseen(self, sql: str) -> None:
        self._stop()
        self._db.execute(sql)
        self._start()

    def _read_sequences(self) -> dict[str, list[Any]]:
        if not self._tables.counts:
            return {}
        counters: dict[str, list[Any]] = {}
        for name, value in self._db.execute("SELECT name, seq FROM main.sqlite_sequence ORDER BY rowid"):
            counters[str(name)] = [encode(value)]
        return counters

    def _read_settings(self) -> dict[str, int]:
        return {name: setting(self._db, name) for name in SETTINGS}


def _refuse_retyped(changeset: bytes) -> None:
    """Raise `Refusal` if a row with the key 1.0 became one with 1: the same key, but not for SQLite's sessions."""
    for change in apsw.Changeset.iter(changeset):
        if change.op == "UPDATE" and change.old is not None and change.new is not None:
            before, after = change.old, change.new
            if any(after[place] is not apsw.no_change for place in change.pk_columns):
                kinds = [(before[n], after[n]) for n in sorted(change.pk_columns) if after[n] is not apsw.no_change]
                told = ", ".join(f"{old!r} to {new!r}" for old, new in kinds)
                raise Refusal(
                    CONSTRAINT.problem(
                        f"a row of {change.name} changes the type of its key: {told}",
                        fix="Delete the row first, by a request of its own. Or declare the type of the key, so that it "
                        "keeps one kind of number: INTEGER, REAL or NUMERIC.",
                    )
                )
