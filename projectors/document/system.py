"""System tables of documents: each change of their shape is a migration, and becomes an event of the document.

The event carries the statements, so replaying it does not depend on the code of the day. The first command that needs
system tables makes them; the first that a document with system tables gets from a newer Forge brings them up to date.
Both in the record of that command.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import apsw

from projectors.document.replay import apply_steps, as_recorded, note_progress
from schemas.document import DdlStep, SystemMigrated
from schemas.problems import UNAVAILABLE, Refusal


@dataclass(frozen=True, slots=True)
class Migration:
    """What brings the system tables from the version before to the next: one statement each."""

    statements: tuple[str, ...]


def needs_migration(db: apsw.Connection, migrations: Sequence[Migration], *, wanted: bool) -> bool:
    """Say whether the document's system tables are to be brought to the last of `migrations`.

    A document that has none gets them once they are `wanted`, so that those which never use them stay small.
    Raise `Refusal` if a newer Forge has been here: its tables may mean something else.
    """
    version = _version(db)
    if version > len(migrations):
        why = f"a newer Forge has written this document: its system tables have version {version}"
        raise Refusal(UNAVAILABLE.problem(why, fix=f"Run a Forge that knows more than version {len(migrations)}."))
    return (wanted or version > 0) and version < len(migrations)


def migrate(db: apsw.Connection, migrations: Sequence[Migration]) -> SystemMigrated:
    """Bring the system tables to the newest version; return what that took."""
    missing = migrations[_version(db) :]
    steps = tuple(DdlStep(sql=sql) for migration in missing for sql in migration.statements)
    migrated = SystemMigrated(steps=steps, version=len(migrations))
    with as_recorded(db):
        apply_steps(db, steps)
    note_progress(db, migrated)
    return migrated


def _version(db: apsw.Connection) -> int:
    return int(str(db.execute("SELECT system_version FROM _forge_document").get))
