"""What is measured of a standby."""

from prometheus_client import Counter, Gauge

records = Counter("forge_standby_records_total", "Records of another node's archive appended to the log here.")
damaged_marks = Counter(
    "forge_standby_damaged_marks_total",
    "Marks of the archive that could not be read: all of a stream was looked through.",
)
behind_seconds = Gauge("forge_standby_behind_seconds", "Since when something may be archived that is not here.")
