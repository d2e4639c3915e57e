"""Whether the NATS server keeps what it acknowledges: PR1 stands and falls with its `sync_interval`."""

import httpx2

from events.errors import LogUnavailable

TIMEOUT_S = 5.0


class NotDurable(LogUnavailable):
    """The server acknowledges before data is on disk. Nothing is written to it."""


async def check_durable(monitor_url: str) -> None:
    """Raise `NotDurable` unless the server says that it syncs always, `LogUnavailable` if it does not say.

    `monitor_url` is its HTTP monitoring address. With the default of two minutes a power cut lost every
    acknowledged message of a young stream, on one server and on three.
    """
    try:
        async with httpx2.AsyncClient(timeout=TIMEOUT_S, trust_env=False) as client:
            answer = await client.get(f"{monitor_url}/varz")
            answer.raise_for_status()
            config = answer.json().get("jetstream", {}).get("config")
    except (httpx2.HTTPError, ValueError) as error:
        raise LogUnavailable(f"{monitor_url}/varz does not say how the server syncs: {error!r}") from error
    if not config:
        raise NotDurable("JetStream is off on the NATS server: configure `jetstream { sync_interval: always }`")
    if not config.get("sync_always"):
        raise NotDurable(
            "the NATS server acknowledges before data is on disk, so a power cut would lose accepted writes: "
            "set `sync_interval: always` in its jetstream block and restart it"
        )
