"""The hash of a query's result: equal exactly when columns, rows, their order and every value's type are equal."""

import struct
from collections.abc import Sequence

from blake3 import blake3

from schemas.values import SqlValue

FORMAT = b"forge result 1\n"
_TAGS = {type(None): 0, int: 1, float: 2, str: 3, bytes: 4}


def result_hash(columns: Sequence[str], rows: Sequence[Sequence[SqlValue]]) -> str:
    """Return BLAKE3-256 in hex over `FORMAT`, the numbers of columns and rows, and each column from left to right.

    A column is: the length of its name in bytes, the name; one byte per value for its type (0 NULL, 1 integer,
    2 real, 3 text, 4 blob); all its integers; all its reals (IEEE 754); the lengths of all its texts and blobs in
    bytes; their bytes. Numbers have 64 bits, little-endian; text is UTF-8. Each part has one length that the parts
    before it determine, so different results never have the same encoding.
    """
    whole = blake3(FORMAT)
    whole.update(struct.pack("<QQ", len(columns), len(rows)))
    values = list(zip(*rows, strict=True)) if rows else [()] * len(columns)
    for name, column in zip(columns, values, strict=True):
        encoded = name.encode()
        whole.update(struct.pack("<Q", len(encoded)) + encoded + _encoded(column))
    return whole.hexdigest()


def _encoded(column: Sequence[SqlValue]) -> bytes:
    integers = [value for value in column if type(value) is int]
    reals = [value for value in column if type(value) is float]
    contents = [v.encode() if isinstance(v, str) else v for v in column if isinstance(v, str | bytes)]
    return b"".join(
        (
            bytes([_TAGS[type(value)] for value in column]),
            struct.pack(f"<{len(integers)}q", *integers),
            struct.pack(f"<{len(reals)}d", *reals),
            struct.pack(f"<{len(contents)}Q", *map(len, contents)),
            *contents,
        )
    )
