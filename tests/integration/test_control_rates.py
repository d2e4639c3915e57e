"""Rate limits over HTTP: what callers hear, and who is never counted."""

from pathlib import Path

import httpx2

from api.rates import Rate, Rates
from api.routes import PUBLIC, Reply, Request, Route
from tests.conftest import StartNats
from tests.control import ROOT_TOKEN, served_control

SLOW = 0.001  # per second: nothing comes back during a test


async def health(_: Request[None]) -> Reply:
    return Reply(200, {"status": "ok"})


HEALTH = Route("GET", "/healthz", PUBLIC, health)


async def test_limits_are_told_on_every_answer_and_kept(start_nats: StartNats, tmp_path: Path) -> None:
    """P1.13, PR7: one token's limit is not another's; probes are exempt."""
    rates = Rates(token=Rate(SLOW, 5), document=Rate(SLOW, 2))
    async with served_control(await start_nats(), tmp_path / "control", [HEALTH], rates=rates) as served:
        await served.create("notes")  # 1 of root
        token = (await served.mint(("query.read", "notes"), ("db.manage", "notes")))["token"]  # 2 of root
        opened = [await served.ask("POST", "/api/v1/db/notes/_open", token) for _ in range(3)]
        not_allowed = await served.ask("POST", "/api/v1/db/other/_open", token)
        last = await served.ask("GET", "/api/v1/db", token)
        over = await served.ask("GET", "/api/v1/db", token)
        of_root = await served.ask("GET", "/api/v1/db")
        healthy = await served.client.get(f"{served.url}/healthz")

        assert [reply.status_code for reply in opened] == [200, 200, 429]
        assert opened[0].headers["ratelimit-policy"] == '"token";q=5;w=5000, "document";q=2;w=2000'
        assert opened[0].headers["ratelimit"] == '"token";r=4;t=1000, "document";r=1;t=1000'
        assert opened[2].json()["type"] == "urn:forge:problem:rate-limited"
        assert (not_allowed.status_code, last.status_code, over.status_code) == (403, 200, 429)
        assert int(over.headers["retry-after"]) > 900
        assert over.headers["ratelimit"].startswith('"token";r=0;t=')
        assert (of_root.status_code, healthy.status_code) == (200, 200)
        assert "ratelimit" not in healthy.headers


async def test_guesses_run_into_their_own_limit(start_nats: StartNats, tmp_path: Path) -> None:
    """P1.13, G-27: all together; whoever is known goes on."""
    rates = Rates(unknown=Rate(SLOW, 3))
    async with served_control(await start_nats(), tmp_path / "control", rates=rates) as served:
        guesses = [(await served.ask("GET", "/api/v1/db", f"guess-{number}")).status_code for number in range(5)]
        async with httpx2.AsyncClient(timeout=60) as client:
            without = await client.get(f"{served.url}/api/v1/db")
        known = await served.ask("GET", "/api/v1/db", ROOT_TOKEN)

        assert guesses == [401, 401, 401, 429, 429]
        assert (without.status_code, known.status_code) == (429, 200)
        assert "ratelimit" not in known.headers
