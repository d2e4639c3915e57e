"""How event streams end with the token that opened them: the client is told why, whatever the stream is of."""

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from api.routes import Route
from api.sse import CONTENT_TYPE
from forge.client.sse import ServerEvent, events
from tests.conftest import ServedNode
from tests.route_table import every_route

DB = "notes"
BODIES = {"POST /api/v1/db/{db_id}/query/watch": {"sql": "SELECT 1"}}
"""What those take that take a body."""
STREAMS = [route for route in every_route() if CONTENT_TYPE in route.media.get(200, ())]


@pytest_asyncio.fixture
async def client(node: ServedNode) -> AsyncIterator[httpx2.AsyncClient]:
    """Return a client of a node with one document."""
    async with httpx2.AsyncClient(
        base_url=node.url, headers={"authorization": f"Bearer {node.token}"}, timeout=30
    ) as client:
        assert (await client.post("/api/v1/db", json={"db_id": DB})).status_code == 201
        yield client


async def mint(client: httpx2.AsyncClient) -> Any:
    scopes = [{"db_id": DB, "action": action} for action in ("query.read", "pub.subscribe")]
    return (await client.post("/api/v1/admin/tokens", json={"label": "a reader", "scopes": scopes})).json()


def test_there_are_event_streams() -> None:
    """The table says which."""
    assert len(STREAMS) >= 3


@pytest.mark.parametrize("route", STREAMS, ids=lambda route: route.name)
async def test_an_event_stream_whose_token_ends_says_so(client: httpx2.AsyncClient, route: Route) -> None:
    """P1.7: by the same last event as any other end has, with a status that clients do not try again after."""
    minted = await mint(client)
    headers = {"authorization": f"Bearer {minted['token']}", "accept": CONTENT_TYPE}
    address = route.path.replace("{db_id}", DB)
    async with client.stream(route.method, address, json=BODIES.get(route.name), headers=headers) as response:
        assert response.status_code == 200
        assert (await client.delete(f"/api/v1/admin/tokens/{minted['id']}")).status_code == 204
        seen: list[ServerEvent] = [event async for event in events(response) if event.name]
    last = seen[-1]
    assert (last.name, last.data["status"], last.data["type"]) == ("error", 401, "urn:forge:problem:unauthenticated")
    assert last.data["request_id"] == response.headers["x-request-id"]
    assert [event.name for event in seen].count("error") == 1
