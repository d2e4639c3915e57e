"""From which address a request came: the peer of its connection, or what proxies say that are trusted."""

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

from api.headers import Headers

FORWARDED_HEADER = "x-forwarded-for"
HOPS_MAX = 32
"""So many proxies are followed back; the one behind is taken for the client."""
UNKNOWN = "unknown"
_BLOCK_BITS = 64  # what one subscriber of IPv6 has at least

_Address: TypeAlias = IPv4Address | IPv6Address
_Network: TypeAlias = IPv4Network | IPv6Network


class Proxies:
    """The proxies whose `X-Forwarded-For` is believed."""

    def __init__(self, networks: Iterable[str] = ()) -> None:
        """`networks` are addresses or CIDR blocks; raise `ValueError` for one that is neither."""
        self._networks: Sequence[_Network] = tuple(ip_network(text) for text in networks)

    def client(self, peer: str | None, headers: Headers) -> str:
        """Return the client's address: the rightmost hop that is no trusted proxy."""
        nearest = _parse(peer or "")
        if nearest is None:
            return UNKNOWN
        if not self._trusts(nearest):
            return str(nearest)
        hops = ",".join(headers.all(FORWARDED_HEADER)).split(",")
        for text in hops[: -HOPS_MAX - 1 : -1]:
            hop = _parse(text)
            if hop is None:
                break  # what stands further left was written by whoever wrote this
            nearest = hop
            if not self._trusts(nearest):
                break
        return str(nearest)

    def _trusts(self, address: _Address) -> bool:
        return any(address.version == network.version and address in network for network in self._networks)


def rate_key(address: str) -> str:
    """Return what the requests of an address are counted under: itself, or its block of IPv6."""
    parsed = _parse(address)
    if isinstance(parsed, IPv6Address):
        return str(ip_network((int(parsed), _BLOCK_BITS), strict=False))
    return address


def _parse(text: str) -> _Address | None:
    """Read an address, with or without a port and brackets; an IPv4 address inside IPv6 is the IPv4 address."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address
