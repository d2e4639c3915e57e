"""A replica whose node dies: it follows the one that takes over, which knows it."""

import json
import random

from forge.stack.weed import Weed
from tests.acceptance.conftest import StartNode
from tests.acceptance.node_process import NodeProcess
from tests.acceptance.two_nodes import DB, environ, note, started, until, until_notes, until_standby, until_writer
from tests.faults.killer import fresh_seed, kill

EAGER = {"FORGE_REPLICA_HEARTBEAT_S": "0.2", "FORGE_ARCHIVE_SEAL_S": "8"}


async def test_a_replica_goes_on_with_the_node_that_takes_over(start_node: StartNode, weed: Weed) -> None:
    """K4.1, K4.5: what was noted of it is known there; what it has that counts no more is put aside by a new copy."""
    prefix = f"replica-takeover-{random.Random(fresh_seed()).randrange(1 << 30)}"
    first = await started(start_node, weed, prefix, extra=EAGER)
    second = await start_node(extra=environ(weed, prefix) | EAGER)
    await until_standby(second)
    plain, ahead = first.home / "plain.db", first.home / "ahead.db"
    await note(first, "archived")
    for file in (plain, ahead):
        assert (await first.cli("replica", DB, str(file), "--once")).code == 0
    (known,) = {one["position"] for one in await _known(first)}
    await until_notes(second, ["archived"])
    await until(lambda: _knows(second, known), "the standby knows the replicas")
    await note(first, "lost")
    assert (await first.cli("replica", DB, str(ahead), "--once")).code == 0
    await kill(first.pid)
    await until_writer(second)
    written = await note(second, "second")

    assert known in {one["position"] for one in await _known(second)}
    followed = await second.cli("replica", DB, str(plain), "--once", "--no-reseed", "--json")
    assert followed.code == 0, followed.err
    assert json.loads(followed.out)["position"] == str(written)
    assert (await second.cli("replica", DB, str(plain), "--verify")).code == 0
    lost = written.index == 3  # the record of the dead node was in no archive
    print("lost", lost)
    kept = await second.cli("replica", DB, str(ahead), "--once", "--no-reseed")
    assert kept.code == (5 if lost else 0), kept.err
    assert (await second.cli("replica", DB, str(ahead), "--verify")).code == 0
    assert bool(list(first.home.glob("ahead.db.diverged-*"))) is lost
    assert {one["state"] for one in await _known(second)} == {"live"}


async def _knows(node: NodeProcess, position: str) -> bool:
    """Tell whether a node knows of replicas at `position`: the control plane is archived apart from documents."""
    return position in {one["position"] for one in await _known(node)}


async def _known(node: NodeProcess) -> list[dict[str, str]]:
    """Return the replicas that a node knows."""
    found = await node.cli("replica", "list", "--json")
    assert found.code == 0, found.err
    replicas: list[dict[str, str]] = json.loads(found.out)["replicas"]
    return replicas
