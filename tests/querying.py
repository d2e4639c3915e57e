"""Documents served over HTTP on a real log, for tests of queries."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from api.app import build_app
from api.at import Past
from api.clones import ClonesApi
from api.control import ControlPlane
from api.documents import DocumentsApi
from api.query import QueryApi
from api.server import Server
from api.sync import SyncApi
from api.tokens import TokensApi
from forge.stack.nats import NatsServer
from projectors.control.domain import PARTITION, control_domain
from projectors.document.domain import document_domain
from projectors.document.history.history import History
from projectors.document.past.cloner import Cloner
from projectors.document.past.cloning import PART_BYTES
from projectors.document.past.travel import TimeTravel
from projectors.document.reads.reading import DocumentReaders
from projectors.document.reads.row_stream import RowStreams
from projectors.document.sql.bounds import SqlBounds
from projectors.partitions import Partitions
from tests.notes import opened_log

ROOT_TOKEN = "forge_the-root-token-of-these-tests"
ACK_TIMEOUT_S = 30.0


@dataclass
class Documents:
    """A node's documents, and a client that may do everything."""

    url: str
    partitions: Partitions
    readers: DocumentReaders
    api: QueryApi
    cloner: Cloner
    client: httpx2.AsyncClient

    async def ask(
        self, method: str, path: str, body: Any = None, token: str = ROOT_TOKEN, **headers: str
    ) -> httpx2.Response:
        """Send a request; `if_match=...` becomes a header."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        sent["authorization"] = f"Bearer {token}"
        return await self.client.request(method, self.url + path, json=body, headers=sent)

    async def create(self, db_id: str) -> str:
        """Make a document and return its name."""
        reply = await self.ask("POST", "/api/v1/db", {"db_id": db_id})
        assert reply.status_code == 201, reply.text
        return db_id

    async def exec(
        self, db_id: str, sql: str, args: Any = None, *, options: Any = None, token: str = ROOT_TOKEN, **headers: str
    ) -> httpx2.Response:
        """Run one statement."""
        body = {"sql": sql} | ({} if args is None else {"args": args}) | ({"options": options} if options else {})
        return await self.ask("POST", f"/api/v1/db/{db_id}/query/exec", body, token, **headers)

    async def done(self, db_id: str, sql: str, args: Any = None, **more: Any) -> Any:
        """Run one statement that must succeed; return its answer."""
        reply = await self.exec(db_id, sql, args, **more)
        assert reply.status_code == 200, reply.text
        return reply.json()

    async def batch(self, db_id: str, *statements: Any, token: str = ROOT_TOKEN, **headers: str) -> httpx2.Response:
        """Run several statements; a text stands for a statement without arguments."""
        sent = [{"sql": one} if isinstance(one, str) else one for one in statements]
        return await self.ask("POST", f"/api/v1/db/{db_id}/query/batch", {"statements": sent}, token, **headers)

    async def mint(self, *scopes: Sequence[str]) -> str:
        """Return a new token with scopes (action, db_id[, resource_prefix])."""
        asked = [dict(zip(("action", "db_id", "resource_prefix"), scope, strict=False)) for scope in scopes]
        reply = await self.ask("POST", "/api/v1/admin/tokens", {"label": "test", "scopes": asked})
        assert reply.status_code == 201, reply.text
        return str(reply.json()["token"])


@asynccontextmanager
async def served_documents(
    server: NatsServer,
    directory: Path,
    bounds: SqlBounds | None = None,
    *,
    idle_s: float = 300.0,
    part_bytes: int = PART_BYTES,
) -> AsyncIterator[Documents]:
    """Serve documents on the log of `server`, which is this test's own."""
    bounds = bounds or SqlBounds()
    async with AsyncExitStack() as closing:
        event_log = await closing.enter_async_context(opened_log(server))
        control_db, docs_dir = directory / "control.db", directory / "docs"
        domains = {"control": control_domain(control_db), "doc": document_domain(docs_dir, bounds)}
        partitions = Partitions(event_log, domains, node="test-node", idle_s=idle_s)
        closing.push_async_callback(partitions.close)
        plane = await closing.enter_async_context(ControlPlane(partitions, control_db, ROOT_TOKEN))
        await partitions[PARTITION].ready(30)
        readers = DocumentReaders(partitions, docs_dir, bounds)
        closing.push_async_callback(readers.close)
        history = History(event_log)
        closing.push_async_callback(history.close)
        past = directory / "past"
        travel = TimeTravel(event_log.reader, domains["doc"], past, bytes_max=64 << 20, place=history.place)
        closing.push_async_callback(travel.close)
        streams = RowStreams(readers)
        api = QueryApi(plane.registry, partitions, readers, streams, ACK_TIMEOUT_S, Past(travel, readers, streams))
        cloner = Cloner(partitions, travel, docs_dir, part_bytes=part_bytes)
        closing.push_async_callback(cloner.close)
        documents = DocumentsApi(
            partitions, plane.readers, plane.registry, plane.access, check_unused=cloner.check_unused
        )
        tokens = TokensApi(partitions, plane.readers, plane.access)
        clones = ClonesApi(plane.registry, partitions, cloner, documents.may_create)
        sync = SyncApi(plane.registry, partitions, docs_dir, history, ACK_TIMEOUT_S)
        tables = (documents.routes(), tokens.routes(), api.routes(), clones.routes(), sync.routes())
        app = build_app(*tables, authoriser=plane.access)
        http = Server(app, "127.0.0.1", 0, shutdown_s=5)
        host, port = await http.start()
        closing.push_async_callback(http.stop)
        client = await closing.enter_async_context(httpx2.AsyncClient(timeout=60))
        yield Documents(f"http://{host}:{port}", partitions, readers, api, cloner, client)
