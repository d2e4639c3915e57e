"""How leases are granted, renewed and given back, and whether a fence holds: all by the clock of the commit loop."""

from collections.abc import Sequence
from hmac import compare_digest
from math import ceil
from typing import NamedTuple

import apsw

from projectors.document.writing import write
from projectors.domain import Decision
from schemas.fences import Fence
from schemas.instants import later, parse_instant
from schemas.leases import (
    AcquireLease,
    LeaseAcquired,
    LeaseReleased,
    LeaseRenewed,
    ReleaseLease,
    RenewLease,
)
from schemas.problems import LEASE_HELD, LEASE_NOT_HELD, LEASE_TOKEN, STALE_FENCE, Refusal


class Held(Refusal):
    """Somebody else holds the lease, for `left_s` seconds more if it is neither renewed nor released."""

    def __init__(self, why: str, left_s: float) -> None:
        super().__init__(LEASE_HELD.problem(why, retry_after_s=max(1, ceil(left_s))))
        self.left_s = left_s


class _Newest(NamedTuple):
    """The newest lease of a resource."""

    owner: str
    token_hash: str
    fence: int
    expires_at: str


def acquire(db: apsw.Connection, command: AcquireLease, now: str) -> Decision:
    """Grant the lease with the next number, unless somebody holds it (409)."""
    newest = _newest(db, command.resource)
    if newest is not None and now < newest.expires_at:
        left_s = (parse_instant(newest.expires_at) - parse_instant(now)).total_seconds()
        why = f"{command.resource} is leased to {newest.owner} until {newest.expires_at}, with fence {newest.fence}"
        raise Held(why, left_s)
    if command.behind:
        raise Held(f"{command.resource} is free, but {command.behind} who came before wait for it", 0.0)
    acquired = LeaseAcquired(
        resource=command.resource,
        fence=newest.fence + 1 if newest else 1,
        at=now,
        owner=command.owner,
        principal=command.by,
        token_hash=command.token_hash,
        expires_at=later(now, command.ttl_seconds),
    )
    answer = _answer(command.resource, acquired.owner, acquired.fence, acquired.expires_at)
    return Decision([write(db, acquired)], answer, applied=True)


def renew(db: apsw.Connection, command: RenewLease, now: str) -> Decision:
    """Let a lease that is held last longer."""
    newest = _held_by(db, command)
    if now >= newest.expires_at:
        why = f"the lease of {command.resource} with fence {newest.fence} ended at {newest.expires_at}"
        raise Refusal(LEASE_NOT_HELD.problem(why))
    until = later(now, command.ttl_seconds)
    renewed = LeaseRenewed(resource=command.resource, fence=newest.fence, at=now, expires_at=until)
    return Decision([write(db, renewed)], _answer(command.resource, newest.owner, newest.fence, until), applied=True)


def release(db: apsw.Connection, command: ReleaseLease, now: str) -> Decision:
    """End a lease. One that has ended already, by itself or so, stays ended."""
    newest = _held_by(db, command)
    answer = {"resource": command.resource, "owner": newest.owner, "released": True}
    if now >= newest.expires_at:
        return Decision(answer=answer)
    released = LeaseReleased(resource=command.resource, fence=newest.fence, at=now)
    return Decision([write(db, released)], answer, applied=True)


def require_fences(db: apsw.Connection, fences: Sequence[Fence], now: str) -> None:
    """Refuse (412) unless each of these leases is the newest of its resource and is held now."""
    for fence in fences:
        newest = _newest(db, fence.resource)
        if newest is None:
            why = f"{fence.resource} was never leased"
        elif newest.fence != fence.fence:
            why = f"the newest lease of {fence.resource} has fence {newest.fence}, not {fence.fence}"
        elif now >= newest.expires_at:
            why = f"the lease of {fence.resource} with fence {fence.fence} ended at {newest.expires_at}"
        else:
            continue
        raise Refusal(STALE_FENCE.problem(why, field="If-Fence"))


def _held_by(db: apsw.Connection, command: RenewLease | ReleaseLease) -> _Newest:
    """Return the newest lease of the resource, which `command` proves to be its own."""
    newest = _newest(db, command.resource)
    if newest is None:
        raise Refusal(LEASE_NOT_HELD.problem(f"{command.resource} was never leased"))
    if newest.owner != command.owner:
        why = f"the newest lease of {command.resource} is that of {newest.owner}, with fence {newest.fence}"
        raise Refusal(LEASE_HELD.problem(why, fix="Send the owner as it was acquired; if it is not yours, stop."))
    if not compare_digest(newest.token_hash, command.token_hash):
        why = f"the token is not that of the lease of {command.resource} with fence {newest.fence}"
        raise Refusal(LEASE_TOKEN.problem(why, field="token"))
    return newest


def _newest(db: apsw.Connection, resource: str) -> _Newest | None:
    query = "SELECT owner, token_hash, fence, expires_at FROM main.fencing_tokens WHERE resource = ?"
    row = db.execute(query, (resource,)).fetchone()
    return None if row is None else _Newest(str(row[0]), str(row[1]), int(str(row[2])), str(row[3]))


def _answer(resource: str, owner: str, fence: int, expires_at: str) -> dict[str, object]:
    return {"resource": resource, "owner": owner, "fence": fence, "expires_at": expires_at}
