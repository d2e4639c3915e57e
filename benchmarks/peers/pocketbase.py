"""PocketBase: its server, a superuser, one collection, and the records API."""

import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.peers.load import call, encode_request
from benchmarks.peers.processes import ProcessTree, free_port, program, server
from benchmarks.peers.workload import BODY, PREPARED, RANGE_ROWS, ROWS, HttpContestant, Kind, first_ids

USER, PASSWORD = "bench@example.com", "a-password-for-benchmarks"
ITEM = [{"name": "body", "type": "text"}, {"name": "n", "type": "number"}]
TICK = [{"name": "n", "type": "number"}]
FULL = 'onBootstrap((e) => { e.next(); $app.nonconcurrentDB().newQuery("PRAGMA synchronous=FULL").execute() })\n'
"""As it comes PocketBase commits without an fsync; this hook gives its one writing connection `synchronous=FULL`."""


class PocketBase(HttpContestant):
    """A running PocketBase whose commits are fsynced."""

    name: ClassVar[str] = "pocketbase"

    def __init__(self, port: int, processes: ProcessTree, token: str) -> None:
        self.port = port
        self.processes = processes
        self.headers = {"Authorization": token}

    def requests(self, kind: Kind) -> list[bytes]:
        """See `HttpContestant`."""
        records = "/api/collections/item/records"
        match kind:
            case "write":
                return [self.encode("POST", records, {"body": BODY, "n": n}) for n in range(PREPARED)]
            case "point_read":
                return [self.encode("GET", f"{records}/{record_id(n)}") for n in first_ids(kind)]
        query = f"perPage={RANGE_ROWS}&skipTotal=1&sort=id&filter=id%3E%3D%27"
        return [self.encode("GET", f"{records}?{query}{record_id(n)}%27") for n in first_ids(kind)]

    def encode(self, method: str, path: str, body: Any = None) -> bytes:
        """Return a request of the superuser."""
        return encode_request(method, path, self.headers, body)

    def tick(self, number: int) -> bytes:
        """Return the request that writes one row which subscribers hear of."""
        return self.encode("POST", "/api/collections/tick/records", {"n": number})

    async def load(self, clients: int = 16) -> None:
        """Write the rows, with ids that reads can name."""
        batches = range(1, ROWS + 1, 50)
        for first in batches:
            urls = [{"body": BODY, "n": n, "id": record_id(n)} for n in range(first, first + 50)]
            requests = [{"method": "POST", "url": "/api/collections/item/records", "body": row} for row in urls]
            await call(self.port, self.encode("POST", "/api/batch", {"requests": requests}))


def record_id(number: int) -> str:
    """Return the id of a row (they have 15 characters there)."""
    return f"{number:015d}"


@asynccontextmanager
async def pocketbase(folder: Path, programs: Path | None, *, fsync: bool = True) -> AsyncIterator[PocketBase]:
    """Start it in `folder`, with its collections and rows; `fsync=False` leaves it as it comes."""
    command, port = program("pocketbase", programs), free_port()
    folders = _prepare(command, folder, fsync=fsync)
    with server([command, "serve", "--http", f"127.0.0.1:{port}", *folders], port) as processes:
        credentials = {"identity": USER, "password": PASSWORD}
        path = "/api/collections/_superusers/auth-with-password"
        answer = await call(port, encode_request("POST", path, {}, credentials))
        peer = PocketBase(port, processes, answer["token"])
        await call(port, peer.encode("PATCH", "/api/settings", {"batch": {"enabled": True, "maxRequests": 50}}))
        for name, fields in (("item", ITEM), ("tick", TICK)):
            collection = {"name": name, "type": "base", "fields": fields}
            await call(port, peer.encode("POST", "/api/collections", collection))
        await peer.load()
        yield peer


def _prepare(command: str, folder: Path, *, fsync: bool) -> list[str]:
    """Make its folders and the superuser; return the options that name the folders."""
    data, hooks = folder / "data", folder / "hooks"
    hooks.mkdir(parents=True)
    if fsync:
        (hooks / "full.pb.js").write_text(FULL)
    options = ["--dir", str(data), "--hooksDir", str(hooks), "--migrationsDir", str(folder / "migrations")]
    subprocess.run([command, "superuser", "upsert", USER, PASSWORD, *options], check=True, capture_output=True)
    return options
