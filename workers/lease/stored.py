"""The writer lease in an object store: acquired, renewed until it is lost, given back.

All deadlines are counted by our own steady clock from before a request was sent. What became of a request that was not
answered is found out by looking for our own lease id.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Self
from uuid import uuid4

import structlog

from events.backoff import delay, delays
from events.objects.errors import PreconditionFailed, StoreError, StoreUnavailable
from events.write_guard import Clock, WriteGuard, steady_clock
from schemas.writer_lease import LeaseRecord, SavedLease
from workers.lease import metrics
from workers.lease.errors import LeaseError
from workers.lease.holder import Identity, Terms
from workers.lease.lease import Contended, Held
from workers.lease.object import LeaseObject, Seen
from workers.lease.waiting import Watch, pause

RETRY_S, RETRY_MAX_S = 0.25, 2.0
STORE_AWAY_S = 5.0  # between two questions to a store that does not answer
RELEASE_S = 5.0
TRIES_MAX = 3  # of one renewal or release, when an earlier request of ours is found to have been done

log = structlog.get_logger(__name__)


async def same_or_first(epoch_here: int) -> int:
    """Return the epoch of who begins where no lease is stored, `epoch_here` being the one that he held last."""
    return max(1, epoch_here)


class StoredLease:
    """See `WriterLease`. Where no lease is stored `first_epoch` tells the epoch, by the one that was held here last."""

    def __init__(
        self,
        opened: Callable[[], Awaitable[LeaseObject]],
        identity: Identity,
        terms: Terms,
        *,
        first_epoch: Callable[[int], Awaitable[int]] = same_or_first,
        clock: Clock = steady_clock,
        rng: random.Random | None = None,
    ) -> None:
        """`opened` gives the lease object, in the mode that the store can do; it is asked until it answers once."""
        self.guard = WriteGuard(clock)
        self.epoch = 0
        self.holder: LeaseRecord | None = None
        self.lost = asyncio.Event()
        self.trouble = ""
        self._opened = opened
        self._identity = identity
        self._terms = terms
        self._first_epoch = first_epoch
        self._clock = clock
        self._rng = rng or random.Random()
        self._watch = Watch()
        self._object: LeaseObject | None = None
        self._ours: Seen | None = None
        self._next_id = str(uuid4())
        self._stopped_writing = False
        self._keeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.release()

    async def acquire(self) -> Held:
        """Wait until it is ours, however long."""
        told = ""
        for attempt, retry_s in enumerate(delays(base_s=RETRY_S, cap_s=STORE_AWAY_S)):
            try:
                outcome = await self.try_acquire()
            except StoreError as error:
                wait_s = retry_s
                if self.trouble != str(error):
                    log.warning("nobody tells who holds the writer lease", reason=str(error))
                self.trouble = str(error)
            else:
                if isinstance(outcome, Held):
                    return outcome
                holder = outcome.holder
                wait_s = pause(attempt, holder, outcome.remaining_s)
                if told != holder.lease_id:
                    told = holder.lease_id
                    log.info("waiting for the writer lease", holder=holder.owner_id, node=holder.node)
            await asyncio.sleep(wait_s)
        raise AssertionError("delays never end")

    async def try_acquire(self) -> Held | Contended:
        """Acquire it if nobody holds it; raise `StoreError` if the store does not tell."""
        store = self._object = self._object or await self._opened()
        place = self._identity.place
        saved = await place.load()
        seen = await store.read()
        self.trouble = ""
        for _ in range(TRIES_MAX):
            if seen is None:
                epoch = await self._first_epoch(saved.epoch)
            elif self._is_ours(seen.record, {saved.lease_id, saved.trying, self._next_id} - {""}):
                epoch = seen.record.epoch
            elif remaining_s := self._watch.see(seen, self._clock()):
                self.holder = seen.record
                return Contended(seen.record, remaining_s)
            else:
                epoch = max(seen.record.epoch + 1, await self._first_epoch(0))  # the object may be an old copy
            await place.save(saved.model_copy(update={"trying": self._next_id}))
            record = self._record(epoch, seen.record.renewals + 1 if seen else 0)
            sent_at = self._clock()
            now = await self._settled(store, record, seen)
            if now is not None and now.record == record:
                return await self._held(now, seen, saved, sent_at)
            seen = now  # somebody else was faster, or an earlier attempt of ours was done after all: look at it again
        raise StoreUnavailable("the store has not taken the lease")

    async def _held(self, now: Seen, before: Seen | None, saved: SavedLease, sent_at: float) -> Held:
        epoch = now.record.epoch
        await self._identity.place.save(
            saved.model_copy(update={"lease_id": self._next_id, "trying": "", "epoch": epoch})
        )
        self._hold(now, sent_at)
        return Held(epoch, before.record if before else None, taken=epoch != saved.epoch)

    def _is_ours(self, record: LeaseRecord, ids: set[str]) -> bool:
        return record.place == self._identity.place.name and record.lease_id in ids

    def _record(self, epoch: int, renewals: int, *, duration_s: float | None = None) -> LeaseRecord:
        assert self._object is not None
        lasts_s = self._terms.duration_s if duration_s is None else duration_s
        return self._identity.record(self._next_id, self._object.mode, epoch, lasts_s, renewals)

    async def _settled(self, store: LeaseObject, record: LeaseRecord, before: Seen | None) -> Seen | None:
        """Store `record`; return what is there afterwards."""
        try:
            return await store.replace(record, before, settle=True)
        except PreconditionFailed:
            return await store.read()
        except StoreError:
            found = await store.read()
            if found is None or found == before:
                raise  # not done, or not yet: it is found by our id when we try again
            return found

    def _hold(self, held: Seen, sent_at: float) -> None:
        self.lost.clear()
        self.epoch = held.record.epoch
        metrics.epoch.set(self.epoch)
        self._renewed(held, sent_at)
        if self._keeper is not None:
            self._keeper.cancel()  # of who acquired it before and failed to use it: one alone renews
        self._keeper = asyncio.create_task(self._keep(), name="writer lease")

    def _renewed(self, held: Seen, sent_at: float) -> None:
        self._ours, self.holder, self.trouble = held, held.record, ""
        self.guard.open_until(sent_at + self._terms.duration_s - self._terms.margin_s)

    async def _keep(self) -> None:
        """Renew until another holds it. While the store does not tell, the guard closes by itself, and opens again."""
        failures = 0
        while True:
            if failures:
                cap_s = min(RETRY_MAX_S, self._terms.renew_s)
                wait_s = delay(failures, base_s=min(RETRY_S, cap_s), cap_s=cap_s, rng=self._rng, min_s=0.05)
            else:
                wait_s = self._terms.renew_s * self._rng.uniform(0.9, 1.0)
            await asyncio.sleep(wait_s)
            try:
                if not await self._renew():
                    return
            except Exception as error:
                failures += 1
                self._failed(error, failures)
            else:
                metrics.renewals.labels("done").inc()
                if self._stopped_writing:
                    log.info("writer lease renewed again: writes go on", epoch=self.epoch)
                failures, self._stopped_writing = 0, False

    def _failed(self, error: Exception, failures: int) -> None:
        """Tell of the first failure, of each that the store did not cause, and of the one after which writes stop."""
        metrics.renewals.labels("failed").inc()
        self.trouble = str(error) or type(error).__name__
        if not isinstance(error, StoreError | LeaseError):
            log.exception("writer lease not renewed", exc_info=error)
        elif failures == 1:
            left_s = round(self.guard.remaining_s, 1)
            log.warning("writer lease not renewed yet", reason=self.trouble, writes_stop_in_s=left_s)
        if self.guard.closed_because is not None and not self._stopped_writing:
            self._stopped_writing = True
            log.error("writes are refused until the writer lease is renewed", reason=self.trouble)

    async def _renew(self) -> bool:
        """Renew it; False if another holds it. Raise `StoreError` if nobody can say."""
        for _ in range(TRIES_MAX):
            renewals = self._ours.record.renewals + 1 if self._ours else 0
            record = self._record(self.epoch, renewals)
            sent_at = self._clock()
            held = await self._replace(record)
            if held is not None and held.record.lease_id != self._next_id:
                self._lose(held)
                return False
            self._ours = held
            if held is not None and held.record == record:
                self._renewed(held, sent_at)
                return True
        raise StoreUnavailable("the store has not taken the renewal of the lease")

    async def _replace(self, record: LeaseRecord) -> Seen | None:
        """Store `record` in place of ours; return what is there afterwards."""
        assert self._object is not None
        try:
            return await self._object.replace(record, self._ours)
        except StoreError:
            return await self._object.read()

    def _lose(self, seen: Seen) -> None:
        taker = f"{seen.record.owner_id} ({seen.record.node})"
        self.guard.close(f"{taker} holds the writer lease, with epoch {seen.record.epoch}; this node had {self.epoch}")
        log.error("writer lease lost", holder=taker, epoch=seen.record.epoch, ours=self.epoch)
        metrics.losses.inc()
        self.holder, self._ours, self._next_id = seen.record, None, str(uuid4())
        self._watch = Watch()
        self.lost.set()

    async def release(self, *, hand_over: bool = True) -> None:
        """Give it back at once, or let it run out; the guard closes first."""
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return
        if not self.lost.is_set():
            self.guard.close("this node has given the writer lease back")
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
        held, self._ours = self._ours, None
        if held is None or not hand_over:
            return
        try:
            async with asyncio.timeout(RELEASE_S):
                await self._give_back(held)
        except (StoreError, TimeoutError) as error:
            log.warning("writer lease not given back, it runs out by itself", reason=str(error))

    async def _give_back(self, held: Seen) -> None:
        assert self._object is not None
        for _ in range(TRIES_MAX):
            record = self._record(self.epoch, held.record.renewals + 1, duration_s=0)
            with suppress(PreconditionFailed):
                await self._object.replace(record, held)
                return
            found = await self._object.read()  # a renewal that was on its way may have come after all
            if found is None or found.record.lease_id != self._next_id:
                return
            held = found
