"""Secrets of others, which are kept encrypted to a key of the node and never shown again."""

from collections.abc import Sequence
from typing import Protocol


class Locked(Exception):
    """A secret cannot be opened here: it was encrypted to another key, or the key is gone."""


class Vault(Protocol):
    """Encrypts and decrypts."""

    def seal(self, secrets: Sequence[str]) -> tuple[bytes, ...]:
        """Return each encrypted."""

    def open(self, sealed: bytes) -> str:
        """Return a secret; raise `Locked`."""

    def stands_for(self, secrets: Sequence[str]) -> str:
        """Return a text that is equal for equal secrets, and tells nothing about them."""
