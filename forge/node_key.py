"""The key to which a node encrypts the secrets that others entrust to it: `node.key` in its data directory."""

import hmac
import threading
from collections.abc import Sequence
from pathlib import Path

from api.webhooks.vault import Locked
from events.objects import age
from events.objects.age import Identity
from events.objects.errors import KeyRefused
from forge.key_files import make_node_key, read_identities


class NodeKey:
    """An age identity, made when the first secret is to be kept. May be used from any thread.

    The file may hold former ones below it: they open what was encrypted before the key was changed.
    """

    def __init__(self, path: Path) -> None:
        """`path` is that of the key; mode 0600, like the root token."""
        self._path = path
        self._identities: Sequence[Identity] = ()
        self._lock = threading.Lock()

    def seal(self, secrets: Sequence[str]) -> tuple[bytes, ...]:
        """Return each encrypted."""
        recipient = self._known(make=True)[0].recipient
        return tuple(age.encrypt(secret.encode(), [recipient]) for secret in secrets)

    def open(self, sealed: bytes) -> str:
        """Return a secret; raise `Locked`."""
        try:
            return age.decrypt(sealed, self._known()).decode()
        except age.AgeError as error:
            raise Locked(f"{self._path} is another key than they were encrypted to") from error

    def stands_for(self, secrets: Sequence[str]) -> str:
        """Return a text that is equal for equal secrets, and tells nothing about them to who has not the key."""
        key = self._known(make=True)[0].secret()
        return hmac.digest(key, "\0".join(secrets).encode(), "sha256").hex()

    def _known(self, *, make: bool = False) -> Sequence[Identity]:
        with self._lock:
            if not self._identities:
                try:
                    if make and not self._path.exists():
                        make_node_key(self._path)
                    self._identities = read_identities(self._path)
                except (OSError, KeyRefused) as error:
                    raise Locked(f"{self._path} cannot be used: {error}") from error
            return self._identities
