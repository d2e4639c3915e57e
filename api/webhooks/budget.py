"""How many bytes of bodies are in memory at the same time."""

from collections.abc import Iterator
from contextlib import contextmanager

from schemas.problems import UNAVAILABLE, Refusal

HELD_BYTES_MAX = 256 << 20


class Hold:
    """What one caller holds."""

    __slots__ = ("_budget", "size_bytes")

    def __init__(self, budget: "Budget") -> None:
        self._budget = budget
        self.size_bytes = 0

    def take(self, size_bytes: int) -> None:
        """Hold more; raise `Refusal` (503) if there is no room."""
        if self._budget.held_bytes + size_bytes > self._budget.bytes_max:
            raise Refusal(UNAVAILABLE.problem(f"{self._budget.held_bytes} bytes of bodies are in memory already"))
        self._budget.held_bytes += size_bytes
        self.size_bytes += size_bytes


class Budget:
    """A bound on the bytes that all callers hold together."""

    def __init__(self, bytes_max: int = HELD_BYTES_MAX) -> None:
        self.bytes_max = bytes_max
        self.held_bytes = 0

    @contextmanager
    def hold(self) -> Iterator[Hold]:
        """Let a caller hold something inside the block."""
        hold = Hold(self)
        try:
            yield hold
        finally:
            self.held_bytes -= hold.size_bytes
