"""A relay behind a real HTTP server, without a log: for the tests of what it does over sockets."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import httpx2

from api.app import build_app
from api.auth import Access, Principal
from api.limits import Limits
from api.rates import Rate, Rates
from api.relay.aliases import RelayAliases
from api.relay.hooks import RelayHooks
from api.relay.relay import Relay, Tee
from api.relay.routes import RelayApi
from api.server import Server
from schemas.problems import NOT_FOUND, Refusal
from schemas.scopes import Scope
from tests.waiting import until

TOKEN = "root-of-this-test"
AUTH = {"authorization": f"Bearer {TOKEN}"}
DOCUMENTS = ("home", "public")
HOOK_KEY = "a key of hooks"


@dataclass
class Minted:
    """Tokens as a control plane would know them."""

    tokens: dict[str, Principal]

    def find(self, token: str) -> Principal | None:
        return self.tokens.get(token)

    async def ended(self, principal: Principal) -> None:
        await asyncio.get_running_loop().create_future()


@dataclass
class Relaying:
    """A running relay."""

    relay: Relay
    server: Server
    host: str
    port: int
    minted: Minted

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def client(self, **options: Any) -> httpx2.AsyncClient:
        limits = httpx2.Limits(max_connections=None)
        usual: dict[str, Any] = {"base_url": self.url, "headers": AUTH, "timeout": 60, "limits": limits}
        return httpx2.AsyncClient(**usual | options)

    def mint(self, token: str, *scopes: tuple[str, str, str], url: bool = False) -> str:
        """Make a token of (action, document, resource prefix) known."""
        made = tuple(Scope(db_id=db_id, action=action, resource_prefix=prefix) for action, db_id, prefix in scopes)
        self.minted.tokens[token] = Principal(f"token:{token}", made, url=url)
        return token

    async def receivers(self, count: int) -> None:
        """Wait until so many wait for something."""
        await until(lambda: self.relay.offers.takers_waiting + self.relay.calls.takers_waiting == count)

    async def senders(self, count: int) -> None:
        """Wait until so many messages and requests wait to be taken."""
        await until(lambda: self.relay.offers.offers_waiting + self.relay.calls.offers_waiting == count)

    async def quiet(self) -> None:
        """Wait until nothing is left of what was relayed."""
        relay = self.relay
        await until(
            lambda: (
                not (
                    len(relay.offers)
                    or len(relay.calls)
                    or relay.offers.takers_waiting
                    or relay.offers.offers_waiting
                    or relay.calls.takers_waiting
                    or relay.calls.offers_waiting
                    or relay.asked
                    or relay.budget.used_bytes
                    or len(relay.switch)
                )
            )
        )

    async def raw(self, request: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection and send `request` on it."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        writer.write(request)
        await writer.drain()
        return reader, writer

    async def slow(self, request: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection that keeps little of what it does not read, send `request`, and do not read yet."""
        link = socket.socket()
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        link.setblocking(False)
        await asyncio.get_running_loop().sock_connect(link, (self.host, self.port))
        reader, writer = await asyncio.open_connection(sock=link)
        reading(writer).pause_reading()
        writer.write(request)
        await writer.drain()
        return reader, writer


def reading(writer: asyncio.StreamWriter) -> asyncio.ReadTransport:
    """Return the side of a connection that reads, to stop it or let it go on."""
    assert isinstance(writer.transport, asyncio.Transport)
    return writer.transport


@asynccontextmanager
async def relaying(
    *,
    anonymous: Iterable[str] = ("public",),
    answer_s: float = 30,
    bytes_max: int = 256 << 20,
    automatic: bool = True,
    tee: Tee | None = None,
    limits: Limits | None = None,
    rate: Rate | None = None,
    small_buffers: bool = False,
) -> AsyncIterator[Relaying]:
    """Serve a relay for this test alone; with `small_buffers` the system keeps little of what nobody reads."""

    def require(db_id: str) -> None:
        if db_id not in DOCUMENTS:
            raise Refusal(NOT_FOUND.problem(f"there is no document {db_id!r}"))

    relay = Relay(bytes_max=bytes_max, answer_s=answer_s, automatic=automatic, tee=tee)
    minted = Minted({})
    app = build_app(
        RelayApi(relay, require).routes(),
        RelayAliases(relay, require).routes(),
        RelayHooks(relay, HOOK_KEY).routes(),
        authoriser=Access(TOKEN, minted),
        anonymous=anonymous,
        rates=Rates(anonymous=rate),
    )
    server = Server(app, "127.0.0.1", 0, limits=limits, shutdown_s=5)
    host, port = await server.start()
    if small_buffers:  # connections inherit it from the socket that listens
        assert server._listener is not None
        server._listener.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 << 10)
    try:
        yield Relaying(relay, server, host, port, minted)
    finally:
        await server.stop()
        relay.close()


async def hang_up(writer: asyncio.StreamWriter) -> None:
    """Break a connection off."""
    writer.transport.abort()
    with suppress(ConnectionError):
        await writer.wait_closed()
