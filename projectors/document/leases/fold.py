"""The fold of leases: the newest of each resource in `fencing_tokens`, all of them in `leases`."""

from projectors.document.rows import Rows
from schemas.leases import HISTORY_MAX, LeaseAcquired, LeaseReleased, LeaseRenewed

_NEWEST = ("resource", "owner", "token_hash", "fence", "expires_at", "updated_at")
_EVERY = ("resource", "fence", "owner", "principal", "acquired_at", "expires_at")
_KEY = ("resource", "fence")


def acquired(fact: LeaseAcquired) -> list[Rows]:
    """Return what acquiring does."""
    newest = (fact.resource, fact.owner, fact.token_hash, fact.fence, fact.expires_at, fact.at)
    every = (fact.resource, fact.fence, fact.owner, fact.principal, fact.at, fact.expires_at)
    rows = [
        Rows("put", "fencing_tokens", _NEWEST, [newest]),
        Rows("insert", "leases", _EVERY, [every], keys=2),
    ]
    if fact.fence > HISTORY_MAX:
        rows.append(Rows("delete", "leases", _KEY, [(fact.resource, fact.fence - HISTORY_MAX)], keys=2))
    return rows


def renewed(fact: LeaseRenewed) -> list[Rows]:
    """Return what renewing does."""
    return _until(fact.resource, fact.fence, fact.at, ("expires_at",), (fact.expires_at,))


def released(fact: LeaseReleased) -> list[Rows]:
    """Return what releasing does: it is over from that moment on."""
    return _until(fact.resource, fact.fence, fact.at, ("expires_at", "released_at"), (fact.at, fact.at))


def _until(resource: str, fence: int, at: str, columns: tuple[str, ...], values: tuple[str, ...]) -> list[Rows]:
    return [
        Rows("update", "fencing_tokens", ("resource", "expires_at", "updated_at"), [(resource, values[0], at)]),
        Rows("update", "leases", (*_KEY, *columns), [(resource, fence, *values)], keys=2),
    ]
