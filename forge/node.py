"""One node: builds every part from its settings, wires them, and closes them in reverse order."""

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Self

import structlog
from ulid import ULID

from api.app import build_app
from api.auth import Authenticator
from api.door import command_door
from api.server import Server
from api.system import SystemApi
from api.uploads import Uploads
from api.vector import VectorApi
from events.log import Log
from events.payloads import PayloadStore
from events.streams import ensure_streams
from forge.listen import parse_listen
from forge.report import NodeReport
from forge.stack.nats import NatsServer
from projectors.domain import Domain
from projectors.partitions import Partitions
from projectors.readers import Readers
from projectors.vector.domain import PARTITION, vector_domain
from schemas.problems import Refusal
from schemas.settings import Settings
from schemas.vector import Kind
from workers.embed import EmbedWorker, predictors_by_kind
from workers.predict import Predictor

OPEN_WAIT_S = 30.0
SEARCHES_MAX = 2  # at the same time; more wait
READ_WAIT_S = 5.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a node finds its NATS server: the URL of each user, and the monitoring address."""

    writer: str
    reader: str
    live: str
    admin: str
    monitor: str

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Return the addresses of somebody else's server; users that are not set are the writer."""
        writer = settings.nats_url.get_secret_value()
        host = writer.rpartition("@")[2].removeprefix("nats://").partition(",")[0].partition(":")[0]
        return cls(
            writer,
            settings.nats_read_url.get_secret_value() or writer,
            settings.nats_live_url.get_secret_value() or writer,
            settings.nats_admin_url.get_secret_value() or writer,
            settings.nats_monitor_url or f"http://{host}:8222",
        )

    @classmethod
    def of(cls, server: NatsServer) -> Self:
        """Return the addresses of a server that was started here."""
        return cls(server.log_url, server.read_url, server.live_url, server.admin_url, server.monitor_url)

    def open(self) -> Log:
        """Return the log there; nothing is connected yet."""
        return Log(self.writer, self.monitor, reader_url=self.reader, live_url=self.live, admin_url=self.admin)


def domains(settings: Settings) -> dict[str, Domain]:
    """Return every domain that a node with these settings can open, by name."""
    vector = vector_domain(
        settings.vector_queue_db,
        settings.vector_embed_db,
        pending_max=settings.vector_max_pending_jobs,
        attempts_max=settings.vector_max_job_attempts,
    )
    return {vector.name: vector}


class Node:
    """The API, the commit loops and, if `worker_urls` names workers by kind, the dispatch to them.

    The data directory must be this process's own. `async with` starts and stops it; `url` is where it listens.
    """

    def __init__(
        self, settings: Settings, addresses: Addresses, *, token: str, listen: str, worker_urls: Mapping[Kind, str]
    ) -> None:
        self._settings = settings
        self._addresses = addresses
        self._token = token
        self._listen = parse_listen(listen)
        self._worker_urls = worker_urls
        self._closing = AsyncExitStack()
        self.url = ""

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._closing.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._closing.aclose()

    async def _start(self) -> None:
        settings, closing = self._settings, self._closing
        event_log = self._addresses.open()
        closing.push_async_callback(event_log.close)
        await ensure_streams(await event_log.admin.jetstream(), settings.nats_replicas)
        payloads = PayloadStore(settings.blob_cache, settings.vector_temp_dir)
        closing.push_async_callback(payloads.close)
        await payloads.sweep()
        partitions = Partitions(event_log, domains(settings), node=settings.node_id, idle_s=settings.partition_idle_s)
        closing.push_async_callback(partitions.close)
        await self._open(partitions)

        async def opened() -> None:
            await partitions[PARTITION].ready(READ_WAIT_S)

        queue, embeddings = Readers(settings.vector_queue_db, opened), Readers(settings.vector_embed_db, opened)
        # A search reads every vector: it must not stand in the way of lookups and uploads.
        searches = Readers(settings.vector_embed_db, opened, connections=SEARCHES_MAX)
        for readers in (queue, embeddings, searches):
            closing.push_async_callback(asyncio.to_thread, readers.close)
        embed = await self._start_embedding(partitions, payloads) if self._worker_urls else None
        ack_timeout_s = settings.vector_queue_ack_timeout_ms / 1000
        uploads = Uploads(
            partitions,
            queue,
            embeddings,
            payloads,
            pending_max=settings.vector_max_pending_jobs,
            ack_timeout_s=ack_timeout_s,
            bytes_max=settings.upload_bytes_max,
        )
        vector = VectorApi(
            partitions,
            queue,
            embeddings,
            searches,
            uploads,
            ack_timeout_s,
            lookup_chunk=settings.vector_lookup_chunk_size,
        )
        report = NodeReport(
            node_id=settings.node_id,
            data_dir=settings.data_dir,
            event_log=event_log,
            partitions=partitions,
            watched=(PARTITION,),
            queue=queue,
            embed=embed,
        )
        system = SystemApi(report.checks, report.status, report.refresh_metrics)
        authenticator = Authenticator(self._token)
        door = command_door(self._addresses.live, partitions, authenticator)
        await door.start()
        closing.push_async_callback(door.stop)
        await self._serve(vector, system, authenticator)

    async def _open(self, partitions: Partitions) -> None:
        """Open what is always needed. If it cannot be opened the node still listens, and says why it is not ready."""
        try:
            await partitions[PARTITION].ready(OPEN_WAIT_S)
        except Refusal as refusal:
            log.error("not ready", partition=str(PARTITION), reason=refusal.problem.detail)

    async def _start_embedding(self, partitions: Partitions, payloads: PayloadStore) -> EmbedWorker:
        call_timeout_s = self._settings.vector_call_timeout_s
        predictors = predictors_by_kind(self._worker_urls, lambda url: Predictor(url, timeout_s=call_timeout_s))
        for predictor in set(predictors.values()):
            self._closing.push_async_callback(predictor.aclose)
        embed = EmbedWorker(
            partitions,
            payloads,
            predictors,
            worker_id=f"{self._settings.node_id}-{ULID()}",
            concurrency=self._settings.vector_worker_concurrency,
            call_timeout_s=call_timeout_s,
        )
        with suppress(Refusal):  # the log is away: claims run out by themselves
            await embed.recover()
        partitions.listen(embed.heard)
        task = asyncio.create_task(embed.run(), name="embed worker")
        self._closing.push_async_callback(_cancelled, task)
        return embed

    async def _serve(self, vector: VectorApi, system: SystemApi, authenticator: Authenticator) -> None:
        settings = self._settings
        server = Server(
            build_app(system.routes(), vector.routes(), authoriser=authenticator),
            *self._listen,
            connections_max=settings.connections_max,
            header_deadline_s=settings.header_deadline_s,
            shutdown_s=settings.shutdown_s,
        )
        host, port = await server.start()
        self._closing.push_async_callback(server.stop)
        shown = "127.0.0.1" if host in ("0.0.0.0", "::", "") else f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{port}"


async def _cancelled(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
