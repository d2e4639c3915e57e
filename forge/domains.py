"""The domains of a node, and which of their partitions have files here."""

from collections.abc import Iterator, Sequence

from projectors.control.domain import PARTITION as CONTROL
from projectors.control.domain import control_domain
from projectors.document.domain import DOMAIN as DOCUMENTS
from projectors.document.domain import document_domain, document_partition
from projectors.document.sql.bounds import SqlBounds
from projectors.domain import Domain, ProjectionSpec
from projectors.node.domain import PROJECTIONS as OWN_PROJECTIONS
from projectors.node.domain import node_domain, node_partition
from projectors.vector.domain import PARTITION as VECTOR
from projectors.vector.domain import vector_domain
from schemas.ids import InvalidId, PartitionId, parse_db_id, unescape
from schemas.settings import Settings

STANDING = (CONTROL, VECTOR)
"""Partitions that every node has, and whose readiness is its own."""


def domains(settings: Settings) -> dict[str, Domain]:
    """Return every domain that a node with these settings can open, by name."""
    vector = vector_domain(
        settings.vector_queue_db,
        settings.vector_embed_db,
        pending_max=settings.vector_max_pending_jobs,
        attempts_max=settings.vector_max_job_attempts,
    )
    found = (
        vector,
        control_domain(settings.control_db),
        document_domain(settings.docs_dir, sql_bounds(settings)),
        own_domain(settings),
    )
    return {domain.name: domain for domain in found}


def own_domain(settings: Settings) -> Domain:
    """Return the domain of what a node remembers of its own files."""
    return node_domain(settings.node_id, settings.snapshot_db, settings.refs_db, settings.data_dir / "nodes")


def standing(settings: Settings) -> tuple[PartitionId, ...]:
    """Return the partitions that are open from the start: those of every node, and its own once it has been used."""
    own = (node_partition(settings.node_id),) if settings.snapshot_db.exists() else ()
    return (*STANDING, *own)


def sql_bounds(settings: Settings) -> SqlBounds:
    """Return what one statement of a user may cost."""
    return SqlBounds(
        seconds=settings.sql_timeout_s, rows=settings.sql_rows_max, result_bytes=settings.sql_result_bytes_max
    )


def partitions_here(settings: Settings) -> Iterator[PartitionId]:
    """Yield the standing partitions, and those of the documents that have a file here, by name."""
    yield from standing(settings)
    for path in sorted(settings.docs_dir.glob("*.db")):
        try:
            yield document_partition(unescape(path.stem))
        except InvalidId:
            continue  # somebody else's file


def _partitions_with(name: str) -> Sequence[PartitionId]:
    """Return the partitions that a projection of this name may be of; raise `InvalidId`."""
    domain, _, key = name.partition("/")
    if domain == DOCUMENTS and key:
        return [document_partition(parse_db_id(key))]
    return [node_partition(key)] if domain in OWN_PROJECTIONS and key else STANDING


def projection_named(settings: Settings, name: str) -> tuple[Domain, PartitionId, ProjectionSpec] | None:
    """Return the projection of this name, `vector/queue` or `doc/notes`, whether or not there is a file of it.

    Raise `InvalidId` for what cannot be a document.
    """
    known = domains(settings)
    for partition in _partitions_with(name):
        for spec in known[partition.domain].projections(partition.key):
            if spec.name == name:
                return known[partition.domain], partition, spec
    return None
