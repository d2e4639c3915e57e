"""The form of machine tokens: `forge_`, 256 random bits in base62, and a checksum that finds misspelt ones."""

import re
import zlib
from hashlib import sha256

PREFIX = "forge_"
SECRET_BYTES = 32
SHOWN_CHARACTERS = len(PREFIX) + 4
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SECRET_CHARACTERS = 43  # 62 ** 43 is more than 2 ** 256
_CHECKSUM_CHARACTERS = 6
_FORM = re.compile(rf"{PREFIX}([0-9A-Za-z]{{{_SECRET_CHARACTERS}}})([0-9A-Za-z]{{{_CHECKSUM_CHARACTERS}}})")


def format_token(secret: bytes) -> str:
    """Return the token of 32 random bytes."""
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a token is made of {SECRET_BYTES} random bytes, not {len(secret)}")
    digits = base62(int.from_bytes(secret, "big"), _SECRET_CHARACTERS)
    return f"{PREFIX}{digits}{_checksum(digits)}"


def is_token(text: str) -> bool:
    """Say whether `text` has the form of a token, its checksum included; most misspelt ones have not."""
    found = _FORM.fullmatch(text)
    return found is not None and _checksum(found[1]) == found[2]


def hash_token(token: str) -> str:
    """Return what is kept of a token: the SHA-256 in hex. With 256 random bits there is nothing to guess it by."""
    return sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def token_id(token_hash: str) -> str:
    """Return the public name of the token with this hash: the same for a mint that is repeated."""
    return sha256(f"forge token id {token_hash}".encode()).hexdigest()[:24]


def shown_prefix(token: str) -> str:
    """Return the beginning of a token, by which its owner recognises it."""
    return token[:SHOWN_CHARACTERS]


def _checksum(digits: str) -> str:
    return base62(zlib.crc32(digits.encode()), _CHECKSUM_CHARACTERS)


def base62(number: int, width: int) -> str:
    """Return a number as that many digits and letters."""
    digits = ""
    while number:
        number, digit = divmod(number, 62)
        digits = _ALPHABET[digit] + digits
    return digits.rjust(width, _ALPHABET[0])
