"""Parts of the load in processes of their own: told what to do by one JSON line at a time, they answer each by one."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import uvloop

LINE_BYTES_MAX = 1 << 24
END_S = 10.0


class HelperFailed(Exception):
    """A helper ended before it answered."""


class Helper:
    """A running helper."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def ask(self, do: str, **what: Any) -> Any:
        """Let it do something; return its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do} | what).encode() + b"\n")
        line = await self._process.stdout.readline()
        if not line:
            raise HelperFailed(f"it ended while it was to {do}")
        return json.loads(line)


@asynccontextmanager
async def helper(module: str) -> AsyncIterator[Helper]:
    """Start `python -m module`; end it afterwards."""
    pipe = asyncio.subprocess.PIPE
    command = [sys.executable, "-m", module]
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, limit=LINE_BYTES_MAX)
    try:
        yield Helper(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()  # it ends at the end of its input
        try:
            await asyncio.wait_for(process.wait(), END_S)
        except TimeoutError:
            process.kill()
            await process.wait()


def serve(answer: Callable[[str, dict[str, Any]], Awaitable[Any]]) -> None:
    """Answer what stdin asks, in a helper, until it ends."""
    uvloop.run(_serve(answer))


async def _serve(answer: Callable[[str, dict[str, Any]], Awaitable[Any]]) -> None:
    reader = asyncio.StreamReader(limit=LINE_BYTES_MAX)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        what = json.loads(line)
        answered = await answer(what.pop("do"), what)
        sys.stdout.write(json.dumps(answered) + "\n")
        sys.stdout.flush()
