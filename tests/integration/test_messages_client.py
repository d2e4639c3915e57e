"""Messages by the Python client: the same over HTTP and NATS, and what a policy removes, as a subscriber sees it."""

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from forge.client import ForgeClient, ForgeError, Lag, Message, NodeUnreachable, Published
from forge.client.document import Document
from forge.client.nats import NatsDocument, NatsPublisher
from forge.client.retry import NO_RETRY
from forge.datadir import read_root_token, read_runtime
from forge.embedded import running
from schemas.scopes import Scope
from schemas.settings import Settings
from tests.acceptance.asking import until
from tests.messaging import DB, WITHIN_S


@pytest_asyncio.fixture
async def node(tmp_path: Path) -> AsyncIterator[tuple[ForgeClient, NatsPublisher]]:
    """A node with a document, by both ways."""
    settings = Settings.load({"FORGE_DATA_DIR": str(tmp_path / "node"), "FORGE_CACHE_DIR": str(tmp_path / "cache")})
    async with running(settings, listen="127.0.0.1:0", embed=False) as served:
        token, here = read_root_token(settings.data_dir), read_runtime(settings.data_dir)
        assert here is not None
        async with ForgeClient(served.url, token) as client, NatsPublisher(here.client_url, token) as publisher:
            await client.documents.create(DB)
            yield client, publisher


async def taken(coming: AsyncGenerator[Message], count: int) -> list[Message]:
    """Return the next messages, and follow no further."""
    async with asyncio.timeout(WITHIN_S), aclosing(coming):
        return [await anext(coming) for _ in range(count)]


async def test_both_ways_publish_the_same(node: tuple[ForgeClient, NatsPublisher]) -> None:
    """P3.2, P3.11: same methods, same answers, same errors."""
    client, publisher = node
    refusals: list[tuple[dict[str, Any], int]] = [
        ({"topic": "+"}, 400),
        ({"topic": "a", "payload": b"x" * ((1 << 20) + 1)}, 413),
    ]
    both: list[Document | NatsDocument] = [client.db(DB), publisher.db(DB)]
    for ways, document in enumerate(both):
        first = await document.publish("a/b", {"x": [1, None]}, producer="ada", key=f"k{ways}", retain=True)
        again = await document.publish("a/b", 2, key=f"k{ways}")
        assert isinstance(first, Published)
        assert (first.duplicate, again.duplicate, again.id) == (False, True, first.id)
        assert first.position is not None
        raw, text = await document.publish_batch(
            [{"topic": "a", "payload": b"\x00\xff"}, {"topic": "a", "text": "hi", "content_type": "text/markdown"}]
        )
        assert (raw.id, text.id) == (first.id + 1, first.id + 2)
        for refused, status in refusals:
            with pytest.raises(ForgeError) as caught:
                await document.publish(**refused)
            assert caught.value.status == status

    seen = await taken(client.db(DB).subscribe(since=0), 6)
    half = [(one.topic, one.payload, one.content_type, one.producer) for one in seen]
    assert half[:3] == half[3:]
    assert half[:3] == [
        ("a/b", {"x": [1, None]}, "application/json", "ada"),
        ("a", b"\x00\xff", "application/octet-stream", None),
        ("a", "hi", "text/markdown", None),
    ]
    assert [one.id async for one in client.db(DB).retained()] == [4]


async def test_over_nats_a_token_opens_what_it_opens_over_http(node: tuple[ForgeClient, NatsPublisher]) -> None:
    """PR6: each topic counts; who asks is the token."""
    client, publisher = node
    minted = await client.tokens.mint("narrow", [Scope(db_id=DB, action="pub.publish", resource_prefix="a")])
    async with NatsPublisher(publisher._connection._url, minted.token) as narrow:
        assert (await narrow.db(DB).publish("a/b")).id == 1
        with pytest.raises(ForgeError, match=r"pub\.publish"):
            await narrow.db(DB).publish_batch([{"topic": "a"}, {"topic": "b"}])
        with pytest.raises(ForgeError) as caught:
            await narrow.db("other").publish("a")
        assert caught.value.status == 403
    async with NatsPublisher(publisher._connection._url, "forge_nobody") as nobody:
        with pytest.raises(ForgeError) as caught:
            await nobody.db(DB).publish("a")
        assert caught.value.status == 401


async def test_who_was_away_is_told_what_a_policy_has_removed(node: tuple[ForgeClient, NatsPublisher]) -> None:
    """P3.10: by the running node, soon after it was said, and after each publish."""
    client, _ = node
    document = client.db(DB)
    await document.publish_batch([{"topic": "a", "payload": at} for at in range(10)])
    kept = await document.set_retention(max_count=3)
    assert (await document.retention()) == kept

    async def removed(through: int) -> None:
        async with asyncio.timeout(WITHIN_S), aclosing(document.watch("SELECT min(id) FROM messages")) as results:
            async for oldest in results:
                if oldest.rows == [(through + 1,)]:
                    return

    await removed(7)
    await document.publish("a")
    await removed(8)
    lags: list[Lag] = []
    assert [one.id for one in await taken(document.subscribe(since=2, lagged=lags.append), 3)] == [9, 10, 11]
    assert lags == [Lag(2, 9, "pruned")]
    assert await document.set_retention() == await document.retention()
    log = await document.log()
    assert any("messages" in str(commit) for commit in log.changes)


async def test_a_subscriber_goes_on_where_it_was_when_the_node_is_back(tmp_path: Path) -> None:
    """P3.7: also one that has not been given anything yet."""
    settings = Settings.load({"FORGE_DATA_DIR": str(tmp_path / "node"), "FORGE_CACHE_DIR": str(tmp_path / "cache")})
    token: Any = None
    listen = "127.0.0.1:0"
    waiting: asyncio.Task[list[Message]] | None = None
    async with ForgeClient("http://127.0.0.1:1") as nowhere:
        client: ForgeClient = nowhere
        for round_ in range(2):
            async with running(settings, listen=listen, embed=False) as served:
                listen = served.url.removeprefix("http://")
                if round_ == 0:
                    token = read_root_token(settings.data_dir)
                    client = ForgeClient(served.url, token)
                    await client.documents.create(DB)
                    await client.db(DB).publish("a")
                    before = await _followers(client)
                    waiting = asyncio.create_task(taken(client.db(DB).subscribe("b"), 1))
                    await _followed(client, before + 1)
                else:
                    await client.db(DB).publish("b", "while it was away, as far as it knows")
                    assert waiting is not None
                    assert [one.id for one in await waiting] == [2]
        await client.close()


async def _followers(client: ForgeClient) -> float:
    """Return how many follow, by the metrics of this process, in which other tests ran before."""
    lines = (await client.metrics()).splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("forge_message_subscribers "))


async def _followed(client: ForgeClient, followers: float) -> None:
    async def followed() -> bool:
        return await _followers(client) == followers

    await until(followed, "somebody follows")


@pytest.mark.parametrize("way", [0, 1])
async def test_what_json_cannot_tell_is_not_published(node: tuple[ForgeClient, NatsPublisher], way: int) -> None:
    """P3.2: a payload that says it is JSON is that, whichever way it came."""
    document = node[way].db(DB)
    for odd in (float("nan"), [1, {"x": float("inf")}], "\ud800"):
        with pytest.raises((ForgeError, ValueError)):
            await document.publish("a", odd)
    assert (await document.publish("a", "NaN, Infinity")).id == 1


async def test_a_server_that_is_not_there_is_an_error_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """PR7: by itself the NATS client would try for ever."""
    monkeypatch.setattr("forge.client.nats.CONNECT_S", 0.3)
    with socket.socket() as taken_port:
        taken_port.bind(("127.0.0.1", 0))  # and nobody listens
        url = f"nats://u:secret@127.0.0.1:{taken_port.getsockname()[1]}"
        async with asyncio.timeout(WITHIN_S), NatsPublisher(url, "t", retry=NO_RETRY) as publisher:
            with pytest.raises(NodeUnreachable, match="no connection") as caught:
                await publisher.db(DB).publish("a", 1)
    assert "secret" not in str(caught.value)
