"""Ids: one escaped form for each, and back."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.ids import (
    TOKEN_LENGTH_MAX,
    InvalidId,
    PartitionId,
    Position,
    escape,
    parse_cid,
    unescape,
)

# Fifteen characters of four bytes each are 180 characters when escaped, so that every example is an id.
printable = st.characters(exclude_categories=["C", "Z"]) | st.just(" ")
ids = st.text(printable, min_size=1, max_size=15)
tokens = st.text(alphabet="abcdefghijklmnopqrstuvwxyz0123456789-_ABCDEF.*>", max_size=40)
numbers = st.integers(0, 2**64 - 1)
patient = settings(print_blob=True)


@patient
@given(ids)
def test_escaping_can_be_undone(text: str) -> None:
    assert unescape(escape(text)) == text


@patient
@given(ids, ids)
def test_two_ids_never_share_a_token(one: str, other: str) -> None:
    assert (escape(one) == escape(other)) == (one == other)


@patient
@given(ids)
def test_a_token_is_safe_in_subjects_and_file_names(text: str) -> None:
    """PR6: no wildcard, no separator, no capital, nothing that a shell or a file system reads."""
    token = escape(text)
    assert re.fullmatch(r"[a-z0-9_-]+", token)
    assert len(token) <= TOKEN_LENGTH_MAX


@patient
@given(tokens)
def test_only_canonical_tokens_are_read(token: str) -> None:
    try:
        text = unescape(token)
    except InvalidId:
        return
    assert escape(text) == token


@pytest.mark.parametrize(
    "token", ["", "A", "_", "_4", "_4A", "_61", "_ff", "_c0_80", "a.b", "*", ">", "a b", "_0a", "a\n"]
)
def test_other_tokens_are_refused(token: str) -> None:
    with pytest.raises(InvalidId):
        unescape(token)


@pytest.mark.parametrize(
    "text", ["", "\n", "a\x00b", "\x7f", "\ud800", "a\u202eb", "x" * (TOKEN_LENGTH_MAX + 1), "é" * 34]
)
def test_unprintable_and_overlong_ids_are_refused(text: str) -> None:
    with pytest.raises(InvalidId):
        escape(text)


@pytest.mark.parametrize(
    "text", ["*", ">", "forge.log.>", "../../etc/passwd", ".", "..", "notes.v2", "Ärger", "a/b", "-"]
)
def test_awkward_but_valid_ids_survive(text: str) -> None:
    assert unescape(escape(text)) == text


@patient
@given(st.sampled_from(["control", "gc", "doc", "vector", "node", "object"]), st.one_of(st.just(""), ids))
def test_a_partition_is_its_subject(domain: str, key: str) -> None:
    partition = PartitionId(domain, key)
    assert PartitionId.parse(partition.subject) == partition
    assert partition.live_subject.removeprefix("forge.live.") == partition.token
    assert partition.command_subject.removeprefix("forge.cmd.") == partition.token


@pytest.mark.parametrize(
    "subject",
    [
        *("", "forge.log", "forge.log.", "forge.log.doc.", "forge.log.doc.a.b", "forge.live.doc.a", "forge.log.doc.A"),
        *("forge.log.*", "forge.log.>", "forge.log.doc.*", "forge.log.doc.>", "forge.log.Doc.a", "forge.log.a b"),
    ],
)
def test_other_subjects_are_refused(subject: str) -> None:
    with pytest.raises(InvalidId):
        PartitionId.parse(subject)


@patient
@given(numbers, numbers)
def test_a_position_is_its_text(epoch: int, index: int) -> None:
    """K0.2: written and read again, over random epochs and indexes."""
    position = Position(epoch, index)
    assert Position.parse(str(position)) == position
    assert position < position.next()


@patient
@given(st.tuples(numbers, numbers), st.tuples(numbers, numbers))
def test_positions_order_by_epoch_then_index(one: tuple[int, int], other: tuple[int, int]) -> None:
    """K0.2."""
    assert (Position(*one) < Position(*other)) == (one < other)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "1.",
        ".1",
        "-1.2",
        "1.2.3",
        "1,2",
        "²\u00b2.1",
        "1.\u0663",
        " 1.2",
        "01.2",
        "1.02",
        "1.2\n",
        "1." + "9" * 5000,
    ],
)
def test_other_positions_are_refused(text: str) -> None:
    """K0.2: one form only; missing and extra parts, letters, signs, spaces and leading zeros are none."""
    with pytest.raises(InvalidId):
        Position.parse(text)


def test_a_content_hash_is_trimmed_and_lowered() -> None:
    assert parse_cid(f"  {'AB' * 32}\n") == "ab" * 32


@pytest.mark.parametrize("text", ["", "ab" * 31, "ab" * 33, "xy" * 32, "٣" * 64])
def test_other_content_hashes_are_refused(text: str) -> None:
    with pytest.raises(InvalidId):
        parse_cid(text)
