"""What tells clients of a change: watches and change feeds of Forge, and PocketBase's realtime subscriptions."""

import asyncio
import json
import re
import time
from collections.abc import Callable
from typing import ClassVar, Protocol, cast

import httptools

from benchmarks.peers.forge_node import DOCUMENT, ForgeNode
from benchmarks.peers.load import CallFailed, call, encode_request
from benchmarks.peers.pocketbase import PocketBase
from benchmarks.peers.processes import ProcessTree
from benchmarks.peers.workload import LAST_TICK

Heard = Callable[[bytes, float], None]
FIRST_FRAME_S = 20.0


class Listener(asyncio.Protocol):
    """One stream of server-sent events; `heard` gets every frame, and when it came."""

    def __init__(self, heard: Heard) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._heard = heard
        self._rest = b""
        self._transport: asyncio.WriteTransport | None = None
        self.opened = asyncio.get_running_loop().create_future()

    @classmethod
    async def open(cls, port: int, request: bytes, heard: Heard) -> "Listener":
        """Send `request`, and return when the stream has begun."""
        loop = asyncio.get_running_loop()
        _, listener = await loop.create_connection(lambda: cls(heard), "127.0.0.1", port)
        assert listener._transport is not None
        listener._transport.write(request)
        async with asyncio.timeout(FIRST_FRAME_S):
            await listener.opened
        return listener

    def close(self) -> None:
        """End the stream."""
        if self._transport is not None:
            self._transport.close()

    # asyncio.Protocol
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the one who waits for the stream to begin."""
        if not self.opened.done():
            self.opened.set_exception(CallFailed(f"the stream did not begin: {exc} {self._rest[:300]!r}"))

    # httptools
    def on_body(self, part: bytes) -> None:
        """Hand out the frames that are complete."""
        now = time.perf_counter()
        *frames, self._rest = (self._rest + part).split(b"\n\n")
        if not self.opened.done() and self._parser.get_status_code() == 200:
            self.opened.set_result(None)
        for frame in frames:
            self._heard(frame, now)


class Feed(Protocol):
    """How clients of one contestant hear of changes."""

    name: ClassVar[str]
    port: int
    processes: ProcessTree
    number: re.Pattern[bytes]
    """Finds in a frame which tick it tells of."""
    coalesces: ClassVar[bool]
    """Whether a frame also stands for the ticks before it."""

    def tick(self, number: int) -> bytes:
        """Return the request that makes a change."""

    async def subscribe(self, heard: Heard) -> Listener:
        """Begin to listen."""


class ForgeWatch:
    """A watched query."""

    name: ClassVar[str] = "forge_watch"
    coalesces: ClassVar[bool] = True
    number = re.compile(rb'"rows":\s*\[\[(\d+)\]')

    def __init__(self, peer: ForgeNode) -> None:
        self.port, self.processes, self.tick, self._headers = peer.port, peer.processes, peer.tick, peer.headers

    async def subscribe(self, heard: Heard) -> Listener:
        """See `Feed`: all listeners watch the same query."""
        path = f"/api/v1/db/{DOCUMENT}/query/watch"
        return await Listener.open(self.port, encode_request("POST", path, self._headers, {"sql": LAST_TICK}), heard)


class ForgeChanges:
    """The change feed."""

    name: ClassVar[str] = "forge_changes"
    coalesces: ClassVar[bool] = False
    number = re.compile(rb'"new":\s*\{[^}]*"n":\s*(\d+)')

    def __init__(self, peer: ForgeNode) -> None:
        self.port, self.processes, self.tick, self._headers = peer.port, peer.processes, peer.tick, peer.headers

    async def subscribe(self, heard: Heard) -> Listener:
        """See `Feed`."""
        headers = self._headers | {"Accept": "text/event-stream"}
        path = f"/api/v1/db/{DOCUMENT}/changes?table=tick&rows=true"
        return await Listener.open(self.port, encode_request("GET", path, headers), heard)


class PocketBaseRealtime:
    """A subscription to a collection."""

    name: ClassVar[str] = "pocketbase_realtime"
    coalesces: ClassVar[bool] = False
    number = re.compile(rb'"n":(\d+)')

    def __init__(self, peer: PocketBase) -> None:
        self.port, self.processes, self.tick, self._encode = peer.port, peer.processes, peer.tick, peer.encode

    async def subscribe(self, heard: Heard) -> Listener:
        """See `Feed`: the stream tells its id first, then topics are chosen under that id."""
        identified: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def first(frame: bytes, now: float) -> None:
            if identified.done():
                heard(frame, now)
            else:
                data = frame.partition(b"data:")[2].partition(b"\n")[0]
                identified.set_result(json.loads(data)["clientId"])

        listener = await Listener.open(self.port, self._encode("GET", "/api/realtime"), first)
        topics = {"clientId": await identified, "subscriptions": ["tick/*"]}
        await call(self.port, self._encode("POST", "/api/realtime", topics))
        return listener
