"""Hashing the files of a walk in threads, a bounded number of jobs ahead of who uses the hashes."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor

from forge.ingest.candidate import Candidate, Identified, Identify
from forge.ingest.catalogue import Catalogue
from forge.ingest.scan import Chunk, File, Walk

JOBS_AHEAD_PER_THREAD = 2
JOB_FILES_MAX = 32
JOB_BYTES_MAX = 8 << 20


async def identified(
    walk: Walk, catalogue: Catalogue, identify: Identify, threads: int
) -> AsyncGenerator[Identified, None]:
    """Yield what the files of a walk are; raise `OSError` if its root cannot be listed.

    Close the iterator (`contextlib.aclosing`) if you leave it early: that stops the threads and lets go of
    what they have read.
    """
    loop = asyncio.get_running_loop()
    chunks = walk.chunks(catalogue)
    jobs: deque[asyncio.Future[Identified]] = deque()
    pool = ThreadPoolExecutor(threads, "hash")
    try:
        while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
            yield _without_reading(chunk)
            for files in _jobs(chunk.unread):
                if len(jobs) >= JOBS_AHEAD_PER_THREAD * threads:
                    yield await _oldest(jobs)
                jobs.append(loop.run_in_executor(pool, identify.batch, files))
        while jobs:
            yield await _oldest(jobs)
    finally:
        identify.stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
        identify.mapped.close()
        for job in await asyncio.gather(*jobs, return_exceptions=True):
            if isinstance(job, Identified):
                job.release()


async def _oldest(jobs: deque[asyncio.Future[Identified]]) -> Identified:
    await asyncio.wait([jobs[0]])  # unlike `await jobs[0]` it leaves the job alone when we are cancelled
    return jobs.popleft().result()


def _without_reading(chunk: Chunk) -> Identified:
    known = [Candidate(file, file.digest, cached=True) for file in chunk.known if file.digest]
    return Identified(candidates=known, skipped=chunk.skipped, failed=chunk.failed, seen=len(chunk))


def _jobs(files: list[File]) -> Iterator[list[File]]:
    job: list[File] = []
    job_bytes = 0
    for file in files:
        if job and (len(job) >= JOB_FILES_MAX or job_bytes + file.size_bytes > JOB_BYTES_MAX):
            yield job
            job, job_bytes = [], 0
        job.append(file)
        job_bytes += file.size_bytes
    if job:
        yield job
