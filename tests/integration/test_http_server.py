"""The HTTP server and the adapter over real sockets: limits, malformed requests, streaming, shutdown."""

import asyncio
import contextlib
import inspect
import json
import random
import re
import resource
import shutil
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx2
import pytest
import uvloop
from prometheus_client import REGISTRY
from pydantic import BaseModel

from api.app import build_app
from api.auth import Access, Authoriser, Principal
from api.limits import Limits
from api.problems import ClientGone
from api.routes import PUBLIC, Reply, Request, Route, StreamReply
from api.server import Server
from schemas.problems import TOO_MANY_REQUESTS, Refusal

TOKEN = "a-token-of-this-test"
AUTH = f"Authorization: Bearer {TOKEN}\r\n".encode()
HOST = b"Host: forge\r\n"
SHORT = Limits(header_deadline_s=0.3, body_idle_s=0.3, keep_alive_s=0.6, linger_s=0.3)
CAP = 1000
MIB = 1 << 20


class Greeting(BaseModel):
    name: str
    times: int = 1


@dataclass
class Seen:
    """The handlers of a test, and what they saw."""

    bodies: list[bytes] = field(default_factory=list)
    gone: int = 0
    streams_open: int = 0
    called: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    held: asyncio.Event = field(default_factory=asyncio.Event)

    async def health(self, request: Request[None]) -> Reply:
        return Reply(200, {"status": "ok"})

    async def greet(self, request: Request[Greeting]) -> Reply:
        self.called += 1
        return Reply(200, {"text": f"hello {request.body.name}" * request.body.times})

    async def show(self, request: Request[None]) -> Reply:
        return Reply(200, {"name": request.params["name"], "q": request.query.get("q"), "id": request.id})

    async def upload(self, request: Request[None]) -> Reply:
        self.called += 1
        try:
            size_bytes = 0
            async for chunk in request.stream():
                size_bytes += len(chunk)
                self.bodies.append(chunk[:16])
            return Reply(202, {"size": size_bytes})
        except ClientGone:
            self.gone += 1
            raise

    async def slow_upload(self, request: Request[None]) -> Reply:
        size_bytes = 0
        async for chunk in request.stream():
            if not size_bytes:
                self.held.set()
                await self.gate.wait()
            size_bytes += len(chunk)
        return Reply(202, {"size": size_bytes})

    async def busy(self, request: Request[None]) -> Reply:
        raise Refusal(TOO_MANY_REQUESTS.problem("the queue holds 5000 jobs", retry_after_s=3))

    async def broken(self, request: Request[None]) -> Reply:
        raise RuntimeError("a secret cause")

    async def hold(self, request: Request[None]) -> Reply:
        self.held.set()
        await self.gate.wait()
        return Reply(200, {"held": True})

    async def events(self, request: Request[None]) -> StreamReply:
        async def ticks() -> AsyncIterator[bytes]:
            self.streams_open += 1
            try:
                yield b"data: first\n\n"
                await self.gate.wait()
                yield b"data: last\n\n"
            finally:
                self.streams_open -= 1

        return StreamReply(200, ticks(), content_type="text/event-stream", endless=True)

    async def flood(self, request: Request[None]) -> StreamReply:
        async def parts() -> AsyncIterator[bytes]:
            self.streams_open += 1
            try:
                for _ in range(2000):
                    yield bytes(64 * 1024)
                    self.called += 1
            finally:
                self.streams_open -= 1

        return StreamReply(200, parts())

    async def half(self, request: Request[None]) -> StreamReply:
        async def parts() -> AsyncIterator[bytes]:
            yield b"half of it"
            raise RuntimeError("the source broke")

        return StreamReply(200, parts())

    async def large(self, request: Request[None]) -> Reply:
        return Reply(200, bytes(16 * MIB), content_type="application/octet-stream")

    async def metrics(self, request: Request[None]) -> Reply:
        return Reply(200, b"forge_up 1\n", content_type="text/plain; version=0.0.4")

    async def bad_header(self, request: Request[None]) -> Reply:
        return Reply(200, {}, {"x-evil": "a\r\nset-cookie: b"})


def table(seen: Seen) -> list[Route]:
    """A route of every kind."""
    return [
        Route("GET", "/healthz", PUBLIC, seen.health),
        Route("POST", "/api/v1/greet", "vector.write", seen.greet, body=Greeting, body_bytes_max=CAP),
        Route("GET", "/api/v1/things/{name}", "vector.read", seen.show),
        Route("POST", "/api/v1/upload", "vector.write", seen.upload, streaming=True, body_bytes_max=CAP),
        Route("POST", "/api/v1/big", "vector.write", seen.slow_upload, streaming=True, body_bytes_max=1 << 30),
        Route("POST", "/api/v1/busy", "vector.write", seen.busy, streaming=True, body_bytes_max=1 << 30),
        Route("GET", "/api/v1/broken", "vector.read", seen.broken),
        Route("GET", "/api/v1/hold", "vector.read", seen.hold),
        Route("GET", "/api/v1/events", "vector.read", seen.events),
        Route("GET", "/api/v1/flood", "vector.read", seen.flood),
        Route("GET", "/api/v1/half", "vector.read", seen.half),
        Route("GET", "/api/v1/bad-header", "vector.read", seen.bad_header),
        Route("GET", "/api/v1/large", "vector.read", seen.large),
        Route("GET", "/metrics", "vector.read", seen.metrics),
    ]


@dataclass
class Node:
    """A running server."""

    server: Server
    host: str
    port: int
    seen: Seen

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    async def raw(self, *parts: bytes, deadline_s: float = 60) -> bytes:
        """Send `parts` on a new connection and return everything until the server closes it."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            for part in parts:
                writer.write(part)
                with contextlib.suppress(ConnectionError):
                    await writer.drain()
            async with asyncio.timeout(deadline_s):
                return await reader.read()
        finally:
            await hang_up(writer)

    def client(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(base_url=self.url, headers={"authorization": f"Bearer {TOKEN}"}, timeout=60)


StartNode = Callable[..., Awaitable[Node]]


@contextlib.asynccontextmanager
async def starting() -> AsyncIterator[StartNode]:
    """Start servers; all of them are stopped at the end."""
    servers: list[Server] = []

    async def start_node(
        limits: Limits = Limits(),  # noqa: B008 - it is frozen
        shutdown_s: float = 5,
        authoriser: Authoriser | None = None,
    ) -> Node:
        seen = Seen()
        app = build_app(table(seen), authoriser=authoriser or Access(TOKEN))
        server = Server(app, "127.0.0.1", 0, limits=limits, shutdown_s=shutdown_s)
        servers.append(server)
        host, port = await server.start()
        return Node(server, host, port, seen)

    yield start_node
    for server in servers:
        await server.stop()


@pytest.fixture
async def start() -> AsyncIterator[StartNode]:
    async with starting() as start_node:
        yield start_node


@pytest.fixture
async def node(start: StartNode) -> Node:
    return await start()


def statuses(answer: bytes) -> list[int]:
    """Return the status of every answer in a byte stream."""
    return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


def problem_of(answer: bytes) -> dict[str, object]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head
    parsed: dict[str, object] = json.loads(body)
    return parsed


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def until(condition: Callable[[], bool], deadline_s: float = 60) -> None:
    async with asyncio.timeout(deadline_s):
        while not condition():  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0.005)


def post(path: bytes, body: bytes, *headers: bytes) -> bytes:
    lines = b"".join(header + b"\r\n" for header in headers)
    return b"POST " + path + b" HTTP/1.1\r\n" + HOST + AUTH + lines + b"Content-Length: %d\r\n\r\n" % len(body) + body


GREET = b"POST /api/v1/greet HTTP/1.1\r\n" + HOST + AUTH
MALFORMED = {
    "no Host": (b"GET /healthz HTTP/1.1\r\n\r\n", 400),
    "two Hosts": (b"GET /healthz HTTP/1.1\r\n" + HOST + HOST + b"\r\n", 400),
    "Transfer-Encoding and Content-Length": (
        GREET + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n" + HOST + b"\r\n",
        400,
    ),
    "two Content-Lengths": (GREET + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", 400),
    "Content-Length that is no number": (GREET + b"Content-Length: +2\r\n\r\n{}", 400),
    "chunk size that is no number": (GREET + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n{}\r\n0\r\n\r\n", 400),
    "folded header": (b"GET /healthz HTTP/1.1\r\n" + HOST + b"X-A: b\r\n c\r\n\r\n", 400),
    "space in a header name": (b"GET /healthz HTTP/1.1\r\n" + HOST + b"X A: b\r\n\r\n", 400),
    "NUL in a header": (b"GET /healthz HTTP/1.1\r\n" + HOST + b"X-A: b\0c\r\n\r\n", 400),
    "garbage": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "headers too long": (b"GET /healthz HTTP/1.1\r\n" + HOST + b"X-A: " + b"a" * 20_000 + b"\r\n\r\n", 431),
    "header that never ends": (b"GET /healthz HTTP/1.1\r\n" + HOST + b"X-A: " + b"a" * 100_000, 431),
    "too many headers": (b"GET /healthz HTTP/1.1\r\n" + HOST + b"X: y\r\n" * 200 + b"\r\n", 431),
    "target too long": (b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414),
    "unknown version": (b"GET /healthz HTTP/2.0\r\n" + HOST + b"\r\n", 505),
    "unknown coding": (GREET + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    "bare line feeds": (b"GET /healthz HTTP/1.1\nHost: forge\n\n", 400),
    "trailers too long": (
        b"POST /api/v1/upload HTTP/1.1\r\n"
        + HOST
        + AUTH
        + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: "
        + b"a" * 20_000
        + b"\r\n\r\n",
        431,
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_a_malformed_request_gets_one_answer_that_names_the_fault(node: Node, name: str) -> None:
    """PR7: right status, one answer, a closed connection, no traceback; also with a request behind it."""
    request, status = MALFORMED[name]
    behind = b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"

    for sent in (request, request + behind):
        answer = await node.raw(sent)
        assert statuses(answer) == [status], answer
        assert b"connection: close" in answer
        assert problem_of(answer)["status"] == status
        assert b"x-request-id: " + str(problem_of(answer)["request_id"]).encode() in answer
        assert b"Traceback" not in answer
    assert node.seen.called == 0 or name == "trailers too long"


async def test_a_fault_behind_a_good_request_leaves_the_first_answer_whole(node: Node) -> None:
    good = b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"
    answer = await node.raw(good + good + b"rubbish\r\n\r\n")

    assert statuses(answer) == [200, 200, 400]


async def test_mutated_requests_never_get_a_5xx_nor_an_answer_too_many(start: StartNode) -> None:
    """PR7: 1,000 mutations; at most one answer per message and one refusal, and nothing after it."""
    node = await start(SHORT)
    seed = 20261120
    print(f"seed {seed}")
    rng = random.Random(seed)
    originals = [
        b"GET /healthz HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n",
        post(b"/api/v1/greet", b'{"name":"a"}', b"Connection: close"),
        GREET + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\nc\r\n" + b'{"name":"a"}\r\n0\r\n\r\n',
    ]

    async def probe(request: bytes) -> None:
        answer = b""
        with contextlib.suppress(ConnectionError):
            answer = await node.raw(request)
        codes = statuses(answer)
        ids = re.findall(rb"x-request-id: (\S+)", answer)
        assert len(codes) <= 1 + request.count(b"\r\n\r\n"), (request, answer)
        assert len(set(ids)) == len(ids), (request, answer)
        assert answer.count(b"connection: close\r\n") <= 1, (request, answer)
        assert b"connection: close" not in b"".join(re.split(rb"HTTP/1\.1 (?=\d)", answer)[:-1])
        assert all(code < 500 or code in (501, 505) for code in codes), (request, answer)

    for _ in range(5):
        await asyncio.gather(*(probe(mutated(rng, rng.choice(originals))) for _ in range(200)))
    assert statuses(await node.raw(originals[0])) == [200]


def mutated(rng: random.Random, request: bytes) -> bytes:
    data = bytearray(request)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(data))
        match rng.randrange(4):
            case 0:
                data[at] = rng.randrange(256)
            case 1:
                del data[at : at + rng.randint(1, 8)]
            case 2:
                data[at:at] = rng.choice([b"\r\n", b"\0", b" ", b"\n", b":", b"\xff", b"Content-Length: 1\r\n"])
            case _:
                data[at:at] = data[at : at + 20]
        data = data or bytearray(b"x")
    return bytes(data)


async def test_half_sent_headers_are_answered_408_and_closed(start: StartNode) -> None:
    """PR7: however slowly the rest drips in."""
    node = await start(SHORT)
    reader, writer = await asyncio.open_connection(node.host, node.port)
    answer = asyncio.ensure_future(reader.read())
    with contextlib.suppress(ConnectionError):
        for byte in b"GET /healthz HTTP/1.1\r\nHost: forge\r\nX-Slow: " + b"a" * 1000:
            if answer.done():
                break
            writer.write(bytes([byte]))
            await asyncio.sleep(0.01)
    received = await asyncio.wait_for(answer, 10)
    await hang_up(writer)

    assert statuses(received) == [408]
    assert problem_of(received)["type"] == "urn:forge:problem:request-timeout"


async def test_a_thousand_half_sent_headers_are_closed_while_others_are_served(start: StartNode) -> None:
    """PR7: slow sockets hold nothing up, and none of them stays."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 4096), hard), hard))
    node = await start(replace(SHORT, header_deadline_s=1.5))
    sockets = []
    for _ in range(1000):
        link = socket.create_connection((node.host, node.port))
        link.sendall(b"GET /healthz HTTP/1.1\r\nHost: fo")  # before the server does: who says nothing gets no answer
        link.setblocking(False)
        sockets.append(await asyncio.open_connection(sock=link))
    async with node.client() as client:
        assert (await client.get("/healthz")).status_code == 200

    answers = await asyncio.wait_for(asyncio.gather(*(reader.read() for reader, _ in sockets)), 30)
    for _, writer in sockets:
        await hang_up(writer)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert {tuple(statuses(answer)) for answer in answers} == {(408,)}


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 500\r\n\r\nonly this", b"Transfer-Encoding: chunked\r\n\r\n5\r\nonl"]
)
@pytest.mark.parametrize("path", [b"/api/v1/upload", b"/api/v1/greet"])
async def test_half_sent_bodies_are_answered_408_and_closed(start: StartNode, path: bytes, framing: bytes) -> None:
    """PR7."""
    node = await start(SHORT)
    answer = await node.raw(b"POST " + path + b" HTTP/1.1\r\n" + HOST + AUTH + framing)

    assert statuses(answer) == [408]
    assert node.seen.gone == (1 if path.endswith(b"upload") else 0)


async def test_a_client_that_stops_reading_is_cut(start: StartNode) -> None:
    """PR7: an unread answer ends its handler instead of filling memory."""
    node = await start(SHORT)
    reader, writer = await asyncio.open_connection(node.host, node.port, limit=1024)
    writer.write(b"GET /api/v1/flood HTTP/1.1\r\n" + HOST + AUTH + b"\r\n")
    await until(lambda: node.seen.streams_open == 1)
    await until(lambda: node.seen.streams_open == 0)
    await hang_up(writer)

    assert node.seen.called < 2000
    assert reader is not None


async def test_a_client_that_reads_slowly_but_steadily_gets_its_whole_answer(start: StartNode) -> None:
    """The deadline is about progress, not about the time an answer takes."""
    limits = replace(SHORT, body_idle_s=2)  # a stall of the machine is not to be taken for one of the client
    node = await start(limits)
    reader, writer = await asyncio.open_connection(node.host, node.port, limit=64 * 1024)
    writer.write(b"GET /api/v1/large HTTP/1.1\r\n" + HOST + AUTH + b"Connection: close\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    received, started_s = 0, time.monotonic()
    while chunk := await reader.read(256 * 1024):
        received += len(chunk)
        if time.monotonic() - started_s < 2 * limits.body_idle_s:
            await asyncio.sleep(0.02)
    await hang_up(writer)

    assert received == 16 * MIB


async def test_an_unread_rest_of_an_answer_does_not_hold_its_connection(start: StartNode) -> None:
    """PR7: also when the handler is long done."""
    node = await start(SHORT)
    _, writer = await asyncio.open_connection(node.host, node.port, limit=1024)
    writer.write(b"GET /api/v1/large HTTP/1.1\r\n" + HOST + AUTH + b"Connection: close\r\n\r\n")
    await until(lambda: len(node.server.connections) == 1)
    await until(lambda: len(node.server.connections) == 0)
    await hang_up(writer)


async def test_an_idle_connection_is_closed(start: StartNode) -> None:
    """PR7: silently, both when it never spoke and after its last answer."""
    node = await start(SHORT)

    assert await node.raw() == b""
    assert statuses(await node.raw(b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n")) == [200]


async def test_excess_connections_are_turned_away_with_503(start: StartNode) -> None:
    """PR7, and service resumes when connections are free again."""
    node = await start(Limits(connections_max=3, refused_max=2))
    held = [await asyncio.open_connection(node.host, node.port) for _ in range(3)]
    await until(lambda: len(node.server.connections) == 3)

    answer = await node.raw()
    assert statuses(answer) == [503]
    assert b"retry-after: " in answer

    for _, writer in held:
        await hang_up(writer)
    await until(lambda: len(node.server.connections) == 0)
    assert statuses(await node.raw(b"GET /healthz HTTP/1.0\r\n\r\n")) == [200]


async def test_keep_alive_and_pipelining_answer_in_order(node: Node) -> None:
    requests = [b"GET /api/v1/things/%d HTTP/1.1\r\n" % number + HOST + AUTH + b"\r\n" for number in range(20)]
    last = b"GET /healthz HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
    answer = await node.raw(b"".join(requests) + last)

    assert statuses(answer) == [200] * 21
    places = [answer.index(b'"name":"%d"' % number) for number in range(20)]
    assert places == sorted(places)


async def test_too_many_pipelined_requests_are_refused(start: StartNode) -> None:
    """PR7."""
    node = await start(Limits(pipelined_max=4))
    answer = await node.raw(b"GET /healthz HTTP/1.1\r\n%b\r\n" % HOST * 50)

    codes = statuses(answer)
    assert codes[-1] == 400
    assert set(codes[:-1]) == {200}
    assert len(codes) <= 6


async def test_a_request_for_another_protocol_is_answered_in_this_one(node: Node) -> None:
    answer = await node.raw(b"GET /healthz HTTP/1.1\r\n%bConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n" % HOST)

    assert statuses(answer) == [200]


async def test_an_absolute_target_is_served(node: Node) -> None:
    request = b"GET http://forge/healthz HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"

    assert statuses(await node.raw(request)) == [200]


async def test_head_answers_like_get_without_a_body(node: Node) -> None:
    answer = await node.raw(b"HEAD /healthz HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n")

    assert answer.endswith(b"\r\n\r\n")
    assert b"content-length: 15" in answer
    assert statuses(answer) == [200]


async def test_the_request_id_is_taken_or_made_and_echoed(node: Node) -> None:
    async with node.client() as client:
        taken = await client.get("/api/v1/things/a", headers={"x-request-id": "mine-1"})
        made = await client.get("/api/v1/things/a", headers={"x-request-id": "not sane; rm"})

    assert taken.headers["x-request-id"] == "mine-1"
    assert taken.json()["id"] == "mine-1"
    assert len(made.headers["x-request-id"]) == 26


async def test_the_openapi_document_is_served_to_those_with_a_token(node: Node) -> None:
    async with node.client() as client:
        described = (await client.get("/api/v1/openapi.json")).json()["paths"]
        unknown = await client.get("/api/v1/openapi.json", headers={"authorization": ""})

    assert {route.path for route in table(Seen())} | {"/api/v1/openapi.json"} == set(described)
    assert unknown.status_code == 401


async def test_unknown_paths_and_methods_are_problems(node: Node) -> None:
    async with node.client() as client:
        missing = await client.get("/api/v1/nothing")
        wrong = await client.delete("/api/v1/greet")
        many = await client.post("/healthz")

    assert missing.status_code == 404
    assert missing.json()["type"] == "urn:forge:problem:not-found"
    assert wrong.status_code == 405
    assert wrong.headers["allow"] == "POST"
    assert many.headers["allow"] == "GET, HEAD"


class Nobody(Access):
    """Knows everybody and allows nothing."""

    def authenticate(self, authorization: str | None) -> Principal | None:
        return Principal("nobody") if authorization else None


async def test_every_route_but_health_wants_a_token_and_its_scope(start: StartNode) -> None:
    """PR6: the whole table, without, with a wrong, and with a powerless token."""
    node, strict = await start(), await start(authoriser=Nobody(TOKEN))
    async with httpx2.AsyncClient(timeout=10) as client:
        for route in table(Seen()):
            path = route.path.replace("{name}", "a")
            without = await client.request(route.method, node.url + path)
            wrong = await client.request(route.method, node.url + path, headers={"authorization": "Bearer x"})
            powerless = await client.request(route.method, strict.url + path, headers={"authorization": "Bearer x"})
            codes = (without.status_code, wrong.status_code, powerless.status_code)
            assert codes == ((200, 200, 200) if route.scope == PUBLIC else (401, 401, 403)), route.path
            if route.scope != PUBLIC:
                assert without.headers["www-authenticate"].startswith("Bearer")
                assert str(route.scope) in powerless.json()["detail"]


async def test_a_request_without_a_token_is_refused_before_its_body_is_read(node: Node) -> None:
    """PR6, PR7: the answer comes although the announced gigabyte never does."""
    head = b"POST /api/v1/upload HTTP/1.1\r\n" + HOST + b"Content-Length: 1000000000\r\n\r\n"
    reader, writer = await asyncio.open_connection(node.host, node.port)
    writer.write(head)
    answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    await hang_up(writer)

    assert statuses(answer) == [401]
    assert b"connection: close" in answer
    assert node.seen.called == 0


@pytest.mark.parametrize("content_type", [None, "application/json", "application/x-www-form-urlencoded", "a/b+json"])
async def test_a_json_body_is_understood_whatever_curl_calls_it(node: Node, content_type: str | None) -> None:
    async with node.client() as client:
        headers = {"content-type": content_type} if content_type else {}
        reply = await client.post("/api/v1/greet", content=b'{"name":"a"}', headers=headers)

    assert reply.status_code == 200
    assert reply.headers["content-type"] == "application/json"
    assert reply.json() == {"text": "hello a"}


@pytest.mark.parametrize(
    ("body", "headers", "status", "field"),
    [
        (b'{"name":3}', {}, 400, "name"),
        (b"{}", {}, 400, "name"),
        (b'{"name":"a","times":"x"}', {}, 400, "times"),
        (b"{", {}, 400, None),
        (b"[" * 900, {}, 400, None),
        (b"", {}, 400, None),
        (b"\xff\xfe", {}, 400, None),
        (b"a" * (CAP + 1), {}, 413, None),
        (b"{}", {"content-type": "multipart/form-data; boundary=x"}, 415, None),
        (b"{}", {"content-type": "image/png"}, 415, None),
        (b"{}", {"content-encoding": "gzip"}, 415, None),
    ],
)
async def test_a_body_that_does_not_fit_is_refused_with_the_reason(
    node: Node, body: bytes, headers: dict[str, str], status: int, field: str | None
) -> None:
    async with node.client() as client:
        reply = await client.post("/api/v1/greet", content=body, headers=headers)

    assert reply.status_code == status
    assert reply.json().get("field") == field
    assert reply.json()["error"]
    assert node.seen.called == 0


async def test_a_chunked_body_past_its_cap_is_refused_while_it_arrives(node: Node) -> None:
    """PR7: no length was announced, so the count decides."""

    async def body() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield bytes(CAP // 4)

    async with node.client() as client:
        for path in ("/api/v1/greet", "/api/v1/upload"):
            assert (await client.post(path, content=body())).status_code == 413


async def test_a_refusal_carries_its_problem_and_retry_after(node: Node) -> None:
    """PR7."""
    async with node.client() as client:
        reply = await client.post("/api/v1/busy", content=b"x")

    assert reply.status_code == 429
    assert reply.headers["retry-after"] == "3"
    assert reply.json()["error"] == "the queue holds 5000 jobs"
    assert reply.json()["request_id"] == reply.headers["x-request-id"]


async def test_a_failure_says_nothing_but_its_request_id(node: Node) -> None:
    async with node.client() as client:
        reply = await client.get("/api/v1/broken")
        injected = await client.get("/api/v1/bad-header")
        alive = await client.get("/healthz")

    assert reply.status_code == 500
    assert "secret cause" not in reply.text
    assert reply.json()["request_id"] == reply.headers["x-request-id"]
    assert injected.status_code == 500
    assert injected.json()["request_id"] == injected.headers["x-request-id"]
    assert "set-cookie" not in injected.headers
    assert alive.status_code == 200


async def test_a_stream_that_fails_half_way_is_cut_not_completed(node: Node) -> None:
    """PR7: never silent loss; the client must see that something is missing."""
    answer = b""
    with contextlib.suppress(ConnectionError):
        answer = await node.raw(b"GET /api/v1/half HTTP/1.1\r\n" + HOST + AUTH + b"\r\n")

    assert not answer.endswith(b"0\r\n\r\n")


async def test_a_client_that_leaves_is_noticed(node: Node) -> None:
    """While it sends a body, and while it is sent a stream."""
    head = b"POST /api/v1/upload HTTP/1.1\r\n" + HOST + AUTH + b"Content-Length: 900\r\n\r\nabc"
    _, writer = await asyncio.open_connection(node.host, node.port)
    writer.write(head)
    await until(lambda: node.seen.bodies == [b"abc"])
    await hang_up(writer)
    await until(lambda: node.seen.gone == 1)

    _, writer = await asyncio.open_connection(node.host, node.port)
    writer.write(b"GET /api/v1/events HTTP/1.1\r\n" + HOST + AUTH + b"\r\n")
    await until(lambda: node.seen.streams_open == 1)
    await hang_up(writer)
    await until(lambda: node.seen.streams_open == 0)


async def test_a_slow_consumer_holds_the_sender_back(node: Node) -> None:
    """PR7: of 200 MiB sent in chunks, only socket buffers' worth is taken while the handler waits."""
    reader, writer = await asyncio.open_connection(node.host, node.port)
    writer.write(b"POST /api/v1/big HTTP/1.1\r\n%b%bTransfer-Encoding: chunked\r\n\r\n" % (HOST, AUTH))
    chunk = b"%x\r\n" % MIB + bytes(MIB) + b"\r\n"
    sent = 0

    async def send() -> None:
        nonlocal sent
        for _ in range(200):
            writer.write(chunk)
            await writer.drain()
            sent += 1
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    before = rss_bytes()
    sending = asyncio.ensure_future(send())
    await node.seen.held.wait()
    stalled_at = -1
    while stalled_at != sent:  # until nothing has moved for a while
        stalled_at = sent
        await asyncio.sleep(0.3)
    assert stalled_at < 50
    node.seen.gate.set()
    answer = await asyncio.wait_for(reader.readuntil(b"}"), 60)
    await sending
    grown = rss_bytes() - before
    await hang_up(writer)

    assert statuses(answer) == [202]
    assert b'{"size":%d}' % (200 * MIB) in answer
    assert grown < 64 * MIB


def rss_bytes() -> int:
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * resource.getpagesize()


async def curl(*arguments: str) -> str:
    program = shutil.which("curl")
    if program is None:
        pytest.skip("curl is not installed")
    process = await asyncio.create_subprocess_exec(
        program, "-sS", "-m", "120", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await process.communicate()
    return (output + errors).decode()


async def test_curl_uploads_with_expect_100_continue(node: Node, tmp_path: Path) -> None:
    payload = tmp_path / "payload"
    payload.write_bytes(bytes(900))
    url, auth = f"{node.url}/api/v1/upload", f"Authorization: Bearer {TOKEN}"
    said = await curl("-v", "-H", auth, "-H", "Expect: 100-continue", "--data-binary", f"@{payload}", url)
    chunked = await curl("-H", auth, "-H", "Transfer-Encoding: chunked", "-T", str(payload), "-X", "POST", url)

    assert "HTTP/1.1 100 Continue" in said
    assert '{"size":900}' in said
    assert chunked == '{"size":900}'


@pytest.mark.parametrize("expect", ["Expect: 100-continue", "Expect:"])
@pytest.mark.parametrize(
    ("path", "token", "status"), [("upload", "wrong", 401), ("upload", TOKEN, 413), ("busy", TOKEN, 429)]
)
async def test_curl_sees_the_answer_when_a_big_upload_is_refused_early(
    node: Node, tmp_path: Path, path: str, token: str, status: int, expect: str
) -> None:
    """PR7: the answer, not a reset, although most of 64 MiB was never wanted."""
    payload = tmp_path / "payload"
    with payload.open("wb") as file:
        file.truncate(64 * MIB)
    said = await curl(
        "-w", "\n%{http_code}", "-H", f"Authorization: Bearer {token}", "-H", expect,
        "--data-binary", f"@{payload}", f"{node.url}/api/v1/{path}",
    )  # fmt: skip

    assert said.splitlines()[-1] == str(status)
    assert json.loads(said.splitlines()[0])["status"] == status


async def test_stop_finishes_running_requests_and_ends_endless_streams(start: StartNode) -> None:
    """The stop is graceful: idle connections close, the running request is answered, the stream ends whole."""
    node = await start(shutdown_s=60)
    idle_reader, idle_writer = await asyncio.open_connection(node.host, node.port)
    streaming = asyncio.ensure_future(
        node.raw(b"GET /api/v1/events HTTP/1.1\r\n" + HOST + AUTH + b"\r\n", deadline_s=60)
    )
    held = asyncio.ensure_future(node.raw(b"GET /api/v1/hold HTTP/1.1\r\n" + HOST + AUTH + b"\r\n", deadline_s=60))
    await node.seen.held.wait()
    await until(lambda: node.seen.streams_open == 1)
    await until(lambda: len(node.server.connections) == 3)

    stopping = asyncio.ensure_future(node.server.stop())
    assert await asyncio.wait_for(idle_reader.read(), 10) == b""
    events = await streaming
    assert not stopping.done()
    node.seen.gate.set()
    answer = await held
    await asyncio.wait_for(stopping, 10)
    await hang_up(idle_writer)

    assert events.endswith(b"data: first\n\n\r\n0\r\n\r\n")
    assert statuses(answer) == [200]
    assert b"connection: close" in answer
    assert node.seen.streams_open == 0
    with pytest.raises(OSError, match="onnect"):
        await asyncio.open_connection(node.host, node.port)


async def test_stop_cuts_what_does_not_end_within_its_bound(start: StartNode) -> None:
    """PR7: a request that never ends cannot keep the node from stopping."""
    node = await start(shutdown_s=0.3)
    held = asyncio.ensure_future(node.raw(b"GET /api/v1/hold HTTP/1.1\r\n" + HOST + AUTH + b"\r\n"))
    await node.seen.held.wait()
    async with asyncio.timeout(60):  # without a bound it would wait for ever
        await node.server.stop()

    with contextlib.suppress(ConnectionError):
        assert await held == b""
    assert not node.server.connections


async def test_requests_are_counted_by_template(node: Node) -> None:
    """Labels are bounded: neither path parameters nor unknown paths nor odd methods make new ones."""

    def count(method: str, route: str, status_class: str) -> float:
        labels = {"method": method, "route": route, "status_class": status_class}
        return REGISTRY.get_sample_value("forge_http_requests_total", labels) or 0.0

    before = [
        count("GET", "/api/v1/things/{name}", "2xx"),
        count("GET", "unmatched", "4xx"),
        count("other", "/healthz", "4xx"),
    ]
    async with node.client() as client:
        for number in range(3):
            await client.get(f"/api/v1/things/{number}")
            await client.get(f"/nothing/{number}")
        await client.request("PROPFIND", "/healthz")
        text = await client.get("/metrics")

    after = [
        count("GET", "/api/v1/things/{name}", "2xx"),
        count("GET", "unmatched", "4xx"),
        count("other", "/healthz", "4xx"),
    ]
    assert [b - a for a, b in zip(before, after, strict=True)] == [3, 3, 1]
    assert text.headers["content-type"] == "text/plain; version=0.0.4"
    assert text.text == "forge_up 1\n"


ON_ONE_SERVER = [
    scenario
    for name, scenario in list(globals().items())
    if name.startswith("test_") and tuple(inspect.signature(scenario).parameters) in (("node",), ("start",))
]


@pytest.mark.parametrize("scenario", ON_ONE_SERVER, ids=lambda scenario: scenario.__name__)
def test_the_same_holds_on_uvloop(scenario: Callable[..., Awaitable[None]]) -> None:
    """The node runs on uvloop, whose transports differ from those of the tests above."""

    async def run() -> None:
        async with starting() as start_node:
            wanted = tuple(inspect.signature(scenario).parameters)
            await scenario(await start_node() if wanted == ("node",) else start_node)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
