"""What is counted about HTTP; every label is taken from a bounded set."""

from functools import cache

from prometheus_client import Counter, Gauge, Histogram

UNMATCHED = "unmatched"
"""Route label of requests whose path is not in the table."""
OTHER_METHOD = "other"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

REQUESTS = Counter(
    "forge_http_requests_total",
    "HTTP requests, by route template; status class `gone` means that the client left.",
    ["method", "route", "status_class"],
)
SECONDS = Histogram(
    "forge_http_request_seconds",
    "Time from the request's headers to the end of its answer.",
    ["route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
IN_FLIGHT = Gauge("forge_http_requests_in_flight", "HTTP requests being answered.")
_in_flight = 0
IN_FLIGHT.set_function(lambda: _in_flight)  # read when asked: a gauge takes a lock for each change
CONNECTIONS = Gauge("forge_http_connections", "Open HTTP connections.")
REFUSED = Counter("forge_http_connections_refused_total", "Connections turned away, or cut, and why.", ["reason"])


def begun() -> None:
    """Count a request that is being answered from now on."""
    global _in_flight
    _in_flight += 1


def observe(method: str, route: str, status: int | None, seconds: float) -> None:
    """Count one that was begun and is finished; `status` None means that the client left before an answer."""
    global _in_flight
    _in_flight -= 1
    status_class = "gone" if status is None else f"{status // 100}xx"
    counter, histogram = _series(method if method in _METHODS else OTHER_METHOD, route, status_class)
    counter.inc()
    histogram.observe(seconds)


@cache
def _series(method: str, route: str, status_class: str) -> tuple[Counter, Histogram]:
    """Look up the labelled series once: their number is bounded, the look-up is not free."""
    return REQUESTS.labels(method, route, status_class), SECONDS.labels(route)
