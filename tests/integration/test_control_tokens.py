"""Tokens over HTTP: minted, listed, handed on, explained, revoked; and what is kept of them."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import apsw
import httpx2
import pytest

from api.routes import Reply, Request, Route, StreamReply
from events.cursor import Cursor
from events.read import read
from projectors.control.domain import PARTITION
from schemas.instants import later, now
from schemas.machine_token import SECRET_BYTES, format_token
from tests.conftest import StartNats
from tests.control import ROOT_TOKEN, Served, served_control

TOKENS = "/api/v1/admin/tokens"
NEXT_YEAR = later(now(), 365 * 24 * 3600)


async def ticks(request: Request[None]) -> StreamReply:
    async def endless() -> AsyncIterator[bytes]:
        yield b"data: first\n\n"
        await asyncio.Event().wait()

    return StreamReply(200, endless(), content_type="text/event-stream", endless=True)


async def download(request: Request[None]) -> StreamReply:
    async def parts() -> AsyncIterator[bytes]:
        yield b"half of it"
        await asyncio.Event().wait()

    return StreamReply(200, parts())


async def hold(request: Request[None]) -> Reply:
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


MORE = (
    Route("GET", "/api/v1/db/{db_id}/ticks", "query.read", ticks),
    Route("GET", "/api/v1/db/{db_id}/download", "query.read", download),
    Route("GET", "/api/v1/db/{db_id}/hold", "query.read", hold, waits=True),
)


@pytest.fixture
async def served(start_nats: StartNats, tmp_path: Path) -> AsyncIterator[Served]:
    async with served_control(await start_nats(), tmp_path / "control", MORE, note_every_s=0.05) as running:
        yield running


async def refused(served: Served, status: int, field: str | None, token: str = ROOT_TOKEN, **body: Any) -> str:
    """Send a mint request that must be refused; return the detail."""
    reply = await served.ask("POST", TOKENS, token, json=body)
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/problem+json"
    if field is not None:
        assert reply.json()["field"] == field
    return str(reply.json()["detail"])


async def test_a_minted_token_opens_what_it_says_and_its_secret_is_shown_once(served: Served) -> None:
    """P1.5, P1.8."""
    await served.create("notes")
    body = {"label": " for the reader ", "scopes": [{"db_id": "notes", "action": "query.read"}]}
    reply = await served.ask("POST", TOKENS, json=body)
    assert (reply.status_code, reply.headers["cache-control"]) == (201, "no-store")
    minted = reply.json()
    assert minted["label"] == "for the reader"
    assert minted["scopes"] == [{"db_id": "notes", "action": "query.read", "resource_prefix": ""}]
    assert minted["token"].startswith(minted["prefix"])

    opened = await served.ask("POST", "/api/v1/db/notes/_open", minted["token"])
    other = await served.ask("POST", "/api/v1/db/other/_open", minted["token"])
    listed = await served.ask("GET", TOKENS)

    assert (opened.status_code, other.status_code) == (200, 403)
    assert other.headers["www-authenticate"].endswith('error="insufficient_scope", scope="query.read"')
    (seen,) = listed.json()["tokens"]
    assert seen == {key: value for key, value in minted.items() if key != "token"} | {
        "last_used_at": seen["last_used_at"]
    }
    assert minted["token"] not in listed.text
    assert listed.headers["cache-control"] == "no-store"


async def test_nobody_finds_a_secret_in_the_database_or_in_the_log(served: Served) -> None:
    """P1.4: neither the token nor the bits it is made of."""
    minted = await served.mint(("query.read", "notes"), headers={"idempotency-key": "kept"})
    secret = minted["token"].removeprefix("forge_")
    db = apsw.Connection(str(served.control_db), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        rows = [str(row) for (table,) in tables(db) for row in db.execute(f'SELECT * FROM "{table}"')]
    finally:
        db.close()
    event_log = served.partitions._log
    records = [entry.record.json() async for entry in read(event_log.reader, PARTITION, Cursor.start(PARTITION))]

    assert any(minted["id"] in row for row in rows)
    assert any(minted["id"].encode() in raw for raw in records)
    for kept in [*rows, *(raw.decode() for raw in records)]:
        assert secret not in kept
        assert secret[8:43] not in kept
        assert ROOT_TOKEN not in kept


def tables(db: apsw.Connection) -> list[tuple[str]]:
    return [(str(name),) for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()]


@pytest.mark.parametrize(
    ("body", "field", "says"),
    [
        ({"label": ""}, "label", ""),
        ({"label": "x" * 121}, "label", ""),
        ({"label": "a\nb"}, "label", ""),
        ({"label": "a"}, "scopes", "at least one scope"),
        ({"label": "a", "is_admin": "yes"}, "is_admin", ""),
        ({"label": "a", "is_admin": True, "scopes": [{"db_id": "x", "action": "query.read"}]}, "scopes", "everything"),
        ({"label": "a", "scopes": [{"db_id": "x", "action": "query.raed"}]}, None, "is no action"),
        ({"label": "a", "scopes": [{"db_id": "../x", "action": "query.read"}]}, None, "db_id"),
        ({"label": "a", "scopes": [{"db_id": "x", "action": "query.read"}] * 2}, "scopes", "is there twice"),
        ({"label": "a", "is_admin": True, "expires_at": "2020-01-01T00:00:00Z"}, "expires_at", "in the past"),
        ({"label": "a", "is_admin": True, "expires_at": "2040-01-01T00:00:00"}, "expires_at", ""),
        ({"label": "a", "is_admin": True, "expires_at": "9999-12-31T23:59:59-23:59"}, "expires_at", "a year from"),
        ({"label": "a", "is_admin": True, "secret": "mine"}, "secret", ""),
    ],
)
async def test_a_token_that_makes_no_sense_is_refused(
    served: Served, body: dict[str, Any], field: str | None, says: str
) -> None:
    """P1.5, G-27: with a clean message."""
    detail = await refused(served, 400, field, **body)
    assert says in detail
    assert "Traceback" not in detail


async def test_a_token_ends_exactly_when_it_expires(served: Served) -> None:
    """P1.11: accepted before, refused from that moment on."""
    await served.create("notes")
    minted = await served.mint(("query.read", "notes"), expires_at=later(now(), 3600))
    access = served.plane.access
    principal = access.authenticate(minted["token"])
    assert principal is not None
    assert principal.expires_at == minted["expires_at"]

    served.plane.access._clock = lambda: later(minted["expires_at"], -0.000001)
    assert (await served.ask("POST", "/api/v1/db/notes/_open", minted["token"])).status_code == 200
    served.plane.access._clock = lambda: str(minted["expires_at"])
    reply = await served.ask("POST", "/api/v1/db/notes/_open", minted["token"])

    assert reply.status_code == 401
    assert "expired at" in reply.json()["detail"]
    assert 'error="invalid_token"' in reply.headers["www-authenticate"]


async def test_a_revoked_token_fails_at_once_and_cannot_be_revoked_again(served: Served) -> None:
    """P1.5, P1.7."""
    await served.create("notes")
    minted = await served.mint(("query.read", "notes"))
    assert (await served.ask("POST", "/api/v1/db/notes/_open", minted["token"])).status_code == 200

    first = await served.ask("DELETE", f"{TOKENS}/{minted['id']}")
    reply = await served.ask("POST", "/api/v1/db/notes/_open", minted["token"])
    second = await served.ask("DELETE", f"{TOKENS}/{minted['id']}")
    unknown = await served.ask("DELETE", f"{TOKENS}/{'0' * 24}")

    assert (first.status_code, reply.status_code, second.status_code, unknown.status_code) == (204, 401, 404, 404)
    assert "revoked at" in reply.json()["detail"]
    (listed,) = (await served.ask("GET", TOKENS)).json()["tokens"]
    assert listed["revoked_at"] is not None


@pytest.mark.parametrize("how", ["revoked", "expired"])
async def test_what_a_token_opened_ends_with_it(served: Served, how: str) -> None:
    """P1.7: a stream ends, a download is cut (nobody may take it for the whole), a wait is answered 401."""
    await served.create("notes")
    expires_at = later(now(), 8) if how == "expired" else None
    minted = await served.mint(("query.read", "notes"), expires_at=expires_at)
    headers = {"authorization": f"Bearer {minted['token']}"}
    async with (
        served.client.stream("GET", f"{served.url}/api/v1/db/notes/ticks", headers=headers) as stream,
        served.client.stream("GET", f"{served.url}/api/v1/db/notes/download", headers=headers) as whole,
    ):
        events, parts = stream.aiter_raw(), whole.aiter_raw()
        assert await anext(events) == b"data: first\n\n"
        assert await anext(parts) == b"half of it"
        waiting = asyncio.create_task(served.ask("GET", "/api/v1/db/notes/hold", minted["token"]))
        still = asyncio.create_task(served.ask("GET", "/api/v1/db/notes/hold"))
        if how == "revoked":
            assert (await served.ask("DELETE", f"{TOKENS}/{minted['id']}")).status_code == 204
        async with asyncio.timeout(30):
            assert [part async for part in events] == []
            with pytest.raises(httpx2.RemoteProtocolError):
                _ = [part async for part in parts]
            reply = await waiting
    assert reply.status_code == 401
    assert not still.done()
    still.cancel()
    await asyncio.wait([still])


async def test_what_another_node_decided_holds_here_once_it_is_read(start_nats: StartNats, tmp_path: Path) -> None:
    """PR2, PR6: nothing that was cached survives records of somebody else; what they do not touch goes on."""
    server = await start_nats()
    async with served_control(server, tmp_path / "one", MORE) as one:
        await one.create("notes")
        ended, valid = await one.mint(("query.read", "notes")), await one.mint(("query.read", "notes"))
        urls = f"{one.url}/api/v1/db/notes/ticks"
        async with (
            one.client.stream("GET", urls, headers={"authorization": ended["token"]}) as ending,
            one.client.stream("GET", urls, headers={"authorization": valid["token"]}) as lasting,
            served_control(server, tmp_path / "other") as other,
        ):
            lines, others = ending.aiter_raw(), lasting.aiter_raw()
            assert await anext(lines) == await anext(others) == b"data: first\n\n"
            assert (await other.ask("DELETE", f"{TOKENS}/{ended['id']}")).status_code == 204
            assert (await other.ask("POST", "/api/v1/db/notes/archive")).status_code == 200
            await one.create("another")  # is refused by the log at first, and then decided on what the other wrote
            async with asyncio.timeout(30):
                assert [part async for part in lines] == []
            assert (await one.ask("POST", "/api/v1/db/notes/_open", ended["token"])).status_code == 401
            assert (await one.ask("POST", "/api/v1/db/notes/_open", valid["token"])).status_code == 200
            assert (await one.ask("GET", "/api/v1/db/notes")).json()["state"] == "archived"
            going_on = asyncio.create_task(anext(others))
            await one.create("third")
            assert not going_on.done()
            going_on.cancel()
            await asyncio.wait([going_on])


async def test_one_can_only_hand_on_what_one_holds(served: Served) -> None:
    """PR6: neither other actions, nor other documents, nor more of them, nor for longer, nor all of it."""
    holder = await served.mint(
        ("admin.token", "team-*"), ("query.read", "team-*"), ("pub.publish", "team-*", "jobs"), expires_at=NEXT_YEAR
    )
    token = holder["token"]

    def asking(action: str, db_id: str, resource: str = "", **body: Any) -> dict[str, Any]:
        scope = {"action": action, "db_id": db_id, "resource_prefix": resource}
        return {"label": "handed on", "scopes": [scope], "expires_at": NEXT_YEAR} | body

    for allowed in (
        asking("query.read", "team-a"),
        asking("query.read", "team-a*"),
        asking("pub.publish", "team-a", "jobs/1"),
        asking("admin.token", "team-*"),
    ):
        assert (await served.ask("POST", TOKENS, token, json=allowed)).status_code == 201
    for wrong, field in (
        (asking("query.write", "team-a"), "scopes"),
        (asking("query.read", "other"), "scopes"),
        (asking("query.read", "te*"), "scopes"),
        (asking("query.read", "*"), "scopes"),
        (asking("pub.publish", "team-a"), "scopes"),
        (asking("pub.publish", "team-a", "jobs2"), "scopes"),
        (asking("query.read", "team-a", expires_at=None), "expires_at"),
        (asking("query.read", "team-a", expires_at=later(NEXT_YEAR, 1)), "expires_at"),
        ({"label": "all", "is_admin": True, "expires_at": NEXT_YEAR}, "is_admin"),
    ):
        await refused(served, 403, field, token, **wrong)


async def test_the_owner_of_a_document_hands_out_tokens_for_it(served: Served) -> None:
    """P1.12: for that document alone; and somebody without admin.token for nothing at all."""
    owner = await served.mint(("db.create", "mine*"))
    reader = await served.mint(("query.read", "mine"))
    assert (await served.ask("GET", TOKENS, owner["token"])).status_code == 403
    await served.create("mine", owner["token"])

    handed = await served.mint(("query.write", "mine"), by=owner["token"])
    await refused(served, 403, "scopes", owner["token"], label="x", scopes=[{"db_id": "mine2", "action": "query.read"}])
    assert (await served.ask("POST", TOKENS, reader["token"], json={"label": "x"})).status_code == 403

    listed = (await served.ask("GET", TOKENS, owner["token"])).json()["tokens"]
    assert [one["id"] for one in listed] == [handed["id"], reader["id"]]
    mine = await served.ask("DELETE", f"{TOKENS}/{handed['id']}", owner["token"])
    others = await served.ask("DELETE", f"{TOKENS}/{owner['id']}", handed["token"])
    assert (mine.status_code, others.status_code) == (204, 401)


async def test_somebody_cannot_end_a_token_that_may_do_more(served: Served) -> None:
    """PR6: it is as if there were no such token."""
    holder = await served.mint(("admin.token", "*"), ("query.read", "*"))
    admin = await served.mint(is_admin=True)
    writer = await served.mint(("query.write", "notes"))
    reader = await served.mint(("query.read", "notes"))

    answers = [
        (await served.ask("DELETE", f"{TOKENS}/{one['id']}", holder["token"])).status_code
        for one in (admin, writer, reader)
    ]
    listed = (await served.ask("GET", TOKENS, holder["token"])).json()["tokens"]

    assert answers == [404, 404, 204]
    assert {one["id"] for one in listed} == {reader["id"], holder["id"]}


async def test_a_decision_is_explained(served: Served) -> None:
    await served.create("notes")
    minted = await served.mint(("query.read", "notes"), ("pub.publish", "notes", "jobs"))

    async def why(token: str, action: str, db_id: str, resource: str = "") -> tuple[bool, str]:
        body = {"token": token, "action": action, "db_id": db_id, "resource": resource}
        reply = await served.ask("POST", f"{TOKENS}/why", json=body)
        assert reply.status_code == 200, reply.text
        return reply.json()["allowed"], " ".join(reply.json()["reasons"])

    for asked, allowed, says in (
        ((minted["token"], "query.read", "notes"), True, "covers it"),
        ((minted["token"], "query.read", "other"), False, "does not name other"),
        ((minted["token"], "query.write", "notes"), False, "is about another action"),
        ((minted["token"], "pub.publish", "notes", "jobs2"), False, "does not reach jobs2"),
        ((ROOT_TOKEN, "query.write", "notes"), True, "an admin"),
        (("forge_nonsense", "query.write", "notes"), False, "is not known"),
    ):
        answer, reasons = await why(*asked)
        assert (answer, says in reasons) == (allowed, True), reasons
    assert (await served.ask("DELETE", f"{TOKENS}/{minted['id']}")).status_code == 204
    assert "revoked at" in (await why(minted["token"], "query.read", "notes"))[1]
    odd = await served.ask("POST", f"{TOKENS}/why", json={"token": "x", "action": "query.raed"})
    assert odd.status_code == 400


async def test_a_repeated_mint_makes_one_token_and_answers_the_same(served: Served) -> None:
    """PR5: also the secret, or the caller who lost the answer would have lost the token."""
    body = {"label": "once", "is_admin": True}
    key = {"idempotency-key": "mint-1"}
    first, second, other = [
        await served.ask("POST", TOKENS, json=one, headers=key) for one in (body, body, body | {"label": "twice"})
    ]

    assert (first.status_code, second.status_code, other.status_code) == (201, 201, 422)
    assert first.json() == second.json()
    assert len((await served.ask("GET", TOKENS)).json()["tokens"]) == 1


async def test_the_use_of_tokens_is_noted_and_changes_nothing_else(served: Served) -> None:
    minted = await served.mint(("query.read", "notes"))
    assert minted["last_used_at"] is None
    async with asyncio.timeout(30):
        while True:
            await served.ask("POST", "/api/v1/db/notes/_open", minted["token"])
            (listed,) = (await served.ask("GET", TOKENS)).json()["tokens"]
            if listed["last_used_at"]:
                break
    audit = (await served.ask("GET", "/api/v1/admin/audit")).json()["entries"]
    assert [entry["action"] for entry in audit] == ["token.minted"]


async def test_pages_of_tokens_and_of_the_audit_follow_each_other(served: Served) -> None:
    """P1.3: the audit names who minted and revoked what."""
    minted = [await served.mint(is_admin=True) for _ in range(5)]
    await served.ask("DELETE", f"{TOKENS}/{minted[0]['id']}", minted[1]["token"])

    async def pages(path: str, name: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        before: int | None = None
        while True:
            page = (await served.ask("GET", f"{path}?limit=2" + (f"&before={before}" if before else ""))).json()
            rows += page[name]
            before = page["next"]
            if before is None:
                return rows

    assert [row["id"] for row in await pages(TOKENS, "tokens")] == [one["id"] for one in reversed(minted)]
    audit = await pages("/api/v1/admin/audit", "entries")
    assert [row["action"] for row in audit] == ["token.revoked"] + ["token.minted"] * 5
    assert audit[0]["principal"] == f"token:{minted[1]['id']}"
    assert audit[0]["subject"] == minted[0]["id"]
    assert (await served.ask("GET", f"{TOKENS}?limit=0")).status_code == 400


async def test_an_unknown_token_is_refused_whatever_it_looks_like(served: Served) -> None:
    """P1.10."""
    for token in (format_token(bytes(SECRET_BYTES)), "forge_x", ROOT_TOKEN + "x", "a" * 600):
        reply = await served.ask("GET", TOKENS, token)
        assert reply.status_code == 401
        assert reply.headers["www-authenticate"] == 'Bearer realm="forge", error="invalid_token"'
