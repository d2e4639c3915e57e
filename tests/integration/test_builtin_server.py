"""The built-in worker's process keeps the worker contract, its bounds, and its word to stop."""

import asyncio
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import ModuleType

import httpx2
import numpy
import pytest
from blake3 import blake3
from PIL import Image
from starlette.types import ASGIApp

from api.server import Server
from forge.stack.builtin_worker import BuiltinWorker
from workers.builtin.app import Bounds, build_app
from workers.builtin.text import embed_text
from workers.predict import BadAnswer, Overloaded, Prediction, Predictor

TEXT = b"The quick brown fox"
HALF_SENT = b"POST /predict HTTP/1.1\r\nHost: x\r\nX-Embedding-Kind: text\r\nContent-Length: 9\r\n\r\nab"
MODULE = "forge.stack.embedding_server"
EXAMPLE = Path(__file__).parents[2] / "examples" / "sentence_transformer_worker.py"


@contextmanager
def started(*options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run the worker as its own process; yield it and its URL."""
    command = [sys.executable, "-m", MODULE, "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            address = json.loads(process.stdout.readline())
            yield process, f"http://{address['host']}:{address['port']}"
        finally:
            process.kill()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with started("--body-bytes-max", str(1 << 20)) as (_, address):
        yield address


@asynccontextmanager
async def served(app: ASGIApp) -> AsyncIterator[str]:
    server = Server(app, "127.0.0.1", 0, shutdown_s=1)
    host, port = await server.start()
    try:
        yield f"http://{host}:{port}"
    finally:
        await server.stop()


def address(url: str) -> tuple[str, int]:
    host, port = url.removeprefix("http://").split(":")
    return host, int(port)


async def post(url: str, content: bytes | AsyncIterator[bytes], **headers: str) -> httpx2.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with httpx2.AsyncClient(trust_env=False, timeout=60) as client:
        return await client.post(f"{url}/predict", content=content, headers=named)


async def chunks(content: bytes, size: int = 7) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").save(buffer, "PNG")
    return buffer.getvalue()


async def test_a_text_is_answered_with_its_vector(url: str) -> None:
    answer = await post(url, TEXT, X_Embedding_Kind="text", X_File_Hash=blake3(TEXT).hexdigest())
    assert answer.status_code == 200
    assert set(answer.json()) == {"embedding", "model", "dimension"}
    assert (answer.json()["model"], answer.json()["dimension"]) == ("forge-text-ngram-v1", 384)
    assert (numpy.array(answer.json()["embedding"], "<f4") == embed_text(TEXT)).all()


async def test_a_chunked_body_gives_the_same_vector(url: str) -> None:
    whole = await post(url, TEXT, X_Embedding_Kind="text")
    parts = await post(url, chunks(TEXT), X_Embedding_Kind="text")
    assert parts.request.headers["Transfer-Encoding"] == "chunked"
    assert parts.json() == whole.json()


async def test_the_dispatcher_understands_the_worker(url: str, tmp_path: Path) -> None:
    (tmp_path / "payload").write_bytes(picture())
    file_hash = blake3(picture()).hexdigest()
    async with Predictor(url) as predictor:
        found = await predictor.predict("image", file_hash, tmp_path / "payload", len(picture()))
        refused = await predictor.predict("text", file_hash, chunks(b"other"), 5)
    assert isinstance(found, Prediction)
    assert (found.model, found.dimension) == ("forge-image-layout-v1", 348)
    assert isinstance(refused, BadAnswer)
    assert "X-File-Hash" in refused.why


@pytest.mark.parametrize(
    ("content", "headers", "why"),
    [
        (b"no picture", {"X_Embedding_Kind": "image"}, "not an image in one of the formats JPEG, PNG, GIF, WEBP"),
        (b"", {"X_Embedding_Kind": "image"}, "not an image"),
        (picture()[:200], {"X_Embedding_Kind": "image"}, "damaged image"),
        (TEXT, {}, "X-Embedding-Kind must be text or image, not ''"),
        (TEXT, {"X_Embedding_Kind": "sound"}, "not 'sound'"),
        (TEXT, {"X_Embedding_Kind": "text", "X_File_Hash": "0" * 64}, "X-File-Hash"),
    ],
)
async def test_what_cannot_be_embedded_is_refused_with_the_reason(
    url: str, content: bytes, headers: dict[str, str], why: str
) -> None:
    answer = await post(url, content, **headers)
    assert answer.status_code == 422
    assert why in answer.json()["error"]


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_the_limit_is_refused(url: str, chunked: bool) -> None:
    """PR7."""
    content = bytes((1 << 20) + 1)
    answer = await post(url, chunks(content, 65536) if chunked else content, X_Embedding_Kind="text")
    assert answer.status_code == 413
    assert answer.json() == {"error": "a body may have at most 1048576 bytes"}


async def test_health_names_the_models(url: str) -> None:
    async with httpx2.AsyncClient(trust_env=False, timeout=60) as client:
        answer = await client.get(f"{url}/healthz")
    assert answer.json() == {
        "status": "ok",
        "models": {
            "text": {"model": "forge-text-ngram-v1", "dimension": 384},
            "image": {"model": "forge-image-layout-v1", "dimension": 348},
        },
    }


async def test_many_requests_at_once_are_all_answered(url: str) -> None:
    texts = [f"text number {n} ".encode() * 200 for n in range(100)]
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(trust_env=False, timeout=120, limits=limits) as client:
        headers = {"X-Embedding-Kind": "text"}
        answers = await asyncio.gather(*(client.post(f"{url}/predict", content=one, headers=headers) for one in texts))
    for text, answer in zip(texts, answers, strict=True):
        assert (numpy.array(answer.json()["embedding"], "<f4") == embed_text(text)).all()


async def test_requests_beyond_the_bound_are_sent_away_until_there_is_room() -> None:
    """PR7: as an overload, which costs a job no attempt."""
    sent, finish = asyncio.Semaphore(0), asyncio.Event()

    async def stuck() -> AsyncIterator[bytes]:
        yield TEXT[:5]
        sent.release()
        await finish.wait()
        yield TEXT[5:]

    with ThreadPoolExecutor(1) as pool:
        async with served(build_app(pool, Bounds(bodies_max=1, waiting_max=1))) as url, Predictor(url) as predictor:
            slow = [asyncio.create_task(post(url, stuck(), X_Embedding_Kind="text")) for _ in range(2)]
            for _ in slow:
                await sent.acquire()
            file_hash = blake3(TEXT).hexdigest()
            refused = await predictor.predict("text", file_hash, chunks(TEXT), len(TEXT))
            assert isinstance(refused, Overloaded)
            assert refused.retry_after_s == 1
            finish.set()
            assert [answer.status_code for answer in await asyncio.gather(*slow)] == [200, 200]
            assert isinstance(await predictor.predict("text", file_hash, chunks(TEXT), len(TEXT)), Prediction)


async def test_a_body_that_does_not_arrive_in_time_gives_its_place_back() -> None:
    """PR7."""
    with ThreadPoolExecutor(1) as pool:
        async with served(build_app(pool, Bounds(bodies_max=1, waiting_max=0, body_s=0.2))) as url:
            reader, writer = await asyncio.open_connection(*address(url))
            writer.write(HALF_SENT)
            assert b" 408 " in await reader.readline()
            writer.close()
            await writer.wait_closed()
            assert (await post(url, TEXT, X_Embedding_Kind="text")).status_code == 200


async def test_a_client_that_goes_away_gives_its_place_back() -> None:
    """PR7."""
    with ThreadPoolExecutor(1) as pool:
        async with served(build_app(pool, Bounds(bodies_max=1, waiting_max=0))) as url:
            for _ in range(3):
                _, writer = await asyncio.open_connection(*address(url))
                writer.write(
                    b"POST /predict HTTP/1.1\r\nHost: x\r\nX-Embedding-Kind: text\r\nContent-Length: 9\r\n\r\nab"
                )
                await writer.drain()
                writer.close()
                await writer.wait_closed()
            async with asyncio.timeout(10):
                while (await post(url, TEXT, X_Embedding_Kind="text")).status_code != 200:
                    pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_when_told_although_a_request_is_open(number: signal.Signals) -> None:
    """PR7."""
    with started() as (process, url):
        host, port = url.removeprefix("http://").split(":")
        with __import__("socket").create_connection((host, int(port))) as half_sent:
            half_sent.sendall(
                b"POST /predict HTTP/1.1\r\nHost: x\r\nX-Embedding-Kind: text\r\nContent-Length: 9\r\n\r\nab"
            )
            process.send_signal(number)
            assert process.wait(timeout=10) == 0


def test_it_stops_when_its_parent_is_another_process() -> None:
    """PR8: children never outlive the node."""
    with started("--parent-pid", str(os.getpid())) as (process, _), started("--parent-pid", "1") as (orphan, _):
        assert orphan.wait(timeout=10) == 0
        assert process.poll() is None


async def test_the_local_stack_starts_it(tmp_path: Path) -> None:
    async with BuiltinWorker(tmp_path) as worker:
        assert (await post(worker.url, TEXT, X_Embedding_Kind="text")).status_code == 200


def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sentence_transformer_worker", EXAMPLE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def test_the_example_worker_keeps_the_contract() -> None:
    """The model itself is replaced by a stub encoder; everything else of the example runs."""
    app = example().build_app(lambda text: [float(len(text)), 0.5], "stub")
    async with served(app) as url, Predictor(url) as predictor:
        found = await predictor.predict("text", blake3(TEXT).hexdigest(), chunks(TEXT), len(TEXT))
        refused = await predictor.predict("image", blake3(TEXT).hexdigest(), chunks(TEXT), len(TEXT))
        chunked = await post(url, chunks(TEXT), X_Embedding_Kind="text")
    assert found == Prediction(numpy.array([len(TEXT), 0.5], "<f4").tobytes(), 2, "stub")
    assert isinstance(refused, BadAnswer)
    assert chunked.json() == {"embedding": [float(len(TEXT)), 0.5], "model": "stub", "dimension": 2}
