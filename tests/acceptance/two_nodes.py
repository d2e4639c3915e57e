"""Two nodes with data directories of their own and one prefix, and what each of them says."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import httpx2

from events.archive import Archive
from events.objects.s3 import S3Store
from forge.stack.weed import Weed
from schemas.ids import Position
from tests.acceptance.conftest import StartNode
from tests.acceptance.node_process import NodeProcess
from tests.s3_stores import s3_environ
from workers.standby.changes import NOTHING, marks

DB = "notes"
WAIT_S = 150.0
LOOK_S = 0.1
SEAL_S = 2.0  # what was answered within that before the node stopped is not archived
LEASE_S = 15.0  # long enough for a machine that stalls for some seconds: only what a test does may end a lease
LEASE = {"FORGE_LEASE_DURATION_S": str(LEASE_S), "FORGE_LEASE_RENEW_S": "1", "FORGE_LEASE_MARGIN_S": "1"}
QUIET_S = 3.0  # several renewals and polls


def environ(weed: Weed, prefix: str, *, port: int | None = None) -> dict[str, str]:
    """Return the settings of nodes that share `prefix`; `port` is that of a proxy in front of the store."""
    own = {"FORGE_ARCHIVE_SEAL_S": str(SEAL_S), "FORGE_STANDBY_POLL_S": "0.2", "FORGE_GENERATION_RECORDS": "1000000"}
    return s3_environ(weed, prefix=prefix, port=port) | LEASE | own


async def sql(node: NodeProcess, statement: str, *args: Any) -> httpx2.Response:
    """Run one statement on a node; return whatever it answers."""
    async with node.http() as http:
        return await http.post(f"/api/v1/db/{DB}/query/exec", json={"sql": statement, "args": list(args)})


async def note(node: NodeProcess, text: str) -> Position:
    """Write a note; return where it stands."""
    answer = await sql(node, "INSERT INTO note VALUES (?)", text)
    assert answer.status_code == 200, answer.text
    return Position.parse(answer.headers["forge-position"])


async def notes(node: NodeProcess) -> list[str] | None:
    """Return the notes of a node, None while it cannot tell."""
    try:
        answer = await sql(node, "SELECT text FROM note ORDER BY rowid")
    except httpx2.TransportError:
        return None
    return [row[0] for row in answer.json()["rows"]] if answer.status_code == 200 else None


async def status(node: NodeProcess) -> dict[str, Any]:
    """Return what a node says of its lease; empty while it says nothing."""
    try:
        async with node.http() as http:
            answer = await http.get("/status")
    except httpx2.TransportError:
        return {}
    return dict(answer.json().get("writer") or {}) if answer.status_code == 200 else {}


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """Wait until `condition` holds."""
    try:
        async with asyncio.timeout(WAIT_S):
            while not await condition():  # noqa: ASYNC110 - other processes have no event to wait for
                await asyncio.sleep(LOOK_S)
    except TimeoutError:
        raise AssertionError(f"not within {WAIT_S:g} s: {what}") from None


async def until_writer(node: NodeProcess) -> None:
    """Wait until a node takes writes."""

    async def writes() -> bool:
        return (await status(node)).get("writes") is True

    await until(writes, "it is the writer")


async def until_standby(node: NodeProcess) -> None:
    """Wait until a node says that it is a standby."""

    async def stands_by() -> bool:
        return (await status(node)).get("role") == "standby"

    await until(stands_by, "it is a standby")


async def until_notes(node: NodeProcess, wanted: list[str]) -> None:
    """Wait until a node reads `wanted`."""

    async def reads() -> bool:
        return await notes(node) == wanted

    await until(reads, f"it reads {wanted}")


async def started(
    start_node: StartNode,
    weed: Weed,
    prefix: str,
    *,
    port: int | None = None,
    extra: Mapping[str, str] | None = None,
) -> NodeProcess:
    """Return a node that is the writer and has a document."""
    node = await start_node(extra=environ(weed, prefix, port=port) | dict(extra or {}))
    async with node.client() as client:
        await client.documents.create(DB)
    assert (await sql(node, "CREATE TABLE note (text)")).status_code == 200
    return node


async def everything(store: S3Store, prefix: str) -> dict[str, tuple[str, bytes]]:
    """Return all objects below a prefix, with their versions and bytes."""
    found: dict[str, tuple[str, bytes]] = {}
    after = ""
    while page := await store.list(f"{prefix}/", after=after):
        for listed in page:
            one = await store.get(listed.key)
            found[listed.key] = (one.tag, one.data)
        after = page[-1].key
    return found


async def until_archived(node: NodeProcess, archive: Archive) -> None:
    """Wait until a node has archived everything, and its marks say that nothing more is to be told."""
    await until_caught_up(node)

    async def quiet() -> bool:
        return all(mark.busy == () for mark in (await marks(archive)).values() if mark != NOTHING)

    await until(quiet, "all of it is told")


async def until_caught_up(node: NodeProcess) -> None:
    """Wait until a node has archived everything."""

    async def archived() -> bool:
        async with node.client() as client:
            said = await client.replicate_status()
        return all(stream["lag_records"] == 0 for stream in said["streams"])

    await until(archived, "everything is archived")
