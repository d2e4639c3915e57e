"""A server whose own loop was held up judges no client before it has read what the client sent meanwhile."""

import asyncio
import socket
import time

import pytest
import uvloop
from starlette.responses import PlainTextResponse

from api.limits import Limits
from api.server import Server

REQUEST = b"GET / HTTP/1.1\r\nHost: forge\r\n\r\n"
SHORT = Limits(header_deadline_s=1, keep_alive_s=1)
STALL_S = 2.0  # longer than any of these deadlines


@pytest.mark.parametrize("parts", [(REQUEST,), (REQUEST[:20], REQUEST[20:])], ids=["idle", "in its headers"])
def test_who_spoke_while_the_server_was_held_up_is_answered(parts: tuple[bytes, ...]) -> None:
    """PR7: a deadline is about what the client did, and the node runs on uvloop, whose timers come before its reads."""

    async def scenario() -> bytes:
        server = Server(PlainTextResponse("here"), "127.0.0.1", 0, limits=SHORT)
        with socket.create_connection(await server.start()) as link:
            link.settimeout(60)
            link.sendall(REQUEST)
            assert b"here" in await asyncio.to_thread(link.recv, 65536)
            for part in parts:
                link.sendall(part)
                time.sleep(STALL_S)  # noqa: ASYNC251 - this is the stall: the server runs in the same loop
                await asyncio.sleep(0)
            answer = await asyncio.to_thread(link.recv, 65536)
        await server.stop()
        return answer

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        answer = runner.run(scenario())

    assert answer.startswith(b"HTTP/1.1 200 ")
