"""What was once stored can be read for ever: recorded events and records, compared with what they said."""

import json
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest

from events.envelope import Event, Receipt, decode_events
from events.record import Message, Record, from_messages, to_messages
from forge import log_docs
from forge.domains import domains
from schemas.control import (
    DocumentArchived,
    DocumentCreated,
    DocumentDeleted,
    DocumentRenamed,
    DocumentUnarchived,
    DocumentUndeleted,
    MessageRetentionSet,
    TokenMinted,
    TokenRevoked,
    TokensUsed,
)
from schemas.document import (
    ChangesetStep,
    ChangesPushed,
    ContentCopied,
    DdlStep,
    Ran,
    RowidsStep,
    RowsStep,
    SqlExecuted,
    StateStep,
    SystemMigrated,
)
from schemas.ids import Position
from schemas.leases import LeaseAcquired, LeaseReleased, LeaseRenewed
from schemas.messages import MessagesPruned, MessagesPublished, PublishedMessage
from schemas.replicas import ReplicaEvicted, ReplicaRecalled, ReplicaReport, ReplicasReported
from schemas.scopes import Scope
from schemas.settings import Settings
from schemas.vector import (
    FACTS,
    EmbeddingStored,
    JobFailed,
    JobsClaimed,
    JobsParked,
    JobsReleased,
    JobsRequeued,
    UploadAccepted,
)
from schemas.webhook_endpoints import WebhookEndpointRemoved, WebhookEndpointSet
from schemas.webhooks import WebhookReceived
from schemas.writer_lease import WriterTaken
from tests.node_facts import SAMPLES as NODE

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "tests" / "samples"
RECORD = "01M7W6TYSS1VPYMF3FVAHY3XSW"
TIME = "2026-11-20T10:15:30.000001Z"
LEASE = "1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed"
LATER = "2026-11-20T10:17:30.000001Z"
FILE = "0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f9"
ACCEPTED = Receipt("upload-7f3c", "9a8b7c6d5e4f3021", {"status": "accepted", "job_id": 17})
EXPECTED = (
    UploadAccepted(job_id=17, kind="image", file_hash=FILE, payload=FILE, size_bytes=20480),
    JobsClaimed(job_ids=(17, 18), worker_id="node-a-01M7W6TY000000000000000000", lease_until=LATER),
    JobsReleased(job_ids=(18,), reason="the worker cannot be reached", next_attempt_at=LATER),
    JobFailed(job_id=17, attempts=1, reason="the worker answered 500", next_attempt_at=LATER),
    JobsRequeued(job_ids=(17,)),
    EmbeddingStored(
        job_id=17,
        kind="image",
        file_hash=FILE,
        model="image-layout-1",
        dimension=2,
        vector=b"\x00\x00\x80?\x00\x00\x00\xc0",
    ),
)
TOKEN = "6f1c0d2e9a8b7c6d5e4f3a21"
CONTROL = (
    DocumentCreated(db_id="notes", name="Our notes", owner=f"token:{TOKEN}"),
    DocumentRenamed(db_id="notes", name="My notes"),
    DocumentArchived(db_id="notes"),
    DocumentUnarchived(db_id="notes"),
    DocumentDeleted(db_id="notes"),
    DocumentUndeleted(db_id="notes"),
    TokenMinted(
        token_id=TOKEN,
        hash="0f" * 32,
        prefix="forge_7Kp2",
        label="report of the night",
        scopes=(
            Scope(db_id="notes", action="query.read"),
            Scope(db_id="team-*", action="pub.publish", resource_prefix="jobs"),
        ),
        expires_at=LATER,
        created_by="root",
        url=True,
    ),
    TokenRevoked(token_id=TOKEN),
    TokensUsed(token_ids=(TOKEN,)),
)
ENDPOINTS = (
    WebhookEndpointSet(
        db_id="notes",
        endpoint="github/push",
        provider="github",
        policy="reject",
        dedupe=True,
        secrets=(b"age-encrypted",),
    ),
    WebhookEndpointRemoved(db_id="notes", endpoint="github/push"),
)
COPY = "0123456789abcdef"
REPLICAS = (
    ReplicasReported(
        reports=(
            ReplicaReport(
                db_id="notes",
                replica_id="laptop-5f3a9c",
                copy_id=COPY,
                kind="file",
                position="1.42",
                by=f"token:{TOKEN}",
            ),
        )
    ),
    ReplicaEvicted(db_id="notes", replica_id="laptop-5f3a9c", copy_id=COPY, reason="sold"),
    ReplicaRecalled(db_id="notes", replica_id="laptop-5f3a9c", copy_id=COPY, reason="its file was written"),
)
NOTE = "CREATE TABLE note (id INTEGER PRIMARY KEY, body TEXT)"
CHANGESET = (
    b"T\x02\x01\x00note\x00\x12\x00\x01\x00\x00\x00\x00\x00\x00\x00\x01\x03\x05hello"
    b"\x12\x00\x01\x00\x00\x00\x00\x00\x00\x00\x02\x03\x05world"
)
DOCUMENT = (
    SqlExecuted(
        steps=(
            DdlStep(sql=NOTE),
            ChangesetStep(data=CHANGESET),
            RowidsStep(table="person", rows=((7, "ada"), (9, {"$int": "9007199254740993"}))),
            RowsStep(table="line", columns=("text", "raw"), rows=((1, ("a", {"$blob": "AAE="})), (2, None))),
            StateStep(sequences={"job": (12,), "gone": ()}, user_version=3),
        ),
        tables={"note": ("id", "body"), "person": ("name",), "line": ("_rowid_", "text", "raw")},
        statements=(Ran(sql=NOTE), Ran(sql="INSERT INTO note (body) VALUES (?)", times=2, arguments="1f" * 16)),
    ),
    ChangesPushed(steps=(ChangesetStep(data=CHANGESET),), tables={"note": ("id", "body")}, base="1.2", policy="server"),
    ContentCopied(
        steps=(DdlStep(sql=NOTE), ChangesetStep(data=CHANGESET)),
        tables={"note": ("id", "body")},
        source="notes",
        source_position="1.2",
        part=0,
        last=True,
    ),
    SystemMigrated(steps=(DdlStep(sql="CREATE TABLE example (id INTEGER PRIMARY KEY)"),), version=1),
    MessagesPublished(
        first_id=17,
        at=TIME,
        messages=(
            PublishedMessage(
                topic="sensors/kitchen/temp",
                payload=b'{"celsius": 21.5}',
                content_type="application/json",
                producer="thermometer-7",
                dedupe_key="2026-11-20T10:15",
                retain=True,
            ),
        ),
    ),
    MessagesPruned(first_id=1, last_id=9, size_bytes=153),
    WebhookReceived(
        id=3,
        at=TIME,
        endpoint="github/push",
        method="POST",
        query_string="source=main",
        headers_json='{"content-type":["application/json"],"x-github-event":["push"]}',
        content_type="application/json",
        payload=b'{"ref": "refs/heads/main"}',
        signature_valid=True,
        delivery_id="72d3162e-cc78-11e3-81ab-4c9367dc0958",
    ),
    LeaseAcquired(
        resource="jobs/nightly",
        fence=7,
        at=TIME,
        owner="worker-2",
        principal=f"token:{TOKEN}",
        token_hash="0f" * 32,
        expires_at=LATER,
    ),
    LeaseRenewed(resource="jobs/nightly", fence=7, at=TIME, expires_at=LATER),
    LeaseReleased(resource="jobs/nightly", fence=7, at=LATER),
)
POLICIES = (MessageRetentionSet(db_id="notes", max_age_s=30 * 86_400, max_bytes=1 << 30),)
PARKED = (JobsParked(job_ids=(18,), reason="its bytes are not here"),)
WRITERS = (WriterTaken(epoch=2, node="node-b", lease_id=LEASE, place="host-b/9f86d081:/var/lib/forge"),)
VECTOR_EVENTS = [
    Event(f"{RECORD}/{n}", "/forge/node/node-a", TIME, "root", fact, None if n else ACCEPTED)
    for n, fact in enumerate(EXPECTED)
]
EVENTS = [
    *VECTOR_EVENTS,
    *(
        Event(f"{RECORD}/{n}", "/forge/node/node-a", TIME, "root", fact)
        for n, fact in enumerate((*CONTROL, *DOCUMENT, *POLICIES, *ENDPOINTS, *PARKED, *REPLICAS, *WRITERS))
    ),
    *(Event(f"{RECORD}/{n}", "/forge/node/node-a", TIME, "root", fact) for n, fact in enumerate(NODE)),
]
ALL_FACTS = {name: fact for facts in log_docs.FACTS.values() for name, fact in facts.items()}


def recorded(name: str) -> tuple[Record, dict[str, Any]]:
    sample = json.loads((SAMPLES / "records" / f"{name}.json").read_text())
    messages = [
        Message(message["subject"], message["headers"], b64decode(message["payload"]), sequence)
        for sequence, message in enumerate(sample["messages"], start=42)
    ]
    return from_messages(messages), sample


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.fact.TYPE)
def test_a_recorded_event_still_says_what_it_said(event: Event) -> None:
    """PR4: logs written by older versions are folded by this one."""
    sample = json.loads((SAMPLES / f"{event.fact.TYPE}.json").read_text())

    assert decode_events(json.dumps([sample]).encode(), ALL_FACTS) == [event]


@pytest.mark.parametrize("path", sorted((SAMPLES / "older").iterdir()), ids=lambda path: path.name)
def test_an_event_from_before_a_field_was_added_is_read_with_its_default(path: Path) -> None:
    """PR4: `<type>.<field>.json` was recorded before the type had that field."""
    name, _, field = path.name.removesuffix(".json").rpartition(".")
    sample = json.loads(path.read_text())
    assert field not in sample["data"]

    (event,) = decode_events(json.dumps([sample]).encode(), ALL_FACTS)

    default = type(event.fact).model_fields[field].default
    today = next(known for known in EVENTS if name == known.fact.TYPE)
    assert event == today._replace(fact=today.fact.model_copy(update={field: default}))


def test_every_event_type_has_a_sample_and_every_sample_a_type() -> None:
    """A type without one could change its stored form without anybody noticing."""
    types = set(ALL_FACTS)

    assert {path.name.removesuffix(".json") for path in SAMPLES.glob("*.json")} == types
    assert {event.fact.TYPE for event in EVENTS} == types


@pytest.mark.parametrize(
    ("name", "parts", "events"),
    [("plain", 1, [VECTOR_EVENTS[4]]), ("compressed", 1, VECTOR_EVENTS), ("batch", 2, VECTOR_EVENTS)],
)
def test_a_recorded_record_still_has_its_hash_and_its_events(name: str, parts: int, events: list[Event]) -> None:
    """PR2, PR4: headers, compression, batches and the hash chain are read as they were written."""
    record, sample = recorded(name)

    assert len(sample["messages"]) == parts
    assert record.hash == sample["hash"]
    assert (record.id, record.node, record.previous) == (sample["id"], sample["node"], sample["previous"])
    assert record.position == Position.parse(sample["position"])
    assert [event.fact for event in decode_events(record.json(), FACTS)] == [event.fact for event in events]


@pytest.mark.parametrize("name", ["plain", "compressed"])
def test_a_recorded_record_would_be_written_the_same_today(name: str) -> None:
    """Archived segments and restored logs are made of the same headers."""
    record, sample = recorded(name)
    (message,) = to_messages(record, 41)

    assert message.headers == sample["messages"][0]["headers"]


def test_the_page_about_the_log_is_what_the_code_and_the_samples_say() -> None:
    """Write it again with `make docs`."""
    assert (ROOT / "docs" / "log.md").read_text() == log_docs.log_page(SAMPLES)


def test_the_page_knows_every_domain_header_and_attribute(tmp_path: Path) -> None:
    """Nothing that is stored may be undocumented."""
    settings = Settings.load({"FORGE_DATA_DIR": str(tmp_path)})
    assert {name: domain.facts for name, domain in domains(settings).items()} == log_docs.FACTS
    headers = {
        header
        for name in ("plain", "compressed", "batch")
        for m in recorded(name)[1]["messages"]
        for header in m["headers"]
    }
    assert headers == set(log_docs.HEADERS)
    attributes = {name for path in SAMPLES.glob("*.json") for name in json.loads(path.read_text())}
    assert attributes == set(log_docs.ATTRIBUTES) | {"specversion"}
