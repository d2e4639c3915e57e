"""The HTTP server: listens in the loop of its caller, sweeps deadlines, and stops within a bound."""

import asyncio
import contextlib
import time
from email.utils import formatdate

import structlog
from starlette.types import ASGIApp

from api.connection import Connection
from api.hub import Hub, Member
from api.limits import Limits

DEFAULT = Limits()
SWEEP_S_MAX = 1.0
SWEEPS_PER_DEADLINE = 5
CANCEL_S = 1.0
"""How long cancelled requests get to unwind after the bound of a graceful stop."""
BACKLOG = 1024
_log = structlog.get_logger(__name__)


class Server:
    """Serves one ASGI application over HTTP/1.1 in the running event loop.

    Every request's `scope["state"]["stopping"]` is `Server.stopping`: endless answers end when it is set.
    """

    def __init__(
        self,
        app: ASGIApp,
        host: str,
        port: int,
        *,
        connections_max: int = DEFAULT.connections_max,
        header_deadline_s: float = DEFAULT.header_deadline_s,
        body_idle_s: float = DEFAULT.body_idle_s,
        shutdown_s: float = 15,
        limits: Limits | None = None,
    ) -> None:
        """`port` 0 picks a free one; `limits` replaces all three named bounds, for those who need the others."""
        self.stopping = asyncio.Event()
        self._app = app
        self._address = (host, port)
        self._shutdown_s = shutdown_s
        self._limits = limits or Limits(
            connections_max=connections_max, header_deadline_s=header_deadline_s, body_idle_s=body_idle_s
        )
        self._hub: Hub | None = None
        self._listener: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None

    @property
    def connections(self) -> frozenset[Member]:
        """The connections that are open now."""
        return frozenset(self._hub.connections) if self._hub else frozenset()

    async def start(self) -> tuple[str, int]:
        """Listen, and return the address that is really bound; `OSError` if it is taken."""
        loop = asyncio.get_running_loop()
        hub = Hub(self._app, self._limits, loop, self.stopping, date=_date())
        host, port = self._address
        self._listener = await loop.create_server(lambda: Connection(hub), host or None, port, backlog=BACKLOG)
        self._hub = hub
        self._sweeper = loop.create_task(self._sweep(hub))
        bound = self._listener.sockets[0].getsockname()
        return str(bound[0]), int(bound[1])

    async def stop(self) -> None:
        """Finish running requests, at most `shutdown_s` long, then cut what is left; a second call does nothing."""
        hub, listener, sweeper = self._hub, self._listener, self._sweeper
        if hub is None or listener is None or sweeper is None:
            return
        self._hub = None
        listener.close()
        self.stopping.set()
        for connection in list(hub.connections):
            connection.stop()
        hub.emptied.clear()
        if hub.connections:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(hub.emptied.wait(), self._shutdown_s)
        if hub.connections:
            _log.warning("connections cut at shutdown", connections=len(hub.connections))
        for connection in list(hub.connections):
            connection.abort()
        await _cancel({*hub.running.values(), sweeper})
        await listener.wait_closed()

    async def _sweep(self, hub: Hub) -> None:
        limits = self._limits
        shortest = min(limits.header_deadline_s, limits.body_idle_s, limits.keep_alive_s, limits.linger_s)
        pause_s = min(SWEEP_S_MAX, shortest / SWEEPS_PER_DEADLINE)
        while True:
            await asyncio.sleep(pause_s)
            hub.date = _date()
            now = hub.loop.time()
            await asyncio.sleep(0)  # the loop reads: what clients sent while it was held up is not late
            for connection in list(hub.connections):
                connection.sweep(now)


async def _cancel(tasks: set[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    _, late = await asyncio.wait(tasks, timeout=CANCEL_S)
    if late:
        _log.error("requests did not end when cancelled", requests=len(late))


def _date() -> bytes:
    return formatdate(time.time(), usegmt=True).encode()
