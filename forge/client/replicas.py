"""The replicas of documents, as their node knows them."""

from collections.abc import AsyncIterator

from ulid import ULID

from forge.client.documents import path_of
from forge.client.transport import Transport
from schemas.replicas import ReplicasReply, ReplicaView

PAGE = 100


class Replicas:
    """`client.replicas`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def all(self, db_id: str | None = None) -> AsyncIterator[ReplicaView]:
        """Yield the replicas of a document, or of all: where each stands, its state and its lag."""
        path = "/api/v1/replicas" if db_id is None else path_of(db_id, "replicas")
        after = ""
        while True:
            answer = await self._transport.send("GET", path, params={"limit": PAGE, "after": after})
            page = self._transport.parse(ReplicasReply, answer)
            for replica in page.replicas:
                yield replica
            if page.next is None:
                return
            after = page.next

    async def evict(self, db_id: str, replica_id: str, reason: str = "") -> ReplicaView:
        """Keep the log no longer for a replica, until it has taken a new copy."""
        return await self._give_up(db_id, replica_id, "evict", reason)

    async def reseed(self, db_id: str, replica_id: str, reason: str = "") -> ReplicaView:
        """Have a replica take a new copy."""
        return await self._give_up(db_id, replica_id, "reseed", reason)

    async def _give_up(self, db_id: str, replica_id: str, what: str, reason: str) -> ReplicaView:
        path, headers = path_of(db_id, "replicas", replica_id, what), {"Idempotency-Key": str(ULID())}
        answer = await self._transport.send("POST", path, json={"reason": reason}, headers=headers)
        return self._transport.parse(ReplicaView, answer)
