"""A queue of jobs whose workers may die: each job is leased while somebody works on it, and finished once.

Put jobs in with `python job_queue.py add TEXT...`, and start any number of workers, on any machines, with
`python job_queue.py work`; `FORGE_URL` and `FORGE_TOKEN` say where. Kill a worker in the middle of a job: another
one takes it over when the lease has run out, and what the first would still write is refused. While the node is away
workers say so, and go on when it is back.
"""

import argparse
import asyncio
import os
import socket
import sys

from forge.client import ClientError, ForgeClient, ForgeError, HeldLease, LeaseLost
from forge.client.document import Document

DB_ID = "queue"
TTL_S = 10
LOOK_AGAIN_S = 1.0
CONFLICT, STALE = 409, 412
JOB = "CREATE TABLE IF NOT EXISTS job (id INTEGER PRIMARY KEY, what TEXT NOT NULL, result TEXT, fence INTEGER)"
OPEN = "SELECT id, what FROM job WHERE result IS NULL ORDER BY id LIMIT 50"
FINISH = "UPDATE job SET result = ?, fence = ? WHERE id = ? AND result IS NULL"


async def work_on(what: str) -> str:
    """Do the job; put yours here."""
    await asyncio.sleep(0.1)
    return what.upper()


async def attempt(queue: Document, job: int, what: str, lease: HeldLease) -> None:
    """Do one job if nobody has done it meanwhile; the result counts only while the lease is held."""
    if (await queue.exec("SELECT result FROM job WHERE id = ?", [job])).scalar is not None:
        return
    result = await work_on(what)
    await queue.exec(FINISH, [result, lease.fence, job], fences=[lease])
    print(f"job {job}: {result}", flush=True)


async def work_off(queue: Document, owner: str) -> bool:
    """Take open jobs, one after the other, whichever nobody else works on; say whether there were any."""
    open_jobs = (await queue.exec(OPEN)).rows
    for number, what in open_jobs:
        job = int(str(number))
        try:
            async with queue.lease(f"job/{job}", owner=owner, ttl_s=TTL_S, wait_s=0) as lease:
                await attempt(queue, job, str(what), lease)
        except LeaseLost as lost:
            print(f"job {job}: {lost}", flush=True)
        except ForgeError as refused:  # somebody else works on it, or took it over
            if refused.status not in (CONFLICT, STALE):
                raise
    return bool(open_jobs)


async def work(queue: Document, *, until_empty: bool) -> None:
    """Look for jobs every second, and wait for the node while it is away."""
    owner = f"{socket.gethostname()}:{os.getpid()}"
    while True:
        try:
            if not await work_off(queue, owner) and until_empty:
                return
        except ClientError as error:
            if not error.may_pass:
                raise
            print(f"waiting for the node: {error}", file=sys.stderr, flush=True)
        await asyncio.sleep(LOOK_AGAIN_S)  # a lease that ran out changes no row that a watch would tell of


async def main() -> None:
    """Add jobs, or work."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("add", "work"))
    parser.add_argument("what", nargs="*", help="for add: what is to be done, a job each")
    parser.add_argument("--until-empty", action="store_true", help="for work: end when no job is open")
    options = parser.parse_args()
    url, token = os.environ.get("FORGE_URL"), os.environ.get("FORGE_TOKEN")
    if not url or not token:
        parser.error("FORGE_URL and FORGE_TOKEN must say where the node is, and who you are")
    async with ForgeClient(url, token) as forge:
        await forge.documents.create(DB_ID)
        queue = forge.db(DB_ID)
        await queue.exec(JOB)
        if options.verb == "work":
            await work(queue, until_empty=options.until_empty)
        elif options.what:
            await queue.batch([("INSERT INTO job (what) VALUES (?)", [what]) for what in options.what])


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except ClientError as error:
        sys.exit(f"job_queue.py: {error}")
