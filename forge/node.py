"""One node: builds every part from its settings, wires them, and closes them in reverse order."""

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Self

import structlog
from starlette.types import ASGIApp

from api.adapter import Api
from api.app import build_app
from api.asyncapi import asyncapi_route
from api.client_address import Proxies
from api.control import ControlPlane
from api.door import CommandDoor
from api.front import Front
from api.messages.publish import PublishApi
from api.origins import Origins
from api.rates import Rate, Rates
from api.routes import Route
from api.server import Server
from api.static_files import StaticFiles
from api.system import SystemApi
from events.archive import Archive
from events.log import Log
from events.streams import ensure_streams
from events.write_guard import ALWAYS_OPEN, WriteGuard
from forge.archive_service import ArchiveService, open_archive_service
from forge.document_service import ACK_TIMEOUT_S, DocumentService
from forge.domains import domains, standing
from forge.lease_report import LeaseReport
from forge.listen import parse_listen
from forge.log_retention_service import open_log_retention
from forge.relay_service import open_relay
from forge.replica_service import open_replicas
from forge.report import NodeReport
from forge.stack.nats import NatsServer
from forge.standby_service import Standby
from forge.takeover import tell_writer
from forge.vector_service import open_vector_service
from projectors.document.history.history import History
from projectors.partitions import Partitions
from schemas.http_settings import items
from schemas.problems import Refusal
from schemas.settings import Settings
from schemas.vector import Kind
from workers.lease.lease import WriterLease

OPEN_WAIT_S = 30.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a node finds its NATS server: the URL of each user, and the monitoring address."""

    writer: str
    reader: str
    live: str
    admin: str
    monitor: str
    client: str = ""

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
        urls = server.log_url, server.read_url, server.live_url, server.admin_url
        return cls(*urls, server.monitor_url, server.client_url)

    def open(self, archive: Archive | None = None) -> Log:
        """Return the log there, which goes on in `archive`; nothing is connected yet."""
        return Log(
            self.writer,
            self.monitor,
            reader_url=self.reader,
            live_url=self.live,
            admin_url=self.admin,
            archive=archive,
        )


class Node:
    """The API, the commit loops and, if `worker_urls` names workers by kind, the dispatch to them.

    With an `archive`, everything is archived there, under a `lease` that is ours, and with its `epoch`; as a `standby`
    it follows that archive, writes nothing, and refuses commands. The data directory must be this process's own.
    `async with` starts and stops it; `url` is where it listens, unless somebody else does, and shows it on a `front`.
    """

    def __init__(
        self,
        settings: Settings,
        addresses: Addresses,
        *,
        token: str,
        listen: str,
        worker_urls: Mapping[Kind, str],
        archive: Archive | None = None,
        lease: WriterLease | None = None,
        epoch: int = 1,
        standby: Standby | None = None,
        front: Front | None = None,
    ) -> None:
        self._settings = settings
        self._addresses = addresses
        self._token = token
        self._listen = parse_listen(listen)
        self._worker_urls = worker_urls
        self._archive = archive
        self._lease = lease
        self._epoch = epoch
        self._standby = standby
        self._front = front
        self._closing = AsyncExitStack()
        self._archiving: ArchiveService | None = None
        self.url = ""

    @property
    def left_some(self) -> bool:
        """Whether something here may not be archived, although the node was stopped."""
        return self._archiving is not None and self._archiving.left_some

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
        event_log = await self._opened_log()
        writes, guard = self._standby is None, self._guard
        stands_by = None if writes else guard
        archiving = self._archiving = await open_archive_service(
            settings, event_log, self._archive, closing, epoch=self._epoch, writes=writes
        )
        partitions = self._partitions(event_log)
        leasing = await self._leasing(event_log, partitions)
        plane = await closing.enter_async_context(ControlPlane(partitions, settings.control_db, self._token))
        await self._open(partitions)
        if self._lease is not None and writes:
            await tell_writer(partitions, self._lease)
        urls = self._worker_urls if writes else {}
        vector = await open_vector_service(settings, partitions, urls, self._archive, closing)
        history = History(event_log)
        closing.push_async_callback(history.close)
        replicas = await open_replicas(settings, event_log, partitions, plane, history, closing)
        if not writes and not settings.nats_url.get_secret_value():
            guard = ALWAYS_OPEN  # a standby keeps its own log short, too
        retaining = await open_log_retention(settings, event_log, self._archive, replicas, closing, guard)
        await archiving.sweep(replicas.followers, closing)
        service = DocumentService(
            settings, event_log, partitions, plane, history, replicas.views, stands_by, self._archive
        )
        documents = await service.open(closing)
        report = NodeReport(
            node_id=settings.node_id,
            data_dir=settings.data_dir,
            event_log=event_log,
            partitions=partitions,
            watched=standing(settings),
            queue=vector.queue,
            embed=vector.embed,
            parts=(archiving, replicas, retaining),
            leasing=leasing,
        )
        door = await self._door(partitions, plane)
        plain = [*_plain(report), asyncapi_route(door.broker), *archiving.routes(retaining.told)]
        await self._serve(_app(settings, plane, (plain, vector.routes, *documents, *self._relay(partitions, plane))))

    async def _opened_log(self) -> Log:
        event_log = self._addresses.open(self._archive)
        self._closing.push_async_callback(event_log.close)
        await ensure_streams(await event_log.admin.jetstream(), self._settings.nats_replicas)
        return event_log

    async def _leasing(self, event_log: Log, partitions: Partitions) -> LeaseReport:
        """Return what is told of the lease; a standby begins to follow its archive."""
        if self._standby is None or self._archive is None:
            return LeaseReport(self._lease)
        following = self._standby.following(self._archive, event_log, partitions)
        return await self._closing.enter_async_context(following)

    @property
    def _guard(self) -> WriteGuard:
        if self._standby is not None:
            return self._standby.guard
        return self._lease.guard if self._lease else ALWAYS_OPEN

    def _partitions(self, event_log: Log) -> Partitions:
        settings = self._settings
        partitions = Partitions(
            event_log,
            domains(settings),
            node=settings.node_id,
            idle_s=settings.partition_idle_s,
            open_max=settings.partitions_open_max,
            epoch=self._epoch,
            guard=self._guard,
        )
        self._closing.push_async_callback(partitions.close)
        return partitions

    async def _door(self, partitions: Partitions, plane: ControlPlane) -> CommandDoor:
        """Return the door of commands over NATS, which a standby keeps shut."""
        door = CommandDoor(self._addresses.live, partitions, plane.access, plane.registry)
        if self._standby is None:
            await door.start()
            self._closing.push_async_callback(door.stop)
        return door

    def _relay(self, partitions: Partitions, plane: ControlPlane) -> Sequence[Sequence[Route]]:
        """Return the route tables of the relay."""
        stores = PublishApi(plane.registry, partitions, ACK_TIMEOUT_S)
        relay, tables = open_relay(self._settings, plane.registry.require, stores.store)
        self._closing.callback(relay.close)
        return tables

    async def _open(self, partitions: Partitions) -> None:
        """Open what is always needed. If it cannot be opened the node still listens, and says why it is not ready."""
        for partition in standing(self._settings):
            try:
                await partitions[partition].ready(OPEN_WAIT_S)
            except Refusal as refusal:
                log.error("not ready", partition=str(partition), reason=refusal.problem.detail)

    async def _serve(self, app: Api) -> None:
        if self._front is not None:
            showing = self._front.showing(app, shutdown_s=self._settings.shutdown_s)
            return await self._closing.enter_async_context(showing)
        server = http_server(self._settings, app, self._listen)
        self.url = url_of(*await server.start())
        self._closing.push_async_callback(server.stop)


def http_server(settings: Settings, app: ASGIApp, listen: tuple[str, int]) -> Server:
    """Return a server of `app` with the bounds of the settings, not started yet."""
    return Server(
        app,
        *listen,
        connections_max=settings.connections_max,
        header_deadline_s=settings.header_deadline_s,
        shutdown_s=settings.shutdown_s,
    )


def url_of(host: str, port: int) -> str:
    """Return where somebody on this machine reaches a server that listens there."""
    shown = "127.0.0.1" if host in ("0.0.0.0", "::", "") else f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}"


def _plain(report: NodeReport) -> Sequence[Route]:
    """Return the routes of a node whatever it holds: what it says of itself, and its pages."""
    system = SystemApi(report.checks, report.status, report.refresh_metrics)
    return [*system.routes(), *StaticFiles().routes()]


def _app(settings: Settings, plane: ControlPlane, tables: Sequence[Sequence[Route]]) -> Api:
    return build_app(
        *tables,
        authoriser=plane.access,
        rates=_rates(settings),
        anonymous=items(settings.relay_anonymous),
        proxies=Proxies(items(settings.trusted_proxies)),
        origins=Origins(items(settings.cors_origins)),
    )


def _rates(settings: Settings) -> Rates:
    return Rates(
        overall=Rate.of(settings.rate_global, settings.rate_global_burst),
        token=Rate.of(settings.rate_token, settings.rate_token_burst),
        document=Rate.of(settings.rate_document, settings.rate_document_burst),
        unknown=Rate.of(settings.rate_unknown, settings.rate_unknown_burst),
        anonymous=Rate.of(settings.rate_anonymous, settings.rate_anonymous_burst),
    )
