"""Plain NATS clients for tests of the servers themselves, without any guard of ours."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import nats
from nats.aio.client import Client
from nats.js.api import StreamConfig

from forge.stack.nats import NatsServer

STREAM = StreamConfig(name="FORGE_VECTOR", subjects=["forge.log.vector.*"], allow_direct=True)
SUBJECT = "forge.log.vector.0"


@asynccontextmanager
async def connected(url: str, *others: str, errors: list[Exception] | None = None) -> AsyncIterator[Client]:
    """Connect as the user of `url`; what the server refuses is added to `errors`."""
    user = url.split("//")[1].split(":")[0]

    async def keep(error: Exception) -> None:
        if errors is not None:
            errors.append(error)

    client = await nats.connect(
        [url, *others],
        inbox_prefix=f"_INBOX_{user}".encode(),
        pending_size=0,
        error_cb=keep,
        reconnect_time_wait=0.05,
    )
    try:
        yield client
    finally:
        await client.close()


async def flushed(client: Client) -> None:
    """Return when the server has acted on everything that `client` said before.

    nats-py writes the ping of `flush` straight to the socket, before commands that still wait for its
    flusher; by the answer these are written, so that a second ping comes after them.
    """
    await client.flush()
    await client.flush()


async def add_stream(server: NatsServer) -> None:
    """Create the stream of `SUBJECT`."""
    async with connected(server.admin_url) as admin:
        await admin.jetstream().add_stream(STREAM)


async def append_until_stored(client: Client, body: bytes) -> int:
    """Publish the same message until it is acknowledged; return its sequence."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return (await client.jetstream(timeout=1).publish(SUBJECT, body)).seq
        except Exception:
            assert time.monotonic() < deadline, "no append succeeded any more"
            await asyncio.sleep(0.05)
