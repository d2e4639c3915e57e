"""One application before others that take turns: what a node answers while its role changes, and who answers then."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import structlog
from pydantic_core import to_json
from starlette.types import ASGIApp, Receive, Scope, Send

from api.problems import encode_problem
from schemas.problems import UNAVAILABLE

RETRY_AFTER_S = 2

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Behind:
    """An application and the requests that it answers now; `stopping` ends those that have no end."""

    app: ASGIApp
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    running: set["asyncio.Task[None]"] = field(default_factory=set)


class Front:
    """Hands requests to the application that is shown, and answers 503 itself while none is: `doing` says what goes on.

    `/healthz` always answers: the process lives.
    """

    def __init__(self) -> None:
        self.doing = "this node is starting"
        self._behind: _Behind | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        behind, task = self._behind, asyncio.current_task()
        if behind is None or task is None:
            return await self._answer(scope, send)
        scope.setdefault("state", {})["stopping"] = behind.stopping
        behind.running.add(task)
        try:
            await behind.app(scope, receive, send)
        finally:
            behind.running.discard(task)

    @asynccontextmanager
    async def showing(self, app: ASGIApp, *, shutdown_s: float) -> AsyncIterator[None]:
        """Let `app` answer. At the end requests that run may finish for `shutdown_s`, then they are cut."""
        behind = self._behind = _Behind(app)
        try:
            yield
        finally:
            self._behind = None
            behind.stopping.set()
            if behind.running:
                _, late = await asyncio.wait(behind.running, timeout=shutdown_s)
                for task in late:
                    task.cancel()
                if late:
                    log.warning("requests cut at a change of roles", requests=len(late))
                    await asyncio.wait(late, timeout=1.0)

    def end(self) -> None:
        """Let endless answers end: the process stops."""
        if self._behind is not None:
            self._behind.stopping.set()

    async def _answer(self, scope: Scope, send: Send) -> None:
        if scope["path"] == "/healthz":
            status, body, headers = 200, to_json({"status": "ok"}), {"content-type": "application/json"}
        else:
            status = 503
            body, headers = encode_problem(UNAVAILABLE.problem(self.doing, retry_after_s=RETRY_AFTER_S), None)
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        pairs.append((b"content-length", str(len(body)).encode()))
        with suppress(OSError):
            await send({"type": "http.response.start", "status": status, "headers": pairs})
            await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
