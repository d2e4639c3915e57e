"""The headers of a request."""

from collections.abc import Iterator, Sequence


class Headers(dict[str, str]):
    """The values by name in lower case: of several with one name the first. Made once, then only read."""

    __slots__ = ("_lines",)

    def __init__(self, lines: Sequence[tuple[bytes, bytes]]) -> None:
        """`lines` are those of an ASGI scope, names in lower case."""
        super().__init__([(name.decode("latin-1"), value.decode("latin-1")) for name, value in reversed(lines)])
        self._lines = lines

    def all(self, name: str) -> list[str]:
        """Return every value of `name`, in order."""
        if len(self) == len(self._lines):  # no name is there twice
            return [self[name]] if name in self else []
        wanted = name.encode("latin-1")
        return [value.decode("latin-1") for given, value in self._lines if given == wanted]

    def lines(self) -> Iterator[tuple[str, str]]:
        """Yield every name and value, in order."""
        for name, value in self._lines:
            yield name.decode("latin-1"), value.decode("latin-1")
