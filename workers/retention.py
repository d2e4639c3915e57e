"""Removes messages that a document does not keep any more, soon after they have had their time."""

import asyncio
import heapq
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog
from prometheus_client import Counter, Gauge

from projectors.control.queries import RetentionRow
from projectors.outcome import Committed
from schemas.control import RegistryFact
from schemas.instants import now as wall_clock
from schemas.instants import parse_instant
from schemas.messages import MessagesPublished, PruneMessages
from schemas.problems import Refusal

SOON_S = 1.0
"""After a publish; whatever comes until then is looked at together."""
RETRY_S = 30.0
SLEEP_S_MAX = 30.0  # then the clock is read again: somebody may have set it
START_PER_S = 5.0
"""So many documents are opened a second when the node starts."""
PRINCIPAL = "retention"

PRUNED = Counter("forge_messages_pruned_total", "Messages that were removed by the policy of their document.")
POLICIES = Gauge("forge_message_retention_policies", "Documents that do not keep all of their messages.")
log = structlog.get_logger(__name__)

Prune = Callable[[str, PruneMessages], Awaitable[Mapping[str, Any]]]
"""Has a document decide the command; returns its answer, or raises `Refusal`."""


class Schedule:
    """When to look at which document, in seconds of some clock."""

    def __init__(self) -> None:
        self._due: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []

    def at(self, db_id: str, due_s: float) -> None:
        """Look at it then, or earlier if that was to be."""
        if due_s < self._due.get(db_id, float("inf")):
            self._due[db_id] = due_s
            heapq.heappush(self._heap, (due_s, db_id))

    def forget(self, db_id: str) -> None:
        """Do not look at it."""
        self._due.pop(db_id, None)

    def next_s(self) -> float | None:
        """Return when to look at the next one."""
        while self._heap and self._due.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def take(self, now_s: float) -> str | None:
        """Return one that is due."""
        due_s = self.next_s()
        if due_s is None or due_s > now_s:
            return None
        _, db_id = heapq.heappop(self._heap)
        del self._due[db_id]
        return db_id


@dataclass(frozen=True, slots=True)
class Pruning:
    """One look at a document: removes what it does not keep, and says when to look again."""

    prune: Prune
    clock: Callable[[], str] = wall_clock

    def now_s(self) -> float:
        """Return the present moment."""
        return parse_instant(self.clock()).timestamp()

    async def look(self, db_id: str, policy: RetentionRow) -> float | None:
        """Remove one part; return when the next message comes of age, None if none will by itself."""
        answer = await self.prune(db_id, PruneMessages(**policy._asdict()))
        PRUNED.inc(answer["pruned"])
        if answer["more"]:
            return self.now_s()
        if policy.max_age_s is None or answer["oldest"] is None:
            return None
        return max(self.now_s() + SOON_S, parse_instant(answer["oldest"]).timestamp() + policy.max_age_s)


class RetentionWorker:
    """Follows what is published and what policies say. Hand `heard` to `Partitions.listen`, and run `run`."""

    def __init__(self, pruning: Pruning, policies: Callable[[], Awaitable[Mapping[str, RetentionRow]]]) -> None:
        self._pruning = pruning
        self._read_policies = policies
        self._policies: Mapping[str, RetentionRow] = {}
        self._schedule = Schedule()
        self._stale = True
        self._news = asyncio.Event()

    def heard(self, committed: Committed) -> None:
        """Note what a commit asks for."""
        if committed.partition.domain == "control":
            if not committed.facts or any(isinstance(fact, RegistryFact) for fact in committed.facts):
                self._stale = True
                self._news.set()
        elif committed.partition.key in self._policies and _published(committed):
            self._schedule.at(committed.partition.key, self._pruning.now_s() + SOON_S)
            self._news.set()

    async def run(self) -> None:
        """Look at documents for ever, one after the other."""
        while True:
            self._news.clear()
            try:
                if self._stale:
                    await self._refresh()
                db_id = self._schedule.take(self._pruning.now_s())
            except Exception as error:
                _warn("cannot read which messages are kept", error)
                await asyncio.sleep(RETRY_S)
                continue
            if db_id is None:
                await self._wait()
            elif (policy := self._policies.get(db_id)) is not None:
                await self._look(db_id, policy)

    async def _look(self, db_id: str, policy: RetentionRow) -> None:
        try:
            due_s = await self._pruning.look(db_id, policy)
        except Exception as error:  # of one document; the others still have their turn
            _warn("messages cannot be removed now", error, document=db_id)
            due_s = self._pruning.now_s() + RETRY_S
        if due_s is not None:
            self._schedule.at(db_id, due_s)

    async def _refresh(self) -> None:
        self._stale = False
        before, starting = self._policies, not self._policies
        try:
            self._policies = await self._read_policies()
        except BaseException:
            self._stale = True
            raise
        POLICIES.set(len(self._policies))
        for db_id in before.keys() - self._policies.keys():
            self._schedule.forget(db_id)
        new = [db_id for db_id, policy in self._policies.items() if before.get(db_id) != policy]
        for number, db_id in enumerate(new):
            self._schedule.at(db_id, self._pruning.now_s() + (number / START_PER_S if starting else 0))

    async def _wait(self) -> None:
        due_s = self._schedule.next_s()
        left_s = SLEEP_S_MAX if due_s is None else min(SLEEP_S_MAX, max(0.0, due_s - self._pruning.now_s()))
        with suppress(TimeoutError):
            async with asyncio.timeout(left_s):
                await self._news.wait()


def _warn(what: str, error: Exception, **more: str) -> None:
    if isinstance(error, Refusal):
        log.warning(what, reason=error.problem.detail, **more)
    else:
        log.error(what, exc_info=error, **more)


def _published(committed: Committed) -> bool:
    return any(isinstance(fact, MessagesPublished) for fact in committed.facts)
