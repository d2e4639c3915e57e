"""Routes that learn their resource from the body, and those whose document has no place in the path."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from api.routes import Reply, Request, Route
from tests.conftest import StartNats
from tests.control import served_control


class Named(BaseModel):
    topic: str


async def publish(request: Request[Named]) -> Reply:
    request.require("pub.publish", request.body.topic)
    return Reply(200, {"db_id": request.db_id})


async def alias(request: Request[Any]) -> Reply:
    request.require("stream.write", request.params["rest"])
    return Reply(200, {"db_id": request.db_id})


ROUTES = [
    Route("POST", "/api/v1/db/{db_id}/things", ("pub.publish", "pub.subscribe"), publish, body=Named, below=True),
    Route("POST", "/u/{user}/{rest:path}", "stream.write", alias, below=True, document="{user}"),
    Route("POST", "/public/{rest:path}", "stream.write", alias, below=True, document="public"),
]


async def test_who_may_do_it_on_some_resource_is_let_in_and_the_handler_decides(
    start_nats: StartNats, tmp_path: Path
) -> None:
    """PR6, P1.12: a body names the topic, and what was let in is asked again for exactly that one."""
    async with served_control(await start_nats(), tmp_path, ROUTES) as served:
        await served.create("home")
        await served.create("other")
        token = (await served.mint(("pub.publish", "home", "jobs")))["token"]

        async def status(db_id: str, topic: str, by: str = token) -> int:
            reply = await served.ask("POST", f"/api/v1/db/{db_id}/things", by, json={"topic": topic})
            if reply.status_code == 403:
                assert 'error="insufficient_scope"' in reply.headers["www-authenticate"]
                assert "pub.publish" in reply.json()["detail"]
            return reply.status_code

        assert await status("home", "jobs/1") == 200
        assert await status("home", "jobs") == 200
        assert await status("home", "jobs2") == 403
        assert await status("home", "/jobs/1") == 403
        assert await status("other", "jobs/1") == 403
        subscriber = (await served.mint(("pub.subscribe", "home")))["token"]
        assert await status("home", "jobs/1", subscriber) == 403
        reader = (await served.mint(("query.read", "home")))["token"]
        assert await status("home", "jobs/1", reader) == 403


async def test_a_route_may_stand_for_a_document(start_nats: StartNats, tmp_path: Path) -> None:
    """P4.10, A1, A2: `/u/USER` is about the document USER; what is no name of a document is not there."""
    async with served_control(await start_nats(), tmp_path, ROUTES) as served:
        token = (await served.mint(("stream.write", "mia", "queue")))["token"]
        reply = await served.ask("POST", "/u/mia/queue/jobs", token)
        assert (reply.status_code, reply.json()) == (200, {"db_id": "mia"})
        assert (await served.ask("POST", "/u/mia/other", token)).status_code == 403
        assert (await served.ask("POST", "/u/tom/queue/jobs", token)).status_code == 403
        assert (await served.ask("POST", "/public/queue/jobs", token)).status_code == 403
        assert (await served.ask("POST", "/u/a*/queue/jobs", token)).status_code == 404
        assert (await served.ask("POST", "/public/queue/jobs")).json() == {"db_id": "public"}
