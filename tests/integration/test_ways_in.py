"""Ways in beside the header: tokens in URLs, and documents that need none; and whose address it is that asks."""

import io
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import structlog

from api.app import build_app
from api.client_address import Proxies
from api.origins import Origins
from api.rates import Rate, Rates
from api.routes import Reply, Request, Route
from api.server import Server
from forge.logs import configure_logs
from schemas.scopes import NOT_IN_URLS
from tests.conftest import StartNats
from tests.control import ROOT_TOKEN, Served, served_control


async def told(request: Request[Any]) -> Reply:
    return Reply(200, {"by": request.caller.name, "from": request.client_address, "db_id": request.db_id})


RELAY = "/api/v1/db/{db_id}/relay/{topic}"
ROUTES = [
    Route("GET", RELAY, "stream.read", told, resource="queue/{topic}", url_token=True, anonymous=True),
    Route("GET", "/u/{user}/{topic}", "stream.read", told, document="{user}", below=True, anonymous=True),
    Route("GET", "/api/v1/db/{db_id}/hook", "webhook.ingest", told, url_token=True),
    Route("GET", "/api/v1/db/{db_id}/secret", "stream.read", told),
]


@asynccontextmanager
async def opened(served: Served, **options: Any) -> AsyncIterator[str]:
    """Serve the routes once more, with other ways in."""
    app = build_app(ROUTES, authoriser=served.plane.access, **options)
    server = Server(app, "127.0.0.1", 0, shutdown_s=5)
    host, port = await server.start()
    try:
        yield f"http://{host}:{port}"
    finally:
        await server.stop()


async def test_a_token_for_urls_opens_what_it_is_for(start_nats: StartNats, tmp_path: Path) -> None:
    """P1.9, A8: narrow tokens in the URL where a route takes them, and in the header; no other token there."""
    async with served_control(await start_nats(), tmp_path, ROUTES) as served:
        await served.create("home")
        minted = await served.mint(("stream.read", "home"), url=True)
        token, ordinary = minted["token"], (await served.mint(("stream.read", "home")))["token"]
        assert minted["url"] is True

        async def ask(path: str, **options: Any) -> httpx2.Response:
            return await served.client.get(served.url + path, **options)

        assert (await ask(f"/api/v1/db/home/relay/jobs?token={token}")).json()["by"] == f"token:{minted['id']}"
        assert (await served.ask("GET", "/api/v1/db/home/relay/jobs", token)).status_code == 200
        assert (await served.ask("GET", "/api/v1/db/home/secret", token)).status_code == 200
        assert (await ask(f"/api/v1/db/home/hook?token={token}")).status_code == 403
        assert (await ask(f"/api/v1/db/home/secret?token={token}")).status_code == 401
        assert (await ask(f"/api/v1/db/home/relay/jobs?token={token}&token={token}")).status_code == 401
        wrong = {"authorization": "Bearer wrong"}
        assert (await ask(f"/api/v1/db/home/relay/jobs?token={token}", headers=wrong)).status_code == 401
        misspelt = token[:-1] + ("1" if token[-1] == "0" else "0")
        for other in (ordinary, ROOT_TOKEN, "wrong", "", misspelt, "a b c"):
            refused = await ask(f"/api/v1/db/home/relay/jobs?token={other}")
            assert refused.status_code == 401
            assert 'error="invalid_token"' in refused.headers["www-authenticate"]
            if other in (ordinary, ROOT_TOKEN):
                assert "not for URLs" in refused.json()["detail"]
        await served.ask("DELETE", f"/api/v1/admin/tokens/{minted['id']}")
        refused = await ask(f"/api/v1/db/home/relay/jobs?token={token}")
        assert refused.status_code == 401
        assert "revoked" in refused.json()["detail"]


@pytest.mark.parametrize("body", [{"is_admin": True}, {}, *({"scope": action} for action in sorted(NOT_IN_URLS))])
async def test_a_token_for_urls_is_narrow(start_nats: StartNats, tmp_path: Path, body: dict[str, Any]) -> None:
    """P1.9, A8."""
    async with served_control(await start_nats(), tmp_path) as served:
        scopes = [{"db_id": "*", "action": body["scope"]}] if "scope" in body else []
        asked = {"label": "a", "url": True, "scopes": scopes} | {k: v for k, v in body.items() if k != "scope"}
        reply = await served.ask("POST", "/api/v1/admin/tokens", json=asked)
        assert reply.status_code == 400
        assert "url" in reply.text.lower() or "at least one scope" in reply.text


async def test_a_token_for_urls_owns_nothing_and_makes_nothing(start_nats: StartNats, tmp_path: Path) -> None:
    """PR6: where anybody may make documents, it may not: who made one could do everything on it."""
    async with served_control(await start_nats(), tmp_path, create_rule="open") as served:
        token = (await served.mint(("query.read", "*"), url=True))["token"]
        reply = await served.ask("POST", "/api/v1/db", token, json={"db_id": "mine"})
        assert reply.status_code == 403


@pytest.mark.parametrize("style", ["json", "pretty"])
async def test_no_token_in_a_url_reaches_the_log(start_nats: StartNats, tmp_path: Path, style: str) -> None:
    """P5.4, PR6: also when the request fails inside the node."""

    async def broken(request: Request[Any]) -> Reply:
        raise RuntimeError("broken")

    table = [Route("GET", "/api/v1/db/{db_id}/broken", "stream.read", broken, url_token=True)]
    logged, root = io.StringIO(), logging.getLogger()
    before = root.handlers, root.level
    async with served_control(await start_nats(), tmp_path, [*ROUTES, *table]) as served:
        await served.create("home")
        token = (await served.mint(("stream.read", "home"), url=True))["token"]
        try:
            configure_logs("debug", style, logged)
            logging.getLogger("httpx2").setLevel("ERROR")  # the client of this test tells what it asks for
            for path in ("relay/jobs", "broken", "hook", "secret", "nothing"):
                await served.client.get(f"{served.url}/api/v1/db/home/{path}?token={token}")
        finally:
            logging.getLogger("httpx2").setLevel("NOTSET")
            root.handlers = before[0]
            root.setLevel(before[1])
            structlog.reset_defaults()
    assert "request failed" in logged.getvalue()
    assert token not in logged.getvalue()
    assert token[6:20] not in logged.getvalue()


async def test_without_a_token_only_what_is_named_is_open(start_nats: StartNats, tmp_path: Path) -> None:
    """P4.10, A6, A8: off by default; a wrong token never falls back; other routes and documents stay shut."""
    async with served_control(await start_nats(), tmp_path, ROUTES) as served:
        for db_id in ("public", "mia", "home"):
            await served.create(db_id)
        client = served.client
        assert (await client.get(f"{served.url}/api/v1/db/public/relay/jobs")).status_code == 401
        async with opened(served, anonymous=["public", "mia"]) as url:
            answer = (await client.get(f"{url}/api/v1/db/public/relay/jobs")).json()
            assert answer == {"by": "anonymous", "from": "127.0.0.1", "db_id": "public"}
            assert (await client.get(f"{url}/u/mia/jobs")).json()["by"] == "anonymous"
            for path in ("/u/tom/jobs", "/u/a*/jobs", "/api/v1/db/home/relay/jobs", "/api/v1/db/public/secret"):
                assert (await client.get(url + path)).status_code == 401, path
            assert (await client.get(f"{url}/api/v1/db/public/hook")).status_code == 401
            wrong = {"authorization": "Bearer wrong"}
            assert (await client.get(f"{url}/api/v1/db/public/relay/jobs", headers=wrong)).status_code == 401
            assert (await client.get(f"{url}/api/v1/db/public/relay/jobs?token=wrong")).status_code == 401


async def test_an_address_without_a_token_has_so_many_requests(start_nats: StartNats, tmp_path: Path) -> None:
    """A.16, A6: of 25 quick ones 20 pass; behind a trusted proxy each client has its own."""
    async with served_control(await start_nats(), tmp_path, ROUTES) as served:
        await served.create("public")
        rates = Rates(anonymous=Rate.of(0.001, 20))
        async with opened(served, anonymous=["public"], rates=rates, proxies=Proxies(["127.0.0.1"])) as url:

            async def ask(client: str) -> httpx2.Response:
                headers = {"x-forwarded-for": f"6.6.6.6, {client}"}
                return await served.client.get(f"{url}/api/v1/db/public/relay/jobs", headers=headers)

            replies = [await ask("198.51.100.1") for _ in range(25)]
            assert [reply.status_code for reply in replies] == [200] * 20 + [429] * 5
            assert int(replies[-1].headers["retry-after"]) >= 1
            assert replies[0].json()["from"] == "198.51.100.1"
            assert (await ask("198.51.100.2")).status_code == 200


async def test_pages_of_named_origins_may_use_the_node(start_nats: StartNats, tmp_path: Path) -> None:
    """PR6: their browser is told so with every answer, refusals included; other pages' browsers are not."""
    async with served_control(await start_nats(), tmp_path, ROUTES) as served:
        await served.create("home")
        async with opened(served, origins=Origins(["https://pages.example"])) as url:
            path = f"{url}/api/v1/db/home/relay/jobs"
            page = {"origin": "https://pages.example"}
            token = {"authorization": f"Bearer {ROOT_TOKEN}"}
            for headers, status in ((page | token, 200), (page, 401)):
                reply = await served.client.get(path, headers=headers)
                assert (reply.status_code, reply.headers["access-control-allow-origin"]) == (status, page["origin"])
            asked = {"access-control-request-method": "GET", "access-control-request-headers": "authorization"}
            reply = await served.client.options(path, headers=page | asked)
            assert (reply.status_code, reply.headers["access-control-allow-methods"]) == (204, "GET, HEAD")
            assert (await served.client.options(f"{url}/nothing", headers=page | asked)).status_code == 404
            evil = {"origin": "https://evil.example"}
            reply = await served.client.options(path, headers=evil | asked)
            assert (reply.status_code, "access-control-allow-origin" in reply.headers) == (405, False)
            reply = await served.client.get(path, headers=evil | token)
            assert (reply.status_code, "access-control-allow-origin" in reply.headers) == (200, False)
