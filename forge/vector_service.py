"""The vector service of a node: uploads, lookups, search and, if it embeds, the dispatch to workers, wired."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass

from ulid import ULID

from api.routes import Route
from api.uploads import Uploads
from api.vector import VectorApi
from events.archive import Archive
from events.payload_archive import PayloadArchive
from events.payloads import PayloadStore
from projectors.partitions import Partitions
from projectors.readers import Readers
from projectors.tasks import end
from projectors.vector.domain import PARTITION
from schemas.problems import Refusal
from schemas.settings import Settings
from schemas.vector import Kind
from workers.embed import EmbedWorker, predictors_by_kind
from workers.predict import Predictor

SEARCHES_MAX = 2  # at the same time; more wait
READ_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class VectorService:
    """What runs: the route table, readers of the jobs, and the dispatch if this node embeds."""

    routes: Sequence[Route]
    queue: Readers
    embed: EmbedWorker | None


async def open_vector_service(
    settings: Settings,
    partitions: Partitions,
    worker_urls: Mapping[Kind, str],
    archive: Archive | None,
    closing: AsyncExitStack,
) -> VectorService:
    """Start the service, to be closed by `closing`; it embeds if `worker_urls` names workers by kind.

    What `archive` has of payloads that are not here is fetched from it.
    """
    payloads = PayloadStore(settings.blob_cache, settings.vector_temp_dir)
    closing.push_async_callback(payloads.close)
    await payloads.sweep()
    archived = PayloadArchive(payloads, archive)

    async def opened() -> None:
        await partitions[PARTITION].ready(READ_WAIT_S)

    queue, embeddings = Readers(settings.vector_queue_db, opened), Readers(settings.vector_embed_db, opened)
    # A search reads every vector: it must not stand in the way of lookups and uploads.
    searches = Readers(settings.vector_embed_db, opened, connections=SEARCHES_MAX)
    for readers in (queue, embeddings, searches):
        closing.push_async_callback(asyncio.to_thread, readers.close)
    embed = None
    if worker_urls:
        embed = await _start_embedding(settings, partitions, payloads, archived, worker_urls, closing)
    ack_timeout_s = settings.vector_queue_ack_timeout_ms / 1000
    uploads = Uploads(
        partitions,
        queue,
        embeddings,
        payloads,
        pending_max=settings.vector_max_pending_jobs,
        ack_timeout_s=ack_timeout_s,
        bytes_max=settings.upload_bytes_max,
        remote=archived if settings.payload_ack == "remote" else None,
    )
    api = VectorApi(
        partitions,
        queue,
        embeddings,
        searches,
        uploads,
        ack_timeout_s,
        lookup_chunk=settings.vector_lookup_chunk_size,
    )
    return VectorService(api.routes(), queue, embed)


async def _start_embedding(
    settings: Settings,
    partitions: Partitions,
    payloads: PayloadStore,
    archived: PayloadArchive,
    worker_urls: Mapping[Kind, str],
    closing: AsyncExitStack,
) -> EmbedWorker:
    call_timeout_s = settings.vector_call_timeout_s
    predictors = predictors_by_kind(worker_urls, lambda url: Predictor(url, timeout_s=call_timeout_s))
    for predictor in set(predictors.values()):
        closing.push_async_callback(predictor.aclose)
    embed = EmbedWorker(
        partitions,
        payloads,
        archived,
        predictors,
        worker_id=f"{settings.node_id}-{ULID()}",
        concurrency=settings.vector_worker_concurrency,
        call_timeout_s=call_timeout_s,
    )
    with suppress(Refusal):  # the log is away: claims run out by themselves
        await embed.recover()
    partitions.listen(embed.heard)
    closing.push_async_callback(end, asyncio.create_task(embed.run(), name="embed worker"))
    return embed
