"""Kill -9 of the node, of its NATS server and of its embedding worker while many clients upload: nothing is lost."""

import asyncio
import os
import random
import signal
import time

import pytest

from tests.acceptance.conftest import StartNode
from tests.acceptance.figures import Figures
from tests.acceptance.node_process import ChildName, NodeProcess
from tests.acceptance.nothing_lost import prove_nothing_lost
from tests.acceptance.uploads import Uploads
from tests.faults.killer import fresh_seed, is_alive, kill
from tests.waiting import until

KILLS, KILLS_LONG = 5, 50
EARLIEST_S, LATEST_S = 0.05, 1.5
START_KILLED_EVERY = 5  # one start in so many is killed before it is ready
RESTARTED_EVERY = 5  # the supervisor waits longer after each death; a fresh node does not remember the last ones
ACKS_BETWEEN = 400
CHILD_WAIT_S = 60.0
LONG_TIMEOUT_S = 3600


async def test_killing_the_node_loses_nothing_accepted(start_node: StartNode) -> None:
    """PR1, PR5: five kills of the node and with it of everything it started, some of them while it starts."""
    await kill_the_node(start_node, KILLS)


@pytest.mark.long
@pytest.mark.timeout(LONG_TIMEOUT_S)
async def test_killing_the_node_fifty_times_loses_nothing_accepted(start_node: StartNode) -> None:
    """PR1, PR5: the same, often enough to meet rarer moments."""
    await kill_the_node(start_node, KILLS_LONG)


@pytest.mark.parametrize("child", ["nats", "worker"])
async def test_killing_a_child_loses_nothing_accepted(start_node: StartNode, child: ChildName) -> None:
    """PR1, PR5: five kills of one child alone, which the node starts again without being asked."""
    await kill_a_child(start_node, child, KILLS)


@pytest.mark.long
@pytest.mark.timeout(LONG_TIMEOUT_S)
@pytest.mark.parametrize("child", ["nats", "worker"])
async def test_killing_a_child_fifty_times_loses_nothing_accepted(start_node: StartNode, child: ChildName) -> None:
    """PR1, PR5: the same, often enough to meet rarer moments."""
    await kill_a_child(start_node, child, KILLS_LONG)


async def kill_the_node(start_node: StartNode, kills: int) -> None:
    """Kill the node `kills` times while clients upload, start it once more, and prove that nothing is lost."""
    seed = fresh_seed()
    rng = random.Random(seed)
    node = await start_node()
    uploads, figures = Uploads(node, seed), Figures("kills of the node", seed)
    async with uploads.running():
        for number in range(kills):
            starting = number > 0 and rng.randrange(START_KILLED_EVERY) == 0
            if not node.runs:
                start_s = await node.start(until_ready=not starting)
                figures.starts_s += [] if starting else [start_s]
            if not starting:
                await uploads.acknowledged(ACKS_BETWEEN)
            figures.moments.append(await kill_somewhen(node.pid, None if starting else uploads, rng))
        figures.starts_s.append(await node.start())
        await uploads.acknowledged(ACKS_BETWEEN)
    await prove_nothing_lost(node, uploads)
    figures.report(uploads)


async def kill_a_child(start_node: StartNode, child: ChildName, kills: int) -> None:
    """Kill one child of the node `kills` times while clients upload, and prove that nothing is lost."""
    seed = fresh_seed()
    rng = random.Random(seed)
    node = await start_node()
    uploads, figures = Uploads(node, seed), Figures(f"kills of the {child}", seed)
    async with uploads.running():
        for number in range(kills):
            await uploads.acknowledged(ACKS_BETWEEN)  # first of all by itself, without a restart of the node
            if number and number % RESTARTED_EVERY == 0:
                assert await node.stop() == 0
                figures.starts_s.append(await node.start())
            uploads.pause()  # each upload is embedded in the end, and a start takes as long as it takes
            await node.ready()
            pid = await child_runs(node, child)
            uploads.thaw()
            figures.moments.append(await kill_somewhen(pid, uploads, rng))
        await child_runs(node, child)
        await uploads.acknowledged(ACKS_BETWEEN)
    await prove_nothing_lost(node, uploads)
    figures.report(uploads)


async def kill_somewhen(pid: int, uploads: Uploads | None, rng: random.Random) -> float:
    """Kill -9 at a random moment, or as often in the instant of an answer to `uploads`; return when that was."""
    if uploads is not None and rng.randrange(2):
        await uploads.at_next_ack(lambda: os.kill(pid, signal.SIGKILL))
        killed = time.monotonic()
        await until(lambda: not is_alive(pid))
    else:
        await asyncio.sleep(rng.uniform(EARLIEST_S, LATEST_S))
        assert is_alive(pid), f"process {pid} ended by itself"
        killed = time.monotonic()
        await kill(pid)
    return killed


async def child_runs(node: NodeProcess, child: ChildName) -> int:
    """Wait until the child runs, as one that was killed must without help; return its pid."""
    deadline = time.monotonic() + CHILD_WAIT_S
    while (pid := node.child(child)) is None or not is_alive(pid):
        assert node.runs, f"the node ended with its {child}"
        assert time.monotonic() < deadline, f"the {child} was not started again within {CHILD_WAIT_S:g} s"
        await asyncio.sleep(0.02)
    return pid
