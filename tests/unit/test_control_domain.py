"""The control domain: no sequence of commands hands on more than somebody holds, and its fold is the same for ever."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from events.cursor import Cursor, Entry
from projectors.batch import Batch
from projectors.catch_up import fold_group
from projectors.command_queue import Pending
from projectors.control import queries
from projectors.control.domain import PARTITION, control_domain
from projectors.control.queries import TokenRow
from projectors.digest import digest
from projectors.outcome import Outcome
from projectors.projection import Projection
from schemas.control import (
    ArchiveDocument,
    CreateDocument,
    DeleteDocument,
    MintToken,
    NoteTokensUsed,
    RenameDocument,
    RevokeToken,
)
from schemas.facts import Command
from schemas.instants import later
from schemas.machine_token import token_id
from schemas.scopes import WantedScope

BEGIN = "2026-03-01T00:00:00.000000Z"
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
HASHES = tuple(sha256(bytes([number])).hexdigest() for number in range(8))
IDS = tuple(token_id(one) for one in HASHES)
NAMES = ("a", "a-1", "a-2", "b")
SOME_ACTIONS = ("admin.token", "query.read", "query.write", "db.create")
RESOURCES = ("", "jobs", "jobs/1", "jobs2")

db_ids = st.sampled_from(NAMES)
principals = st.sampled_from(("root", *(f"token:{one}" for one in IDS)))
scopes = st.builds(
    WantedScope,
    db_id=st.sampled_from((*NAMES, "*", "a*", "a-*")),
    action=st.sampled_from(SOME_ACTIONS),
    resource_prefix=st.sampled_from(RESOURCES),
)
mints = st.builds(
    MintToken,
    hash=st.sampled_from(HASHES),
    prefix=st.just("forge_abcd"),
    label=st.just("a token"),
    is_admin=st.sampled_from([False, False, False, True]),
    scopes=st.lists(scopes, unique=True, max_size=4).map(tuple),
    expires_at=st.none() | st.sampled_from([later(BEGIN, seconds) for seconds in (5, 50, 500)]),
    by=principals,
)
commands: st.SearchStrategy[Command] = st.one_of(
    mints,
    mints,
    mints,
    st.builds(RevokeToken, token_id=st.sampled_from(IDS), by=principals),
    st.builds(CreateDocument, db_id=db_ids, by=principals),
    st.builds(RenameDocument, db_id=db_ids, name=st.sampled_from(["one", "two"])),
    st.builds(ArchiveDocument, db_id=db_ids, archived=st.booleans()),
    st.builds(DeleteDocument, db_id=db_ids, deleted=st.booleans()),
    st.builds(NoteTokensUsed, token_ids=st.lists(st.sampled_from(IDS), max_size=3).map(tuple)),
)
histories = st.lists(st.tuples(st.sampled_from([0, 1, 10, 60]), commands), max_size=25)
History = Sequence[tuple[int, Command]]


@contextmanager
def fresh() -> Iterator[tuple[Any, Projection]]:
    """Open an empty control projection in a folder of its own."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as directory:
        domain = control_domain(Path(directory) / "control.db")
        (spec,) = domain.projections("")
        projection = Projection(spec, PARTITION)
        try:
            yield domain, projection
        finally:
            projection.close()


def run(domain: Any, projection: Projection, history: History) -> Iterator[tuple[str, Command, Outcome, Entry | None]]:
    """Decide each command as the commit loop does; yield when, what, what became of it, and its record."""
    clock = BEGIN
    for seconds, command in history:
        clock = later(clock, seconds)
        batch = Batch(domain, [projection], PARTITION, "node-a", partial(str, clock))
        batch.decide([Pending(command, getattr(command, "by", "root"), None, cast(Any, None))])
        entry = None
        if batch.record:
            entry = Entry(batch.record, Cursor(batch.record.position, batch.record.hash, batch.before.sequence + 1))
            batch.commit(entry.cursor)
        else:
            batch.rollback()
        yield clock, command, batch.outcomes[0], entry


def can(db: apsw.Connection, token: TokenRow, action: str, db_id: str, resource: str) -> bool:
    """Say whether a token may do something, written down apart from the rules that are tested."""
    if token.is_admin:
        return True
    document = queries.document(db, db_id)
    if document and document.owner == token.principal:
        return True
    return any(
        scope.action == action
        and (db_id == scope.db_id or (scope.db_id[-1] == "*" and db_id.startswith(scope.db_id[:-1])))
        and (not scope.resource_prefix or f"{resource}/".startswith(f"{scope.resource_prefix}/"))
        for scope in token.scopes
    )


@settings(max_examples=150)
@given(histories)
def test_nobody_mints_a_token_that_may_do_more_or_lasts_longer(history: History) -> None:
    """PR6: checked by what the tokens can do, on documents that exist and on those to come."""
    with fresh() as (domain, projection):
        for now, command, outcome, _ in run(domain, projection, history):
            if not isinstance(command, MintToken) or isinstance(outcome, Exception) or command.by == "root":
                continue
            db = projection.db
            holder = queries.token(db, command.by.removeprefix("token:"))
            minted = queries.token_by_hash(db, command.hash)
            assert holder is not None
            assert minted is not None
            assert holder.revoked_at is None
            assert holder.expires_at is None or now < holder.expires_at
            assert holder.expires_at is None or (minted.expires_at or "~") <= holder.expires_at
            assert holder.is_admin or not minted.is_admin
            for action in SOME_ACTIONS:
                for db_id in (*NAMES, "a-3", "c"):
                    for resource in (*RESOURCES, "other", "jobs/1/2"):
                        if can(db, minted, action, db_id, resource):
                            assert can(db, holder, action, db_id, resource), (action, db_id, resource)
                            assert can(db, holder, "admin.token", db_id, "")


@settings(max_examples=100)
@given(histories, st.randoms(use_true_random=False))
def test_however_the_history_is_cut_the_fold_gives_the_same(history: History, random: Any) -> None:
    """PR2, PR4: also when records are delivered twice."""
    with fresh() as (domain, projection):
        entries = [entry for *_, entry in run(domain, projection, history) if entry]
        expected = digest(projection.db)
    with fresh() as (domain, again):
        at = 0
        while at < len(entries):
            size = random.randint(1, 4)
            fold_group(domain, [again], entries[max(0, at - random.randint(0, 2)) : at + size])
            at += size
        assert digest(again.db) == expected


@settings(max_examples=100)
@given(histories)
def test_the_audit_has_a_line_for_every_change(history: History) -> None:
    """P1.3: who, what and when, for mint, revoke and everything about documents."""
    with fresh() as (domain, projection):
        changes = [
            (now, getattr(command, "by", "root"))
            for now, command, _, entry in run(domain, projection, history)
            if entry and not isinstance(command, NoteTokensUsed)
        ]
        lines = queries.audit(projection.db, subject="", before=1 << 60, limit=1000)
        assert [(line.at, line.principal) for line in reversed(lines)] == changes


@pytest.mark.parametrize("action", SOME_ACTIONS)
def test_the_rights_of_an_owner_are_not_those_over_a_pattern(action: str) -> None:
    """PR6: whoever owns the document `a` may not hand on `a*`."""
    scope = WantedScope(db_id="a*", action=action)
    create = WantedScope(db_id="*", action="db.create")
    owner = f"token:{IDS[0]}"
    history: History = [
        (0, MintToken(hash=HASHES[0], prefix="forge_abcd", label="owner", scopes=(create,), by="root")),
        (0, CreateDocument(db_id="a", by=owner)),
        (0, MintToken(hash=HASHES[1], prefix="forge_abcd", label="x", scopes=(scope,), by=owner)),
    ]
    with fresh() as (domain, projection):
        *_, (_, _, outcome, _) = run(domain, projection, history)
    assert isinstance(outcome, Exception)
    assert "cannot hand on" in str(outcome)
