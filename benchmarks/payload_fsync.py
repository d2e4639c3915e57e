"""Compare ways to make many small payload files durable: alone, in rounds of fsync, in rounds of syncfs."""

import argparse
import asyncio
import ctypes
import os
import resource
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from blake3 import blake3

from benchmarks.report import Report
from events.payloads import PayloadStore

SIZE_BYTES = 20 << 10
CASES = ((1, 0), (32, 0), (1, 64), (32, 64))  # writers, MiB/s that a neighbour writes
NEIGHBOUR = """
import os, sys, time
fd, block = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT), os.urandom(1 << 20)
for n in range(1 << 30):
    os.pwrite(fd, block, n % 1024 << 20)
    time.sleep(1 / int(sys.argv[2]))
"""
LIBC = ctypes.CDLL(None, use_errno=True)
Job = tuple[bytes, Path, Path]  # bytes, temporary path, final path
Round = Callable[[list[Job]], None]
Keep = Callable[[Job], Awaitable[None]]


def write(job: Job) -> int:
    """Write the temporary file and return its open descriptor."""
    data, temp, _ = job
    fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(fd, data)
    return fd


def sync(path: Path) -> None:
    """fsync a file or a directory by path."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_and_close(fd: int) -> None:
    """fsync and close."""
    os.fsync(fd)
    os.close(fd)


def syncfs(directory: Path) -> None:
    """Write back the whole file system that holds `directory`."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        if LIBC.syncfs(fd) != 0:
            raise OSError(ctypes.get_errno(), "syncfs failed")
    finally:
        os.close(fd)


def make_directories(jobs: list[Job]) -> list[Path]:
    """Make what is missing above the final paths; return the directories that must be fsynced for it."""
    touched: dict[Path, None] = {}
    for _, _, final in jobs:
        for directory in (final.parent.parent, final.parent):
            with suppress(FileExistsError):
                directory.mkdir()
                touched[directory.parent] = None
    return list(touched)


def rename_all(jobs: list[Job]) -> list[Path]:
    """Move each file to its final path and return the directories that must be fsynced for it."""
    for _, temp, final in jobs:
        os.rename(temp, final)
    return list(dict.fromkeys(final.parent for _, _, final in jobs))


def alone(jobs: list[Job]) -> None:
    """Each file by itself: two waits for the file, up to three for directories."""
    for job in jobs:
        sync_and_close(write(job))
        for directory in make_directories([job]) + rename_all([job]):
            sync(directory)


def serial(jobs: list[Job]) -> None:
    """Rounds on one thread: all writes, all fsyncs, all renames, all directory fsyncs."""
    for fd in [write(job) for job in jobs]:
        sync_and_close(fd)
    for directory in make_directories(jobs) + rename_all(jobs):
        sync(directory)


def parallel(threads: int) -> Round:
    """Rounds of two waves, each spread over threads: files and new directories, then names."""
    pool = ThreadPoolExecutor(threads)

    def run(jobs: list[Job]) -> None:
        fds = [write(job) for job in jobs]
        fds += [os.open(directory, os.O_RDONLY) for directory in make_directories(jobs)]
        list(pool.map(sync_and_close, fds))
        names = rename_all(jobs)
        if len(names) == 1:
            sync(names[0])
        else:
            list(pool.map(sync, names))

    return run


def syncfs_rounds(root: Path, pool: ThreadPoolExecutor | None) -> Round:
    """Rounds with one syncfs for the data; then one for the names or, with a pool, directory fsyncs."""

    def run(jobs: list[Job]) -> None:
        for job in jobs:
            os.close(write(job))
        parents = make_directories(jobs)
        syncfs(root)
        names = rename_all(jobs)
        if pool is None:
            syncfs(root)
        else:
            list(pool.map(sync, names + parents))

    return run


class Grouped:
    """While one round runs, callers queue; the next round takes all of them."""

    def __init__(self, run: Round) -> None:
        self.run, self.busy, self.rounds = run, False, 0
        self.waiting: list[tuple[Job, asyncio.Future[None]]] = []

    async def keep(self, job: Job) -> None:
        """Return when the job's round is done."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append((job, done))
        if not self.busy:
            self.busy = True
            asyncio.get_running_loop().create_task(self._drain())
        await done

    async def _drain(self) -> None:
        while self.waiting:
            taken, self.waiting = self.waiting, []
            self.rounds += 1
            await asyncio.to_thread(self.run, [job for job, _ in taken])
            for _, done in taken:
                done.set_result(None)
        self.busy = False


def ungrouped(pool: ThreadPoolExecutor) -> Keep:
    """Each caller syncs its own file on a thread of its own."""

    async def keep(job: Job) -> None:
        await asyncio.get_running_loop().run_in_executor(pool, alone, [job])

    return keep


def through_store(root: Path) -> Keep:
    """What Forge does, hashing and refusals included."""
    store = PayloadStore(root / "store", root / "store-temp")

    async def keep(job: Job) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            yield job[0]

        await store.keep(await store.stage(chunks(), bytes_max=SIZE_BYTES))

    return keep


async def measure(keep: Keep, root: Path, writers: int, seconds: float) -> dict[str, float]:
    """Run `writers` loops for `seconds`; files/s, latency in ms, CPU ms per file."""
    times: list[float] = []
    end = time.perf_counter() + seconds

    async def loop() -> None:
        while (begin := time.perf_counter()) < end:
            data = secrets.token_bytes(SIZE_BYTES)
            cid = blake3(data).hexdigest()
            final = root / cid[:2] / cid[2:4] / f"{cid}.blob"
            await keep((data, root / f"temp-{cid}", final))
            times.append(time.perf_counter() - begin)

    before, begin = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    await asyncio.gather(*(loop() for _ in range(writers)))
    elapsed, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "files_per_s": round(len(times) / elapsed, 1),
        "p50_ms": round(statistics.median(times) * 1e3, 2),
        "p99_ms": round(sorted(times)[int(len(times) * 0.99)] * 1e3, 2),
        "cpu_ms_per_file": round(cpu / len(times) * 1e3, 3),
    }


def strategies(root: Path) -> dict[str, Callable[[], Keep]]:
    """Every way to compare, by name."""
    return {
        "alone": lambda: ungrouped(ThreadPoolExecutor(32)),
        "round_serial": lambda: Grouped(serial).keep,
        "round_threads_8": lambda: Grouped(parallel(8)).keep,
        "round_threads_32": lambda: Grouped(parallel(32)).keep,
        "round_syncfs_twice": lambda: Grouped(syncfs_rounds(root, None)).keep,
        "round_syncfs_then_names": lambda: Grouped(syncfs_rounds(root, ThreadPoolExecutor(32))).keep,
        "payload_store": lambda: through_store(root),
    }


@contextmanager
def neighbour(directory: Path, mib_per_s: int) -> Iterator[None]:
    """Another process that writes to the same file system without syncing, as a large upload does."""
    if mib_per_s == 0:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", NEIGHBOUR, str(directory / "neighbour"), str(mib_per_s)])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def compare(directory: Path | None, seconds: float, repeats: int) -> dict[str, dict[str, dict[str, float]]]:
    """Measure every strategy in turn, each time in a fresh directory; medians over the repeats.

    `times_alone` compares files/s with those of `alone` in the same repeat, so that what else the
    machine does weighs on both.
    """
    runs: dict[str, dict[str, list[dict[str, float]]]] = {}
    for _ in range(repeats):
        for writers, mib_per_s in CASES:
            for name in strategies(Path()):
                root = Path(tempfile.mkdtemp(prefix="payload-fsync-", dir=directory))
                with neighbour(root, mib_per_s):
                    figures = asyncio.run(measure(strategies(root)[name](), root, writers, seconds))
                shutil.rmtree(root)
                case = f"writers_{writers}" + ("_beside_large_write" if mib_per_s else "")
                runs.setdefault(name, {}).setdefault(case, []).append(figures)
    for cases in runs.values():
        for case, of_case in cases.items():
            for run, base in zip(of_case, runs["alone"][case], strict=True):
                run["times_alone"] = run["files_per_s"] / base["files_per_s"]
    return {
        name: {
            case: {key: round(statistics.median(run[key] for run in of_case), 3) for key in of_case[0]}
            for case, of_case in cases.items()
        }
        for name, cases in runs.items()
    }


def main() -> None:
    """Print the comparison as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--dir", type=Path, default=None, help="where to write, on a real disk")
    args = parser.parse_args()
    strategies = compare(args.dir, args.seconds, args.repeats)
    report = Report("payload_fsync", {"size_bytes": SIZE_BYTES, "strategies": strategies})
    for case in strategies["payload_store"]:
        ours, alone = strategies["payload_store"][case], strategies["alone"][case]
        report.ratio(f"store_to_alone_{case}", ours["files_per_s"] / alone["files_per_s"])
    report.write()


if __name__ == "__main__":
    main()
