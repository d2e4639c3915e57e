"""Whether a webhook was signed by who it says it is from: one function for each provider, in a table.

Another provider is another `Provider` in `PROVIDERS`. A check sees the exact bytes of the body, all headers and the
secrets of the endpoint, and says one of four things; what becomes of the webhook is for the endpoint's policy, except
that `REJECT` is always refused.
"""

import hmac
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import NamedTuple

from pydantic_core import from_json

from api.headers import Headers
from api.webhooks.deliveries import delivery_id, usable

TOLERANCE_S = 300
SIGNATURES_MAX = 16
EVENT_BYTES_MAX = 1 << 20  # a larger body is not parsed to find its id
WHSEC = "whsec_"


class Signature(Enum):
    """What a check says."""

    VALID = "valid"
    INVALID = "invalid"
    UNKNOWN = "unknown"
    REJECT = "reject"


class Verdict(NamedTuple):
    """What a check says, and why."""

    signature: Signature
    why: str = ""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a check sees; `now` is the present moment, `secrets` those of the endpoint, any of which may be in use."""

    headers: Headers
    body: bytes
    secrets: Sequence[str]
    now: datetime


def _nothing_wrong(_: str) -> None:
    return None


def _from_headers(delivery: Delivery) -> str | None:
    return delivery_id(delivery.headers)


@dataclass(frozen=True, slots=True)
class Provider:
    """How webhooks of one kind of sender are checked, and where their id is.

    `wrong` says what is wrong with a secret, if anything.
    """

    check: Callable[[Delivery], Verdict]
    delivery_id: Callable[[Delivery], str | None] = _from_headers
    wrong: Callable[[str], str | None] = _nothing_wrong


def unchecked(_: Delivery) -> Verdict:
    """Nobody can tell."""
    return Verdict(Signature.UNKNOWN)


def github(delivery: Delivery) -> Verdict:
    """`X-Hub-Signature-256: sha256=<hex>`: HMAC-SHA-256 of the body."""
    given = [line.removeprefix("sha256=") for line in delivery.headers.all("x-hub-signature-256")]
    if not given:
        return Verdict(Signature.INVALID, "there is no X-Hub-Signature-256")
    return _compared(given, (_mac(secret.encode(), delivery.body).hex() for secret in delivery.secrets))


def stripe(delivery: Delivery) -> Verdict:
    """`Stripe-Signature: t=<seconds>,v1=<hex>[,v1=...]`: HMAC-SHA-256 of time, a dot and the body."""
    parts = [part.strip().partition("=") for part in delivery.headers.get("stripe-signature", "").split(",")]
    times = [value for name, _, value in parts if name == "t"]
    given = [value for name, _, value in parts if name == "v1"]
    if len(times) != 1 or not given:
        return Verdict(Signature.INVALID, "there is no Stripe-Signature with t and v1")
    signed = times[0].encode("utf-8", "surrogateescape") + b"." + delivery.body
    verdict = _compared(given, (_mac(secret.encode(), signed).hex() for secret in delivery.secrets))
    return _timely(verdict, times[0], delivery.now)


def standard(delivery: Delivery) -> Verdict:
    """Standard Webhooks, as Svix and others send them: HMAC-SHA-256 of id, time and body with dots between."""
    found = {}
    for name in ("id", "timestamp", "signature"):
        text = delivery.headers.get(f"webhook-{name}") or delivery.headers.get(f"svix-{name}")
        if not text:
            return Verdict(Signature.INVALID, f"there is no webhook-{name}")
        found[name] = text
    given = [one.removeprefix("v1,") for one in found["signature"].split() if one.startswith("v1,")]
    before = f"{found['id']}.{found['timestamp']}.".encode("latin-1", "replace")
    keys = [_standard_key(secret) for secret in delivery.secrets]
    macs = (b64encode(_mac(key, before + delivery.body)).decode() for key in keys)
    return _timely(_compared(given, macs), found["timestamp"], delivery.now)


def stripe_event_id(delivery: Delivery) -> str | None:
    """Return the id of the event that the body is."""
    if len(delivery.body) <= EVENT_BYTES_MAX:
        try:
            event = from_json(delivery.body)
        except ValueError:
            return None
        if isinstance(event, dict) and isinstance(event.get("id"), str):
            return usable(event["id"])
    return None


def _not_standard(secret: str) -> str | None:
    try:
        return None if _standard_key(secret) else "it is empty"
    except ValueError:
        return f"it is not base64, with {WHSEC} before it or not"


PROVIDERS: Mapping[str, Provider] = {
    "none": Provider(unchecked),
    "github": Provider(github),
    "stripe": Provider(stripe, stripe_event_id),
    "standard": Provider(standard, wrong=_not_standard),
}
"""Whose webhooks can be checked, by the name that an endpoint's settings give."""


def _standard_key(secret: str) -> bytes:
    return b64decode(secret.removeprefix(WHSEC), validate=True)


def _mac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


def _compared(given: Sequence[str], expected: Iterable[str]) -> Verdict:
    """Compare each with each, in a time that does not tell how much of one is right."""
    if len(given) > SIGNATURES_MAX:
        return Verdict(Signature.INVALID, f"there are {len(given)} signatures, at most {SIGNATURES_MAX} are looked at")
    sent = [one.encode("utf-8", "surrogateescape") for one in given]
    right = False
    for one in expected:
        for other in sent:
            right |= hmac.compare_digest(one.encode(), other)
    return Verdict(Signature.VALID) if right else Verdict(Signature.INVALID, "no signature is that of the body")


def _timely(verdict: Verdict, text: str, now: datetime) -> Verdict:
    """Return a verdict, unless what was signed is old or of the future: somebody may send it again."""
    if verdict.signature is not Signature.VALID:
        return verdict
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        return Verdict(Signature.INVALID, f"{text[:40]!r} is no time in seconds")
    off_s = now.timestamp() - int(text)
    if abs(off_s) > TOLERANCE_S:
        return Verdict(Signature.INVALID, f"it was signed {off_s:.0f} s ago, at most {TOLERANCE_S} are allowed")
    return verdict
