"""Whose address counts: the peer's, unless that is a proxy that is trusted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.client_address import HOPS_MAX, UNKNOWN, Proxies, rate_key
from api.headers import Headers

TRUSTED = Proxies(["10.0.0.0/8", "fd00::/8", "192.0.2.1"])


def forwarded(*lines: str) -> Headers:
    return Headers([(b"x-forwarded-for", line.encode("latin-1")) for line in lines])


@pytest.mark.parametrize(
    ("peer", "lines", "client"),
    [
        ("203.0.113.9", ["198.51.100.1"], "203.0.113.9"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["1.1.1.1, 198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["1.1.1.1, 198.51.100.1, 10.9.9.9"], "198.51.100.1"),
        ("10.0.0.1", ["1.1.1.1", "198.51.100.1", "10.9.9.9"], "198.51.100.1"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["198.51.100.1, nonsense, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["198.51.100.1:4711"], "198.51.100.1"),
        ("::ffff:10.0.0.1", ["[2001:db8::1]:4711"], "2001:db8::1"),
        ("fd00::1", ["2001:db8::1"], "2001:db8::1"),
        ("fe80::1%eth0", [], "fe80::1"),
        ("192.0.2.1", ["8.8.8.8"], "8.8.8.8"),
        ("192.0.2.2", ["8.8.8.8"], "192.0.2.2"),
        (None, ["8.8.8.8"], UNKNOWN),
        ("", [], UNKNOWN),
    ],
)
def test_the_client_is_the_rightmost_hop_that_is_no_trusted_proxy(
    peer: str | None, lines: list[str], client: str
) -> None:
    """P4.10, A6: whoever is not a trusted proxy can say what he likes, and stays who he is."""
    assert TRUSTED.client(peer, forwarded(*lines)) == client


def test_nobody_is_trusted_unless_named() -> None:
    """A6."""
    assert Proxies().client("127.0.0.1", forwarded("8.8.8.8")) == "127.0.0.1"
    with pytest.raises(ValueError, match="does not appear"):
        Proxies(["my-proxy"])


def test_only_so_many_hops_are_followed() -> None:
    """PR7."""
    hops = ", ".join(["8.8.8.8", *["10.0.0.2"] * HOPS_MAX])
    assert TRUSTED.client("10.0.0.1", forwarded(hops)) == "10.0.0.2"
    assert TRUSTED.client("10.0.0.1", forwarded(hops.removesuffix(", 10.0.0.2"))) == "8.8.8.8"


@given(st.lists(st.text(alphabet=st.characters(max_codepoint=255)), max_size=5))
def test_whatever_is_said_an_address_comes_out(lines: list[str]) -> None:
    """PR7."""
    client = TRUSTED.client("10.0.0.1", forwarded(*lines))
    assert Proxies().client(client, Headers([])) == client


def test_who_has_many_addresses_is_counted_once() -> None:
    """PR7: a block of IPv6 belongs to one subscriber."""
    assert rate_key("2001:db8::1") == rate_key("2001:db8::2") != rate_key("2001:db8:0:1::1")
    assert rate_key("192.0.2.1") != rate_key("192.0.2.2")
    assert rate_key(UNKNOWN) == UNKNOWN
