"""`forge lease`, as jobs use it: one at a time, and no longer than the lease lasts."""

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from forge.client import ForgeError
from tests.acceptance.conftest import StartNode
from tests.acceptance.node_process import FORGE, NodeProcess
from tests.waiting import running, until

WITHIN_S = 60
DB = "jobs"
TTL_S = "8"  # so long may a busy machine keep a holder from renewing, and no longer


async def started(node: NodeProcess, *arguments: str) -> asyncio.subprocess.Process:
    """Start `forge lease run`."""
    return await asyncio.create_subprocess_exec(
        *(str(FORGE), "lease", "run", *arguments),
        env=node.environ | {"FORGE_URL": node.url, "FORGE_TOKEN": node.token},
        cwd=node.home,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def prepared(start_node: StartNode) -> NodeProcess:
    """Start a node with a document."""
    node = await start_node()
    async with node.client() as client:
        await client.documents.create(DB)
        await client.db(DB).exec("CREATE TABLE work (fence)")
    return node


def read(path: Path) -> Any:
    """Return what a command wrote."""
    return path.read_text().split()


async def test_two_jobs_share_a_lease_and_the_stale_one_is_refused(start_node: StartNode, tmp_path: Path) -> None:
    """P6.7: the second does not start while the first holds it; what the first does too late changes nothing."""
    node = await prepared(start_node)
    insert = (
        f'{FORGE} db sql {DB} "INSERT INTO work VALUES (?)" $FORGE_FENCE --fence $FORGE_LEASE_RESOURCE=$FORGE_FENCE'
    )
    told, go = tmp_path / "told", tmp_path / "go"
    os.mkfifo(go)
    script = f"echo $FORGE_LEASE_RESOURCE $FORGE_FENCE > {told}; cat {go}; {insert}"
    first = await started(node, DB, "nightly", "--", "sh", "-c", script)
    await until(lambda: told.exists() and len(read(told)) == 2, WITHIN_S)
    assert read(told) == ["nightly", "1"]

    second = await started(node, DB, "nightly", "--json", "--", "true")
    _, err = await second.communicate()
    assert second.returncode == 5, err
    assert "leased" in json.loads(err)["why"]
    waits = await started(node, DB, "nightly", "--wait", "60", "--", "sh", "-c", f"{insert}; exit 7")
    go.write_text("\n")
    await first.communicate()
    assert first.returncode == 0
    await waits.communicate()
    assert waits.returncode == 7
    async with node.client() as client:
        assert (await client.db(DB).exec("SELECT fence FROM work")).rows == [(1,), (2,)]
    stale = await node.cli("db", "sql", DB, "INSERT INTO work VALUES (0)", "--fence", "nightly=1")
    assert stale.code == 5
    assert "not held" in stale.err
    assert (await node.cli("db", "sql", DB, "SELECT 1", "--fence", "nightly")).code == 2


def ended(pid: int) -> bool:
    return not running(pid)


async def test_a_command_ends_when_its_lease_is_lost(start_node: StartNode, tmp_path: Path) -> None:
    """P6.7, PR7: with all that it started, though it does not want to."""
    node = await prepared(start_node)
    pids = tmp_path / "pids"
    script = f"trap '' TERM; sleep 1000 & echo $$ $! > {pids}; wait"
    job = await started(node, DB, "nightly", "--ttl", TTL_S, "--", "sh", "-c", script)
    await until(lambda: pids.exists() and len(read(pids)) == 2, WITHIN_S)
    os.kill(node.pid, signal.SIGKILL)
    _, err = await job.communicate()
    assert job.returncode == 5, err
    assert b"lost" in err
    for pid in read(pids):
        await until(partial(ended, int(pid)))


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Let what is started heed SIGINT, also where a shell runs these tests in its background and so ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


async def test_signals_are_for_the_command_and_the_lease_is_given_back(
    start_node: StartNode, tmp_path: Path, interruptible: None
) -> None:
    """P6.4."""
    node = await prepared(start_node)
    told = tmp_path / "told"
    job = await started(
        node, DB, "nightly", "--", "sh", "-c", f"trap 'exit 3' INT; echo on > {told}; while :; do sleep 0.1; done"
    )
    await until(lambda: told.exists() and bool(read(told)), WITHIN_S)
    os.kill(job.pid, signal.SIGINT)
    await job.communicate()
    assert job.returncode == 3
    listed = json.loads((await node.cli("lease", "list", DB, "--json")).out)
    assert [(one["resource"], one["held"]) for one in listed] == [("nightly", False)]
    assert (await node.cli("lease", "run", DB, "nightly", "--", "no-such-command")).code == 127


async def test_acquire_renew_release_and_history(start_node: StartNode) -> None:
    """P6.2 to P6.4, from the command line."""
    node = await prepared(start_node)
    held = json.loads((await node.cli("lease", "acquire", DB, "a/b", "--owner", "ada", "--json")).out)
    assert held["fence"] == 1
    assert (await node.cli("lease", "acquire", DB, "a/b", "--owner", "bob")).code == 5
    own = ("--owner", "ada", "--lease-token", held["token"])
    assert (await node.cli("lease", "renew", DB, "a/b", *own, "--ttl", "60")).code == 0
    assert (await node.cli("lease", "renew", DB, "a/b", "--owner", "ada", "--lease-token", "x")).code == 4
    assert "yes" in (await node.cli("lease", "list", DB, "--held")).out
    assert (await node.cli("lease", "release", DB, "a/b", *own)).out == "a/b is released\n"
    history = json.loads((await node.cli("lease", "history", DB, "a/b", "--json")).out)
    assert [one["owner"] for one in history["history"]] == ["ada"]
    assert (await node.cli("lease", "history", DB, "other")).code == 3


async def test_the_client_holds_a_lease_on_a_real_node(start_node: StartNode) -> None:
    """P6.7: and is told when another one took it."""
    node = await prepared(start_node)
    async with node.client() as client:
        document = client.db(DB)
        async with document.lease("nightly", owner="one") as lease:
            await document.exec("INSERT INTO work VALUES (1)", fences=[lease])
            with pytest.raises(ForgeError, match="409"):
                async with document.lease("nightly", owner="two", wait_s=0):
                    raise AssertionError
        with pytest.raises(ForgeError, match="412"):
            await document.exec("INSERT INTO work VALUES (1)", fences=[lease])
        async with document.lease("nightly", owner="two", wait_s=0) as newer:
            assert newer.fence == 2
        assert newer.lost is None


async def test_a_holder_that_was_paused_beyond_its_lease_can_do_no_harm(start_node: StartNode, tmp_path: Path) -> None:
    """P6.7, reliability C2: it goes on when somebody else holds the lease, and what it writes is refused."""
    node = await prepared(start_node)
    told, go, code = tmp_path / "told", tmp_path / "go", tmp_path / "code"
    fence = "$FORGE_FENCE --fence nightly=$FORGE_FENCE"
    write = f'{FORGE} db sql {DB} "INSERT INTO work VALUES (?)" {fence}'
    script = f"trap '' TERM; echo $$ > {told}; until [ -e {go} ]; do sleep 0.05; done; {write}; echo $? > {code}"
    job = await started(node, DB, "nightly", "--ttl", TTL_S, "--", "sh", "-c", script)
    await until(lambda: told.exists() and bool(read(told)), WITHIN_S)
    os.kill(job.pid, signal.SIGSTOP)
    async with node.client() as client:
        async with client.db(DB).lease("nightly", owner="next", ttl_s=30) as lease:
            assert lease.fence == 2
            go.write_text("")  # the command itself was not stopped: it does not know
            await until(lambda: code.exists() and bool(read(code)), WITHIN_S)
            assert read(code) == ["5"]
        assert (await client.db(DB).exec("SELECT * FROM work")).rows == []
    os.kill(job.pid, signal.SIGCONT)
    _, err = await job.communicate()
    assert job.returncode in (0, 5), err
