"""The users of the embedded nats-server: what each may do, proved by trying everything as each."""

import re
from contextlib import suppress
from typing import Any

import pytest

from forge.stack.nats import NatsServer
from tests.conftest import StartNats
from tests.nats_client import SUBJECT, add_stream, connected, flushed
from tests.waiting import until

REFUSAL = re.compile(r'permissions violation for (publish|subscription) to "([^"]+)"')
PUBLISH = {
    "forge.log.vector.0": "log",
    "forge.live.vector.0": "log live",
    "forge.cmd.vector.0": "live client",
    "_INBOX_log.x": "",
    "_INBOX_read.x": "",
    "_INBOX_live.x": "live",
    "_INBOX_client.x": "live",
    "$JS.API.INFO": "admin log read",
    "$JS.API.STREAM.CREATE.X": "admin",
    "$JS.API.STREAM.UPDATE.FORGE_VECTOR": "admin",
    "$JS.API.STREAM.DELETE.FORGE_VECTOR": "",
    "$JS.API.STREAM.PURGE.FORGE_VECTOR": "admin",
    "$JS.API.STREAM.MSG.DELETE.FORGE_VECTOR": "",
    "$JS.API.STREAM.RESTORE.FORGE_VECTOR": "",
    "$JS.API.STREAM.INFO.FORGE_VECTOR": "admin log read",
    "$JS.API.STREAM.MSG.GET.FORGE_VECTOR": "log read",
    "$JS.API.DIRECT.GET.FORGE_VECTOR": "log read",
    "$JS.API.DIRECT.GET.FORGE_VECTOR.forge.log.vector.0": "log read",
    "$JS.API.CONSUMER.CREATE.FORGE_VECTOR": "",
    "$JS.API.CONSUMER.CREATE.FORGE_VECTOR.spy.>": "",
    "$JS.API.CONSUMER.DURABLE.CREATE.FORGE_VECTOR.spy": "",
    "$SYS.REQ.SERVER.PING": "",
    "anything.else": "",
}
SUBSCRIBE = {
    "forge.log.>": "",
    "forge.log.vector.0": "",
    "forge.>": "",
    ">": "",
    "*.log.>": "",
    "$JS.>": "",
    "$SYS.>": "",
    "forge.live.>": "read live",
    "forge.cmd.>": "live",
    "_INBOX_log.>": "log",
    "_INBOX_read.>": "read",
    "_INBOX_live.>": "live",
    "_INBOX_admin.>": "admin",
    "_INBOX_client.>": "client",
    "_INBOX.>": "",
}


@pytest.mark.parametrize("user", ["admin", "log", "read", "live", "client"])
async def test_each_user_may_do_what_its_part_needs_and_nothing_else(nats_server: NatsServer, user: str) -> None:
    """PR6, G9: only `log` appends, only `admin` purges, nobody deletes, hears the log or the answers of another."""
    url = getattr(nats_server, f"{user}_url")
    errors: list[Exception] = []
    expected = {("publish", s.lower()) for s, users in PUBLISH.items() if user not in users.split()}
    expected |= {("subscription", s.lower()) for s, users in SUBSCRIBE.items() if user not in users.split()}

    def refused() -> set[tuple[str, ...]]:
        found = (REFUSAL.search(str(error).lower()) for error in errors)
        return {match.groups() if match else ("not a refusal",) for match in found}

    async with connected(url, errors=errors) as client:
        for subject in PUBLISH:
            await client.publish(subject, b"{}")
        for subject in SUBSCRIBE:
            await client.subscribe(subject)
        await flushed(client)  # every refusal comes before the answer to this ping
        with suppress(AssertionError):  # the comparison below says more
            await until(lambda: refused() == expected, within_s=60)

        assert refused() == expected


async def test_followers_read_in_batches_with_their_own_user(start_nats: StartNats) -> None:
    """The grants are enough: append, batched direct get, last by subject, hint, command and answer."""
    server = await start_nats()
    await add_stream(server)
    async with (
        connected(server.log_url) as log,
        connected(server.read_url) as read,
        connected(server.live_url) as live,
    ):
        for body in (b"1", b"2", b"3"):
            await log.jetstream().publish(SUBJECT, body)
        inbox = await read.subscribe(read.new_inbox())
        request = b'{"seq":2,"batch":10,"next_by_subj":"forge.log.vector.0"}'
        await read.publish("$JS.API.DIRECT.GET.FORGE_VECTOR", request, reply=inbox.subject)
        batch = [(await inbox.next_msg(60)).data for _ in range(2)]
        last = await read.jetstream().get_last_msg("FORGE_VECTOR", SUBJECT, direct=True)
        hints = await live.subscribe("forge.live.>")

        async def answer(message: Any) -> None:
            await message.respond(b"done")

        await live.subscribe("forge.cmd.>", cb=answer)
        await flushed(live)
        await log.publish("forge.live.vector.0", b"1.3")

        assert batch == [b"2", b"3"]
        assert last.data == b"3"
        assert (await hints.next_msg(60)).data == b"1.3"
        assert (await live.request("forge.cmd.vector.0", b"{}", timeout=60)).data == b"done"
