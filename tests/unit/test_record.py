"""A record goes to messages and back unchanged, and its hash vouches for all that it says."""

from dataclasses import replace

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import to_json

from events import record as record_module
from events.errors import LogDamaged, MalformedRecord
from events.record import (
    COMPRESS_FROM_BYTES,
    PART_BYTES_MAX,
    RECORD_BYTES_MAX,
    Message,
    Record,
    encode_payload,
    from_messages,
    genesis,
    message_record_id,
    to_messages,
)
from schemas.ids import PartitionId, Position

PARTITION = PartitionId("doc", "Notes and more.v2")
ID = "01JZZZZZZZZZZZZZZZZZZZZZZZ"
PLAIN = Record(PARTITION, Position(1, 7), "ab" * 16, ID, "node-a", b'[{"id":"x"}]')


@given(
    st.binary(max_size=200),
    st.sampled_from(["", "zstd"]),
    st.integers(0, 2**63),
    st.integers(0, 2**63),
    st.text(min_size=1, max_size=20).filter(str.isprintable),
)
def test_a_record_comes_back_from_its_messages_as_it_was(
    payload: bytes, encoding: str, index: int, sequence: int, key: str
) -> None:
    """Format and parse are one pair."""
    record = Record(PartitionId("doc", key), Position(1, index), "cd" * 16, ID, "node-a", payload, encoding)

    messages = to_messages(record, sequence)

    assert from_messages(messages) == record
    assert messages[0].headers["Nats-Expected-Last-Subject-Sequence"] == str(sequence)


def test_a_record_over_four_mib_is_one_atomic_batch() -> None:
    """DESIGN 3.2: readers see the record only when its commit header is there."""
    record = replace(PLAIN, payload=bytes(range(256)) * (2 * PART_BYTES_MAX // 256) + b"end")

    messages = to_messages(record, 41)

    assert from_messages(messages) == record
    assert [len(m.payload) for m in messages] == [PART_BYTES_MAX, PART_BYTES_MAX, 3]
    assert [m.headers["Nats-Batch-Sequence"] for m in messages] == ["1", "2", "3"]
    assert ["Nats-Batch-Commit" in m.headers for m in messages] == [False, False, True]
    assert {m.headers["Nats-Batch-Id"] for m in messages} == {ID}
    assert ["Nats-Expected-Last-Subject-Sequence" in m.headers for m in messages] == [True, False, False]
    assert len({m.headers["Nats-Msg-Id"] for m in messages}) == 3
    assert {message_record_id(m.headers) for m in messages} == {ID}


def test_a_record_of_exactly_one_part_is_one_message() -> None:
    assert len(to_messages(replace(PLAIN, payload=b"x" * PART_BYTES_MAX), 0)) == 1
    assert len(to_messages(replace(PLAIN, payload=b"x" * (PART_BYTES_MAX + 1)), 0)) == 2


@pytest.mark.parametrize(
    "other",
    [
        replace(PLAIN, partition=PartitionId("doc", "another")),
        replace(PLAIN, position=Position(1, 8)),
        replace(PLAIN, position=Position(2, 7)),
        replace(PLAIN, previous="ac" * 16),
        replace(PLAIN, id="01JZZZZZZZZZZZZZZZZZZZZZZY"),
        replace(PLAIN, node="node-b"),
        replace(PLAIN, payload=b'[{"id":"y"}]'),
        replace(PLAIN, encoding="zstd"),
        replace(PLAIN, node="node-", payload=b'a[{"id":"x"}]'),
    ],
)
def test_the_hash_covers_everything_a_record_says(other: Record) -> None:
    """PR2: history cannot be altered without the chain showing it."""
    assert other.hash != PLAIN.hash


def test_the_hash_is_for_ever() -> None:
    """Every stored record names one, so another way of hashing would break every log."""
    assert PLAIN.hash == "83e3e525f2c5e562d6581c5ca06d3f4f"
    assert genesis(PartitionId("vector", "0")) == "bc02c2ede7ffee0c82570f9a9d555b44"


def test_the_expected_sequence_is_not_part_of_history() -> None:
    """A restored log has other stream sequences and the same chain."""
    assert from_messages(to_messages(PLAIN, 5)).hash == from_messages(to_messages(PLAIN, 99)).hash


def test_each_partition_starts_a_chain_of_its_own() -> None:
    assert genesis(PartitionId("doc", "a")) != genesis(PartitionId("doc", "b"))


@given(st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=300), max_size=3), max_size=12))
def test_events_come_back_from_the_payload(events: list[dict[str, str]]) -> None:
    """Small payloads stay readable for everybody, larger ones are compressed."""
    payload, encoding = encode_payload([to_json(event) for event in events])

    assert replace(PLAIN, payload=payload, encoding=encoding).envelopes() == events
    assert (encoding == "") == (len(to_json(events)) < COMPRESS_FROM_BYTES)


@pytest.mark.parametrize(
    ("payload", "encoding"),
    [
        (b"", ""),
        (b"{}", ""),
        (b"[1]", ""),
        (b'[{"id":"x"}', ""),
        (b'[{"id":"\xff"}]', ""),
        (b"not zstd", "zstd"),
        (zstandard.compress(b"[]")[:-1], "zstd"),
        (zstandard.compress(b"[" * 100_000), "zstd"),
        (b"[" * 100_000, ""),
    ],
)
def test_a_payload_that_is_no_list_of_events_is_named(payload: bytes, encoding: str) -> None:
    """PR4: whoever reads stops, and says at which record."""
    with pytest.raises(MalformedRecord, match=r"record 1\.7 of doc/Notes and more\.v2") as raised:
        replace(PLAIN, payload=payload, encoding=encoding).envelopes()

    assert ID in str(raised.value)


@pytest.mark.parametrize("with_size", [True, False])
def test_a_decompression_bomb_is_refused_before_it_grows(monkeypatch: pytest.MonkeyPatch, with_size: bool) -> None:
    """PR7: 600 KiB of zstd may not take gigabytes of memory, whether its frame tells its size or not."""
    assert RECORD_BYTES_MAX == 256 << 20
    monkeypatch.setattr(record_module, "RECORD_BYTES_MAX", 1 << 20)
    bomb = zstandard.ZstdCompressor(write_content_size=with_size).compress(b"[" + b" " * (1 << 20) + b"]")
    assert len(bomb) < 1000

    with pytest.raises(MalformedRecord, match=r"record 1\.7"):
        replace(PLAIN, payload=bomb, encoding="zstd").envelopes()


def test_a_record_of_just_the_bound_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_module, "RECORD_BYTES_MAX", 1 << 20)
    payload = zstandard.compress(b"[" + b" " * ((1 << 20) - 2) + b"]")

    assert replace(PLAIN, payload=payload, encoding="zstd").envelopes() == []


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("Forge-Position", None),
        ("Forge-Position", "7"),
        ("Forge-Position", "1.07"),
        ("Forge-Previous", None),
        ("Forge-Node", None),
        ("Content-Type", "text/plain"),
        ("Content-Type", None),
        ("Content-Encoding", "gzip"),
    ],
)
def test_a_message_that_is_no_record_is_named(header: str, value: str | None) -> None:
    message = replace(to_messages(PLAIN, 0)[0], sequence=123)
    headers = {**message.headers, header: value}

    with pytest.raises(LogDamaged, match=r"message 123 on forge\.log\.doc\.|record 1\.7 of doc/"):
        from_messages([replace(message, headers={k: v for k, v in headers.items() if v is not None})])


def test_a_message_on_no_subject_of_the_log_is_named() -> None:
    with pytest.raises(MalformedRecord, match=r"message 5 on orders\.new"):
        from_messages([Message("orders.new", to_messages(PLAIN, 0)[0].headers, b"[]", 5)])
