"""Restores that are killed at any step: the next one goes on, and nothing was lost or made double."""

import asyncio
import json
import random
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from events.objects.folder import FolderStore
from tests.conftest import StartNats
from tests.faults.killer import fresh_seed
from tests.generations import making
from tests.integration import restore_killed
from tests.integration.restore_killed import Addresses, Kind
from tests.notes import new_partition
from tests.restoring import machine

KILLS, KILLS_LONG = 6, 300
LONG_TIMEOUT_S = 3600
ANSWER_WAIT_S = 120.0


@pytest.mark.parametrize(
    "kills", [KILLS, pytest.param(KILLS_LONG, marks=[pytest.mark.long, pytest.mark.timeout(LONG_TIMEOUT_S)])]
)
@pytest.mark.parametrize("kind", ["missing", "behind", "diverged"])
async def test_a_restore_that_was_killed_goes_on(start_nats: StartNats, tmp_path: Path, kind: Kind, kills: int) -> None:
    """PR4, K3.3: with a generation of one projection and without one of the other; what is kept aside is whole."""
    rng, partition = random.Random(seed := fresh_seed()), new_partition()
    print(f"restores killed: seed={seed}")
    store, early = tmp_path / "store", tmp_path / "early"
    async with machine(tmp_path / "first", await start_nats(), FolderStore(store)) as first:
        await first.archived(partition, await first.write(partition, *"abc"))
        async with making(first.archive, tmp_path / "making") as maker:
            spec, _ = first.domain.projections("")
            assert (await maker.make(partition, spec)).generation is not None
        await asyncio.to_thread(shutil.copytree, store, early)
        await first.archived(partition, await first.write(partition, *"def"))
        digests = first.digests
    server = await start_nats()
    addresses = Addresses(server.log_url, server.read_url, server.live_url, server.admin_url, server.monitor_url)
    told = {"addresses": asdict(addresses), "store": str(store), "early": str(early), "partition": partition.key}
    async with _trials(told | {"folder": str(tmp_path / "second")}) as trials:
        steps = (await _ask(trials, kind, None))["steps"]
        assert steps > 100
        for at_step in sorted(rng.sample(range(1, steps), min(kills, steps - 1))):
            found = await _ask(trials, kind, at_step)
            assert found["problem"] is None, f"killed at step {at_step}: {found}"
            assert (found["position"], found["newest"], found["records"]) == ("1.6", "1.6", 6), f"step {at_step}"
            assert found["digests"] == digests, f"step {at_step}"
            _assert_files(found["files"], kind, partition.token)


def _assert_files(files: list[str], kind: Kind, token: str) -> None:
    """Fail unless beside the databases there is what had to be kept, and nothing else."""
    named = {name for name in files if not name.endswith(("-shm", "-wal"))}
    kept = {name for name in named if "aside" in name and name != "aside"}
    assert named - kept <= {"notes.db", "lengths.db", "aside"}
    if kind == "diverged":
        assert any(name.startswith(f"aside/{token}-1.1-1.3-") for name in kept)
        for name in ("notes.db", "lengths.db"):
            assert len([one for one in kept if one.startswith(f"{name}.aside-1.3-")]) == 1
    else:
        assert not kept


@asynccontextmanager
async def _trials(told: dict[str, Any]) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", restore_killed.__name__, json.dumps(told), stdin=-1, stdout=-1
    )
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


async def _ask(trials: asyncio.subprocess.Process, kind: Kind, at_step: int | None) -> Any:
    assert trials.stdin is not None
    assert trials.stdout is not None
    trials.stdin.write(json.dumps({"kind": kind, "at_step": at_step}).encode() + b"\n")
    async with asyncio.timeout(ANSWER_WAIT_S):
        while line := await trials.stdout.readline():
            if line.startswith(b"{"):
                return json.loads(line)
    raise AssertionError("the program of the trials ended")
