"""What is counted about the relay; no label names a channel or a document."""

from collections.abc import Callable

from prometheus_client import Counter, Gauge

from schemas.problems import Problem

QUEUE, BROADCAST, REQUEST = "queue", "broadcast", "request"

MESSAGES = Counter("forge_relay_messages_total", "Messages that senders brought, by kind.", ["kind"])
BYTES = Counter("forge_relay_bytes_total", "Bytes of bodies handed to receivers, by kind.", ["kind"])
DELIVERIES = Counter(
    "forge_relay_deliveries_total",
    "How deliveries ended: delivered, broken (one side left), gone (nobody waits for that answer), late, refused.",
    ["kind", "outcome"],
)
RETURNED = Counter("forge_relay_returned_total", "Messages offered again because a receiver failed.")
WAITING = Gauge("forge_relay_waiting", "Who waits for the other side.", ["side"])
CHANNELS = Gauge("forge_relay_channels", "Channels where somebody waits.")
OPEN_CALLS = Gauge("forge_relay_requests_open", "Requests without an answer.")
BUFFERED = Gauge("forge_relay_buffered_bytes", "Bytes of bodies that are kept for their receivers.")
_OUTCOMES = {408: "late", 410: "gone", 502: "broken"}


def delivered(kind: str, problem: Problem | None) -> None:
    """Count how one delivery ended."""
    outcome = "delivered" if problem is None else _OUTCOMES.get(problem.status, "refused")
    DELIVERIES.labels(kind, outcome).inc()


def gauges(
    *,
    senders: Callable[[], int],
    receivers: Callable[[], int],
    channels: Callable[[], int],
    calls: Callable[[], int],
    buffered: Callable[[], int],
) -> None:
    """Read the gauges from the relay of this node when they are asked for."""
    WAITING.labels("senders").set_function(senders)
    WAITING.labels("receivers").set_function(receivers)
    CHANNELS.set_function(channels)
    OPEN_CALLS.set_function(calls)
    BUFFERED.set_function(buffered)
