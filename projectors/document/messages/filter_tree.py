"""Who wants a topic: filters by their levels, so that looking up costs as much as the topic is long."""

from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class _Level(Generic[T]):
    """What follows one level: the levels below it, and whose filters end here, as they are or with `#`."""

    __slots__ = ("below", "everything", "here")

    def __init__(self) -> None:
        self.below: dict[str, _Level[T]] = {}
        self.here: set[T] = set()
        self.everything: set[T] = set()

    @property
    def empty(self) -> bool:
        return not (self.below or self.here or self.everything)


class FilterTree(Generic[T]):
    """Filters with those who have them. `find` agrees with `schemas.topics.matches`."""

    def __init__(self) -> None:
        self._root: _Level[T] = _Level()

    def add(self, pattern: str, owner: T) -> None:
        """Note that `owner` wants what a valid filter picks."""
        *levels, last = pattern.split("/")
        node = self._root
        for level in levels if last == "#" else (*levels, last):
            node = node.below.setdefault(level, _Level())
        (node.everything if last == "#" else node.here).add(owner)

    def remove(self, pattern: str, owner: T) -> None:
        """Forget it; it must have been added."""
        *levels, last = pattern.split("/")
        path = [self._root]
        levels = levels if last == "#" else [*levels, last]
        for level in levels:
            path.append(path[-1].below[level])
        (path[-1].everything if last == "#" else path[-1].here).discard(owner)
        for level, above, node in zip(reversed(levels), reversed(path[:-1]), reversed(path[1:]), strict=True):
            if not node.empty:
                break
            del above.below[level]

    def find(self, topic: str) -> set[T]:
        """Return whose filters pick a valid topic."""
        return set(self._find(topic.split("/"), hidden=topic[0] == "$"))

    def _find(self, levels: list[str], *, hidden: bool) -> Iterator[T]:
        """`hidden` says that wildcards do not match the first level."""
        nodes = [self._root]
        for depth, level in enumerate(levels):
            wild = depth > 0 or not hidden
            following = []
            for node in nodes:
                if wild:
                    yield from node.everything
                    if (any_level := node.below.get("+")) is not None:
                        following.append(any_level)
                if (same := node.below.get(level)) is not None and level != "+":
                    following.append(same)
            nodes = following
        for node in nodes:
            yield from node.everything  # `a/#` picks `a` too
            yield from node.here
