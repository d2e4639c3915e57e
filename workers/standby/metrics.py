"""What is measured of a standby."""

from prometheus_client import Counter, Gauge

records = Counter("forge_standby_records_total", "Records of another node's archive appended to the log here.")
behind_seconds = Gauge("forge_standby_behind_seconds", "Since when something may be archived that is not here.")
