"""An older copy of the log, put in the place of the newer one: found out at the start, and mended by a restore."""

import asyncio
import random
import shutil

import pytest

from forge.stack.weed import Weed
from tests.acceptance.conftest import StartNode
from tests.acceptance.two_nodes import note, notes, started, until_caught_up, until_writer
from tests.faults.killer import fresh_seed, kill


@pytest.mark.long
async def test_a_writer_does_not_go_on_with_an_older_log(start_node: StartNode, weed: Weed) -> None:
    """PR3, PR4: nor if everything else here is as old: else positions that are archived were given once more."""
    node = await started(start_node, weed, f"put-back-{random.Random(fresh_seed()).randrange(1 << 30)}")
    await note(node, "one")
    await until_caught_up(node)
    assert await node.stop() == 0
    older, newer = node.data.with_name("older"), node.data.with_name("newer")
    await asyncio.to_thread(shutil.copytree, node.data, older)
    await node.start()
    await until_writer(node)
    await note(node, "two")
    await until_caught_up(node)
    await kill(node.pid)
    await asyncio.to_thread(node.data.rename, newer)
    await asyncio.to_thread(older.rename, node.data)
    await asyncio.to_thread(shutil.copy2, newer / "lease.json", node.data / "lease.json")

    said = await node.cli("up", "--listen", "127.0.0.1:0")

    assert said.code != 0
    assert "an older one" in said.err
    assert "`forge restore`" in said.err
    assert "Traceback" not in said.err
    restored = await node.cli("restore")
    assert restored.code == 0, restored.err
    await node.start()
    await until_writer(node)
    assert await notes(node) == ["one", "two"]
    assert (await note(node, "three")).epoch == 2
