"""The writer lease that the settings ask for: in the store, in the mode that it can do, or none."""

from collections.abc import Awaitable, Callable

import structlog
from ulid import ULID

from events.objects.errors import StoreRefused
from events.objects.port import ObjectStore
from schemas.writer_lease import Mode, lease_key
from workers.lease.capabilities import chosen_mode, probe
from workers.lease.errors import LeaseRefused
from workers.lease.holder import Place, Terms
from workers.lease.object import LeaseObject

CALL_TIMEOUT_S = 5.0
SETTLE_S = 2.0

log = structlog.get_logger(__name__)


def lease_object(
    store: ObjectStore, prefix: str, name: str, configured: str, place: Place, terms: Terms
) -> Callable[[], Awaitable[LeaseObject]]:
    """Return how to open the lease object below `prefix` of `store`, which is called `name`.

    What the store can do is tried once, and remembered at the place.
    """
    timeout_s = min(CALL_TIMEOUT_S, (terms.duration_s - terms.margin_s - terms.renew_s) / 2)
    probed = f"{prefix}/leases/probe-{ULID()}"  # the same each time: so is what is said while the store is away

    async def opened() -> LeaseObject:
        mode = await _mode(store, probed, name, configured, place)
        return LeaseObject(store, f"{prefix}/{lease_key()}", mode, timeout_s=timeout_s, settle_s=SETTLE_S)

    return opened


async def _mode(store: ObjectStore, probed: str, name: str, configured: str, place: Place) -> Mode:
    if configured == "soft":
        return "soft"
    saved = await place.load()
    if saved.store == name and saved.mode == "hard":
        return "hard"
    try:
        mode = chosen_mode(configured, await probe(store, probed))
    except StoreRefused as error:
        if saved.store == name:
            raise
        raise LeaseRefused(f"{name} does not let this node keep its writer lease: {error}") from error
    if mode == "soft":
        log.warning(
            "the object store has no conditional writes: the writer lease does not protect from two nodes that "
            "begin at the same moment",
            store=name,
        )
    await place.save(saved.model_copy(update={"store": name, "mode": mode}))
    return mode
