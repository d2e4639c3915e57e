"""Whether the other side of a TCP connection is still there, as far as the system can tell."""

import asyncio
import socket
from typing import Any

KEEPALIVE_IDLE_S = 60
KEEPALIVE_INTERVAL_S = 15
KEEPALIVE_PROBES = 4
_ESTABLISHED = 1  # of the states in Linux's TCP_INFO
_OPTIONS = (
    ("TCP_KEEPIDLE", KEEPALIVE_IDLE_S),
    ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_S),
    ("TCP_KEEPCNT", KEEPALIVE_PROBES),
)


def keep_alive(link: Any) -> None:
    """Let the system ask now and then whether the peer is there: one that lost its power says nothing by itself."""
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if link.family in (socket.AF_INET, socket.AF_INET6):
        for name, value in _OPTIONS:
            if (option := getattr(socket, name, None)) is not None:
                link.setsockopt(socket.IPPROTO_TCP, option, value)


def has_left(transport: asyncio.BaseTransport) -> bool:
    """Say whether the peer closed its side, or the connection broke, without reading from it."""
    link = transport.get_extra_info("socket")
    if link is None or not hasattr(socket, "TCP_INFO") or transport.is_closing():
        return False
    try:
        state: int = link.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    except OSError:
        return False  # no TCP
    return state != _ESTABLISHED
