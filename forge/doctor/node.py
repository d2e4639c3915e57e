"""Checks of what runs: the NATS server, the node, its projections, its workers."""

from collections.abc import Iterator, Mapping
from typing import Any

import httpx2
from blake3 import blake3

from forge.cli.errors import masked
from forge.doctor.check import DATA_FAULT, NOT_READY, Check, State, judged

TIMEOUT_S = 5.0
LAG_RECORDS_MAX = 1000
TINY = {
    "text": b"forge doctor",
    "image": bytes.fromhex("47494638396101000100800000000000ffffff2c00000000010001000002024401003b"),
}
"""The smallest payloads that a worker must embed: twelve letters, and a GIF of one pixel."""


def sync_check(monitor_url: str, *, http: httpx2.Client) -> Check:
    """Ask the NATS server whether it fsyncs before it acknowledges; replicas do not replace that."""
    name, limit = "sync_interval", "always"
    if not monitor_url:
        return Check(name, State.OFF, "not known", limit, "forge up, or set FORGE_NATS_MONITOR_URL")
    try:
        answer = http.get(f"{monitor_url.rstrip('/')}/varz")
        answer.raise_for_status()
        jetstream = answer.json()["jetstream"]["config"]
    except (httpx2.HTTPError, ValueError, KeyError, TypeError) as error:
        value = masked(f"no JetStream facts from {monitor_url}: {error or type(error).__name__}")
        return Check(name, State.FAIL, value, limit, "start the NATS server with JetStream and http: monitoring")
    always = bool(jetstream.get("sync_always"))
    value = "always" if always else f"{jetstream.get('sync_interval', 0) / 1e9:g} s"
    fix = "set `jetstream { sync_interval: always }` in nats-server.conf: without it a power cut loses accepted data"
    return judged(name, always, value, limit, fix, otherwise=State.FAIL, fault=DATA_FAULT)


def ready_checks(url: str, *, http: httpx2.Client) -> Iterator[Check]:
    """Ask a node's /readyz; yield a check for the node and one for each check in its answer.

    No node at all is no failure; one that was named, or announced itself, must answer.
    """
    if not url:
        yield Check("node", State.OFF, "not running", "ready", "forge up")
        return
    try:
        answer = http.get(f"{url.rstrip('/')}/readyz")
        body = answer.json()
    except (httpx2.HTTPError, ValueError) as error:
        value = masked(f"no answer from {url}: {error or type(error).__name__}")
        yield Check("node", State.FAIL, value, "ready", "forge up, or correct --url")
        return
    ready = answer.status_code == 200
    value = f"{masked(url)} answers {answer.status_code}"
    yield judged("node", ready, value, "ready", "see the failed checks below", otherwise=State.FAIL)
    for name, said in _named_checks(body):
        yield _node_check(name, said)


def worker_urls(url: str, token: str, *, http: httpx2.Client) -> dict[str, str]:
    """Ask a node which worker it uses for each kind, the built-in one included; empty if it does not say."""
    try:
        urls = _status(url, token, http).json()["workers"]["urls"]
        return {str(kind): str(worker) for kind, worker in urls.items()}
    except (httpx2.HTTPError, ValueError, LookupError, TypeError, AttributeError):
        return {}


def _status(url: str, token: str, http: httpx2.Client) -> httpx2.Response:
    return http.get(f"{url.rstrip('/')}/status", headers={"Authorization": f"Bearer {token}"} if token else {})


def lag_checks(url: str, token: str, *, http: httpx2.Client) -> Iterator[Check]:
    """Ask a node's /status how far each projection is behind the log; nothing if the node does not answer."""
    try:
        answer = _status(url, token, http)
        body = answer.json()
    except httpx2.HTTPError:
        return  # `ready_checks` has said so
    except ValueError:
        yield Check("projections", State.FAIL, f"{masked(url)}/status is not JSON", "", "correct --url")
        return
    if answer.status_code in (401, 403):
        fix = "give the token with --token, or FORGE_TOKEN"
        yield Check("projections", State.OFF, "this token may not see them", "", fix)
        return
    for projection in body.get("projections", []) if isinstance(body, dict) else []:
        yield _lag_check(projection)


def _lag_check(projection: Mapping[str, Any]) -> Check:
    name, limit = f"projection {projection.get('name', '?')}", f"{LAG_RECORDS_MAX} records"
    at = f"{projection.get('position') or 'nowhere'} of {projection.get('log_position') or '?'}"
    lag = projection.get("lag_records")
    if lag is None:
        return Check(name, State.WARN, at, limit, "the log does not answer, or this one was never made: forge status")
    fix = "if it does not shrink: forge rebuild"
    return judged(name, lag <= LAG_RECORDS_MAX, f"{at}, {lag} behind", limit, fix, otherwise=State.WARN)


def worker_check(kind: str, url: str, *, http: httpx2.Client) -> Check:
    """Let an embedding worker embed a tiny payload."""
    name, limit, payload = f"worker ({kind})", "a vector", TINY[kind]
    if not url:
        return Check(name, State.OFF, "built in, and no node here has started it (a standby starts none)", limit)
    headers = {
        "Content-Type": "application/octet-stream",
        "X-Embedding-Kind": kind,
        "X-File-Hash": blake3(payload).hexdigest(),
    }
    fix = "start the worker, or correct its address: forge config show"
    try:
        answer = http.post(f"{url}/predict", content=payload, headers=headers)
        vector = _vector(answer.json()) if answer.is_success else None
    except (httpx2.HTTPError, ValueError) as error:
        return Check(name, State.FAIL, masked(f"no answer from {url}: {error or type(error).__name__}"), limit, fix)
    if not vector:
        value = f"{masked(url)} answers {answer.status_code} without a vector"
        return Check(name, State.FAIL, value, limit, "see the log of the worker")
    return Check(name, State.OK, f"{len(vector)} numbers from {masked(url)}", limit)


def _vector(body: Any) -> list[Any] | None:
    if isinstance(body, Mapping):
        body = next((body[name] for name in ("embedding", "vector", "data") if body.get(name)), None)
    return body if isinstance(body, list) else None


def _named_checks(body: Any) -> Iterator[tuple[str, Any]]:
    """Read the checks of a /readyz body: a list of objects with names, or an object by name."""
    checks = body.get("checks") if isinstance(body, Mapping) else None
    if isinstance(checks, Mapping):
        yield from checks.items()
    for check in checks if isinstance(checks, list) else []:
        if isinstance(check, Mapping):
            yield str(check.get("name", "?")), check


def _node_check(name: str, said: Any) -> Check:
    facts = said if isinstance(said, Mapping) else {"ok": bool(said), "value": said}
    value, limit = str(facts.get("value", "")), str(facts.get("limit", ""))
    fix = str(facts.get("fix", "")) or "see the log of the node"
    fault = DATA_FAULT if facts.get("data_at_risk") else NOT_READY
    return judged(f"node: {name}", bool(facts.get("ok")), value, limit, fix, otherwise=State.FAIL, fault=fault)
