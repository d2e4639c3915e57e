"""`forge replicate generation` against a node that needs several answers to be done."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from tests.unit.http_peer import Answer, Request, serving

FORGE = Path(sys.executable).with_name("forge")


def _one(projection: str, result: str) -> dict[str, Any]:
    told = {"position": None, "size_bytes": None, "stored_bytes": None, "verified": False, "problem": None}
    return {"projection": projection, "result": result} | told


async def test_what_takes_longer_than_an_answer_is_named_while_it_is_made(tmp_path: Path) -> None:
    """Else a store that answers slowly, or a large database, looks like a command that hangs."""
    rest = [
        [_one("control", "current"), _one("doc/notes", "making")],
        [_one("doc/notes", "making")],
        [_one("doc/notes", "current")],
    ]

    def answered(request: Request) -> Answer:
        assert request.path == "/api/v1/replicate/generations"
        return Answer(200, {"generations": rest.pop(0)})

    async with serving(answered) as peer:
        process = await asyncio.create_subprocess_exec(
            *(FORGE, "replicate", "generation", "control", "notes", "--url", peer.url),
            env={**os.environ, "FORGE_DATA_DIR": str(tmp_path)},
            stderr=-1,
            stdout=-1,
        )
        out, err = await process.communicate()
        asked = [request.json()["projections"] for request in peer.requests]

    assert process.returncode == 0, err
    assert asked == [["control", "doc/notes"], ["doc/notes"], ["doc/notes"]]
    assert (
        err.decode().splitlines()
        == ["still being made: doc/notes; `forge doctor` tells whether the object store answers"] * 2
    )
    assert out.decode().count("current") == 2
