"""A server that answers everything at once with the same bytes: what it reaches is the ceiling of the load."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import repeat
from typing import ClassVar, cast

import uvloop

from benchmarks.peers.load import encode_request
from benchmarks.peers.processes import ProcessTree, free_port, server
from benchmarks.peers.workload import HttpContestant, Kind

BODY = b'{"class":"read","columns":["id","body","n"],"rows":[[1,"%s",1]],"row_count":1}' % (b"x" * 60)
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)


class _Answering(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(ANSWER)


class Trivial(HttpContestant):
    """The running server."""

    name: ClassVar[str] = "trivial"

    def __init__(self, port: int, processes: ProcessTree) -> None:
        self.port = port
        self.processes = processes

    def requests(self, kind: Kind) -> list[bytes]:
        """See `HttpContestant`: all alike."""
        return list(repeat(encode_request("GET", "/", {}), 10))


@contextmanager
def trivial() -> Iterator[Trivial]:
    """Start it."""
    port = free_port()
    with server([sys.executable, "-m", "benchmarks.peers.trivial", str(port)], port) as processes:
        yield Trivial(port, processes)


async def _serve(port: int) -> None:
    listening = await asyncio.get_running_loop().create_server(_Answering, "127.0.0.1", port)
    await listening.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
