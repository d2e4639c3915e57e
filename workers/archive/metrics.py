"""What the archiver measures."""

from prometheus_client import Counter, Gauge

segments = Counter("forge_archive_segments_total", "Segments stored.")
stored_bytes = Counter("forge_archive_bytes_total", "Bytes stored, by what they are.", ["kind"])
failures = Counter("forge_archive_failures_total", "Attempts to archive a partition that have to be repeated.")
payloads_missing = Counter("forge_archive_payloads_missing_total", "Payloads that were not here, or damaged, when due.")
lag_records = Gauge("forge_archive_lag_records", "Records of a stream that are not archived.", ["stream"])
lag_bytes = Gauge("forge_archive_lag_bytes", "Bytes of a stream that are not archived.", ["stream"])
lag_seconds = Gauge("forge_archive_lag_seconds", "Age of the oldest record that is not archived.", ["stream"])
stopped = Gauge("forge_archive_partitions_stopped", "Partitions that are not archived any more: see the log.")
