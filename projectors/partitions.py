"""The partitions of a node: opened on first use, closed when idle. The door through which every command goes."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import suppress
from typing import Any

import structlog

from events.log import Log
from events.write_guard import ALWAYS_OPEN, WriteGuard
from projectors import metrics
from projectors.catch_up import Progress
from projectors.domain import Domain
from projectors.memory import give_back_memory
from projectors.outcome import Answer, Committed
from projectors.partition import Partition
from projectors.threads import Threads
from schemas.facts import Command
from schemas.ids import PartitionId, Position
from schemas.instants import now as wall_clock

THREADS = 4  # for the SQLite work of all partitions of a domain; each partition uses one at a time
THREADS_OF = {"doc": 16}  # statements of users may run for seconds: they make only documents wait
OPEN_MAX = 512
CLOSED_AT_ONCE = 4  # each waits for the disk, which syncs several files in the time of one
MEMORY_EVERY_S = 5.0

log = structlog.get_logger(__name__)


class Partitions:
    """All partitions that this node may write. `submit` is the only way to change anything.

    More than `open_max` are open only while they are busy.
    """

    def __init__(
        self,
        event_log: Log,
        domains: Mapping[str, Domain],
        *,
        node: str,
        idle_s: float,
        open_max: int = OPEN_MAX,
        clock: Callable[[], str] = wall_clock,
        progress: Callable[[PartitionId], Progress] = lambda _: lambda _: None,
        epoch: int = 1,
        guard: WriteGuard = ALWAYS_OPEN,
    ) -> None:
        """`epoch` is that of the writer lease under which this node writes; 1 for ever without one."""
        self._log = event_log
        self._guard = guard
        self._domains = domains
        self._node = node
        self._idle_s = idle_s
        self._open_max = open_max
        self._clock = clock
        self._progress = progress
        self.epoch = epoch
        self._open: dict[PartitionId, Partition] = {}  # the least recently used first
        self._listeners: list[Callable[[Committed], None]] = []
        self._closing: dict[PartitionId, asyncio.Event] = {}
        self._closing_listeners: list[Callable[[PartitionId], None]] = []
        self._threads = {name: Threads(THREADS_OF.get(name, THREADS), name) for name in domains}
        self._too_many = asyncio.Event()
        self._stopping = False
        self._sweeper = asyncio.create_task(self._close_idle(), name="close idle partitions")

    def __getitem__(self, partition: PartitionId) -> Partition:
        """Return a partition, opening it if it is not."""
        try:
            known = self._open[partition] = self._open.pop(partition)
            known.used()
            return known
        except KeyError:
            opened = Partition(
                partition,
                self._domains[partition.domain],
                self._log,
                self._threads[partition.domain],
                node=self._node,
                notify=self._notify,
                progress=self._progress(partition),
                clock=self._clock,
                predecessor=self._closing.get(partition),
                epoch=self.epoch,
                guard=self._guard,
            )
            metrics.partitions_open.labels(partition.domain).inc()
            self._open[partition] = opened
            if len(self._open) > self._open_max:
                self._too_many.set()
            return opened

    def find(self, partition: PartitionId) -> Partition | None:
        """Return a partition if it is open."""
        return self._open.get(partition)

    def submit(
        self,
        partition: PartitionId,
        command: Command,
        *,
        principal: str,
        command_id: str | None = None,
        expected: Position | None = None,
        timeout_s: float | None = None,
    ) -> Coroutine[Any, Any, Answer]:
        """Have `command` decided by the partition's owner, which today is this node. See `Partition.submit`."""
        return self[partition].submit(
            command, principal=principal, command_id=command_id, expected=expected, timeout_s=timeout_s
        )

    def listen(self, listener: Callable[[Committed], None]) -> None:
        """Call `listener` on the event loop after every commit; it must be quick. One that raises harms nobody else."""
        self._listeners.append(listener)

    def on_close(self, listener: Callable[[PartitionId], None]) -> None:
        """Call `listener` on the event loop before a partition closes; it must be quick and must not raise."""
        self._closing_listeners.append(listener)

    def opened(self) -> list[Partition]:
        """Return the partitions that are open now."""
        return list(self._open.values())

    def domain(self, name: str) -> Domain:
        """Return a domain by its name; raise `KeyError`."""
        return self._domains[name]

    def _notify(self, committed: Committed) -> None:
        for listener in self._listeners:
            try:
                listener(committed)
            except Exception:
                log.exception("a listener failed", partition=str(committed.partition))

    async def _close_idle(self) -> None:
        closed, memory_at = 0, 0.0
        while not self._stopping:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._idle_s / 4):
                    await self._too_many.wait()
            self._too_many.clear()
            opened = iter(self.opened())
            closed += sum(await asyncio.gather(*(self._close_unused(opened) for _ in range(CLOSED_AT_ONCE))))
            now = asyncio.get_running_loop().time()
            if closed and now - memory_at >= MEMORY_EVERY_S:
                closed, memory_at = 0, now
                await asyncio.to_thread(give_back_memory)

    async def _close_unused(self, partitions: Iterator[Partition]) -> int:
        """Close those of `partitions` that nobody needs, one after the other; return how many."""
        closed = 0
        for partition in partitions:
            too_many = len(self._open) > self._open_max and partition.idle_s > 0
            if (partition.idle_s > self._idle_s or too_many) and not self._stopping:
                await self._close(partition)
                closed += 1
        return closed

    async def _close(self, partition: Partition) -> None:
        del self._open[partition.id]
        for listener in self._closing_listeners:
            listener(partition.id)
        metrics.partitions_open.labels(partition.id.domain).dec()
        closed = self._closing[partition.id] = asyncio.Event()
        try:
            await partition.close()
        finally:
            closed.set()
            if self._closing.get(partition.id) is closed:
                del self._closing[partition.id]

    async def close(self) -> None:
        """Close all partitions; what waits is refused."""
        self._stopping = True
        self._too_many.set()
        await self._sweeper  # what it is closing is closed properly
        await asyncio.gather(*(self._close(partition) for partition in self.opened()))
        for threads in self._threads.values():
            threads.close()
