"""The built-in embedding worker as an ASGI application: the worker contract over the two built-in models."""

import asyncio
import json
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy
from blake3 import blake3
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from workers.builtin import image, text

BODY_BYTES_MAX = 64 << 20
BODY_S = 60.0
BODIES_MAX = 4
WAITING_MAX = 256
RETRY_AFTER_S = 1


@dataclass(frozen=True, slots=True)
class Model:
    """A built-in model: its name, how many numbers it gives, and the function from bytes to them."""

    name: str
    dimension: int
    embed: Callable[[bytes], NDArray[numpy.float32]]


MODELS: Mapping[str, Model] = {
    "text": Model(text.MODEL, text.DIMENSION, text.embed_text),
    "image": Model(image.MODEL, image.DIMENSION, image.embed_image),
}


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the worker takes on: more is answered 413, 408 or 503."""

    body_bytes_max: int = BODY_BYTES_MAX
    body_s: float = BODY_S
    bodies_max: int = BODIES_MAX
    """Bodies in memory at a time; further requests wait unread."""
    waiting_max: int = WAITING_MAX
    """Requests that may wait so."""


class _Refused(Exception):
    """A request cannot be served; carries the status and the reason."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class _Worker:
    """Counts what is in memory and what waits, so that both stay bounded."""

    def __init__(self, pool: Executor, bounds: Bounds) -> None:
        self._pool = pool
        self._bounds = bounds
        self._slots = asyncio.Semaphore(bounds.bodies_max)
        self._requests = 0

    async def predict(self, request: Request) -> Response:
        if self._requests >= self._bounds.bodies_max + self._bounds.waiting_max:
            return _json(503, {"error": "too many requests are waiting"}, {"Retry-After": str(RETRY_AFTER_S)})
        self._requests += 1
        try:
            return await self._predict(request)
        except _Refused as refusal:
            return _json(refusal.status, {"error": str(refusal)})
        except ClientDisconnect:
            return Response(status_code=400)
        finally:
            self._requests -= 1

    async def _predict(self, request: Request) -> Response:
        model = _model(request)
        async with self._slots:
            body = await self._body(request)
            _check_hash(request, body)
            loop = asyncio.get_running_loop()
            try:
                vector = await loop.run_in_executor(self._pool, model.embed, body)
            except image.UnusableImage as error:
                raise _Refused(422, str(error)) from error
        return _json(200, {"embedding": vector.tolist(), "model": model.name, "dimension": model.dimension})

    async def _body(self, request: Request) -> bytes:
        too_large = _Refused(413, f"a body may have at most {self._bounds.body_bytes_max} bytes")
        declared = request.headers.get("Content-Length", "")
        if declared.isdecimal() and int(declared) > self._bounds.body_bytes_max:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self._bounds.body_s):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > self._bounds.body_bytes_max:
                        raise too_large
        except TimeoutError:
            raise _Refused(408, f"the body took longer than {self._bounds.body_s:g} s") from None
        return bytes(body)


def build_app(pool: Executor, bounds: Bounds | None = None) -> Starlette:
    """Return the application: `POST /predict` and `GET /healthz`; vectors are computed in `pool`."""
    worker = _Worker(pool, bounds or Bounds())
    return Starlette(
        routes=[
            Route("/predict", worker.predict, methods=["POST"]),
            Route("/healthz", _health, methods=["GET"]),
        ]
    )


async def _health(_: Request) -> Response:
    models = {kind: {"model": model.name, "dimension": model.dimension} for kind, model in MODELS.items()}
    return _json(200, {"status": "ok", "models": models})


def _model(request: Request) -> Model:
    kind = request.headers.get("X-Embedding-Kind", "").strip()
    if kind not in MODELS:
        raise _Refused(422, f"X-Embedding-Kind must be {' or '.join(MODELS)}, not {kind[:40]!r}")
    return MODELS[kind]


def _check_hash(request: Request, body: bytes) -> None:
    claimed = request.headers.get("X-File-Hash", "").strip().lower()
    if claimed and claimed != blake3(body).hexdigest():
        raise _Refused(422, "the body does not have the BLAKE3 hash that X-File-Hash names")


def _json(status: int, content: object, headers: Mapping[str, str] | None = None) -> Response:
    return Response(json.dumps(content), status, headers, "application/json")
