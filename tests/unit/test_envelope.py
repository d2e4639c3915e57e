"""An event is a CloudEvent that every reader understands, and what is not one is named and never passed over."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import to_json

from events.envelope import Event, Receipt, decode_events, encode_event
from events.errors import LogDamaged, MalformedRecord, UnknownEvent
from schemas.vector import FACTS, EmbeddingStored, JobFailed, JobsClaimed, JobsReleased, JobsRequeued, UploadAccepted

TIME = "2026-01-02T03:04:05.000006Z"
FACT = JobFailed(job_id=3, attempts=1, reason="no \N{SNOWMAN}", next_attempt_at=None)
EVENT = Event("01JZ/0", "/forge/node/a", TIME, "root", FACT, Receipt("key-1", "abcd", {"dead": True}))
ENVELOPE: dict[str, Any] = json.loads(encode_event(EVENT))

cids = st.text("0123456789abcdef", min_size=64, max_size=64)
instants = st.datetimes().map(lambda moment: f"{moment:%Y-%m-%dT%H:%M:%S.%f}Z".rjust(27, "0"))
job_ids = st.integers(1, 2**53)
many = st.lists(job_ids, max_size=5).map(tuple)
reasons = st.text(max_size=40)
facts = st.one_of(
    st.builds(UploadAccepted, job_id=job_ids, file_hash=cids, payload=cids, size_bytes=job_ids),
    st.builds(JobsClaimed, job_ids=many, worker_id=st.text(max_size=20), lease_until=instants),
    st.builds(JobsReleased, job_ids=many, reason=reasons, next_attempt_at=instants),
    st.builds(JobFailed, job_id=job_ids, attempts=job_ids, reason=reasons, next_attempt_at=st.none() | instants),
    st.builds(JobsRequeued, job_ids=many),
    st.builds(EmbeddingStored, job_id=job_ids, file_hash=cids, dimension=job_ids, vector=st.binary(max_size=40)),
)
answers = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
receipts = st.none() | st.builds(Receipt, st.text(max_size=20), st.text(max_size=16), answers)


def decode_event(envelope: Any, facts: Any) -> Event:
    [event] = decode_events(json.dumps([envelope]).encode(), facts)
    return event


@given(facts, receipts, st.text(max_size=20))
def test_an_event_comes_back_as_it_was(fact: Any, receipt: Receipt | None, principal: str) -> None:
    """PR4: a fold sees what the commit loop saw, also a command's answer."""
    event = Event("01JZ/7", "/forge/node/a", TIME, principal, fact, receipt)

    assert decode_event(json.loads(encode_event(event)), FACTS) == event


def test_an_event_is_a_cloud_event() -> None:
    """DESIGN 1: required attributes are there, extension names are lowercase letters, values are scalars."""
    assert ENVELOPE["specversion"] == "1.0"
    assert all(isinstance(ENVELOPE[name], str) and ENVELOPE[name] for name in ("id", "source", "type", "subject"))
    extensions = set(ENVELOPE) - {"specversion", "id", "source", "type", "subject", "time", "data"}
    assert extensions == {"principal", "commandid", "commandhash", "commandanswer"}
    assert all(name.isalnum() and name.islower() and isinstance(ENVELOPE[name], str) for name in extensions)


def test_fields_that_a_newer_forge_added_are_ignored() -> None:
    """What is stored is for ever: adding a field must not stop an older reader."""
    newer = {**ENVELOPE, "traceparent": "00-1", "data": {**ENVELOPE["data"], "colour": "red"}}

    assert decode_event(newer, FACTS) == EVENT


@pytest.mark.parametrize("kind", ["forge.vector.job.failed.v2", "data", "", None, 3, ["a list"]])
def test_an_unknown_type_says_which_event_and_what_to_do(kind: object) -> None:
    """DESIGN 3.2: an unknown type in one's own partition stops the fold: upgrade needed."""
    with pytest.raises(LogDamaged, match="01JZ/0") as raised:
        decode_event({**ENVELOPE, "type": kind}, FACTS)

    if isinstance(kind, str):
        assert raised.type is UnknownEvent
        assert "newer" in str(raised.value)


@pytest.mark.parametrize(
    "change",
    [
        {"data": None},
        {"data": {}},
        {"data": {**ENVELOPE["data"], "attempts": 0}},
        {"commandanswer": "{"},
        {"commandanswer": 5},
        {"commandid": 5},
        {"commandhash": None},
        {"id": 5},
        {"source": None},
        {"time": 5},
        {"time": "yesterday"},
        {"principal": ["root"]},
    ],
)
def test_an_event_that_is_not_readable_is_named(change: dict[str, object]) -> None:
    """PR4: types are checked before a fold sees them."""
    with pytest.raises(MalformedRecord, match=r"not readable|unreadable"):
        decode_event({**ENVELOPE, **change}, FACTS)


@pytest.mark.parametrize("name", ["id", "source", "type", "time", "principal", "data", "commandhash", "commandanswer"])
def test_an_event_without_a_required_attribute_is_named(name: str) -> None:
    with pytest.raises(MalformedRecord):
        decode_event({key: value for key, value in ENVELOPE.items() if key != name}, FACTS)


@given(st.binary(max_size=64))
def test_bytes_travel_as_base64(vector: bytes) -> None:
    """Any CloudEvents tool can read the JSON."""
    fact = EmbeddingStored(job_id=1, kind="text", file_hash="0" * 64, model="m", dimension=1, vector=vector)
    text = to_json(fact)

    assert EmbeddingStored.model_validate_json(text).vector == vector
    assert text.isascii()
