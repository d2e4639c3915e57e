"""What passes through the relay is stored as a message too, if its sender asks for it."""

import asyncio

import httpx2

from tests.acceptance.asking import until
from tests.acceptance.conftest import StartNode

QUEUE = "/api/v1/db/home/streams/queue/jobs"
MESSAGES = "SELECT id, topic, payload, content_type FROM messages"


async def rows(http: httpx2.AsyncClient) -> list[list[object]]:
    answer = await http.post("/api/v1/db/home/query/exec", json={"sql": MESSAGES})
    return list(answer.json()["rows"])


async def waiting(http: httpx2.AsyncClient) -> bool:
    return 'forge_relay_waiting{side="receivers"} 1.0' in (await http.get("/metrics")).text


async def test_a_relayed_body_is_stored_before_it_is_offered(start_node: StartNode) -> None:
    """Issue: tee. The id of the message is told; a message too large for that is refused before anybody is given it."""
    node = await start_node()
    async with node.http() as http:
        await http.post("/api/v1/db", json={"db_id": "home"})
        consumer = asyncio.create_task(http.get(f"{QUEUE}/next"))
        await until(lambda: waiting(http), "a consumer waits")

        large = await http.post(f"{QUEUE}?tee=jobs/all", content=bytes((1 << 20) + 1))
        assert large.status_code == 413
        assert not consumer.done()

        text = {"content-type": "text/plain"}
        sent = await http.post(f"{QUEUE}?tee=jobs/all", content=b"encode 12", headers=text)
        assert (sent.status_code, sent.headers["forge-message-id"]) == (200, "1")
        assert (await consumer).content == b"encode 12"

        nobody = await http.post(f"{QUEUE}?pubsub&tee=jobs/all", content=b"to all", headers=text)
        assert (nobody.headers["forge-message-id"], nobody.headers["patch-delivered"]) == ("2", "0")
        assert await rows(http) == [
            [1, "jobs/all", "encode 12", "text/plain"],
            [2, "jobs/all", "to all", "text/plain"],
        ]


async def test_storing_needs_the_right_to_publish(start_node: StartNode) -> None:
    """P4.11: whoever may only relay stores nothing, and a topic is checked before anything is read."""
    node = await start_node()
    async with node.http() as http:
        await http.post("/api/v1/db", json={"db_id": "home"})
        scopes = [
            {"db_id": "home", "action": "stream.write"},
            {"db_id": "home", "action": "pub.publish", "resource_prefix": "jobs"},
        ]
        minted = await http.post("/api/v1/admin/tokens", json={"label": "relay", "scopes": scopes})
        caller = {"authorization": f"Bearer {minted.json()['token']}"}

        for topic, status in (("other", 403), ("a/+", 403), ("jobs/%2B", 400), ("jobs/1", 200)):
            sent = await http.post(f"{QUEUE}?pubsub&tee={topic}", content=b"x", headers=caller)
            assert (topic, sent.status_code) == (topic, status)
        assert [row[1] for row in await rows(http)] == ["jobs/1"]
