"""Chunks of a log: what is damaged, dropped, doubled, reordered or spliced is always noticed."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.chunk import Chunk, ForeignHistory, chunk_head, chunk_record, open_chunk
from events.cursor import Cursor, Entry, Extent
from events.record import Record
from schemas.ids import PartitionId, Position
from schemas.wal import ChunkRecord, InvalidChunk, decode, encode, size
from tests.unit.test_samples import SAMPLES

NOTES, OTHERS = PartitionId("doc", "notes"), PartitionId("doc", "others")
START = Cursor.start(NOTES)
GOLDEN = SAMPLES / "wal"


def history(partition: PartitionId, payloads: list[bytes]) -> list[Entry]:
    """Return records of these payloads, with ids and sequences that are always the same."""
    cursor, entries = Cursor.start(partition), []
    for number, payload in enumerate(payloads, start=1):
        record_id = f"01M7W6TYSS1VPYMF3FVAHY{number:04}"
        record = Record(partition, cursor.position.next(), cursor.hash, record_id, "node-a", payload)
        cursor = Cursor(record.position, record.hash, number * 3)
        entries.append(Entry(record, cursor))
    return entries


def chunk(entries: list[Entry], after: Cursor = START, **changes: object) -> bytes:
    records = [chunk_record(entry) for entry in entries]
    head = chunk_head(after_partition(entries), after, entries, Extent(Position(1, 1), Position(1, 9)), eof=False)
    raw = b"".join(encode(head.model_copy(update=changes), records))
    assert size(head.model_copy(update=changes), records) == len(raw)
    return raw


def after_partition(entries: list[Entry]) -> PartitionId:
    return entries[0].record.partition if entries else NOTES


def sealed(raw: bytes, records: list[ChunkRecord]) -> bytes:
    """Return the chunk `raw` with other records, and a checksum that fits."""
    head, _ = decode(raw)
    return b"".join(encode(head.model_copy(update={"count": len(records)}), records))


@given(st.lists(st.binary(max_size=200), max_size=8), st.integers(0, 8))
def test_a_chunk_gives_back_the_records_that_went_in(payloads: list[bytes], first: int) -> None:
    """K2.2: records, positions, hashes and hints, from any position on."""
    entries = history(NOTES, payloads)
    after = entries[min(first, len(entries)) - 1].cursor if first and entries else START
    rest = entries[after.position.index :]

    opened = open_chunk(chunk(rest, after), NOTES, after)

    assert opened.entries == rest
    assert opened.cursor.position == (rest[-1].cursor if rest else after).position


def test_every_single_flipped_bit_is_noticed() -> None:
    """K2.2: 100 % of them, in the head, the records and the checksum itself."""
    raw = chunk(history(NOTES, [b"[1]", b"[2]", b"[]"]))
    for bit in range(len(raw) * 8):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(InvalidChunk):
            open_chunk(bytes(flipped), NOTES, START)


def test_a_chunk_that_is_cut_off_or_goes_on_is_noticed() -> None:
    """K2.2: also where the cut is between two records."""
    raw = chunk(history(NOTES, [b"[1]", b"[2]"]))
    for length in range(len(raw)):
        with pytest.raises(InvalidChunk):
            open_chunk(raw[:length], NOTES, START)
    with pytest.raises(InvalidChunk):
        open_chunk(raw + b"\0", NOTES, START)


@pytest.mark.parametrize("sent", [[0, 2], [1, 2], [1, 0, 2], [0, 1, 1, 2], [0, 0, 1, 2], [0, 2, 1], [0, 1], []])
def test_records_that_are_dropped_doubled_or_reordered_are_noticed(sent: list[int]) -> None:
    """K2.2: although whoever did it made the checksum fit."""
    entries = history(NOTES, [b"[1]", b"[2]", b"[3]"])
    raw = sealed(chunk(entries), [chunk_record(entries[n]) for n in sent])

    with pytest.raises(ForeignHistory):
        open_chunk(raw, NOTES, START)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_record_of_another_document_is_noticed(at: int) -> None:
    """K2.2: positions and payloads are the same, but not the chain."""
    payloads = [b"[1]", b"[2]", b"[3]"]
    entries, foreign = history(NOTES, payloads), history(OTHERS, payloads)
    records = [chunk_record(entry) for entry in entries]
    records[at] = chunk_record(foreign[at])

    with pytest.raises(ForeignHistory):
        open_chunk(sealed(chunk(entries), records), NOTES, START)


def test_an_altered_payload_with_a_fitting_checksum_is_noticed() -> None:
    """K2.2: by the chain, or by the hash that the head names."""
    entries = history(NOTES, [b"[1]", b"[2]"])
    for at in range(2):
        records = [chunk_record(entry) for entry in entries]
        records[at] = records[at]._replace(payload=b"[9]")
        with pytest.raises(ForeignHistory):
            open_chunk(sealed(chunk(entries), records), NOTES, START)


def test_a_chunk_for_somebody_who_stands_elsewhere_is_refused() -> None:
    """K2.3: same position, other history; other position; other document."""
    entries = history(NOTES, [b"[1]", b"[2]"])
    raw = chunk(entries[1:], entries[0].cursor)

    for after in (START, entries[1].cursor, replace(entries[0].cursor, hash="00" * 16)):
        with pytest.raises(ForeignHistory):
            open_chunk(raw, NOTES, after)
    with pytest.raises(ForeignHistory, match="not of"):
        open_chunk(raw, OTHERS, entries[0].cursor)


def test_a_newer_chunk_says_that_it_needs_a_newer_forge() -> None:
    raw = bytearray(chunk([]))
    raw[8] = 2

    with pytest.raises(InvalidChunk, match="newer Forge"):
        open_chunk(bytes(raw), NOTES, START)


@pytest.mark.parametrize(("name", "count"), [("empty", 0), ("three", 3)])
def test_a_chunk_that_was_once_stored_is_read_and_written_the_same(name: str, count: int) -> None:
    """K0.6: golden chunks; positions, heads and records of version 1 stay readable for ever."""
    entries = history(NOTES, [b'[{"n":1}]', b'[{"n":2}]', b""][:count])
    raw = (GOLDEN / f"{name}.chunk").read_bytes()

    opened = open_chunk(raw, NOTES, START)

    assert opened == Chunk(opened.head, entries)
    assert opened.head.next == f"1.{count}"
    assert chunk(entries) == raw
