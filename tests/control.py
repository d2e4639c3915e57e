"""A control plane on a real log, served over HTTP, for tests of documents' registry, tokens and access."""

import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from api.app import build_app
from api.control import ControlPlane
from api.documents import CreateRule, DocumentsApi
from api.rates import Rates
from api.routes import Route
from api.server import Server
from api.tokens import TokensApi
from events.log import Log
from events.streams import ensure_streams
from forge.stack.nats import NatsServer
from projectors.control.domain import PARTITION, control_domain
from projectors.document.domain import document_domain
from projectors.document.sql.bounds import SqlBounds
from projectors.partitions import Partitions
from schemas.instants import later, now

ROOT_TOKEN = "forge_the-root-token-of-these-tests"
_numbers = itertools.count(1)


@dataclass
class Clock:
    """The present moment, and a test may go on from it."""

    ahead_s: float = 0.0

    def __call__(self) -> str:
        """Return it."""
        return later(now(), self.ahead_s)


@dataclass
class Served:
    """A served control plane."""

    url: str
    plane: ControlPlane
    partitions: Partitions
    clock: Clock
    routes: list[Route]
    control_db: Path
    client: httpx2.AsyncClient = field(repr=False)

    async def ask(self, method: str, path: str, token: str = ROOT_TOKEN, **options: Any) -> httpx2.Response:
        """Send a request with a token."""
        headers = {"authorization": f"Bearer {token}"} | options.pop("headers", {})
        return await self.client.request(method, self.url + path, headers=headers, **options)

    async def mint(self, *scopes: tuple[str, str] | tuple[str, str, str], **body: Any) -> dict[str, Any]:
        """Mint a token with scopes (action, db_id[, resource_prefix]), asked for with the token `by` and `headers`."""
        by, headers = body.pop("by", ROOT_TOKEN), body.pop("headers", {})
        asked = [dict(zip(("action", "db_id", "resource_prefix"), scope, strict=False)) for scope in scopes]
        wanted = {"label": f"token {next(_numbers)}", "scopes": asked} | body
        reply = await self.ask("POST", "/api/v1/admin/tokens", by, json=wanted, headers=headers)
        assert reply.status_code == 201, reply.text
        minted: dict[str, Any] = reply.json()
        return minted

    async def create(self, db_id: str, token: str = ROOT_TOKEN) -> None:
        """Make a document."""
        reply = await self.ask("POST", "/api/v1/db", token, json={"db_id": db_id})
        assert reply.status_code == 201, reply.text


@asynccontextmanager
async def served_control(
    server: NatsServer,
    directory: Path,
    more: Sequence[Route] = (),
    *,
    rates: Rates | None = None,
    create_rule: CreateRule = "scope",
    note_every_s: float = 60.0,
) -> AsyncIterator[Served]:
    """Serve the registry, tokens and the routes of `more` on the log of `server`, which is this test's own."""
    async with AsyncExitStack() as closing:
        event_log = Log(
            server.log_url,
            server.monitor_url,
            reader_url=server.read_url,
            live_url=server.live_url,
            admin_url=server.admin_url,
        )
        closing.push_async_callback(event_log.close)
        await ensure_streams(await event_log.admin.jetstream(), 1)
        control_db, clock = directory / "control.db", Clock()
        domains = {"control": control_domain(control_db), "doc": document_domain(directory / "docs", SqlBounds())}
        partitions = Partitions(event_log, domains, node="test-node", idle_s=300)
        closing.push_async_callback(partitions.close)
        plane = ControlPlane(partitions, control_db, ROOT_TOKEN, clock=clock, note_every_s=note_every_s)
        await closing.enter_async_context(plane)
        await partitions[PARTITION].ready(30)
        documents = DocumentsApi(partitions, plane.readers, plane.registry, plane.access, create_rule)
        tokens = TokensApi(partitions, plane.readers, plane.access)
        routes = [*documents.routes(), *tokens.routes(), *more]
        http = Server(build_app(routes, authoriser=plane.access, rates=rates), "127.0.0.1", 0, shutdown_s=5)
        host, port = await http.start()
        closing.push_async_callback(http.stop)
        client = await closing.enter_async_context(httpx2.AsyncClient(timeout=30))
        yield Served(f"http://{host}:{port}", plane, partitions, clock, routes, control_db, client)
