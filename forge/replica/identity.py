"""Who a replica is: a name that stays with its file, and a copy that changes with each snapshot."""

import re
import secrets
import socket
from dataclasses import dataclass
from typing import Self

import apsw

NAME_TABLE = "_forge_cache_replica_name"  # left out of digests, as all tables of that prefix
HOST_LENGTH_MAX = 60


@dataclass(frozen=True, slots=True)
class Identity:
    """What a replica calls itself when it asks its node; `kind` says what it is, in a word."""

    replica_id: str
    copy_id: str
    kind: str = "file"

    @classmethod
    def new(cls, kind: str) -> Self:
        """Return the identity of a replica that never was."""
        host = re.sub(r"[^a-z0-9]+", "-", socket.gethostname().lower()).strip("-")[:HOST_LENGTH_MAX] or "replica"
        return cls(f"{host}-{secrets.token_hex(4)}", secrets.token_hex(8), kind)

    def with_new_copy(self) -> "Identity":
        """Return the same replica with another copy."""
        return Identity(self.replica_id, secrets.token_hex(8), self.kind)

    @property
    def asked(self) -> dict[str, str]:
        """What requests say of it."""
        return {"replica": self.replica_id, "copy": self.copy_id, "kind": self.kind}


def read_identity(db: apsw.Connection, kind: str) -> Identity | None:
    """Return whose a file is, None if it does not say."""
    if not db.table_exists("main", NAME_TABLE):
        return None
    row = db.execute(f"SELECT replica_id, copy_id FROM {NAME_TABLE}").fetchone()
    return Identity(str(row[0]), str(row[1]), kind) if row else None


def write_identity(db: apsw.Connection, identity: Identity) -> None:
    """Write down whose a file is, in place of what it says."""
    with db:
        db.execute(f"CREATE TABLE IF NOT EXISTS {NAME_TABLE} (replica_id TEXT NOT NULL, copy_id TEXT NOT NULL)")
        db.execute(f"DELETE FROM {NAME_TABLE}")
        db.execute(f"INSERT INTO {NAME_TABLE} VALUES (?, ?)", (identity.replica_id, identity.copy_id))
