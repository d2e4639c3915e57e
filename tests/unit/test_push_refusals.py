"""Pushed changes that are refused whatever the rows are: other tables, other histories, and what is no changeset."""

from contextlib import closing

import apsw
import pytest

from projectors.digest import digest
from projectors.document.sync.push import decide_push
from schemas.document import PushChanges
from schemas.problems import Refusal
from tests.documents import new_document
from tests.pushing import KEY_VALUE, changes, copied, push, recording

BAD = (
    ("CREATE TABLE other (a PRIMARY KEY)", "INSERT INTO other VALUES (1)", "there is no table other"),
    ("CREATE TABLE kv (k INTEGER PRIMARY KEY, v, w)", "INSERT INTO kv VALUES (1, 2, 3)", "2 columns"),
    ("CREATE TABLE kv (k, v PRIMARY KEY)", "INSERT INTO kv VALUES (1, 2)", "with the key"),
    ("CREATE TABLE _forge_position (a PRIMARY KEY)", "INSERT INTO _forge_position VALUES (1)", "cannot be written"),
    ("CREATE TABLE _FORGE_COMMAND (a PRIMARY KEY)", "INSERT INTO _forge_command VALUES (1)", "cannot be written"),
    ("CREATE TABLE Messages (a PRIMARY KEY)", "INSERT INTO messages VALUES (1)", "cannot be written"),
)


@pytest.mark.parametrize(("schema", "sql", "why"), BAD)
def test_what_sqlite_would_skip_in_silence_is_refused(schema: str, sql: str, why: str) -> None:
    """PR6: other tables, other columns, other keys, and tables that are not the user's."""
    with closing(apsw.Connection(":memory:")) as client, closing(new_document(schema=KEY_VALUE)) as server:
        client.execute(schema)
        with closing(apsw.Session(client, "main")) as session:
            session.attach()
            client.execute(sql)
            own = session.changeset()
        before = digest(server)
        with pytest.raises(Refusal, match=why):
            push(server, own)
        assert digest(server) == before


def test_what_is_no_changeset_is_refused() -> None:
    """Garbage, half a changeset, a patchset, every changeset with one byte flipped: refused or harmless."""
    with closing(new_document(schema=KEY_VALUE)) as server, closing(copied(server)) as client:
        with closing(recording(client)) as session:
            client.execute("INSERT INTO kv VALUES (1, 'text'), (2, x'00ff')")
            own, patchset = session.changeset(), session.patchset()
        for bad in (b"garbage", own[:-1], patchset, own + b"x", own + patchset):
            with pytest.raises(Refusal, match="cannot be read"):
                push(server, bad)
        for place in range(len(own)):
            flipped = own[:place] + bytes([own[place] ^ 0xFF]) + own[place + 1 :]
            try:
                push(server, flipped)
            except Refusal:
                continue
            server.execute("DELETE FROM kv")
        assert server.execute("PRAGMA integrity_check").get == "ok"


def test_a_base_of_another_history_is_refused() -> None:
    """Beyond what was written, or of another epoch."""
    with closing(new_document(schema=KEY_VALUE, index=3)) as server:
        for base in ("1.4", "2.1"):
            with pytest.raises(Refusal, match="not in this history"):
                push(server, b"", base=base)


def test_a_table_that_was_changed_since_the_base_is_refused() -> None:
    """Columns are known by place alone in a changeset: another meaning of a place must be noticed."""
    with closing(new_document(schema=KEY_VALUE)) as server, closing(copied(server)) as client:
        own = changes(client, "INSERT INTO kv VALUES (1, 1)")
        command = PushChanges(base="1.0", changeset=own, columns={"kv": ("k", "former")})
        with pytest.raises(Refusal, match="other columns"):
            decide_push(server, command)
