"""WebSocket over real sockets: the `websockets` library is the other side, or bare bytes where that is too good."""

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Callable

import pytest
from prometheus_client import REGISTRY
from websockets.exceptions import InvalidStatus
from websockets.frames import Opcode

from api.limits import Limits
from api.origins import Origins
from api.problems import ClientGone
from api.websocket import MESSAGE_BYTES_MAX, WebSocket, text_frame
from schemas.problems import CONFLICT, Refusal
from tests.websocket_peer import (
    KIB,
    TOKEN,
    WAIT_S,
    EndingAccess,
    Watched,
    close_code,
    closing,
    connected,
    echo,
    ended,
    frame,
    handshake,
    of,
    open_now,
    port,
    raw,
    served,
    silence,
    until,
)


async def test_messages_go_both_ways() -> None:
    """P3: text and bytes, empty and of the largest size, and the close handshake of the client."""
    before = ended("client")
    async with served(echo) as server, connected(server) as client:
        for message in ("hi", "", "ü" * 100, "a" * MESSAGE_BYTES_MAX, b"\x00\xff", b"", bytes(MESSAGE_BYTES_MAX)):
            await client.send(message)
            assert await client.recv() == message
        await client.close(4321, "enough")
        assert client.close_code == 4321
    await until(lambda: ended("client") == before + 1)
    assert open_now() == 0


async def test_a_message_encoded_once_is_sent_to_many() -> None:
    """P3: fan-out encodes a message once."""
    one = text_frame("to all of you: ü" * 1000)

    async def talk(socket: WebSocket) -> None:
        await socket.send_frame(one)
        await socket.send_frame(text_frame(b"bytes that are text"))

    async with served(talk) as server, connected(server) as client, connected(server) as other:
        for peer in (client, other):
            assert await peer.recv() == "to all of you: ü" * 1000
            assert await peer.recv() == "bytes that are text"
            assert await closing(peer) == (1000, "")


async def test_fragments_and_frames_in_pieces_are_put_together() -> None:
    """RFC 6455, 5.4: also with a ping between them, and with the first frames right behind the handshake."""
    pieces = [b"one ", "zwö".encode()[:3], "zwö".encode()[3:], b"", b" three"]
    async with served(echo) as server:
        wire = frame(Opcode.TEXT, pieces[0], fin=False) + frame(Opcode.PING, b"there?")
        wire += b"".join(frame(Opcode.CONT, piece, fin=False) for piece in pieces[1:]) + frame(Opcode.CONT, b"!")
        async with raw(server, wire) as (reader, _):
            assert await reader.readexactly(2 + 6) == b"\x8a\x06there?"
            assert await reader.readexactly(2 + 15) == b"\x81\x0f" + "one zwö three!".encode()
        async with raw(server) as (reader, writer):
            for byte in wire:
                writer.write(bytes([byte]))
                await writer.drain()
            assert (await reader.readuntil(b"!"))[-15:] == "one zwö three!".encode()
        async with connected(server) as client:
            await client.send(["a"] * 2000)
            assert await client.recv() == "a" * 2000


@pytest.mark.parametrize(
    ("wire", "code"),
    [
        (frame(Opcode.TEXT, b"a" * (MESSAGE_BYTES_MAX + 1)), 1009),
        (frame(Opcode.BINARY, bytes(MESSAGE_BYTES_MAX), fin=False) + frame(Opcode.CONT, b"a"), 1009),
        (b"\x82\xff" + struct.pack("!Q", 1 << 40) + bytes(4) + bytes(2 * MESSAGE_BYTES_MAX), 1009),
        (frame(Opcode.TEXT, b"\xff\xfe"), 1007),
        (frame(Opcode.TEXT, b"a", reserved=0x40), 1002),
        (b"\x81\x01a", 1002),
        (b"\x83\x80" + bytes(4), 1002),
        (frame(Opcode.PING, b"a", fin=False), 1002),
        (b"\x89\xfe\x00\x7e" + bytes(4 + 126), 1002),
        (frame(Opcode.CONT, b"a"), 1002),
        (frame(Opcode.TEXT, b"a", fin=False) + frame(Opcode.TEXT, b"b"), 1002),
        (frame(Opcode.CLOSE, b"\x03"), 1002),
        (frame(Opcode.CLOSE, struct.pack("!H", 1005)), 1002),
        (frame(Opcode.CLOSE, struct.pack("!H", 1000) + b"\xff"), 1007),
    ],
)
async def test_bad_frames_close_with_the_code_that_names_the_fault(wire: bytes, code: int) -> None:
    """PR7: and the handler is given up."""
    watched = Watched(silence)
    async with served(watched, limits=Limits(linger_s=0.2)) as server, raw(server, wire) as (reader, writer):
        assert await close_code(reader) == code
        writer.write(frame(Opcode.CLOSE, struct.pack("!H", code)))
        assert await reader.read() == b""
        await watched.ended.wait()
    assert isinstance(watched.error, asyncio.CancelledError)
    assert open_now() == 0


async def test_random_bytes_never_fail_inside_the_node(capsys: pytest.CaptureFixture[str]) -> None:
    """PR7."""
    async with served(echo, limits=Limits(linger_s=0.2)) as server:
        for _ in range(100):
            junk = os.urandom(300)
            async with raw(server) as (reader, writer):
                writer.write(junk + frame(Opcode.CLOSE, b""))
                writer.write_eof()
                await reader.read()
        await until(lambda: open_now() == 0)
    assert "Traceback" not in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("talk", "code", "reason"),
    [
        (lambda: None, 1000, ""),
        (
            lambda: Refusal(CONFLICT.problem("the topic is gone")),
            1008,
            "The state has changed in the meantime: the topic",
        ),
        (lambda: RuntimeError("a secret cause"), 1011, "the node failed"),
    ],
)
async def test_how_a_handler_ends_is_how_the_connection_closes(
    talk: Callable[[], BaseException | None], code: int, reason: str
) -> None:
    async def handler(socket: WebSocket) -> None:
        assert await socket.receive() == "go"
        if (error := talk()) is not None:
            raise error

    async with served(handler) as server, connected(server) as client:
        await client.send("go")
        said = await closing(client)
        assert said[0] == code
        assert said[1].startswith(reason)


async def test_the_end_of_a_token_closes_with_1008() -> None:
    """P1.11: within a second."""
    access, watched = EndingAccess(), Watched(silence)
    async with served(watched, access=access) as server, connected(server) as client:
        await watched.begun.wait()
        access.over.set()
        assert await closing(client) == (1008, "the token ended")
        assert isinstance(watched.error, asyncio.CancelledError)


async def test_a_node_that_stops_closes_with_1001() -> None:
    """PR7: well within the bound of a graceful stop, also if a client never answers the close."""
    watched = Watched(silence)
    async with served(watched, shutdown_s=60) as server, connected(server) as client:
        async with raw(server):
            await watched.begun.wait()
            stopping = asyncio.ensure_future(server.stop())
            assert await closing(client) == (1001, "the node stops")
            async with asyncio.timeout(WAIT_S):
                await stopping
        assert server.connections == frozenset()


@pytest.mark.parametrize("how", ["reset", "close", "half-close", "close while its bytes wait"])
async def test_a_client_that_leaves_cancels_the_handler(how: str) -> None:
    """P4.8."""

    async def talk(socket: WebSocket) -> None:
        await (silence if how != "half-close" else echo)(socket)

    watched = Watched(talk)
    async with served(watched, limits=Limits(linger_s=0.2)) as server, raw(server) as (_, writer):
        await watched.begun.wait()
        if how == "half-close":
            writer.write_eof()
        elif how == "close while its bytes wait":
            (connection,) = of(server)
            one = frame(Opcode.BINARY, bytes(60 * KIB))
            while connection._reading:
                writer.write(one)
                await asyncio.sleep(0.005)
            await writer.drain()
            writer.close()
        elif how == "reset":
            link = writer.get_extra_info("socket")
            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        else:
            writer.close()
        await watched.ended.wait()
    assert isinstance(watched.error, asyncio.CancelledError | ClientGone)
    assert open_now() == 0


async def test_a_handler_that_takes_nothing_holds_its_client_back() -> None:
    """PR7: bounded memory; and what was held back arrives once it takes."""
    release = asyncio.Event()
    sent = 0

    async def talk(socket: WebSocket) -> None:
        await release.wait()
        for _ in range(sent):
            await socket.receive()
        await socket.send("all of it")

    async with served(talk) as server, raw(server) as (reader, writer):
        (connection,) = of(server)
        one = frame(Opcode.BINARY, bytes(60 * KIB))
        while connection._reading:
            writer.write(one)
            await asyncio.sleep(0.001)
            sent += 1
        release.set()
        assert await reader.readexactly(2 + 9) == b"\x81\x09all of it"
        assert sent < 10_000


async def test_a_client_that_reads_too_slowly_is_cut_and_counted() -> None:
    """PR7: `forge_http_connections_refused_total{reason="slow-reader"}`."""

    async def flood(socket: WebSocket) -> None:
        one = text_frame("a" * 60 * KIB)
        while True:
            await socket.send_frame(one)

    watched = Watched(flood)
    name, labels = "forge_http_connections_refused_total", {"reason": "slow-reader"}
    before = REGISTRY.get_sample_value(name, labels) or 0
    async with served(watched, limits=Limits(body_idle_s=0.3)) as server, raw(server):
        await watched.ended.wait()
    assert REGISTRY.get_sample_value(name, labels) == before + 1


async def test_a_client_that_does_not_answer_pings_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """PR7: one that answers stays, whatever else it does not say."""
    monkeypatch.setattr("api.websocket.PING_EVERY_S", 2)  # a machine that stalls is no client that is gone
    before = ended("no-pong")
    async with served(silence) as server, connected(server) as living:
        async with raw(server) as (reader, _):
            assert await reader.read() == b"\x89\x00"
        assert ended("no-pong") == before + 1
        await (await living.ping())
        assert ended("no-pong") == before + 1


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"Authorization": None}, 401),
        ({"Upgrade": None, "Connection": None}, 426),
        ({"Upgrade": "h2c"}, 426),
        ({"Sec_WebSocket_Version": "8"}, 426),
        ({"Sec_WebSocket_Version": None}, 426),
        ({"Sec_WebSocket_Key": None}, 400),
        ({"Sec_WebSocket_Key": "c2hvcnQ="}, 400),
        ({"Sec_WebSocket_Key": "no base64 at all"}, 400),
        ({"Content_Length": "3"}, 501),
        ({"Cookie": f"token={TOKEN}", "Authorization": None}, 401),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://forge"}, 101),
        ({"Origin": "https://forge"}, 101),
        ({"Origin": "https://forge:8443"}, 403),
        ({"Origin": "https://pages.example"}, 101),
    ],
)
async def test_a_handshake_that_is_none_is_refused(changes: dict[str, str | None], status: int) -> None:
    """PR6: no cookie counts, and pages of other hosts only if they are named; what comes behind is dropped."""
    origins = Origins(["https://pages.example"])
    async with served(silence, origins=origins, limits=Limits(linger_s=0.2)) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port(server))
        writer.write(handshake(**changes) + frame(Opcode.TEXT, b"at once"))
        async with asyncio.timeout(WAIT_S):
            head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status), head
        if status == 426:
            assert b"\r\nupgrade: websocket\r\n" in head or b"\r\nsec-websocket-version: 13\r\n" in head
        writer.close()


async def test_a_client_library_hears_the_status_of_a_refusal() -> None:
    async with served(silence) as server:
        with pytest.raises(InvalidStatus) as refused:
            async with connected(server, {"Authorization": "Bearer wrong"}):
                pass
        assert refused.value.response.status_code == 401


async def test_other_protocols_are_not_spoken() -> None:
    """A route that is no WebSocket answers as ever to a client that would switch; what comes behind is dropped."""
    async with served(silence, limits=Limits(linger_s=0.2)) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port(server))
        writer.write(handshake().replace(b"/ws", b"/plain") + bytes(300 * KIB))
        async with asyncio.timeout(WAIT_S):
            answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b'{"plain":true}')
        writer.close()


async def test_a_thousand_sockets_are_open_at_once() -> None:
    """PR7."""
    async with served(echo, shutdown_s=20) as server, contextlib.AsyncExitStack() as closing_all:
        clients = [await closing_all.enter_async_context(raw(server)) for _ in range(1000)]
        assert open_now() == 1000
        for _, writer in clients:
            writer.write(frame(Opcode.TEXT, b"hello"))
        for reader, _ in clients:
            assert await reader.readexactly(7) == b"\x81\x05hello"
    assert open_now() == 0
