"""How many files this process may have open at the same time."""

import resource

RESERVED = 512
"""Beside connections: databases, the log, children."""
PER_CONNECTION = 2
"""The socket, and the file that an upload grows in."""


def open_files_needed(connections_max: int) -> int:
    """Return how many open files a node with so many connections needs."""
    return PER_CONNECTION * connections_max + RESERVED


def raise_open_files(connections_max: int) -> int:
    """Raise the soft limit to what `connections_max` need, as far as the hard limit lets; return the limit.

    Login shells start programs with a soft limit of 1,024, which a thousand slow clients use up.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = open_files_needed(connections_max)
    if soft == resource.RLIM_INFINITY:
        return soft
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return max(soft, allowed)
