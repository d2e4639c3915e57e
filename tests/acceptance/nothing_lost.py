"""The whole proof that nothing accepted was lost: vectors, jobs, payload files, log, projections, history."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy
from blake3 import blake3

from events.cursor import Cursor
from events.read import read
from forge.client import ForgeClient
from forge.log_access import log_access
from projectors.vector.domain import PARTITION
from schemas.ids import Position
from schemas.vector import KINDS, EmbeddingStored, UploadAccepted
from tests.acceptance.files import File
from tests.acceptance.node_process import NodeProcess
from tests.acceptance.uploads import Key, Uploads
from tests.faults.checker import Violation, check

EMBED_WAIT_S = 180.0
LOOKUP_HASHES = 500
ASKING = 16
PRECISION = 1e-6


@dataclass(frozen=True, slots=True)
class LoggedFiles:
    """What the log says of each file: where it was accepted, and where its vector was stored."""

    accepted: dict[Key, list[Position]]
    stored: dict[Key, list[Position]]
    records: int


async def prove_nothing_lost(node: NodeProcess, uploads: Uploads) -> LoggedFiles:
    """Assert PR1 and PR5 for everything that `uploads` was told is accepted; the node runs and goes on running."""
    at_once = await read_log(node)  # what is lost will not come, however long one waits for its vector
    lost = [file.number for key, file in uploads.accepted.items() if key not in at_once.accepted]
    print(f"{len(uploads.accepted)} files accepted, {len(lost)} of them lost; {at_once.records} records in the log")
    assert lost == []
    payloads_are_whole(node, uploads.accepted)
    await embedded(node, uploads.accepted)
    await vectors_are_right(node, uploads.accepted.values())
    logged = await read_log(node)
    assert [key for key, at in logged.accepted.items() if len(at) != 1] == []
    assert [key for key in logged.accepted if len(logged.stored.get(key, ())) != 1] == []
    assert logged.stored.keys() <= logged.accepted.keys()
    assert history_violations(uploads, logged) == []
    await jobs_are_done_once(node, logged)
    await tools_agree(node)
    return logged


async def embedded(node: NodeProcess, accepted: Iterable[Key], within_s: float = EMBED_WAIT_S) -> None:
    """Wait until a lookup says that every accepted file, and all others in the queue, have their vectors."""
    deadline = time.monotonic() + within_s
    missing = set(accepted)
    async with node.client() as client:
        while True:
            for kind in KINDS:
                wanted = [cid for k, cid in missing if k == kind]
                for at in range(0, len(wanted), LOOKUP_HASHES):
                    found = await client.lookup(kind, wanted[at : at + LOOKUP_HASHES])
                    missing -= {(kind, cid) for cid, state in found.items() if state == "present"}
            jobs = (await client.status())["jobs"]
            if not missing and not jobs["pending"] and not jobs["processing"]:
                return
            assert time.monotonic() < deadline, f"{len(missing)} accepted files have no vector; jobs: {jobs}"
            await asyncio.sleep(0.2)


async def vectors_are_right(node: NodeProcess, files: Iterable[File]) -> None:
    """Get every vector and compare it with what the model gives here."""
    left = iter(files)

    async def compare(client: ForgeClient) -> None:
        for file in left:
            reply = await client.embedding(file.kind, file.cid)
            difference = numpy.abs(numpy.asarray(reply.vector) - file.vector()).max()
            assert difference < PRECISION, f"the vector of file {file.number} is another one"

    async with node.client() as client, asyncio.TaskGroup() as group:
        for _ in range(ASKING):
            group.create_task(compare(client))


def payloads_are_whole(node: NodeProcess, accepted: Iterable[Key]) -> None:
    """Read every accepted file back from the payload store."""
    root = node.settings.blob_cache
    damaged = [cid for _, cid in accepted if not _is_whole(root / cid[:2] / cid[2:4] / f"{cid}.blob", cid)]
    assert damaged == []


def _is_whole(path: Path, cid: str) -> bool:
    return path.exists() and blake3(path.read_bytes()).hexdigest() == cid


async def read_log(node: NodeProcess) -> LoggedFiles:
    """Read the whole log of the vector domain from the running node's server."""
    logged = LoggedFiles({}, {}, 0)
    records = 0
    async with log_access(node.settings) as access:
        async for entry in read(access.log.reader, PARTITION, Cursor.start(PARTITION)):
            records += 1
            for event in entry.record.envelopes():
                folded = {UploadAccepted.TYPE: logged.accepted, EmbeddingStored.TYPE: logged.stored}
                if event["type"] in folded:
                    key = (event["data"]["kind"], event["data"]["file_hash"])
                    folded[event["type"]].setdefault(key, []).append(entry.record.position)
    return LoggedFiles(logged.accepted, logged.stored, records)


def history_violations(uploads: Uploads, logged: LoggedFiles) -> list[Violation]:
    """Compare what each client was told with the log.

    A file that several clients uploaded is in the log once: the others joined it, so what they were told is at
    or after that position. All other uploads must stand at exactly the position they were answered with.
    """
    numbers = {(file.kind, file.cid): file for file in uploads.files.values()}
    operations = uploads.history.operations()
    joined = {f"{file.number}.{copy}" for file in numbers.values() if file.copies > 1 for copy in range(file.copies)}
    log: dict[Position, list[str]] = {}
    early: list[Violation] = []
    for key, positions in logged.accepted.items():
        file = numbers.get(key)
        for position in positions:
            if file is None or file.copies == 1:
                log.setdefault(position, []).append(f"{file.number}.0" if file else str(key))
    for operation in operations:
        if operation.id in joined:
            file = uploads.files[int(operation.id.partition(".")[0])]
            at = logged.accepted.get((file.kind, file.cid), [])
            early += [
                Violation("moved", operation.id, f"answered {told}, but is in the log at {at}")
                for told in operation.positions
                if not at or told < at[0]
            ]
    alone = [operation for operation in operations if operation.id not in joined]
    return early + check(alone, sorted(log.items()))


async def jobs_are_done_once(node: NodeProcess, logged: LoggedFiles) -> None:
    """Page through the jobs of every status: one done job per file in the log, and no other."""
    jobs: Counter[Key] = Counter()
    async with node.http() as http:
        for status in ("done", "pending", "processing", "error"):
            after: int | None = 0
            while after is not None:
                page = (await http.get("/api/v1/jobs", params={"status": status, "after": after, "limit": 1000})).json()
                assert status == "done" or not page["jobs"], f"{status}: {page['jobs'][:3]}"
                jobs.update((job["kind"], job["file_hash"]) for job in page["jobs"])
                after = page["next"]
    assert jobs.keys() == logged.accepted.keys()
    assert [key for key, count in jobs.items() if count > 1] == []


async def tools_agree(node: NodeProcess) -> None:
    """Have the command line verify the log, and every projection against it, beside the running node."""
    verified = await node.cli("log", "verify", "--json")
    assert verified.code == 0, verified.out + verified.err
    rebuilt = await node.cli("rebuild", "--verify", "--json")
    assert rebuilt.code == 0, rebuilt.out + rebuilt.err
    results = {result["projection"]: result["result"] for result in json.loads(rebuilt.out)}
    assert results == {"control": "equal", "vector/queue": "equal", "vector/embeddings": "equal"}
