"""What followers of messages may cost: how many there may be, and what becomes of one that does not read."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from forge.stack.nats import NatsServer
from projectors.document.messages.live import LiveBounds, Messages
from schemas.problems import Refusal
from tests.conftest import ServedNode
from tests.messaging import WITHIN_S, Home, opened_home
from tests.watching import new_watching


@pytest_asyncio.fixture
async def home(node: ServedNode) -> AsyncIterator[Home]:
    """A document in which nothing has been published."""
    async with opened_home(node.url, node.token) as opened:
        yield opened


async def test_so_many_may_follow_a_document_and_so_many_in_all(nats_server: NatsServer, tmp_path: Path) -> None:
    """PR7: who leaves makes room, and an idle document keeps nothing."""
    async with new_watching(nats_server, tmp_path / "docs") as documents:
        bounds = LiveBounds(subscribers=3, subscribers_per_document=2)
        messages = Messages(documents.partitions, documents.readers, bounds)
        one, _ = await messages.subscribe("one", []), await messages.subscribe("one", ["a"])
        with pytest.raises(Refusal) as refused:
            await messages.subscribe("one", [])
        assert (refused.value.problem.status, refused.value.problem.retry_after_s) == (429, 5)
        other = await messages.subscribe("other", [])
        with pytest.raises(Refusal) as refused:
            await messages.subscribe("third", [])
        assert refused.value.problem.status == 503
        other.close()
        other.close()
        one.close()
        assert set(messages._hubs) == {"one"}
        await messages.subscribe("third", [])
        await messages.subscribe("one", [])


async def test_a_follower_that_reads_late_gets_everything_and_is_told(home: Home, node: ServedNode) -> None:
    """PR7, P3.7: more than the node keeps in memory for it, while others are told at once."""
    address = urlsplit(node.url)
    assert address.hostname
    stalled = socket.socket()
    stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    stalled.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(stalled, (address.hostname, address.port))
    head = f"GET {home.path}/events/stream HTTP/1.0\r\nHost: x\r\nAuthorization: Bearer {node.token}\r\n\r\n"
    await loop.sock_sendall(stalled, head.encode())
    assert b" 200 " in await loop.sock_recv(stalled, 20)
    async with home.subscribed() as quick:
        for part in range(12):
            batch = [{"topic": "a", "payload": "x" * 1000} for _ in range(1000)]
            reply = await home.client.post(f"{home.path}/messages/batch", json={"messages": batch})
            assert reply.status_code == 201
            assert await quick.take(1000) == list(range(1000 * part + 1, 1000 * part + 1001))
    reader, writer = await asyncio.open_connection(sock=stalled, limit=1 << 20)
    await reader.readuntil(b"\r\n\r\n")
    seen, lagged = list[int](), list[str]()
    async with asyncio.timeout(WITHIN_S):
        while len(seen) < 12_000:
            block = (await reader.readuntil(b"\n\n")).decode()
            data = json.loads(block.partition("data: ")[2] or "{}")
            if "event: message" in block:
                seen.append(data["id"])
            elif "event: lagged" in block:
                lagged.append(data["reason"])
    writer.close()
    assert seen == list(range(1, 12_001))
    assert lagged
    assert set(lagged) == {"slow"}


@pytest.mark.long
async def test_a_stream_lives_while_nothing_happens(home: Home) -> None:
    """P3.5: and says where it stands, also for what it did not want."""
    async with home.subscribed("wanted") as stream:
        assert (await stream.next("")).id == 0
        await home.publish("unwanted")
        assert (await stream.next("")).id == 1
        await home.publish("wanted")
        assert await stream.take(1) == [2]
