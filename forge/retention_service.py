"""The removal of messages that documents do not keep, wired to the commit loops of a node."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from projectors.control import queries
from projectors.document.domain import document_partition
from projectors.partitions import Partitions
from projectors.readers import Readers
from projectors.tasks import end
from schemas.messages import PruneMessages
from workers.retention import PRINCIPAL, Pruning, RetentionWorker

TIMEOUT_S = 60.0


@asynccontextmanager
async def retention(partitions: Partitions, control: Readers) -> AsyncIterator[None]:
    """Remove messages as the policies in `control.db` say."""

    async def prune(db_id: str, command: PruneMessages) -> Mapping[str, Any]:
        partition = document_partition(db_id)
        answer = await partitions.submit(partition, command, principal=PRINCIPAL, timeout_s=TIMEOUT_S)
        value: Mapping[str, Any] = answer.value
        return value

    worker = RetentionWorker(Pruning(prune), lambda: control.read(queries.retentions))
    partitions.listen(worker.heard)
    task = asyncio.create_task(worker.run(), name="remove messages")
    try:
        yield
    finally:
        await end(task)
