"""The counts of one ingest: every path that was seen ends in exactly one of them."""

from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(slots=True)
class Tally:
    """What became of the files so far.

    `seen` = `present` + `present_locally` + `processing` + `uploaded` + `would_upload` + `duplicates` + all
    `skipped` + all `failed`, once the run is complete. `hashed` and `cached_hash` say how many hashes had to
    be computed and how many were found in the caches.
    """

    seen: int = 0
    hashed: int = 0
    cached_hash: int = 0
    present: int = 0
    present_locally: int = 0
    processing: int = 0
    uploaded: int = 0
    uploaded_bytes: int = 0
    would_upload: int = 0
    duplicates: int = 0
    attributes_refused: int = 0
    not_remembered: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)

    @property
    def settled(self) -> int:
        """How many paths have found their end."""
        return (
            self.present
            + self.present_locally
            + self.processing
            + self.uploaded
            + self.would_upload
            + self.duplicates
            + self.skipped.total()
            + self.failed.total()
        )

    def as_json(self) -> dict[str, Any]:
        """Return the counts by name; `skipped` and `failed` are objects from reason to count."""
        counts: dict[str, Any] = {one.name: getattr(self, one.name) for one in fields(self)}
        return counts | {"skipped": dict(self.skipped), "failed": dict(self.failed)}

    def lines(self) -> list[str]:
        """Return the totals for a person, without those that are zero and do not matter then."""
        always = [
            ("seen", self.seen),
            ("hashed", self.hashed),
            ("cached hash", self.cached_hash),
            ("already present", self.present),
        ]
        sometimes = [
            ("present in the local copy", self.present_locally),
            ("in progress on the node", self.processing),
            ("would be uploaded", self.would_upload),
            ("same content as another file", self.duplicates),
            ("checksum not kept with the file", self.attributes_refused),
            ("not kept in the catalogue", self.not_remembered),
        ]
        counts = [*always, *((what, n) for what, n in sometimes if n), ("uploaded", self.uploaded)]
        counts += [(f"skipped: {reason}", n) for reason, n in sorted(self.skipped.items())]
        counts += [(f"FAILED: {reason}", n) for reason, n in sorted(self.failed.items())]
        width = max(len(what) for what, _ in counts)
        return [f"{what:<{width}}  {n:>9,}" for what, n in counts]
