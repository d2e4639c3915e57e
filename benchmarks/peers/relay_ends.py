"""A process that is one end of a relay: it gives or takes small bodies, or a large one, or waits."""

import asyncio
import socket
import time
from itertools import islice
from typing import Any

from benchmarks.peers.helper import serve
from benchmarks.peers.load import Connection, summary
from benchmarks.peers.processes import own_cpu_s, raise_open_files
from benchmarks.peers.relaying import Address

BODY = b"x" * 100
BLOCK = 1 << 20
CHUNK = 1 << 16
CHUNKS = b"".join(b"%x\r\n%s\r\n" % (CHUNK, bytes(CHUNK)) for _ in range(BLOCK // CHUNK))
LAST_CHUNK = b"0\r\n\r\n"
OPENING = 32


class End:
    """What this process holds open."""

    def __init__(self) -> None:
        self._held: list[socket.socket] = []

    async def answer(self, do: str, what: dict[str, Any]) -> Any:
        """Do what the benchmark asks."""
        address = Address(**what.pop("address"))
        match do:
            case "give" | "take":
                return await pairs(address, do, **what)
            case "give_large":
                return await asyncio.to_thread(give_large, address, **what)
            case "take_large":
                return await asyncio.to_thread(take_large, address, **what)
            case "wait":
                return self._wait(address, **what)
            case "stall":
                return self._stall(address, **what)
            case "leave":
                for one in self._held:
                    one.close()
                self._held = []
        return None

    def _wait(self, address: Address, waiting: int) -> int:
        """Let so many consumers wait, a channel each."""
        for number in range(waiting):
            self._held.append(_connected(address, address.take(f"nobody-{number}")))
        return len(self._held)

    def _stall(self, address: Address) -> None:
        """Give a large body to a consumer that reads nothing of it."""
        self._held.append(_connected(address, address.take("stalled")))
        giving = _connected(address, address.give("stalled", size=1 << 30))
        giving.setblocking(False)
        self._held.append(giving)
        end = time.monotonic() + 1.0
        while time.monotonic() < end:  # as much as the relay takes
            try:
                giving.send(bytes(CHUNK))
            except BlockingIOError:
                time.sleep(0.01)


async def pairs(address: Address, do: str, pairs: int, messages: int) -> dict[str, float]:
    """Be one side of so many pairs, until each has passed on so many bodies."""
    connections = [await Connection.open(address.port) for _ in range(pairs)]
    cpu, began = own_cpu_s(), time.perf_counter()
    sides = (address.gives(pair, BODY) if do == "give" else address.takes(pair) for pair in range(pairs))
    forever = began + 3600
    await asyncio.gather(
        *(one.run(islice(side, messages), forever) for one, side in zip(connections, sides, strict=True))
    )
    wall = time.perf_counter() - began
    for connection in connections:
        connection.close()
    taken = [one for connection in connections for one in connection.latencies]
    return summary(taken, wall) | {"load_cpu": round((own_cpu_s() - cpu) / wall, 3)}


def give_large(address: Address, size: int, chunked: bool) -> int:
    """Give a large body; return the status of the answer."""
    with _connected(address, address.give("large", size=None if chunked else size, close=True)) as giving:
        block = CHUNKS if chunked else bytes(BLOCK)
        for _ in range(size // BLOCK):
            giving.sendall(block)
        if chunked:
            giving.sendall(LAST_CHUNK)
        answer = b""
        while part := giving.recv(BLOCK):
            answer += part
    return int(answer.split(b" ", 2)[1])


def take_large(address: Address, size: int) -> dict[str, Any]:
    """Take a large body; return how long it took from its first byte, and whether it was complete."""
    buffer = memoryview(bytearray(BLOCK))
    received, tail = 0, b""
    with _connected(address, address.take("large", close=True)) as taking:
        first = taking.recv(BLOCK)
        began = time.perf_counter()
        head, _, rest = first.partition(b"\r\n\r\n")
        received = len(rest)
        while count := taking.recv_into(buffer):
            received += count
            tail = bytes(buffer[max(0, count - len(LAST_CHUNK)) : count])
        seconds = time.perf_counter() - began
    chunked = b"chunked" in head.lower()
    whole = received >= size and tail.endswith(LAST_CHUNK) if chunked else received == size
    return {"mib_per_s": round(size / (1 << 20) / seconds, 1), "whole": whole, "chunked": chunked}


def _connected(address: Address, request: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", address.port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(request)
    return connection


if __name__ == "__main__":
    raise_open_files()
    serve(End().answer)
