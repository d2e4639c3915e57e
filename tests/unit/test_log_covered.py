"""Which records generations vouch for, so that they may leave the log."""

from pathlib import Path

from events.archive import Archive
from events.objects.memory import MemoryStore
from forge.log_retention_service import covered_by
from projectors.vector.domain import PARTITION, vector_domain
from schemas.archive import EpochTable
from schemas.generation import CurrentGeneration, current_key

TIME = "2026-01-01T00:00:00.000000Z"
PREFIX = "p"


async def pointed(store: MemoryStore, projection: str, position: str, verified: str | None) -> None:
    """Let the pointer of a projection say where its newest generation stands, and the newest that was proved."""
    pointer = CurrentGeneration(
        projection=projection,
        position=position,
        manifest="0" * 64,
        size_bytes=1,
        verified=position == verified,
        verified_position=verified,
        time=TIME,
        moved_at=TIME,
        node="node-a",
    )
    await store.put(f"{PREFIX}/{current_key(projection)}", pointer.model_dump_json().encode())


async def test_a_record_is_covered_if_each_projection_has_it_in_a_proved_generation_of_this_history(
    tmp_path: Path,
) -> None:
    """K4.2: two projections fold the partition; the one that is less far says how far."""
    store = MemoryStore()
    archive = Archive(store, PREFIX)
    domain = vector_domain(tmp_path / "queue.db", tmp_path / "embeddings.db", pending_max=1, attempts_max=1)
    first, second = (spec.name for spec in domain.projections(PARTITION.key))

    assert await covered_by(archive, domain, PARTITION) == 0
    await pointed(store, first, "1.90", "1.90")
    assert await covered_by(archive, domain, PARTITION) == 0
    await pointed(store, second, "1.80", None)
    assert await covered_by(archive, domain, PARTITION) == 0
    await pointed(store, second, "1.80", "1.40")
    assert await covered_by(archive, domain, PARTITION) == 40
    await store.put(f"{PREFIX}/{current_key(second)}", b"not a pointer")
    assert await covered_by(archive, domain, PARTITION) == 0
    await pointed(store, second, "1.95", "1.95")
    assert await covered_by(archive, domain, PARTITION) == 90
    await archive.epochs.begin(EpochTable(epoch=2, ends={PARTITION.token: ((1, 92),)}))
    assert await covered_by(archive, domain, PARTITION) == 0
    await pointed(store, second, "2.93", "2.93")
    assert await covered_by(archive, domain, PARTITION) == 90
    assert await covered_by(archive, None, PARTITION) == 0
