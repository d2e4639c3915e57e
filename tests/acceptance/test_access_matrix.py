"""Who gets past the door: every route, every action, own and other documents, tokens in every state and form."""

import itertools
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from api.adapter import Api
from api.auth import ANONYMOUS_ACTIONS, anonymous_principal
from api.gate import Gate
from api.routes import ANY_METHOD, DB_PARAMETER, Reply, Request, Route
from schemas.instants import later, now
from schemas.machine_token import SECRET_BYTES, format_token
from schemas.scopes import ACTIONS, NOT_IN_URLS
from tests.conftest import ServedNode, StartNats
from tests.control import ROOT_TOKEN, Served, served_control
from tests.route_table import every_route

OWN, OTHER = "own-document", "other-document"
FORMS = ("Bearer {}", "bearer {}", "token {}", "{}")
OTHER_FORMS = ("Basic {}", "Digest {}", "Bearer Bearer {}", "Bearer {0} {0}", "")
PASSED = 299
ROUTES = every_route()


async def passed(_: Request[Any]) -> Reply:
    """Stand for any handler: whoever gets here was let in."""
    return Reply(PASSED)


@dataclass(frozen=True)
class Door:
    """The whole route table behind the door of a control plane."""

    served: Served
    api: Api

    async def status(self, route: Route, db_id: str, *headers: tuple[str, str], query: str = "") -> int:
        """Return how a request to a route of one document is answered."""
        seen: list[int] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                seen.append(message["status"])

        names_it = {DB_PARAMETER, *re.findall(r"\{(\w+)\}", route.document)}
        path = re.sub(r"\{(\w+)(:\w+)?\}", lambda found: db_id if found[1] in names_it else "x", route.path)
        scope = {
            "type": "http",
            "method": "GET" if route.method == ANY_METHOD else route.method,
            "path": path,
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
        }
        await self.api(scope, receive, send)
        return seen[0]

    async def lets_in(self, route: Route, db_id: str, authorization: str) -> bool:
        """Say whether a request gets past the door."""
        status = await self.status(route, db_id, ("authorization", authorization))
        assert status in (PASSED, 401, 403)
        return status == PASSED


@asynccontextmanager
async def opened(start_nats: StartNats, directory: Path) -> AsyncIterator[Door]:
    async with served_control(await start_nats(), directory / "control") as served:
        await served.create(OWN)
        await served.create(OTHER)
        yield Door(
            served,
            Api([replace(route, handler=passed, body=None, streaming=False) for route in ROUTES], served.plane.access),
        )


@pytest.fixture
async def door(start_nats: StartNats, tmp_path: Path) -> AsyncIterator[Door]:
    async with opened(start_nats, tmp_path) as opened_door:
        yield opened_door


def expected(route: Route, action: str, pattern: str, db_id: str) -> bool:
    """Say from the table alone whether a scope of `action` on `pattern` opens a route of `db_id`."""
    if route.public:
        return True
    if action not in (route.scope if isinstance(route.scope, tuple) else (route.scope,)):
        return False
    if route.anywhere:
        return True
    return pattern in (("*", document_of(route, db_id)) if route.of_one_document else ("*",))


def document_of(route: Route, db_id: str) -> str:
    """Return the document that a route is about: `db_id`, unless it is always about the same one."""
    return route.document if route.document and "{" not in route.document else db_id


def routes_and_documents() -> Iterator[tuple[Route, str]]:
    for route in ROUTES:
        for db_id in (OWN, OTHER) if document_of(route, OWN) == OWN and route.of_one_document else (OWN,):
            yield route, db_id


@pytest.mark.parametrize("action", ACTIONS)
async def test_exactly_the_declared_scopes_open_a_route(door: Door, action: str) -> None:
    """PR6, P1.12: every route x every action x own and other document x token state x form of the header."""
    served = door.served
    states: dict[tuple[str, str], str] = {}
    for pattern, state in itertools.product((OWN, "*"), ("valid", "revoked", "expired")):
        expires_at = later(now(), 60) if state == "expired" else None
        minted = await served.mint((action, pattern), expires_at=expires_at)
        states[pattern, state] = minted["token"]
        if state == "revoked":
            reply = await served.ask("DELETE", f"/api/v1/admin/tokens/{minted['id']}")
            assert reply.status_code == 204
        assert (pattern, state) in states
    served.clock.ahead_s = 120

    wrong = []
    for (pattern, state), token in states.items():
        malformed = token[:-1] + ("0" if token[-1] != "0" else "1")
        for route, db_id in routes_and_documents():
            opens = expected(route, action, pattern, db_id)
            for form in FORMS:
                answer = await door.lets_in(route, db_id, form.format(token))
                if answer is not (route.public or (opens and state == "valid")):
                    wrong.append((state, pattern, form, route.method, route.path, db_id, answer))
            if await door.lets_in(route, db_id, f"Bearer {malformed}") is not route.public:
                wrong.append(("malformed", pattern, "", route.method, route.path, db_id, True))
    assert wrong == []


def first_segment(route: Route) -> str:
    """Return where the resource of a route begins, for the paths that are asked for here."""
    return re.sub(r"\{\w+\}", "x", route.resource).strip("/").partition("/")[0]


async def test_a_scope_below_a_resource_opens_only_what_lies_there(door: Door) -> None:
    """PR6, P1.12, G-27."""
    resources = {first_segment(route) for route in ROUTES if route.resource}
    for prefix in sorted(resources | {"quer", "elsewhere"}):
        scopes = [(action, OWN, prefix) for action in ACTIONS]
        token = (await door.served.mint(*scopes))["token"]
        for route, db_id in routes_and_documents():
            if route.public or route.anywhere:
                continue
            below = first_segment(route) == prefix
            opens = (below or route.below) and route.of_one_document and document_of(route, db_id) == OWN
            assert await door.lets_in(route, db_id, token) is opens, (prefix, route.path, db_id)


async def test_nothing_but_the_header_is_a_credential(door: Door) -> None:
    """PR6: another scheme, two tokens, two headers, a cookie, a query parameter: 401 even for the root token."""
    header = ("authorization", f"Bearer {ROOT_TOKEN}")
    for route in ROUTES:
        if route.public:
            continue
        assert await door.status(route, OWN, header) == PASSED
        assert await door.status(route, OWN) == 401
        assert await door.status(route, OWN, header, header) == 401
        assert await door.status(route, OWN, ("cookie", f"token={ROOT_TOKEN}")) == 401
        assert await door.status(route, OWN, query=f"token={ROOT_TOKEN}&access_token={ROOT_TOKEN}") == 401
        for form in OTHER_FORMS:
            assert await door.status(route, OWN, ("authorization", form.format(ROOT_TOKEN))) == 401, (route.path, form)


async def test_an_admin_may_everything_and_an_owner_everything_on_his_own(door: Door) -> None:
    """PR6, P1.12."""
    admin = (await door.served.mint(is_admin=True))["token"]
    owner = (await door.served.mint(("db.create", "belongs-*")))["token"]
    await door.served.create("belongs-to-me", owner)
    for route in ROUTES:
        assert await door.lets_in(route, OTHER, admin)
        if route.of_one_document:
            fixed = document_of(route, OTHER) != OTHER
            assert await door.lets_in(route, "belongs-to-me", owner) is not fixed
            assert not await door.lets_in(route, OTHER, owner)
        elif not route.public:
            assert await door.lets_in(route, OTHER, owner) is route.anywhere


async def test_a_name_that_is_none_is_refused_before_anything_else(door: Door) -> None:
    """P0.3: but not before it is known who asks."""
    for route in ROUTES:
        if DB_PARAMETER in route.path:
            for db_id in ("a b", "a*", "x" * 129, "...", "a\n", "%2e%2e"):
                assert await door.status(route, db_id, ("authorization", ROOT_TOKEN)) == 400, (route.path, db_id)
                assert await door.status(route, db_id) == 401


async def test_a_token_for_urls_opens_in_the_url_what_is_declared_so(door: Door) -> None:
    """PR6, A8: with the scope that the route needs, there and in the header; elsewhere a URL holds no credential."""
    for action in sorted(set(ACTIONS) - NOT_IN_URLS):
        token = (await door.served.mint((action, OWN), url=True))["token"]
        for route, db_id in routes_and_documents():
            if route.public:
                continue
            opens = expected(route, action, OWN, db_id)
            in_url = await door.status(route, db_id, query=f"token={token}")
            assert in_url == ((PASSED if opens else 403) if route.url_token else 401), (action, route.name, db_id)
            assert await door.lets_in(route, db_id, token) is opens, (action, route.name, db_id)


async def test_no_token_is_needed_where_the_table_and_the_node_say_so(door: Door) -> None:
    """PR6, A6: on the documents that the node names, for what the relay needs, and nowhere else."""
    nobody = anonymous_principal([OWN, "public"])
    gate = Gate(door.served.plane.access, anonymous=nobody)
    routes = [replace(route, handler=passed, body=None, streaming=False) for route in ROUTES]
    open_door = Door(door.served, Api(routes, door.served.plane.access, gate))
    for route, db_id in routes_and_documents():
        named = document_of(route, db_id) in (OWN, "public")
        opens = route.public or (route.anonymous and named and not {*ANONYMOUS_ACTIONS}.isdisjoint(route.actions))
        assert await open_door.status(route, db_id) == (PASSED if opens else 401), (route.name, db_id)
        assert await door.status(route, db_id) == (PASSED if route.public else 401)
        if not route.public:
            assert await open_door.status(route, db_id, ("authorization", "Bearer wrong")) == 401


async def test_a_random_token_opens_nothing(door: Door) -> None:
    """P1.10."""
    token = format_token(bytes(range(SECRET_BYTES)))
    for route in ROUTES:
        assert await door.lets_in(route, OWN, token) is route.public


async def test_the_table_has_every_route_that_a_node_serves(node: ServedNode) -> None:
    """PR6: what is missing here would not have been tested above."""
    async with httpx2.AsyncClient(headers={"authorization": f"Bearer {node.token}"}, timeout=60) as client:
        document = (await client.get(f"{node.url}/api/v1/openapi.json")).json()
    served = {(method, path) for path, item in document["paths"].items() for method in item}
    known = {
        ("get" if route.method == ANY_METHOD else route.method.lower(), re.sub(r"\{(\w+):\w+\}", r"{\1}", route.path))
        for route in ROUTES
    }
    optional = {("get", path) for path in ("/h", "/r", "/h/{rest}", "/r/{rest}")}  # there only with a key of hooks
    assert served == known - optional
