"""Watches over HTTP: what is refused before the stream begins, what flows, and how it ends."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from api.routes import Reply, Request, StreamReply
from api.sse import frame, retry_line
from api.watch import WatchApi
from projectors.document.domain import document_partition
from projectors.document.reads.reading import DocumentReaders
from projectors.document.sql.bounds import SqlBounds
from projectors.document.watches.evaluating import Evaluator
from projectors.document.watches.watching import SUBSCRIBERS, Watches
from schemas.document import RunSql, Statement
from schemas.ids import Position
from tests.conftest import StartNats
from tests.control import ROOT_TOKEN, Served, served_control
from tests.route_table import ANYTHING
from tests.waiting import until
from tests.watching import WITHIN_S, Seen, parse

COUNT = {"sql": "SELECT count(*) AS n FROM note"}
PATH = "/api/v1/db/notes/query/watch"


@dataclass
class Node:
    """A served document; while `gate` is closed no query of a watch begins."""

    served: Served
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def sql(self, *sql: str) -> Position:
        """Run statements in one command."""
        statements = tuple(Statement(sql=one) for one in sql)
        command = RunSql(statements=statements, classes=("read", "write", "admin"))
        return (await self.served.partitions.submit(document_partition("notes"), command, principal="root")).position

    @asynccontextmanager
    async def watch(self, body: Any, token: str = ROOT_TOKEN, **headers: str) -> AsyncIterator["Events"]:
        """Open a stream."""
        headers = {"authorization": f"Bearer {token}"} | {k.replace("_", "-"): v for k, v in headers.items()}
        url = self.served.url + PATH
        async with self.served.client.stream("POST", url, json=body, headers=headers) as reply:
            assert reply.status_code == 200, await reply.aread()
            assert reply.headers["content-type"] == "text/event-stream"
            yield Events(reply.aiter_raw())


@dataclass
class Events:
    """What comes out of a stream."""

    chunks: AsyncIterator[bytes]
    rest: bytes = b""

    async def raw(self) -> bytes:
        """Return the next frame as it is, nothing at the end."""
        async with asyncio.timeout(WITHIN_S):
            while b"\n\n" not in self.rest:
                chunk = await anext(self.chunks, b"")
                if not chunk:
                    assert not self.rest, "the last frame is not whole"
                    return b""
                self.rest += chunk
        whole, _, self.rest = self.rest.partition(b"\n\n")
        return whole + b"\n\n"

    async def next(self) -> Seen:
        """Return the next event."""
        while (raw := await self.raw()).startswith((b":", b"retry:")):
            pass
        assert raw, "the stream has ended"
        return parse(raw)


@pytest_asyncio.fixture
async def node(start_nats: StartNats, tmp_path: Path) -> AsyncIterator[Node]:
    """Serve the document `notes` with one table."""
    api: list[WatchApi] = []

    async def watch(request: Request[Any]) -> Reply | StreamReply:
        return await api[0].watch(request)

    (route,) = WatchApi(*[ANYTHING] * 4).routes()
    async with served_control(await start_nats(), tmp_path, [replace(route, handler=watch)]) as served:
        readers = DocumentReaders(served.partitions, tmp_path / "docs", SqlBounds())
        evaluator = Evaluator(readers)
        node = Node(served)
        node.gate.set()

        async def evaluate(db_id: str, asked: Any) -> Any:
            await node.gate.wait()
            return await evaluator.evaluate(db_id, asked)

        watches = Watches(served.partitions, evaluate, frame)
        api.append(WatchApi(served.plane.registry, served.partitions, watches, evaluator.check))
        await served.create("notes")
        await node.sql("CREATE TABLE note (id INTEGER PRIMARY KEY, text)")
        try:
            yield node
        finally:
            await watches.close()
            await readers.close()


async def test_the_stream_begins_before_the_first_result_is_there(node: Node) -> None:
    """P2.7: headers and the retry line are flushed at once, and a commit in between is not missed."""
    node.gate.clear()
    async with node.watch(COUNT) as events:
        assert await events.raw() == retry_line()
        await node.sql("INSERT INTO note DEFAULT VALUES")
        node.gate.set()
        assert (await events.next()).data["rows"] == [[1]]


async def test_a_stream_shows_signs_of_life_while_the_first_result_is_on_its_way(node: Node) -> None:
    """P2.7: proxies cut connections that are silent."""
    node.gate.clear()
    async with node.watch(COUNT | {"options": {"heartbeat_seconds": 1}}) as events:
        await events.raw()
        assert (await events.raw()).startswith(b": ")
        node.gate.set()
        assert (await events.next()).event == "snapshot"
        assert (await events.next()).event == "heartbeat"


async def test_a_stream_shows_each_change(node: Node) -> None:
    """P2.8: over HTTP as in the process."""
    async with node.watch(COUNT) as events:
        assert (await events.next()).data["rows"] == [[0]]
        position = await node.sql("INSERT INTO note DEFAULT VALUES")
        seen = await events.next()
        assert (seen.event, seen.position, seen.data["rows"]) == ("update", position, [[1]])


async def test_a_client_comes_back_with_the_last_id(node: Node) -> None:
    """P2.8: Last-Event-ID."""
    async with node.watch(COUNT) as events:
        seen = await events.next()
    async with node.watch(COUNT, last_event_id=str(seen.position)) as events:
        assert (await events.next()).event == "heartbeat"
    await node.sql("INSERT INTO note DEFAULT VALUES")
    async with node.watch(COUNT, last_event_id=str(seen.position)) as events:
        assert (await events.next()).event == "snapshot"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"sql": "INSERT INTO note DEFAULT VALUES"}, "query.write"),
        ({"sql": "WITH n AS (SELECT 1) DELETE FROM note"}, "query.write"),
        ({"sql": "DROP TABLE note"}, "query.admin"),
        ({"sql": "SELECT * FROM nowhere"}, "no such table: nowhere"),
        ({"sql": "SELECT count(* FROM note"}, "syntax error"),
        ({"sql": "SELECT 1; SELECT 2"}, "more than one statement"),
        ({"sql": " -- nothing"}, "no statement"),
        ({"sql": "SELECT ?", "args": [1, 2]}, "2"),
        ({"sql": "SELECT 1", "options": {"heartbeat_seconds": 0}}, "heartbeat_seconds"),
        ({"sql": "SELECT 1", "options": {"heartbeat_seconds": 301}}, "heartbeat_seconds"),
        ({"sql": "SELECT 1", "options": {"max_rows": 0}}, "max_rows"),
        ({"sql": "SELECT 1", "limit": 1}, "limit"),
        ({"args": []}, "sql"),
    ],
)
async def test_what_cannot_be_watched_is_refused_before_the_stream_begins(node: Node, body: Any, said: str) -> None:
    """P2.7: an insert in a watch is 400, as is everything else that is wrong with it."""
    reply = await node.served.ask("POST", PATH, json=body)

    assert (reply.status_code, reply.headers["content-type"]) == (400, "application/problem+json")
    assert said in reply.text


async def test_scope_and_document_are_checked(node: Node) -> None:
    """P2.7: query.read on this document, at this resource."""
    reading = await node.served.mint(("query.read", "notes", "/query/watch"))
    elsewhere = await node.served.mint(("query.read", "notes", "/query/exec"), ("query.write", "notes"))

    assert (await node.served.ask("POST", PATH, elsewhere["token"], json=COUNT)).status_code == 403
    assert (await node.served.ask("POST", PATH.replace("notes", "none"), json=COUNT)).status_code == 404
    assert (await node.served.ask("POST", PATH, json=COUNT, headers={"last-event-id": "x"})).status_code == 400
    async with node.watch(COUNT, reading["token"]) as events:
        assert (await events.next()).event == "snapshot"


async def ends(node: Node, events: Events, act: Callable[[], Awaitable[Any]]) -> list[Seen]:
    """Return what comes from the stream because of `act`, up to its end."""
    await act()
    seen = []
    while raw := await events.raw():
        seen.append(parse(raw))
    return seen


async def test_the_stream_of_a_deleted_document_ends_with_the_reason(node: Node) -> None:
    """P2.8: error, then close."""
    async with node.watch(COUNT) as events:
        await events.next()
        (error,) = await ends(node, events, lambda: node.served.ask("DELETE", "/api/v1/db/notes"))

    assert (error.event, error.position, error.data["status"]) == ("error", None, 410)
    assert error.data["request_id"]
    assert (await node.served.ask("POST", PATH, json=COUNT)).status_code == 410


async def test_the_stream_of_a_dropped_table_ends_with_the_reason(node: Node) -> None:
    """P2.8: the problem is the one that a query would get."""
    async with node.watch(COUNT) as events:
        await events.next()
        (error,) = await ends(node, events, lambda: node.sql("DROP TABLE note"))

    assert (error.event, error.data["type"]) == ("error", "urn:forge:problem:invalid-sql")


async def test_the_stream_of_a_revoked_token_ends_with_the_reason(node: Node) -> None:
    """P1.5: whoever may not read any more is told nothing more."""
    minted = await node.served.mint(("query.read", "notes"))
    async with node.watch(COUNT, minted["token"]) as events:
        await events.next()
        revoke = f"/api/v1/admin/tokens/{minted['id']}"
        (error,) = await ends(node, events, lambda: node.served.ask("DELETE", revoke))

    assert (error.event, error.position, error.data["status"]) == ("error", None, 401)


async def test_clients_that_leave_leave_nothing_behind(node: Node) -> None:
    """PR7: whenever they leave, also before the first result."""
    before = SUBSCRIBERS._value.get()
    for number in range(10):
        if number % 2:
            node.gate.clear()
        async with node.watch(COUNT) as events:
            await (events.raw() if number % 2 else events.next())
        node.gate.set()

    await until(lambda: SUBSCRIBERS._value.get() == before)
