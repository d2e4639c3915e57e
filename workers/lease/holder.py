"""Who we are when we hold a lease: what its record says of us, and what our data directory remembers of it."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from schemas.writer_lease import WRITER, LeaseRecord, Mode, SavedLease


class Place(Protocol):
    """Where a node lives: a data directory on a machine, which is ours alone while we run."""

    @property
    def name(self) -> str:
        """Machine and data directory."""

    @property
    def host(self) -> str:
        """The machine."""

    async def load(self) -> SavedLease:
        """Return what was saved here last."""

    async def save(self, saved: SavedLease) -> None:
        """Replace it, durably."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How long a lease lasts, when it is renewed, and how long before its end its holder stops, in seconds."""

    duration_s: float
    renew_s: float
    margin_s: float


@dataclass(frozen=True, slots=True)
class Identity:
    """What the records of a process say of it. `wall` is the machine's clock, which is shown and never relied on."""

    place: Place
    node: str
    wall: Callable[[], datetime]

    def record(self, lease_id: str, mode: Mode, epoch: int, duration_s: float, renewals: int) -> LeaseRecord:
        """Return a record that lasts `duration_s` from now."""
        now = self.wall()
        return LeaseRecord(
            resource=WRITER,
            mode=mode,
            owner_id=f"{self.place.host}:{os.getpid()}",
            lease_id=lease_id,
            issued_at_utc=now,
            expires_at_utc=now + timedelta(seconds=duration_s),
            epoch=epoch,
            node=self.node,
            place=self.place.name,
            renewals=renewals,
        )
