"""What the older relay answered, surface by surface, and what is answered here: docs/legacy-compatibility.md."""

import asyncio
import signal
from typing import Any

import httpx2
import pytest

from tests.acceptance.conftest import StartRelay
from tests.acceptance.relay_scripts import RelayNode

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def taken(relay: RelayNode, path: str, *, timeout: float = 30, **request: Any) -> httpx2.Response:
    """Return what a receiver gets that waits at `path` before somebody posts there."""
    async with relay.anybody(timeout=timeout) as http:
        waiting = asyncio.create_task(http.get(path.partition("?")[0]))
        await relay.waits(receivers=1)
        sent = await http.request("POST", path, **request)
        assert (sent.status_code, sent.content, sent.headers["content-length"]) == (200, b"", "0")
        return await waiting


async def answered(relay: RelayNode, name: str, ask: dict[str, Any], **answer: Any) -> httpx2.Response:
    """Return what a requester gets whom a responder answers that waits before."""
    async with relay.anybody() as http:
        responding = asyncio.create_task(http.post(f"/public/res/{name}", **answer))
        await relay.waits(receivers=1)
        method = str(ask.pop("method", "POST"))
        reply = await http.request(method, f"/public/req/{name}", **ask)
        assert (await responding).status_code == 200
        return reply


async def statuses(relay: RelayNode, *requests: tuple[str, str]) -> list[int]:
    """Return how each request of somebody without a token is answered at once."""
    async with relay.anybody() as http:
        return [(await http.request(method, path)).status_code for method, path in requests]


async def test_reading_and_writing_waits_and_other_methods_do_not(relay: RelayNode) -> None:
    """L.1, L.23, L.28, assertions 10 and 20: GET, POST and PUT hang; others are 405 with Allow at once."""
    async with relay.anybody() as http:
        for method in ("HEAD", "OPTIONS", "DELETE", "PATCH"):
            refused = await http.request(method, "/public/a")
            assert (refused.status_code, refused.headers["allow"]) == (405, "GET, POST, PUT")
        requests = (("GET", "/public/a"), ("POST", "/public/b"), ("PUT", "/public/c"), ("GET", "/public/d?body=x"))
        waiting = [asyncio.create_task(http.request(*one)) for one in requests]
        await relay.waits(receivers=1, senders=3)
        assert not any(one.done() for one in waiting)
        for one in waiting:
            one.cancel()
        await relay.waits()


async def test_each_way_to_name_a_channel_is_a_channel_of_its_own(relay: RelayNode) -> None:
    """L.1, L.3, L.10, assertions 17, 18 and 21: bare, queue/, pubsub/, _/ and the words alone."""
    names = ("x", "queue/x", "pubsub/x", "_/x", "req", "res", "a/b/c")
    async with relay.anybody() as http:
        waiting = {name: asyncio.create_task(http.get(f"/public/{name}")) for name in names}
        await relay.waits(receivers=len(names))
        for name in names:
            assert (await http.post(f"/p/{name}", content=name)).status_code == 200
            assert (await waiting[name]).text == name


async def test_flags_have_values(relay: RelayNode) -> None:
    """L.3, L.4, S15, assertion 19: on without a value and with a good one, off with `false`, 400 for nonsense."""
    answers = await statuses(relay, *(("POST", f"/public/x?pubsub{value}") for value in ("", "=true", "=1", "=maybe")))
    assert answers == [200, 200, 200, 400]
    assert await statuses(relay, ("POST", "/public/pubsub/x")) == [200]
    async with relay.anybody() as http:
        waiting = asyncio.create_task(http.post("/public/x?pubsub=false", content="queued"))
        await relay.waits(senders=1)
        assert (await http.get("/public/x")).text == "queued"
        await waiting


async def test_paths_are_taken_as_they_are(relay: RelayNode) -> None:
    """L.5 to L.8: `/./` works, `//` is nothing, `%2F` is a slash, an empty name is one."""
    script = """
        for path in public/./x public/a%2Fb public/ u/guest/; do
            curl -sf --path-as-is "$URL/$path" >got & receiver=$!
            waiting receivers 1
            case $path in public/a%2Fb) path=public/a/b ;; public/./x) path=public/x ;; esac
            status "$URL/$path" -d "$path"
            wait $receiver
            cat got; echo
        done
        for path in public//x public/a//b u/guest public; do status --path-as-is "$URL/$path"; done
        status -H "Authorization: Bearer $ROOT" --path-as-is "$URL/u/.../x"
    """
    printed = (await relay.run(script)).split()
    names = ["public/x", "public/a/b", "public/", "u/guest/"]
    assert printed[:8] == [word for name in names for word in ("200", name)]
    assert set(printed[8:]) == {"404"}


async def test_a_request_has_any_method_and_a_name(relay: RelayNode) -> None:
    """L.11, L.19, L.22, L.41, assertions 24, 26 and 30: `?body=` is nothing to a request."""
    for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        reply = await answered(relay, "any", {"method": method, "params": {"body": "x"}}, content=method.encode())
        assert (reply.status_code, reply.text) == (200, method)
    head = await answered(relay, "any", {"method": "HEAD"}, content=b"never sent")
    assert (head.status_code, head.content) == (200, b"")
    assert await statuses(relay, ("POST", "/public/req/"), ("POST", "/public/res/")) == [400, 400]
    refused = await statuses(relay, ("GET", "/public/res/x?switch"), ("DELETE", "/public/res/x"))
    assert refused == [405, 405], "L.24"


async def test_who_takes_a_request_by_get_answers_it_next(relay: RelayNode) -> None:
    """L.13, L.24, L.41, S8, assertion 25: he sees where it was sent to, how, and by whom."""
    async with relay.anybody() as http:
        taking = asyncio.create_task(http.get("/public/res/door"))
        await relay.waits(receivers=1)
        asking = asyncio.create_task(
            http.put("/public/req/door?who=mia", content="open", headers={"user-agent": "a bell"})
        )
        request = await taking
        assert (request.text, request.headers["patch-method"]) == ("open", "PUT")
        assert request.headers["patch-uri"] == "/public/req/door?who=mia"
        assert request.headers["user-agent"] == "a bell"
        assert (await http.post("/public/res/door", content="opened")).status_code == 200
        assert (await asking).text == "opened"


async def test_a_switch_names_the_channel_of_its_answer(relay: RelayNode) -> None:
    """L.14, L.16, L.17, L.32, assertions 27 and 28: and the last post decides the status."""
    async with relay.anybody() as http:
        for wrong in ("", "  ", "a/b", "a?b", "x" * 129):
            assert (await http.post("/public/res/square?switch", content=wrong)).status_code == 400
        switching = asyncio.create_task(http.post("/public/res/square?switch=true", content=" reply-81f\n"))
        await relay.waits(receivers=1)
        typed = {"content-type": "application/json", "patch-h-user": "mia", "user-agent": "a caller"}
        asking = asyncio.create_task(http.post("/public/req/square?v=2", content='{"n":4}', headers=typed))
        request = await switching
        assert (request.status_code, request.text) == (200, '{"n":4}')
        told = {"content-type": "application/json", "patch-uri": "/public/req/square?v=2", "patch-h-user": "mia"}
        assert told.items() <= dict(request.headers).items()
        assert request.headers["patch-h-user-agent"] == "a caller"
        last = {"patch-status": "202", "content-type": "text/x-note"}
        assert (await http.post("/public/reply-81f", content="16", headers=last)).status_code == 200
        reply = await asking
        assert (reply.status_code, reply.text, reply.headers["content-type"]) == (202, "16", "text/x-note")
        assert (await http.post("/public/reply-81f", content="again")).status_code == 410


async def test_a_switch_works_in_the_space_of_a_user(relay: RelayNode) -> None:
    """L.9, L.15, A4, assertion 40: the answer is found at the bare name and below queue/."""
    async with relay.anybody() as http:
        for turn, posted in enumerate(("reply", "queue/reply")):
            switching = asyncio.create_task(http.post("/u/guest/res/job?switch", content=f"reply-{turn}"))
            await relay.waits(receivers=1)
            asking = asyncio.create_task(http.post("/u/guest/req/job", content="ask"))
            assert (await switching).text == "ask"
            assert (await http.post(f"/u/guest/{posted}-{turn}", content="done")).status_code == 200
            assert (await asking).text == "done"


async def test_the_text_of_a_link_goes_before_a_body(relay: RelayNode) -> None:
    """L.20, L.21: `?body=` wins over the body of a POST, whatever their lengths."""
    got = await taken(relay, "/public/x?body=short", content=b"a much longer body that nobody reads")
    assert (got.text, got.headers["content-length"]) == ("short", "5")


async def test_a_message_brings_its_headers(relay: RelayNode) -> None:
    """L.27, L.30, L.35, L.36, L.38, assertions 22 and 23: without prefix, all values, and no secret of the URL."""
    headers = [
        ("User-Agent", "a bell"),
        ("Accept", "x/y"),
        ("Patch-H-Trace", "t7"),
        ("Patch-H-Trace", "t8"),
        ("Content-Type", "text/one"),
        ("Patch-H-Content-Type", "text/two"),
    ]
    got = await taken(relay, "/public/x?a=b&secret=hush&sig=hush", headers=headers, content=b"m")
    assert got.headers.get_list("trace") == ["t7", "t8"]
    assert got.headers["content-type"] == "text/two"
    assert (got.headers["user-agent"], got.headers["accept"]) == ("a bell", "x/y")
    assert got.headers["patch-uri"] == "/public/x?a=b"
    assert "hush" not in str(got.headers)


async def test_what_says_nothing_about_itself_is_text_on_old_paths(relay: RelayNode) -> None:
    """L.37, assertion 22."""
    got = await taken(relay, "/public/x", content=b"m")
    assert got.headers["content-type"] == "text/plain"
    assert "deprecation" not in got.headers


async def test_an_answer_brings_its_status_and_headers(relay: RelayNode) -> None:
    """L.31, L.33, assertion 23: the responder's own client is not told of."""
    headers = {"patch-status": "418", "patch-h-x-room": "5", "user-agent": "a kettle", "content-type": "text/x-note"}
    reply = await answered(relay, "tea", {}, content=b"short and stout", headers=headers)
    assert (reply.status_code, reply.headers["x-room"], reply.text) == (418, "5", "short and stout")
    assert reply.headers["content-type"] == "text/x-note"
    assert not {"user-agent", "patch-status", "patch-uri"} & reply.headers.keys()


@pytest.mark.parametrize("junk", ["x", "99", "101", "199", "600", "1000", "2OO", ""])
async def test_a_status_that_is_none_is_refused_before_anything_is_claimed(relay: RelayNode, junk: str) -> None:
    """L.34, S11."""
    async with relay.anybody() as http:
        refused = await http.post("/public/res/tea", content=b"x", headers={"patch-status": junk})
        assert refused.status_code == 400


async def test_dangerous_headers_do_not_pass(relay: RelayNode) -> None:
    """L.39, L.40: lengths never, cookies and redirects from nobody without a token."""
    headers = {f"patch-h-{name}": "9" for name in ("content-length", "transfer-encoding", "connection", "set-cookie")}
    headers |= {"patch-h-location": "https://elsewhere.test", "patch-h-refresh": "0", "patch-h-fine": "yes"}
    got = await taken(relay, "/public/x", content=b"whole", headers=headers)
    assert (got.text, got.headers["fine"], got.headers["content-length"]) == ("whole", "yes", "5")
    assert not {"set-cookie", "location", "refresh", "transfer-encoding"} & got.headers.keys()
    owner = {"authorization": f"Bearer {relay.node.token}", "patch-h-set-cookie": "a=1"}
    assert (await taken(relay, "/public/x", content=b"m", headers=owner)).headers["set-cookie"] == "a=1"


async def test_pages_of_other_origins_need_leave(start_relay: StartRelay) -> None:
    """L.43, L.83, A9: it was on one answer only, for all; now it is on all, for those that the node names."""
    page = {"origin": "https://page.test"}
    relay = await start_relay(FORGE_CORS_ORIGINS="https://page.test", FORGE_RELAY_DEPRECATION="2027-01-01")
    async with relay.anybody(headers=page) as http:
        answer = await http.post("/public/x?pubsub", content=b"m")
        assert answer.headers["access-control-allow-origin"] == "https://page.test"
        assert answer.headers["deprecation"] == "@1798761600", "L.83"
        asked = await http.options("/public/x", headers=page | {"access-control-request-method": "POST"})
        assert asked.is_success
        assert "POST" in asked.headers["access-control-allow-methods"]
        stranger = await http.post("/public/x?pubsub", content=b"m", headers={"origin": "https://other.test"})
        assert "access-control-allow-origin" not in stranger.headers
        assert stranger.status_code in (200, 403)


async def test_hooks_are_not_there_unless_they_are_turned_on(start_relay: StartRelay) -> None:
    """L.44, L.45, L.64, L.73, assertion 14: nor is anything else that nobody allowed."""
    relay = await start_relay(FORGE_RELAY_HOOK_KEY="", FORGE_RELAY_ANONYMOUS="")
    requests = [("GET", "/h"), ("GET", "/r"), ("POST", "/h/x"), ("POST", "/public/x"), ("GET", "/p/x")]
    assert await statuses(relay, *requests, ("GET", "/metrics")) == [404, 404, 404, 401, 401, 401]
    async with relay.anybody(headers={"authorization": f"Bearer {relay.node.token}"}) as http:
        await relay.create("public")
        waiting = asyncio.create_task(http.get("/public/x"))
        await relay.waits(receivers=1)
        stopping = asyncio.create_task(relay.node.stop())
        stopped = await waiting
        assert (stopped.status_code, stopped.headers["retry-after"].isdigit()) == (503, True)
        assert await stopping == 0, f"{signal.SIGTERM.name} ends it well"


async def test_hook_secrets_are_those_of_older_nodes_with_the_same_key(relay: RelayNode) -> None:
    """L.44, L.46, assertions 2, 3, 4 and 14 to 16: HMAC-SHA256 of `h:<channel>` or `r:<channel>`, in hex."""
    import hmac

    async with relay.anybody() as http:
        for space in ("h", "r"):
            assert (await http.post(f"/{space}")).status_code == 405
            made = [(await http.get(f"/{space}")).json() for _ in range(2)]
            assert made[0]["channel"] != made[1]["channel"]
            assert [len(part) for part in made[0]["channel"].split("-")] == [8, 4, 4, 4, 12]
            for one in made:
                text = f"{space}:{one['channel']}".encode()
                assert one["secret"] == hmac.new(b"key of hooks", text, "sha256").hexdigest()


async def test_what_is_no_more_says_where_to_go(relay: RelayNode) -> None:
    """L.49 to L.52, L.75 to L.78, assertion 13: 410 or 400 with a pointer, 404 for what has none."""
    async with relay.anybody() as http:
        for name, pointer in (("ntfy", "/messages"), ("invalidate_cache", "at once")):
            gone = await http.post(f"/u/guest/_/{name}")
            assert gone.status_code == 410
            assert pointer in gone.text
        for query, pointer in (("type=fifo", "queue"), ("mime=a/b", "Content-Type"), ("persist=true", "events/stream")):
            old = await http.get(f"/public/x?{query}")
            assert old.status_code == 400
            assert pointer in old.text
        assert (await http.get("/public/x", headers={"pw-h-trace": "1"})).status_code == 400
        basic = await http.get("/u/guest/x", headers={"authorization": "Basic YTpi"})
        assert basic.status_code == 401
    nothing = ("/u/guest/_/other", "/huproxy/alice/host/22", "/k/x", "/b/x", "/w/x", "/g/x", "/", "/favicon.ico")
    for path in (*nothing, "/robots.txt", "/.well-known/x", "/static/x.css", "/elsewhere"):
        assert await statuses(relay, ("GET", path)) == [404], path


async def test_tokens_cover_what_is_done_at_a_channel(relay: RelayNode) -> None:
    """L.57, L.59, L.60, assertions 12, 33 and 38: an action below a prefix, which ends where a segment does."""
    await relay.create("alice")
    async with relay.node.http() as http:
        scopes = [{"action": "stream.write", "db_id": "alice", "resource_prefix": "queue/jobs"}]
        made = await http.post("/api/v1/admin/tokens", json={"label": "jobs", "scopes": scopes, "url": True})
    token = made.json()["token"]
    asked = [
        ("POST", f"/u/alice/{name}?pubsub&token={token}") for name in ("queue/jobs", "queue/jobs/1", "queue/jobs2")
    ]
    assert await statuses(relay, *asked) == [200, 200, 403]
    refused = await statuses(relay, ("POST", "/u/alice/queue/jobs"), ("GET", "/u/alice/queue/jobs?token=wrong"))
    assert refused == [401, 401]


async def test_a_node_tells_of_itself(relay: RelayNode) -> None:
    """L.61 to L.63, L.66, L.67, assertions 7 and 31: metrics have other names and need a token."""
    async with relay.anybody() as http:
        plain = await http.get("/healthz", headers={"accept": "text/plain"})
        assert (plain.text, plain.headers["content-type"]) == ("OK!\n", "text/plain; charset=utf-8")
        assert (await http.get("/healthz")).json() == {"status": "ok"}
        client = await http.get("/static/patchwork.sh")
        assert client.text.startswith("#!/bin/sh\n")
        assert (await http.get("/metrics")).status_code == 401
    async with relay.node.http() as http:
        metrics = (await http.get("/metrics")).text
        assert (await http.get("/status")).json()["version"]
    assert "# TYPE forge_http_requests_total counter" in metrics
    assert "# HELP forge_relay_messages_total" in metrics
    assert "patchwork_" not in metrics


async def test_a_node_is_started_and_warns_of_old_settings(start_relay: StartRelay) -> None:
    """L.68, L.70, L.72, L.74: their values, and what stood in a URL, are in no log."""
    relay = await start_relay(SECRET_KEY="canary-1", PATCHWORK_BIND_ADDR="canary-2", FORGE_LOG_LEVEL="debug")
    assert (
        await statuses(relay, ("POST", "/public/x?pubsub&token=canary-3"), ("POST", "/h/x?secret=canary-4"))
        == [401] * 2
    )
    log = relay.node.log.read_text()
    assert "SECRET_KEY" in log
    assert "FORGE_LISTEN" in log
    assert "canary" not in log


async def test_canonical_paths_meet_the_old_ones(relay: RelayNode) -> None:
    """L.81, L.82, A3, assertions 38, 39 and 41: the same channels, with types and problems of their own."""
    await relay.create("public")
    base = "/api/v1/db/public/streams"
    async with relay.node.http() as http:
        waiting = asyncio.create_task(http.get(f"{base}/queue/jobs/next"))
        await relay.waits(receivers=1)
        assert (await http.post("/p/queue/jobs", content=b"job")).status_code == 200
        assert (await waiting).text == "job"
        sent = await http.post(f"{base}/queue/jobs?pubsub", content=b"all")
        assert (sent.status_code, sent.headers["patch-delivered"]) == (200, "0")
        responding = asyncio.create_task(
            http.post("/public/res/greet", content=b"hi", headers={"patch-status": "201", "patch-h-x-custom": "c"})
        )
        await relay.waits(receivers=1)
        reply = await http.post(f"{base}/req/greet", content=b"")
        assert (reply.status_code, reply.headers["x-custom"], reply.text) == (201, "c", "hi")
        await responding
        wrong = await http.post(f"{base}/res/greet?switch", content=b"a/b")
        assert (wrong.status_code, wrong.headers["content-type"]) == (400, "application/problem+json")
