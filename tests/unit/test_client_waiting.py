"""A node that takes connections and never answers, such as a stopped process: whoever waits hears of it."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from forge.cli.errors import SILENT_FIX, ExitCode, from_client_error
from forge.client import NO_RETRY, ForgeClient, NodeUnreachable, Retry
from forge.client.transport import WAITING_SAID_S
from tests.unit.http_peer import Answer, serving

FORGE = Path(sys.executable).with_name("forge")


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server whose connections nobody takes up."""
    with socket.create_server(("127.0.0.1", 0), backlog=32) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


async def test_every_kind_of_request_tells_what_is_waited_for_and_how_long(silent: str) -> None:
    said: asyncio.Queue[str] = asyncio.Queue()
    async with ForgeClient(silent, timeout_s=77, waiting=said.put_nowait) as forge:
        rows = aiter(forge.db("notes").rows("SELECT 1"))
        asked = [asyncio.ensure_future(one) for one in (forge.status(), forge.readyz(), anext(rows))]
        told = [await said.get() for _ in asked]
        for one in asked:
            one.cancel()
        await asyncio.gather(*asked, return_exceptions=True)

    assert told == [f"no answer from {silent} for {WAITING_SAID_S:g} s; waiting for it, 77 s at most"] * len(asked)


async def test_a_node_that_refuses_for_now_tells_its_reason_while_it_is_asked_again() -> None:
    said: asyncio.Queue[str] = asyncio.Queue()
    refusal = Answer(503, {"title": "not ready", "detail": "the disk is full"}, {"Retry-After": "5"})
    async with (
        serving(lambda _: refusal) as peer,
        ForgeClient(peer.url, retry=Retry(total_s=44), waiting=said.put_nowait) as forge,
    ):
        asking = asyncio.ensure_future(forge.status())
        told = await said.get()
        asking.cancel()

    assert told == "503 not ready: the disk is full; asking again, for 44 s at most"


async def test_silence_ends_with_what_it_is_and_what_to_do(silent: str) -> None:
    async with ForgeClient(silent, timeout_s=0.2, retry=NO_RETRY) as forge:
        with pytest.raises(NodeUnreachable, match=r"it took the request, and nothing came from it for 0\.2 s") as why:
            await forge.status()

    shown = from_client_error(why.value)
    assert (shown.fix, shown.exit_code) == (SILENT_FIX, ExitCode.NOT_READY)


@pytest.mark.parametrize(
    "command",
    [
        ["status"],
        ["db", "sql", "notes", "select 1"],
        ["--json", "db", "list"],
        ["db", "watch", "notes", "select 1"],
        ["replicate", "generation"],
        ["replica", "follow", "notes", "notes.db", "--once"],
        ["vector", "ingest", "-root", "."],
    ],
)
async def test_commands_say_that_they_wait(silent: str, command: list[str], tmp_path: Path) -> None:
    environ = {**os.environ, "FORGE_DATA_DIR": str(tmp_path), "FORGE_URL": silent}
    process = await asyncio.create_subprocess_exec(FORGE, *command, env=environ, cwd=tmp_path, stderr=-1, stdout=-1)
    assert process.stderr is not None
    try:
        assert (await process.stderr.readline()).decode().startswith(f"no answer from {silent} for")
    finally:
        process.send_signal(signal.SIGINT)
        await process.communicate()
    assert process.returncode == ExitCode.INTERRUPTED
