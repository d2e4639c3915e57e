"""What appears below a prefix of a bucket, and when: looked up again and again beside what is measured."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

FINAL_LOOKS = 2


class Stored:
    """Every version of an object that was seen: `(key, version) -> (when, size)`; the clock is `time.time`."""

    def __init__(self, client: Any, bucket: str, prefix: str, every_s: float) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = prefix
        self._every_s = every_s
        self._stop = Event()
        self.seen: dict[tuple[str, str], tuple[float, int]] = {}

    @contextmanager
    def watching(self) -> Iterator["Stored"]:
        """Look inside the block; what is there before it does not count."""
        self.look()
        self.seen = dict.fromkeys(self.seen, (0.0, 0))
        thread = Thread(target=self._run, name="stored")
        thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            thread.join()
            for _ in range(FINAL_LOOKS):
                self.look()

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            self.look()

    def look(self) -> None:
        """Look once."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix)
        for page in pages:
            now = time.time()
            for found in page.get("Contents", ()):
                self.seen.setdefault((found["Key"], found["ETag"]), (now, found["Size"]))

    def uploaded_bytes(self) -> int:
        """Return the bytes of all versions that appeared while it was watching."""
        return sum(size for _, size in self.seen.values())

    def appeared(self) -> dict[str, float]:
        """Return when each key that is new appeared."""
        first: dict[str, float] = {}
        for (key, _), (when, _) in self.seen.items():
            if when:
                first[key] = min(when, first.get(key, when))
        return first
