"""Any order of lease requests, with a clock that jumps both ways, against a small model; then the fold again."""

import asyncio
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import httpx2
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from forge.stack.nats import NatsServer
from schemas.instants import parse_instant
from tests.control import ROOT_TOKEN
from tests.leasing import Leasing, served_leases

RESOURCES, OWNERS = ("jobs/nightly", "jobs/daily"), ("ada", "bob")
resources, owners = st.sampled_from(RESOURCES), st.sampled_from(OWNERS)
ttls = st.sampled_from((1, 5, 30, 3600))
_numbers = itertools.count(1)


class Served:
    """Leases served by an event loop in another thread, since a state machine cannot await."""

    def __init__(self, directory: Path) -> None:
        self.leasing: Leasing
        self._directory = directory
        self._ready, self._stop = threading.Event(), asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))

    async def _serve(self) -> None:
        async with NatsServer(self._directory / "nats") as server, served_leases(server, self._directory) as leasing:
            self.leasing = leasing
            self._ready.set()
            await self._stop.wait()

    def __enter__(self) -> "Served":
        self._thread.start()
        assert self._ready.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(60)
        self._loop.close()


class Lease:
    """What the model knows of the newest lease of a resource."""

    def __init__(self, owner: str, token: str, fence: int, expires_at: str) -> None:
        self.owner, self.token, self.fence, self.expires_at = owner, token, fence, expires_at


class Leases(RuleBasedStateMachine):
    """The rules are requests; the model is a dictionary and one rule: whoever is not over yet holds."""

    served: ClassVar[Served]
    http: ClassVar[httpx2.Client]

    def __init__(self) -> None:
        super().__init__()
        self.db_id = f"model-{next(_numbers)}"
        self.newest: dict[str, Lease] = {}
        self.fences: dict[str, int] = {}
        self.latest = ""  # the document's clock never goes back
        self.served.leasing.clock.ahead_s = 0.0
        self._post("/api/v1/db", {"db_id": self.db_id}, 201)

    def _post(self, path: str, body: Any, *statuses: int, **headers: str) -> httpx2.Response:
        answer = self.http.post(self.served.leasing.url + path, json=body, headers=headers)
        assert answer.status_code in statuses, answer.text
        return answer

    def _lease(self, verb: str, resource: str, owner: str, **more: Any) -> httpx2.Response:
        body = {"resource": resource, "owner": owner} | more
        return self._post(f"/api/v1/db/{self.db_id}/leases/{verb}", body, 200, 401, 404, 409)

    def _between(self, before: str, lease: Lease) -> tuple[bool, bool]:
        """Return whether a lease may, and whether it must have been over when it was decided about it."""
        after = self.served.leasing.clock()
        return max(after, self.latest) >= lease.expires_at, max(before, self.latest) >= lease.expires_at

    def _note(self, moment: str) -> None:
        self.latest = max(self.latest, moment)

    @rule(resource=resources, owner=owners, ttl=ttls)
    def acquire(self, resource: str, owner: str, ttl: int) -> None:
        lease, before = self.newest.get(resource), self.served.leasing.clock()
        answer = self._lease("acquire", resource, owner, ttl_seconds=ttl)
        may, must = self._between(before, lease) if lease else (True, True)
        if answer.status_code == 409:
            assert not must
            return
        assert may
        held = answer.json()
        assert held["fence"] == self.fences.get(resource, 0) + 1
        self.fences[resource] = held["fence"]
        self.newest[resource] = Lease(owner, held["token"], held["fence"], held["expires_at"])
        self._note_grant(held["expires_at"], ttl)

    def _note_grant(self, expires_at: str, ttl: int) -> None:
        from schemas.instants import later

        granted_at = later(expires_at, -ttl)
        assert parse_instant(granted_at) >= parse_instant(self.latest or granted_at)
        self._note(granted_at)

    @rule(resource=resources, owner=owners, own=st.booleans(), ttl=ttls)
    def renew(self, resource: str, owner: str, own: bool, ttl: int) -> None:
        lease, before = self.newest.get(resource), self.served.leasing.clock()
        token = lease.token if lease and own else "lse_another"
        answer = self._lease("renew", resource, owner, token=token, ttl_seconds=ttl)
        if lease is None:
            assert answer.status_code == 404
        elif lease.owner != owner:
            assert answer.status_code == 409
        elif not own:
            assert answer.status_code == 401
        else:
            may, must = self._between(before, lease)
            assert answer.status_code == 404 if must else answer.status_code == 200 or may
            if answer.status_code == 200:
                assert answer.json()["fence"] == lease.fence
                lease.expires_at = answer.json()["expires_at"]
                self._note_grant(lease.expires_at, ttl)

    @rule(resource=resources, owner=owners, own=st.booleans())
    def release(self, resource: str, owner: str, own: bool) -> None:
        lease = self.newest.get(resource)
        before = self.served.leasing.clock()
        token = lease.token if lease and own else "lse_another"
        answer = self._lease("release", resource, owner, token=token)
        if lease is None:
            assert answer.status_code == 404
        elif lease.owner != owner:
            assert answer.status_code == 409
        elif not own:
            assert answer.status_code == 401
        else:
            assert answer.status_code == 200
            lease.expires_at = min(lease.expires_at, max(before, self.latest))
            self._note(self._shown(resource)["updated_at"])

    @rule(resource=resources, behind=st.integers(-1, 1))
    def write_with_a_fence(self, resource: str, behind: int) -> None:
        fence = self.fences.get(resource, 0) + behind
        lease, before = self.newest.get(resource), self.served.leasing.clock()
        if fence < 1:
            return
        body = {"resource": "elsewhere", "owner": "ada", "token": "none"}
        headers = {"If-Fence": f"{resource}={fence}"}
        answer = self._post(f"/api/v1/db/{self.db_id}/leases/renew", body, 404, 412, **headers)
        if lease is None or behind:
            assert answer.status_code == 412
        else:
            may, must = self._between(before, lease)
            assert answer.status_code == 412 if must else answer.status_code == 404 or may

    @rule(seconds=st.sampled_from((-7200.0, -10.0, -1.0, 0.5, 1.0, 5.0, 31.0, 3600.0)))
    def the_clock_jumps(self, seconds: float) -> None:
        self.served.leasing.clock.ahead_s += seconds

    def _shown(self, resource: str) -> Any:
        answer = self.http.get(f"{self.served.leasing.url}/api/v1/db/{self.db_id}/leases/{resource}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    @invariant()
    def what_is_read_is_what_happened(self) -> None:
        for resource, lease in self.newest.items():
            shown = self._shown(resource)
            assert (shown["fence"], shown["owner"]) == (lease.fence, lease.owner)
            fences = [one["fence"] for one in shown["history"]]
            assert fences == list(range(lease.fence, 0, -1))[: len(fences)]
            ends = [one["expires_at"] for one in shown["history"]]
            starts = [one["acquired_at"] for one in shown["history"]]
            assert all(end <= start for end, start in zip(ends[1:], starts, strict=False)), "two held it at once"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """Serve leases."""
    with (
        Served(tmp_path) as running,
        httpx2.Client(headers={"authorization": f"Bearer {ROOT_TOKEN}"}, timeout=30) as http,
    ):
        Leases.served, Leases.http = running, http
        yield running


def _machine(examples: int, steps: int) -> None:
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    run_state_machine_as_test(
        Leases,
        settings=settings(max_examples=examples, stateful_step_count=steps, suppress_health_check=checks),
    )


@pytest.mark.usefixtures("served")
def test_any_order_of_requests_keeps_to_the_model() -> None:
    """P6.2 to P6.5, P6.7: one holder at a time, fences that only grow, whatever the clock does."""
    _machine(25, 30)


@pytest.mark.long
@pytest.mark.usefixtures("served")
def test_any_order_of_requests_keeps_to_the_model_for_long() -> None:
    """P6.2 to P6.5, P6.7."""
    _machine(400, 80)
