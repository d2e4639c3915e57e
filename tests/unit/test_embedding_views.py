"""The views with the older tables' names, read by the SQLite that other programs of this machine use."""

import json
import random
import sqlite3
import struct
from pathlib import Path

import apsw

from projectors.projection import schema_sql

DIMENSION = 300
EXTREMES = (0.0, -0.0, 1.0, -1.5, 0.1, 3.4028234663852886e38, 1.1754943508222875e-38, 1.401298464324817e-45)


def test_another_sqlite_reads_the_vectors_as_json(tmp_path: Path) -> None:
    """G33: every float32 comes out as it went in, in order, with no extension and an older library."""
    random_source = random.Random(7)
    print("seed 7, SQLite", sqlite3.sqlite_version)
    vectors = {}
    path = tmp_path / "embeddings.db"
    db = apsw.Connection(str(path))
    db.execute(schema_sql("embeddings"))
    for number in range(10):
        numbers = [*EXTREMES, *(random_source.gauss(0, 1) for _ in range(DIMENSION - len(EXTREMES)))]
        stored = struct.pack(f"<{DIMENSION}f", *numbers)
        vectors[f"{number:064x}"] = list(struct.unpack(f"<{DIMENSION}f", stored))
        kind = "text" if number % 2 else "image"
        db.execute(
            "INSERT INTO embedding VALUES (?, ?, 'm', ?, ?, '', '')", (kind, f"{number:064x}", DIMENSION, stored)
        )
    db.close()

    other = sqlite3.connect(path)
    try:
        rows = [
            row for view in ("text_embeddings", "image_embeddings") for row in other.execute(f"SELECT * FROM {view}")
        ]
    finally:
        other.close()

    assert {file_hash: as_float32(json.loads(text)) for file_hash, text, *_ in rows} == vectors


def as_float32(numbers: list[float]) -> list[float]:
    return list(struct.unpack(f"<{len(numbers)}f", struct.pack(f"<{len(numbers)}f", *numbers)))
