"""The bounds of the HTTP server, each with its name."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Times in seconds, sizes in bytes; past each one the client hears a status or is cut off."""

    connections_max: int = 4096
    """More open connections are answered 503 and closed."""
    refused_max: int = 128
    """So many may be hearing that 503 at a time; more are cut without a word."""
    header_deadline_s: float = 10
    """Headers that take longer are answered 408."""
    header_bytes_max: int = 16 * 1024
    """Request line and headers; more is 431. Trailers count too."""
    headers_max: int = 100
    """Number of headers; more is 431."""
    target_bytes_max: int = 8 * 1024
    """Length of path and query; more is 414."""
    body_idle_s: float = 30
    """A body must make progress within each such window, else 408; so must a client that reads."""
    body_rate_min_bytes_s: int = 256
    """What counts as progress of a body, averaged over `body_idle_s`."""
    keep_alive_s: float = 75
    """An idle connection is closed after this."""
    pipelined_max: int = 32
    """Requests that may wait behind the one being answered; more is 400."""
    linger_s: float = 2
    """After an early answer, the rest of a body is read and dropped for this long, so that the answer arrives."""
    linger_bytes_max: int = 16 * 1024 * 1024
    """How much of it at most."""
