"""The vector domain as the commit loop takes it: one log, two projections."""

from pathlib import Path

from projectors.domain import Domain, ProjectionSpec
from projectors.projection import schema_sql, schema_version
from projectors.vector.commands import Decider
from projectors.vector.fold import FOLD_VERSION, apply_to_embeddings, apply_to_queue
from schemas.ids import PartitionId
from schemas.vector import COMMANDS, DEFAULT_SHARD, FACTS

PARTITION = PartitionId("vector", DEFAULT_SHARD)


def vector_domain(queue_db: Path, embeddings_db: Path, *, pending_max: int, attempts_max: int) -> Domain:
    """Return the domain. The queue is decided against; embeddings are committed before it, so before `done`."""
    queue, embeddings = schema_sql("queue"), schema_sql("embeddings")
    specs = (
        ProjectionSpec("vector/queue", queue_db, queue, apply_to_queue, schema_version(queue, FOLD_VERSION)),
        ProjectionSpec(
            "vector/embeddings",
            embeddings_db,
            embeddings,
            apply_to_embeddings,
            schema_version(embeddings, FOLD_VERSION),
        ),
    )
    return Domain("vector", FACTS, COMMANDS, lambda _: specs, Decider(pending_max, attempts_max))
