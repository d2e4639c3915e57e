"""What a writer lease measures."""

from prometheus_client import Counter, Gauge

remaining_seconds = Gauge(
    "forge_writer_lease_remaining_seconds",
    "Seconds for which this node may write without renewing its lease; 0: it may not.",
)
epoch = Gauge("forge_writer_lease_epoch", "The epoch under which this node writes, or wrote last; 0: none yet.")
renewals = Counter("forge_writer_lease_renewals_total", "Attempts to renew the writer lease.", ["outcome"])
losses = Counter("forge_writer_lease_losses_total", "Writer leases that another node took.")
