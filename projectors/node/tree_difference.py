"""What differs between two trees: A for what was added, D deleted, M modified, T of another kind."""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import apsw

from projectors.node import queries
from schemas.node import TreeEntry

Code = Literal["A", "D", "M", "T"]


class Change(NamedTuple):
    """One path that differs, and which tags it got and lost."""

    code: Code
    path: bytes
    kind: str
    tags_added: Sequence[str] = ()
    tags_removed: Sequence[str] = ()


_Pair = tuple[bytes, TreeEntry | None, TreeEntry | None]


def changes(db: apsw.Connection, before: str, after: str) -> Iterator[Change]:
    """Yield what became of tree `before` in tree `after`, in order of paths; what is equal below is not looked at.

    A folder is modified if its mode or its tags are others: its time and its size change with whatever is in it.
    """
    pending = _children(db, b"", before, after)
    while pending:
        path, was, now = pending.pop()
        if change := _change(path, was, now):
            yield change
        pending += _children(db, path + b"/", _tree(was), _tree(now))


def _children(db: apsw.Connection, folder: bytes, before: str | None, after: str | None) -> list[_Pair]:
    """Return the entries of two trees by path, the last one first."""
    if before == after:
        return []
    old, new = ({entry.name: entry for entry in queries.entries(db, tree)} if tree else {} for tree in (before, after))
    return [(folder + name, old.get(name), new.get(name)) for name in sorted(old.keys() | new.keys(), reverse=True)]


def _tree(entry: TreeEntry | None) -> str | None:
    return entry.target if entry is not None and entry.kind == "tree" else None


def _change(path: bytes, was: TreeEntry | None, now: TreeEntry | None) -> Change | None:
    if was is None:
        return Change("A", path, now.kind, now.tags) if now else None
    if now is None:
        return Change("D", path, was.kind, (), was.tags)
    if was.kind != now.kind:
        return Change("T", path, now.kind, *_tags(was.tags, now.tags))
    same = (was.mode, was.tags) == (now.mode, now.tags) if was.kind == "tree" else was == now
    return None if same else Change("M", path, now.kind, *_tags(was.tags, now.tags))


def _tags(was: Sequence[str], now: Sequence[str]) -> tuple[list[str], list[str]]:
    return sorted(set(now) - set(was)), sorted(set(was) - set(now))
