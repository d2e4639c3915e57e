"""A machine that is lost with its whole data directory, and what comes back from the object store."""

import asyncio
import json
import os
import random
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from events.log import Log
from events.read import read
from events.seek import seek
from forge.domains import domains
from forge.stack.weed import Weed
from projectors.catch_up import fold_entries
from projectors.projection import Projection
from projectors.rebuild import digest_of
from projectors.threads import Threads
from schemas.ids import START, PartitionId, Position
from tests.acceptance.archived import caught_up
from tests.acceptance.conftest import StartNode
from tests.acceptance.mixed_load import DOCUMENTS, Answered, MixedLoad, assert_there
from tests.acceptance.node_process import NodeProcess, users_of
from tests.faults.killer import fresh_seed, kill
from tests.faults.nats_server import NatsServer
from tests.s3_stores import s3_environ
from tests.waiting import until

MOMENTS, MOMENTS_LONG = 20, 200
TIMEOUT_S, LONG_TIMEOUT_S = 900, 7200
EARLIEST_S, LATEST_S = 0.2, 1.5  # several times what the archiver gathers
BULK_ROWS, BULK_ROW_BYTES, BULK_BATCH = 4096, 8192, 64  # 32 MiB, so that a time for each GiB says something
QUICK_LEASE = {"FORGE_LEASE_DURATION_S": "3", "FORGE_LEASE_RENEW_S": "1", "FORGE_LEASE_MARGIN_S": "0.5"}
EMPTY = ("not archived", False)


@dataclass(slots=True)
class Figures:
    """What the moments measured, in seconds."""

    seed: int
    rpo_s: list[float] = field(default_factory=list)
    rto_s: list[float] = field(default_factory=list)
    rto_s_per_gib: float = 0.0
    answered: int = 0
    lost: int = 0

    def report(self) -> None:
        """Print them, as `benchmarks/durability.py` reads figures."""
        told = {
            "seed": self.seed,
            "moments": len(self.rpo_s),
            "answered": self.answered,
            "answered_later_than_archived": self.lost,
            "rpo_s": {"largest": round(max(self.rpo_s), 3)},
            "rto_s": {"largest": round(max(self.rto_s), 3)},
            "rto_s_per_gib": round(self.rto_s_per_gib, 1),
        }
        print(f"lost machine: {json.dumps(told)}")


@pytest.mark.parametrize(
    "moments",
    [
        pytest.param(MOMENTS, marks=pytest.mark.timeout(TIMEOUT_S)),
        pytest.param(MOMENTS_LONG, marks=[pytest.mark.long, pytest.mark.timeout(LONG_TIMEOUT_S)]),
    ],
)
async def test_a_lost_machine_comes_back_up_to_what_was_archived(
    start_node: StartNode, weed: Weed, tmp_path: Path, moments: int
) -> None:
    """PR4: whatever was answered up to the position that restore reports is there, with the digests of then."""
    seed = fresh_seed()
    rng, figures = random.Random(seed), Figures(seed)
    print(f"lost machine: seed={seed}")
    prefix = f"lost-{rng.randrange(1 << 30)}"
    node = await start_node(extra=s3_environ(weed, prefix=prefix) | QUICK_LEASE | {"FORGE_ARCHIVE_SEAL_S": "0.3"})
    folded = tmp_path / "folded"
    folded.mkdir()
    for moment in range(moments):
        load = MixedLoad(node, rng.randrange(1 << 30))
        await load.prepare()
        if moment == moments - 1:
            await _fill(node)
        async with load.running():
            await load.answered(20)
            await asyncio.sleep(rng.uniform(EARLIEST_S, LATEST_S))  # the moment is random
            killed_at = time.monotonic()
            await kill(node.pid)
        lost = await _lose(node, tmp_path / f"lost-{moment}")

        said = await _restore(node)

        reached = {one["partition"]: Position.parse(one["position"]) for one in said["partitions"]}
        _account(figures, load.answers, reached, killed_at, said)
        await asyncio.to_thread(assert_there, node.settings, load.answers, reached)
        await _assert_digests(node, lost, folded, reached)
        await asyncio.to_thread(shutil.rmtree, lost)
        await node.start()
    figures.report()
    await _assert_sound(node)


async def _fill(node: NodeProcess) -> None:
    """Write rows that do not pack into a document, and wait until all of it is archived."""
    insert = "INSERT INTO entry (key, body) VALUES (hex(randomblob(16)), randomblob(?))"
    batch = {"statements": [{"sql": insert, "args": [BULK_ROW_BYTES]}] * BULK_BATCH}
    async with node.http() as http:
        for _ in range(BULK_ROWS // BULK_BATCH):
            path = f"/api/v1/db/{DOCUMENTS[0]}/query/batch"
            while (answer := await http.post(path, json=batch)).status_code == 503:  # noqa: ASYNC110 - its lease is short
                await asyncio.sleep(0.1)
            assert answer.status_code == 200, answer.text
    await caught_up(node)


async def _lose(node: NodeProcess, kept: Path) -> Path:
    """Wait until nothing of the node runs, and take its data directory away; the test alone keeps it."""
    await until(lambda: not users_of(node.data) and not users_of(node.cache), 30)
    os.rename(node.data, kept)
    await asyncio.to_thread(shutil.rmtree, node.cache, ignore_errors=True)
    return kept


async def _restore(node: NodeProcess) -> Any:
    restored = await node.cli("restore", "--json")
    assert restored.code == 0, restored.err
    said = json.loads(restored.out)
    assert said["payloads"]["missing"] == 0  # they are archived before the records that name them
    assert {(one["done"], one["position"] != "1.0") for one in said["partitions"]} <= {("restored", True), EMPTY}
    return said


def _account(
    figures: Figures, answers: Iterable[Answered], reached: dict[str, Position], killed_at: float, said: Any
) -> None:
    """Note how much was answered and is not there, and how old the first of it was when the machine died."""
    lost = [one for one in answers if one.position > reached.get(str(one.partition), START)]
    figures.rpo_s.append(killed_at - min((one.at_s for one in lost), default=killed_at))
    figures.rto_s.append(said["seconds"])
    figures.rto_s_per_gib = said["seconds_per_gib"]
    figures.answered += len([*answers])
    figures.lost += len(lost)


async def _assert_digests(node: NodeProcess, lost: Path, folded: Path, reached: dict[str, Position]) -> None:
    """Fail unless the restored files have the digests that the log of the lost machine gives at these positions.

    What was folded of the machines before goes on in `folded`: the log of a restored one begins where it was restored.
    """
    known = domains(node.settings)
    async with NatsServer(lost, lost / "nats", sync_always=True) as server:
        old = Log(server.url, "")
        with Threads(2) as threads:
            for name, position in reached.items():
                if not position.index:
                    continue
                domain, _, key = name.partition("/")
                partition = PartitionId(domain, key)
                for spec in known[domain].projections(key):
                    path = folded / f"{spec.name.replace('/', '-')}.db"
                    projection = Projection(spec, partition, path, durable=False)
                    begin = await seek(old.reader, partition, projection.cursor.position)
                    assert begin.hash == projection.cursor.hash
                    entries = read(old.reader, partition, begin)
                    await fold_entries(entries, threads, known[domain], [projection], until=position)
                    assert projection.cursor.position == position
                    projection.close()
                    assert digest_of(spec.path) == digest_of(path), f"{spec.name} at {position}"
        await old.close()


async def _assert_sound(node: NodeProcess) -> None:
    """Fail unless log, archive and projections of the restored node agree, and rebuild gives the same digests."""
    verified = await node.cli("rebuild", "--verify", "--json")
    assert verified.code == 0, verified.err
    assert {one["result"] for one in json.loads(verified.out)} == {"equal"}
    assert (await node.cli("log", "verify")).code == 0
