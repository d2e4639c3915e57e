"""Messages over HTTP: publishing in every form, and following them from anywhere."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from api.messages.bodies import OBJECT_BYTES_MAX
from schemas.messages import PAYLOAD_BYTES_MAX
from tests.conftest import ServedNode
from tests.messaging import DB, WITHIN_S, Home, opened_home

FULL = PAYLOAD_BYTES_MAX


@pytest_asyncio.fixture
async def home(node: ServedNode) -> AsyncIterator[Home]:
    """A document in which nothing has been published."""
    async with opened_home(node.url, node.token) as opened:
        yield opened


async def test_the_three_forms_of_a_payload_and_the_answer(home: Home) -> None:
    """P3.2: exactly one of them; null and empty text are payloads."""
    for form, content_type, size in (
        ({"payload": None}, "application/json", 4),
        ({"payload": {"a": [1, "é"]}}, "application/json", 14),
        ({"payload_text": ""}, "text/plain", 0),
        ({"payload_base64": "AP8="}, "application/octet-stream", 2),
        ({"payload_text": "<a/>", "content_type": "application/xml"}, "application/xml", 4),
    ):
        reply = await home.post({"topic": "a", **form})
        assert reply.status_code == 201, reply.text
        answer = reply.json()
        assert list(answer) == ["id", "db_id", "topic", "content_type", "size_bytes", "created_at"]
        assert (answer["db_id"], answer["topic"], answer["content_type"], answer["size_bytes"]) == (
            (DB, "a", content_type, size)
        )
        assert reply.headers["forge-position"]

    async with home.subscribed(since_id=0) as stream:
        seen = [(await stream.next()).data for _ in range(5)]
    assert [one.get("payload", "none") for one in seen] == [None, {"a": [1, "é"]}, "none", "none", "none"]
    assert [one.get("payload_text") for one in seen] == [None, None, "", None, "<a/>"]
    assert seen[3]["payload_base64"] == "AP8="


@pytest.mark.parametrize(
    "body",
    [
        {"topic": "a"},
        {"topic": "a", "payload": 1, "payload_text": "x"},
        {"topic": "a", "payload_text": None},
        {"topic": "a", "payload_base64": "A"},
        {"topic": "a/+", "payload": 1},
        {"topic": "", "payload": 1},
        {"topic": "a", "payload": 1, "retian": True},
        b'{"topic": "a", "payload": NaN}',
        b'{"topic": "a", "payload": 1e999}',
        b'{"topic": "a", "payload": ',
        b"",
    ],
)
async def test_what_is_no_message_is_refused(home: Home, body: Any) -> None:
    """P3.2."""
    sent = {"content": body} if isinstance(body, bytes) else {"body": body}
    reply = await home.post(**sent)

    assert reply.status_code == 400, reply.text
    assert await home.publish("a") == 1


@pytest.mark.parametrize("extra", [0, 1])
async def test_a_payload_has_a_mebibyte_at_most_in_each_form(home: Home, extra: int) -> None:
    """P3.3."""
    text = "x" * (FULL + extra)
    encoded = base64.b64encode(text.encode()).decode()
    bodies: list[dict[str, Any]] = [
        {"body": {"topic": "a", "payload": text[2:]}},  # with its quotes
        {"body": {"topic": "a", "payload_text": text}},
        {"body": {"topic": "a", "payload_base64": encoded}},
        {"content": text.encode()},
        {"content": text.encode(), "params": {"topic": "a"}},
    ]
    for sent in bodies:
        reply = await home.post(**sent)
        assert reply.status_code == (413 if extra else 201), (list(sent), reply.text[:200])


async def test_no_more_is_read_of_a_body_than_the_largest_may_have(home: Home, node: ServedNode) -> None:
    """P3.3, PR7: of one that never ends the answer comes as soon as it is too large."""
    address = urlsplit(node.url)
    head = f"POST {home.path}/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {node.token}\r\n"
    for first, size in ((b"x", FULL), (b'{"topic": "a", "payload_text": "', OBJECT_BYTES_MAX)):
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n")
        body = first.ljust(size + 1, b"x")
        writer.write(b"%x\r\n%b\r\n" % (len(body), body))
        assert b" 413 " in await asyncio.wait_for(reader.readline(), WITHIN_S)
        writer.close()


async def test_a_body_that_is_no_json_object_is_the_payload(home: Home) -> None:
    """P3.2: so that `curl -d hi` works; with a topic in the query an object is a payload too."""
    form = {"content-type": "application/x-www-form-urlencoded"}
    plain = (await home.post(content=b"hi", headers=form)).json()
    assert (plain["topic"], plain["content_type"], plain["size_bytes"]) == ("default", "text/plain", 2)
    query = {"topic": "a/b", "retain": "true", "dedupe_key": "k", "producer": "ada"}
    typed = {"content-type": "application/json"}
    given = (await home.post(content=b'{\n"x": 1.10}', headers=typed, params=query)).json()
    assert (given["topic"], given["content_type"], given["size_bytes"]) == ("a/b", "application/json", 12)
    assert (await home.post(content=b"", params={"topic": "a/b"})).status_code == 201

    async with home.subscribed("a/b", since_id=0) as stream:
        first, second = (await stream.next()).data, (await stream.next()).data
    assert (first["payload"], first["producer"]) == ({"x": 1.1}, "ada")
    assert second["payload_base64"] == ""
    assert (await home.client.get(f"{home.path}/messages/retained")).json()["messages"] == [first]


async def test_a_payload_keeps_the_blanks_that_it_begins_with(home: Home) -> None:
    """P3.2: before an object they are nothing, before all else they are the payload's; alone they are refused."""
    form = {"content-type": "application/x-www-form-urlencoded"}
    for content in (b"  hi", b"\n\n[1, 2]", b' \n{"topic": "default", "payload_text": "{"}'):
        assert (await home.post(content=content, headers=form)).status_code == 201
    assert (await home.post(content=b" \n", headers=form)).status_code == 400

    async with home.subscribed("default", since_id=0) as stream:
        seen = [(await stream.next()).data["payload_text"] for _ in range(3)]
    assert seen == ["  hi", "\n\n[1, 2]", "{"]


async def test_a_batch_that_is_too_large_says_so(home: Home) -> None:
    """P3.3, PR7: there is no setting to raise."""
    batch = {"messages": [{"topic": "a", "payload_text": "x" * FULL}] * 17}
    reply = await home.client.post(f"{home.path}/messages/batch", json=batch)
    assert reply.status_code == 413
    assert "payloads of a batch" in reply.json()["detail"]


async def test_a_known_key_publishes_nothing(home: Home) -> None:
    """P3.11: 200 with the first one's id."""
    body = {"topic": "a", "payload": 1, "dedupe_key": "k"}
    first, again = await home.post(body), await home.post(body)

    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    assert await home.publish("a") == 2


async def test_a_batch_is_published_as_a_whole_or_not_at_all(home: Home) -> None:
    """P3.2, PR3."""
    assert await home.publish_all("a", "b", "a") == [1, 2, 3]
    body = {"messages": [{"topic": "a", "payload": 1}, {"topic": "#", "payload": 1}]}
    reply = await home.client.post(f"{home.path}/messages/batch", json=body)

    assert (reply.status_code, reply.json()["field"]) == (400, "messages.1.topic")
    assert await home.publish("a") == 4
    narrow = (await home.mint(("pub.publish", DB, "a")))["token"]
    body["messages"][1]["topic"] = "b"
    headers = {"authorization": f"Bearer {narrow}"}
    reply = await home.client.post(f"{home.path}/messages/batch", json=body, headers=headers)
    assert reply.status_code == 403
    assert await home.publish("a") == 5


async def test_publishing_and_following_keep_to_the_prefix_of_a_token(home: Home) -> None:
    """PR6, P3.6: a filter must not be able to pick anything outside of it; the refusal names it."""
    narrow = (await home.mint(("pub.publish", DB, "a/b"), ("pub.subscribe", DB, "a/b")))["token"]
    headers = {"authorization": f"Bearer {narrow}"}
    for topic, status in (("a/b", 201), ("a/b/c", 201), ("a/bc", 403), ("a", 403), ("/a/b", 403)):
        reply = await home.post({"topic": topic, "payload": 1}, headers=headers)
        assert reply.status_code == status, topic
    for filters, status in (
        (["a/b"], 200),
        (["a/b/#", "a/b/+/x"], 200),
        (["a/+"], 403),
        (["a/b", "#"], 403),
        (["/a/b"], 403),
        (["+/b"], 403),
        ([], 403),
    ):
        async with home.subscribed(*filters, token=narrow) as stream:
            assert stream.response.status_code == status, filters
            if status == 403:
                assert (filters[-1] if filters else "#") in stream.response.json()["detail"]


async def test_a_stream_begins_at_once_and_tells_what_comes(home: Home) -> None:
    """P3.5, P3.6: the headers are there before anything is published; several filters give each message once."""
    async with home.subscribed("a/+", "#", "a/b") as stream:
        assert stream.response.headers["content-type"] == "text/event-stream"
        assert await home.publish("a/b") == 1
        assert await home.publish("c") == 2
        assert await stream.take(2) == [1, 2]


@pytest.mark.parametrize(
    ("filters", "where", "expected"),
    [
        ([], {"since_id": 0}, [1, 2, 3, 4, 5]),
        ([], {"since_id": 3}, [4, 5]),
        ([], {"tail": 2}, [4, 5]),
        ([], {"tail": 99}, [1, 2, 3, 4, 5]),
        (["a"], {"tail": 1}, [3]),
        (["a", "+/x"], {"tail": 2}, [1, 3]),
        ([], {"tail": 1, "headers": {"Last-Event-ID": "4"}}, [5]),
        ([], {"tail": 0}, []),
        ([], {}, []),
    ],
)
async def test_where_a_stream_begins(home: Home, filters: list[str], where: Any, expected: list[int]) -> None:
    """P3.7, G-18: after an id, with the newest that match, or with what comes; Last-Event-ID wins."""
    await home.publish_all("a", "b", "a", "b", "b")
    async with home.subscribed(*filters, **where) as stream:
        assert await home.publish("a") == 6
        assert await stream.take(len(expected) + 1) == [*expected, 6]


@pytest.mark.parametrize(
    "query",
    [
        {"since_id": 1, "tail": 1},
        {"since_id": "x"},
        {"tail": -1},
        {"topic": "a#"},
        {"topic": ["a"] + [f"b/{n}" for n in range(32)]},
        {"topic": ""},
        {"retained": "perhaps"},
    ],
)
async def test_a_stream_that_makes_no_sense_is_refused(home: Home, query: Any) -> None:
    """P3.7."""
    reply = await home.client.get(f"{home.path}/events/stream", params=query)
    assert reply.status_code == 400, reply.text
    reply = await home.client.get(f"{home.path}/events/stream", headers={"Last-Event-ID": "1.1"})
    assert reply.status_code == 400


async def test_no_message_is_missed_or_told_twice_where_a_backlog_ends(home: Home) -> None:
    """P3.7: while others publish, from the first message on and from any in the middle."""
    first = [await home.publish_all(*["a", "b", "c"] * 300) for _ in range(3)]

    async def publish() -> None:
        for _ in range(30):
            await home.publish_all(*["a", "b"] * 20)

    async def follow(since: int, *filters: str, count: int) -> list[int]:
        async with home.subscribed(*filters, since_id=since) as stream:
            return await stream.take(count)

    total = sum(map(len, first)) + 30 * 40
    publishing = asyncio.create_task(publish())
    everything, later, some = await asyncio.gather(
        follow(0, count=total), follow(1234, count=total - 1234), follow(0, "a", count=900 + 600)
    )
    await publishing
    assert everything == list(range(1, total + 1))
    assert later == list(range(1235, total + 1))
    assert len(set(some)) == len(some) == 1500
    assert some == sorted(some)


async def test_the_last_values_come_first_if_asked_for(home: Home) -> None:
    """P3.9: without ids, so that nobody resumes from one; an empty payload takes one away."""
    await home.publish("a", 1, retain=True)
    await home.publish("a", 2, retain=True)
    await home.publish("b", 3, retain=True)
    await home.publish("c", 4)
    async with home.subscribed("+", retained="true") as stream:
        values = [await stream.next(), await stream.next()]
        assert [(one.id, one.data["payload"]) for one in values] == [(None, 2), (None, 3)]
        assert await home.publish("a", 5) == 5
        assert (await stream.next()).id == 5
    await home.post({"topic": "a", "payload_text": "", "retain": True})
    page = (await home.client.get(f"{home.path}/messages/retained", params={"limit": 1})).json()
    assert [one["topic"] for one in page["messages"]] == ["b"]
    assert page["next"] == "b"
    assert (await home.client.get(f"{home.path}/messages/retained?after=b")).json() == {"messages": [], "next": None}


async def test_a_stream_ends_with_its_document_and_with_its_token(home: Home) -> None:
    """PR6: the first is told, the second is cut."""
    minted = await home.mint(("pub.subscribe", DB))
    async with home.subscribed(token=minted["token"]) as cut, home.subscribed() as told:
        await home.publish("a")
        assert await cut.take(1) == await told.take(1) == [1]
        assert (await home.client.delete(f"/api/v1/admin/tokens/{minted['id']}")).status_code == 204
        with pytest.raises(StopAsyncIteration):
            await cut.next()
        assert (await home.client.delete(home.path)).status_code == 204
        assert (await told.next("error")).data["type"] == "urn:forge:problem:document-deleted"
        with pytest.raises(StopAsyncIteration):
            await told.next()


async def test_a_token_in_the_url_follows_and_does_not_publish(home: Home, node: ServedNode) -> None:
    """P3.6: subscribers that hold only a URL."""
    token = (await home.mint(("pub.subscribe", DB, "a"), url=True))["token"]
    await home.publish("a")
    del home.client.headers["authorization"]
    async with home.subscribed("a", token="", since_id=0) as stream:
        assert stream.response.status_code == 401
    async with home.client.stream(
        "GET", f"{home.path}/events/stream", params={"topic": "a", "since_id": 0, "token": token}
    ) as response:
        assert response.status_code == 200
    assert (await home.post({"topic": "a", "payload": 1}, params={"token": token})).status_code == 401


async def test_the_same_over_a_websocket(home: Home, node: ServedNode) -> None:
    """P3.5, P3.7: for browsers behind what breaks server-sent events."""
    await home.publish_all("a", "b")
    url = f"{node.url.replace('http', 'ws')}{home.path}/events/ws?topic=a&topic=b/%23&since_id=0"
    headers = {"Authorization": f"Bearer {node.token}"}
    async with connect(url, additional_headers=headers) as socket:
        assert json.loads(await socket.recv()) == {"event": "open", "since_id": 0}
        await socket.send("whatever")
        await home.publish("b/c", {"x": 1})
        seen = [json.loads(await socket.recv()) for _ in range(3)]
        assert [(one["event"], one["id"], one["topic"]) for one in seen] == [
            ("message", 1, "a"),
            ("message", 2, "b"),
            ("message", 3, "b/c"),
        ]
        assert seen[2]["payload"] == {"x": 1}
        assert (await home.client.delete(home.path)).status_code == 204
        assert json.loads(await socket.recv())["event"] == "error"
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        assert socket.close_code == 1008
