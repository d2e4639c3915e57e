"""A TCP proxy on 127.0.0.1 that can pause, delay, reset and refuse connections to any server."""

import asyncio
import contextlib
import fcntl
import socket
import struct
import termios
from enum import Enum
from types import TracebackType
from typing import Self

CHUNK_BYTES = 64 * 1024
DELIVERY_WAIT_S = 2.0
DELIVERY_POLL_S = 0.001


class Direction(Enum):
    """Which way bytes flow through a proxy."""

    TO_SERVER = "to server"
    TO_CLIENT = "to client"


class Cut(Exception):
    """Raised by a filter to reset its connection after everything before it was delivered."""


class Filter:
    """Decides what one direction of one connection passes on; this one passes everything."""

    def feed(self, data: bytes) -> bytes:
        """Return the bytes to pass on now; `cut_after` may be set to end the connection behind them.

        `delay_s` is how long they wait on their way, besides what the proxy lets them wait.
        """
        return data

    cut_after = False
    delay_s = 0.0


class TcpProxy:
    """A proxy in front of `host:port`, open while its context is; its own port stays the same throughout.

    Each chunk (at most 64 KiB) waits `delay_s` seconds on its way, in both directions.
    """

    def __init__(self, host: str, port: int) -> None:
        self._upstream = (host, port)
        self.delay_s = 0.0
        self._open_gates = {direction: asyncio.Event() for direction in Direction}
        self._links: dict[asyncio.Task[None], _Link] = {}
        self._reserved: socket.socket | None = None
        self._listening: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port on 127.0.0.1 where clients connect."""
        if self._reserved is None:
            raise RuntimeError("the proxy exists only inside its `async with`")
        port: int = self._reserved.getsockname()[1]
        return port

    @property
    def connections(self) -> int:
        """How many connections are open through the proxy now."""
        return len(self._links)

    async def __aenter__(self) -> Self:
        # Bound but never listening: it holds the port while the proxy refuses connections.
        self._reserved = _bound(0)
        self.resume()
        self.accept()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.refuse()
        await self.drop_connections()
        if self._reserved is not None:
            self._reserved.close()

    def pause(self, direction: Direction | None = None) -> None:
        """Hold back all bytes of one direction (or both); connections stay open and nothing is lost."""
        for held in [direction] if direction else Direction:
            self._open_gates[held].clear()

    def resume(self, direction: Direction | None = None) -> None:
        """Let the bytes of one direction (or both) flow again, held-back ones first."""
        for held in [direction] if direction else Direction:
            self._open_gates[held].set()

    def accept(self) -> None:
        """Take new connections (the state at the start)."""
        if self._listening is None:
            listener = _bound(self.port)
            listener.listen(1024)
            self._listening = asyncio.create_task(self._listen(listener))
            self._listening.add_done_callback(lambda _: listener.close())  # also if it is cancelled before it runs

    async def refuse(self) -> None:
        """Answer new connections with "connection refused"; open ones live on."""
        if self._listening is not None:
            await _cancelled(self._listening)
            self._listening = None

    async def drop_connections(self) -> int:
        """Reset every open connection on both sides and return how many there were."""
        links = list(self._links)
        for link in links:
            await _cancelled(link)
        return len(links)

    def filters(self) -> dict[Direction, Filter]:
        """Return fresh filters for a new connection; a proxy that knows a protocol has its own."""
        return {direction: Filter() for direction in Direction}

    async def _listen(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            client, _ = await loop.sock_accept(listener)
            client.setblocking(False)
            link = _Link(self, client)
            task = asyncio.create_task(link.run())
            self._links[task] = link
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._links.pop(task).close()  # one that was cancelled before it ran has closed nothing

    async def pass_gate(self, direction: Direction) -> None:
        """Wait as long as a chunk of this direction has to wait now."""
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        await self._open_gates[direction].wait()


class _Link:
    """One client connection and its connection to the server."""

    def __init__(self, proxy: TcpProxy, client: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = socket.socket()
        self._server.setblocking(False)

    async def run(self) -> None:
        ends_well = False
        try:
            await asyncio.get_running_loop().sock_connect(self._server, self._proxy._upstream)
            for end in (self._client, self._server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            filters = self._proxy.filters()
            async with asyncio.TaskGroup() as pumps:
                for direction in Direction:
                    pumps.create_task(self._pump(direction, filters[direction]))
            ends_well = True
        except* (OSError, Cut):
            pass
        finally:
            for end in (self._client, self._server):
                if not ends_well:
                    _reset_on_close(end)
                end.close()

    def close(self) -> None:
        """Close both ends; may be called again."""
        for end in (self._client, self._server):
            end.close()

    async def _pump(self, direction: Direction, filter: Filter) -> None:
        loop = asyncio.get_running_loop()
        to_server = direction is Direction.TO_SERVER
        source, sink = (self._client, self._server) if to_server else (self._server, self._client)
        while data := await loop.sock_recv(source, CHUNK_BYTES):
            passed = filter.feed(data)
            if filter.delay_s:
                await asyncio.sleep(filter.delay_s)
            await self._proxy.pass_gate(direction)
            await loop.sock_sendall(sink, passed)
            if filter.cut_after:
                await _delivered(sink)
                raise Cut
        await self._proxy.pass_gate(direction)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


def _bound(port: int) -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setblocking(False)
    bound.bind(("127.0.0.1", port))
    return bound


def _reset_on_close(end: socket.socket) -> None:
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def _delivered(sink: socket.socket) -> None:
    """Wait until the peer's kernel has everything that was sent: a reset would throw the rest away."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DELIVERY_WAIT_S):
            while True:
                (unsent,) = struct.unpack("i", fcntl.ioctl(sink, termios.TIOCOUTQ, b"\0\0\0\0"))
                if unsent == 0:
                    return
                await asyncio.sleep(DELIVERY_POLL_S)


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
