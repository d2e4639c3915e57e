"""The process of the built-in embedding worker: its application behind our HTTP server."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor

import click
from starlette.types import ASGIApp

from api.server import Server
from workers.builtin.app import Bounds, build_app

THREADS_MAX = 4
SHUTDOWN_S = 0.5
PARENT_LOOK_S = 1.0


@click.command(help="Serve the built-in text and image models over the worker contract.")
@click.option("--port", type=click.IntRange(0, 65535), required=True, help="0 picks a free one")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--body-bytes-max", type=click.IntRange(1), default=Bounds().body_bytes_max, show_default=True)
@click.option("--parent-pid", type=int, help="stop when this is no longer the parent process")
def main(port: int, host: str, body_bytes_max: int, parent_pid: int | None) -> None:
    """Serve until SIGTERM, SIGINT or the end of the parent; the bound address is one JSON line on stdout."""
    pool = ThreadPoolExecutor(min(THREADS_MAX, os.cpu_count() or 1), "embed")
    app = build_app(pool, Bounds(body_bytes_max=body_bytes_max))
    asyncio.run(serve(app, host, port, parent_pid=parent_pid))
    sys.stdout.flush()
    # A picture that is being decoded cannot be interrupted, and leaving without it loses nothing.
    os._exit(0)


async def serve(app: ASGIApp, host: str, port: int, *, parent_pid: int | None = None) -> None:
    """Serve `app` until a signal or the end of the parent asks to stop; stopping takes about `SHUTDOWN_S`."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = Server(app, host, port, shutdown_s=SHUTDOWN_S)
    bound_host, bound_port = await server.start()
    print(json.dumps({"host": bound_host, "port": bound_port}), flush=True)
    try:
        while not stop.is_set() and parent_pid in (None, os.getppid()):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), PARENT_LOOK_S)
    finally:
        await server.stop()


if __name__ == "__main__":
    main()
