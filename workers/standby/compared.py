"""What a standby knows of its own log: up to where each partition is here exactly as it is archived."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from events.streams import StreamState, stream_of
from schemas.archive import Mark
from schemas.ids import PartitionId, Position
from workers.standby.changes import NOTHING, changed_between


@dataclass(slots=True)
class Compared:
    """`ends` held everything that was archived when the marks of the streams were `marks`, in `epoch` (0: unknown).

    `sequences` are the last messages of the streams here, which were `created` then; those of another stream of the
    same name say nothing. Whoever follows the archive moves all on.
    """

    marks: Mapping[str, Mark] = field(default_factory=dict)
    epoch: int = 0
    ends: dict[PartitionId, Position] = field(default_factory=dict)
    sequences: dict[str, int] = field(default_factory=dict)
    created: Mapping[str, str] = field(default_factory=dict)

    def appended(self, partition: PartitionId, sequence: int) -> None:
        """Note a message that was appended here because it is archived."""
        stream = stream_of(partition)
        self.sequences[stream] = max(self.sequences.get(stream, 0), sequence)

    def sure(self, now: Mapping[str, Mark], here: Mapping[str, StreamState]) -> dict[PartitionId, Position]:
        """Return the ends after which nothing more can be archived, `now` being the marks under the writer lease.

        An archiver says which partitions are busy before it stores anything of them, and what has changed after it. In
        a stream that it reads itself, or to which others have appended `here`, there may be more than is archived.
        """
        unsure: set[PartitionId] = set()
        streams: set[str] = set()
        for stream, mark in now.items():
            changed = changed_between(self.marks.get(stream, NOTHING), mark)
            if changed is None or mark.busy is None or not self._as_it_was(stream, here[stream], mark):
                continue
            streams.add(stream)
            unsure |= changed | {PartitionId.of_token(token) for token in mark.busy}
        return {one: end for one, end in self.ends.items() if stream_of(one) in streams and one not in unsure}

    def _as_it_was(self, stream: str, here: StreamState, mark: Mark) -> bool:
        """Say whether nobody but who noted it here has appended to a stream, which no archiver reads."""
        known = self.created.get(stream), self.sequences.get(stream)
        return known == (here.created, here.last_sequence) and mark.created != here.created
