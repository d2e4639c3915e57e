"""Documents with leases and webhooks served over HTTP on a real log, with a clock that tests set."""

from collections.abc import AsyncIterator, Mapping, Sequence
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
from api.webhooks.budget import Budget
from api.webhooks.receiving import WebhooksApi
from api.webhooks.settings import EndpointsApi
from api.webhooks.signatures import PROVIDERS, Provider
from forge.node_key import NodeKey
from forge.stack.nats import NatsServer
from projectors.control.domain import PARTITION, control_domain
from projectors.document.domain import document_domain, document_partition
from projectors.document.reads.reading import DocumentReaders
from projectors.document.sql.bounds import SqlBounds
from projectors.document.system_tables import MIGRATIONS
from projectors.partitions import Partitions
from schemas.document import RunSql, Statement
from tests.control import ROOT_TOKEN, Clock
from tests.notes import opened_log

WEBHOOK_BYTES_MAX = 4 << 20


@dataclass
class Leasing:
    """A node's leases and webhooks, and a client that may do everything."""

    url: str
    partitions: Partitions
    lines: LeaseLines
    budget: Budget
    clock: Clock
    client: httpx2.AsyncClient = field(repr=False)
    server: Server

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

    async def sql(self, db_id: str, *statements: str) -> Any:
        """Run statements as one command; return the rows of the last one."""
        command = RunSql(statements=tuple(Statement(sql=one) for one in statements), classes=("read", "write", "admin"))
        answer = await self.partitions.submit(document_partition(db_id), command, principal="root")
        rows = answer.value["results"][-1].get("rows")
        return None if rows is None else [list(row) for row in rows]

    async def webhook(
        self,
        db_id: str,
        endpoint: str,
        content: Any = b"{}",
        *,
        token: str = ROOT_TOKEN,
        method: str = "POST",
        **more: Any,
    ) -> httpx2.Response:
        """Send a webhook."""
        headers = [("authorization", f"Bearer {token}"), *more.pop("headers", {}).items()]
        path = f"{self.url}/api/v1/db/{db_id}/webhooks/{endpoint}"
        return await self.client.request(method, path, content=content, headers=headers, **more)

    async def endpoint(self, db_id: str, endpoint: str, **body: Any) -> httpx2.Response:
        """Set how webhooks of an endpoint are checked."""
        return await self.ask("PUT", f"/api/v1/db/{db_id}/webhook-endpoints/{endpoint}", body)

    async def mint(self, *scopes: Sequence[str]) -> str:
        """Return a new token with scopes (action, db_id[, resource_prefix])."""
        asked = [dict(zip(("action", "db_id", "resource_prefix"), scope, strict=False)) for scope in scopes]
        reply = await self.ask("POST", "/api/v1/admin/tokens", {"label": "test", "scopes": asked})
        assert reply.status_code == 201, reply.text
        return str(reply.json()["token"])


@asynccontextmanager
async def served_leases(
    server: NatsServer, directory: Path, more_providers: Mapping[str, Provider] | None = None
) -> AsyncIterator[Leasing]:
    """Serve leases and webhooks on the log of `server`, which is this test's own."""
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
        lines, budget = LeaseLines(), Budget()
        endpoints, vault = plane.webhook_endpoints, NodeKey(directory / "node.key")
        providers = {**PROVIDERS, **(more_providers or {})}
        partitions.listen(lines.heard)
        tables = (
            DocumentsApi(partitions, plane.readers, plane.registry, plane.access).routes(),
            TokensApi(partitions, plane.readers, plane.access).routes(),
            LeasesApi(plane.registry, partitions, readers, lines, 30.0, clock).routes(),
            WebhooksApi(
                plane.registry, partitions, endpoints, vault, WEBHOOK_BYTES_MAX, 30.0, providers, clock, budget
            ).routes(),
            EndpointsApi(plane.registry, partitions, endpoints, vault, providers).routes(),
        )
        http = Server(build_app(*tables, authoriser=plane.access), "127.0.0.1", 0, shutdown_s=5)
        host, port = await http.start()
        closing.push_async_callback(http.stop)
        client = await closing.enter_async_context(httpx2.AsyncClient(timeout=90))
        yield Leasing(f"http://{host}:{port}", partitions, lines, budget, clock, client, http)
