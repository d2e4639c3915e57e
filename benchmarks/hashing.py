"""Compare how fast ingest hashes large files with `b3sum`, both from the page cache."""

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

from blake3 import blake3

from benchmarks.report import Report
from forge.ingest.digest import read_file
from forge.ingest.mapped import MappedHasher

CHUNK_BYTES = 16 << 20


def ours(path: Path, mapped: MappedHasher | None) -> str:
    """Hash as ingest does."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return read_file(descriptor, None, mapped).digest
    finally:
        os.close(descriptor)


def mapped(path: Path) -> str:
    """Hash by mapping the file in this process, as we do not: truncating the file would kill it."""
    return blake3(max_threads=blake3.AUTO).update_mmap(path).hexdigest()


def b3sum(path: Path) -> str:
    """Hash with the command line tool, its start included."""
    return subprocess.run(["b3sum", "--no-names", path], check=True, capture_output=True, text=True).stdout.strip()


def start_of_b3sum(path: Path) -> str:
    """Start the tool for nothing, to know what its start costs."""
    return subprocess.run(["b3sum", "--version"], check=True, capture_output=True, text=True).stdout.strip()


def write(path: Path, size_bytes: int) -> None:
    """Write random bytes."""
    with path.open("wb") as file:
        for _ in range(size_bytes // CHUNK_BYTES):
            file.write(os.urandom(CHUNK_BYTES))


def measure(path: Path, repeats: int, hasher: MappedHasher) -> dict[str, list[float]]:
    """Return the seconds of each way in each round; the ways take turns.

    The child of `hasher` runs already, as it does from the second large file of an ingest on.
    """
    ways: dict[str, Callable[[Path], str]] = {
        "ours": partial(ours, mapped=hasher),
        "b3sum": b3sum,
        "ours_reading": partial(ours, mapped=None),
        "mapped_in_process": mapped,
        "start_of_b3sum": start_of_b3sum,
    }
    expected = b3sum(path)
    ours(path, hasher)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            begin = time.perf_counter()
            digest = way(path)
            times[name].append(time.perf_counter() - begin)
            assert name == "start_of_b3sum" or digest == expected, f"{name} is wrong"
    return times


def main() -> None:
    """Print the comparison as JSON; the ratio is of rates, target 0.8 or more."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--dir", type=Path, default=None)
    args = parser.parse_args()
    if not shutil.which("b3sum"):
        raise SystemExit("b3sum is missing: apt-get install b3sum")
    with tempfile.TemporaryDirectory(prefix="hashing-", dir=args.dir) as folder:
        path = Path(folder) / "large"
        write(path, args.mib << 20)
        with closing(MappedHasher()) as hasher:
            times = measure(path, args.repeats, hasher)
    median = {name: statistics.median(taken) for name, taken in times.items()}
    report = Report(
        "hashing",
        {
            "mib": args.mib,
            "repeats": args.repeats,
            "b3sum": b3sum_version(),
            "seconds": {name: {"median": round(median[name], 4), "min": round(min(t), 4)} for name, t in times.items()},
            "gib_per_s": {
                name: round(args.mib / 1024 / median[name], 2) for name in median if name != "start_of_b3sum"
            },
        },
    )
    report.ratio("rate_to_b3sum", median["b3sum"] / median["ours"])
    report.ratio("rate_to_b3sum_best", min(times["b3sum"]) / min(times["ours"]))
    report.ratio("rate_to_b3sum_without_its_start", (median["b3sum"] - median["start_of_b3sum"]) / median["ours"])
    report.target("rate_to_b3sum", at_least=0.8)
    report.write()


def b3sum_version() -> str:
    """Return the version of the b3sum that it is compared with."""
    return subprocess.run(["b3sum", "--version"], check=True, capture_output=True, text=True).stdout.split()[1]


if __name__ == "__main__":
    main()
