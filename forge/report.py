"""What a node says about itself: readiness checks, status, and the gauges that are set at a scrape."""

import asyncio
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from prometheus_client import Gauge

from api.system import Check
from events.append import last_message
from events.errors import LogError
from events.log import Log
from forge.lease_report import LeaseReport
from projectors.partitions import Partitions
from projectors.projection import connect, read_cursor
from projectors.readers import Readers
from projectors.vector import queries
from schemas.ids import START, PartitionId, Position
from schemas.problems import Refusal
from workers.embed import EmbedWorker

DISK_FREE_BYTES_MIN = 256 << 20
PROBE_TIMEOUT_S = 3.0

ready_gauge = Gauge("forge_ready", "Whether a check of /readyz is passed: 1 or 0.", ["check"])
jobs_gauge = Gauge("forge_jobs", "Jobs by status.", ["status"])
waiting_gauge = Gauge(
    "forge_commands_waiting", "Commands that wait for a commit loop; documents count together.", ["partition"]
)
lag_gauge = Gauge(
    "forge_projection_lag_records", "Records of the log that a projection has not folded.", ["projection"]
)


class Part(Protocol):
    """A part of a node that says of itself whether it is ready, and sets its own gauges."""

    async def checks(self) -> list[Check]: ...
    async def refresh_metrics(self) -> None: ...


class NodeReport:
    """Looks at a node's parts; never changes anything, and never waits longer than `PROBE_TIMEOUT_S` for one."""

    def __init__(
        self,
        *,
        node_id: str,
        data_dir: Path,
        event_log: Log,
        partitions: Partitions,
        watched: Sequence[PartitionId],
        queue: Readers,
        embed: EmbedWorker | None,
        parts: Sequence[Part],
        leasing: LeaseReport,
    ) -> None:
        self._node_id = node_id
        self._data_dir = data_dir
        self._log = event_log
        self._partitions = partitions
        self._watched = watched
        self._queue = queue
        self._embed = embed
        self._parts = parts
        self._leasing = leasing
        self._started = time.time()

    async def checks(self) -> list[Check]:
        """Return every condition of readiness with its present value."""
        log = await self._log_check()
        checks = [log, self._disk_check(), *self._leasing.checks()]
        for partition_id in self._watched:
            partition = self._partitions[partition_id]
            if log.ok:  # one that was closed because nobody used it opens in a moment
                with suppress(Refusal):
                    await partition.ready(PROBE_TIMEOUT_S)
            position = partition.position
            checks.append(
                Check(
                    f"partition {partition_id}",
                    position is not None,
                    f"at {position}" if position else partition.stopped_because or "opening",
                    "open and caught up",
                    "the value says what stops it; see docs/operations.md",
                    data_at_risk=partition.damaged,
                )
            )
        for part in self._parts if log.ok else ():
            checks += await part.checks()
        return checks

    async def _log_check(self) -> Check:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                await self._log.require_durable()
                await last_message(self._log.reader, self._watched[0])
            value, ok = "answers, sync_interval always", True
        except (LogError, TimeoutError) as error:
            value, ok = str(error) or f"no answer in {PROBE_TIMEOUT_S:g} s", False
        return Check("log", ok, value, "answers and syncs always", "see that nats-server runs: `forge doctor`")

    def _disk_check(self) -> Check:
        free = shutil.disk_usage(self._data_dir).free
        return Check(
            "disk",
            free >= DISK_FREE_BYTES_MIN,
            f"{free >> 20} MiB free",
            f"at least {DISK_FREE_BYTES_MIN >> 20} MiB",
            f"free space on the disk of {self._data_dir}",
        )

    async def status(self) -> dict[str, Any]:
        """Return the state as `GET /status` shows it."""
        projections = await asyncio.gather(*map(self._projections, self._watched))
        return {
            "node": self._node_id,
            "version": version("forge"),
            "uptime_s": round(time.time() - self._started, 1),
            "data_dir": str(self._data_dir),
            "jobs": await self._queue.read(queries.job_counts),
            "projections": [projection for found in projections for projection in found],
            "partitions": [
                {
                    "partition": str(partition.id),
                    "position": str(partition.position) if partition.position else None,
                    "waiting": partition.waiting,
                    "stopped_because": partition.stopped_because,
                }
                for partition in self._partitions.opened()
            ],
            "workers": self._workers(),
            "writer": self._leasing.status(),
        }

    def _workers(self) -> Mapping[str, Any]:
        if self._embed is None:
            return {}
        return {
            "running": self._embed.running,
            "urls": self._embed.urls,
            "breakers": {url: breaker.state for url, breaker in self._embed.breakers.items()},
        }

    async def _projections(self, partition: PartitionId) -> list[dict[str, Any]]:
        end = await self._log_position(partition)
        rows = []
        for spec in self._partitions.domain(partition.domain).projections(partition.key):
            position = await asyncio.to_thread(_position, spec.path)
            lag = end.index - position.index if end and position else None
            rows.append(
                {
                    "name": spec.name,
                    "path": str(spec.path),
                    "position": str(position) if position else None,
                    "log_position": str(end) if end else None,
                    "lag_records": lag,
                }
            )
        return rows

    async def _log_position(self, partition: PartitionId) -> Position | None:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                last = await last_message(self._log.reader, partition)
        except (LogError, TimeoutError):
            return None
        return Position.parse(last.headers["Forge-Position"]) if last else START

    async def refresh_metrics(self) -> None:
        """Set the gauges that are looked up rather than counted."""
        for part in self._parts:
            await part.refresh_metrics()
        self._leasing.refresh_metrics()
        ready_gauge.clear()  # some are only there while others are passed
        for check in await self.checks():
            ready_gauge.labels(check.name).set(check.ok)
        status = await self.status()
        for state, jobs in status["jobs"].items():
            jobs_gauge.labels(state).set(jobs)
        waiting: Counter[str] = Counter()
        for open_ in self._partitions.opened():  # documents together: there may be any number of them
            waiting[str(open_.id) if open_.id in self._watched else open_.id.domain] += open_.waiting
        for name, commands in waiting.items():
            waiting_gauge.labels(name).set(commands)
        for projection in status["projections"]:
            if projection["lag_records"] is not None:
                lag_gauge.labels(projection["name"]).set(projection["lag_records"])


def _position(path: Path) -> Position | None:
    if not path.exists():
        return None
    db = connect(path, readonly=True)
    try:
        return read_cursor(db).position
    finally:
        db.close()
