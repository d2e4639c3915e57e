"""Pruning of an archive at a moment that a test chooses."""

from collections.abc import Sequence
from pathlib import Path

from events.archive import Archive
from forge.restore.proof import Prover
from projectors.domain import Domain, ProjectionSpec
from projectors.threads import Threads
from schemas.generation import Manifest
from schemas.ids import PartitionId
from schemas.instants import later
from workers.generations.gate import Gate
from workers.generations.pruning import History, Pruner
from workers.generations.window import DAY_S
from workers.log_retention.rule import Follower


async def pruned(
    archive: Archive,
    domain: Domain,
    partition: PartitionId,
    scratch: Path,
    since: str,
    *,
    followers: Sequence[Follower] = (),
) -> int:
    """Keep what can be read from the moment `since` on, a day before it is looked; return how many segments went."""
    specs = domain.projections(partition.key)

    def histories(projection: str) -> History | None:
        return (partition, specs) if projection == specs[0].name else None

    with Threads(1) as threads:
        prover = Prover(archive, threads, scratch)

        async def prove(partition: PartitionId, spec: ProjectionSpec, found: Manifest) -> None:
            await prover.prove(domain, partition, spec, found)

        pruner = Pruner(archive, Gate(), histories, prove, lambda _: followers, days=1)
        return await pruner.look(later(since, DAY_S))
