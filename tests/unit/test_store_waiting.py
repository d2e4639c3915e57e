"""An object store that takes connections and never answers: whoever sits before a command hears of it."""

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

FORGE = Path(sys.executable).with_name("forge")


@pytest.mark.parametrize("command", [["keys", "list"], ["restore"], ["replicate", "drill"]], ids=" ".join)
async def test_commands_say_that_they_wait_for_the_store(command: list[str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=32) as silent:
        environ = os.environ | {
            "FORGE_DATA_DIR": str(tmp_path / "data"),
            "FORGE_CACHE_DIR": str(tmp_path / "cache"),
            "FORGE_S3_BUCKET": "bucket",
            "FORGE_S3_ENDPOINT_URL": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "FORGE_S3_ACCESS_KEY_ID": "id",
            "FORGE_S3_SECRET_ACCESS_KEY": "secret",
        }
        process = await asyncio.create_subprocess_exec(FORGE, *command, env=environ, cwd=tmp_path, stdout=-1, stderr=-1)
        assert process.stderr is not None
        try:
            said = (await process.stderr.readline()).decode()
        finally:
            process.send_signal(signal.SIGINT)
            await process.communicate()
    assert said == "the object store has not answered for 3 s; asking again for 20 s\n"
