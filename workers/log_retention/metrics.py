"""What the log's retention measures."""

from prometheus_client import Counter, Gauge

used_bytes = Gauge("forge_log_used_bytes", "Bytes that the streams of the log take on the server.")
purged_records = Counter("forge_log_purged_records_total", "Records that left the server's log; the archive has them.")
evictions = Counter("forge_log_evictions_total", "Stalled replicas that were evicted for the disk.")
failures = Counter("forge_log_retention_failures_total", "Looks at a partition that failed and are repeated later.")
held_partitions = Gauge("forge_log_held_partitions", "Partitions of which records stay because of this.", ["by"])
