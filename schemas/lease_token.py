"""The form of what proves a lease: `lse_` and 256 random bits in base62."""

from schemas.machine_token import SECRET_BYTES, base62

PREFIX = "lse_"
_CHARACTERS = 43  # 62 ** 43 is more than 2 ** 256


def format_lease_token(secret: bytes) -> str:
    """Return the token of 32 random bytes."""
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a token is made of {SECRET_BYTES} random bytes, not {len(secret)}")
    return PREFIX + base62(int.from_bytes(secret, "big"), _CHARACTERS)
