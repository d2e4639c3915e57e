"""The guard around nats-py: the only place where Forge connects to NATS.

It closes the gaps that would cost data or the connection: nothing is buffered while disconnected, headers count
against the server's limit, subjects are bounded, a waiting request fails at once when the connection is lost, and
a client that nats-py has given up on is replaced.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.js.client import JetStreamContext

from events.errors import LogUnavailable, MessageTooLarge
from events.tail import Tail

if TYPE_CHECKING:  # it reads by streams, which are made through a connection
    from events.archive import Archive

SUBJECT_BYTES_MAX = 1024  # the server cuts the connection above max_control_line (4 KB)
CONNECT_TIMEOUT_S = 5
SERVER_OPTIONS: dict[str, Any] = {
    "pending_size": 0,  # a publish that failed for its caller must never be sent later
    "max_reconnect_attempts": -1,
    "reconnect_time_wait": 0.2,
    "connect_timeout": CONNECT_TIMEOUT_S,
    "ping_interval": 10,
    "max_outstanding_pings": 2,
}
NO_RESPONDERS = "503"
_LATE = "no answer within {:g} s"

log = structlog.get_logger(__name__)
Headers = Mapping[str, str]


class ConnectionLost(LogUnavailable):
    """The connection went away, or no answer came in time. Whether the server acted is unknown."""


class Connection:
    """One NATS user's connection, alive as long as its owner: reconnects, and replaces a closed client."""

    def __init__(self, url: str, inbox_prefix: str, name: str) -> None:
        self._url = url
        self._inbox_prefix = inbox_prefix
        self._name = name
        self._client: Client | None = None
        self._waiting: dict[str, Callable[[Msg | None], None]] = {}
        self._numbers = itertools.count(1)
        self._inbox = ""
        self._opening = asyncio.Lock()
        self._closing = False
        self.archive: Archive | None = None  # where `events.read` finds what the server no longer holds
        self.tails: dict[str, Tail] = {}  # by stream, of what is appended here and somebody here follows
        self.generation = 0  # changes whenever it may be another server, or the same with other settings

    @property
    def connected(self) -> bool:
        """Whether the server could be reached a moment ago."""
        return self._client is not None and self._client.is_connected

    async def client(self) -> Client:
        """Return a client that is not closed, making a new one if need be; raise `ConnectionLost`."""
        if self._client is None or self._client.is_closed:
            async with self._opening:
                if self._client is None or self._client.is_closed:
                    self._client = await self._connect()
        return self._client

    async def _connect(self) -> Client:
        if self._closing:
            raise ConnectionLost("this node is stopping")
        client = Client()
        try:
            await client.connect(
                **server_options(self._url),
                **SERVER_OPTIONS,
                name=self._name,
                inbox_prefix=self._inbox_prefix,
                disconnected_cb=self._lost,
                reconnected_cb=self._renew,
                closed_cb=self._lost,
                error_cb=self._note,
            )
            self._inbox = client.new_inbox()
            await client.subscribe(f"{self._inbox}.*", cb=self._answer)
        except BaseException as error:
            await _close(client)
            if isinstance(error, NatsError | OSError | TimeoutError):
                why = error or type(error).__name__
                raise ConnectionLost(f"the NATS server does not answer: {why}") from error
            raise
        self.generation += 1
        return client

    async def _answer(self, message: Msg) -> None:
        handler = self._waiting.get(message.subject.rpartition(".")[2])
        if handler is not None:
            handler(message)

    async def _lost(self) -> None:
        for handler in list(self._waiting.values()):
            handler(None)

    async def _renew(self) -> None:
        self.generation += 1

    async def _note(self, error: Exception) -> None:
        log.warning("nats connection", name=self._name, error=str(error) or type(error).__name__)

    async def send(self, subject: str, payload: bytes, headers: Headers | None = None, reply: str = "") -> None:
        """Publish without waiting for anything; raise `ConnectionLost` or `MessageTooLarge`."""
        client = await self.client()
        size = len(payload) + sum(len(k) + len(v) + 4 for k, v in (headers or {}).items()) + 16
        if size > client.max_payload or len(subject.encode()) > SUBJECT_BYTES_MAX:
            raise MessageTooLarge(f"a message of {size} bytes on {subject[:80]} is over the server's limits")
        try:
            await client.publish(subject, payload, reply=reply, headers=dict(headers) if headers else None)
        except (NatsError, OSError) as error:
            raise ConnectionLost(f"the NATS server is away: {error or type(error).__name__}") from error

    async def request(self, subject: str, payload: bytes, headers: Headers | None = None, *, timeout_s: float) -> Msg:
        """Send a request and return its one answer; raise `ConnectionLost` at once if the connection goes."""
        await self.client()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Msg | None] = loop.create_future()
        token = str(next(self._numbers))
        self._waiting[token] = partial(_settle, answer)
        deadline = loop.call_later(timeout_s, _settle_late, answer, timeout_s)
        try:
            await self.send(subject, payload, headers, reply=f"{self._inbox}.{token}")
            return _checked(await answer, subject)
        finally:
            deadline.cancel()
            del self._waiting[token]

    @asynccontextmanager
    async def answers(
        self, subject: str, payload: bytes, headers: Headers | None = None, *, timeout_s: float
    ) -> AsyncIterator[AsyncIterator[Msg]]:
        """Send a request and iterate over its answers; each must come within `timeout_s` of the one before."""
        await self.client()
        token = str(next(self._numbers))
        received: asyncio.Queue[Msg | None] = asyncio.Queue()
        self._waiting[token] = received.put_nowait
        try:
            await self.send(subject, payload, headers, reply=f"{self._inbox}.{token}")
            yield _received(received, subject, timeout_s)
        finally:
            del self._waiting[token]

    async def listen(self, subject: str, heard: Callable[[Msg], None]) -> Callable[[], None]:
        """Call `heard` for each message on `subject`; the returned function ends that."""
        client = await self.client()

        async def callback(message: Msg) -> None:
            heard(message)

        subscription = await client.subscribe(subject, cb=callback)
        return lambda: None if client.is_closed else _drop(subscription)

    async def jetstream(self) -> JetStreamContext:
        """Return the JetStream administration API of this user."""
        return (await self.client()).jetstream()

    async def close(self) -> None:
        """Close for good."""
        self._closing = True
        async with self._opening:  # whoever connects just now finishes first
            if self._client is not None:
                await _close(self._client)


async def _close(client: Client) -> None:
    if client.is_closed:
        return
    # nats-py lets the cancellation of its own reading task escape from here after a server was killed
    with suppress(NatsError, OSError, asyncio.CancelledError):
        await client.close()


def _drop(subscription: Subscription) -> None:
    task = asyncio.ensure_future(subscription.unsubscribe())
    task.add_done_callback(lambda done: done.cancelled() or done.exception())


async def _received(queue: "asyncio.Queue[Msg | None]", subject: str, timeout_s: float) -> AsyncIterator[Msg]:
    while True:
        try:
            async with asyncio.timeout(timeout_s):
                message = await queue.get()
        except TimeoutError:
            raise ConnectionLost(_LATE.format(timeout_s)) from None
        yield _checked(message, subject)


def server_options(url: str) -> dict[str, Any]:
    """Return nats-py's options for one address or several with commas between.

    Credentials are options rather than part of an address, because nats-py does not carry them over to servers
    that it learns of later, and then closes for good.
    """
    servers = [urlsplit(one.strip()) for one in url.split(",") if one.strip()]
    options: dict[str, Any] = {"servers": [f"{s.scheme}://{s.netloc.rpartition('@')[2]}" for s in servers]}
    if user := next((s for s in servers if s.username), None):
        options |= {"user": unquote(user.username or ""), "password": unquote(user.password or "")}
    return options


def _settle(answer: "asyncio.Future[Msg | None]", message: Msg | None) -> None:
    if not answer.done():
        answer.set_result(message)


def _settle_late(answer: "asyncio.Future[Msg | None]", timeout_s: float) -> None:
    if not answer.done():
        answer.set_exception(ConnectionLost(_LATE.format(timeout_s)))


def _checked(message: Msg | None, subject: str) -> Msg:
    if message is None:
        raise ConnectionLost("the connection to the NATS server was lost")
    if message.headers and message.headers.get("Status") == NO_RESPONDERS and not message.data:
        raise LogUnavailable(f"nobody answers {subject}: JetStream is not ready, or the stream is missing")
    return message
