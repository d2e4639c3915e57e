"""Webhooks, decided and folded without a server."""

from tests.document_history import content, new_document, rebuilt
from tests.typed_commands import MIGRATIONS, answer, receive


def test_webhooks_are_found_by_endpoint_and_by_delivery() -> None:
    """P5.1: both through an index; numbers are not given again when rows are deleted."""
    with new_document(MIGRATIONS) as document:
        for number in range(3):
            answer(document, receive("a/b", delivery_id=f"d{number}"))
        document.sql("DELETE FROM webhook_inbox")
        assert answer(document, receive("a/b", delivery_id="d1", dedupe=True))["id"] == 4
        assert answer(document, receive("a/b", delivery_id="d1", dedupe=True))["duplicate"]

        for query, index in (
            ("SELECT * FROM webhook_inbox WHERE endpoint = 'a' AND id > 7 ORDER BY id", "webhook_inbox_endpoint"),
            ("SELECT * FROM webhook_inbox WHERE endpoint = 'a' AND delivery_id = 'd'", "webhook_inbox_delivery"),
        ):
            ((*_, plan),) = document.db.execute(f"EXPLAIN QUERY PLAN {query}").fetchall()
            assert f"USING INDEX {index}" in str(plan)
        with rebuilt(document) as copy:
            assert content(copy) == content(document.db)


def test_rows_that_take_an_admin_to_delete_are_counted_like_others() -> None:
    """P2.5, P5.7: those of the statement itself, and so is what is inserted by one whose trigger deletes them."""
    with new_document(MIGRATIONS) as document:
        for _ in range(3):
            answer(document, receive())
        document.sql(
            "CREATE TABLE done (id INTEGER PRIMARY KEY)",
            "CREATE TRIGGER empties AFTER INSERT ON done BEGIN DELETE FROM webhook_inbox WHERE id = new.id; END",
        )
        deleted, inserted, changed = document.sql(
            "DELETE FROM webhook_inbox WHERE id < 3", "INSERT INTO done VALUES (3)", "PRAGMA user_version = 5"
        )["results"]
        assert deleted == {"class": "admin", "rows_affected": 2, "last_insert_id": None}
        assert inserted == {"class": "admin", "rows_affected": 1, "last_insert_id": 3}
        assert changed == {"class": "admin", "rows_affected": 0, "last_insert_id": None}
        (made,) = document.sql("CREATE TABLE copied AS SELECT * FROM done UNION SELECT 7")["results"]
        assert made["rows_affected"] == 0
