"""Routes about the node itself: is it alive, is it ready, what is it doing, what does it measure."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest

from api.routes import ANY_METHOD, PUBLIC, Reply, Request, Route

SCOPE = "system.read"
JSON = {200: ("application/json",)}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must hold for the node to be ready: what was seen, what is required, how to mend it.

    `data_at_risk` says that waiting does not mend it, and that going on could lose data.
    """

    name: str
    ok: bool
    value: str
    limit: str
    fix: str
    data_at_risk: bool = False


@dataclass(frozen=True, slots=True)
class SystemApi:
    """The handlers. `checks` and `status` look at the node afresh; `refresh` sets gauges before a scrape."""

    checks: Callable[[], Awaitable[Sequence[Check]]]
    status: Callable[[], Awaitable[dict[str, Any]]]
    refresh: Callable[[], Awaitable[None]]

    def routes(self) -> Sequence[Route]:
        """Return the route table."""
        return (
            Route(
                ANY_METHOD,
                "/healthz",
                PUBLIC,
                self.healthz,
                summary="The process answers",
                replies={200: "alive"},
                media={200: ("application/json", "text/plain")},
            ),
            Route(
                "GET",
                "/readyz",
                PUBLIC,
                self.readyz,
                summary="Each check with its value",
                replies={200: "ready", 503: "not ready"},
                media={**JSON, 503: ("application/json",)},
            ),
            Route(
                "GET",
                "/status",
                SCOPE,
                self.status_reply,
                summary="What the node is doing",
                replies={200: "state"},
                media=JSON,
            ),
            Route(
                "GET",
                "/metrics",
                SCOPE,
                self.metrics,
                summary="Prometheus metrics",
                replies={200: "text"},
                media={200: ("text/plain",)},
            ),
        )

    async def healthz(self, request: Request[None]) -> Reply:
        """Answer; says nothing about anything else. Who accepts text first gets the text of older servers."""
        if request.headers.get("accept", "").lower().startswith("text/plain"):
            return Reply(200, b"OK!\n", content_type="text/plain; charset=utf-8")
        return Reply(200, {"status": "ok"})

    async def readyz(self, _: Request[None]) -> Reply:
        """Say whether work can be done here, and if not, why."""
        checks = await self.checks()
        ready = all(check.ok for check in checks)
        body = {"ready": ready, "checks": [asdict(check) for check in checks]}
        return Reply(200, body) if ready else Reply(503, body, {"retry-after": "1"})

    async def status_reply(self, _: Request[None]) -> Reply:
        """Return the node's state as JSON."""
        return Reply(200, await self.status())

    async def metrics(self, _: Request[None]) -> Reply:
        """Return all metrics of this process."""
        await self.refresh()
        return Reply(200, generate_latest(REGISTRY), content_type=CONTENT_TYPE_LATEST)
