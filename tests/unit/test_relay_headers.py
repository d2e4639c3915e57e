"""Which headers cross the relay."""

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import QueryParams

from api.auth import ANONYMOUS, Principal
from api.headers import Headers
from api.leaving import Departure
from api.relay.headers import HEADERS_BYTES_MAX, HEADERS_MAX, SANDBOX, Metadata, metadata, without_secrets
from api.routes import Request
from schemas.problems import Refusal

SOMEBODY = Principal("token:x")
NEVER = (
    "Connection",
    "Keep-Alive",
    "Proxy-Authenticate",
    "Proxy-Authorization",
    "TE",
    "Trailer",
    "Transfer-Encoding",
    "Upgrade",
    "Content-Length",
    "Alt-Svc",
    "Clear-Site-Data",
    "Strict-Transport-Security",
    "NEL",
    "Access-Control-Allow-Origin",
    "Access-Control-Allow-Credentials",
    "Nats-Msg-Id",
    "Nats-Expected-Stream",
    "Forge-Position",
    "Forge-Message-Id",
    "Patch-Uri",
    "Date",
    "X-Request-Id",
    "X-Accel-Redirect",
    "X-Sendfile",
    "Service-Worker-Allowed",
)


def said(
    *lines: tuple[str, str], principal: Principal = SOMEBODY, target: str = "/x", automatic: bool = True
) -> Metadata:
    path, _, query = target.partition("?")
    request: Request[Any] = Request(
        method="POST",
        path=path,
        params={},
        query=QueryParams(query),
        headers=Headers([(name.lower().encode(), value.encode("latin-1")) for name, value in lines]),
        body=None,
        principal=principal,
        id="r",
        stopping=asyncio.Event(),
        body_bytes_max=0,
        _receive=asyncio.Queue[MutableMapping[str, Any]]().get,  # nothing comes, and nothing is read
        departure=Departure(),
        _target=(path.encode(), query.encode()),
    )
    return metadata(request, default_type="text/plain", automatic=automatic)


def test_each_side_gets_the_headers_that_are_for_it() -> None:
    """P4.5, 3.6: a receiver sees plain names, a responder prefixed ones, a requester only what was chosen."""
    about = said(
        ("User-Agent", "curl"),
        ("Patch-H-Trace", "t7"),
        ("Patch-H-Trace", "t8"),
        ("Content-Type", "text/x"),
        target="/p/x?a=1",
    )

    guards = [
        ("X-Content-Type-Options", "nosniff"),
        ("Content-Security-Policy", SANDBOX),
        ("Cache-Control", "no-store"),
    ]
    whence = [("Patch-Method", "POST"), ("Patch-Uri", "/p/x?a=1")]
    assert about.content_type == "text/x"
    assert about.to_consumer() == [*whence, ("User-Agent", "curl"), ("Trace", "t7"), ("Trace", "t8"), *guards]
    assert about.to_requester() == [("Trace", "t7"), ("Trace", "t8"), *guards]
    assert about.to_responder() == [
        *whence,
        ("Patch-H-User-Agent", "curl"),
        ("Patch-H-Trace", "t7"),
        ("Patch-H-Trace", "t8"),
    ]


def test_what_a_sender_says_expressly_wins() -> None:
    """S10: over his type, and over what his client says by itself."""
    about = said(
        ("User-Agent", "curl"),
        ("Content-Type", "text/x"),
        ("Patch-H-User-Agent", "mine"),
        ("Patch-H-Content-Type", "text/mine"),
    )

    assert about.content_type == "text/mine"
    assert [value for name, value in about.to_consumer() if name == "User-Agent"] == ["mine"]
    assert said().content_type == "text/plain"


def test_what_a_client_says_by_itself_is_relayed_only_if_wanted() -> None:
    """3.6."""
    assert said(("User-Agent", "curl"), ("Cookie", "c"), ("Authorization", "a")).automatic == (("user-agent", "curl"),)
    assert said(("User-Agent", "curl"), automatic=False).automatic == ()


@pytest.mark.parametrize("name", NEVER)
def test_some_headers_are_never_relayed(name: str) -> None:
    """S10, PR6: in whatever case."""
    for form in (name, name.lower(), name.upper()):
        about = said((f"Patch-H-{form}", "evil"))
        for lines in (about.to_consumer(), about.to_requester(), about.to_responder()):
            assert "evil" not in [value for _, value in lines]


@pytest.mark.parametrize("name", ["Set-Cookie", "Location", "Refresh", "Content-Security-Policy", "WWW-Authenticate"])
def test_some_headers_are_relayed_only_for_who_is_known(name: str) -> None:
    """S10."""
    line = (f"Patch-H-{name}", "x")
    assert "x" in [value for _, value in said(line).to_requester()]
    anonymous = said(line, principal=Principal(ANONYMOUS))
    assert "x" not in [value for _, value in anonymous.to_requester()]
    assert ("Content-Security-Policy", SANDBOX) in anonymous.to_requester()


def test_a_policy_of_a_known_sender_replaces_the_sandbox() -> None:
    """S10."""
    lines = said(("Patch-H-Content-Security-Policy", "default-src 'self'")).to_requester()
    assert [value for name, value in lines if name == "Content-Security-Policy"] == ["default-src 'self'"]


@pytest.mark.parametrize("status", ["199", "600", "20", "2000", "abc", "", "-200", "2.0", "\xb200", "0x0c8"])
def test_a_status_that_is_none_is_refused(status: str) -> None:
    """S11."""
    with pytest.raises(Refusal):
        said(("Patch-Status", status))


@pytest.mark.parametrize(("status", "number"), [("200", 200), (" 404 ", 404), ("599", 599)])
def test_a_status_is_a_number(status: str, number: int) -> None:
    """S11."""
    assert said(("Patch-Status", status)).status == number


@pytest.mark.parametrize(
    "lines",
    [
        [("Patch-H-", "no name")],
        [("Patch-H-a b", "x")],
        [("Patch-H-a", "x\ry")],
        [("Patch-H-a", "x\x00y")],
        [(f"Patch-H-a{n}", "x") for n in range(HEADERS_MAX + 1)],
        [("Patch-H-a", "x" * HEADERS_BYTES_MAX)],
    ],
)
def test_headers_that_cannot_be_relayed_are_refused(lines: list[tuple[str, str]]) -> None:
    """S10, PR7: to their sender."""
    with pytest.raises(Refusal) as refused:
        said(*lines)
    assert refused.value.problem.status == 400


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        ("/p/x", "/p/x"),
        ("/p/x?", "/p/x"),
        ("/p/x?token=t", "/p/x"),
        ("/p/x?a=1&token=t&b=2&secret=s&SIG=z&sig", "/p/x?a=1&b=2"),
        ("/p/x?%74oken=t&tokens=1&t%6Fken=x", "/p/x?tokens=1"),
        ("/p/x?a=token=t", "/p/x?a=token=t"),
    ],
)
def test_secrets_stay_out_of_the_address(target: str, shown: str) -> None:
    """S12."""
    assert without_secrets(target) == shown
    assert said(("Referer", target), target=target).automatic == (("referer", shown),)
    assert said(target=target).uri == shown


@given(
    st.lists(st.tuples(st.sampled_from([*NEVER, "X-A", "Etag", "Vary"]), st.text(st.characters(max_codepoint=255)))),
    st.booleans(),
)
def test_whatever_is_sent_only_what_is_clean_comes_out(lines: list[tuple[str, str]], known: bool) -> None:
    """S10, C2: names are tokens, values have no control characters, nothing that is ours is among them."""
    sent = [(f"Patch-H-{name}", value) for name, value in lines]
    try:
        about = said(*sent, principal=SOMEBODY if known else Principal(ANONYMOUS))
    except Refusal:
        return
    forbidden = {name.lower() for name in NEVER} - {"patch-uri"}
    for name, value in about.to_requester():
        assert name.lower() not in forbidden
        assert not any((ord(char) < 32 and char != "\t") or ord(char) == 127 for char in value)
