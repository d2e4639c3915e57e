"""How many bytes of bodies the relay may keep in memory at the same time."""

from collections import Counter

from schemas.problems import UNAVAILABLE, Refusal

RETRY_AFTER_S = 2
SHARES = 2
"""One document may use so large a part of all: 1 / SHARES. The rest is for the others."""


class Budget:
    """Counts the bytes that bodies keep; what goes beyond is refused, never squeezed in."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._used: Counter[str] = Counter()
        self.used_bytes = 0

    def of(self, space: str) -> "Share":
        """Return what one document may use."""
        return Share(self, space)

    def take(self, space: str, size_bytes: int) -> None:
        """Reserve room; raise `Refusal` (503) if there is none."""
        own_max = self._bytes_max // SHARES
        if self._used[space] + size_bytes > own_max:
            raise _full(f"bodies of this document that wait use the {own_max} bytes that they may use")
        if self.used_bytes + size_bytes > self._bytes_max:
            raise _full(f"bodies that wait use the {self._bytes_max} bytes that they may use")
        self._used[space] += size_bytes
        self.used_bytes += size_bytes

    def give(self, space: str, size_bytes: int) -> None:
        """Give room back."""
        self.used_bytes -= size_bytes
        self._used[space] -= size_bytes
        assert self._used[space] >= 0, "more was given back than taken"
        if not self._used[space]:
            del self._used[space]


class Share:
    """The part of the budget that is for one document."""

    __slots__ = ("_budget", "_space")

    def __init__(self, budget: Budget, space: str) -> None:
        self._budget = budget
        self._space = space

    def take(self, size_bytes: int) -> None:
        """Reserve room; raise `Refusal` (503) if there is none."""
        self._budget.take(self._space, size_bytes)

    def give(self, size_bytes: int) -> None:
        """Give room back."""
        if size_bytes:
            self._budget.give(self._space, size_bytes)


def _full(why: str) -> Refusal:
    return Refusal(UNAVAILABLE.problem(why, retry_after_s=RETRY_AFTER_S))
