"""What a standby says while nobody tells it who the writer is."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

from events.objects.errors import StoreRefused
from forge.lease_place import LeasePlace
from forge.standby_service import StandbyGuard
from projectors.tasks import end
from tests.waiting import until
from workers.lease.holder import Identity, Terms
from workers.lease.object import LeaseObject
from workers.lease.stored import StoredLease


async def test_a_standby_of_a_wrong_bucket_says_what_the_store_answers(tmp_path: Path) -> None:
    """Else `forge status` and `/readyz` would not tell a wrong setting from a start that takes a moment."""

    async def opened() -> LeaseObject:
        raise StoreRefused("NoSuchBucket")

    lease = StoredLease(opened, Identity(LeasePlace(tmp_path), "n", lambda: datetime.now(UTC)), Terms(45, 15, 5))
    acquiring = asyncio.create_task(lease.acquire())
    await until(lambda: bool(lease.trouble))

    assert StandbyGuard(lease).closed_because.endswith("who the writer is: NoSuchBucket")
    await end(acquiring)
