"""The NATS door: who may send which command to a document or to the control plane."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client

from api.door import COMMANDS_BYTES_MAX, CommandDoor
from projectors.document.domain import document_partition
from schemas.document import RunSql, Statement
from schemas.door import CommandReply, CommandRequest
from schemas.ids import PartitionId
from tests.conftest import StartNats
from tests.control import ROOT_TOKEN, Served, served_control
from tests.nats_client import connected

CONTROL = PartitionId("control")


@dataclass(frozen=True)
class Door:
    """A door on a served control plane, and somebody on NATS in front of it."""

    served: Served
    client: Client
    serving: CommandDoor

    async def send(self, partition: PartitionId, name: str, token: str, **command: Any) -> CommandReply:
        """Send a command and return the reply."""
        request = CommandRequest(token=token, name=name, command=command)
        message = await self.client.request(partition.command_subject, request.model_dump_json().encode(), timeout=90)
        return CommandReply.model_validate_json(message.data)

    async def status(self, partition: PartitionId, name: str, token: str, **command: Any) -> int:
        """Send a command; return 200 or the status of the problem."""
        reply = await self.send(partition, name, token, **command)
        return reply.problem.status if reply.problem else 200


@pytest.fixture
async def door(start_nats: StartNats, tmp_path: Path) -> AsyncIterator[Door]:
    server = await start_nats()
    async with served_control(server, tmp_path / "control") as served, connected(server.live_url) as client:
        await served.create("notes")
        serving = CommandDoor(server.live_url, served.partitions, served.plane.access, served.plane.registry)
        await serving.start()
        try:
            yield Door(served, client, serving)
        finally:
            await serving.stop()


def sql(text: str, *classes: str) -> dict[str, Any]:
    return {"statements": [{"sql": text}], "classes": classes}


async def test_sql_needs_the_scope_of_each_class_that_it_claims(door: Door) -> None:
    """PR6: also below a resource, and only on that document."""
    partition = document_partition("notes")
    writer = (await door.served.mint(("query.read", "notes"), ("query.write", "notes", "query")))["token"]
    create, insert = sql("CREATE TABLE t (a)", "admin"), sql("INSERT INTO t VALUES (1)", "write")

    assert await door.status(partition, "RunSql", writer, **create) == 403
    assert await door.status(partition, "RunSql", ROOT_TOKEN, **create) == 200
    assert await door.status(partition, "RunSql", writer, **insert) == 200
    assert await door.status(partition, "RunSql", writer, **sql("SELECT 1", "read", "write", "admin")) == 403
    assert await door.status(document_partition("other"), "RunSql", writer, **insert) == 403
    assert await door.status(partition, "RunSql", "forge_nobody", **insert) == 401
    changes = {"base": "1.0", "changeset": ""}
    assert await door.status(partition, "PushChanges", writer, **changes) == 403  # its scope ends at query


async def test_a_document_that_takes_no_writes_takes_none_by_nats(door: Door) -> None:
    """PR6: whichever way they come."""
    partition = document_partition("notes")
    insert = sql("CREATE TABLE t (a)", "admin")
    await door.served.ask("POST", "/api/v1/db/notes/archive")
    assert await door.status(partition, "RunSql", ROOT_TOKEN, **insert) == 409
    await door.served.ask("DELETE", "/api/v1/db/notes")
    assert await door.status(partition, "RunSql", ROOT_TOKEN, **insert) == 410
    assert await door.status(document_partition("never-made"), "RunSql", ROOT_TOKEN, **insert) == 404


async def test_everything_else_is_for_admins(door: Door) -> None:
    """PR6: and an admin speaks for himself."""
    everything = (await door.served.mint(("admin.token", "*"), ("db.create", "*"), ("query.admin", "*")))["token"]
    admin = await door.served.mint(is_admin=True)
    by_admin = {"db_id": "made", "by": f"token:{admin['id']}"}

    assert await door.status(CONTROL, "CreateDocument", everything, db_id="x", by="root") == 403
    assert await door.status(CONTROL, "CreateDocument", admin["token"], db_id="x", by="root") == 403
    assert await door.status(CONTROL, "CreateDocument", admin["token"], **by_admin) == 200
    assert await door.status(CONTROL, "CreateDocument", admin["token"], **by_admin | {"db_id": "../x"}) == 400
    assert await door.status(CONTROL, "NoSuchCommand", admin["token"]) == 404
    assert await door.status(CONTROL, "CreateDocument", admin["token"], db_id="x", secret=1, by="root") == 400


async def test_typed_commands_need_the_scope_of_their_resource(door: Door) -> None:
    """PR6: each topic and lease; what only Forge does by itself is for admins.

    So are webhooks: whoever may send them by HTTP must not get past the check of their signature here.
    """
    notes = document_partition("notes")
    scopes = (("pub.publish", "notes", "a"), ("lease.acquire", "notes", "jobs"), ("webhook.ingest", "notes", "hook"))
    token = (await door.served.mint(*scopes))["token"]
    message = {"topic": "a/b", "payload": "aGk="}
    lease = {"resource": "jobs/1", "owner": "ada", "token_hash": "0" * 64}
    hook = {"endpoint": "hook/x", "method": "POST", "payload": ""}

    assert await door.status(notes, "PublishMessages", token, messages=[message]) == 200
    assert await door.status(notes, "PublishMessages", token, messages=[message, {**message, "topic": "b"}]) == 403
    assert await door.status(notes, "AcquireLease", token, **lease) == 200
    assert await door.status(notes, "AcquireLease", token, **lease | {"resource": "other"}) == 403
    assert await door.status(notes, "AcquireLease", token, **lease | {"resource": "jobs/2", "by": "root"}) == 403
    assert await door.status(notes, "RenewLease", token, **lease) == 403
    assert await door.status(notes, "ReceiveWebhook", token, **hook) == 403
    assert await door.status(notes, "PruneMessages", token, max_count=1) == 403
    assert await door.status(notes, "PrepareSystem", token) == 403
    assert await door.status(notes, "PruneMessages", ROOT_TOKEN, max_count=1) == 200


async def test_what_is_no_command_request_is_answered_with_why(door: Door) -> None:
    """PR6, PR7: whatever bytes come, somebody hears what is wrong with them."""
    subject = document_partition("notes").command_subject
    for body in (b"", b"\xff", b"[]", b'{"token": 1}', b'{"token": "x", "name": "RunSql", "command": {}, "more": 1}'):
        reply = CommandReply.model_validate_json((await door.client.request(subject, body, timeout=20)).data)
        assert reply.problem is not None
        assert reply.problem.status == 400
        assert "not a command request" in reply.problem.detail
        assert "http" not in reply.problem.detail, "what the library says of itself"


async def test_commands_that_arrived_are_answered_when_the_door_stops(door: Door) -> None:
    """PR3: else their callers would not know, and wait in vain."""
    partition = document_partition("notes")
    await door.send(partition, "RunSql", ROOT_TOKEN, **sql("CREATE TABLE t (a)", "admin"))
    insert = sql("INSERT INTO t VALUES (1)", "write")
    first = asyncio.create_task(door.send(partition, "RunSql", ROOT_TOKEN, **insert))
    more = [asyncio.create_task(door.send(partition, "RunSql", ROOT_TOKEN, **insert)) for _ in range(100)]
    await first
    await door.serving.stop()
    answered = [one for one in await asyncio.gather(*more, return_exceptions=True) if isinstance(one, CommandReply)]
    assert answered
    assert all(one.problem is None for one in answered)
    count = RunSql(statements=(Statement(sql="SELECT count(*) FROM t"),), classes=("read",))
    counted = await door.served.partitions.submit(partition, count, principal="root")
    assert counted.value["results"][0]["rows"] == [(1 + len(answered),)]


async def test_what_is_decided_at_once_is_bounded_in_bytes(door: Door) -> None:
    """PR7: large commands wait for each other, and each is answered."""
    notes = document_partition("notes")
    await door.send(notes, "RunSql", ROOT_TOKEN, **sql("CREATE TABLE t (a)", "admin"))
    seen = 0

    async def look() -> None:
        nonlocal seen
        while True:
            seen = max(seen, door.serving.taken_bytes)
            await asyncio.sleep(0.002)

    looking = asyncio.create_task(look())
    large = {"statements": [{"sql": "INSERT INTO t VALUES (?)", "args": ["x" * (7 << 20)]}], "classes": ["write"]}
    replies = await asyncio.gather(*(door.send(notes, "RunSql", ROOT_TOKEN, **large) for _ in range(10)))
    looking.cancel()

    assert [reply.problem for reply in replies] == [None] * 10
    assert 7 << 20 < seen <= COMMANDS_BYTES_MAX
    assert door.serving.taken_bytes == 0
