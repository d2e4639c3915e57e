"""The client's leases against a peer that misbehaves: held, renewed, lost, and never thought held for too long."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from forge.client import ForgeClient, ForgeError, HeldLease, LeaseLost, Retry
from schemas.fences import Fence
from tests.unit.http_peer import HANG_UP, Answer, Peer, Request, serving
from tests.waiting import until

TTL_S = 4  # so that a stall of the machine does not end it


@dataclass
class Node:
    """Grants everything, unless a test says otherwise for a verb."""

    verbs: list[str] = field(default_factory=list)
    instead: dict[str, Callable[[], Answer]] = field(default_factory=dict)
    granted: int = 0

    def __call__(self, request: Request) -> Answer:
        """Answer one request."""
        verb = request.path.rpartition("/")[2]
        self.verbs.append(verb)
        if verb in self.instead:
            return self.instead[verb]()
        if verb == "exec":
            return Answer(200, {"class": "write", "rows_affected": 1})
        body: dict[str, Any] = {name: request.json()[name] for name in ("resource", "owner")}
        match verb:
            case "acquire":
                self.granted += 1
                return Answer(200, body | {"fence": self.granted, "token": "lse_x", "expires_at": "x"})
            case "renew":
                return Answer(200, body | {"fence": self.granted, "expires_at": "x", "renewed": True})
        return Answer(200, body | {"released": True})


@asynccontextmanager
async def client_of(node: Node) -> AsyncIterator[tuple[ForgeClient, Peer]]:
    """Give a client that does not wait between attempts."""

    async def no_wait(_: float) -> None:
        await asyncio.sleep(0)

    async with serving(node) as peer, ForgeClient(peer.url, "t", retry=Retry(attempts=2), sleep=no_wait) as client:
        yield client, peer


def problem(status: int, slug: str) -> Answer:
    """Return a refusal."""
    return Answer(status, {"type": f"urn:forge:problem:{slug}", "title": slug, "status": status, "detail": slug})


def held(client: ForgeClient, **more: Any) -> HeldLease:
    """Return a lease of some seconds."""
    return client.db("jobs").lease("nightly", owner="me", ttl_s=TTL_S, **more)


async def for_ever(lease: HeldLease) -> None:
    """Hold a lease until it is lost, which must be noticed before it ends."""
    async with lease:
        try:
            await asyncio.Event().wait()
        finally:
            assert lease.left_s > 0


async def test_a_lease_is_renewed_while_the_block_runs_and_released_after() -> None:
    """P6.3, P6.4: and its number goes with changes."""
    node = Node()
    async with client_of(node) as (client, peer):
        async with held(client) as lease:
            assert (lease.fence, str(lease)) == (1, "nightly=1")
            await client.db("jobs").exec("x", fences=[lease, Fence(resource="other", fence=3)])
            await until(lambda: node.verbs.count("renew") >= 2)
        assert node.verbs[-1] == "release"
        assert peer.requests[1].headers["if-fence"] == "nightly=1, other=3"


@pytest.mark.parametrize(("status", "slug"), [(404, "lease-not-held"), (409, "lease-held"), (401, "lease-token")])
async def test_who_loses_the_lease_is_stopped(status: int, slug: str) -> None:
    """P6.7: the block does not go on, and what it does at its end does not wait for the node."""
    node = Node(instead={"renew": lambda: problem(status, slug)})
    async with client_of(node) as (client, _):
        lease = held(client)
        with pytest.raises(LeaseLost, match=slug):
            await for_ever(lease)
        assert lease.lost
        assert "release" not in node.verbs
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0


@pytest.mark.parametrize("answer", [HANG_UP, problem(503, "unavailable"), problem(500, "internal")])
async def test_a_lease_that_cannot_be_renewed_is_given_up_before_it_ends(answer: Answer) -> None:
    """P6.5: the holder stops by its own clock."""
    node = Node(instead={"renew": lambda: answer})
    async with client_of(node) as (client, _):
        lease = held(client)
        with pytest.raises(LeaseLost, match="in time"):
            await for_ever(lease)


async def test_one_renewal_that_fails_is_tried_again() -> None:
    """P6.3: before the lease ends."""
    answers = [problem(503, "unavailable"), problem(503, "unavailable")]
    node = Node()

    def renew() -> Answer:
        if answers:
            return answers.pop()
        del node.instead["renew"]
        return HANG_UP

    node.instead["renew"] = renew
    async with client_of(node) as (client, _):
        async with held(client):
            await until(lambda: node.verbs.count("renew") >= 5)
        assert node.verbs[-1] == "release"


async def test_who_is_cancelled_gives_the_lease_back() -> None:
    """P6.4: a cancellation stays one, also of a block whose own error comes out."""
    node = Node()
    async with client_of(node) as (client, _):
        task = asyncio.create_task(for_ever(held(client)))
        await until(lambda: "renew" in node.verbs)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(KeyError):
            async with held(client):
                raise KeyError
        assert node.verbs[-1] == "release"


async def test_waiting_goes_on_beyond_what_one_request_waits() -> None:
    """P6.2: with one key, so that no answer is lost; for no longer than was asked."""
    answers = [problem(409, "lease-held"), HANG_UP, problem(409, "lease-held"), problem(422, "unprocessable")]
    node = Node()

    def acquire() -> Answer:
        if len(answers) == 1:
            del node.instead["acquire"]
        return answers.pop(0)

    node.instead["acquire"] = acquire
    async with client_of(node) as (client, peer):
        async with held(client) as lease:
            assert lease.fence == 1
        asked = [request for request in peer.requests if request.path.endswith("acquire")]
        keys = [request.headers["idempotency-key"] for request in asked]
        assert len(asked) == 5
        assert len(set(keys[:4])) == 1
        assert keys[4] != keys[0]
        assert 0 < asked[0].json()["wait_seconds"] <= 60

        node.instead["acquire"] = lambda: problem(409, "lease-held")
        with pytest.raises(ForgeError) as refused:
            await client.db("jobs").leases.acquire("nightly", "me", wait_s=0)
        assert refused.value.status == 409
