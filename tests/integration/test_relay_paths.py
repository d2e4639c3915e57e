"""The paths of the relay: canonical ones, those of older clients, who may use them, and what they refuse."""

import asyncio
from collections.abc import AsyncIterator

import httpx2
import pytest

from api.rates import Rate
from api.relay.hooks import secret_of
from tests.relaying import AUTH, HOOK_KEY, TOKEN, Relaying, hang_up, relaying

STREAMS = "/api/v1/db/home/streams"


@pytest.fixture
async def served() -> AsyncIterator[Relaying]:
    async with relaying() as running:
        yield running
        await running.quiet()


async def passes(served: Relaying, sender: str, receiver: str, *, client: httpx2.AsyncClient | None = None) -> None:
    """Show that what is posted to `sender` is got from `receiver`."""
    async with served.client() as other:
        client = client or other
        receiving = asyncio.create_task(client.get(receiver))
        await served.receivers(1)
        assert (await client.post(sender, content=b"through")).status_code == 200
        assert (await receiving).content == b"through"


@pytest.mark.parametrize("topic", ["jobs", "a/b/c", "next", "a/next", "next/next", "a%2Fnext", "%C3%A4 b"])
async def test_a_topic_may_have_any_name(served: Relaying, topic: str) -> None:
    """P4.6, P4.7: also `next`, and what ends in it."""
    await passes(served, f"{STREAMS}/queue/{topic}", f"{STREAMS}/queue/{topic}/next")
    await passes(served, f"{STREAMS}/queue/{topic}", f"{STREAMS}/queue/{topic.replace('%2F', '/')}/next")


@pytest.mark.parametrize(
    ("sender", "receiver"),
    [
        ("/public/x", "/p/x"),
        ("/p/queue/x", "/public/queue/x"),
        ("/public/queue/x", "/api/v1/db/public/streams/queue/x/next"),
        ("/u/home/queue/x", f"{STREAMS}/queue/x/next"),
        ("/u/home/x", "/u/home/x"),
        ("/public/a%2Fb", "/public/a/b"),
        ("/u/home/", "/u/home/"),
        ("/p/req", "/p/req"),
        ("/p/_/x", "/p/_/x"),
    ],
)
async def test_older_paths_are_channels_of_documents(served: Relaying, sender: str, receiver: str) -> None:
    """P4.10, A1-A3, A5."""
    await passes(served, sender, receiver)


async def test_a_dot_in_an_older_path_works_and_two_slashes_do_not(served: Relaying) -> None:
    """A5: the path is not cleaned, nobody is redirected."""
    lines = b"\r\nHost: forge\r\nContent-Length: 3\r\nConnection: close\r\n\r\ndot"
    async with served.client() as client:
        receiving = asyncio.create_task(client.get("/public/x"))
        await served.receivers(1)
        reader, writer = await served.raw(b"POST /public/./x HTTP/1.1" + lines)
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
        assert (await receiving).content == b"dot"
        await hang_up(writer)
        for path in (b"/public//x", b"/public/a//b", b"/p//x", b"/public/.//x"):
            reader, writer = await served.raw(b"POST " + path + b" HTTP/1.1" + lines)
            assert (await reader.read()).startswith(b"HTTP/1.1 404"), path
            await hang_up(writer)
        assert (await client.post(f"{STREAMS}/queue/a//b", content=b"x")).status_code == 404


@pytest.mark.parametrize("one", ["x", "queue/x", "pubsub/x"])
async def test_channels_of_different_names_are_different(served: Relaying, one: str) -> None:
    """A3: a broadcast does not take the turn of a worker."""
    async with served.client() as client:
        for other in {"x", "queue/x", "pubsub/x"} - {one}:
            assert (await client.get(f"/p/{other}?timeout=0.05")).status_code == 408
        waiting = [asyncio.create_task(client.get(f"/p/{name}?timeout=60")) for name in {"x", "queue/x"} - {one}]
        await served.receivers(len(waiting))
        assert (await client.post(f"/p/{one}?pubsub", content=b"b")).headers["patch-delivered"] == "0"
        for name in {"x", "queue/x"} - {one}:
            await client.post(f"/p/{name}", content=name.encode())
        assert sorted([(await got).text for got in waiting]) == sorted({"x", "queue/x"} - {one})


async def test_a_channel_for_broadcasts_broadcasts(served: Relaying) -> None:
    """A.3: with nobody there at once."""
    async with served.client() as client:
        assert (await client.post("/p/pubsub/x", content=b"x")).headers["patch-delivered"] == "0"
        receiving = asyncio.create_task(client.get("/p/pubsub/x"))
        await served.receivers(1)
        assert (await client.get("/p/pubsub/x?body=hi")).headers["patch-delivered"] == "1"
        assert (await receiving).text == "hi"


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "DELETE", "PATCH"])
async def test_a_channel_takes_few_methods_and_a_request_any(served: Relaying, method: str) -> None:
    """P4.8, 2.2: 405 with Allow, in plain text; requests tell the method."""
    async with served.client() as client:
        refused = await client.request(method, "/p/x")
        assert (refused.status_code, refused.headers["allow"]) == (405, "GET, POST, PUT")
        answering = asyncio.create_task(client.post("/p/res/x", content=b"a"))
        await served.receivers(1)
        assert (await client.request(method, "/p/req/x")).status_code == 200
        assert (await answering).headers["patch-method"] == method


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/p/req/", 400),
        ("POST", "/p/res/", 400),
        ("GET", "/p/res/x?switch", 405),
        ("DELETE", "/p/res/x", 405),
        ("GET", "/p/x?type=fifo", 400),
        ("GET", "/p/x?persist=true", 400),
        ("GET", "/p/x?mime=a", 400),
        ("POST", "/p/x?unpersist=true", 400),
        ("GET", "/p", 404),
        ("GET", "/u/home", 404),
        ("GET", "/u/a%20b/x", 404),
        ("GET", "/u/nobody/x", 404),
        ("POST", "/u/home/_/invalidate_cache", 410),
        ("POST", "/u/home/_/ntfy", 410),
        ("POST", "/u/home/_/other", 404),
        ("POST", "/p/" + "x" * 600, 404),
    ],
)
async def test_what_is_wrong_is_refused_in_a_line_of_text(
    served: Relaying, method: str, path: str, status: int
) -> None:
    """A9, G1: so that scripts that print what they get print something readable."""
    async with served.client() as client:
        answer = await client.request(method, path, content=b"x")
        assert answer.status_code == status
        if not path.endswith(("/p", "/u/home")):  # which are no paths of the relay
            assert answer.headers["content-type"] == "text/plain; charset=utf-8"
            assert len(answer.text.splitlines()) == 1


async def test_looking_takes_no_message_and_sends_none(served: Relaying) -> None:
    """S1: HEAD is not a GET here, which would take the message and show nobody its body."""
    async with served.client() as client:
        sending = asyncio.create_task(client.post(f"{STREAMS}/queue/jobs", content=b"job"))
        await served.senders(1)
        for path in ("queue/jobs/next", "queue/jobs?body=x", "res/jobs"):
            looked = await client.head(f"{STREAMS}/{path}")
            assert (looked.status_code, looked.headers["allow"]) == (405, "GET, POST, PUT")
        assert (await client.get(f"{STREAMS}/queue/jobs/next")).content == b"job"
        assert (await sending).status_code == 200


async def test_headers_of_the_first_generation_are_named(served: Relaying) -> None:
    """G1."""
    async with served.client() as client:
        answer = await client.post("/p/x", content=b"x", headers={"pw-h-a": "b"})
        assert answer.status_code == 400
        assert "Patch-H-" in answer.text


WRITES = [
    ("POST", "x"),
    ("PUT", "x"),
    ("GET", "x?body=b"),
    ("POST", "x?pubsub"),
    ("POST", "req/x"),
    ("GET", "req/x"),
    ("DELETE", "req/x"),
    ("POST", "res/x"),
    ("GET", "res/x"),
    ("POST", "res/x?switch"),
]


@pytest.mark.parametrize(("method", "rest"), WRITES)
async def test_who_may_only_receive_cannot_send(served: Relaying, method: str, rest: str) -> None:
    """P4.11, A7: on aliases and canonical paths, by whatever form."""
    reads = served.mint("reads", ("stream.read", "*", ""))
    writes = served.mint("writes", ("stream.write", "*", ""))
    mark = "&" if "?" in rest else "?"
    canonical = rest if rest.startswith("re") else f"queue/{rest}"
    async with served.client() as client:
        for path in (f"/u/home/{rest}", f"/p/{rest}", f"{STREAMS}/{canonical}"):
            refused = await client.request(method, path, content=b"n", headers={"authorization": reads})
            assert refused.status_code == 403, path
            late = f"{path}{mark}timeout=0.05"
            allowed = await client.request(method, late, content=b"n", headers={"authorization": writes})
            assert allowed.status_code in (200, 408), path


async def test_who_may_only_send_cannot_receive(served: Relaying) -> None:
    """P4.11."""
    writes = served.mint("writes", ("stream.write", "*", ""))
    async with served.client(headers={"authorization": writes}) as client:
        for path in ("/u/home/x", "/p/queue/x", f"{STREAMS}/queue/x/next"):
            assert (await client.get(path)).status_code == 403


@pytest.mark.parametrize(
    ("prefix", "path", "allowed"),
    [
        ("queue/jobs", "/u/home/queue/jobs", True),
        ("queue/jobs", "/u/home/queue/jobs/1", True),
        ("queue/jobs", f"{STREAMS}/queue/jobs/next", True),
        ("queue/jobs", f"{STREAMS}/queue/jobs/next/next", True),
        ("queue/jobs", "/u/home/queue/jobs2", False),
        ("queue/jobs", "/u/home/jobs", False),
        ("queue/jobs", f"{STREAMS}/queue/jobs2/next", False),
        ("jobs", "/u/home/jobs", True),
        ("jobs", f"{STREAMS}/queue/jobs/next", False),
    ],
)
async def test_a_scope_reaches_channels_below_its_prefix(
    served: Relaying, prefix: str, path: str, allowed: bool
) -> None:
    """P4.11, G-27."""
    token = served.mint("narrow", ("stream.read", "home", prefix))
    async with served.client(headers={"authorization": token}) as client:
        assert (await client.get(f"{path}?timeout=0.05")).status_code == (408 if allowed else 403)


async def test_a_token_is_taken_from_the_address_if_it_was_made_for_that(served: Relaying) -> None:
    """A8, A.9: and it does not travel on."""
    for_urls = served.mint("for-urls", ("stream.write", "home", ""), url=True)
    served.mint("other", ("stream.write", "home", ""))
    async with served.client(headers={}) as anybody, served.client() as client:
        receiving = asyncio.create_task(client.get("/u/home/x"))
        await served.receivers(1)
        assert (await anybody.post(f"/u/home/x?token={for_urls}&a=b", content=b"hi")).status_code == 200
        received = await receiving
        assert received.headers["patch-uri"] == "/u/home/x?a=b"
        for token in ("other", "unknown", TOKEN):
            assert (await anybody.post(f"/u/home/x?token={token}", content=b"hi")).status_code == 401
        for form in ("Bearer {}", "token {}", "{}"):
            headers = {"authorization": form.format("other")}
            assert (await anybody.post("/u/home/x?timeout=0.05", content=b"", headers=headers)).status_code == 408


async def test_everybody_may_use_the_documents_that_the_node_names(served: Relaying) -> None:
    """A6, A.10: and no other one; a wrong token stays wrong."""
    async with served.client(headers={}) as anybody:
        await passes(served, "/p/x", "/public/x", client=anybody)
        await passes(served, "/p/queue/x", "/api/v1/db/public/streams/queue/x/next", client=anybody)
        assert (await anybody.get("/u/home/x")).status_code == 401
        assert (await anybody.get(f"{STREAMS}/queue/x/next")).status_code == 401
        assert (await anybody.get("/p/x", headers={"authorization": "wrong"})).status_code == 401
    async with relaying(anonymous=()) as closed, closed.client(headers={}) as anybody:
        assert (await anybody.get("/p/x")).status_code == 401
    async with relaying(anonymous=("home",)) as open_home, open_home.client(headers={}) as anybody:
        await passes(open_home, "/u/home/x", "/u/home/x", client=anybody)


async def test_quick_requests_of_one_address_are_limited() -> None:
    """A.16: twenty pass, then 429 in a line of text, with Retry-After."""
    slow = Rate(0.001, 20)  # so that none comes back while the test runs, on however busy a machine
    async with relaying(rate=slow) as served, served.client(headers={}) as anybody:
        answers = [await anybody.post("/p/x?pubsub", content=b"x") for _ in range(25)]
        assert [one.status_code for one in answers] == [200] * 20 + [429] * 5
        refused = answers[20:]
        assert all(int(one.headers["retry-after"]) >= 1 and len(one.text.splitlines()) == 1 for one in refused)


async def test_a_head_takes_nothing(served: Relaying) -> None:
    """P4.6: it would lose the message, or the request, that it takes."""
    async with served.client() as client:
        for path in ("queue/x/next", "queue/x?body=b", "res/x"):
            assert (await client.head(f"{STREAMS}/{path}")).status_code == 405
        answering = asyncio.create_task(client.post(f"{STREAMS}/res/x", content=b"a"))
        await served.receivers(1)
        assert (await client.head(f"{STREAMS}/req/x")).status_code == 200
        assert (await answering).headers["patch-method"] == "HEAD"


async def test_a_document_that_is_not_there_has_no_channels(served: Relaying) -> None:
    """P4.6."""
    async with served.client() as client:
        assert (await client.get("/api/v1/db/nowhere/streams/queue/x/next")).status_code == 404


async def test_hooks_need_their_secret_where_they_say_so(served: Relaying) -> None:
    """A.17, G-6: also by PUT, by link, and for requests; the secret does not travel on."""
    async with served.client(headers={}) as anybody, served.client(headers=AUTH) as root:
        made = (await anybody.get("/h")).json()
        channel, secret = made["channel"], made["secret"]
        assert secret == secret_of(HOOK_KEY, "h", channel)
        receiving = asyncio.create_task(anybody.get(f"/h/{channel}"))
        await served.receivers(1)
        assert (await anybody.post(f"/h/{channel}?secret={secret}&a=b", content=b"hi")).status_code == 200
        assert (await receiving).headers["patch-uri"] == f"/h/{channel}?a=b"
        for query in ("", "?secret=", "?secret=wrong", f"?secret={secret.upper()}", f"?secret={secret}x"):
            assert (await anybody.post(f"/h/{channel}{query}", content=b"x")).status_code == 401, query
        assert (await anybody.get(f"/h/{channel}?body=x")).status_code == 401
        assert (await root.get(f"/h/{channel}?body=x")).status_code == 401
        assert (await anybody.put(f"/h/{channel}", content=b"x")).status_code == 405
        assert (await anybody.get(f"/h/{channel}/below?secret={secret}&body=x")).status_code == 401

        made = (await anybody.get("/r")).json()
        channel, secret = made["channel"], made["secret"]
        receiving = asyncio.create_task(anybody.get(f"/r/{channel}?secret={secret}"))
        await served.receivers(1)
        assert (await anybody.post(f"/r/{channel}", content=b"hi")).status_code == 200
        assert (await receiving).content == b"hi"
        for path in (channel, f"req/{channel}", f"res/{channel}"):
            assert (await anybody.get(f"/r/{path}")).status_code == 401
        assert (await anybody.post(f"/r/req/{channel}", content=b"x")).status_code == 401
        assert (await anybody.post("/h", content=b"x")).status_code == 405
