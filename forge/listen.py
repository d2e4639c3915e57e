"""Addresses to listen on, as people write them."""


class InvalidAddress(ValueError):
    """The text is no address to listen on."""


def parse_listen(text: str) -> tuple[str, int]:
    """Read `HOST:PORT`, `:PORT` (all interfaces), `PORT`, or `[IPV6]:PORT`; raise `InvalidAddress`."""
    host, colon, port = text.strip().rpartition(":")
    if not colon:
        host = "127.0.0.1"
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise InvalidAddress(f"{text!r} is no address to listen on: write HOST:PORT, for example 127.0.0.1:8080")
    return host.strip("[]"), int(port)
