"""The worker client against real workers, most of them misbehaving."""

import asyncio
import gzip
import os
import socket
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from workers.predict import BadAnswer, Overloaded, PayloadChanged, Prediction, Predictor, Unreachable

CID = "ab" * 32
Reply = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def worker(reply: Reply) -> AsyncIterator[str]:
    """A server that hands each connection to `reply`; yields its URL."""
    running: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await reply(reader, writer)
        finally:
            running.discard(task)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        for task in list(running):
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        server.close()


async def take_request(reader: asyncio.StreamReader) -> tuple[str, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in head[1:] if line)}
    return head[0], headers, await reader.readexactly(int(headers["content-length"]))


def answering(status: str, body: bytes, *headers: str) -> Reply:
    """A worker that takes the request and gives this answer."""

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_request(reader)
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
        writer.write("\r\n".join(lines).encode() + body)
        await writer.drain()

    return reply


async def once(reply: Reply, payload: bytes = b"payload", timeout_s: float = 20) -> object:
    """Ask such a worker for one prediction."""

    async def chunks() -> AsyncIterator[bytes]:
        yield payload

    async with worker(reply) as url, Predictor(url, timeout_s=timeout_s) as predictor:
        return await predictor.predict("text", CID, chunks(), len(payload))


@pytest.mark.parametrize("size_bytes", [0, 5, 3_000_000])
async def test_the_request_is_the_worker_contract(tmp_path: Path, size_bytes: int) -> None:
    """Spec 3.2."""
    data = os.urandom(size_bytes)
    (tmp_path / "payload").write_bytes(data)
    seen: list[tuple[str, dict[str, str], bytes]] = []

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await take_request(reader))
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 31\r\n\r\n{"vector":[1,2],"model":"m/1"}\n')
        await writer.drain()

    async with worker(reply) as url, Predictor(url + "/base/") as predictor:
        answer = await predictor.predict("image", CID, tmp_path / "payload", size_bytes)
        assert predictor.url == url + "/base"

    assert answer == Prediction(bytes.fromhex("0000803f00000040"), 2, "m/1")
    ((line, headers, body),) = seen
    assert line == "POST /base/predict HTTP/1.1"
    assert headers["content-type"] == "application/octet-stream"
    assert (headers["x-embedding-kind"], headers["x-file-hash"]) == ("image", CID)
    assert headers["accept-encoding"] == "identity"
    assert body == data


async def test_a_worker_that_is_not_there_is_unreachable() -> None:
    """G19: costs no attempt."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    async with Predictor(f"http://user:secret@127.0.0.1:{port}") as predictor:
        answer = await predictor.predict("text", CID, _empty(), 0)

    assert isinstance(answer, Unreachable)
    assert f"127.0.0.1:{port}" in answer.why
    assert "refused" in answer.why.lower()
    assert "secret" not in answer.why + predictor.url


async def test_a_worker_that_accepts_no_connection_is_unreachable() -> None:
    """A full backlog: the connection neither comes about nor is refused."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        try:
            async with Predictor(f"http://127.0.0.1:{full.getsockname()[1]}", connect_timeout_s=0.3) as predictor:
                assert isinstance(await predictor.predict("text", CID, _empty(), 0), Unreachable)
        finally:
            for filler in fillers:
                filler.close()


async def test_a_worker_that_speaks_no_tls_is_unreachable() -> None:
    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()

    async with worker(reply) as url, Predictor(url.replace("http", "https")) as predictor:
        assert isinstance(await predictor.predict("text", CID, _empty(), 0), Unreachable)


@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Service Unavailable"])
@pytest.mark.parametrize(("header", "wait_s"), [("Retry-After: 9", 9.0), ("X: y", None)])
async def test_an_overloaded_worker_says_for_how_long(status: str, header: str, wait_s: float | None) -> None:
    """G19: costs no attempt."""
    answer = await once(answering(status, b"busy", header))

    assert answer == Overloaded(f"worker answered {status[:3]}: busy", wait_s)


async def test_an_error_status_carries_its_trimmed_text() -> None:
    """Spec section 8, assertion 14: cut to exactly 1000."""
    answer = await once(answering("500 Internal Server Error", b"  " + b"x" * 1205 + b"\n"))

    assert isinstance(answer, BadAnswer)
    assert answer.why.startswith("worker answered 500: xxx")
    assert len(answer.why) == 1000


async def test_a_redirect_is_not_followed() -> None:
    async with worker(answering("200 OK", b"[1]")) as elsewhere:
        answer = await once(answering("307 Temporary Redirect", b"", f"Location: {elsewhere}/predict"))

    assert answer == BadAnswer("worker answered 307: ")


async def test_proxy_settings_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")

    assert isinstance(await once(answering("200 OK", b"[1]")), Prediction)


@pytest.mark.parametrize("body", [b"", b"{", b"[NaN]", b"<html>"])
async def test_invalid_json_is_a_bad_answer(body: bytes) -> None:
    answer = await once(answering("200 OK", body))

    assert isinstance(answer, BadAnswer)
    assert "not valid JSON" in answer.why


async def test_a_compressed_answer_is_not_unpacked() -> None:
    """PR7: 20 KB that unfold to 20 MB."""
    bomb = gzip.compress(b"[" + b" " * 20_000_000 + b"1]")

    assert isinstance(await once(answering("200 OK", bomb, "Content-Encoding: gzip")), BadAnswer)


async def test_a_worker_that_hangs_costs_the_timeout_and_no_more() -> None:
    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    answer = await once(reply, payload=bytes(20 << 20), timeout_s=0.5)  # reads nothing either

    assert isinstance(answer, BadAnswer)
    assert "no answer within 0.5 s" in answer.why


async def test_a_slow_drip_does_not_outlive_the_timeout() -> None:
    """Each byte comes in time for itself, the answer never."""

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n[")
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.01)

    assert isinstance(await once(reply, timeout_s=0.5), BadAnswer)


@pytest.mark.parametrize(
    "sent", [b"", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n[1", b"junk\r\n\r\n"]
)
async def test_a_reset_or_garbage_is_a_bad_answer(sent: bytes) -> None:
    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_request(reader)
        writer.write(sent)
        await writer.drain()
        writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00"
        )

    assert isinstance(await once(reply), BadAnswer)


async def test_an_error_sent_before_the_body_was_taken_is_heard(tmp_path: Path) -> None:
    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 8\r\nConnection: close\r\n\r\ntoo long")
        await writer.drain()
        writer.write_eof()
        while await reader.read(1 << 16):
            pass

    assert await once(reply, payload=bytes(5 << 20)) == BadAnswer("worker answered 413: too long")


async def test_an_endless_answer_is_cut_off_at_its_bound_in_flat_memory() -> None:
    """PR7: a worker that answers 100 MiB, chunked, to each of ten calls."""
    sent_bytes = 0

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent_bytes
        await take_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(1600):
            writer.write(b"10000\r\n" + b"1," * 32768 + b"\r\n")
            await writer.drain()
            sent_bytes += 65536

    tracemalloc.start()
    async with worker(reply) as url, Predictor(url, answer_bytes_max=1 << 20) as predictor:
        for _ in range(10):
            answer = await predictor.predict("text", CID, _empty(), 0)
            assert answer == BadAnswer("the answer is larger than 1048576 bytes")

    assert sent_bytes < 10 * (16 << 20)  # the kernel's buffers hold some of it
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 8 << 20


async def test_a_payload_that_is_missing_or_has_another_size_is_the_callers_business(tmp_path: Path) -> None:
    """No attempt for what the worker never got."""
    (tmp_path / "short").write_bytes(b"abc")

    async def two_bytes() -> AsyncIterator[bytes]:
        yield b"ab"

    async with worker(answering("200 OK", b"[1]")) as url, Predictor(url) as predictor:
        with pytest.raises(FileNotFoundError):
            await predictor.predict("text", CID, tmp_path / "none", 3)
        with pytest.raises(PayloadChanged, match="has 3 bytes, not 4"):
            await predictor.predict("text", CID, tmp_path / "short", 4)
        for promised in (1, 3):
            with pytest.raises(PayloadChanged):
                await predictor.predict("text", CID, two_bytes(), promised)


async def _empty() -> AsyncIterator[bytes]:
    for chunk in list[bytes]():
        yield chunk
