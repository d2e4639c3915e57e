"""How many files this process may have open at the same time."""

import resource

RESERVED = 1024
"""Beside connections and partitions: connections of readers, the log, children."""
PER_CONNECTION = 2
"""The socket, and the file that an upload grows in."""
PER_PARTITION = 3
"""A database, its write-ahead log and their shared memory."""


def open_files_needed(connections_max: int, partitions_max: int) -> int:
    """Return how many open files a node with so many connections and open partitions needs."""
    return PER_CONNECTION * connections_max + PER_PARTITION * partitions_max + RESERVED


def raise_open_files(connections_max: int, partitions_max: int) -> int:
    """Raise the soft limit to what is needed, as far as the hard limit lets; return the limit.

    Login shells start programs with a soft limit of 1,024, which a thousand slow clients use up.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = open_files_needed(connections_max, partitions_max)
    if soft == resource.RLIM_INFINITY:
        return soft
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return max(soft, allowed)
