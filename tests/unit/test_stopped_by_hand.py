"""Ctrl-C in commands that take long: the exit code of every interrupted command, and how to go on."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from forge.cli.errors import ExitCode

FORGE = Path(sys.executable).with_name("forge")
RECIPIENT = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"


@pytest.mark.parametrize(
    ("command", "fix"),
    [
        (["restore"], "it goes on where it was"),
        (["restore", "notes", "--to", "notes.db"], "nothing was made"),
        (["replicate", "drill"], "what was drilled is kept"),
        (["keys", "rotate"], "keep all keys until it is done"),
        (["rebuild"], "each database is whole"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
async def test_who_stops_a_command_is_told_how_to_go_on(command: list[str], fix: str, tmp_path: Path) -> None:
    """PR4: whatever was interrupted can be run again."""
    asked = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        environ = os.environ | {
            "FORGE_DATA_DIR": str(tmp_path / "data"),
            "FORGE_CACHE_DIR": str(tmp_path / "cache"),
            "FORGE_S3_BUCKET": "bucket",
            "FORGE_S3_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "FORGE_S3_ACCESS_KEY_ID": "id",
            "FORGE_S3_SECRET_ACCESS_KEY": "secret",
            "FORGE_RECIPIENTS": RECIPIENT if command[0] == "keys" else "",
        }
        process = await asyncio.create_subprocess_exec(FORGE, *command, env=environ, cwd=tmp_path, stdout=-1, stderr=-1)
        await asked.wait()
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()

    assert process.returncode == ExitCode.INTERRUPTED, err
    assert b"stopped with Ctrl-C" in err
    assert fix.encode() in err
    assert b"Traceback" not in err
    assert not {name for name in os.listdir(tmp_path) if name.startswith("notes.db")}
