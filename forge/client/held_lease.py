"""A lease that is held as long as a block runs: renewed in the background, and the block ended if it is lost."""

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self

from forge.client.errors import ClientError, ForgeError
from forge.client.leases import Leases
from forge.client.retry import RETRIED_STATUSES
from schemas.leases import TTL_S_DEFAULT

RENEWED_AFTER = 1 / 3  # of its time; there are two more tries before it is over
TRIED_AGAIN_AFTER = 1 / 10
MARGIN = 1 / 10  # so much before its end it is given up: clocks do not run alike
RELEASE_S = 5.0


class LeaseLost(ClientError):
    """The lease is not held any more, or nobody can tell in time whether it is."""


class HeldLease:
    """`async with client.db("jobs").lease("nightly", owner="me") as lease: ...`.

    `fence` is its number: give `fences=[lease]` with every change that rests on it. If the lease is lost, the block is
    cancelled, and `LeaseLost` comes out of it. By this machine's clock it ends before the node ends it.
    """

    def __init__(
        self, leases: Leases, resource: str, owner: str, *, ttl_s: int = TTL_S_DEFAULT, wait_s: float | None = None
    ) -> None:
        """`wait_s` bounds the wait while somebody else holds it; None: for ever."""
        self.resource = resource
        self.owner = owner
        self.fence = 0
        self.lost: str | None = None
        self._leases = leases
        self._ttl_s = ttl_s
        self._wait_s = wait_s
        self._clock = leases.transport.clock
        self._token = ""
        self._ends = 0.0
        self._renewing: asyncio.Task[None] | None = None
        self._block: asyncio.Task[object] | None = None
        self._cancelling = 0

    def __str__(self) -> str:
        return f"{self.resource}={self.fence}"

    @property
    def left_s(self) -> float:
        """How long it lasts at least, unless it is lost already."""
        return self._ends - self._clock()

    async def __aenter__(self) -> Self:
        asked_at = self._clock()
        acquired = await self._leases.acquire(self.resource, self.owner, ttl_s=self._ttl_s, wait_s=self._wait_s)
        self.fence, self._token = acquired.fence, acquired.token
        self._ends = asked_at + self._ttl_s  # it was granted after it was asked for: it ends later than that
        if self._clock() - asked_at > self._ttl_s * RENEWED_AFTER:  # much later, maybe
            try:
                await self._renew()
            except ClientError as error:
                raise LeaseLost(f"{self}: {error}") from error
        self._block = asyncio.current_task()
        assert self._block is not None
        self._cancelling = self._block.cancelling()
        self._renewing = asyncio.create_task(self._keep(), name=f"renew the lease of {self.resource}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._renewing is not None
        assert self._block is not None
        block, self._block = self._block, None  # from now on nothing is cancelled any more
        self._renewing.cancel()
        await asyncio.wait([self._renewing])
        if self.lost is None:
            with suppress(ClientError, TimeoutError):  # then it runs out by itself
                async with asyncio.timeout(RELEASE_S):
                    await self._leases.release(self.resource, self.owner, self._token)
        elif block.uncancel() <= self._cancelling and (kind is None or issubclass(kind, asyncio.CancelledError)):
            raise LeaseLost(f"{self}: {self.lost}") from error

    async def _renew(self) -> None:
        asked_at = self._clock()
        await self._leases.renew(self.resource, self.owner, self._token, ttl_s=self._ttl_s)
        self._ends = asked_at + self._ttl_s

    async def _keep(self) -> None:
        """Renew it until that fails for good."""
        wait_s = self._ttl_s * RENEWED_AFTER
        while True:
            left_s = self.left_s - self._ttl_s * MARGIN
            try:
                async with asyncio.timeout(left_s):
                    await asyncio.sleep(min(wait_s, left_s))
                    await self._renew()
                wait_s = self._ttl_s * RENEWED_AFTER
            except TimeoutError:
                return self._lose("no renewal was answered in time")
            except ForgeError as error:
                if error.status not in RETRIED_STATUSES and error.status < 500:
                    return self._lose(str(error))
                wait_s = self._ttl_s * TRIED_AGAIN_AFTER
            except ClientError:
                wait_s = self._ttl_s * TRIED_AGAIN_AFTER

    def _lose(self, why: str) -> None:
        self.lost = why
        if self._block is not None:
            self._block.cancel()
