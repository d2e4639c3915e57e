"""The key to which a node encrypts the secrets that others entrust to it: `node.key` in its data directory."""

import hmac
import threading
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from api.webhooks.vault import Locked
from forge.private_file import create_private


class NodeKey:
    """An age identity, made when the first secret is to be kept. May be used from any thread."""

    def __init__(self, path: Path) -> None:
        """`path` is that of the key; mode 0600, like the root token."""
        self._path = path
        self._identity: Any = None
        self._lock = threading.Lock()

    def seal(self, secrets: Sequence[str]) -> tuple[bytes, ...]:
        """Return each encrypted."""
        age, recipient = _age(), self._known(make=True).to_public()
        return tuple(age.encrypt(secret.encode(), [recipient]) for secret in secrets)

    def open(self, sealed: bytes) -> str:
        """Return a secret; raise `Locked`."""
        age = _age()
        try:
            return bytes(age.decrypt(sealed, [self._known()])).decode()
        except age.DecryptError as error:
            raise Locked(f"{self._path} is another key than they were encrypted to") from error

    def stands_for(self, secrets: Sequence[str]) -> str:
        """Return a text that is equal for equal secrets, and tells nothing about them to who has not the key."""
        key = str(self._known(make=True)).encode()
        return hmac.digest(key, "\0".join(secrets).encode(), "sha256").hex()

    def _known(self, *, make: bool = False) -> Any:
        age = _age()
        with self._lock:
            if self._identity is None:
                if make and not self._path.exists():
                    create_private(self._path, f"{age.x25519.Identity.generate()}\n")
                try:
                    self._identity = age.x25519.Identity.from_str(self._path.read_text().strip())
                except (OSError, age.IdentityError) as error:
                    raise Locked(f"{self._path} cannot be used: {error}") from error
            return self._identity


def _age() -> Any:
    """Return pyrage, which has no types, and which a node that keeps no secrets does not load."""
    return import_module("pyrage")
