"""`If-Fence` on every route that changes a document: who has lost the lease changes nothing."""

import re
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from api.inputs import IF_FENCE
from api.routes import Route
from schemas.clone import CloneRequest
from schemas.fences import FENCES_MAX
from schemas.lease_bodies import AcquireRequest, ReleaseRequest, RenewRequest
from schemas.publishing import RetentionRequest
from schemas.query import BatchRequest, ExecRequest
from schemas.registry import RenameRequest
from schemas.sync import PushBody
from schemas.webhook_endpoints import EndpointRequest
from tests.conftest import ServedNode
from tests.route_table import every_route

DB = "notes"
NOT_CHANGING = {
    "POST /api/v1/db/{db_id}/query/watch": "reads",
    "PUT /api/v1/db/{db_id}/replicas/{replica_id}": "says where a copy stands",
    "POST /api/v1/db/{db_id}/replicas/{replica_id}/evict": "gives up a copy",
    "POST /api/v1/db/{db_id}/replicas/{replica_id}/reseed": "has a copy made anew",
}
"""Routes of a document that are no GET and change nothing of it that lasts, each with the reason."""
BODIES: dict[type[Any] | None, Any] = {
    None: None,
    ExecRequest: {"sql": "CREATE TABLE made (a)"},
    BatchRequest: {"statements": [{"sql": "CREATE TABLE made (a)"}]},
    RenameRequest: {"name": "made"},
    PushBody: {"base": "1.1", "changeset": ""},
    CloneRequest: {"db_id": "made"},
    RetentionRequest: {"max_count": 1},
    EndpointRequest: {},
    AcquireRequest: {"resource": "r", "owner": "o"},
    RenewRequest: {"resource": "r", "owner": "o", "token": "t"},
    ReleaseRequest: {"resource": "r", "owner": "o", "token": "t"},
}
"""What each of them takes; a body of a new kind is put here, so that its route is tried too."""
STREAMED = {"POST /api/v1/db/{db_id}/messages/batch": b'{"messages": [{"topic": "t", "payload": 1}]}'}
"""What those take that read their body themselves; `made` if it does not matter."""


def changing() -> list[Route]:
    """Return the routes that change a document."""
    return [
        route
        for route in every_route()
        if route.of_one_document
        and route.method not in ("GET", "HEAD")
        and route.name not in NOT_CHANGING
        and not all(action.startswith("stream.") for action in route.actions)  # what is relayed, see below
    ]


def at(route: Route) -> str:
    """Return an address of a route, in the document."""
    return re.sub(r"\{(\w+)(:\w+)?\}", lambda found: DB if found[1] in ("db_id", "user") else "x", route.path)


@pytest_asyncio.fixture
async def client(node: ServedNode) -> AsyncIterator[httpx2.AsyncClient]:
    """Return a client of a node with one document, in which nobody has leased anything."""
    async with httpx2.AsyncClient(
        base_url=node.url, headers={"authorization": f"Bearer {node.token}"}, timeout=30
    ) as client:
        assert (await client.post("/api/v1/db", json={"db_id": DB})).status_code == 201
        assert (await _exec(client, "CREATE TABLE t (a)")).status_code == 200
        yield client


async def _exec(client: httpx2.AsyncClient, sql: str, **headers: str) -> httpx2.Response:
    return await client.post(
        f"/api/v1/db/{DB}/query/exec",
        json={"sql": sql},
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )


async def test_every_route_that_changes_a_document_refuses_a_stale_fence(client: httpx2.AsyncClient) -> None:
    """P6.7: and changes nothing, be it decided in the document or in the control plane."""
    routes = changing()
    assert len(routes) >= 9
    before = (await client.get(f"/api/v1/db/{DB}")).json()
    position = (await _exec(client, "SELECT 1")).headers["forge-position"]
    for route in routes:
        assert IF_FENCE in route.inputs, f"{route.name} does not declare If-Fence"
        path = at(route)
        body = {"content": STREAMED.get(route.name, b"made")} if route.streaming else {"json": BODIES[route.body]}
        answer = await client.request(route.method, path, headers={"If-Fence": "jobs/nightly=1"}, **body)
        assert answer.status_code == 412, (route.name, answer.text)
        assert answer.json()["type"] == "urn:forge:problem:stale-fence", route.name
        answer = await client.request(route.method, path, headers={"If-Fence": "jobs/nightly"}, **body)
        assert answer.status_code == 400, (route.name, answer.text)

    assert (await client.get(f"/api/v1/db/{DB}")).json() == before
    assert (await _exec(client, "SELECT 1")).headers["forge-position"] == position
    assert (await client.get("/api/v1/db/made")).status_code == 404


async def test_a_route_that_looks_at_no_fence_takes_none(client: httpx2.AsyncClient) -> None:
    """P6.7: a fence that nobody checks must not pass for one that holds, on a watch, any other read, or elsewhere."""
    keyed = ("/h", "/r")  # there only if the node has a key for hooks
    routes = [route for route in every_route() if IF_FENCE not in route.inputs and route.path not in keyed]
    assert NOT_CHANGING.keys() <= {route.name for route in routes}
    for route in routes:
        method = "POST" if route.method == "*" else route.method
        answer = await client.request(method, at(route), headers={"If-Fence": "jobs/nightly=1"})
        assert answer.status_code == 400, (route.name, answer.text)
        if method != "HEAD":
            assert answer.json()["field"] == "If-Fence", route.name


async def test_what_is_relayed_rests_on_a_lease_only_if_it_is_stored(client: httpx2.AsyncClient) -> None:
    """P6.7: a fence is for what `?tee=` stores."""
    queue, fence = f"/api/v1/db/{DB}/streams/queue/q", {"If-Fence": "jobs/nightly=1"}
    for method, path, status in (
        ("POST", f"{queue}?tee=sent", 412),
        ("POST", queue, 400),
        ("POST", f"/u/{DB}/q", 400),
        ("GET", f"/u/{DB}/q", 400),
        ("GET", f"{queue}/next", 400),
    ):
        assert (await client.request(method, path, headers=fence)).status_code == status, (method, path)


@pytest.mark.parametrize(
    "wrong", ["", ",", "jobs", "jobs=", "=1", "jobs=0", "jobs=-1", "jobs=1.5", "a b=1", "jobs=1,", "jobs=" + "9" * 19]
)
async def test_what_is_no_fence_is_refused(client: httpx2.AsyncClient, wrong: str) -> None:
    """P6.7: a fence that nobody can read must not pass for none."""
    answer = await _exec(client, "INSERT INTO t VALUES (1)", if_fence=wrong)

    assert answer.status_code == 400
    assert answer.json()["field"] == "If-Fence"


async def test_fences_are_bounded_and_repeatable(client: httpx2.AsyncClient) -> None:
    """PR7, P6.7: in one header or several, each counts."""
    many = ",".join(f"r/{number}=1" for number in range(FENCES_MAX + 1))
    assert (await _exec(client, "INSERT INTO t VALUES (1)", if_fence=many)).status_code == 400
    url, body = f"/api/v1/db/{DB}/query/exec", {"sql": "INSERT INTO t VALUES (1)"}
    lines = [("If-Fence", "a=1"), ("If-Fence", "what is this")]
    assert (await client.post(url, json=body, headers=lines)).status_code == 400


async def test_a_read_with_a_fence_is_refused_like_a_change(client: httpx2.AsyncClient) -> None:
    """P6.7: one that cannot be, because it is of the past or a stream, says so."""
    assert (await _exec(client, "SELECT 1", if_fence="jobs=1")).status_code == 412
    assert (await _exec(client, "SELECT 1", if_fence="jobs=1", accept="application/x-ndjson")).status_code == 400
    answer = await client.post(
        f"/api/v1/db/{DB}/query/exec?at=1.1", json={"sql": "SELECT 1"}, headers={"If-Fence": "jobs=1"}
    )
    assert answer.status_code == 400


async def test_a_fence_of_a_document_that_never_was(client: httpx2.AsyncClient) -> None:
    """P6.7, P0.3: asking makes no file."""
    answer = await client.post("/api/v1/db/nothing/archive", headers={"If-Fence": "jobs=1"})
    assert answer.status_code == 404
