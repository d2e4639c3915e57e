"""Removing records of one partition from the server: the only place from which that is asked for."""

from pydantic_core import from_json, to_json

from events.connection import Connection
from events.errors import LogUnavailable
from events.streams import stream_of
from schemas.ids import PartitionId

PURGE_TIMEOUT_S = 30.0


async def purge(admin: Connection, partition: PartitionId, *, below: int | None = None) -> int:
    """Remove the messages of `partition` before stream sequence `below`, and return how many those were.

    Without `below` all go, and the next append must expect sequence 0: only for one who puts the newest record there
    at once, while nobody else writes. Raise `LogUnavailable`.
    """
    query = {"filter": partition.subject} | ({} if below is None else {"seq": below})
    subject = f"$JS.API.STREAM.PURGE.{stream_of(partition)}"
    answer = await admin.request(subject, to_json(query), timeout_s=PURGE_TIMEOUT_S)
    try:
        parsed = from_json(answer.data)
    except ValueError as error:
        raise LogUnavailable(f"the NATS server answered with {answer.data[:80]!r}") from error
    if refused := parsed.get("error"):
        raise LogUnavailable(f"the NATS server does not remove records of {partition}: {refused.get('description')}")
    return int(parsed["purged"])
