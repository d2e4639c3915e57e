"""Commands to the control plane on behalf of whoever sent a request."""

from typing import Any

from api.routes import Request
from projectors.control.domain import PARTITION
from projectors.outcome import Answer
from projectors.partitions import Partitions
from schemas.facts import Command

TIMEOUT_S = 10.0


async def submit(
    partitions: Partitions, request: Request[Any], command: Command, repeated_as: str | None = None
) -> Answer:
    """Have `command` decided for the caller; `repeated_as` is the id under which a retry gets the same answer.

    Raise `Refusal`.
    """
    return await partitions.submit(
        PARTITION, command, principal=request.caller.name, command_id=repeated_as, timeout_s=TIMEOUT_S
    )
