"""Checksums kept in extended attributes of the files themselves.

`user.checksum.blake3` (lowercase hex) and `user.checksum.mtime` (decimal Unix seconds) are shared with other
tools; `user.forge.stat` is ours and adds what whole seconds cannot tell: size, modification time in
nanoseconds, and what the content looks like.
"""

import contextlib
import errno
import os
from dataclasses import dataclass

from forge.ingest.content import Content

DIGEST = "user.checksum.blake3"
MTIME = "user.checksum.mtime"
STAT = "user.forge.stat"
SHARED_PREFIX = "user.checksum."
NS_PER_S = 1_000_000_000

_NOT_WRITABLE = frozenset({errno.ENOTSUP, errno.EPERM, errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True, slots=True)
class Checksum:
    """The BLAKE3 of a file (64 hex digits) while it had this size and modification time."""

    digest: str
    content: Content
    size_bytes: int
    mtime_ns: int

    def fits(self, size_bytes: int, mtime_ns: int) -> bool:
        """Tell whether a file of this size and time is the one that was hashed."""
        return self.size_bytes == size_bytes and self.mtime_ns == mtime_ns


def read_checksum(path: bytes, size_bytes: int, mtime_ns: int) -> Checksum | None:
    """Return the kept checksum if all attributes agree with `size_bytes` and `mtime_ns`; opens nothing."""
    try:
        size, mtime, content = os.getxattr(path, STAT, follow_symlinks=False).decode("ascii").split(":")
        if int(size) != size_bytes or int(mtime) != mtime_ns:
            return None
        if int(os.getxattr(path, MTIME, follow_symlinks=False)) != mtime_ns // NS_PER_S:
            return None
        digest = os.getxattr(path, DIGEST, follow_symlinks=False).decode("ascii")
        kept = Checksum(digest, Content(content), size_bytes, mtime_ns)
    except (OSError, ValueError):  # absent, not supported, or not written by us
        return None
    return kept if _is_digest(digest) else None


def write_checksum(descriptor: int, checksum: Checksum) -> bool:
    """Keep a checksum with an open file; False if the file system or its permissions do not allow it.

    Every other `user.checksum.*` goes first, as it may belong to older content, and the modification time
    comes last: a reader that finds it finds everything else of the same moment.
    """
    try:
        kept = [name for name in os.listxattr(descriptor) if name.startswith(SHARED_PREFIX)]
        for name in sorted(kept, key=lambda name: name != MTIME):
            with contextlib.suppress(FileNotFoundError):
                _remove(descriptor, name)
        stat = f"{checksum.size_bytes}:{checksum.mtime_ns}:{checksum.content}"
        os.setxattr(descriptor, DIGEST, checksum.digest.encode())
        os.setxattr(descriptor, STAT, stat.encode())
        os.setxattr(descriptor, MTIME, str(checksum.mtime_ns // NS_PER_S).encode())
    except OSError as error:
        if error.errno in _NOT_WRITABLE:
            return False
        raise
    return True


def _remove(descriptor: int, name: str) -> None:
    try:
        os.removexattr(descriptor, name)
    except OSError as error:
        if error.errno != errno.ENODATA:  # somebody else removed it
            raise


def _is_digest(text: str) -> bool:
    return len(text) == 64 and all(c in "0123456789abcdef" for c in text)
