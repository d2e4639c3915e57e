"""Compare a replica with its document at one position."""

from dataclasses import dataclass

from forge.client.documents import path_of
from forge.client.transport import Transport
from forge.replica.errors import ReplicaError
from forge.replica.follower import Follower
from schemas.ids import Position
from schemas.snapshot import SnapshotMeta

ATTEMPTS = 20
PAUSE_S = 0.5


@dataclass(frozen=True, slots=True)
class Verdict:
    """The digests of replica and document at one position."""

    position: Position
    digest: str
    node_digest: str

    @property
    def equal(self) -> bool:
        """Whether both hold the same."""
        return self.digest == self.node_digest


async def verify(follower: Follower, transport: Transport) -> Verdict:
    """Bring the replica to exactly where a snapshot of its node stands, and compare their digests.

    Nobody else may move `follower` meanwhile. Raise what `catch_up` raises.
    """
    path = path_of(follower.db_id, "snapshot", "latest")
    for _ in range(ATTEMPTS):
        headers = {"Forge-Min-Position": str(follower.file.cursor.position)}
        answer = await transport.send("GET", path, params={"meta": "true"}, headers=headers)
        meta = transport.parse(SnapshotMeta, answer)
        position = Position(meta.epoch, meta.index)
        if follower.file.cursor.position <= position:
            await follower.catch_up(until=position)
        if follower.file.cursor.position == position:
            return Verdict(position, await follower.digest(), meta.digest)
        await transport.sleep(PAUSE_S)
    raise ReplicaError("the node makes no snapshot of where the replica stands", "try again")
