"""A relay as the load sees it: requests that give a body to a channel, and those that take the next one from it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count

from benchmarks.peers.load import encode_request
from benchmarks.peers.processes import ProcessTree

DOCUMENT = "bench"
_runs = count(1)


@dataclass(frozen=True, slots=True)
class Relay:
    """A running relay; without a token it is one that needs none."""

    name: str
    port: int
    processes: ProcessTree
    token: str = ""

    @property
    def address(self) -> "Address":
        """What a process of the load needs to know."""
        return Address(self.port, self.token)

    def rss_mib(self) -> float:
        """Return its resident memory."""
        return round(sum(self.processes.rss_mib().values()), 1)


@dataclass(frozen=True, slots=True)
class Address:
    """Where the relay is, and how it wants to be asked."""

    port: int
    token: str
    run: int = 0

    def next_run(self) -> "Address":
        """Return the same with channels that nobody has used before."""
        return replace(self, run=next(_runs))

    def give(self, channel: str, *, size: int | None, close: bool = False) -> bytes:
        """Return the head of a request that gives a body; without a `size` it is chunked."""
        framing = {"Transfer-Encoding": "chunked"} if size is None else {"Content-Length": str(size)}
        kind = {"Content-Type": "application/octet-stream"}
        return encode_request("POST", self._path(channel), self._headers(close) | kind | framing)

    def take(self, channel: str, *, close: bool = False) -> bytes:
        """Return a request that takes the next body."""
        next_one = "/next" if self.token else ""
        return encode_request("GET", self._path(channel) + next_one, self._headers(close))

    def gives(self, pair: int, body: bytes) -> Iterator[bytes]:
        """Yield what the giving side of a pair sends, a channel each."""
        for number in count():
            yield self.give(f"pair-{pair}-{number}", size=len(body)) + body

    def takes(self, pair: int) -> Iterator[bytes]:
        """Yield what the taking side of a pair sends."""
        for number in count():
            yield self.take(f"pair-{pair}-{number}")

    def _path(self, channel: str) -> str:
        begin = f"/api/v1/db/{DOCUMENT}/streams/queue/" if self.token else "/"
        return f"{begin}{self.run}-{channel}"

    def _headers(self, close: bool) -> dict[str, str]:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        return headers | ({"Connection": "close"} if close else {})
