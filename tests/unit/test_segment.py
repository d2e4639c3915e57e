"""Segments: what is sealed comes back, and nothing else does."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.cursor import Cursor, Entry
from events.errors import LogDamaged
from events.segment import open_segment, seal
from schemas.archive import SegmentKey, payload_key, segments_from, segments_of
from schemas.ids import InvalidId, PartitionId, Position
from schemas.segment import MAGIC, VERSION, InvalidSegment, decode
from tests.notes import NoteAdded, record_after

PARTITION = PartitionId("doc", "Notes.2")
KEY = SegmentKey("FORGE_DOCS", PARTITION, 1, 7, 12)


def history(texts: Sequence[str], start: int = 0) -> tuple[Cursor, list[Entry]]:
    """Return a cursor somewhere in a history, and records of one note each that follow it."""
    before = cursor = Cursor(Position(1, start), "ab" * 16 if start else Cursor.start(PARTITION).hash, start * 3)
    entries = []
    for text in texts:
        record = record_after(cursor, PARTITION, [NoteAdded(text=text)])
        cursor = Cursor(record.position, record.hash, cursor.sequence + 2)
        entries.append(Entry(record, cursor))
    return before, entries


texts = st.lists(st.text(max_size=2000), min_size=1, max_size=20)


@given(texts, st.integers(0, 10**12))
def test_what_was_sealed_comes_back(notes: list[str], start: int) -> None:
    """PR4: records, positions, hashes and the hints of their places."""
    before, entries = history(notes, start)

    segment = open_segment(seal(PARTITION, before, entries), PARTITION)

    assert segment.entries == entries
    assert (segment.before.position, segment.before.hash) == (before.position, before.hash)


@given(texts)
def test_equal_records_make_equal_segments(notes: list[str]) -> None:
    """PR5: whoever seals them again finds its own segment."""
    before, entries = history(notes)

    assert seal(PARTITION, before, entries) == seal(PARTITION, before, entries)


@given(texts, st.integers(0, 2**32))
def test_a_flipped_bit_is_found(notes: list[str], place: int) -> None:
    """K3.6: wherever it is."""
    raw = bytearray(seal(PARTITION, *history(notes)))
    place %= 8 * len(raw)
    raw[place // 8] ^= 1 << place % 8

    with pytest.raises(LogDamaged):
        open_segment(bytes(raw), PARTITION)


def test_every_flipped_bit_of_one_segment_is_found() -> None:
    """K3.6."""
    raw = seal(PARTITION, *history(["a note"]))
    for place in range(8 * len(raw)):
        altered = bytearray(raw)
        altered[place // 8] ^= 1 << place % 8
        with pytest.raises(LogDamaged):
            open_segment(bytes(altered), PARTITION)


def test_a_segment_that_was_cut_off_is_refused() -> None:
    """K3.6: at any length."""
    raw = seal(PARTITION, *history(["one", "two"]))

    for length in range(len(raw)):
        with pytest.raises(LogDamaged):
            open_segment(raw[:length], PARTITION)


@given(st.lists(st.text(max_size=5), min_size=3, max_size=6), st.data())
def test_records_that_do_not_follow_each_other_are_refused(notes: list[str], data: st.DataObject) -> None:
    """K2.2: dropped, repeated, swapped or altered, under a checksum that is right."""
    before, entries = history(notes)
    at = data.draw(st.integers(1, len(entries) - 2))
    harm = data.draw(st.sampled_from(["drop", "repeat", "swap", "alter"]))
    harmed = list(entries)
    match harm:
        case "drop":
            del harmed[at]
        case "repeat":
            harmed.insert(at, entries[at])
        case "swap":
            harmed[at], harmed[at + 1] = entries[at + 1], entries[at]
        case _:
            harmed[at] = Entry(replace(entries[at].record, node="other"), entries[at].cursor)

    with pytest.raises(LogDamaged):
        open_segment(seal(PARTITION, before, harmed), PARTITION)


def test_a_segment_of_another_partition_is_refused() -> None:
    """PR6."""
    raw = seal(PARTITION, *history(["one"]))

    with pytest.raises(LogDamaged, match="holds"):
        open_segment(raw, PartitionId("doc", "other"))


def test_a_segment_of_a_newer_version_says_so() -> None:
    with pytest.raises(InvalidSegment, match="newer Forge"):
        decode(MAGIC + bytes([VERSION + 1]) + b"anything")


tokens = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)
indexes = st.integers(1, 2**63)


@given(tokens, st.integers(1, 2**40), indexes, indexes)
def test_the_key_of_a_segment_is_read_as_it_was_written(key: str, epoch: int, one: int, other: int) -> None:
    made = SegmentKey("FORGE_DOCS", PartitionId("doc", key), epoch, min(one, other), max(one, other))

    assert SegmentKey.parse(str(made)) == made


@given(indexes, indexes)
def test_keys_are_in_the_order_of_what_they_hold(one: int, other: int) -> None:
    """A listing gives segments in the order of their records, from any position on."""
    keys = [str(SegmentKey("FORGE_DOCS", PARTITION, 1, index, index)) for index in (one, other)]
    begin = segments_from("FORGE_DOCS", PARTITION, Position(1, other))

    assert (keys[0] < keys[1]) == (one < other)
    assert (keys[0] > begin) == (one >= other)
    assert keys[0].startswith(segments_of("FORGE_DOCS", PARTITION, 1))


@pytest.mark.parametrize(
    "text",
    [
        "",
        str(KEY)[:-4],
        f"x{KEY}",
        f"{KEY}\n",
        str(KEY).replace("00000007", "00000013"),
        str(KEY).replace("/1/", "/01/"),
    ],
)
def test_what_is_no_key_of_a_segment_is_refused(text: str) -> None:
    with pytest.raises(InvalidId):
        SegmentKey.parse(text)


def test_a_payload_lies_under_its_content_hash() -> None:
    assert payload_key("AB" * 32) == f"payloads/ab/{'ab' * 32}"
    with pytest.raises(InvalidId):
        payload_key("../x")
