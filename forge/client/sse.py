"""Server-sent events as they come from a node, and their resumption after the connection broke."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import httpx2
from pydantic_core import from_json

from forge.client.errors import ForgeError, NodeUnreachable, UnexpectedAnswer
from forge.client.retry import RETRIED_STATUSES
from forge.client.transport import Transport, problem_from

EVENT_BYTES_MAX = 64 << 20
STREAM_ENDED = "the stream ended"


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event: its name, its JSON, and the id to resume after, empty if it carries none."""

    name: str
    data: Any
    id: str = ""


async def lines(chunks: AsyncIterator[bytes], bytes_max: int = EVENT_BYTES_MAX) -> AsyncIterator[bytes]:
    """Yield lines without their end, split at LF alone: text may hold what Unicode calls a line end."""
    rest = b""
    async for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.removesuffix(b"\r")
        if len(rest) > bytes_max:
            raise ValueError(f"a line is longer than {bytes_max} bytes")
    if rest:
        yield rest


async def events(response: httpx2.Response) -> AsyncGenerator[ServerEvent]:
    """Yield the events of an answer; comments and `retry:` lines are passed over. Raise `ValueError`.

    What has an id and no data says where the stream stands: it has no name.
    """
    name, id_, data = "message", "", b""
    async for line in lines(response.aiter_bytes()):
        if not line:
            if data:
                yield ServerEvent(name, from_json(data), id_)
            elif id_:
                yield ServerEvent("", None, id_)
            name, id_, data = "message", "", b""
            continue
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        match field:
            case b"event":
                name = value.decode()
            case b"id":
                id_ = value.decode()
            case b"data":
                data = data + b"\n" + value if data else value


async def resumed(
    transport: Transport,
    method: str,
    path: str,
    *,
    json: Mapping[str, Any] | None = None,
    params: Callable[[str], Mapping[str, Any]] = lambda _: {},
    after: str = "",
    silence_s: float,
) -> AsyncGenerator[ServerEvent]:
    """Yield events for ever, connecting again with `Last-Event-ID` whenever the connection breaks.

    `params` makes the query from the id to resume after. Raise `ForgeError` for a refusal that will stay, and what
    `Transport.send` raises while no connection has ever been made.
    """
    seen, failures, connected = after, 0, False
    while True:
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": seen} if seen else {})
        failure: ForgeError | NodeUnreachable = NodeUnreachable(transport.url, STREAM_ENDED)
        try:
            async with transport.open(
                method, path, json=json, params=params(seen), headers=headers, silence_s=silence_s
            ) as response:
                connected = True
                async with aclosing(events(response)) as coming:
                    async for event in coming:
                        if event.name == "error":
                            raise problem_from(int(event.data.get("status", 500)), event.data)
                        failures = 0
                        seen = event.id or seen
                        if event.name:
                            yield event
        except ForgeError as error:
            if error.status not in RETRIED_STATUSES:
                raise
            failure = error
        except NodeUnreachable as error:
            failure = error
        except (ValueError, AttributeError) as error:
            raise UnexpectedAnswer(transport.url, f"{path}: {error}") from error
        failures += 1
        if not connected and failures >= transport.retry.attempts:
            raise failure
        await transport.sleep(transport.retry.wait_s(failures, getattr(failure, "retry_after", None)))
