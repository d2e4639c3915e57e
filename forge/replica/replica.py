"""A document of a node as a program uses it: reads from a local file, writes through to the node."""

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import apsw
from apsw.ext import query_info

from forge.client.document import Args, Document, Statement
from forge.client.document_replies import Result
from forge.client.retry import Retry
from forge.client.transport import Transport
from forge.replica.chunks import WAIT_MS
from forge.replica.errors import Stale
from forge.replica.follower import Follower
from forge.replica.status import Status
from projectors.projection import read_cursor
from projectors.readers import Readers
from schemas.ids import Position

FOLLOWER_RETRY = Retry(attempts=1, cap_s=2.0)
"""A follower waits by itself, so that its status tells; it is back soon after a node that was restarted."""
OWN_WRITE_S = 30.0
POLL_SHARE = 0.4
"""Of the staleness that is allowed: so often a replica asks, so that one late answer refuses no read."""


class Replica:
    """A file that follows `db_id` as long as the context is open; `status` says how it is doing.

    Any other program may read the file meanwhile; none may write it. Entering makes the file if it is missing, and
    raises `ReplicaError` or `ClientError` if that fails. A node that goes away later only stops the news.
    """

    def __init__(
        self,
        url: str,
        token: str,
        db_id: str,
        path: Path | str,
        *,
        timeout_s: float = 120.0,
        max_staleness_s: float | None = None,
    ) -> None:
        """With `max_staleness_s`, reads are refused while something that old may be missing."""
        wait_ms = WAIT_MS if max_staleness_s is None else max(1, min(WAIT_MS, int(max_staleness_s * 1000 * POLL_SHARE)))
        self._news = Transport(url, token, timeout_s=timeout_s, retry=Retry())
        self._writes = Transport(url, token, timeout_s=timeout_s, retry=Retry())
        self._document = Document(self._writes, db_id)
        self._follower = Follower(self._news, db_id, Path(path), heard=self._heard, kind="program", wait_ms=wait_ms)
        self._max_staleness_s = max_staleness_s
        self._readers: Readers | None = None
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        try:
            await self._follower.open()
        except BaseException:
            await self._close()
            raise
        self._news.retry = FOLLOWER_RETRY
        self._readers = Readers(self._follower.path, self._look_again)
        self._task = asyncio.create_task(self._follow(), name=f"replica of {self._follower.db_id}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    @property
    def status(self) -> Status:
        """State, position and lag."""
        return self._follower.status

    async def read(self, sql: str, args: Args = ()) -> Result:
        """Run a read in the local file; its position is that of all it saw.

        Raise `apsw.Error` for bad SQL, and `Stale` if the file may lack what is older than allowed.
        """

        def query(db: apsw.Connection) -> Result:
            rows = db.execute(sql, dict(args) if isinstance(args, Mapping) else tuple(args)).fetchall()
            columns = tuple(name for name, _ in query_info(db, sql).description)
            return Result("read", columns, rows, position=read_cursor(db).position)

        assert self._readers is not None, "the replica is not open"
        self._check_fresh()
        return await self._readers.read(query)

    @property
    def staleness_s(self) -> float:
        """How long ago the file was known to lack nothing; endless before it was for the first time."""
        fresh_at = self._follower.fresh_at
        return math.inf if fresh_at is None else time.monotonic() - fresh_at

    def _check_fresh(self) -> None:
        if self._max_staleness_s is None or (behind_s := self.staleness_s) <= self._max_staleness_s:
            return
        since = "it has not caught up yet" if behind_s == math.inf else f"it was up to date {behind_s:.1f} s ago"
        why = f"{self._follower.path} may lack what is older than {self._max_staleness_s:g} s: {since}"
        raise Stale(why, self.status.why or "wait until it has caught up, or allow more")

    async def exec(self, sql: str, args: Args = (), **options: Any) -> Result:
        """Run a statement on the node, as `Document.exec` does; return when the file has it too."""
        result = await self._document.exec(sql, args, **options)
        if result.position is not None and result.kind != "read":
            await self.wait(result.position)
        return result

    async def batch(self, statements: Sequence[Statement], **options: Any) -> list[Result]:
        """Run statements on the node, all or none; return when the file has them too."""
        results = await self._document.batch(statements, **options)
        if results and results[-1].position is not None and any(result.kind != "read" for result in results):
            await self.wait(results[-1].position)
        return results

    async def wait(self, position: Position, timeout_s: float = OWN_WRITE_S) -> None:
        """Return when `position` can be read locally; raise `TimeoutError`, or why the replica has stopped."""
        async with asyncio.timeout(timeout_s):
            while self.status.position is None or self.status.position < position:
                if self._task is None or self._task.done():
                    await (self._task or asyncio.sleep(0))
                    raise RuntimeError("the replica is closed")
                changed = asyncio.create_task(self._changed.wait())
                await asyncio.wait({changed, self._task}, return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()

    async def _follow(self) -> None:
        await self._follower.follow()

    def _heard(self, _: Status) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _look_again(self) -> None:
        """A new copy may just be taking the place of the file."""

    async def _close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError, Exception):  # whoever waited was told
                await self._task
        if self._readers is not None:
            await asyncio.to_thread(self._readers.close)
        await self._follower.close()
        await self._news.http.aclose()
        await self._writes.http.aclose()
