"""Webhooks over HTTP, on a real log: what is kept, what is refused, and what users do to the inbox."""

import asyncio
import hmac
import json
import os
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from api.webhooks.signatures import Delivery, Provider, Signature, Verdict
from forge.node_key import NodeKey
from tests.conftest import StartNats
from tests.control import ROOT_TOKEN
from tests.leasing import WEBHOOK_BYTES_MAX, Leasing, served_leases
from tests.waiting import until

DB = "hooks"
SECRET = "it is a secret"
COLUMNS = "endpoint, method, query_string, content_type, payload, signature_valid, delivery_id"


def says(text: str) -> Verdict:
    """Return what a hook of this test says."""
    if text == "error":
        raise RuntimeError
    return Verdict(Signature(text), "so says the hook")


MORE = {"test": Provider(lambda delivery: says(delivery.headers.get("x-says", "")))}


@pytest_asyncio.fixture
async def hooks(start_nats: StartNats, tmp_path: Path) -> AsyncIterator[Leasing]:
    """Serve webhooks of one document."""
    async with served_leases(await start_nats(), tmp_path, MORE) as served:
        await served.create(DB)
        yield served


async def inbox(hooks: Leasing, columns: str = COLUMNS) -> list[list[Any]]:
    """Return what was kept."""
    rows: list[list[Any]] = await hooks.sql(DB, f"SELECT {columns} FROM webhook_inbox ORDER BY id")
    return rows


def signed(body: bytes, secret: str = SECRET) -> dict[str, str]:
    """Return what GitHub sends with a body."""
    return {"x-hub-signature-256": f"sha256={hmac.new(secret.encode(), body, sha256).hexdigest()}"}


async def test_what_is_kept_of_a_webhook(hooks: Leasing) -> None:
    """P5.2, P5.4, 6.43: the shape of the answer, and of the row."""
    body = b'{"n": 1}'
    reply = await hooks.webhook(
        DB,
        "github/push",
        body,
        headers={"X-GitHub-Delivery": "d-1", "Content-Type": "application/json", "X-Gitlab-Token": "sesame"},
        params={"a": "1", "token": "sesame"},
    )
    assert reply.status_code == 201
    answer = reply.json()
    assert answer == {
        "db_id": DB,
        "endpoint": "github/push",
        "stored": True,
        "received_at": answer["received_at"],
        "size_bytes": len(body),
        "id": 1,
    }
    assert "forge-position" in reply.headers
    assert await inbox(hooks) == [
        ["github/push", "POST", "a=1&token=[redacted]", "application/json", '{"n": 1}', None, "d-1"]
    ]
    ((text, at),) = await inbox(hooks, "headers_json, received_at")
    kept = json.loads(text)
    assert at == answer["received_at"]
    assert kept["authorization"] == ["[redacted]"]
    assert kept["x-gitlab-token"] == ["[redacted]"]
    assert kept["x-github-delivery"] == ["d-1"]
    assert "sesame" not in text


async def test_bodies_are_kept_byte_by_byte(hooks: Leasing) -> None:
    """P5.4: whatever they are, in pieces or at once, by POST or PUT."""
    binary = bytes(range(256)) * 64

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(binary), 1000):
            yield binary[start : start + 1000]

    for content, method in ((b"", "POST"), (binary, "PUT"), (pieces(), "POST"), ("ä".encode(), "POST")):
        reply = await hooks.webhook(DB, "any", content, method=method, headers={"Content-Type": "text/plain"})
        assert reply.status_code == 201
    rows = await inbox(hooks, "hex(payload), method, typeof(payload)")
    assert [bytes.fromhex(row[0]) for row in rows] == [b"", binary, binary, "ä".encode()]
    assert [row[1:] for row in rows] == [["POST", "text"], ["PUT", "blob"], ["POST", "blob"], ["POST", "text"]]


@pytest.mark.parametrize(
    ("endpoint", "status"),
    [("", 404), ("%2Fx", 400), ("x" * 256, 400), ("a%0Ab", 400), ("x" * 255, 201), ("a//b/", 201)],
)
async def test_endpoints_have_names(hooks: Leasing, endpoint: str, status: int) -> None:
    """P5.2."""
    assert (await hooks.webhook(DB, endpoint)).status_code == status


async def test_the_size_of_a_body_is_bounded(hooks: Leasing) -> None:
    """P5.2, PR7: whether it is announced or not; and that of all together."""

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(WEBHOOK_BYTES_MAX // (64 << 10)):
            yield bytes(64 << 10)
        yield b"x"

    assert (await hooks.webhook(DB, "big", bytes(WEBHOOK_BYTES_MAX))).status_code == 201
    assert (await hooks.webhook(DB, "big", bytes(WEBHOOK_BYTES_MAX + 1))).status_code == 413
    assert (await hooks.webhook(DB, "big", pieces())).status_code == 413
    hooks.budget.bytes_max = 1000
    refused = await hooks.webhook(DB, "big", bytes(1001))
    assert refused.status_code == 503
    assert "retry-after" in refused.headers
    assert hooks.budget.held_bytes == 0
    assert await inbox(hooks, "length(payload)") == [[WEBHOOK_BYTES_MAX]]


async def test_a_key_that_is_too_long_is_a_mistake_of_the_sender(hooks: Leasing) -> None:
    """P5.5: no trigger kept it out."""
    refused = await hooks.webhook(DB, "github/push", headers={"idempotency-key": "k" * 256})
    assert (refused.status_code, refused.json()["field"]) == (400, "Idempotency-Key")


async def test_scopes_are_about_the_endpoint(hooks: Leasing) -> None:
    """P5.3, 6.44, PR6: neither another document nor another endpoint."""
    await hooks.create("other")
    token = await hooks.mint(("webhook.ingest", DB, "github"))
    assert (await hooks.webhook(DB, "github/push", token=token)).status_code == 201
    assert (await hooks.webhook(DB, "github", token=token)).status_code == 201
    for db_id, endpoint in ((DB, "stripe"), (DB, "githubx"), ("other", "github"), (DB, "/github")):
        assert (await hooks.webhook(db_id, endpoint, token=token)).status_code == 403
    assert (await hooks.ask("GET", f"/api/v1/db/{DB}/webhook-endpoints", token=token)).status_code == 403


async def test_a_token_for_urls_is_for_providers(hooks: Leasing) -> None:
    """P5.3: those who cannot send a header; it is not kept."""
    scopes = [{"db_id": DB, "action": "webhook.ingest", "resource_prefix": "door"}]
    minted = await hooks.ask("POST", "/api/v1/admin/tokens", {"label": "url", "scopes": scopes, "url": True})
    token = minted.json()["token"]
    reply = await hooks.client.post(f"{hooks.url}/api/v1/db/{DB}/webhooks/door?token={token}&x=1", content=b"ding")
    assert reply.status_code == 201
    assert await inbox(hooks, "query_string") == [["token=[redacted]&x=1"]]


async def test_what_makes_no_sense_is_refused(hooks: Leasing) -> None:
    """P0.3: no document, an archived one."""
    assert (await hooks.webhook("nothing", "x")).status_code == 404
    await hooks.endpoint(DB, "x", dedupe=True)
    await hooks.ask("POST", f"/api/v1/db/{DB}/archive")
    assert (await hooks.webhook(DB, "x")).status_code == 409
    assert (await hooks.endpoint(DB, "x")).status_code == 409
    assert (await hooks.ask("DELETE", f"/api/v1/db/{DB}/webhook-endpoints/x")).status_code == 409


async def test_a_document_that_is_archived_while_a_body_comes_keeps_none(hooks: Leasing) -> None:
    """P0.3."""

    async def pieces() -> AsyncIterator[bytes]:
        yield b"the beginning, "
        assert (await hooks.ask("POST", f"/api/v1/db/{DB}/archive")).status_code == 200
        yield b"and the end"

    assert (await hooks.webhook(DB, "x", pieces())).status_code == 409
    assert (await hooks.ask("POST", f"/api/v1/db/{DB}/unarchive")).status_code == 200
    assert (await hooks.webhook(DB, "x")).status_code == 201
    assert len(await inbox(hooks)) == 1


async def test_a_wrong_signature_is_recorded_or_rejected(hooks: Leasing) -> None:
    """D.4, P5.8: as the endpoint's policy says; nothing of a rejected one is kept."""
    body = b'{"a": "\xff"}'
    assert (await hooks.endpoint(DB, "gh", provider="github", secrets=[SECRET])).status_code == 200
    for headers in (signed(body), signed(body, "wrong"), {}):
        assert (await hooks.webhook(DB, "gh", body, headers=headers)).status_code == 201
    assert await inbox(hooks, "signature_valid") == [[1], [0], [0]]

    assert (await hooks.endpoint(DB, "gh", provider="github", policy="reject")).status_code == 200
    refused = await hooks.webhook(DB, "gh", body, headers=signed(body, "wrong"))
    assert refused.status_code == 401
    assert refused.json()["type"] == "urn:forge:problem:invalid-signature"
    assert refused.headers["www-authenticate"].startswith("Signature")
    assert (await hooks.webhook(DB, "gh", body, headers=signed(body))).status_code == 201
    assert (await hooks.webhook(DB, "gh", body * 20_000, headers=signed(body * 20_000))).status_code == 201
    assert (await hooks.webhook(DB, "another", body)).status_code == 201
    assert await inbox(hooks, "signature_valid") == [[1], [0], [0], [1], [1], [None]]


async def test_a_hook_says_one_of_four_things(hooks: Leasing) -> None:
    """P5.8, 6.44: another provider is one function; one that breaks lets nothing in."""
    assert (await hooks.endpoint(DB, "t", provider="test", secrets=["s"])).status_code == 200
    for said, status in (("valid", 201), ("invalid", 201), ("unknown", 201), ("reject", 401), ("error", 401)):
        assert (await hooks.webhook(DB, "t", headers={"x-says": said})).status_code == status
    assert await inbox(hooks, "signature_valid") == [[1], [0], [None]]
    assert (await hooks.endpoint(DB, "t", provider="test", policy="reject")).status_code == 200
    assert (await hooks.webhook(DB, "t", headers={"x-says": "unknown"})).status_code == 401


async def test_a_delivery_is_kept_once_if_that_is_asked_for(hooks: Leasing) -> None:
    """P5.4, PR5: also when many come at once; and one that nobody signed keeps no other out."""
    again = {"x-github-delivery": "d-1"}
    for _ in range(2):
        assert (await hooks.webhook(DB, "plain", headers=again)).status_code == 201
    await hooks.endpoint(DB, "once", dedupe=True)
    replies = await asyncio.gather(*(hooks.webhook(DB, "once", headers=again) for _ in range(10)))
    assert sorted(reply.status_code for reply in replies) == [200] * 9 + [201]
    assert {reply.json()["id"] for reply in replies} == {3}
    assert {reply.json()["stored"] for reply in replies if reply.status_code == 200} == {False}
    assert (await hooks.webhook(DB, "once")).status_code == 201

    await hooks.endpoint(DB, "gh", provider="github", secrets=[SECRET], dedupe=True)
    assert (await hooks.webhook(DB, "gh", headers=again)).status_code == 201
    assert (await hooks.webhook(DB, "gh", headers=again | signed(b"{}"))).status_code == 201
    assert (await hooks.webhook(DB, "gh", headers=again | signed(b"{}"))).status_code == 200


async def test_a_sender_with_an_idempotency_key_is_heard_once(hooks: Leasing) -> None:
    """PR5: though he dates and signs each attempt anew."""
    first = await hooks.webhook(DB, "x", b"1", headers={"idempotency-key": "k", "date": "then"})
    again = await hooks.webhook(DB, "x", b"1", headers={"idempotency-key": "k", "date": "now"})
    assert (again.status_code, again.json()) == (201, first.json())
    assert (await hooks.webhook(DB, "x", b"2", headers={"idempotency-key": "k"})).status_code == 422
    assert len(await inbox(hooks)) == 1


async def test_an_event_whose_id_is_too_long_is_kept(hooks: Leasing) -> None:
    """P5.4: without an id; it is no reason to fail."""
    await hooks.endpoint(DB, "s", provider="stripe", secrets=[SECRET], dedupe=True)
    assert (await hooks.webhook(DB, "s", json.dumps({"id": "x" * 256}).encode())).status_code == 201
    assert await inbox(hooks, "delivery_id") == [[None]]


async def test_without_the_key_of_the_node_nothing_is_let_in_unchecked(start_nats: StartNats, tmp_path: Path) -> None:
    """D.4: a secret that cannot be read is our failure, and the sender tries again."""
    server = await start_nats()
    async with served_leases(server, tmp_path) as served:
        await served.create(DB)
        await served.endpoint(DB, "x", provider="github", secrets=[SECRET])
    os.rename(tmp_path / "node.key", tmp_path / "old.key")
    async with served_leases(server, tmp_path) as served:
        refused = await served.webhook(DB, "x", headers=signed(b"{}"))
        assert (refused.status_code, refused.json()["type"]) == (503, "urn:forge:problem:unavailable")
        assert "node.key" in refused.json()["fix"]
        assert str(tmp_path) not in refused.text  # senders need not know where things lie
        assert (await served.webhook(DB, "other")).status_code == 201
        NodeKey(tmp_path / "node.key").seal(["another"])
    async with served_leases(server, tmp_path) as served:
        assert (await served.webhook(DB, "x", headers=signed(b"{}"))).status_code == 503
    os.replace(tmp_path / "old.key", tmp_path / "node.key")
    async with served_leases(server, tmp_path) as served:
        assert (await served.webhook(DB, "x", headers=signed(b"{}"))).status_code == 201
        assert await inbox(served, "signature_valid") == [[None], [1]]


async def test_users_may_add_columns_of_their_own_anywhere(hooks: Leasing) -> None:
    """P5.6, P5.X, 6.44: nullable, with a default, and columns in another order."""
    await hooks.webhook(DB, "x", b"1")
    await hooks.sql(
        DB,
        "ALTER TABLE webhook_inbox ADD COLUMN handled_at TEXT",
        "ALTER TABLE webhook_inbox ADD COLUMN tries INTEGER NOT NULL DEFAULT 7",
        "ALTER TABLE webhook_inbox ADD COLUMN size AS (length(payload))",
        "CREATE INDEX mine ON webhook_inbox (handled_at)",
    )
    assert (await hooks.webhook(DB, "x", b"22")).status_code == 201
    assert await inbox(hooks, "id, handled_at, tries, size") == [[1, None, 7, 1], [2, None, 7, 2]]
    await hooks.sql(DB, "UPDATE webhook_inbox SET handled_at = 'now', tries = 8 WHERE id = 1")
    await hooks.sql(DB, "DELETE FROM webhook_inbox WHERE id = 2")
    assert (await hooks.webhook(DB, "x", b"3")).json()["id"] == 3
    assert await inbox(hooks, "id, handled_at, tries") == [[1, "now", 8], [3, None, 7]]


@pytest.mark.parametrize(
    ("trigger", "why"),
    [
        ("BEFORE INSERT ON webhook_inbox BEGIN SELECT RAISE(ABORT, 'not today'); END", "not today"),
        ("AFTER INSERT ON webhook_inbox BEGIN SELECT RAISE(FAIL, 'too late'); END", "too late"),
        ("AFTER INSERT ON webhook_inbox BEGIN SELECT RAISE(ROLLBACK, 'all of it'); END", "all of it"),
        ("BEFORE INSERT ON webhook_inbox BEGIN SELECT RAISE(IGNORE); END", "kept its rows as they were"),
        ("AFTER INSERT ON webhook_inbox BEGIN INSERT INTO once VALUES (1); END", "UNIQUE"),
        ("AFTER INSERT ON webhook_inbox BEGIN INSERT INTO done VALUES (new.id); END", "in the trigger empties: "),
    ],
)
async def test_a_trigger_that_keeps_the_row_out_is_an_error(hooks: Leasing, trigger: str, why: str) -> None:
    """P5.5, 6.44: 500 so that the sender tries again, no row, and nothing else of it either; others go on."""
    await hooks.webhook(DB, "first", b"0")
    await hooks.sql(DB, "CREATE TABLE once (n UNIQUE)", "INSERT INTO once VALUES (1)", "CREATE TABLE done (id)")
    empties = "AFTER INSERT ON done BEGIN DELETE FROM webhook_inbox WHERE id = new.id; END"  # takes query.admin
    await hooks.sql(DB, f"CREATE TRIGGER empties {empties}", f"CREATE TRIGGER no {trigger}")
    refused, wrote = await asyncio.gather(hooks.webhook(DB, "x", b"1"), hooks.sql(DB, "CREATE TABLE beside (a)"))
    assert wrote is None
    assert refused.status_code == 500
    assert refused.json()["type"] == "urn:forge:problem:not-stored"
    assert why in refused.json()["detail"]
    assert await inbox(hooks, "id") == [[1]]
    await hooks.sql(DB, "DROP TRIGGER no")
    assert (await hooks.webhook(DB, "x", b"1")).json()["id"] == 2


async def test_a_trigger_that_writes_elsewhere_does_so_in_the_same_moment(hooks: Leasing) -> None:
    """P5.5."""
    await hooks.webhook(DB, "first", b"0")
    await hooks.sql(
        DB,
        "CREATE TABLE seen (endpoint, n)",
        "CREATE TRIGGER t AFTER INSERT ON webhook_inbox BEGIN INSERT INTO seen VALUES (new.endpoint, new.id); END",
    )
    assert (await hooks.webhook(DB, "x", b"1")).status_code == 201
    assert await hooks.sql(DB, "SELECT * FROM seen") == [["x", 2]]


async def test_a_body_that_breaks_off_leaves_nothing(hooks: Leasing) -> None:
    """P8.6, P5.5: wherever it breaks off."""
    host, port = hooks.url.removeprefix("http://").split(":")
    head = (
        f"POST /api/v1/db/{DB}/webhooks/x HTTP/1.1\r\nHost: h\r\n"
        f"Authorization: Bearer {ROOT_TOKEN}\r\nContent-Length: 100000\r\n\r\n"
    ).encode()
    for size in (0, 1, 50_000, 99_999):
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(head + bytes(size))
        await writer.drain()
        writer.close()
        await writer.wait_closed()
    assert (await hooks.webhook(DB, "after")).json()["id"] == 1
    await until(lambda: hooks.budget.held_bytes == 0)


async def test_a_fence_is_checked_with_the_webhook(hooks: Leasing) -> None:
    """P6.7."""
    held = await hooks.acquired(DB)
    fence = {"if-fence": f"jobs/nightly={held['fence']}"}
    assert (await hooks.webhook(DB, "x", headers=fence)).status_code == 201
    await hooks.lease("release", DB, token=held["token"])
    assert (await hooks.webhook(DB, "x", headers=fence)).status_code == 412


def test_the_hook_sees_what_it_needs() -> None:
    """P5.8: the exact bytes, all headers, secrets and the time."""
    assert set(Delivery.__slots__) == {"headers", "body", "secrets", "now"}
