"""Modes of files as Go tells them, which the first tree hash is made of, and as POSIX does."""

import stat

PERMISSIONS = 0o777
RIGHTS = 0o7777
_TYPES = {
    stat.S_IFREG: 0,
    stat.S_IFDIR: 1 << 31,
    stat.S_IFLNK: 1 << 27,
    stat.S_IFBLK: 1 << 26,
    stat.S_IFCHR: 1 << 26 | 1 << 21,
    stat.S_IFIFO: 1 << 25,
    stat.S_IFSOCK: 1 << 24,
}
_FLAGS = {stat.S_ISUID: 1 << 23, stat.S_ISGID: 1 << 22, stat.S_ISVTX: 1 << 20}
_TYPE_BITS = 1 << 31 | 1 << 27 | 1 << 26 | 1 << 25 | 1 << 24 | 1 << 21
_LETTERS = "dalTLDpSugct?"  # of the bits 31 to 19
_RWX = "rwxrwxrwx"


def go_mode(st_mode: int) -> int:
    """Return the FileMode bits of a `st_mode`."""
    flags = sum(bit for flag, bit in _FLAGS.items() if st_mode & flag)
    return _TYPES[stat.S_IFMT(st_mode)] | flags | st_mode & PERMISSIONS


def posix_mode(mode: int) -> int:
    """Return the `st_mode` that `go_mode` turned into `mode`; 0, a mode that was left out, stays 0."""
    if not mode:
        return 0
    kind = next((posix for posix, bits in _TYPES.items() if bits == mode & _TYPE_BITS), 0)
    return kind | sum(flag for flag, bit in _FLAGS.items() if mode & bit) | mode & PERMISSIONS


def mode_text(mode: int) -> str:
    """Return FileMode bits as Go prints them, for example `drwxr-xr-x`."""
    kinds = "".join(letter for at, letter in enumerate(_LETTERS) if mode >> (31 - at) & 1)
    rights = "".join(letter if mode >> (8 - at) & 1 else "-" for at, letter in enumerate(_RWX))
    return (kinds or "-") + rights
