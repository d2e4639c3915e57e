"""Compare a replica with its document at one position."""

from dataclasses import dataclass

from forge.client.documents import path_of
from forge.client.errors import UnexpectedAnswer
from forge.client.transport import Transport
from forge.replica.errors import ReplicaError
from forge.replica.follower import Follower
from schemas.ids import InvalidId, Position

ATTEMPTS = 40
PAUSE_S = 0.5  # a node gives out the same snapshot for some seconds


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
        meta = transport.object(await transport.send("GET", path, params={"meta": "true"}))
        try:
            position, node_digest = Position.parse(meta["position"]), str(meta["digest"])
        except (KeyError, TypeError, InvalidId) as error:
            raise UnexpectedAnswer(transport.url, f"{path}: {error!r}") from error
        if follower.file.cursor.position <= position:
            await follower.catch_up(until=position)
        if follower.file.cursor.position == position:
            return Verdict(position, await follower.digest(), node_digest)
        await transport.sleep(PAUSE_S)
    raise ReplicaError("the node makes no snapshot of where the replica stands", "try again")
