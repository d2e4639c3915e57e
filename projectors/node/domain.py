"""The node domain as the commit loop takes it: a partition for each node, with two projections."""

from collections.abc import Sequence
from pathlib import Path

import apsw

from projectors.domain import Domain, ProjectionSpec
from projectors.node.commands import decide
from projectors.node.fold import FOLD_VERSION, apply_to_refs, apply_to_snapshot
from projectors.projection import schema_sql, schema_version
from schemas.ids import PartitionId, escape
from schemas.node import COMMANDS, FACTS

DOMAIN = "node"
SNAPSHOT, REFS = "snapshot", "refs"
PROJECTIONS = (SNAPSHOT, REFS)
"""What the names of the projections of a node begin with."""


def node_domain(node_id: str, snapshot_db: Path, refs_db: Path, others: Path) -> Domain:
    """Return the domain; what other nodes remember, which a shared log may hold too, goes into folders in `others`."""

    def specs(key: str) -> Sequence[ProjectionSpec]:
        if key == node_id:
            return _specs(key, snapshot_db, refs_db)
        folder = others / escape(key)
        return _specs(key, folder / "snapshot.db", folder / "refs.db")

    return Domain(DOMAIN, FACTS, COMMANDS, specs, decide)


def node_partition(node_id: str) -> PartitionId:
    """Return the history of one node."""
    return PartitionId(DOMAIN, node_id)


def _specs(key: str, snapshot_db: Path, refs_db: Path) -> Sequence[ProjectionSpec]:
    """Snapshots are decided against; refs are committed before them, so that what a snapshot names is kept."""
    snapshot, refs = schema_sql("snapshot"), schema_sql("refs")
    return (
        ProjectionSpec(
            f"{SNAPSHOT}/{key}",
            snapshot_db,
            snapshot,
            apply_to_snapshot,
            schema_version(snapshot, FOLD_VERSION),
            _enforce_foreign_keys,
        ),
        ProjectionSpec(f"{REFS}/{key}", refs_db, refs, apply_to_refs, schema_version(refs, FOLD_VERSION)),
    )


def _enforce_foreign_keys(db: apsw.Connection) -> None:
    db.execute("PRAGMA foreign_keys=ON")
    assert db.execute("PRAGMA foreign_keys").get, "this SQLite was built without foreign keys"
