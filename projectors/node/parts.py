"""A folder's entries as the parts that one command takes each."""

from collections.abc import Iterator, Sequence

from projectors.node.tree_hash import tree_hash
from schemas.node import ENTRIES_MAX, TreeEntry, TreePart

PART_BYTES_MAX = 512 << 10
_ENTRY_BYTES = 256  # of everything but names, link and tags


def parts_of(entries: Sequence[TreeEntry]) -> Iterator[TreePart]:
    """Yield the parts of the tree with these entries, in order; an empty tree has one."""
    ordered = sorted(entries, key=lambda entry: entry.name)
    hash_ = tree_hash(ordered, len(ordered))
    first, size, part = 0, 0, list[TreeEntry]()
    for entry in ordered:
        more = entry_bytes(entry)
        if part and (len(part) == ENTRIES_MAX or size + more > PART_BYTES_MAX):
            yield TreePart(hash=hash_, entry_count=len(ordered), first=first, entries=tuple(part))
            first, size, part = first + len(part), 0, []
        part.append(entry)
        size += more
    yield TreePart(hash=hash_, entry_count=len(ordered), first=first, entries=tuple(part))


def entry_bytes(entry: TreeEntry) -> int:
    """Return about how many bytes an entry takes in a command."""
    return _ENTRY_BYTES + 2 * (len(entry.name) + len(entry.link) + sum(map(len, entry.tags)))
