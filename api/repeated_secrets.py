"""Secrets that a repeated request gets again, although they are stored nowhere."""

import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from schemas.machine_token import SECRET_BYTES


@dataclass(frozen=True, slots=True)
class RepeatedSecrets:
    """256 random bits for each request; those of a repeated one are derived from a key of this process alone."""

    key: bytes = field(default_factory=partial(secrets.token_bytes, SECRET_BYTES), repr=False)
    draw: Callable[[int], bytes] = secrets.token_bytes

    def of(self, repeated_as: str | None) -> bytes:
        """Return a new secret; the same one for all requests that are `repeated_as` this, while the process lives."""
        if repeated_as is None:
            return self.draw(SECRET_BYTES)
        return hmac.digest(self.key, repeated_as.encode(), "sha256")
