"""Examples where no node is, or nobody has said where: whoever tries one first reads a sentence, and no traceback."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NOWHERE = "http://127.0.0.1:1"
COMMANDS = [
    ["changes_to_jsonl.py", "notes", "notes.jsonl", "--once"],
    ["job_queue.py", "add", "something"],
    ["remote_shell.py", "run", "uptime"],
    ["sensor_fanout.py", "measure", "kitchen", "--rounds", "1"],
    ["shopping_list.py", "milk"],
    ["webhook_worker.py", "hooks", "github/push"],
]


async def failed(command: list[str], folder: Path, url: str) -> tuple[int | None, str]:
    """Return the exit code of an example and what it said."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(EXAMPLES / command[0]), *command[1:]),
        env=os.environ | {"FORGE_URL": url, "FORGE_TOKEN": "t"},
        cwd=folder,
        stdout=-1,
        stderr=-1,
    )
    _, err = await process.communicate()
    return process.returncode, err.decode()


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
async def test_an_example_without_a_node_says_so_in_one_line(command: list[str], tmp_path: Path) -> None:
    code, said = await failed(command, tmp_path, NOWHERE)
    assert code == 1
    assert said.startswith(f"{command[0]}: "), said
    assert said.count("\n") == 1


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
async def test_an_example_that_is_told_of_no_node_says_what_it_lacks(command: list[str], tmp_path: Path) -> None:
    code, said = await failed(command, tmp_path, "")
    assert code == 2
    assert "FORGE_URL and FORGE_TOKEN must say" in said
    assert "Traceback" not in said


async def test_a_follower_of_changes_waits_for_the_node(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(EXAMPLES / "changes_to_jsonl.py"), "notes", "notes.jsonl"),
        env=os.environ | {"FORGE_URL": NOWHERE, "FORGE_TOKEN": "t"},
        cwd=tmp_path,
        stderr=-1,
    )
    assert process.stderr is not None
    assert (await process.stderr.readline()).startswith(b"waiting for the node: no answer from " + NOWHERE.encode())
    assert process.returncode is None
    process.kill()
    await process.communicate()
