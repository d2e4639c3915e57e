"""Pushing changes of one document file into another, for tests."""

from contextlib import closing

import apsw

from projectors.document.sync.push import decide_push
from schemas.document import ChangesPushed, Policy, PushChanges
from schemas.problems import Refusal

KEY_VALUE = "CREATE TABLE kv (k INTEGER PRIMARY KEY, v)"


def recording(db: apsw.Connection) -> apsw.Session:
    session = apsw.Session(db, "main")
    session.config(apsw.SQLITE_SESSION_OBJCONFIG_ROWID, True)
    session.table_filter(lambda name: not name.startswith("_forge"))
    session.attach()
    return session


def changes(db: apsw.Connection, *statements: str) -> bytes:
    """Return what statements do, as a copy of the document would record it."""
    with closing(recording(db)) as session:
        for sql in statements:
            db.execute(sql)
        return session.changeset()


def copied(db: apsw.Connection) -> apsw.Connection:
    copy = apsw.Connection(":memory:")
    with copy.backup("main", db, "main") as backup:
        backup.step()
    copy.execute("PRAGMA foreign_keys = ON")
    return copy


def push(db: apsw.Connection, changeset: bytes, policy: Policy = "fail", base: str = "1.0") -> ChangesPushed:
    with db:
        decision = decide_push(db, PushChanges(base=base, changeset=changeset, policy=policy))
    (fact,) = decision.facts
    assert isinstance(fact, ChangesPushed)
    return fact


def attempt(db: apsw.Connection, changeset: bytes, policy: Policy) -> ChangesPushed | Refusal:
    try:
        return push(db, changeset, policy)
    except Refusal as refusal:
        return refusal
