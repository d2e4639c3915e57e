"""The embed worker in a process of its own, beside a node that serves."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from nats.aio.msg import Msg
from ulid import ULID

from events.payload_archive import PayloadArchive
from events.payloads import PayloadStore
from forge.datadir import read_root_token
from forge.node import Addresses
from forge.object_storage import archive
from projectors.vector.domain import PARTITION
from schemas.settings import Settings
from schemas.vector import KINDS
from workers.embed import EmbedWorker, predictors_by_kind
from workers.predict import Predictor
from workers.remote import RemotePartitions


@asynccontextmanager
async def remote_embed(settings: Settings) -> AsyncIterator[str]:
    """Run an embed worker that hands its commands to the node serving on the same NATS server.

    Claims of a worker that died run out by themselves; other workers may run beside this one.
    """
    log = Addresses.from_settings(settings).open()
    payloads = PayloadStore(settings.blob_cache, settings.vector_temp_dir)
    token = settings.token.get_secret_value() or await asyncio.to_thread(read_root_token, settings.data_dir)
    urls = {kind: settings.worker_url(kind) for kind in KINDS}
    predictors = predictors_by_kind(urls, lambda url: Predictor(url, timeout_s=settings.vector_call_timeout_s))
    storage = AsyncExitStack()
    worker = EmbedWorker(
        RemotePartitions(log.live, token),
        payloads,
        PayloadArchive(payloads, await storage.enter_async_context(archive(settings))),
        predictors,
        worker_id=f"{settings.node_id}-{ULID()}",
        concurrency=settings.vector_worker_concurrency,
        call_timeout_s=settings.vector_call_timeout_s,
    )

    def heard(_: Msg) -> None:
        worker.wake()

    stop_listening = await log.live.listen(PARTITION.live_subject, heard)
    task = asyncio.create_task(worker.run(), name="embed worker")
    try:
        yield f"worker embed runs; image: {urls['image']}, text: {urls['text']}"
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        stop_listening()
        for predictor in set(predictors.values()):
            await predictor.aclose()
        await payloads.close()
        await storage.aclose()
        await log.close()
