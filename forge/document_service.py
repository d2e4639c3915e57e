"""The documents of a node: everything that serves them, wired."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from api.at import Past
from api.changes import ChangesApi
from api.clones import ClonesApi
from api.control import ControlPlane
from api.documents import DocumentsApi
from api.lease_waiting import LeaseLines
from api.leases import LeasesApi
from api.messages.events import EventsApi
from api.messages.publish import PublishApi
from api.messages.retained import RetainedApi
from api.messages.retention import RetentionApi
from api.messages.socket import SocketApi
from api.origins import Origins
from api.query import QueryApi
from api.replica_views import ReplicaViews
from api.replicas import ReplicasApi
from api.replication import ReplicationApi
from api.routes import Route
from api.snapshots import SnapshotApi
from api.sse import frame
from api.sync import SyncApi
from api.tokens import TokensApi
from api.tracking import Tracking
from api.watch import WatchApi
from api.webhooks.receiving import WebhooksApi
from api.webhooks.settings import EndpointsApi
from events.archive import Archive
from events.log import Log
from events.write_guard import WriteGuard
from forge.domains import sql_bounds
from forge.node_key import NodeKey
from forge.retention_service import retention
from projectors.document.domain import document_partition
from projectors.document.history.decoding import Decoder
from projectors.document.history.history import History
from projectors.document.history.snapshots import Snapshots
from projectors.document.messages.live import Messages
from projectors.document.past.cloner import Cloner
from projectors.document.past.travel import TimeTravel
from projectors.document.reads.reading import DocumentReaders
from projectors.document.reads.row_stream import RowStreams
from projectors.document.watches.evaluating import Evaluator
from projectors.document.watches.watching import Watches
from projectors.partitions import Partitions
from projectors.threads import Threads
from schemas.document import PrepareSystem
from schemas.http_settings import items
from schemas.ids import Position
from schemas.settings import Settings

ACK_TIMEOUT_S = 30.0
OPEN_WAIT_S = 10.0
HISTORY_THREADS = 2  # decode changes, hash files


@dataclass(frozen=True, slots=True)
class DocumentService:
    """The documents of one node, and their tokens, as route tables."""

    settings: Settings
    event_log: Log
    partitions: Partitions
    plane: ControlPlane
    history: History
    replicas: ReplicaViews
    standby: WriteGuard | None = None
    archive: Archive | None = None

    async def open(self, closing: AsyncExitStack) -> Sequence[Sequence[Route]]:
        """Start what serves documents, to be closed by `closing`; return the route tables."""
        settings, partitions, registry = self.settings, self.partitions, self.plane.registry
        readers = DocumentReaders(partitions, settings.docs_dir, sql_bounds(settings), prepare=self._prepare)
        closing.push_async_callback(readers.close)
        threads = closing.enter_context(Threads(HISTORY_THREADS, "history"))
        domain = partitions.domain("doc")
        past = settings.cache_dir / "past"
        history = self.history
        travel = TimeTravel(
            self.event_log.reader,
            domain,
            past,
            bytes_max=settings.travel_cache_bytes,
            place=history.place,
            archive=self.archive,
        )
        closing.push_async_callback(travel.close)
        cloner = Cloner(partitions, travel, settings.docs_dir)
        closing.push_async_callback(cloner.close)
        streams = RowStreams(readers)
        evaluator = Evaluator(readers)
        watches = Watches(partitions, evaluator.evaluate, frame)
        closing.push_async_callback(watches.close)
        messages = Messages(partitions, readers)
        snapshots = Snapshots(
            settings.docs_dir, settings.cache_dir / "snapshots", self._ready, bytes_max=settings.snapshot_cache_bytes
        )
        closing.push_async_callback(asyncio.to_thread, snapshots.close)
        tracking = Tracking(self.replicas.tracker)
        lines = LeaseLines()
        partitions.listen(lines.heard)
        access, known = self.plane.access, self.plane.readers
        documents = DocumentsApi(partitions, known, registry, access, settings.db_create, cloner.check_unused)
        apis = (
            documents,
            TokensApi(partitions, known, access),
            QueryApi(
                registry, partitions, readers, streams, ACK_TIMEOUT_S, Past(travel, readers, streams), self.standby
            ),
            WatchApi(registry, partitions, watches, evaluator.check),
            ChangesApi(history, registry, Decoder(domain.facts, threads)),
            ReplicationApi(history, registry, tracking),
            SnapshotApi(snapshots, registry, threads, tracking),
            ReplicasApi(self.replicas, tracking, history, registry, partitions),
            SyncApi(registry, partitions, settings.docs_dir, history, ACK_TIMEOUT_S),
            ClonesApi(registry, partitions, cloner, documents.may_create),
            PublishApi(registry, partitions, ACK_TIMEOUT_S),
            LeasesApi(registry, partitions, readers, lines, ACK_TIMEOUT_S),
            *_webhooks(settings, partitions, self.plane),
            EventsApi(registry, partitions, messages),
            RetainedApi(registry, partitions, messages),
            RetentionApi(registry, partitions, known),
            SocketApi(registry, partitions, messages, Origins(items(settings.cors_origins))),
        )
        if self.standby is None:
            await closing.enter_async_context(retention(partitions, known))
        return [api.routes() for api in apis]

    async def _prepare(self, db_id: str) -> None:
        """Make the system tables of a document that takes writes."""
        self.plane.registry.require(db_id, for_writing=True)
        partition = document_partition(db_id)
        await self.partitions.submit(partition, PrepareSystem(), principal="forge", timeout_s=OPEN_WAIT_S)

    async def _ready(self, db_id: str, at_least: Position | None) -> Position:
        """Wait until a document can be read, at a position if one is given; return where it stands."""
        partition = self.partitions[document_partition(db_id)]
        await (partition.ready(OPEN_WAIT_S) if at_least is None else partition.reached(at_least, OPEN_WAIT_S))
        assert partition.position is not None
        return partition.position


def _webhooks(settings: Settings, partitions: Partitions, plane: ControlPlane) -> tuple[WebhooksApi, EndpointsApi]:
    vault, endpoints, registry = NodeKey(settings.data_dir / "node.key"), plane.webhook_endpoints, plane.registry
    receiving = WebhooksApi(registry, partitions, endpoints, vault, settings.webhook_bytes_max, ACK_TIMEOUT_S)
    return receiving, EndpointsApi(registry, partitions, endpoints, vault)
