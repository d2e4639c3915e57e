"""Which pages a browser lets talk to this node."""

import pytest

from api.headers import Headers
from api.origins import Origins

LISTED = Origins(["https://pages.example", "http://localhost:5173"])


def headers(**lines: str) -> Headers:
    return Headers([(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in lines.items()])


@pytest.mark.parametrize(
    ("origin", "host", "admitted"),
    [
        ("https://pages.example", "forge", True),
        ("HTTPS://Pages.Example", "forge", True),
        ("http://pages.example", "forge", False),
        ("https://pages.example:8443", "forge", False),
        ("http://localhost:5173", "forge", True),
        ("http://localhost:5174", "localhost:5173", False),
        ("http://forge:8080", "forge:8080", True),
        ("https://forge", "forge:443", True),
        ("https://forge", "FORGE", True),
        ("http://[::1]:8080", "[::1]:8080", True),
        ("http://forge.evil", "forge", False),
        ("http://forge", "forge.evil", False),
        ("http://forge:99999", "forge", False),
        ("null", "null", False),
        ("", "", False),
        ("file://", "", False),
    ],
)
def test_pages_of_this_host_and_those_that_are_named_are_admitted(origin: str, host: str, admitted: bool) -> None:
    """PR6: the same host and port, whatever the scheme, since a proxy may end TLS."""
    assert LISTED.admits(headers(origin=origin, host=host)) is admitted
    assert Origins(["*"]).admits(headers(origin=origin, host=host))


def test_what_is_no_page_is_admitted() -> None:
    assert Origins().admits(headers(host="forge"))


def test_answers_are_shared_with_pages_that_are_named_only() -> None:
    """PR6: a page of this host needs no permission, and nobody else gets one."""
    shared = LISTED.shared(headers(origin="https://pages.example", host="forge"))
    assert shared["access-control-allow-origin"] == "https://pages.example"
    assert shared["vary"] == "Origin"
    assert "access-control-allow-credentials" not in shared
    for origin in ("https://evil.example", "http://forge", "null"):
        assert not LISTED.shared(headers(origin=origin, host="forge"))


def test_a_browser_that_asks_first_is_told_what_may_be_sent() -> None:
    """A9: without a token, which browsers never send with that question."""
    asked = {"access_control_request_method": "POST", "access_control_request_headers": "authorization,x-a"}
    page = headers(origin="https://pages.example", host="forge", **asked)
    told = LISTED.preflight(page, "GET, POST")
    assert told is not None
    assert told["access-control-allow-methods"] == "GET, POST"
    assert told["access-control-allow-headers"] == "authorization,x-a"
    odd = headers(
        origin="https://pages.example", access_control_request_method="GET", access_control_request_headers="é"
    )
    assert (LISTED.preflight(odd, "GET") or {})["access-control-allow-headers"] == "authorization, content-type"
    assert LISTED.preflight(headers(origin="https://pages.example"), "GET") is None
    assert LISTED.preflight(headers(origin="https://evil.example", **asked), "GET") is None
