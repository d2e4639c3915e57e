"""Commands to partitions that another process owns, through the command door."""

from events.connection import Connection
from events.errors import LogError
from projectors.outcome import Answer
from schemas.door import CommandReply, CommandRequest
from schemas.facts import Command
from schemas.ids import PartitionId, Position
from schemas.problems import OUTCOME_UNKNOWN, Refusal

TIMEOUT_S = 35.0


class RemotePartitions:
    """Has commands decided by whoever serves the partition. Same `submit` as the partitions of this process."""

    def __init__(self, live: Connection, token: str) -> None:
        self._live = live
        self._token = token

    async def submit(
        self, partition: PartitionId, command: Command, *, principal: str, timeout_s: float | None = None
    ) -> Answer:
        """Return the answer; raise `Refusal`. The owner knows the caller by the token, not by `principal`."""
        request = CommandRequest(
            token=self._token, name=type(command).__name__, command=command.model_dump(mode="json")
        )
        body = request.model_dump_json().encode()
        headers = {"content-type": "application/json"}
        try:
            answer = await self._live.request(
                partition.command_subject, body, headers, timeout_s=min(timeout_s or TIMEOUT_S, TIMEOUT_S)
            )
            reply = CommandReply.model_validate_json(answer.data)
        except (LogError, ValueError) as error:
            raise Refusal(OUTCOME_UNKNOWN.problem(f"nobody answers for {partition}: {error}")) from error
        if reply.problem is not None or reply.position is None:
            raise Refusal(reply.problem or OUTCOME_UNKNOWN.problem(f"an empty answer for {partition}"))
        return Answer(Position.parse(reply.position), reply.answer)
