"""Signatures of providers, made by the algorithms that they publish, on raw bytes; ids, and what is left out."""

import hmac
import json
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.headers import Headers
from api.webhooks.capture import REDACTED, kept_headers, kept_query
from api.webhooks.deliveries import delivery_id
from api.webhooks.signatures import (
    PROVIDERS,
    SIGNATURES_MAX,
    TOLERANCE_S,
    Delivery,
    Signature,
    github,
    standard,
    stripe,
)

BODY = b'{"id": "evt_1", "text": "\xc3\xa9\\u00e9 \xff raw"}'
NOW = datetime(2026, 11, 20, 10, 15, 30, tzinfo=UTC)
SECRET = "it is a secret"
KEY = bytes(range(24))
STANDARD_SECRET = "whsec_" + b64encode(KEY).decode()


def headers(*lines: tuple[str, str]) -> Headers:
    """Return the headers of a request."""
    return Headers([(name.lower().encode(), value.encode("latin-1")) for name, value in lines])


def delivery(*lines: tuple[str, str], body: bytes = BODY, secrets: tuple[str, ...] = (SECRET,)) -> Delivery:
    """Return what came."""
    return Delivery(headers(*lines), body, secrets, NOW)


def hex_mac(message: bytes, secret: str = SECRET) -> str:
    """Return HMAC-SHA-256 as hex."""
    return hmac.new(secret.encode(), message, sha256).hexdigest()


def stripe_header(at: datetime = NOW, secret: str = SECRET, body: bytes = BODY) -> str:
    """Return `Stripe-Signature` as Stripe makes it."""
    seconds = int(at.timestamp())
    return f"t={seconds},v1={hex_mac(f'{seconds}.'.encode() + body, secret)},v0=00"


def standard_headers(
    at: datetime = NOW, key: bytes = KEY, body: bytes = BODY, prefix: str = "webhook"
) -> list[tuple[str, str]]:
    """Return the three headers of Standard Webhooks."""
    seconds = int(at.timestamp())
    mac = hmac.new(key, f"msg_1.{seconds}.".encode() + body, sha256).digest()
    signature = f"v1a,aaaa v1,{b64encode(mac).decode()}"
    return [(f"{prefix}-id", "msg_1"), (f"{prefix}-timestamp", str(seconds)), (f"{prefix}-signature", signature)]


def test_the_example_that_github_publishes() -> None:
    """D.4: the text, secret and signature of its documentation."""
    signed = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    one = Delivery(
        headers(("X-Hub-Signature-256", f"sha256={signed}")),
        b"Hello, World!",
        ("It's a Secret to Everybody",),
        NOW,
    )
    assert github(one).signature is Signature.VALID


def test_signatures_are_those_of_the_exact_bytes() -> None:
    """D.4, P5.8: each provider, with an old and a new secret; one byte more is another body."""
    rotated = ("new", SECRET)
    signed = ("X-Hub-Signature-256", f"sha256={hex_mac(BODY)}")
    assert github(delivery(signed, secrets=rotated)).signature is Signature.VALID
    assert github(delivery(signed, body=BODY + b" ")).signature is Signature.INVALID
    assert github(delivery(signed, secrets=("new",))).signature is Signature.INVALID

    signed = ("Stripe-Signature", stripe_header())
    assert stripe(delivery(signed, secrets=rotated)).signature is Signature.VALID
    assert stripe(delivery(signed, body=BODY + b" ")).signature is Signature.INVALID
    several = ("Stripe-Signature", stripe_header(secret="another") + f",v1={hex_mac(stamped())}")
    assert stripe(delivery(several)).signature is Signature.VALID

    secrets = ("whsec_" + b64encode(b"old key").decode(), STANDARD_SECRET)
    for prefix in ("webhook", "svix"):
        lines = standard_headers(prefix=prefix)
        assert standard(delivery(*lines, secrets=secrets)).signature is Signature.VALID
        assert standard(delivery(*lines, secrets=secrets, body=BODY + b" ")).signature is Signature.INVALID
    bare = (STANDARD_SECRET.removeprefix("whsec_"),)
    assert standard(delivery(*standard_headers(), secrets=bare)).signature is Signature.VALID


def stamped() -> bytes:
    """Return what Stripe signs."""
    return f"{int(NOW.timestamp())}.".encode() + BODY


@pytest.mark.parametrize("off_s", [-TOLERANCE_S - 1, -TOLERANCE_S, 0, TOLERANCE_S, TOLERANCE_S + 1, 10**6])
def test_what_is_old_or_of_the_future_is_not_valid(off_s: int) -> None:
    """D.4: somebody who saw it once cannot send it again later."""
    at = NOW + timedelta(seconds=off_s)
    expected = Signature.VALID if abs(off_s) <= TOLERANCE_S else Signature.INVALID
    assert stripe(delivery(("Stripe-Signature", stripe_header(at)))).signature is expected
    assert standard(delivery(*standard_headers(at), secrets=(STANDARD_SECRET,))).signature is expected


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [("X-Hub-Signature-256", "")],
        [("X-Hub-Signature-256", "sha256=")],
        [("X-Hub-Signature-256", "sha256=\xff\xfe")],
        [("X-Hub-Signature", f"sha1={hex_mac(BODY)}")],
        [("Stripe-Signature", "t=1,t=2,v1=00")],
        [("Stripe-Signature", "v1=00")],
        [("Stripe-Signature", "t=\xb2,v1=" + "0" * 64)],
        [("Stripe-Signature", ",".join(["t=1"] + ["v1=00"] * (SIGNATURES_MAX + 1)))],
        [("webhook-id", "a"), ("webhook-timestamp", "x"), ("webhook-signature", "v1,")],
        [("webhook-id", "\xe9"), ("webhook-timestamp", "1"), ("webhook-signature", "v1 v1,a v2,b")],
        [("webhook-id", "a"), ("webhook-timestamp", "1")],
    ],
)
def test_what_is_no_signature_is_invalid(lines: list[tuple[str, str]]) -> None:
    """D.4: whatever it is, it is no error of ours."""
    for name, provider in PROVIDERS.items():
        expected = Signature.UNKNOWN if name == "none" else Signature.INVALID
        assert provider.check(delivery(*lines, secrets=(STANDARD_SECRET,))).signature is expected, name


@given(
    st.dictionaries(
        st.sampled_from(
            ["x-hub-signature-256", "stripe-signature", "webhook-id", "webhook-timestamp", "webhook-signature"]
        ),
        st.text(st.characters(max_codepoint=255), max_size=80),
    ),
    st.binary(max_size=40),
)
def test_no_header_makes_a_check_fail(given_headers: dict[str, str], body: bytes) -> None:
    """D.4."""
    for provider in PROVIDERS.values():
        one = delivery(*given_headers.items(), body=body, secrets=(STANDARD_SECRET,))
        assert provider.check(one).signature in (Signature.INVALID, Signature.UNKNOWN)
        provider.delivery_id(one)


def test_secrets_that_make_no_sense_are_named() -> None:
    """D.4."""
    wrong = PROVIDERS["standard"].wrong
    assert wrong(STANDARD_SECRET) is None
    assert wrong("whsec_") is not None
    assert wrong("not base64!") is not None
    assert wrong("\xb8") is not None
    assert PROVIDERS["github"].wrong("anything") is None


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("X-GitHub-Delivery", "72d3162e"),
        ("X-Gitea-Delivery", "72d3162e"),
        ("X-Forgejo-Delivery", "72d3162e"),
        ("X-Gitlab-Event-UUID", "72d3162e"),
        ("X-Shopify-Webhook-Id", "72d3162e"),
        ("webhook-id", "72d3162e"),
        ("svix-id", "72d3162e"),
        ("ce-id", "72d3162e"),
        ("X-Request-Id", None),
    ],
)
def test_deliveries_have_ids(name: str, found: str | None) -> None:
    """P5.4."""
    assert delivery_id(headers((name, "72d3162e"))) == found
    assert delivery_id(headers((name, "x" * 256))) is None
    assert delivery_id(headers((name, " "))) is None


def test_the_id_of_an_event_of_stripe_is_in_its_body() -> None:
    """P5.4."""
    find = PROVIDERS["stripe"].delivery_id
    assert find(delivery(body=b'{"id": "evt_1"}')) == "evt_1"
    assert find(delivery(body=json.dumps({"id": "x" * 255}).encode())) == "x" * 255
    unusable = (json.dumps({"id": "x" * 256}).encode(), b'{"id": ""}', b'{"id": " "}')
    for body in (b"", b"[]", b'{"id": 7}', b"{", b"\xff", b"[" * 100_000, *unusable):
        assert find(delivery(body=body)) is None


def test_what_opens_something_is_left_out() -> None:
    """P5.4, 6.43: names stay, repeated headers too; signatures are no credentials."""
    kept = json.loads(
        kept_headers(
            headers(
                ("Host", "h"),
                ("Authorization", "Bearer sesame"),
                ("Proxy-Authorization", "sesame"),
                ("Cookie", "sesame"),
                ("X-Gitlab-Token", "sesame"),
                ("X-Api-Key", "sesame"),
                ("X-Auth", "sesame"),
                ("X-Client-Secret", "sesame"),
                ("X-Amz-Security-Token", "sesame"),
                ("X-Authorization", "sesame"),
                ("X-Forwarded-Authorization", "sesame"),
                ("X-Functions-Key", "sesame"),
                ("X-Session-Id", "sesame"),
                ("X-Hub-Signature-256", "sha256=00"),
                ("Via", "a"),
                ("Via", "b"),
                ("X-Author", "ada"),
            )
        )
    )
    assert kept["x-hub-signature-256"] == ["sha256=00"]
    assert kept["via"] == ["a", "b"]
    assert kept["x-author"] == ["ada"]
    assert kept["host"] == ["h"]
    assert "sesame" not in json.dumps(kept)
    assert sum(values == [REDACTED] for values in kept.values()) == 12


@pytest.mark.parametrize(
    ("query", "kept"),
    [
        ("", ""),
        ("a=1&b=x%20y&a=2", "a=1&b=x%20y&a=2"),
        ("token=sesame&a=1", "token=[redacted]&a=1"),
        ("%74oken=sesame", "%74oken=[redacted]"),
        (
            "access_token=sesame&SECRET=sesame&sig=sesame&api-key=sesame",
            "access_token=[redacted]&SECRET=[redacted]&sig=[redacted]&api-key=[redacted]",
        ),
        ("signal=5&design=6&token", "signal=5&design=6&token"),
        ("token=a=sesame", "token=[redacted]"),
        ("authorization=sesame&author=ada", "authorization=[redacted]&author=ada"),
        ("session_id=sesame&access_key=sesame", "session_id=[redacted]&access_key=[redacted]"),
        ("X-Amz-Signature=sesame&pwd=sesame", "X-Amz-Signature=[redacted]&pwd=[redacted]"),
    ],
)
def test_what_opens_something_is_left_out_of_the_query(query: str, kept: str) -> None:
    """P5.4: the rest stays byte by byte."""
    assert kept_query(query) == kept


@given(st.text(max_size=60) | st.text(max_size=20).map(lambda text: f"whsec_{text}"))
def test_a_secret_that_is_taken_can_be_used(secret: str) -> None:
    """D.4: whatever is given, it is refused with a reason or checks signatures."""
    for provider in PROVIDERS.values():
        if provider.wrong(secret) is None:
            one = delivery(*standard_headers(), secrets=(secret,))
            assert provider.check(one).signature in (Signature.INVALID, Signature.UNKNOWN)
