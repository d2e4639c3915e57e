"""What a node says about its writer lease."""

from typing import Any

from api.system import Check
from workers.lease import metrics
from workers.lease.lease import WriterLease


class LeaseReport:
    """Of `lease`, or of a node that needs none."""

    def __init__(self, lease: WriterLease | None) -> None:
        self._lease = lease

    def checks(self) -> list[Check]:
        """Return whether this node may write; nothing if it needs no lease for that."""
        if self._lease is None:
            return []
        why = self._lease.guard.closed_because
        value = f"epoch {self._lease.epoch}" if why is None else why
        if self._lease.trouble:
            value += f"; {self._lease.trouble}"
        return [Check("writer", why is None, value, "holds the writer lease", "see docs/runbooks/while-it-runs.md")]

    def status(self) -> dict[str, Any] | None:
        """Return it as `GET /status` shows it; null without a lease."""
        lease = self._lease
        if lease is None:
            return None
        holder = lease.holder
        return {
            "writes": lease.guard.closed_because is None,
            "why_not": lease.guard.closed_because,
            "epoch": lease.epoch,
            "remaining_s": None if holder is None else round(lease.guard.remaining_s, 1),
            "holder": None if holder is None else holder.owner_id,
            "holder_node": None if holder is None else holder.node,
            "mode": "off" if holder is None else holder.mode,
            "trouble": lease.trouble,
        }

    def refresh_metrics(self) -> None:
        """Set the gauge of the time that is left."""
        if self._lease is not None and self._lease.holder is not None:
            metrics.remaining_seconds.set(self._lease.guard.remaining_s)
