"""A proxy in front of an S3 server that delays, loses, refuses, cuts and alters requests and answers, at random."""

import random
from collections import Counter

from tests.faults.proxy import Direction, Filter, TcpProxy

ANSWER = b"HTTP/1.1 "
CONTINUE = b"HTTP/1.1 100 "
METHODS = (b"PUT ", b"GET ", b"HEAD ", b"POST ")
BODY = b"\r\n\r\n"
DELAY_S = (0.05, 1.0)
REFUSALS = {
    "500": b"500 Internal Server Error",
    "503": b"503 Slow Down",
    "412": b"412 Precondition Failed",
    "409": b"409 Conflict",
}


class S3Proxy(TcpProxy):
    """Harms one request or answer in `one_in`; 0 harms none. `harmed` counts what was done, by its name.

    Refusals replace the answer to what the server has done: that it was refused says nothing.
    """

    def __init__(self, host: str, port: int, rng: random.Random) -> None:
        super().__init__(host, port)
        self.rng = rng
        self.one_in = 0
        self.harmed: Counter[str] = Counter()

    def filters(self) -> dict[Direction, Filter]:
        """Return filters that harm."""
        return {Direction.TO_SERVER: _Requests(self), Direction.TO_CLIENT: _Answers(self)}

    def draw(self, *harms: str) -> str:
        """Return what to do to a request or an answer, mostly nothing."""
        if not self.one_in or self.rng.randrange(self.one_in):
            return ""
        harm = self.rng.choice(harms)
        self.harmed[harm] += 1
        return harm


class _Requests(Filter):
    def __init__(self, proxy: S3Proxy) -> None:
        self._proxy = proxy
        self.cut_after = False

    def feed(self, data: bytes) -> bytes:
        self.delay_s = 0.0
        if data.startswith(METHODS):
            harm = self._proxy.draw("request lost", "request cut", "request late")
            if harm == "request late":
                self.delay_s = self._proxy.rng.uniform(*DELAY_S)
            elif harm:
                self.cut_after = True
                return b"" if harm == "request lost" else data[: len(data) // 2]
        elif self._proxy.draw("request altered"):  # bytes of a body
            return _flipped(data, 0, self._proxy.rng)
        return data


class _Answers(Filter):
    def __init__(self, proxy: S3Proxy) -> None:
        self._proxy = proxy
        self.cut_after = False

    def feed(self, data: bytes) -> bytes:
        self.delay_s = 0.0
        if not data.startswith(ANSWER) or data.startswith(CONTINUE):
            return data
        harm = self._proxy.draw("answer lost", "answer cut", "answer altered", "answer late", *REFUSALS)
        if harm == "answer late":
            self.delay_s = self._proxy.rng.uniform(*DELAY_S)
        if harm in REFUSALS:
            return ANSWER + REFUSALS[harm] + data[data.index(b"\r\n") :]
        if harm in ("answer lost", "answer cut"):
            self.cut_after = True
            return b"" if harm == "answer lost" else data[: len(data) - 1]
        begin = data.find(BODY) + len(BODY)
        if harm == "answer altered" and begin < len(data) and not data[begin:].startswith(b"<?xml"):
            return _flipped(data, begin, self._proxy.rng)
        return data


def _flipped(data: bytes, begin: int, rng: random.Random) -> bytes:
    at = rng.randrange(begin, len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
