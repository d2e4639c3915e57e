"""How many bytes of bodies the relay may keep in memory at the same time."""

from schemas.problems import UNAVAILABLE, Refusal

RETRY_AFTER_S = 2


class Budget:
    """Counts the bytes that bodies keep; what goes beyond is refused, never squeezed in."""

    __slots__ = ("bytes_max", "used_bytes")

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.used_bytes = 0

    def take(self, size_bytes: int) -> None:
        """Reserve room; raise `Refusal` (503) if there is none."""
        if self.used_bytes + size_bytes > self.bytes_max:
            why = f"bodies that wait to be delivered use the {self.bytes_max} bytes that they may use"
            raise Refusal(UNAVAILABLE.problem(why, retry_after_s=RETRY_AFTER_S))
        self.used_bytes += size_bytes

    def give(self, size_bytes: int) -> None:
        """Give room back."""
        self.used_bytes -= size_bytes
        assert self.used_bytes >= 0, "more was given back than taken"
