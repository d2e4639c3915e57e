"""What a change rests on, as a client says it."""

from collections.abc import Iterable
from typing import Protocol


class Fenced(Protocol):
    """A lease by its number: a `HeldLease`, the answer to acquiring, a `Fence`."""

    @property
    def resource(self) -> str: ...
    @property
    def fence(self) -> int: ...


def fence_headers(fences: Iterable[Fenced]) -> dict[str, str]:
    """Return the header that lets a change happen only while these leases are held."""
    text = ", ".join(f"{one.resource}={one.fence}" for one in fences)
    return {"If-Fence": text} if text else {}
