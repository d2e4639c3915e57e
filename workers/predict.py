"""The client of the embedding worker contract: one payload in, one vector or a classed failure out."""

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import httpx2

from schemas.ids import parse_cid
from workers.predict_answer import InvalidAnswer, Prediction, cut_reason, parse_answer, parse_retry_after

__all__ = ["BadAnswer", "Failure", "Overloaded", "PayloadChanged", "Prediction", "Predictor", "Unreachable"]

TIMEOUT_S = 120.0
CONNECT_TIMEOUT_S = 5.0
ANSWER_BYTES_MAX = 10 << 20
READ_BYTES = 256 << 10
# Enough of an error body to fill a stored reason, and no waiting for one that does not come.
_ERROR_BODY_BYTES = 4 << 10
_ERROR_BODY_WAIT_S = 2.0
_OVERLOADED = frozenset({429, 503})


@dataclass(frozen=True, slots=True)
class Unreachable:
    """No connection came about: costs the job no attempt, and counts for the breaker."""

    why: str


@dataclass(frozen=True, slots=True)
class Overloaded:
    """The worker asked to be left alone (429, 503), perhaps for a time: costs no attempt."""

    why: str
    retry_after_s: float | None


@dataclass(frozen=True, slots=True)
class BadAnswer:
    """The worker was reached and gave no vector: costs one attempt. `why` has at most 1000 bytes."""

    why: str


Failure = Unreachable | Overloaded | BadAnswer


class PayloadChanged(Exception):
    """The payload file does not have the size that was promised: the payload is damaged, not the worker."""


class Predictor:
    """HTTP client of one worker; ignores proxy settings, follows no redirect, keeps no connection.

    A kept connection that the worker has just closed looks like a failed job, and a new one costs little
    beside a prediction. `timeout_s` bounds the whole exchange, `connect_timeout_s` the connecting.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = TIMEOUT_S,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        answer_bytes_max: int = ANSWER_BYTES_MAX,
    ) -> None:
        base = httpx2.URL(url.rstrip("/"))
        self._url = base.copy_with(path=f"{base.path.rstrip('/')}/predict")
        self._name = str(base.copy_with(userinfo=b"", query=None, fragment=None))
        self._timeout_s, self._answer_bytes_max = timeout_s, answer_bytes_max
        self._client = httpx2.AsyncClient(
            # A third each for TCP and TLS, so that the whole bound never cuts off the connecting.
            timeout=httpx2.Timeout(timeout_s, connect=min(connect_timeout_s, timeout_s / 3), pool=None),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=0),
            follow_redirects=False,
            trust_env=False,
            # Nothing compressed: a small answer must not unfold into a large one.
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
        )

    @property
    def url(self) -> str:
        """The worker's address, without user and password, for logs and as a key."""
        return self._name

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def predict(
        self, kind: str, file_hash: str, payload: Path | AsyncIterator[bytes], size_bytes: int
    ) -> Prediction | Failure:
        """Send one payload of `size_bytes` and return its vector, or why there is none.

        Raises what opening or reading the payload raises (`OSError`), and `PayloadChanged`.
        """
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(size_bytes),
            "X-Embedding-Kind": kind,
            "X-File-Hash": parse_cid(file_hash),
        }
        if not isinstance(payload, Path):
            return await self._exchange(headers, _sized(payload, size_bytes))
        file = await asyncio.to_thread(_open, payload, size_bytes)
        try:
            if size_bytes > READ_BYTES:
                return await self._exchange(headers, _sized(_read(file), size_bytes))
            data = await asyncio.to_thread(file.read)
            return await self._exchange(headers, data)
        finally:
            file.close()

    async def _exchange(self, headers: dict[str, str], content: bytes | AsyncIterator[bytes]) -> Prediction | Failure:
        try:
            async with asyncio.timeout(self._timeout_s):
                async with self._client.stream("POST", self._url, headers=headers, content=content) as response:
                    return await self._classify(response)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            return Unreachable(cut_reason(f"cannot connect to worker {self._name}: {_root_cause(error)}"))
        except (TimeoutError, httpx2.TimeoutException):
            return BadAnswer(cut_reason(f"worker {self._name} gave no answer within {self._timeout_s:g} s"))
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            return BadAnswer(cut_reason(f"worker {self._name} broke off: {_root_cause(error)}"))

    async def _classify(self, response: httpx2.Response) -> Prediction | Failure:
        if not response.is_success:
            why = cut_reason(f"worker answered {response.status_code}: {await _error_text(response)}")
            if response.status_code in _OVERLOADED:
                wait_s = parse_retry_after(response.headers.get("Retry-After", ""), datetime.now(UTC))
                return Overloaded(why, wait_s)
            return BadAnswer(why)
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            return BadAnswer("the answer is compressed, which was not asked for")
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > self._answer_bytes_max:
                return BadAnswer(f"the answer is larger than {self._answer_bytes_max} bytes")
        try:
            return parse_answer(bytes(body))
        except InvalidAnswer as error:
            return BadAnswer(cut_reason(str(error)))


async def _error_text(response: httpx2.Response) -> str:
    body = bytearray()
    try:
        async with asyncio.timeout(_ERROR_BODY_WAIT_S):
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) >= _ERROR_BODY_BYTES:
                    break
    except (TimeoutError, httpx2.TransportError):
        pass  # the status alone says enough
    return body[:_ERROR_BODY_BYTES].decode(errors="replace").strip()


def _open(path: Path, size_bytes: int) -> BinaryIO:
    file = open(path, "rb")  # noqa: SIM115 (the caller closes it)
    actual = os.fstat(file.fileno()).st_size
    if actual != size_bytes:
        file.close()
        raise PayloadChanged(f"{path} has {actual} bytes, not {size_bytes}")
    return file


async def _read(file: BinaryIO) -> AsyncIterator[bytes]:
    while data := await asyncio.to_thread(file.read, READ_BYTES):
        yield data


async def _sized(chunks: AsyncIterator[bytes], size_bytes: int) -> AsyncIterator[bytes]:
    """Pass the chunks on; raise `PayloadChanged` as soon as they are too many, or end too few."""
    sent_bytes = 0
    async for chunk in chunks:
        sent_bytes += len(chunk)
        if sent_bytes > size_bytes:
            break
        yield chunk
    if sent_bytes != size_bytes:
        raise PayloadChanged(f"the payload has {sent_bytes} bytes or more, not {size_bytes}")


def _root_cause(error: BaseException) -> str:
    """Return the innermost message: the libraries around it only say that something failed."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    if isinstance(error, BaseExceptionGroup):
        return _root_cause(error.exceptions[0])
    if isinstance(error, ConnectionError) and error.errno:
        return os.strerror(error.errno)
    return str(error) or type(error).__name__
