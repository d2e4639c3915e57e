"""The two hashes of a folder: v1 as the older Forge makes it, v2 that does not depend on the file system.

Both are BLAKE3 over the entries in the order of their names' bytes. v1 has the mode bits of Go, and the size that the
file system gives to folders; v2 has the rights of POSIX (`07777`, the kind tells the rest), and sizes of files only.
"""

import struct
from collections.abc import Iterable, Mapping

from blake3 import blake3

from projectors.node.file_mode import RIGHTS, posix_mode
from schemas.node import TreeEntry

_U32 = struct.Struct(">I")
_ENTRY = struct.Struct(">Iqq")


def tree_hash(entries: Iterable[TreeEntry], count: int) -> str:
    """Return hash v1 of a folder with `count` entries, which come in order."""
    hasher = _begun("forge.tree.v1", count)
    for entry in entries:
        _add(hasher, entry, entry.target, entry.mode, entry.size)
    return hasher.hexdigest()


def tree_hash_v2(entries: Iterable[TreeEntry], count: int, below: Mapping[str, str]) -> str:
    """Return hash v2; `below` gives that of each folder in it by its hash v1."""
    hasher = _begun("forge.tree.v2", count)
    for entry in entries:
        target = below[entry.target] if entry.kind == "tree" else entry.target
        _add(hasher, entry, target, posix_mode(entry.mode) & RIGHTS, entry.size if entry.kind == "file" else 0)
    return hasher.hexdigest()


def _begun(version: str, count: int) -> blake3:
    return blake3(_text(version.encode()) + _U32.pack(count))


def _add(hasher: blake3, entry: TreeEntry, target: str, mode: int, size: int) -> None:
    hasher.update(
        _text(entry.name)
        + _text(entry.kind.encode())
        + _text(target.encode())
        + _ENTRY.pack(mode, entry.mtime_ns, size)
        + _text(entry.link)
        + _U32.pack(len(entry.tags))
        + b"".join(_text(tag.encode()) for tag in entry.tags)
    )


def _text(raw: bytes) -> bytes:
    return _U32.pack(len(raw)) + raw
