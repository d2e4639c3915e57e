"""How answers go out: repeated headers, refusals as text, and whether they went out whole."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest

from api.app import build_app
from api.auth import Access, Principal
from api.limits import Limits
from api.routes import Reply, Request, Route, StreamReply
from api.server import Server
from schemas.problems import CONFLICT, Refusal

TOKEN = "a-token-of-this-test"
HEAD = f"Host: forge\r\nAuthorization: Bearer {TOKEN}\r\n".encode()
KIB = 1024
LARGE_PARTS = 256  # more than a socket takes unread
Parts = Callable[[], AsyncIterator[bytes]]


class EndingAccess(Access):
    """Ends every token when told."""

    def __init__(self) -> None:
        super().__init__(TOKEN)
        self.over = asyncio.Event()

    async def ended(self, principal: Principal) -> None:
        await self.over.wait()


@asynccontextmanager
async def served(*routes: Route, access: Access | None = None, **options: Any) -> AsyncIterator[Server]:
    server = Server(
        build_app(routes, authoriser=access or Access(TOKEN)), "127.0.0.1", 0, **{"shutdown_s": 1} | options
    )
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def port(server: Server) -> int:
    assert server._listener is not None
    return int(server._listener.sockets[0].getsockname()[1])


def client(server: Server) -> httpx2.AsyncClient:
    headers = {"authorization": f"Bearer {TOKEN}"}
    return httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port(server)}", headers=headers, timeout=60)


async def test_a_header_may_be_there_several_times_and_have_any_name() -> None:
    """P4.4: relayed headers repeat; ours are added once, and the date that was relayed is the only one."""
    pairs = [("Set-Cookie", "a=1"), ("X-Odd_Name!", "ü"), ("Set-Cookie", "b=2"), ("Date", "then")]
    pairs += [("Content-Type", "text/x-note"), ("X-Request-Id", "somebody else's")]

    async def chunks() -> AsyncIterator[bytes]:
        yield b"hi"

    async def whole(request: Request[None]) -> Reply:
        return Reply(201, b"hi", pairs)

    async def streamed(request: Request[None]) -> StreamReply:
        return StreamReply(201, chunks(), [*pairs, ("Content-Length", "2")])

    routes = [Route("GET", "/whole", "vector.read", whole), Route("GET", "/streamed", "vector.read", streamed)]
    async with served(*routes) as server, client(server) as asking:
        for path in ("/whole", "/streamed"):
            reply = await asking.get(path, headers={"x-request-id": "mine"})
            assert reply.headers.get_list("set-cookie") == ["a=1", "b=2"]
            raw = [(name.lower(), value) for name, value in reply.headers.raw]
            assert (b"x-odd_name!", "ü".encode("latin-1")) in raw
            named = [name for name, _ in raw]
            assert {name: named.count(name) for name in (b"content-type", b"date", b"x-request-id")} == {
                b"content-type": 1,
                b"date": 1,
                b"x-request-id": 1,
            }
            assert reply.headers["content-type"] == "text/x-note"
            assert reply.headers["x-request-id"] == "mine"
            assert reply.content == b"hi"


async def test_refusals_of_a_plain_route_are_one_line_of_text() -> None:
    """A9: those of the gate, of the method, of the handler, and failures; status and headers stay."""

    async def handler(request: Request[None]) -> Reply:
        if request.query.get("broken"):
            raise RuntimeError("a secret cause")
        raise Refusal(CONFLICT.problem("two\nlines", fix="nothing"), {"x-more": "1"})

    plain = Route("GET", "/p/{rest:path}", "vector.read", handler, plain_errors=True)
    async with served(plain, Route("GET", "/api/json", "vector.read", handler)) as server, client(server) as asking:
        anonymous = await asking.get("/p/x", headers={"authorization": ""})
        assert anonymous.status_code == 401
        assert anonymous.text.startswith("No valid token was given: ")
        assert "www-authenticate" in anonymous.headers
        refused = await asking.get("/p/x")
        assert (refused.status_code, refused.headers["x-more"]) == (409, "1")
        assert refused.text == "The state has changed in the meantime: two lines\n"
        method = await asking.post("/p/x")
        assert (method.status_code, method.headers["allow"]) == (405, "GET, HEAD")
        broken = await asking.get("/p/x?broken=1")
        assert broken.status_code == 500
        for reply in (anonymous, refused, method, broken):
            assert reply.headers["content-type"] == "text/plain; charset=utf-8"
            assert reply.text.count("\n") == 1
        assert (await asking.get("/p/two%0Alines")).status_code == 409
        assert (await asking.get("/api/json")).json()["status"] == 409


class Answered:
    """A handler of a streamed answer, and what it is told in the end."""

    def __init__(self, parts: Parts, *, endless: bool = False, announced_bytes: int | None = None) -> None:
        self.told: list[bool] = []
        self.heard, self.closed, self.begun, self.release = (asyncio.Event() for _ in range(4))
        self._parts, self._endless = parts, endless
        self._headers = {"Content-Length": str(announced_bytes)} if announced_bytes is not None else {}

    async def __call__(self, request: Request[None]) -> StreamReply:
        self.begun.set()
        return StreamReply(200, self._chunks(), self._headers, endless=self._endless, answered=self._answered)

    async def _chunks(self) -> AsyncIterator[bytes]:
        try:
            async for part in self._parts():
                yield part
        finally:
            self.closed.set()

    def _answered(self, complete: bool) -> None:
        self.told.append(complete)
        self.heard.set()

    async def outcome(self) -> bool:
        async with asyncio.timeout(60):
            await self.heard.wait()
        await asyncio.sleep(0)
        (complete,) = self.told
        return complete


async def few() -> AsyncIterator[bytes]:
    yield b"one"
    yield b"two"


async def broken() -> AsyncIterator[bytes]:
    yield b"one"
    raise RuntimeError("the source broke")


async def unending() -> AsyncIterator[bytes]:
    yield b"one"
    await asyncio.get_running_loop().create_future()


async def large() -> AsyncIterator[bytes]:
    for _ in range(LARGE_PARTS):
        yield bytes(64 * KIB)


async def flood() -> AsyncIterator[bytes]:
    while True:
        yield bytes(64 * KIB)


def reset(writer: asyncio.StreamWriter) -> None:
    link = writer.get_extra_info("socket")
    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def route(handler: Answered, **options: Any) -> Route:
    return Route("GET", "/x", "vector.read", handler, **options)


async def test_a_whole_answer_is_told_so_once() -> None:
    """P4.7: the relay says to the sender what became of his message."""
    handler = Answered(few)
    async with served(route(handler)) as server, client(server) as asking:
        assert (await asking.get("/x")).content == b"onetwo"
        assert await handler.outcome() is True


async def test_a_source_that_breaks_is_told_as_incomplete() -> None:
    handler = Answered(broken)
    async with served(route(handler)) as server, client(server) as asking:
        with pytest.raises(httpx2.RemoteProtocolError):
            await asking.get("/x")
        assert await handler.outcome() is False


@pytest.mark.parametrize("parts", [unending, flood])
@pytest.mark.parametrize("leave", [reset, lambda writer: writer.close()])
async def test_a_client_that_leaves_is_told_as_incomplete(parts: Parts, leave: Callable[..., None]) -> None:
    """P4.8: while the source waits, and while the client reads too slowly."""
    handler = Answered(parts)
    async with served(route(handler)) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", port(server), limit=1)
        writer.write(b"GET /x HTTP/1.1\r\n" + HEAD + b"\r\n")
        async with asyncio.timeout(60):
            await handler.begun.wait()
        leave(writer)
        assert await handler.outcome() is False
        async with asyncio.timeout(60):
            await handler.closed.wait()
        writer.close()


@pytest.mark.parametrize("had_all", [True, False])
async def test_a_client_that_leaves_when_it_has_all_is_told_as_complete(had_all: bool) -> None:
    """S1, S4: it knows the length, so it need not wait for our end; what it had must not go to somebody else too."""
    left = asyncio.Event()

    async def all_before_the_end() -> AsyncIterator[bytes]:
        yield b"onetwo"
        await left.wait()

    handler = Answered(all_before_the_end, announced_bytes=6 if had_all else 7)
    async with served(route(handler)) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port(server))
        writer.write(b"GET /x HTTP/1.1\r\n" + HEAD + b"\r\n")
        async with asyncio.timeout(60):
            await reader.readuntil(b"onetwo")
            writer.close()
            await writer.wait_closed()
            while server.connections:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.005)
        left.set()
        assert await handler.outcome() is had_all


async def test_a_client_that_leaves_before_it_has_all_is_told_as_incomplete() -> None:
    """S4: though the last part was written, and only waits to be taken."""
    handler = Answered(large, announced_bytes=LARGE_PARTS * 64 * KIB)
    async with served(route(handler)) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port(server), limit=KIB)
        writer.write(b"GET /x HTTP/1.1\r\n" + HEAD + b"\r\n")
        read_bytes = 0
        async with asyncio.timeout(60):
            while not handler.closed.is_set():
                read_bytes += len(await reader.read(64 * KIB))
        assert read_bytes < LARGE_PARTS * 64 * KIB
        writer.close()
        assert await handler.outcome() is False


@pytest.mark.parametrize("endless", [True, False])
async def test_an_answer_that_the_node_ends_is_told_as_incomplete(endless: bool) -> None:
    handler = Answered(unending, endless=endless)
    async with served(route(handler), shutdown_s=0.2) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port(server))
        writer.write(b"GET /x HTTP/1.1\r\n" + HEAD + b"\r\n")
        async with asyncio.timeout(60):
            await handler.begun.wait()
        await server.stop()
        assert await handler.outcome() is False
        writer.close()
        del reader


async def test_an_answer_whose_token_ends_is_told_as_incomplete() -> None:
    access = EndingAccess()
    handler = Answered(unending)
    async with served(route(handler), access=access) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", port(server))
        writer.write(b"GET /x HTTP/1.1\r\n" + HEAD + b"\r\n")
        async with asyncio.timeout(60):
            await handler.begun.wait()
        access.over.set()
        assert await handler.outcome() is False
        writer.close()


async def test_an_answer_that_was_not_begun_is_told_as_incomplete() -> None:
    """P4.8: the client left while the handler waited, the node stops while it waits, a header cannot be sent."""

    class Late(Answered):
        async def __call__(self, request: Request[None]) -> StreamReply:
            self.begun.set()
            with contextlib.suppress(asyncio.CancelledError):  # as a handler may that has claimed what it must hand on
                await self.release.wait()
            return await super().__call__(request)

    for waits in (True, False):
        handler = Late(few)
        async with served(route(handler, waits=waits)) as server:
            _, writer = await asyncio.open_connection("127.0.0.1", port(server))
            writer.write(b"GET /x HTTP/1.1\r\n" + HEAD + b"\r\n")
            async with asyncio.timeout(60):
                await handler.begun.wait()
                reset(writer)
                while server.connections:  # noqa: ASYNC110 - it has no event
                    await asyncio.sleep(0.005)
            handler.release.set()
            assert await handler.outcome() is False

        handler = Late(few)
        async with served(route(handler, waits=waits), shutdown_s=0.1) as server:
            _, writer = await asyncio.open_connection("127.0.0.1", port(server))
            writer.write(b"GET /x HTTP/1.1\r\n" + HEAD + b"\r\n")
            async with asyncio.timeout(60):
                await handler.begun.wait()
            await server.stop()
            assert await handler.outcome() is False
            writer.close()


@pytest.mark.parametrize("leave", [reset, lambda writer: writer.close()])
async def test_a_client_that_leaves_while_its_body_waits_is_noticed(leave: Callable[..., None]) -> None:
    """P4.8: nothing is read from it then, so its end would be read only behind all that it has sent."""
    held, gone = asyncio.Event(), asyncio.Event()

    async def hold(request: Request[None]) -> Reply:
        async for _ in request.stream():
            request.departure.tell = gone.set
            held.set()
            await gone.wait()
        return Reply(204)

    upload = Route("POST", "/up", "vector.write", hold, streaming=True, body_bytes_max=1 << 30)
    async with served(upload, limits=Limits(linger_s=0.5)) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", port(server))
        (connection,) = await connected(server)
        block = b"%x\r\n%b\r\n" % (64 * KIB, bytes(64 * KIB))
        async with asyncio.timeout(60):
            writer.write(b"POST /up HTTP/1.1\r\n" + HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + block)
            await held.wait()
            writer.write(2 * block)
            await writer.drain()
            while connection._reading:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.005)
            assert not gone.is_set()
            leave(writer)
            await gone.wait()


async def connected(server: Server) -> list[Any]:
    async with asyncio.timeout(60):
        while not server.connections:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.005)
    return list(server.connections)


async def test_a_request_behind_a_large_body_is_answered_though_its_headers_come_in_parts() -> None:
    """PR7: a body is parsed in larger pieces than headers are counted in."""

    async def take(request: Request[None]) -> Reply:
        return Reply(200, {"size": sum([len(chunk) async for chunk in request.stream()])})

    upload = Route("POST", "/up", "vector.write", take, streaming=True, body_bytes_max=1 << 30)
    size = 4 * 1024 * KIB
    async with served(upload) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port(server))
        for _ in range(3):
            writer.write(b"POST /up HTTP/1.1\r\n" + HEAD + b"Content-Length: %d\r\n\r\n" % size + bytes(size))
            writer.write(b"POST /up HTTP/1.1\r\nX-Long: " + b"a" * 8 * KIB)
            writer.write(b"a" * 4 * KIB + b"\r\n" + HEAD + b"Content-Length: 1\r\n\r\nx")
            async with asyncio.timeout(60):
                assert (await reader.readuntil(b"}")).endswith(b'{"size":%d}' % size)
                assert (await reader.readuntil(b"}")).endswith(b'{"size":1}')
        writer.close()


async def test_a_client_that_leaves_with_the_last_byte_has_everything() -> None:
    """S2: else what curl has printed before it ends is delivered once more, to somebody else."""

    async def parts() -> AsyncIterator[bytes]:
        yield b"whole"

    told: asyncio.Queue[bool] = asyncio.Queue()

    async def handler(request: Request[None]) -> StreamReply:
        return StreamReply(200, parts(), {"Content-Length": "5"}, answered=told.put_nowait)

    async with served(Route("GET", "/", "vector.read", handler)) as server:
        for _ in range(200):
            reader, writer = await asyncio.open_connection("127.0.0.1", port(server))
            writer.write(b"GET / HTTP/1.1\r\n" + HEAD + b"\r\n")
            await reader.readuntil(b"whole")
            writer.close()
            async with asyncio.timeout(60):
                assert await told.get()
