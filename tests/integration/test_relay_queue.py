"""The queue of the relay over real sockets."""

import asyncio

from tests.relaying import relaying


async def test_a_message_reaches_whoever_waits_and_its_sender_is_answered() -> None:
    """PR7: and nothing of it is left."""
    async with relaying() as served, served.client() as client:
        waiting = asyncio.create_task(client.get("/api/v1/db/home/streams/queue/jobs/next"))
        await served.receivers(1)
        headers = {"content-type": "text/x", "patch-h-trace": "t7"}

        sent = await client.post(
            "/api/v1/db/home/streams/queue/jobs?a=b&token=t", content=b"encode 12", headers=headers
        )

        received = await waiting
        assert (sent.status_code, sent.content) == (200, b"")
        assert (received.status_code, received.content) == (200, b"encode 12")
        assert received.headers["content-type"] == "text/x"
        assert received.headers["trace"] == "t7"
        assert received.headers["patch-uri"] == "/api/v1/db/home/streams/queue/jobs?a=b"
        await served.quiet()
