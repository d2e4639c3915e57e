"""What an object store can do for a lease, found out by trying, and the mode that follows from it."""

from contextlib import suppress
from typing import NamedTuple

import structlog

from events.objects.errors import PreconditionFailed, StoreError, StoreRefused, Unsupported
from events.objects.port import ObjectStore
from schemas.writer_lease import Mode
from workers.lease.errors import LeaseModeImpossible

log = structlog.get_logger(__name__)


class Capabilities(NamedTuple):
    """Whether the store creates only what is not there, and replaces only the version that is named."""

    create_only: bool
    compare_and_swap: bool


def chosen_mode(configured: str, capabilities: Capabilities) -> Mode:
    """Return how to keep the lease; raise `LeaseModeImpossible` if `hard` is asked of a store that cannot."""
    if all(capabilities) and configured != "soft":
        return "hard"
    if configured == "hard":
        lacking = [name for name, can in zip(("If-None-Match", "If-Match"), capabilities, strict=True) if not can]
        raise LeaseModeImpossible(
            f"FORGE_LEASE_MODE is hard, but the object store ignores or refuses {' and '.join(lacking)}; "
            "use a store that takes conditional writes, or FORGE_LEASE_MODE=soft and never two nodes"
        )
    return "soft"


async def probe(store: ObjectStore, key: str) -> Capabilities:
    """Try on an object at `key`, which nobody else has, and remove it; raise `StoreError` if that does not tell."""
    try:
        tag = await store.put(key, b"1")
    except StoreRefused:
        raise  # there is nothing to remove, and nothing more to say
    except StoreError:
        with suppress(StoreError):
            await store.delete(key)  # it may be there all the same
        raise
    try:
        return Capabilities(await _creates_only(store, key), await _swaps(store, await _tag(store, key, tag)))
    finally:
        try:
            await store.delete(key)
        except StoreError as error:
            log.warning("probe object not removed", key=key, reason=str(error))


class _Version(NamedTuple):
    key: str
    tag: str


async def _tag(store: ObjectStore, key: str, tag: str) -> _Version:
    """Return the version that is there: a store that does not create only has replaced the first one."""
    with suppress(StoreError):
        tag = (await store.get(key)).tag
    return _Version(key, tag)


async def _creates_only(store: ObjectStore, key: str) -> bool:
    try:
        await store.create(key, b"2")
    except PreconditionFailed:
        return True
    except Unsupported:
        return False
    return False


async def _swaps(store: ObjectStore, version: _Version) -> bool:
    """Say whether the right version is replaced, and one that is not there any more is not."""
    try:
        await store.swap(version.key, b"3", version.tag)
    except (PreconditionFailed, Unsupported):
        return False
    try:
        await store.swap(version.key, b"4", version.tag)
    except PreconditionFailed:
        return True
    except Unsupported:
        return False
    return False
