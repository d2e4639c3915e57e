"""Waiting until a node has archived what it was told."""

import asyncio
import json

from tests.acceptance.node_process import NodeProcess

WAIT_S = 120.0


async def caught_up(node: NodeProcess) -> None:
    """Wait until everything is archived, as `forge replicate status` says."""
    async with asyncio.timeout(WAIT_S):
        while True:
            said = await node.cli("replicate", "status", "--json")
            if said.code == 0:
                state = json.loads(said.out)
                assert state["partitions"]
                if all(one["lag_records"] == 0 for one in state["partitions"]):
                    assert all(one["position"] == one["archived"] for one in state["partitions"])
                    return
            await asyncio.sleep(0.1)
