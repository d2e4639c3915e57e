"""The store's side of a daemon: whatever keeps it from storing, it tries again."""

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from events.archive import Archive
from events.log import Log
from events.objects.memory import MemoryStore
from forge.daemon.uploading import Uploading
from forge.lease_place import FILE, LeasePlace
from schemas.settings import Settings
from tests.lease_contenders import BEGIN, TERMS
from workers.lease.holder import Identity
from workers.lease.opening import lease_object
from workers.lease.stored import StoredLease


async def test_a_lease_that_the_disk_does_not_let_it_remember_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PR1, G30: a disk that was full for a moment does not end what stores, in silence and for good."""
    monkeypatch.setattr("forge.daemon.uploading.RETRY_S", 0.0)
    store, place = MemoryStore(), LeasePlace(tmp_path)
    (tmp_path / FILE).mkdir()  # neither read nor replaced
    opened = lease_object(store, "p", "memory", "auto", place, TERMS)
    lease = StoredLease(opened, Identity(place, "node", lambda: BEGIN), TERMS)
    again: list[bool] = []
    event_log = Log("nats://127.0.0.1:1", "http://127.0.0.1:1")
    uploading = Uploading(Settings(), lease, Archive(store, "p"), event_log, lambda: again.append(True))

    await uploading.run(AsyncExitStack())

    assert again == [True]
    assert FILE in uploading.trouble
    (tmp_path / FILE).rmdir()
    await uploading.run(AsyncExitStack())
    assert lease.epoch == 1
    await lease.release()
