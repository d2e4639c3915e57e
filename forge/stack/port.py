"""A loopback TCP port that stays ours while the child that listens on it is down."""

import socket
import sys
from typing import Self

LOOPBACK = "127.0.0.1"


class Port:
    """A free port of 127.0.0.1, kept from everybody else until `close`.

    On Linux a bound socket that never listens keeps the kernel from giving the port away, to another
    program or as the source of an outgoing connection (a client that reconnects to a port nobody
    listens on can otherwise connect to itself). A listener with SO_REUSEADDR may still take it; Go
    programs and asyncio set that option. Other systems refuse that, so there the port is only chosen.
    """

    def __init__(self, number: int = 0) -> None:
        self._held: socket.socket | None = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._held.bind((LOOPBACK, number))
        except OSError:
            self._held.close()
            raise
        self.number: int = self._held.getsockname()[1]
        if sys.platform != "linux":
            self.close()

    def close(self) -> None:
        """Give the port back."""
        if self._held is not None:
            self._held.close()
            self._held = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __str__(self) -> str:
        return f"{LOOPBACK}:{self.number}"
