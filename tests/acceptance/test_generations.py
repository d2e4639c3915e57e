"""Generations of a node that is killed again and again while it writes: each is what the log says."""

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest

from events.archive import Archive
from forge.domains import domains
from forge.restore.fresh import Wanted, fold_at
from forge.stack.weed import Weed
from projectors.generations.fetching import fetch
from projectors.generations.reading import current, generations, positions
from projectors.projection import remove_database
from projectors.rebuild import digest_of
from projectors.threads import Threads
from schemas.generation import Manifest
from schemas.ids import PartitionId
from tests.acceptance.conftest import StartNode
from tests.acceptance.document_writers import DB, DocumentWriters
from tests.acceptance.node_process import NodeProcess
from tests.faults.killer import fresh_seed, kill
from tests.s3_stores import s3_environ, s3_store
from tests.waiting import until

KILLS, KILLS_LONG = 2, 30
LONG_TIMEOUT_S = 3600
ANSWERS_BETWEEN = 80
WAIT_S = 60.0
EAGER = {
    "FORGE_ARCHIVE_SEAL_S": "0.1",
    "FORGE_GENERATION_RECORDS": "10",
    "FORGE_GENERATION_EVERY_S": "0.2",
    "FORGE_GENERATION_VERIFY": "0.3",
    "FORGE_GENERATION_KEEP": "4",
    "FORGE_GENERATION_SWEEP_S": "1",
    "FORGE_GENERATION_GRACE_S": "2",
    "FORGE_LEASE_DURATION_S": "3",
}


@pytest.mark.parametrize(
    "kills", [KILLS, pytest.param(KILLS_LONG, marks=[pytest.mark.long, pytest.mark.timeout(LONG_TIMEOUT_S)])]
)
async def test_every_generation_of_a_node_that_dies_is_what_the_log_says(
    start_node: StartNode, weed: Weed, tmp_path: Path, kills: int
) -> None:
    """PR2, PR4, K3.3, K3.5: made, thinned and swept meanwhile; the digest is that of a fold from the beginning."""
    rng = random.Random(fresh_seed())
    prefix = f"generations-{rng.randrange(1 << 30)}"
    node = await start_node(extra=s3_environ(weed, prefix=prefix) | EAGER)
    writers = DocumentWriters(node, rng.randrange(1 << 30))
    await writers.prepare()
    async with writers.running():
        for _ in range(kills):
            await writers.answered(ANSWERS_BETWEEN)
            await asyncio.sleep(rng.uniform(0, 0.5))  # the moment of the kill
            await kill(node.pid)
            await node.start()
        await writers.answered(ANSWERS_BETWEEN)
    made = await _made_now(node)
    assert {one["result"] for one in made} <= {"made", "unchanged", "absent"}, made
    assert await node.stop() == 0

    store = s3_store(weed)
    try:
        archive = Archive(store, prefix)
        for projection in (f"doc/{DB}", "control"):
            found = [one async for one in generations(archive, projection)]
            told = await current(archive, projection)
            assert told is not None
            assert (told.at, told.at) == (found[0].at, max(await positions(archive, projection)))
            assert len(found) <= int(EAGER["FORGE_GENERATION_KEEP"]) + 2  # of this day, and the last one verified
            for generation in found:
                await _assert_equal(node, archive, generation, tmp_path)
    finally:
        await store.close()


async def _made_now(node: NodeProcess) -> list[dict[str, Any]]:
    """Have a generation made of everything."""
    said = await node.cli("replicate", "generation", "--json")
    assert said.code == 0, said.err
    made: list[dict[str, Any]] = json.loads(said.out)
    return made


async def _assert_equal(node: NodeProcess, archive: Archive, generation: Manifest, folder: Path) -> None:
    """Fail unless a generation is fetched with the digest that a fold of the archived log gives."""
    fetched, folded = folder / "fetched.db", folder / "folded.db"
    await fetch(archive, generation, fetched)
    partition = PartitionId.parse(generation.partition)
    domain = domains(node.settings.load(node.environ))[partition.domain]
    specs = [spec for spec in domain.projections(partition.key) if spec.name == generation.projection]
    end = await archive.cursor_at(partition, generation.at)
    assert end is not None
    assert end.hash == generation.hash
    with Threads(1) as threads:
        await fold_at(archive, threads, Wanted(partition, domain, specs, end), [folded], from_generation=False)
    assert digest_of(fetched) == digest_of(folded) == generation.digest
    remove_database(fetched)
    remove_database(folded)


async def test_generations_are_made_on_demand_and_told(start_node: StartNode, weed: Weed) -> None:
    """G26: by name or all; what stands still is not made again, and what is not there is said so."""
    node = await start_node(extra=s3_environ(weed, prefix=f"demand-{random.Random(fresh_seed()).randrange(1 << 30)}"))
    async with node.http() as http:
        assert (await http.post("/api/v1/db", json={"db_id": "Orders"})).status_code == 201
        sent = {"sql": "CREATE TABLE t (a)"}
        assert (await http.post("/api/v1/db/Orders/query/exec", json=sent)).status_code == 200
    first = await node.cli("replicate", "generation", "Orders", "control", "--json")
    assert first.code == 0, first.err
    assert [(one["projection"], one["result"], one["verified"]) for one in json.loads(first.out)] == [
        ("doc/Orders", "made", True),
        ("control", "made", True),
    ]
    again = await node.cli("replicate", "generation", "Orders", "nobody-made-this")
    assert (again.code, "unchanged" in again.out, "absent" in again.out) == (3, True, True)
    assert "there is no doc/nobody-made-this" in again.err
    assert "control, doc/Orders" in again.err, "what there is, is named"
    assert (await node.cli("replicate", "generation", "no/such")).code == 3

    told = json.loads((await node.cli("replicate", "status", "--json")).out)
    (orders,) = [one for one in told["partitions"] if one["partition"] == "doc/Orders"]
    (generation,) = orders["generations"]
    assert (generation["projection"], generation["position"], generation["verified"]) == ("doc/Orders", "1.1", "1.1")
    assert await node.stop() == 0


async def test_the_steady_work_of_replication_loads_no_boto3(start_node: StartNode, weed: Weed) -> None:
    """PR7, PR8: it takes 20 MiB. The lease, the archive, generations, their removal and sweeps, and a standby."""
    prefix = f"lean-{random.Random(fresh_seed()).randrange(1 << 30)}"
    extra = s3_environ(weed, prefix=prefix) | EAGER | {"FORGE_STANDBY_POLL_S": "0.2", "PYTHONPROFILEIMPORTTIME": "1"}
    node = await start_node(extra=extra)
    standby = await start_node(extra=extra)
    writers = DocumentWriters(node, 7)
    await writers.prepare()
    async with writers.running():
        await writers.answered(2 * ANSWERS_BETWEEN)
    assert {one["result"] for one in await _made_now(node)} <= {"made", "unchanged"}
    await until(lambda: "chunks swept" in node.log.read_text(), WAIT_S)

    for process in (standby, node):
        assert await process.stop() == 0
        lines = process.log.read_text().splitlines()
        loaded = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
        assert "events.objects.s3_lists" in loaded
        assert not loaded & {"boto3", "botocore.session", "botocore.client"}


async def test_without_an_archive_there_is_nothing_to_make(start_node: StartNode) -> None:
    """PR8: and it says how to have one."""
    node = await start_node()
    for names in (["control"], []):
        said = await node.cli("replicate", "generation", *names)
        assert (said.code, "FORGE_S3_BUCKET" in said.err) == (5, True), said.out
