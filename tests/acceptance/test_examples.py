"""The programs in `examples/`, run as somebody would who tries them."""

import asyncio
import os
import signal
import sys
from pathlib import Path

from tests.acceptance.conftest import StartNode
from tests.acceptance.node_process import NodeProcess

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
WITHIN_S = 120


async def started(node: NodeProcess, name: str, *arguments: str) -> asyncio.subprocess.Process:
    """Start an example."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, str(EXAMPLES / name), *arguments),
        env=node.environ | {"FORGE_URL": node.url, "FORGE_TOKEN": node.token},
        cwd=node.home,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def finished(process: asyncio.subprocess.Process) -> str:
    """Return what an example printed until it ended well."""
    async with asyncio.timeout(WITHIN_S):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


async def test_a_killed_worker_of_the_job_queue_loses_nothing(start_node: StartNode) -> None:
    """P6.7: each job is done once, that of the killed worker by another one."""
    node = await start_node()
    await finished(await started(node, "job_queue.py", "add", *[f"job {number}" for number in range(12)]))
    victim = await started(node, "job_queue.py", "work")
    assert victim.stdout is not None
    assert (await victim.stdout.readline()).startswith(b"job 1: JOB 0")
    os.kill(victim.pid, signal.SIGKILL)
    await victim.communicate()
    workers = [await started(node, "job_queue.py", "work", "--until-empty") for _ in range(3)]
    printed = [line for worker in workers for line in (await finished(worker)).splitlines()]
    async with node.client() as client:
        rows = (await client.db("queue").exec("SELECT id, result FROM job ORDER BY id")).rows
    assert rows == [(number + 1, f"JOB {number}") for number in range(12)]
    assert len(printed) == len(set(printed))


async def test_a_worker_of_the_job_queue_waits_for_a_node_that_is_away(start_node: StartNode) -> None:
    """P6.7: it says so and goes on; whoever cannot even begin is told why in one line, without a traceback."""
    node = await start_node()
    worker = await started(node, "job_queue.py", "work")
    assert worker.stdout is not None
    assert worker.stderr is not None
    await finished(await started(node, "job_queue.py", "add", "first"))
    async with asyncio.timeout(WITHIN_S):
        assert await worker.stdout.readline() == b"job 1: FIRST\n"
        await node.stop()
        assert (await worker.stderr.readline()).startswith(b"waiting for the node: no answer from " + node.url.encode())

        adding = await started(node, "job_queue.py", "add", "too early")
        out, err = await adding.communicate()
        assert (adding.returncode, out) == (1, b"")
        assert err.startswith(b"job_queue.py: no answer from ")
        assert err.count(b"\n") == 1

        node.options = ("--listen", node.url.removeprefix("http://"))  # where the worker looks for it
        await node.start()
        await finished(await started(node, "job_queue.py", "add", "second"))
        assert await worker.stdout.readline() == b"job 2: SECOND\n"
    worker.kill()
    _, err = await worker.communicate()
    assert b"Traceback" not in err


async def test_a_remote_shell_runs_what_is_allowed(start_node: StartNode) -> None:
    """P4.3, P4.4: commands at the same time each get their own output and exit code; others are refused."""
    node = await start_node()
    async with node.client() as client:
        await client.documents.create("home")
    worker = await started(node, "remote_shell.py", "serve", "echo {}", "false")
    try:
        asked = [await started(node, "remote_shell.py", "run", "echo", f"word {number}") for number in range(6)]
        assert [await finished(one) for one in asked] == [f"word {number}\n" for number in range(6)]
        for words, code, printed in ((["false"], 1, b""), (["echo", "-e"], 126, b"this is not allowed here\n")):
            refused = await started(node, "remote_shell.py", "run", *words)
            async with asyncio.timeout(WITHIN_S):
                out, _ = await refused.communicate()
            assert (refused.returncode, out) == (code, printed)
    finally:
        worker.kill()
        await worker.communicate()


async def test_a_watcher_of_sensors_that_was_killed_misses_no_value(start_node: StartNode) -> None:
    """P3.7: it goes on from the place that it keeps; what it had printed in the moment of the kill comes again."""
    node = await start_node()
    await finished(await started(node, "sensor_fanout.py", "measure", "kitchen", "cellar", "--rounds", "5"))
    first = await started(node, "sensor_fanout.py", "watch", "sensors/+/temp")
    assert first.stdout is not None
    seen = [(await first.stdout.readline()).decode() for _ in range(4)]
    os.kill(first.pid, signal.SIGKILL)
    seen += (await first.communicate())[0].decode().splitlines(keepends=True)
    async with node.client() as client:
        rows = (await client.db("home").exec("SELECT created_at, topic, payload FROM messages ORDER BY id")).rows
    values = [" ".join(map(str, row)) + "\n" for row in rows]
    second = await started(node, "sensor_fanout.py", "watch", "sensors/#")
    assert second.stdout is not None
    async with asyncio.timeout(WITHIN_S):
        while seen[-1] != values[-1]:
            seen.append((await second.stdout.readline()).decode())
    os.kill(second.pid, signal.SIGKILL)
    await second.communicate()
    assert list(dict.fromkeys(seen)) == values


async def test_workers_claim_webhooks_and_each_is_handled(start_node: StartNode) -> None:
    """P5.7: as they come, by several workers."""
    node = await start_node()
    async with node.client() as client, node.http() as http:
        await client.documents.create("hooks")
        await client.db("hooks").exec("SELECT * FROM webhook_inbox")
        await finished(await started(node, "webhook_worker.py", "hooks", "door", "--once"))
        workers = [await started(node, "webhook_worker.py", "hooks", "door") for _ in range(2)]
        for number in range(10):
            sent = await http.post(
                "/api/v1/db/hooks/webhooks/door", content=f"ring {number}", headers={"Content-Type": "text/plain"}
            )
            assert sent.status_code == 201
        async for watched in client.db("hooks").watch("SELECT count(*) FROM webhook_claim WHERE done_at IS NOT NULL"):
            if watched.rows == [(10,)]:
                break
        for worker in workers:
            os.kill(worker.pid, signal.SIGTERM)
        printed = [line for worker in workers for line in (await worker.communicate())[0].decode().splitlines()]
    assert sorted(printed) == [f"handled ring {number}" for number in range(10)]
