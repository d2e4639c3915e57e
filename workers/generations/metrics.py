"""What the maker of generations measures."""

from prometheus_client import Counter, Gauge, Histogram

made = Counter("forge_generation_made_total", "Generations that became current.")
verified = Counter("forge_generation_verified_total", "Generations that were restored and compared.")
failures = Counter("forge_generation_failures_total", "Attempts to make a generation that have to be repeated.")
damaged = Counter("forge_generation_damaged_total", "Generations that were not what they should be when restored.")
chunks = Counter("forge_generation_chunks_total", "Chunks of generations: stored, or there already.", ["outcome"])
stored_bytes = Counter("forge_generation_bytes_total", "Bytes stored for generations.")
patched_pages = Counter("forge_generation_patched_pages_total", "Pages stored in patches.")
waiting = Gauge("forge_generation_waiting", "Projections that are due for a generation.")
seconds = Histogram(
    "forge_generation_seconds",
    "Making one generation, from the copy to the pointer.",
    buckets=(0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800),
)
removed = Counter("forge_generation_removed_total", "What retention removed.", ["kind"])
