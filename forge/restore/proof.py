"""The proof of a generation that is to be the beginning of a history: it is what the records before it say."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from events.archive import Archive
from events.cursor import Cursor
from forge.restore.fresh import Wanted, fold_at
from forge.restore.scratch import scratch_folder
from projectors.domain import Domain, ProjectionSpec
from projectors.generations.errors import GenerationDamaged
from projectors.generations.fetching import fetch
from projectors.rebuild import digest_of
from projectors.threads import Threads
from schemas.generation import Manifest
from schemas.ids import PartitionId
from workers.generations.copies import check_space


@dataclass(frozen=True, slots=True)
class Prover:
    """What proofs need; files are made below `scratch`, one folder for each proof, gone afterwards."""

    archive: Archive
    threads: Threads
    scratch: Path

    async def prove(self, domain: Domain, partition: PartitionId, spec: ProjectionSpec, found: Manifest) -> None:
        """Restore a generation, and fold the archived records up to it, on the oldest one if there is no beginning.

        Raise `GenerationDamaged` unless both have one digest, `NotNow` without room for both, and what `fetch` and
        `fold_at` raise.
        """
        await asyncio.to_thread(check_space, self.scratch, 2 * found.size_bytes)
        async with scratch_folder(self.scratch) as folder:
            restored, folded = folder / "restored.db", folder / "folded.db"
            await fetch(self.archive, found, restored)
            wanted = Wanted(partition, domain, [spec], Cursor(found.at, found.hash, found.sequence))
            await fold_at(self.archive, self.threads, wanted, [folded], from_generation=False)
            digests = [await self.threads.run(digest_of, path) for path in (restored, folded)]
        if digests[0] != digests[1]:
            raise GenerationDamaged(
                f"{found.key} has the digest {digests[0]}, but the records before it say {digests[1]}"
            )
