"""The client of documents against a peer that misbehaves: streams that break, answers that make no sense."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from forge.client import ForgeClient, ForgeError, NodeUnreachable, Retry, UnexpectedAnswer
from forge.client.sse import lines
from schemas.ids import Position
from tests.unit.http_peer import HANG_UP, Answer, Handler, Peer, Request, serving

CLOSE = {"Connection": "close", "Content-Type": "text/event-stream"}


@asynccontextmanager
async def client_of(handler: Handler) -> AsyncIterator[tuple[ForgeClient, Peer]]:
    """Serve `handler`; give a client of it that does not wait between attempts."""

    async def no_wait(_: float) -> None:
        await asyncio.sleep(0)

    async with (
        serving(handler) as peer,
        ForgeClient(peer.url, "token", retry=Retry(attempts=3), sleep=no_wait) as client,
    ):
        yield client, peer


def sse(*events: tuple[str, str, Any]) -> Answer:
    """Return a stream of (name, id, data) that then breaks off."""
    text = "retry: 1000\n\n: hello\n\n"
    for name, id_, data in events:
        text += f"id: {id_}\nevent: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"
    return Answer(200, text.encode(), CLOSE)


def watched(position: str, value: Any, hash_: str) -> dict[str, Any]:
    return {"position": position, "columns": ["a"], "rows": [[value]], "row_count": 1, "result_hash": hash_}


async def test_a_watch_goes_on_after_a_break_and_repeats_nothing() -> None:
    """D.2: reconnects say what was seen last; a result that is known already is not given again."""
    first = sse(("snapshot", "1.1", watched("1.1", "\u2028one", "h1")), ("heartbeat", "1.4", {"position": "1.4"}))
    second = sse(("snapshot", "1.4", watched("1.4", "\u2028one", "h1")), ("update", "1.5", watched("1.5", 2, "h2")))
    answers = [first, HANG_UP, Answer(503, {"title": "stopping"}), second]

    async with client_of(lambda _: answers.pop(0)) as (client, peer):
        seen = []
        async for result in client.db("notes").watch("SELECT a FROM t"):
            seen.append((str(result.position), result.rows))
            if len(seen) == 2:
                break

    assert seen == [("1.1", [("\u2028one",)]), ("1.5", [(2,)])]
    assert [request.headers.get("last-event-id") for request in peer.requests] == [None, "1.4", "1.4", "1.4"]


async def test_a_change_feed_asks_for_what_comes_after_the_last_one_it_gave() -> None:
    def change(position: str) -> dict[str, Any]:
        return {"position": position, "event": "e", "time": "t", "principal": "root", "kind": "k", "changes": []}

    answers = [sse(("change", "1.6", change("1.6"))), sse(("change", "1.7", change("1.7")))]
    async with client_of(lambda _: answers.pop(0)) as (client, peer):
        feed = client.db("notes").changes(after=Position(1, 5), tables=["a", "b"])
        assert [(await anext(feed)).position, (await anext(feed)).position] == ["1.6", "1.7"]
        await feed.aclose()

    assert [request.path.partition("?")[2] for request in peer.requests] == [
        "table=a&table=b&after=1.5",
        "table=a&table=b&after=1.6",
    ]


async def test_a_refusal_in_a_stream_ends_it() -> None:
    problem = {"status": 410, "type": "urn:x", "title": "gone", "detail": "deleted"}
    async with client_of(lambda _: sse(("error", "", problem))) as (client, _):
        with pytest.raises(ForgeError, match="410 gone: deleted"):
            await anext(client.db("notes").watch("SELECT 1"))


async def test_a_node_that_was_never_there_is_not_waited_for_for_ever() -> None:
    async with client_of(lambda _: HANG_UP) as (client, peer):
        with pytest.raises(NodeUnreachable):
            await anext(client.db("notes").watch("SELECT 1"))
        assert len(peer.requests) == 3


async def test_a_write_that_is_sent_again_is_the_same_write() -> None:
    """PR5: all attempts of one call carry one key, and two calls have different ones."""
    reply = Answer(200, {"class": "write", "rows_affected": 1, "last_insert_id": 7}, {"Forge-Position": "1.3"})
    answers = [HANG_UP, Answer(503, {}), reply, reply]
    async with client_of(lambda _: answers.pop(0)) as (client, peer):
        result = await client.db("notes").exec("INSERT INTO t VALUES (?)", [2**60], if_match=Position(1, 2))
        await client.db("notes").exec("INSERT INTO t VALUES (1)")

    assert (result.kind, result.rows_affected, result.last_insert_id, result.position) == (
        "write",
        1,
        7,
        Position(1, 3),
    )
    keys = [request.headers["idempotency-key"] for request in peer.requests]
    assert keys[0] == keys[1] == keys[2] != keys[3]
    assert peer.requests[0].headers["if-match"] == '"1.2"'
    assert peer.requests[0].json()["args"] == [{"$int": str(2**60)}]


async def test_rows_that_break_off_are_never_taken_for_all() -> None:
    def body(*parts: Any) -> Answer:
        return Answer(200, b"".join(json.dumps(part).encode() + b"\n" for part in parts))

    async def read(answer: Answer) -> list[Any]:
        def handler(_: Request) -> Answer:
            return answer

        async with client_of(handler) as (client, _):
            return [row async for row in client.db("notes").rows("SELECT a FROM t")]

    head, rows = {"columns": ["a"]}, ([1], [{"$blob": "AA=="}])
    assert await read(body(head, *rows, {"row_count": 2, "result_bytes": 9})) == [(1,), (b"\0",)]
    with pytest.raises(UnexpectedAnswer, match="broke off"):
        await read(body(head, *rows))
    with pytest.raises(ForgeError, match="interrupted"):
        await read(body(head, *rows, {"problem": {"status": 408, "title": "interrupted"}}))


@pytest.mark.parametrize("answer", [{}, {"class": "read", "rows": [[{"$what": 1}]]}, {"class": "read", "rows": 3}])
async def test_an_answer_that_makes_no_sense_is_an_error_of_its_own(answer: Any) -> None:
    async with client_of(lambda _: Answer(200, answer)) as (client, _):
        with pytest.raises(UnexpectedAnswer):
            await client.db("notes").exec("SELECT 1")


async def test_lines_are_cut_at_line_feeds_alone() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for part in (b"a\r\nb\xe2\x80", b"\xa8c\x0bd\n", b"\n", b"e"):
            yield part

    assert [line async for line in lines(chunks())] == [b"a", "b\u2028c\x0bd".encode(), b"", b"e"]
