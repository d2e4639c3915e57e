"""What a file holds, told by its name and its first bytes, and which kind of embedding that fits."""

from enum import StrEnum
from typing import Literal

Kind = Literal["image", "text"]
KINDS: tuple[Kind, ...] = ("image", "text")

HEAD_BYTES = 8192
IMAGE_SUFFIXES = frozenset(b".jpg .jpeg .jpe .jfif .png .gif .webp .bmp .tif .tiff .avif .heic .heif".split())
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\x00", b"MM\x00*")
_HEIF_BRANDS = frozenset({b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"})


class Content(StrEnum):
    """What the first bytes look like."""

    IMAGE = "image"
    TEXT = "text"
    BINARY = "binary"


def content_of(head: bytes) -> Content:
    """Classify by the first `HEAD_BYTES` bytes: a known image format, else binary if there is a NUL."""
    if head.startswith(_MAGIC) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return Content.IMAGE
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS:
        return Content.IMAGE
    if head[:2] == b"BM" and head[6:10] == bytes(4):  # a text may begin with BM, but has no zeros there
        return Content.IMAGE
    return Content.BINARY if b"\x00" in head[:HEAD_BYTES] else Content.TEXT


def suffix(name: bytes) -> bytes:
    """Return the lowercase suffix of a file name with its dot, empty if it has none."""
    dot = name.rfind(b".")
    return name[dot:].lower() if dot > 0 else b""


def unfit_by_name(kind: Kind, name: bytes) -> str | None:
    """Return why a file of this name is not for `kind`, or None if its content has to tell.

    Images are looked for under the names of image formats, and under names without a suffix.
    """
    if kind == "image":
        ending = suffix(name)
        if ending and ending not in IMAGE_SUFFIXES:
            return "not an image"
    return None


def unfit_by_content(kind: Kind, content: Content) -> str | None:
    """Return why this content is not for `kind`, or None if it is."""
    if kind == "image":
        return None if content is Content.IMAGE else "not an image"
    return None if content is Content.TEXT else "not text"
