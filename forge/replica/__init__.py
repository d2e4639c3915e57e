"""Replicas: plain SQLite files on any machine that follow a document of a node over HTTP."""

from forge.replica.errors import Diverged, FileRefused, ReplicaError, SnapshotRefused, Stale
from forge.replica.replica import Replica
from forge.replica.status import State, Status

__all__ = ["Diverged", "FileRefused", "Replica", "ReplicaError", "SnapshotRefused", "Stale", "State", "Status"]
