"""The registry of documents over HTTP: made once, found, renamed, archived, deleted and brought back."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from projectors.document.domain import document_path
from schemas.problems import Refusal
from tests.conftest import StartNats
from tests.control import Served, served_control

DB = "/api/v1/db"


@pytest.fixture
async def served(start_nats: StartNats, tmp_path: Path) -> AsyncIterator[Served]:
    async with served_control(await start_nats(), tmp_path / "control") as running:
        yield running


async def listed(served: Served, query: str = "", **who: str) -> list[str]:
    reply = await served.ask("GET", DB + query, **who)
    assert reply.status_code == 200, reply.text
    return [one["db_id"] for one in reply.json()["documents"]]


async def test_a_document_is_described(served: Served) -> None:
    """P0.3."""
    made = await served.ask("POST", DB, json={"db_id": "notes", "name": " My notes "})
    shown = await served.ask("GET", f"{DB}/notes")

    assert made.status_code == 201
    assert made.headers["location"] == f"{DB}/notes"
    assert made.headers["forge-position"] == "1.1"
    assert shown.json() == made.json()
    assert made.json() | {"created_at": "", "changed_at": ""} == {
        "db_id": "notes",
        "name": "My notes",
        "owner": "root",
        "state": "active",
        "created_at": "",
        "changed_at": "",
        "archived_at": None,
        "deleted_at": None,
    }


@pytest.mark.parametrize("how", ["create", "open"])
async def test_of_fifty_who_make_a_document_at_once_one_makes_it(served: Served, how: str) -> None:
    """P0.3, PR3: one row, one file, one fact."""
    maker = await served.mint(("db.create", "notes"), ("query.read", "notes"))
    asked = ("POST", DB) if how == "create" else ("POST", f"{DB}/notes/_open")
    options: dict[str, Any] = {"json": {"db_id": "notes"}} if how == "create" else {}
    replies = await asyncio.gather(*(served.ask(*asked, maker["token"], **options) for _ in range(50)))

    counts = Counter(reply.status_code for reply in replies)
    assert counts == ({201: 1, 200: 49} if how == "create" else {200: 50})
    audit = (await served.ask("GET", "/api/v1/admin/audit?subject=notes")).json()["entries"]
    assert [entry["action"] for entry in audit] == ["document.created"]
    assert audit[0]["principal"] == f"token:{maker['id']}"
    docs = served.control_db.parent / "docs"
    if how == "open":
        assert [path.name for path in docs.glob("*.db")] == [document_path(docs, "notes").name]


@pytest.mark.parametrize("db_id", ["", "../x", "x/y", ".", "..", "...", "x" * 129, "a b", "ä", "a\n", "*", "a*"])
async def test_a_name_that_is_none_is_refused_everywhere(served: Served, db_id: str) -> None:
    """P0.3."""
    reply = await served.ask("POST", DB, json={"db_id": db_id})
    assert (reply.status_code, reply.json()["field"]) == (400, "db_id")
    if db_id not in ("", ".", "..", "../x", "x/y"):  # which are other paths
        for method, path in (("GET", ""), ("POST", "/_open"), ("DELETE", ""), ("GET", "/_status")):
            reply = await served.ask(method, f"{DB}/{quote(db_id, safe='')}{path}")
            assert (reply.status_code, reply.json()["field"]) == (400, "db_id")
    assert await listed(served, "?state=all") == []


async def test_a_document_is_made_only_by_those_who_may(served: Served) -> None:
    """P0.3, PR6."""
    maker = await served.mint(("db.create", "team-*"), ("query.read", "team-*"))
    reader = await served.mint(("query.read", "team-*"))

    async def make(db_id: str, token: dict[str, Any]) -> int:
        return (await served.ask("POST", DB, token["token"], json={"db_id": db_id})).status_code

    assert [await make("team-a", maker), await make("team-a", maker), await make("other", maker)] == [201, 200, 403]
    assert await make("team-b", reader) == 403
    opening = [await served.ask("POST", f"{DB}/team-c/_open", one["token"]) for one in (reader, maker, reader)]
    assert [reply.status_code for reply in opening] == [404, 200, 200]
    taken = await served.ask("POST", DB, json={"db_id": "team-a"})
    assert taken.status_code == 409
    assert f"token:{maker['id']}" not in taken.text


async def test_with_the_open_rule_whoever_may_do_something_makes_the_document(
    start_nats: StartNats, tmp_path: Path
) -> None:
    """P0.3."""
    async with served_control(await start_nats(), tmp_path / "control", create_rule="open") as served:
        writer = await served.mint(("query.write", "notes"), ("query.read", "notes"))
        made = await served.ask("POST", f"{DB}/notes/_open", writer["token"])
        other = await served.ask("POST", DB, writer["token"], json={"db_id": "other"})
        assert (made.status_code, other.status_code) == (200, 403)


async def test_the_owner_may_do_everything_on_a_document_and_nothing_on_others(served: Served) -> None:
    """P1.12."""
    owner = await served.mint(("db.create", "*"))
    await served.create("mine", owner["token"])
    await served.create("other")

    async def status(method: str, path: str, **options: Any) -> int:
        return (await served.ask(method, DB + path, owner["token"], **options)).status_code

    assert await status("POST", "/mine/_open") == 200
    assert await status("PATCH", "/mine", json={"name": "ours"}) == 200
    assert await status("POST", "/other/_open") == 403
    assert await status("PATCH", "/other", json={"name": "ours"}) == 403
    assert await status("DELETE", "/mine") == 204
    assert await status("POST", "/mine/undelete") == 200


async def test_the_list_has_pages_a_search_and_states(served: Served) -> None:
    names = [f"doc-{number:02}" for number in range(7)]
    for name in names:
        await served.create(name)
    await served.ask("PATCH", f"{DB}/doc-03", json={"name": "The Annual Report"})
    await served.ask("POST", f"{DB}/doc-04/archive")
    await served.ask("DELETE", f"{DB}/doc-05")

    seen: list[str] = []
    after = ""
    while True:
        page = (await served.ask("GET", f"{DB}?limit=2&after={after}")).json()
        seen += [one["db_id"] for one in page["documents"]]
        assert len(page["documents"]) <= 2
        after = page["next"]
        if after is None:
            break
    assert seen == [name for name in names if name != "doc-05"]
    assert await listed(served, "?q=annual") == ["doc-03"]
    assert await listed(served, "?q=DOC-06") == ["doc-06"]
    assert await listed(served, "?q=%25") == []
    assert await listed(served, "?state=archived") == ["doc-04"]
    assert await listed(served, "?state=deleted") == ["doc-05"]
    assert await listed(served, "?state=all") == names
    assert "doc-04" not in await listed(served, "?state=active")
    for wrong in ("?state=gone", "?limit=0", "?limit=1001", f"?q={'x' * 201}"):
        assert (await served.ask("GET", DB + wrong)).status_code == 400


async def test_everybody_sees_only_what_he_may_do_something_on(served: Served) -> None:
    """PR6."""
    for name in ("team-a", "team-b", "other"):
        await served.create(name)
    owner = await served.mint(("db.create", "mine"))
    await served.create("mine", owner["token"])
    team = await served.mint(("pub.publish", "team-*", "jobs"))
    one = await served.mint(("query.read", "other"), ("query.read", "oth"))
    all_of_them = await served.mint(("vector.read", "*"))

    assert await listed(served, token=team["token"]) == ["team-a", "team-b"]
    assert await listed(served, token=one["token"]) == ["other"]
    assert await listed(served, token=owner["token"]) == ["mine"]
    assert await listed(served, token=all_of_them["token"]) == ["mine", "other", "team-a", "team-b"]


async def test_an_archived_document_refuses_writes_and_a_deleted_one_everything(served: Served) -> None:
    """PR8: each refusal says how to mend it."""
    await served.create("notes")
    registry = served.plane.registry

    def problem(*, for_writing: bool) -> tuple[int, str]:
        try:
            registry.require("notes", for_writing=for_writing)
        except Refusal as refusal:
            return refusal.problem.status, refusal.problem.fix
        return 200, ""

    assert problem(for_writing=True)[0] == 200
    archived = await served.ask("POST", f"{DB}/notes/archive")
    assert archived.json()["state"] == "archived"
    assert problem(for_writing=False)[0] == 200
    status, fix = problem(for_writing=True)
    assert (status, "unarchive" in fix) == (409, True)
    assert (await served.ask("DELETE", f"{DB}/notes")).status_code == 204
    for method, path in (("GET", ""), ("POST", "/_open"), ("GET", "/_status"), ("POST", "/archive")):
        reply = await served.ask(method, f"{DB}/notes{path}")
        assert (reply.status_code, "undelete" in reply.json()["fix"]) == (410, True)
    assert (await served.ask("PATCH", f"{DB}/notes", json={"name": "x"})).status_code == 410
    taken = await served.ask("POST", DB, json={"db_id": "notes"})
    assert (taken.status_code, "undelete" in taken.json()["fix"]) == (409, True)
    back = await served.ask("POST", f"{DB}/notes/undelete")
    assert back.json()["state"] == "archived"
    assert (await served.ask("POST", f"{DB}/notes/unarchive")).json()["state"] == "active"
    assert problem(for_writing=True)[0] == 200


async def test_saying_the_same_again_changes_nothing(served: Served) -> None:
    """PR5."""
    await served.create("notes")
    for path, method in (("/archive", "POST"), ("", "DELETE"), ("/undelete", "POST"), ("/unarchive", "POST")):
        replies = [await served.ask(method, f"{DB}/notes{path}") for _ in range(2)]
        assert {reply.status_code for reply in replies} <= {200, 204}
        assert len({reply.headers["forge-position"] for reply in replies}) == 1, path
        assert len({reply.text for reply in replies}) == 1


async def test_a_document_that_never_was_is_404_with_a_hint(served: Served) -> None:
    for method, path in (("GET", ""), ("GET", "/_status"), ("POST", "/archive"), ("DELETE", ""), ("POST", "/undelete")):
        reply = await served.ask(method, f"{DB}/nothing{path}")
        assert (reply.status_code, "Create it" in reply.json()["fix"]) == (404, True)


async def test_the_status_of_a_document_names_no_path(served: Served) -> None:
    """P0.5."""
    await served.create("notes")
    idle = await served.ask("GET", f"{DB}/notes/_status")
    opened = await served.ask("POST", f"{DB}/notes/_open")
    active = await served.ask("GET", f"{DB}/notes/_status")

    assert opened.json() == {"db_id": "notes", "opened": True, "runtime": "active"}
    assert (idle.json()["runtime"], active.json()["runtime"]) == ("idle", "active")
    assert active.json()["position"] == "1.0"
    assert active.json()["healthy"] is True
    assert str(served.control_db.parent) not in active.text + idle.text


async def test_a_repeated_request_under_its_key_gets_the_first_answer(served: Served) -> None:
    """PR5."""
    key = {"idempotency-key": "create-1"}
    first = await served.ask("POST", DB, json={"db_id": "notes"}, headers=key)
    await served.ask("PATCH", f"{DB}/notes", json={"name": "renamed"})
    second = await served.ask("POST", DB, json={"db_id": "notes"}, headers=key)
    third = await served.ask("POST", DB, json={"db_id": "notes"})

    assert (first.status_code, second.status_code, third.status_code) == (201, 201, 200)
    assert first.json() == second.json()
    assert first.headers["forge-position"] == second.headers["forge-position"]
    assert third.json()["name"] == "renamed"


async def test_a_list_can_wait_for_a_change(served: Served) -> None:
    made = await served.ask("POST", DB, json={"db_id": "notes"})
    ahead = {"forge-min-position": made.headers["forge-position"]}
    reply = await served.ask("GET", DB, headers=ahead)
    assert [one["db_id"] for one in reply.json()["documents"]] == ["notes"]
