"""What can go wrong with a replica beside what goes wrong between a client and a node.

ReplicaError
├── FileRefused         the file is something else than a replica of this document, or not ours alone; it is untouched
├── Stale               the file may lack what is older than the caller allows
├── SnapshotRefused     the snapshot that came is not what the node says it sent
└── Diverged            file and node have no history in common, and taking a new copy does not help
"""

from typing import Literal

Reason = Literal[
    "in-use", "not-a-database", "not-a-replica", "other-document", "other-version", "ahead", "damaged", "out-of-date"
]


class ReplicaError(Exception):
    """A replica cannot go on. The message says why, `fix` what to do."""

    def __init__(self, why: str, fix: str) -> None:
        super().__init__(why)
        self.fix = fix


class FileRefused(ReplicaError):
    """The file at the replica's path is not one that may be changed. It was not."""

    def __init__(self, reason: Reason, why: str, fix: str = "give another file name") -> None:
        super().__init__(why, fix)
        self.reason = reason


class Stale(ReplicaError):
    """Nobody knows that the file has everything that is older than its reader allows."""


class SnapshotRefused(ReplicaError):
    """A snapshot is not whole, not of this document, or not what the node says of it. It is not used."""

    def __init__(
        self, why: str, fix: str = "try again; if it stays so, run `forge rebuild --verify` on the node"
    ) -> None:
        super().__init__(why, fix)


class Diverged(ReplicaError):
    """The node's history does not continue from its own snapshot."""
