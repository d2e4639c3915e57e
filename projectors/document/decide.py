"""How commands of a document are decided: statements run in the open transaction, and what they did is the fact."""

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import apsw
from blake3 import blake3
from pydantic_core import to_json

from projectors.document.capture import Capture
from projectors.document.leases import commands as leases
from projectors.document.messages import commands as messages
from projectors.document.past.cloning import decide_copy
from projectors.document.sql.bounds import SqlBounds
from projectors.document.sql.results import Results
from projectors.document.sql.sandbox import guard_of
from projectors.document.sql.statements import execute, naming
from projectors.document.sync.push import decide_push
from projectors.document.system import Migration, migrate, needs_migration
from projectors.document.webhooks import commands as webhooks
from projectors.domain import Decision
from schemas.document import (
    SQL_KEPT_CHARACTERS,
    CopyContent,
    DocumentCommand,
    PrepareSystem,
    PushChanges,
    Ran,
    RunSql,
    SqlExecuted,
    Statement,
)
from schemas.facts import Command
from schemas.leases import AcquireLease, ReleaseLease, RenewLease
from schemas.messages import PruneMessages, PublishMessages
from schemas.problems import NO_SYSTEM_TABLE, QUERY_TIMEOUT, UNPROCESSABLE, Refusal
from schemas.webhooks import ReceiveWebhook

DIGEST_BYTES = 16
DISK_FREE_BYTES_MIN = 64 << 20  # with less, what SQLite calls a full disk is taken for one


@dataclass(frozen=True, slots=True)
class Decider:
    """The rules of documents, with the node's bounds and the migrations of system tables. Calling it decides."""

    bounds: SqlBounds
    migrations: Sequence[Migration] = ()

    def __call__(self, db: apsw.Connection, command: Command, now: str, *, seconds: float | None = None) -> Decision:
        """Decide one command, leaving its effects in `db`; raise `Refusal` with nothing left behind.

        Statements may take `seconds`, if that is less than their bound.
        """
        # A clone has the system tables of its source; its first command of another kind brings them up to date.
        if isinstance(command, CopyContent):
            return decide_copy(db, command)
        assert isinstance(command, DocumentCommand)
        wanted = not isinstance(command, RunSql | PushChanges) or bool(command.fences)
        if not needs_migration(db, self.migrations, wanted=wanted):
            try:
                return self._decide(db, command, now, seconds)
            except Refusal as refusal:
                if refusal.problem.type != NO_SYSTEM_TABLE.uri or not needs_migration(db, self.migrations, wanted=True):
                    raise
        with _undone_together(db):
            migrated = migrate(db, self.migrations)
            facts, answer, *_ = self._decide(db, command, now, seconds)
        return Decision([migrated, *facts], answer, applied=True)

    def _decide(self, db: apsw.Connection, command: DocumentCommand, now: str, seconds: float | None) -> Decision:
        if command.fences:
            leases.require_fences(db, command.fences, now)
        match command:
            case RunSql():
                return self._run(db, command, self.bounds.narrowed(seconds))
            case PushChanges():
                return decide_push(db, command)
            case PrepareSystem():
                return Decision()
        return _decide_typed(db, command, now)

    def _run(self, db: apsw.Connection, command: RunSql, bounds: SqlBounds) -> Decision:
        guard = guard_of(db)
        bounds = bounds.narrowed(command.timeout_s, command.max_rows)
        results = Results(bounds)
        deadline = time.monotonic() + bounds.seconds
        with _refused(db), Capture(db) as capture:
            for number, statement in enumerate(command.statements):
                with naming(number, len(command.statements)), guard.running(command.classes, deadline):
                    results.add(execute(db, guard, statement, bounds, capture=capture))
            capture.finish()
        answer = results.answer()
        if all(result.kind == "read" for result in results.all):
            return Decision(answer=answer)
        executed = SqlExecuted(
            steps=tuple(capture.steps), tables=capture.tables, statements=tuple(_ran(command.statements))
        )
        # What had no effect may be a fact too: a retry must get this answer, whatever it would find then.
        return Decision([executed], answer, applied=True, void=not executed.steps)


def _decide_typed(db: apsw.Connection, command: DocumentCommand, now: str) -> Decision:
    """Decide what concerns the system tables."""
    match command:
        case PublishMessages():
            return messages.publish(db, command, now)
        case PruneMessages():
            return messages.prune(db, command, now)
        case ReceiveWebhook():
            return webhooks.receive(db, command, now)
        case AcquireLease():
            return leases.acquire(db, command, now)
        case RenewLease():
            return leases.renew(db, command, now)
        case ReleaseLease():
            return leases.release(db, command, now)
    raise TypeError(f"documents have no command {type(command).__name__}")


@contextmanager
def _undone_together(db: apsw.Connection) -> Iterator[None]:
    """Undo a migration with the command that it was for, unless the command made SQLite undo the whole transaction."""
    db.execute("SAVEPOINT migrated")
    try:
        yield
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK TO migrated")
            db.execute("RELEASE migrated")
        raise
    db.execute("RELEASE migrated")


@contextmanager
def _refused(db: apsw.Connection) -> Iterator[None]:
    """Refuse what cannot be told in JSON, and what SQLite calls a full disk that is not: its last rowid is taken.

    And what was interrupted behind a statement, while its effects were gathered.
    """
    try:
        yield
    except apsw.InterruptError as error:
        raise Refusal(QUERY_TIMEOUT.problem("its time was over")) from error
    except UnicodeDecodeError as error:
        why = "a text is not UTF-8, in the key of a row or in a table without a key"
        raise Refusal(UNPROCESSABLE.problem(why, fix="Store bytes that are not text as a BLOB.")) from error
    except apsw.FullError as error:
        free_bytes = shutil.disk_usage(Path(db.filename).parent).free
        if free_bytes < DISK_FREE_BYTES_MIN:
            raise
        why = f"{error}, but {free_bytes >> 20} MiB are free: it seems that a table has used its largest rowid"
        fix = "Insert with another rowid; a counter of AUTOINCREMENT can be set back in sqlite_sequence."
        raise Refusal(UNPROCESSABLE.problem(why, fix=fix)) from error


def _ran(statements: Sequence[Statement]) -> Iterator[Ran]:
    """Yield what ran: a row of the same statement is told once."""
    for sql, same in groupby(statements, key=lambda statement: statement.sql):
        runs = list(same)
        arguments: Any = [run.args for run in runs]
        digest = blake3(to_json(arguments)).hexdigest(DIGEST_BYTES) if any(arguments) else ""
        yield Ran(sql=sql[:SQL_KEPT_CHARACTERS], times=len(runs), arguments=digest)
