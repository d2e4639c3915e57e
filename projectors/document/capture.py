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
from projectors.document.tables import OURS, Tables, free_rowid, rowid_select
from schemas.document import ChangesetStep, DdlStep, RowidsStep, StateStep, Step
from schemas.problems import CONSTRAINT, Refusal
from schemas.values import encode

MOVED = "_forge_moved"


class Capture:
    """What happens to `db` between entering and leaving, inside of a transaction; an error undoes it.

    Tell it about each statement that changes the schema, before and after.
    """

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db
        self._tables = Tables.of(db)
        self._session: apsw.Session | None = None
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
        self.cut()
        if self._db.status(apsw.SQLITE_DBSTATUS_DEFERRED_FKS)[0]:
            raise Refusal(CONSTRAINT.problem("FOREIGN KEY constraint failed: a row refers to one that is not there"))
        sequences = self._read_sequences()
        counters = {
            name: tuple(sequences.get(name, ()))
            for name in sorted(self._sequences.keys() | sequences.keys())
            if self._sequences.get(name) != sequences.get(name)
        }
        settings = {name: value for name, value in self._read_settings().items() if value != self._settings[name]}
        if counters or settings:
            self.steps.append(StateStep(sequences=counters or None, **settings))

    def cut(self) -> None:
        """End the changeset that is being recorded, and begin another."""
        session = self._session
        assert session is not None
        if self._tables.virtual:  # FTS5 keeps what it has to write until a savepoint
            self._db.execute("SAVEPOINT written")
            self._db.execute("RELEASE written")
        changeset = session.changeset() if self._touched else b""
        self._stop()
        if changeset:
            self.steps.append(ChangesetStep(data=changeset))
        if self._moved:
            self._note_rowids()
        for name in self._touched:
            self.tables.setdefault(name, self._tables.shape(name).columns)
        self._touched, self._moved = {}, set()
        self._start()

    def before_ddl(self, named: Sequence[tuple[str, str]]) -> None:
        """Be told that a statement changes the schema, before its first step; `named` are its (action, object)."""
        self.cut()
        assert self._session is not None
        gone = {name.lower() for _, name in named}
        drops = any(action == "DROP_TABLE" for action, _ in named)
        # Dropping a table may change rows of others, by foreign keys. All else is repeated by the statement itself.
        self._session.table_filter(lambda name: drops and name.lower() not in gone and self._note(name))

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
        self._session = apsw.Session(self._db, "main")
        self._session.config(apsw.SQLITE_SESSION_OBJCONFIG_ROWID, True)
        self._session.table_filter(self._note)
        self._session.attach()
        if self._tables.floating:
            self._db.set_update_hook(self._note_row)

    def _stop(self) -> None:
        self._db.set_update_hook(None)
        if self._session is not None:
            self._session.close()
            self._session = None

    def _note(self, table: str) -> bool:
        if table.startswith(OURS):
            return False
        self._touched[table] = None
        return True

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
        columns = ", ".join(map(quoted, shape.columns[1:]))
        rowid = free_rowid(shape)
        self._unseen(f"CREATE TEMP TABLE {MOVED} AS SELECT {rowid} AS {MOVED}, {columns} FROM {name}")
        self._unseen(f"DELETE FROM {name}")
        self._db.execute(f"INSERT INTO {name} ({rowid}, {columns}) SELECT * FROM temp.{MOVED} ORDER BY 1")
        self._unseen(f"DROP TABLE temp.{MOVED}")
        self.cut()

    def _unseen(self, sql: str) -> None:
        assert self._session is not None
        self._session.enabled = False
        self._db.execute(sql)
        self._session.enabled = True

    def _read_sequences(self) -> dict[str, list[Any]]:
        if not self._tables.counts:
            return {}
        counters: dict[str, list[Any]] = {}
        for name, value in self._db.execute("SELECT name, seq FROM main.sqlite_sequence ORDER BY rowid"):
            counters[str(name)] = [encode(value)]
        return counters

    def _read_settings(self) -> dict[str, int]:
        return {name: setting(self._db, name) for name in SETTINGS}
