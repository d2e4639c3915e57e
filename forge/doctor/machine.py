"""Checks of the machine alone: libraries, disk, file system, file handles."""

import os
import platform
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import apsw

from forge.cli.output import duration_text, size_text
from forge.doctor.check import DATA_FAULT, Check, State, judged
from forge.open_files import open_files_needed

FREE_BYTES_MIN = 1 << 30
FSYNC_ROUNDS = 40
FSYNC_P99_S_MAX = 0.1
PROBE_BYTES = 4096
XATTR_NAME = b"user.forge.probe"


def machine_checks(
    data_dir: Path, cache_dir: Path, *, log_bytes_max: int, connections_max: int, partitions_max: int
) -> Iterator[Check]:
    """Yield the checks that need no node; nothing is left behind on disk."""
    yield sqlite_check(apsw.sqlite_lib_version())
    yield python_check(sys.version_info[:3])
    yield from disk_checks(data_dir, log_bytes_max)
    yield fsync_check(data_dir)
    for role, folder in {"data": data_dir, "cache": cache_dir}.items():
        yield xattr_check(role, folder)
    yield handles_check(connections_max, partitions_max)


def sqlite_check(version: str) -> Check:
    """Judge an SQLite version: older ones, and 3.52.0, can corrupt a database when the WAL is reset."""
    number = tuple(int(part) for part in version.split("."))
    good = number >= (3, 53, 0) or (3, 51, 3) <= number < (3, 52, 0)
    return judged(
        "sqlite",
        good,
        f"{version} (apsw)",
        "3.53.0, or 3.51.3",
        "pip install --upgrade apsw",
        otherwise=State.FAIL,
        fault=DATA_FAULT,
    )


def python_check(version: tuple[int, ...]) -> Check:
    """Judge the Python that runs."""
    seen = f"{'.'.join(map(str, version))} ({platform.python_implementation()})"
    fix = "install Python 3.11 and run `make setup` again"
    return judged("python", version >= (3, 11), seen, "3.11", fix, otherwise=State.FAIL)


def disk_checks(data_dir: Path, log_bytes_max: int) -> Iterator[Check]:
    """Judge the free space: enough to work at all, and enough for the log at its largest."""
    usage = shutil.disk_usage(existing(data_dir))
    free = size_text(usage.free)
    fix = f"free space on the disk of {data_dir}, or choose another with FORGE_DATA_DIR"
    enough = usage.free >= FREE_BYTES_MIN
    yield judged("disk space", enough, f"{free} free", size_text(FREE_BYTES_MIN), fix, otherwise=State.FAIL)
    log_bytes = sum(file.stat().st_size for file in data_dir.glob("nats/**/*.blk"))
    room = usage.free + log_bytes >= log_bytes_max
    fix = "set FORGE_LOG_BYTES_MAX to what the disk can hold; a full disk stops writes"
    yield judged("room for the log", room, f"{free} free", size_text(log_bytes_max), fix, otherwise=State.WARN)


def fsync_check(data_dir: Path) -> Check:
    """Measure how long small fsynced writes take on the disk of `data_dir`."""
    name, limit = "fsync latency", f"p99 {duration_text(FSYNC_P99_S_MAX)}"
    try:
        with tempfile.TemporaryFile(dir=existing(data_dir)) as probe:
            times = sorted(_fsync_s(probe.fileno()) for _ in range(FSYNC_ROUNDS))
    except OSError as error:
        fix = f"make {existing(data_dir)} writable, or choose another folder with FORGE_DATA_DIR"
        return Check(name, State.FAIL, str(error), limit, fix)
    p99 = times[int(len(times) * 0.99)]
    value = f"p50 {duration_text(statistics.median(times))}, p99 {duration_text(p99)}"
    fix = "every accepted write waits for this disk: prefer an SSD, not a network file system"
    return judged(name, p99 <= FSYNC_P99_S_MAX, value, limit, fix, otherwise=State.WARN)


def xattr_check(role: str, folder: Path) -> Check:
    """Look whether the file system keeps extended attributes, in which content hashes are cached."""
    name = f"xattr ({role})"
    try:
        with tempfile.NamedTemporaryFile(dir=existing(folder)) as probe:
            os.setxattr(probe.name, XATTR_NAME, b"1")
    except OSError as error:
        fix = "hashes are not cached here: every scan reads every file again; use ext4, xfs or btrfs"
        return Check(name, State.WARN, f"not supported ({error.strerror})", "supported", fix)
    return Check(name, State.OK, "supported", "supported")


def handles_check(connections_max: int, partitions_max: int) -> Check:
    """Compare the hard limit of open files with what a full node needs; the soft one it raises by itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = open_files_needed(connections_max, partitions_max)
    good = hard == resource.RLIM_INFINITY or hard >= needed
    value = f"{_limit_text(soft)} (hard {_limit_text(hard)})"
    limits = "FORGE_CONNECTIONS_MAX or FORGE_PARTITIONS_OPEN_MAX"
    fix = f"raise the hard limit: LimitNOFILE={needed} in a systemd unit; or lower {limits}"
    return judged("file handles", good, value, str(needed), fix, otherwise=State.WARN)


def existing(folder: Path) -> Path:
    """Return `folder`, or the nearest folder above it that exists: where it would be made."""
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def _fsync_s(descriptor: int) -> float:
    os.write(descriptor, bytes(PROBE_BYTES))
    started = time.perf_counter()
    os.fsync(descriptor)
    return time.perf_counter() - started


def _limit_text(limit: int) -> str:
    return "unlimited" if limit == resource.RLIM_INFINITY else str(limit)
