"""Datasette: its server over one file in WAL mode, its JSON API for reads and its write API for inserts."""

import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlencode

import apsw

from benchmarks.peers.load import encode_request
from benchmarks.peers.processes import ProcessTree, free_port, program, server
from benchmarks.peers.workload import (
    BODY,
    INSERT,
    POINT,
    PREPARED,
    RANGE,
    ROWS,
    SCHEMA,
    HttpContestant,
    Kind,
    first_ids,
)

SECRET = "only-for-benchmarks"
CONFIG_FILE = "datasette.json"
CONFIG = {"permissions": {"insert-row": {"id": "root"}, "execute-sql": True}}


class Datasette(HttpContestant):
    """A running Datasette. Its commits are fsynced: `synchronous=FULL` is the default of Python's SQLite."""

    name: ClassVar[str] = "datasette"

    def __init__(self, port: int, processes: ProcessTree, token: str) -> None:
        self.port = port
        self.processes = processes
        self._headers = {"Authorization": f"Bearer {token}"}

    def requests(self, kind: Kind) -> list[bytes]:
        """See `HttpContestant`: reads are the same SQL as everywhere, arguments by name."""
        if kind == "write":
            rows = ({"row": {"body": BODY, "n": n}} for n in range(PREPARED))
            return [encode_request("POST", "/bench/item/-/insert", self._headers, row) for row in rows]
        sql = (POINT if kind == "point_read" else RANGE).replace("?", ":id")
        queries = (urlencode({"sql": sql, "id": n, "_shape": "arrays"}) for n in first_ids(kind))
        return [encode_request("GET", f"/bench/-/query.json?{query}", self._headers) for query in queries]


@asynccontextmanager
async def datasette(folder: Path, programs: Path | None) -> AsyncIterator[Datasette]:
    """Start it over a file in `folder`, with its rows."""
    command, port = program("datasette", programs), free_port()
    token = _prepare(command, folder)
    options = ["--port", str(port), "--secret", SECRET, "--config", str(folder / CONFIG_FILE)]
    with server([command, "serve", str(folder / "bench.db"), *options], port) as processes:
        yield Datasette(port, processes, token)


def _prepare(command: str, folder: Path) -> str:
    """Make the file with its rows, the configuration, and a token; return the token."""
    folder.mkdir(parents=True)
    database = apsw.Connection(str(folder / "bench.db"))
    database.execute("PRAGMA journal_mode=WAL")
    for statement in SCHEMA:
        database.execute(statement)
    with database:
        database.executemany(INSERT, ((BODY, n) for n in range(ROWS)))
    database.close()
    (folder / CONFIG_FILE).write_text(json.dumps(CONFIG))
    create = [command, "create-token", "root", "--secret", SECRET]
    return subprocess.run(create, check=True, capture_output=True, text=True).stdout.strip()
