"""Compare a rescan of unchanged files by ingest with `find -type f -newer`, which reads every file's times too."""

import argparse
import asyncio
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

from benchmarks.report import Report
from forge.ingest.candidate import Identify
from forge.ingest.catalogue import Catalogue
from forge.ingest.hashing import identified
from forge.ingest.scan import Walk

FILES_PER_FOLDER = 200
LONG_AGO_NS = 1_700_000_000_000_000_000


def write(root: Path, count: int) -> None:
    """Write small text files, all different."""
    for n in range(count):
        folder = root / f"{n // FILES_PER_FOLDER:04d}"
        folder.mkdir(exist_ok=True)
        path = folder / f"note-{n:06d}.txt"
        path.write_bytes(b"note %d\n" % n * 20)
        os.utime(path, ns=(LONG_AGO_NS, LONG_AGO_NS))


async def rescan(root: Path, catalogue: Catalogue, remember: bool) -> dict[str, int]:
    """Find the hash of every file, as an ingest does before it asks the node; return the counts."""
    found = {"cached": 0, "hashed": 0}
    walk = Walk(os.fsencode(root), "text")
    async with aclosing(identified(walk, catalogue, Identify("text"), os.cpu_count() or 1)) as batches:
        async for batch in batches:
            for candidate in batch.candidates:
                found["cached" if candidate.cached else "hashed"] += 1
                candidate.release()
            if remember:
                catalogue.remember(batch.remembered, 0)
    return found


def timed(call: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def find(root: Path, mark: Path) -> None:
    """List files that are newer than `mark`: none is."""
    found = subprocess.run(["find", root, "-type", "f", "-newer", mark], check=True, capture_output=True)
    assert found.stdout == b""


def measure(root: Path, mark: Path, cache: Path, count: int, repeats: int) -> tuple[float, dict[str, list[float]]]:
    """Return the seconds of the first scan, and of each way to scan again in each round."""

    def ours(catalogue: Catalogue, expected: str, remember: bool = False) -> Callable[[], None]:
        def run() -> None:
            found = asyncio.run(rescan(root, catalogue, remember))
            assert found[expected] == count, found

        return run

    with Catalogue.open(cache) as catalogue, Catalogue.in_memory() as nothing:
        first = timed(ours(catalogue, "hashed", remember=True))
        ways: dict[str, Callable[[], object]] = {
            "find": lambda: find(root, mark),
            "catalogue": ours(catalogue, "cached"),
            "attributes_only": ours(nothing, "cached"),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(repeats):
            for name, way in ways.items():
                times[name].append(timed(way))
    return first, times


def main() -> None:
    """Print the comparison as JSON; the ratios say how many times longer than `find` a rescan takes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=50_000)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--dir", type=Path, default=None)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rescan-", dir=args.dir) as folder:
        root, mark, cache = Path(folder) / "root", Path(folder) / "mark", Path(folder) / "cache"
        root.mkdir()
        mark.touch()
        write(root, args.files)
        first, times = measure(root, mark, cache, args.files, args.repeats)
    median = {name: statistics.median(taken) for name, taken in times.items()}
    report = Report(
        "rescan",
        {
            "files": args.files,
            "repeats": args.repeats,
            "first_scan_seconds": round(first, 3),
            "seconds": {name: {"median": round(median[name], 4), "min": round(min(t), 4)} for name, t in times.items()},
            "us_per_file": {name: round(taken / args.files * 1e6, 2) for name, taken in median.items()},
        },
    )
    for name in ("catalogue", "attributes_only"):
        report.ratio(f"{name}_time_to_find", median[name] / median["find"])
    report.write()


if __name__ == "__main__":
    main()
