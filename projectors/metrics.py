"""What the commit loops measure."""

from prometheus_client import Gauge, Histogram

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)

append_seconds = Histogram(
    "forge_append_seconds", "From publishing a record to its fsynced answer.", ["domain"], buckets=_SECONDS
)
apply_seconds = Histogram(
    "forge_apply_seconds", "Deciding the commands of one record and folding its events.", ["domain"], buckets=_SECONDS
)
batch_commands = Histogram(
    "forge_batch_commands", "Commands in one record.", ["domain"], buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
)
partitions_open = Gauge("forge_partitions_open", "Partitions with a running commit loop.", ["domain"])
