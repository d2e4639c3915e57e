"""The leases of a document: asked for one by one. `held_lease` keeps one alive."""

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

from ulid import ULID

from forge.client.documents import path_of
from forge.client.errors import ForgeError
from forge.client.transport import Transport
from schemas.lease_bodies import WAIT_S_MAX, AcquireReply, LeaseReply, LeasesReply, LeaseView, ReleaseReply, RenewReply
from schemas.leases import TTL_S_DEFAULT
from schemas.problems import LEASE_HELD, UNPROCESSABLE

PAGE = 500


class Leases:
    """`client.db("jobs").leases`."""

    def __init__(self, transport: Transport, db_id: str) -> None:
        self.transport = transport
        self.db_id = db_id

    async def acquire(
        self, resource: str, owner: str, *, ttl_s: int = TTL_S_DEFAULT, wait_s: float | None = 0
    ) -> AcquireReply:
        """Lease `resource`, waiting up to `wait_s` seconds (None: for ever) while somebody holds it.

        `ForgeError` with status 409 if it stays so. A request whose answer was lost is repeated, for the same lease.
        """
        clock = self.transport.clock
        deadline = None if wait_s is None else clock() + wait_s
        at_once_s = min(WAIT_S_MAX, self.transport.timeout_s / 2)
        key = str(ULID())
        while True:
            left_s = at_once_s if deadline is None else max(0.0, min(at_once_s, deadline - clock()))
            body = {"resource": resource, "owner": owner, "ttl_seconds": ttl_s, "wait_seconds": left_s}
            try:
                return self.transport.parse(AcquireReply, await self._send("acquire", body, key))
            except ForgeError as error:
                if error.type == UNPROCESSABLE.uri:  # granted, but the node was started anew and cannot say it again
                    key = str(ULID())
                elif error.type != LEASE_HELD.uri or (deadline is not None and clock() >= deadline):
                    raise

    async def renew(self, resource: str, owner: str, token: str, *, ttl_s: int = TTL_S_DEFAULT) -> RenewReply:
        """Let a lease last `ttl_s` from now; `ForgeError` 404 if it is over, 409 if somebody else has it."""
        body = {"resource": resource, "owner": owner, "token": token, "ttl_seconds": ttl_s}
        return self.transport.parse(RenewReply, await self._send("renew", body))

    async def release(self, resource: str, owner: str, token: str) -> ReleaseReply:
        """Give a lease back; again is no mistake."""
        body = {"resource": resource, "owner": owner, "token": token}
        return self.transport.parse(ReleaseReply, await self._send("release", body))

    async def all(self, *, held: bool = False) -> AsyncIterator[LeaseView]:
        """Yield the newest lease of each resource; only those that somebody holds, if `held`."""
        params: dict[str, Any] = {"limit": PAGE, "held": str(held).lower()}
        while True:
            response = await self.transport.send("GET", path_of(self.db_id, "leases"), params=params)
            page = self.transport.parse(LeasesReply, response)
            for lease in page.leases:
                yield lease
            if page.next is None:
                return
            params["after"] = page.next

    async def show(self, resource: str, *, limit: int = PAGE) -> LeaseReply:
        """Return the newest lease of a resource, and up to `limit` of its leases, newest first."""
        path = path_of(self.db_id, "leases", quote(resource, safe="/"))
        return self.transport.parse(LeaseReply, await self.transport.send("GET", path, params={"limit": limit}))

    async def _send(self, verb: str, body: dict[str, Any], key: str | None = None) -> Any:
        headers = {"Idempotency-Key": key or str(ULID())}
        return await self.transport.send("POST", path_of(self.db_id, "leases", verb), json=body, headers=headers)
