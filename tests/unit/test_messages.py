"""Publishing, deduplicating, retaining and pruning messages, decided and folded without a server."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.facts import Command
from schemas.messages import PAYLOAD_BYTES_MAX, NewMessage, PruneMessages, PublishMessages
from schemas.problems import CONSTRAINT, FORBIDDEN, SQL_NOT_ALLOWED, Refusal
from tests.document_history import Document, content, new_document, rebuilt
from tests.typed_commands import MIGRATIONS, acquire, answer, publish, release, renew


def rows(document: Document, query: str) -> list[Any]:
    return document.db.execute(query).fetchall()


def ids(document: Document) -> list[int]:
    return [row[0] for row in rows(document, "SELECT id FROM messages ORDER BY id")]


def check_rebuild(document: Document) -> None:
    with rebuilt(document) as copy:
        assert content(copy) == content(document.db)


def test_a_message_is_a_row_with_its_exact_bytes_and_the_first_one_makes_the_tables() -> None:
    """P3.1, P3.2: text where the type says so and the bytes are UTF-8, so that SQL can look into it; else a BLOB."""
    with new_document(MIGRATIONS) as document:
        answer(document, publish(payload=b'{"n":1}', producer="ada"))
        answer(document, publish(payload=b"\xff\x00", content_type="application/octet-stream"))
        answer(document, publish(payload=b"\xff", content_type="text/plain"))
        answer(document, publish(payload=b"", content_type="text/plain"))

        assert len(document.entries) == 4
        assert rows(document, "SELECT id, topic, payload, producer FROM messages ORDER BY id") == [
            (1, "a/b", '{"n":1}', "ada"),
            (2, "a/b", b"\xff\x00", None),
            (3, "a/b", b"\xff", None),
            (4, "a/b", "", None),
        ]
        assert rows(document, "SELECT payload ->> 'n' FROM messages WHERE id = 1") == [(1,)]
        check_rebuild(document)


def test_the_plan_of_a_query_by_topic_uses_its_index() -> None:
    """P3.1."""
    with new_document(MIGRATIONS) as document:
        answer(document, publish())
        (plan,) = rows(document, "EXPLAIN QUERY PLAN SELECT * FROM messages WHERE topic = 'a' AND id > 7 ORDER BY id")
        assert "messages_topic (topic=? AND id>?)" in plan[3]


def test_a_key_publishes_once_while_its_message_is_kept() -> None:
    """P3.11, G-21: the answer is the first one's id, within one command too; another topic is another message."""
    with new_document(MIGRATIONS) as document:
        first = answer(document, publish(dedupe_key="k"))["messages"][0]
        again = answer(document, publish(dedupe_key="k", payload=b"other"))["messages"][0]
        twice = PublishMessages(messages=(NewMessage(topic="c", payload=b"1", dedupe_key="k"),) * 2)
        two = answer(document, twice)["messages"]

        assert (first["id"], first["duplicate"]) == (1, False)
        assert (again["id"], again["duplicate"], again["created_at"]) == (1, True, first["created_at"])
        assert [(one["id"], one["duplicate"]) for one in two] == [(2, False), (2, True)]
        assert ids(document) == [1, 2]
        check_rebuild(document)


def test_the_last_retained_message_of_a_topic_is_kept_until_an_empty_one() -> None:
    """P3.9."""
    with new_document(MIGRATIONS) as document:
        for payload in (b"1", b"2"):
            answer(document, publish("t", payload, retain=True))
        answer(document, publish("t", b"3"))
        answer(document, publish("u", b"4", retain=True))
        assert rows(document, "SELECT topic, id, payload FROM retained_messages") == [("t", 2, "2"), ("u", 4, "4")]
        answer(document, PruneMessages(max_count=1))
        assert len(rows(document, "SELECT * FROM retained_messages")) == 2

        answer(document, publish("t", b"", retain=True))

        assert rows(document, "SELECT topic FROM retained_messages") == [("u",)]
        check_rebuild(document)


@pytest.mark.parametrize(
    ("bounds", "kept"),
    [({"max_count": 3}, [8, 9, 10]), ({"max_bytes": 25}, [9, 10]), ({"max_age_s": 60}, list(range(1, 11)))],
)
def test_pruning_keeps_exactly_what_the_bounds_allow(bounds: dict[str, int], kept: list[int]) -> None:
    """P3.10: the oldest go first; ids go on where they were."""
    with new_document(MIGRATIONS) as document:
        for _ in range(10):
            answer(document, publish(payload=b"0123456789"))
        told = answer(document, PruneMessages(**bounds))
        assert (told["pruned"], told["more"]) == (10 - len(kept), False)
        assert ids(document) == kept
        answer(document, PruneMessages(max_bytes=1))
        assert ids(document) == []
        assert answer(document, publish())["messages"][0]["id"] == 11
        check_rebuild(document)


def test_a_trigger_of_the_user_runs_and_what_it_did_is_in_the_fact() -> None:
    """PR2, PR4: a copy repeats its effects and not the trigger."""
    with new_document(MIGRATIONS) as document:
        document.sql(
            "CREATE TABLE seen (id INTEGER PRIMARY KEY, at)",
            "ALTER TABLE messages ADD COLUMN size INTEGER DEFAULT 7",
            "CREATE TRIGGER note AFTER INSERT ON messages BEGIN INSERT INTO seen VALUES (new.id, random());"
            " UPDATE messages SET size = octet_length(new.payload) WHERE id = new.id; END",
        )
        answer(document, publish(payload=b"12345"))
        document.sql("UPDATE messages SET size = size + 1")

        assert rows(document, "SELECT id, size FROM messages") == [(1, 6)]
        assert rows(document, "SELECT count(*) FROM seen") == [(1,)]
        check_rebuild(document)


KEPT = {
    "tokens": "DELETE FROM fencing_tokens",
    "topics": "UPDATE messages SET topic = 'x'",
    "rowids": "UPDATE messages SET rowid = 7",
    "emptied": "DELETE FROM webhook_inbox",
}
"""What a trigger that fires when Forge writes may not do, by the table whose trigger does it."""


@pytest.mark.parametrize("body", KEPT.values())
def test_a_trigger_on_messages_that_would_stop_them_is_not_made(body: str) -> None:
    """PR3, P2.4: who makes it hears of it, rather than who publishes later."""
    with new_document(MIGRATIONS) as document:
        answer(document, publish())
        with pytest.raises(Refusal, match=r"in the trigger t: .*; every statement that fires it") as told:
            document.sql(f"CREATE TRIGGER t BEFORE INSERT ON messages WHEN 0 BEGIN SELECT 1; {body}; END")
        assert told.value.problem.type == SQL_NOT_ALLOWED.uri
        assert rows(document, "SELECT name FROM sqlite_schema WHERE type = 'trigger'") == []
        assert answer(document, publish())["messages"][0]["id"] == 2


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("SELECT RAISE(ABORT, 'no')", CONSTRAINT),
        ("SELECT RAISE(IGNORE)", CONSTRAINT),
        ("INSERT INTO gone VALUES (1)", CONSTRAINT),
        ("INSERT INTO tokens VALUES (1)", SQL_NOT_ALLOWED),
        ("INSERT INTO topics VALUES (1)", SQL_NOT_ALLOWED),
        ("INSERT INTO rowids VALUES (1)", SQL_NOT_ALLOWED),
        ("INSERT INTO emptied VALUES (1)", FORBIDDEN),
    ],
)
def test_a_trigger_may_forbid_a_message_but_not_write_what_is_kept_for_forge(body: str, problem: Any) -> None:
    """PR3, P2.4: either way nothing of the message is there. By triggers of older tables, of which nobody knew it."""
    with new_document(MIGRATIONS) as document:
        for table, kept in KEPT.items():
            document.sql(
                f"CREATE TABLE {table} (a)", f"CREATE TRIGGER of_{table} AFTER INSERT ON {table} BEGIN {kept}; END"
            )
        document.sql(f"CREATE TRIGGER t BEFORE INSERT ON messages BEGIN {body}; END")
        answers = len(document.entries)
        with pytest.raises(Refusal) as refused:
            answer(document, publish())
        assert refused.value.problem.type == problem.uri
        assert "RAISE(ABORT" in body or "a trigger" in refused.value.problem.detail, "not SQL of the publisher"
        if problem is not CONSTRAINT:
            assert f"in the trigger of_{body.split()[2]}: " in refused.value.problem.detail
        assert len(document.entries) == answers
        assert ids(document) == []
        document.sql("DROP TRIGGER t")
        assert answer(document, publish())["messages"][0]["id"] == 1
        check_rebuild(document)


def test_what_an_index_of_the_user_refuses_is_told_as_that() -> None:
    """PR7: not as what somebody else's statement was refused for before, and not as SQL of the publisher."""
    with new_document(MIGRATIONS) as document:
        answer(document, publish(payload=b"{}"))
        document.sql("CREATE UNIQUE INDEX one ON messages (topic)", "CREATE INDEX x ON messages (payload ->> 'x')")
        for topic, payload, why in (("a/b", b"{}", "UNIQUE"), ("c", b"no JSON", "malformed JSON")):
            with pytest.raises(Refusal, match="not allowed"):
                document.sql("DELETE FROM messages")
            with pytest.raises(Refusal, match=why) as refused:
                answer(document, publish(topic, payload=payload))
            assert refused.value.problem.type == CONSTRAINT.uri
        assert ids(document) == [1]


@pytest.mark.parametrize(
    ("event", "command"),
    [
        ("DELETE ON messages", PruneMessages(max_count=1)),
        ("UPDATE ON fencing_tokens", renew("r", ttl_seconds=60)),
        ("UPDATE ON leases", release("r")),
        ("UPDATE ON retained_messages", publish(payload=b"2", retain=True)),
    ],
)
def test_a_trigger_that_keeps_rows_as_they_were_is_a_refusal(event: str, command: Command) -> None:
    """PR2, PR3: a success says that it is so, and copies must not do what did not happen here."""
    with new_document(MIGRATIONS) as document:
        for first in (publish(retain=True), publish("c"), acquire("r")):
            answer(document, first)
        document.sql(f"CREATE TRIGGER t BEFORE {event} BEGIN SELECT RAISE(IGNORE); END")
        before = content(document.db)
        with pytest.raises(Refusal, match="kept its rows"):
            answer(document, command)
        assert content(document.db) == before
        document.sql("DROP TRIGGER t")
        answer(document, command)
        check_rebuild(document)


def test_rows_that_refer_to_a_message_go_with_it() -> None:
    """PR2: foreign keys of the user's tables act, and copies repeat what they did."""
    with new_document(MIGRATIONS) as document:
        document.sql("CREATE TABLE note (id INTEGER PRIMARY KEY, m REFERENCES messages (id) ON DELETE CASCADE)")
        for number in (1, 2):
            answer(document, publish())
            document.sql(f"INSERT INTO note (m) VALUES ({number})")
        answer(document, PruneMessages(max_count=1))

        assert rows(document, "SELECT m FROM note") == [(2,)]
        check_rebuild(document)


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO messages VALUES (1, 't', 'p', 'c', NULL, NULL, 'now')",
        "UPDATE messages SET payload = 'x'",
        "DELETE FROM messages",
        "DROP TABLE messages",
        "ALTER TABLE messages DROP COLUMN producer",
        "UPDATE fencing_tokens SET fence = 0",
        "DROP INDEX messages_topic",
    ],
)
def test_sql_of_users_does_not_write_what_forge_keeps(sql: str) -> None:
    """P2.4, P6.5."""
    with new_document(MIGRATIONS) as document:
        answer(document, publish())
        with pytest.raises(Refusal) as refused:
            document.sql(sql)
        assert refused.value.problem.status == SQL_NOT_ALLOWED.status


def test_a_payload_has_a_bound() -> None:
    """P3.3, PR7."""
    assert NewMessage(topic="t", payload=bytes(PAYLOAD_BYTES_MAX))
    with pytest.raises(ValidationError):
        NewMessage(topic="t", payload=bytes(PAYLOAD_BYTES_MAX + 1))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "a/b", "b"]),
            st.binary(max_size=3),
            st.sampled_from([None, "k", "l"]),
            st.booleans(),
            st.sampled_from([0, 0, 1, 3]),
        ),
        max_size=12,
    )
)
def test_any_history_of_messages_folds_to_the_same_content(
    steps: list[tuple[str, bytes, str | None, bool, int]],
) -> None:
    """PR2, PR4."""
    with new_document(MIGRATIONS) as document:
        for topic, payload, key, retain, keep in steps:
            answer(document, publish(topic, payload, dedupe_key=key, retain=retain))
            if keep:
                answer(document, PruneMessages(max_count=keep))
                assert len(ids(document)) <= keep
        check_rebuild(document)
