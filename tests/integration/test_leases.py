"""Leases over HTTP, on a real log: shapes, refusals, waiting, scopes, history."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from schemas.machine_token import hash_token
from tests.conftest import StartNats
from tests.leasing import Leasing, served_leases
from tests.waiting import until

DB = "jobs"


@pytest_asyncio.fixture
async def leasing(start_nats: StartNats, tmp_path: Path) -> AsyncIterator[Leasing]:
    """Serve leases of one document."""
    async with served_leases(await start_nats(), tmp_path) as served:
        await served.create(DB)
        yield served


async def history(leasing: Leasing, resource: str = "jobs/nightly", token: str | None = None) -> httpx2.Response:
    """Return the answer about one resource."""
    by = {"token": token} if token else {}
    return await leasing.ask("GET", f"/api/v1/db/{DB}/leases/{resource}", **by)


async def test_a_lease_from_acquiring_to_releasing(leasing: Leasing) -> None:
    """P6.2, P6.3, P6.4, 6.50: the shapes, and the fence that only grows."""
    reply = await leasing.lease("acquire", DB)
    assert reply.status_code == 200
    assert reply.headers["cache-control"] == "no-store"
    assert "forge-position" in reply.headers
    held = reply.json()
    assert held.keys() == {"resource", "owner", "fence", "token", "expires_at"}
    assert (held["resource"], held["owner"], held["fence"]) == ("jobs/nightly", "ada", 1)
    assert held["token"].startswith("lse_")
    assert len(held["token"]) == 4 + 43

    for owner in ("bob", "ada"):
        refused = await leasing.lease("acquire", DB, owner=owner)
        assert refused.status_code == 409
        assert refused.json()["type"] == "urn:forge:problem:lease-held"
        assert 1 <= int(refused.headers["retry-after"]) <= 30

    leasing.clock.ahead_s += 20
    renewed = await leasing.lease("renew", DB, token=held["token"])
    assert renewed.status_code == 200
    assert renewed.json().keys() == {"resource", "owner", "fence", "expires_at", "renewed"}
    assert renewed.json()["fence"] == 1
    assert renewed.json()["expires_at"] > held["expires_at"]

    wrong = await leasing.lease("release", DB, token="lse_wrong")
    assert wrong.status_code == 401
    assert wrong.headers["www-authenticate"].startswith("Lease")
    assert (await leasing.lease("renew", DB, token="lse_wrong")).status_code == 401
    foreign = await leasing.lease("release", DB, owner="bob", token=held["token"])
    assert foreign.status_code == 409
    assert "Retry-After" not in foreign.json()["fix"]  # there is none: waiting does not help
    for _ in range(2):  # again is no mistake
        released = await leasing.lease("release", DB, token=held["token"])
        assert released.status_code == 200
        assert released.json() == {"resource": "jobs/nightly", "owner": "ada", "released": True}
    assert (await leasing.lease("renew", DB, token=held["token"])).status_code == 404

    assert (await leasing.acquired(DB, owner="bob"))["fence"] == 2


async def test_a_lease_that_ran_out(leasing: Leasing) -> None:
    """P6.2, P6.3, P8.7: at the very moment of its end it is over, for renewing and for others."""
    held = await leasing.acquired(DB, ttl_seconds=10)
    leasing.clock.ahead_s += 11

    assert (await leasing.lease("renew", DB, token=held["token"])).status_code == 404
    assert (await leasing.acquired(DB, owner="bob"))["fence"] == 2
    assert (await leasing.lease("renew", DB, token=held["token"])).status_code == 409
    assert (await leasing.lease("release", DB, token=held["token"])).status_code == 409


async def test_fifteen_renew_at_once(leasing: Leasing) -> None:
    """6.50: each is granted."""
    held = await leasing.acquired(DB)
    replies = await asyncio.gather(*(leasing.lease("renew", DB, token=held["token"]) for _ in range(15)))
    assert {reply.status_code for reply in replies} == {200}


async def test_only_one_of_two_racers_gets_it(leasing: Leasing) -> None:
    """6.50, P6.5."""
    replies = await asyncio.gather(*(leasing.lease("acquire", DB, owner=f"o{number}") for number in range(20)))
    assert sorted(reply.status_code for reply in replies) == [200] + [409] * 19


@pytest.mark.parametrize(
    "wrong",
    [
        {"resource": ""},
        {"resource": "a b"},
        {"resource": "x" * 256},
        {"owner": ""},
        {"owner": "a\nb"},
        {"ttl_seconds": 0},
        {"ttl_seconds": 3601},
        {"wait_seconds": -1},
        {"wait_seconds": 61},
        {"fence": 3},
    ],
)
async def test_what_makes_no_sense_is_refused(leasing: Leasing, wrong: dict[str, Any]) -> None:
    """P6.2, PR7."""
    assert (await leasing.lease("acquire", DB, **wrong)).status_code == 400


async def test_a_repeated_request_gets_the_same_lease(leasing: Leasing) -> None:
    """PR5: token included; from somebody else, or for something else, it is another request."""
    first = await leasing.lease("acquire", DB, key="k")
    again = await leasing.lease("acquire", DB, key="k")
    assert again.status_code == 200
    assert again.json() == first.json()
    assert again.headers["forge-position"] == first.headers["forge-position"]
    assert (await leasing.lease("acquire", DB, key="k", ttl_seconds=5)).status_code == 422
    other = await leasing.mint(("lease.acquire", DB))
    assert (await leasing.lease("acquire", DB, key="k", by=other)).status_code == 409


async def test_the_secret_is_nowhere(leasing: Leasing, tmp_path: Path) -> None:
    """C2: neither in the document nor in the log; of it only the hash is kept."""
    token = (await leasing.acquired(DB))["token"]
    assert not _files_with(tmp_path, token)
    assert _files_with(tmp_path, hash_token(token))


def _files_with(directory: Path, text: str) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


async def test_a_waiter_is_woken_by_the_release(leasing: Leasing) -> None:
    """P6.2: in the order of arrival."""
    held = await leasing.acquired(DB)
    waiters: list[asyncio.Task[httpx2.Response]] = []
    for number in range(3):
        asked = leasing.lease("acquire", DB, owner=f"w{number}", wait_seconds=60)
        waiters.append(asyncio.create_task(asked))
        await until(lambda: leasing.lines.waiting == len(waiters))
    fences = []
    for number, waiter in enumerate(waiters):
        assert (await leasing.lease("acquire", DB, owner="late")).status_code == 409
        await leasing.lease("release", DB, owner=held["owner"], token=held["token"])
        held = (await waiter).json()
        assert held["owner"] == f"w{number}"
        fences.append(held["fence"])
    assert fences == [2, 3, 4]
    await until(lambda: leasing.lines.waiting == 0)


async def test_a_waiter_gets_what_runs_out(leasing: Leasing) -> None:
    """P6.2: nobody tells that a lease has run out."""
    await leasing.acquired(DB, ttl_seconds=1)
    reply = await leasing.lease("acquire", DB, owner="bob", wait_seconds=30)
    assert reply.status_code == 200
    assert reply.json()["fence"] == 2


@pytest.mark.parametrize(("ended", "status"), [("POST /archive", 409), ("DELETE ", 410)])
async def test_a_waiter_gets_nothing_of_a_document_that_takes_no_writes_any_more(
    leasing: Leasing, ended: str, status: int
) -> None:
    """P0.3, P6.2: archived or deleted while he waits, he is told so instead of being granted what is free."""
    await leasing.acquired(DB, ttl_seconds=3600)
    waiters = []
    for number in range(3):
        asked = leasing.lease("acquire", DB, owner=f"w{number}", wait_seconds=60)
        waiters.append(asyncio.create_task(asked))
        await until(lambda: leasing.lines.waiting == len(waiters))
    method, _, path = ended.partition(" ")
    assert (await leasing.ask(method, f"/api/v1/db/{DB}{path}")).status_code in (200, 204)
    leasing.clock.ahead_s += 3600
    assert [(await waiter).status_code for waiter in waiters] == [status] * 3


async def test_waiting_has_an_end(leasing: Leasing) -> None:
    """P6.2, PR7: 409 with Retry-After, as without waiting."""
    await leasing.acquired(DB)
    reply = await leasing.lease("acquire", DB, owner="bob", wait_seconds=0.2)
    assert reply.status_code == 409
    assert int(reply.headers["retry-after"]) > 1
    assert leasing.lines.waiting == 0


async def test_nobody_is_held_by_a_node_that_stops(leasing: Leasing) -> None:
    """PR7: those who wait hear at once when to come back, whoever of them is the first in line."""
    await leasing.acquired(DB)
    waiters = [asyncio.create_task(leasing.lease("acquire", DB, owner=name, wait_seconds=60)) for name in ("a", "b")]
    await until(lambda: leasing.lines.waiting == 2)

    await leasing.server.stop()

    for waiter in waiters:
        refused = await waiter
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")


async def test_who_leaves_while_waiting_gets_nothing(leasing: Leasing) -> None:
    """P6.2: and the next one does not wait for him."""
    held = await leasing.acquired(DB)
    gone = asyncio.create_task(leasing.lease("acquire", DB, owner="gone", wait_seconds=60))
    await until(lambda: leasing.lines.waiting == 1)
    stays = asyncio.create_task(leasing.lease("acquire", DB, owner="stays", wait_seconds=60))
    await until(lambda: leasing.lines.waiting == 2)
    gone.cancel()
    await until(lambda: leasing.lines.waiting == 1)
    await leasing.lease("release", DB, token=held["token"])
    reply = await stays
    assert reply.json()["owner"] == "stays"
    assert reply.json()["fence"] == 2


async def test_who_waits_does_so_only_as_long_as_his_token_lives(leasing: Leasing) -> None:
    """PR6."""
    await leasing.acquired(DB)
    minted = await leasing.ask(
        "POST",
        "/api/v1/admin/tokens",
        {"label": "short", "scopes": [{"db_id": DB, "action": "lease.acquire"}]},
    )
    waiting = asyncio.create_task(leasing.lease("acquire", DB, owner="bob", wait_seconds=60, by=minted.json()["token"]))
    await until(lambda: leasing.lines.waiting == 1)
    await leasing.ask("DELETE", f"/api/v1/admin/tokens/{minted.json()['id']}")
    assert (await waiting).status_code == 401
    assert leasing.lines.waiting == 0


async def test_waiters_are_bounded(leasing: Leasing) -> None:
    """PR7."""
    leasing.lines._waiting_for_one_max = 1
    await leasing.acquired(DB)
    first = asyncio.create_task(leasing.lease("acquire", DB, owner="first", wait_seconds=60))
    await until(lambda: leasing.lines.waiting == 1)
    refused = await leasing.lease("acquire", DB, owner="second", wait_seconds=60)
    assert refused.status_code == 503
    assert "retry-after" in refused.headers
    first.cancel()


async def test_scopes_are_about_the_resource(leasing: Leasing) -> None:
    """PR6, P6.2: each verb has its own, below a resource."""
    token = await leasing.mint(("lease.acquire", DB, "jobs"), ("lease.release", DB, "jobs/nightly"))
    held = (await leasing.lease("acquire", DB, by=token)).json()
    assert held["fence"] == 1
    for resource in ("other", "jobs2", "/jobs/nightly"):
        assert (await leasing.lease("acquire", DB, by=token, resource=resource)).status_code == 403
    assert (await leasing.lease("renew", DB, by=token, token=held["token"])).status_code == 403
    assert (await history(leasing, token=token)).status_code == 200
    assert (await history(leasing, "other", token=token)).status_code == 403
    assert (await leasing.ask("GET", f"/api/v1/db/{DB}/leases", token=token)).status_code == 403
    assert (await leasing.lease("release", DB, by=token, token=held["token"])).status_code == 200

    reader = await leasing.mint(("query.read", DB))
    assert (await history(leasing, token=reader)).status_code == 200
    assert (await leasing.ask("GET", f"/api/v1/db/{DB}/leases", token=reader)).status_code == 200
    assert (await leasing.lease("acquire", DB, by=reader)).status_code == 403
    elsewhere = await leasing.mint(("query.read", DB, "query/exec"))
    assert (await history(leasing, token=elsewhere)).status_code == 403


async def test_the_list_and_the_history(leasing: Leasing) -> None:
    """P6.1: what is held, and all that ever was, without tokens."""
    nothing = await leasing.ask("GET", f"/api/v1/db/{DB}/leases")
    assert nothing.json() == {"leases": [], "next": None}
    assert (await history(leasing)).status_code == 404
    for resource in ("a", "b/c", "/d"):
        held = await leasing.acquired(DB, resource=resource)
    await leasing.lease("release", DB, resource="/d", token=held["token"])
    await leasing.acquired(DB, resource="/d", owner="bob")
    await leasing.lease("release", DB, resource="a", token="wrong")

    page = (await leasing.ask("GET", f"/api/v1/db/{DB}/leases?limit=2")).json()
    assert [one["resource"] for one in page["leases"]] == ["/d", "a"]
    assert page["leases"][0].keys() == {"resource", "owner", "fence", "held", "expires_at", "updated_at"}
    rest = (await leasing.ask("GET", f"/api/v1/db/{DB}/leases?after={page['next']}&limit=2")).json()
    assert [one["resource"] for one in rest["leases"]] == ["b/c"]
    assert rest["next"] is None

    found = (await history(leasing, "/d")).json()
    assert (found["fence"], found["owner"], found["held"]) == (2, "bob", True)
    assert [one["fence"] for one in found["history"]] == [2, 1]
    assert found["history"][0]["principal"] == "root"
    assert found["history"][0]["released_at"] is None
    assert found["history"][1]["released_at"] is not None
    leasing.clock.ahead_s += 3600
    assert (await leasing.ask("GET", f"/api/v1/db/{DB}/leases?held=true")).json()["leases"] == []
    assert (await history(leasing, "/d")).json()["held"] is False


async def test_a_document_that_takes_no_writes_leases_nothing(leasing: Leasing) -> None:
    """P0.3."""
    await leasing.ask("POST", f"/api/v1/db/{DB}/archive")
    assert (await leasing.lease("acquire", DB)).status_code == 409
    assert (await leasing.lease("acquire", "nothing")).status_code == 404
