"""The node domain: golden hashes, trees that are what their hashes say, and folds that are the same for ever."""

import random
from typing import Any

import apsw
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from events.cursor import Entry
from projectors.catch_up import fold_group
from projectors.digest import digest
from projectors.node import queries
from projectors.node.file_mode import go_mode, mode_text, posix_mode
from projectors.node.parts import parts_of
from projectors.node.tree_hash import tree_hash, tree_hash_v2
from projectors.outcome import Outcome
from schemas.facts import Command
from schemas.ids import Cid
from schemas.node import ENTRIES_MAX, MapHashes, RecordTrees, TakeSnapshot, TreeEntry, TreePart
from tests.node_history import CIDS, child, command_lists, folders, fresh, run, tree

HELLO = TreeEntry(
    name=b"a.txt",
    kind="file",
    target=blake3(b"hello world").hexdigest(),
    mode=420,
    mtime_ns=1_700_000_000_000_000_000,
    size=11,
    tags=("alpha", "beta"),
)
PATH = b"/home/ada"


def refusal(outcome: Outcome) -> str:
    assert isinstance(outcome, Exception)
    return str(outcome)


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([], "5cef63db74233aa07b47fb2c48ebd6a14b7d8235f3b5adc0e6360674673f06b7"),
        ([HELLO], "b35a955ff390f4387eec75cacdea63242fa30cefbe010cd245f1823a2d844d0e"),
    ],
)
def test_the_first_tree_hash_has_its_golden_values(entries: list[TreeEntry], expected: Cid) -> None:
    assert tree_hash(entries, len(entries)) == expected


@pytest.mark.parametrize(
    ("st_mode", "mode", "text"),
    [
        (0o100644, 420, "-rw-r--r--"),
        (0o040755, 2147484141, "drwxr-xr-x"),
        (0o120777, 134218239, "Lrwxrwxrwx"),
        (0o010644, 33554852, "prw-r--r--"),
        (0o106755, 12583405, "ugrwxr-xr-x"),
        (0o041777, 2148532735, "dtrwxrwxrwx"),
    ],
)
def test_modes_have_the_bits_and_the_text_of_go(st_mode: int, mode: int, text: str) -> None:
    assert (go_mode(st_mode), mode_text(mode)) == (mode, text)


@given(st.sampled_from([1, 2, 4, 6, 8, 10, 12]), st.integers(0, 0o7777))
def test_no_mode_loses_a_bit(kind: int, rights: int) -> None:
    mode = kind << 12 | rights
    assert posix_mode(go_mode(mode)) == (mode if go_mode(mode) else 0)


@given(folders, st.randoms(use_true_random=False))
def test_a_tree_does_not_depend_on_the_order_in_which_a_folder_is_read(
    entries: list[TreeEntry], random: random.Random
) -> None:
    """PR2: both hashes."""
    shuffled = list(entries)
    random.shuffle(shuffled)

    assert list(parts_of(shuffled)) == list(parts_of(entries))


def test_the_second_hash_is_that_of_posix_and_knows_no_size_of_folders() -> None:
    small, large = (child(b"below", tree([])).model_copy(update={"size": size}) for size in (6, 4096))
    below = {tree([]).hash: tree_hash_v2([], 0, {})}

    assert tree_hash([small], 1) != tree_hash([large], 1)
    assert tree_hash_v2([small], 1, below) == tree_hash_v2([large], 1, below)
    assert tree_hash_v2([HELLO], 1, {}) == "9269c64796b06af68037d81ba09e570004f73ced3eadeef73c0ef3f972bce110"


def test_identical_trees_are_recorded_once_and_every_snapshot_has_its_moment() -> None:
    """Spec 62, 72, 77: one tree, two pointers, the newest first; the clock of the partition stands still here."""
    outer = tree([HELLO, child(b"below", tree([]))])
    commands = [RecordTrees(trees=(tree([]), outer)), TakeSnapshot(path=PATH, target_hash=outer.hash)]
    with fresh() as (domain, opened):
        done = run(domain, opened, commands * 2)
        db = opened[0].db
        found = queries.snapshots(db, PATH, 20)

        assert [entry is None for _, entry in done] == [False, False, True, False]
        assert found[0].taken_at_ns == found[1].taken_at_ns + 1
        assert db.execute("SELECT count(*) FROM trees").get == 2
        assert list(queries.entries(db, outer.hash)) == [HELLO, child(b"below", tree([]))]


def test_a_large_folder_takes_several_commands_and_is_whole_with_the_last() -> None:
    """PR7: a crash between them leaves a tree that no snapshot can name, and that is recorded again from its start."""
    entries = [TreeEntry(name=b"%06d" % n, kind="file", target=CIDS[n % 4]) for n in range(ENTRIES_MAX + 5)]
    parts = list(parts_of(entries))
    first, *rest = ([RecordTrees(trees=(part,))] for part in parts)
    with fresh() as (domain, opened):
        take = TakeSnapshot(path=PATH, target_hash=parts[0].hash)
        ((_, _), (too_early, _)) = run(domain, opened, [*first, take])
        ((gap, _),) = run(domain, opened, rest[-1]) if len(rest) > 1 else ((ValueError("do not follow"), None),)
        done = run(domain, opened, [*first, *(one for part in rest for one in part), take])

        assert "is not recorded" in refusal(too_early)
        assert "do not follow" in refusal(gap)
        assert not [outcome for outcome, _ in done if isinstance(outcome, Exception)]
        assert list(queries.entries(opened[0].db, parts[0].hash)) == entries


@pytest.mark.parametrize(
    ("trees", "why"),
    [
        ([tree([HELLO]).model_copy(update={"hash": CIDS[0]})], "another hash"),
        ([tree([child(b"below", tree([]))])], "which is not recorded"),
        ([tree([HELLO]).model_copy(update={"entry_count": 0})], "has 0 entries, not 1"),
        ([tree([HELLO]).model_copy(update={"first": 1, "entry_count": 2})], "do not follow"),
    ],
)
def test_a_tree_is_what_its_hash_says(trees: list[TreePart], why: str) -> None:
    """PR3: whatever a client sends, nothing wrong is recorded."""
    with fresh() as (domain, opened):
        ((outcome, entry),) = run(domain, opened, [RecordTrees(trees=tuple(trees))])

    assert why in refusal(outcome)
    assert entry is None


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"a\0"])
def test_no_entry_has_a_name_that_leads_elsewhere(name: bytes) -> None:
    """PR6: a snapshot is restored below the folder that was asked for."""
    with pytest.raises(ValueError, match="not the name of an entry"):
        TreeEntry(name=name, kind="file", target=CIDS[0])


def test_foreign_keys_are_enforced_and_two_tags_are_two_links() -> None:
    """Spec 81."""
    with fresh() as (domain, opened):
        run(domain, opened, [RecordTrees(trees=(tree([HELLO]),))])
        db = opened[0].db

        assert db.execute("SELECT count(*) FROM tree_entry_tags").get == 2
        assert queries.tagged(db, tree([HELLO]).hash, ["beta", "alpha"]) == {b"a.txt"}
        assert queries.tagged(db, tree([HELLO]).hash, ["beta", "gamma"]) == set()
        with pytest.raises(apsw.ConstraintError):
            db.execute("INSERT INTO tree_entry_tags SELECT tree_hash, name, 99 FROM tree_entries")


def test_other_digests_of_content_are_found_both_ways() -> None:
    """Spec 82."""
    with fresh() as (domain, opened):
        mapped = MapHashes(blake3=CIDS[0], digests={"sha256": "ab", "md5": "cd"})
        run(domain, opened, [mapped, mapped])
        db = opened[0].db

        assert list(queries.digests(db, CIDS[0])) == ["md5", "sha256"]
        assert queries.content_of(db, "sha256", "ab") == CIDS[0]


@settings(max_examples=60)
@given(command_lists(), st.randoms(use_true_random=False))
def test_however_the_history_is_cut_the_folds_give_the_same(commands: list[Command], random: Any) -> None:
    """PR2, PR4: also when records are delivered twice, and names and paths are no UTF-8."""
    with fresh() as (domain, opened):
        entries: list[Entry] = [entry for _, entry in run(domain, opened, commands) if entry]
        expected = [digest(projection.db) for projection in opened]
        for (hash_,) in opened[0].db.execute("SELECT hash FROM trees").fetchall():
            found = list(queries.entries(opened[0].db, str(hash_)))
            assert tree_hash(found, len(found)) == hash_
    with fresh() as (domain, again):
        at = 0
        while at < len(entries):
            size = random.randint(1, 4)
            fold_group(domain, again, entries[max(0, at - random.randint(0, 2)) : at + size])
            at += size

        assert [digest(projection.db) for projection in again] == expected
