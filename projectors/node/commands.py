"""How commands to a node's partition are decided: hashes are checked here, so that a tree is what its hash says."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, pairwise

import apsw

from projectors.domain import Decision
from projectors.node import queries
from projectors.node.tree_hash import tree_hash, tree_hash_v2
from schemas.facts import Command
from schemas.instants import nanoseconds
from schemas.node import (
    CatchUp,
    DropRefs,
    HashesMapped,
    KeepRefs,
    MapHashes,
    RecordTrees,
    RefsDropped,
    RefsKept,
    SnapshotTaken,
    TakeSnapshot,
    TreeEntry,
    TreePart,
    TreeRecorded,
)
from schemas.problems import CONFLICT, INVALID_BODY, NOT_FOUND, Refusal

AGAIN = "Take the snapshot again."


def decide(db: apsw.Connection, command: Command, now: str) -> Decision:
    """Decide one command; raise `Refusal`."""
    match command:
        case RecordTrees():
            return _record(db, command)
        case TakeSnapshot():
            return _take(db, command, now)
        case KeepRefs():
            return Decision([RefsKept(source=command.source, refs=command.refs)])
        case DropRefs():
            return Decision([RefsDropped(source=command.source, ref_keys=command.ref_keys)])
        case MapHashes():
            return _map(db, command)
        case CatchUp():
            return Decision()
    raise TypeError(f"the node domain has no command {type(command).__name__}")


@dataclass(slots=True)
class _Known:
    """What is known of trees while one command is decided: from the database, and from the command so far."""

    db: apsw.Connection
    hash_v2: dict[str, str] = field(default_factory=dict)
    parts: dict[str, list[TreePart]] = field(default_factory=dict)

    def look_up(self, hashes: set[str]) -> None:
        self.hash_v2.update(queries.hashes_v2(self.db, sorted(hashes - self.hash_v2.keys())))

    def entries_before(self, part: TreePart) -> Iterator[TreeEntry]:
        """Return those that a part goes on after; raise `Refusal` if it does not begin where they end."""
        here = self.parts.get(part.hash, [])
        begins = here[0].first if here else part.first
        stored = 0
        if begins:
            row = queries.tree(self.db, part.hash)
            stored = queries.entries_known(self.db, part.hash) if row and row.entry_count == part.entry_count else -1
        if begins != stored or part.first != begins + sum(len(one.entries) for one in here):
            why = f"the entries of tree {part.hash} from {part.first} on do not follow those that are known"
            raise Refusal(CONFLICT.problem(why, fix=AGAIN))
        before = queries.entries(self.db, part.hash) if begins else iter(())
        return chain(before, *(one.entries for one in here))


def _record(db: apsw.Connection, command: RecordTrees) -> Decision:
    known = _Known(db)
    below = {one.target for part in command.trees for one in part.entries if one.kind == "tree"}
    known.look_up({part.hash for part in command.trees} | below)
    facts = []
    for part in command.trees:
        if part.hash not in known.hash_v2:
            facts.append(TreeRecorded(tree=part, hash_v2=_check(known, part)))
    return Decision(facts, {"recorded": len(facts)})


def _check(known: _Known, part: TreePart) -> str | None:
    """Return hash v2 of a tree that is whole with this part, else None; raise `Refusal` if it is not what it says."""
    before = known.entries_before(part)
    end = part.first + len(part.entries)
    missing = [one.target for one in part.entries if one.kind == "tree" and one.target not in known.hash_v2]
    if missing:
        raise Refusal(CONFLICT.problem(f"tree {part.hash} names {missing[0]}, which is not recorded", fix=AGAIN))
    known.parts.setdefault(part.hash, []).append(part)
    if end > part.entry_count or (not part.entries and part.entry_count):
        raise Refusal(INVALID_BODY.problem(f"tree {part.hash} has {part.entry_count} entries, not {end}"))
    if end < part.entry_count:
        return None
    everything = [*before, *part.entries]
    known.look_up({one.target for one in everything if one.kind == "tree"})
    ordered = all(first.name < second.name for first, second in pairwise(everything))
    if not ordered or tree_hash(everything, end) != part.hash:
        raise Refusal(INVALID_BODY.problem(f"the entries of tree {part.hash} have another hash, or another order"))
    known.hash_v2[part.hash] = whole = tree_hash_v2(everything, end, known.hash_v2)
    return whole


def _take(db: apsw.Connection, command: TakeSnapshot, now: str) -> Decision:
    row = queries.tree(db, command.target_hash)
    if row is None or row.hash_v2 is None:
        raise Refusal(NOT_FOUND.problem(f"the tree {command.target_hash} is not recorded", fix=AGAIN))
    before = queries.snapshots(db, command.path, 1)
    at_ns = max(nanoseconds(now), before[0].taken_at_ns + 1 if before else 0)
    taken = SnapshotTaken(path=command.path, taken_at_ns=at_ns, target_hash=row.hash)
    return Decision([taken], {"taken_at_ns": at_ns, "hash": row.hash, "hash_v2": row.hash_v2})


def _map(db: apsw.Connection, command: MapHashes) -> Decision:
    before = queries.digests(db, command.blake3)
    new = {algo: digest for algo, digest in command.digests.items() if before.get(algo) != digest}
    return Decision([HashesMapped(blake3=command.blake3, digests=new)] if new else [])
