"""Documents with leases and webhooks served over HTTP on a real log, with a clock that tests set."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from api.app import build_app
from api.control import ControlPlane
from api.documents import DocumentsApi
from api.lease_waiting import LeaseLines
from api.leases import LeasesApi
from api.server import Server
from api.tokens import TokensApi
from forge.stack.nats import NatsServer
from projectors.control.domain import PARTITION, control_domain
from projectors.document.domain import document_domain
from projectors.document.reads.reading import DocumentReaders
from projectors.document.sql.bounds import SqlBounds
from projectors.document.system_tables import MIGRATIONS
from projectors.partitions import Partitions
from tests.control import ROOT_TOKEN, Clock
from tests.notes import opened_log


@dataclass
class Leasing:
    """A node's leases, and a client that may do everything."""

    url: str
    partitions: Partitions
    lines: LeaseLines
    clock: Clock
    client: httpx2.AsyncClient = field(repr=False)

    async def ask(
        self, method: str, path: str, body: Any = None, token: str = ROOT_TOKEN, **headers: str
    ) -> httpx2.Response:
        """Send a request; `if_fence=...` becomes a header."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        sent["authorization"] = f"Bearer {token}"
        return await self.client.request(method, self.url + path, json=body, headers=sent)

    async def create(self, db_id: str) -> str:
        """Make a document and return its name."""
        reply = await self.ask("POST", "/api/v1/db", {"db_id": db_id})
        assert reply.status_code == 201, reply.text
        return db_id

    async def lease(
        self, verb: str, db_id: str, *, by: str = ROOT_TOKEN, key: str = "", **body: Any
    ) -> httpx2.Response:
        """Acquire, renew or release: `jobs/nightly` for `ada` unless `body` says otherwise."""
        asked = {"resource": "jobs/nightly", "owner": "ada"} | body
        headers = {"idempotency_key": key} if key else {}
        return await self.ask("POST", f"/api/v1/db/{db_id}/leases/{verb}", asked, by, **headers)

    async def acquired(self, db_id: str, **body: Any) -> Any:
        """Acquire what must be free."""
        reply = await self.lease("acquire", db_id, **body)
        assert reply.status_code == 200, reply.text
        return reply.json()

    async def mint(self, *scopes: Sequence[str]) -> str:
        """Return a new token with scopes (action, db_id[, resource_prefix])."""
        asked = [dict(zip(("action", "db_id", "resource_prefix"), scope, strict=False)) for scope in scopes]
        reply = await self.ask("POST", "/api/v1/admin/tokens", {"label": "test", "scopes": asked})
        assert reply.status_code == 201, reply.text
        return str(reply.json()["token"])


@asynccontextmanager
async def served_leases(server: NatsServer, directory: Path) -> AsyncIterator[Leasing]:
    """Serve leases on the log of `server`, which is this test's own."""
    clock = Clock()
    async with AsyncExitStack() as closing:
        event_log = await closing.enter_async_context(opened_log(server))
        control_db, docs_dir = directory / "control.db", directory / "docs"
        domains = {
            "control": control_domain(control_db),
            "doc": document_domain(docs_dir, SqlBounds(), MIGRATIONS),
        }
        partitions = Partitions(event_log, domains, node="test-node", idle_s=300, clock=clock)
        closing.push_async_callback(partitions.close)
        plane = await closing.enter_async_context(ControlPlane(partitions, control_db, ROOT_TOKEN))
        await partitions[PARTITION].ready(30)
        readers = DocumentReaders(partitions, docs_dir, SqlBounds())
        closing.push_async_callback(readers.close)
        lines = LeaseLines()
        partitions.listen(lines.heard)
        tables = (
            DocumentsApi(partitions, plane.readers, plane.registry, plane.access).routes(),
            TokensApi(partitions, plane.readers, plane.access).routes(),
            LeasesApi(plane.registry, partitions, readers, lines, 30.0, clock).routes(),
        )
        http = Server(build_app(*tables, authoriser=plane.access), "127.0.0.1", 0, shutdown_s=5)
        host, port = await http.start()
        closing.push_async_callback(http.stop)
        client = await closing.enter_async_context(httpx2.AsyncClient(timeout=90))
        yield Leasing(f"http://{host}:{port}", partitions, lines, clock, client)
